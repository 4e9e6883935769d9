"""SAM's checkpoints in the names of Hugging Face transformers (`SamModel`; model.safetensors).

The numbers are those of segment-anything. What differs, from transformers' modeling_sam.py:

* The Fourier matrix is one parameter under two names. `state_dict` has both and a strict
  `load_state_dict` requires both; `save_pretrained` writes the first only.
* The norms in the layers of the two-way decoder take their epsilon from `mask_decoder_config`, by
  default 1e-6. SAM was trained with 1e-5, which we compute and write; the config of another
  writer may say either (with plain random weights, masks then differ by 1e-4 of their size).
  The norm behind the last layer has 1e-5 in any case.
* A mask prompt belongs to a picture, not to a prompt: all prompts of the picture share it.
* Points without a box get one more slot of label -1, inside the model. The processor fills
  prompts up with label -10, a token of zeros that still takes part: the masks of such a prompt
  are not those of the unfilled one, and no label of ours means it.
"""

from collections.abc import Iterator

from esam_jax.config import SamConfig
from esam_jax.convert.families import sam, sam_transformers_config
from esam_jax.convert.families.family import Family, Library, State, unwritten
from esam_jax.convert.table import (
    CONV,
    PATCHES,
    SAME,
    Link,
    Row,
    affine,
    attention,
    fused_attention,
    links,
    mask_head,
    norm,
    upscale,
)

_V, _E = "vision_encoder", "encoder"
_BLOCK, _OUR_BLOCK = f"{_V}.layers.{{block}}", f"{_E}/block_{{block}}"
_P, _STEM, _OUR_STEM = "prompt_encoder", "prompt_encoder.mask_embed", "prompt/mask"
_D, _TWO_WAY, _OUR_TWO_WAY = "mask_decoder", "mask_decoder.transformer", "decoder/two_way"
_LAYER, _OUR_LAYER = f"{_TWO_WAY}.layers.{{layer}}", f"{_OUR_TWO_WAY}/block_{{layer}}"
_HEADS, _OUR_HEADS = f"{_D}.output_hypernetworks_mlps.{{m}}", "decoder/mask_heads"
_IOU, _OUR_IOU = f"{_D}.iou_prediction_head", "decoder/iou_head"
_FOURIER = "shared_image_embedding.positional_embedding"

