"""EfficientSAM's released checkpoints (yformer/EfficientSAM, a dict with the key `model`).

Its prompt encoder knows neither background points nor masks: a model that has learned them cannot
be written in this layout.
"""

import math
from collections.abc import Iterator

from esam_jax.config import DecoderConfig, ModelConfig, SamConfig, VitConfig
from esam_jax.convert.families import sam
from esam_jax.convert.families.family import Family, State, count, size, unwritten
from esam_jax.convert.table import SAME, Link, Row, affine, links, mask_head, norm, upscale

_IE, _E = "image_encoder", "encoder"
_BLOCK, _OUR_BLOCK = f"{_IE}.blocks.{{block}}", f"{_E}/block_{{block}}"
_LAYER, _OUR_LAYER = "mask_decoder.transformer.layers.{layer}", "decoder/two_way/block_{layer}"
_HEADS, _OUR_HEADS = "mask_decoder.output_hypernetworks_mlps.{m}", "decoder/mask_heads"
_IOU, _OUR_IOU = "mask_decoder.iou_prediction_head", "decoder/iou_head"
_UP, _OUR_UP = "mask_decoder.final_output_upscaling_layers", "decoder/upscale"

ROWS: tuple[Row, ...] = (
    Row(f"{_IE}.pos_embed", f"{_E}/positions", "1 s d -> s d"),
    *sam.ENCODER,
    *affine(f"{_BLOCK}.mlp.fc1", f"{_OUR_BLOCK}/mlp/hidden"),
    *affine(f"{_BLOCK}.mlp.fc2", f"{_OUR_BLOCK}/mlp/out"),
    *sam.NECK,
    *sam.TWO_WAY,
    Row("prompt_encoder.invalid_points.weight", "prompt/padding", SAME),
    Row("prompt_encoder.point_embeddings.weight", "prompt/foreground", SAME),
    Row("prompt_encoder.bbox_top_left_embeddings.weight", "prompt/top_left", SAME),
    Row("prompt_encoder.bbox_bottom_right_embeddings.weight", "prompt/bottom_right", SAME),
    *affine(f"{_LAYER}.mlp.layers.0.0", f"{_OUR_LAYER}/mlp/hidden"),
    *affine(f"{_LAYER}.mlp.fc", f"{_OUR_LAYER}/mlp/out"),
    *upscale(f"{_UP}.0.0", f"{_OUR_UP}/conv_1"),
    *norm(f"{_UP}.0.1", f"{_OUR_UP}/norm"),
    *upscale(f"{_UP}.1.0", f"{_OUR_UP}/conv_2"),
    *mask_head(f"{_HEADS}.layers.0.0", f"{_OUR_HEADS}/hidden_1"),
    *mask_head(f"{_HEADS}.layers.1.0", f"{_OUR_HEADS}/hidden_2"),
    *mask_head(f"{_HEADS}.fc", f"{_OUR_HEADS}/out"),
    *affine(f"{_IOU}.layers.0.0", f"{_OUR_IOU}/hidden_1"),
    *affine(f"{_IOU}.layers.1.0", f"{_OUR_IOU}/hidden_2"),
    *affine(f"{_IOU}.fc", f"{_OUR_IOU}/out"),
)


def _links(config: SamConfig) -> Iterator[Link]:
    return links(ROWS, sam.counts(config), sam.sizes(config))


def _detect(state: State) -> SamConfig:
    width = size(state, f"{_IE}.pos_embed", -1)
    known = unwritten(width)
    patch_px = size(state, f"{_IE}.patch_embed.proj.weight", -1)
    slots = size(state, f"{_IE}.pos_embed", 1)
    encoder = VitConfig(
        width=width,
        heads=known.encoder_heads,
        depth=count(state, f"{_IE}.blocks."),
        mlp_ratio=size(state, f"{_IE}.blocks.0.mlp.fc1.weight", 0) // width,
        patch_px=patch_px,
        neck_width=size(state, f"{_IE}.neck.0.weight", 0),
        image_px=known.image_px,
        pretrain_px=math.isqrt(max(slots - 1, 0)) * patch_px,
    )
    decoder = DecoderConfig(
        wiring="efficientsam",
        width=size(state, "mask_decoder.iou_token.weight", 1),
        depth=count(state, "mask_decoder.transformer.layers."),
        heads=known.decoder_heads,
        mlp_width=size(state, "mask_decoder.transformer.layers.0.mlp.layers.0.0.weight", 0),
        iou_width=size(state, f"{_IOU}.layers.0.0.weight", 0),
        mask_tokens=size(state, "mask_decoder.mask_tokens.weight", 0),
    )
    return SamConfig(encoder=encoder, decoder=decoder)


def _refuses(config: ModelConfig) -> str | None:
    if not isinstance(config, SamConfig) or config.decoder.wiring != "efficientsam":
        return "it has only models in the efficientsam wiring"
    if config.encoder.kind != "vit":
        return "its image encoder is a plain ViT"
    if config.decoder.background == "learned" or config.decoder.mask_prompts == "learned":
        return "it has neither background points nor mask prompts"
    return None


FAMILY = Family(
    name="efficientsam",
    about="EfficientSAM's release",
    marks=("prompt_encoder.invalid_points.weight",),
    detect=_detect,
    links=_links,
    refuses=_refuses,
    wrap="model",
    licence="Apache-2.0",
)