ROWS: tuple[Row, ...] = (
    Row(f"{_V}.pos_embed", f"{_E}/positions", "1 h w d -> h w d"),
    *affine(f"{_V}.patch_embed.projection", f"{_E}/patch_embed", PATCHES),
    *norm(f"{_BLOCK}.layer_norm1", f"{_OUR_BLOCK}/attn_norm"),
    *fused_attention(f"{_BLOCK}.attn", f"{_OUR_BLOCK}/attn"),
    Row(f"{_BLOCK}.attn.rel_pos_h", f"{_OUR_BLOCK}/attn/rel_rows", SAME),
    Row(f"{_BLOCK}.attn.rel_pos_w", f"{_OUR_BLOCK}/attn/rel_cols", SAME),
    *norm(f"{_BLOCK}.layer_norm2", f"{_OUR_BLOCK}/mlp_norm"),
    *affine(f"{_BLOCK}.mlp.lin1", f"{_OUR_BLOCK}/mlp/hidden"),
    *affine(f"{_BLOCK}.mlp.lin2", f"{_OUR_BLOCK}/mlp/out"),
    Row(f"{_V}.neck.conv1.weight", f"{_E}/neck/project/kernel", "o i 1 1 -> i o"),
    *norm(f"{_V}.neck.layer_norm1", f"{_E}/neck/project_norm"),
    Row(f"{_V}.neck.conv2.weight", f"{_E}/neck/smooth/kernel", CONV),
    *norm(f"{_V}.neck.layer_norm2", f"{_E}/neck/smooth_norm"),
    Row(_FOURIER, "prompt/fourier", SAME),
    Row(f"{_P}.not_a_point_embed.weight", "prompt/padding", SAME),
    Row(f"{_P}.point_embed.0.weight", "prompt/background", SAME),
    Row(f"{_P}.point_embed.1.weight", "prompt/foreground", SAME),
    Row(f"{_P}.point_embed.2.weight", "prompt/top_left", SAME),
    Row(f"{_P}.point_embed.3.weight", "prompt/bottom_right", SAME),
    Row(f"{_P}.no_mask_embed.weight", "prompt/no_mask", SAME),
    *affine(f"{_STEM}.conv1", f"{_OUR_STEM}/conv_1", "o c y x -> (y x c) o"),
    *norm(f"{_STEM}.layer_norm1", f"{_OUR_STEM}/norm_1"),
    *affine(f"{_STEM}.conv2", f"{_OUR_STEM}/conv_2", "o c y x -> (y x c) o"),
    *norm(f"{_STEM}.layer_norm2", f"{_OUR_STEM}/norm_2"),
    *affine(f"{_STEM}.conv3", f"{_OUR_STEM}/conv_3", "o c 1 1 -> c o"),
    Row(f"{_D}.iou_token.weight", "decoder/iou_token", SAME),
    Row(f"{_D}.mask_tokens.weight", "decoder/mask_tokens", SAME),
    *attention(f"{_LAYER}.self_attn", f"{_OUR_LAYER}/self_attn"),
    *norm(f"{_LAYER}.layer_norm1", f"{_OUR_LAYER}/self_norm"),
    *attention(f"{_LAYER}.cross_attn_token_to_image", f"{_OUR_LAYER}/token_to_image"),
    *norm(f"{_LAYER}.layer_norm2", f"{_OUR_LAYER}/token_to_image_norm"),
    *affine(f"{_LAYER}.mlp.lin1", f"{_OUR_LAYER}/mlp/hidden"),
    *affine(f"{_LAYER}.mlp.lin2", f"{_OUR_LAYER}/mlp/out"),
    *norm(f"{_LAYER}.layer_norm3", f"{_OUR_LAYER}/mlp_norm"),
    *attention(f"{_LAYER}.cross_attn_image_to_token", f"{_OUR_LAYER}/image_to_token"),
    *norm(f"{_LAYER}.layer_norm4", f"{_OUR_LAYER}/image_to_token_norm"),
    *attention(f"{_TWO_WAY}.final_attn_token_to_image", f"{_OUR_TWO_WAY}/final_attn"),
    *norm(f"{_TWO_WAY}.layer_norm_final_attn", f"{_OUR_TWO_WAY}/final_norm"),
    *upscale(f"{_D}.upscale_conv1", "decoder/upscale/conv_1"),
    *norm(f"{_D}.upscale_layer_norm", "decoder/upscale/norm"),
    *upscale(f"{_D}.upscale_conv2", "decoder/upscale/conv_2"),
    *mask_head(f"{_HEADS}.proj_in", f"{_OUR_HEADS}/hidden_1"),
    *mask_head(f"{_HEADS}.layers.0", f"{_OUR_HEADS}/hidden_2"),
    *mask_head(f"{_HEADS}.proj_out", f"{_OUR_HEADS}/out"),
    *affine(f"{_IOU}.proj_in", f"{_OUR_IOU}/hidden_1"),
    *affine(f"{_IOU}.layers.0", f"{_OUR_IOU}/hidden_2"),
    *affine(f"{_IOU}.proj_out", f"{_OUR_IOU}/out"),
)


def _links(config: SamConfig) -> Iterator[Link]:
    return links(ROWS, sam.counts(config), sam.sizes(config))


def _detect(state: State) -> SamConfig:
    encoder = sam.encoder_config(state, _V, "layers", "patch_embed.projection", "neck.conv1")
    heads = unwritten(encoder.width).decoder_heads
    decoder = sam.decoder_config(state, heads, f"{_IOU}.proj_in")
    return SamConfig(encoder=encoder, decoder=decoder)


FAMILY = Family(
    name="sam_transformers",
    about="SAM ViT-B, L or H, as transformers' SamModel names it",
    marks=(f"{_V}.pos_embed", f"{_P}.not_a_point_embed.weight"),
    detect=_detect,
    links=_links,
    refuses=sam.refuses,
    aliases={"prompt_encoder.shared_embedding.positional_embedding": _FOURIER},
    layout="transformers",
    library=Library(
        model_type="sam",
        names=sam_transformers_config.NAMES,
        from_config=sam_transformers_config.from_config_json,
        files=sam_transformers_config.files,
    ),
    licence="Apache-2.0",
)
