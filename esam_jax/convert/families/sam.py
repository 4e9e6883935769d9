"""SAM's checkpoints in the names of segment-anything (a bare state dict).

Half of this table is EfficientSAM's too, whose authors kept the names of what they kept.
"""

from collections.abc import Iterator

from esam_jax.config import DecoderConfig, ModelConfig, SamConfig, SamVitConfig, TinyVitConfig
from esam_jax.convert.families.family import Family, State, count, size, unwritten
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
from esam_jax.errors import CheckpointError

_IE, _E = "image_encoder", "encoder"
_BLOCK, _OUR_BLOCK = f"{_IE}.blocks.{{block}}", f"{_E}/block_{{block}}"
_LAYER, _OUR_LAYER = "mask_decoder.transformer.layers.{layer}", "decoder/two_way/block_{layer}"
_HEADS, _OUR_HEADS = "mask_decoder.output_hypernetworks_mlps.{m}", "decoder/mask_heads"
_IOU, _OUR_IOU = "mask_decoder.iou_prediction_head", "decoder/iou_head"
_UP, _OUR_UP = "mask_decoder.output_upscaling", "decoder/upscale"
_STEM, _OUR_STEM = "prompt_encoder.mask_downscaling", "prompt/mask"

# ------------------------------------------------------- what EfficientSAM names alike

ENCODER: tuple[Row, ...] = (
    *affine(f"{_IE}.patch_embed.proj", f"{_E}/patch_embed", PATCHES),
    *norm(f"{_BLOCK}.norm1", f"{_OUR_BLOCK}/attn_norm"),
    *fused_attention(f"{_BLOCK}.attn", f"{_OUR_BLOCK}/attn"),
    *norm(f"{_BLOCK}.norm2", f"{_OUR_BLOCK}/mlp_norm"),
)

NECK: tuple[Row, ...] = (
    Row(f"{_IE}.neck.0.weight", f"{_E}/neck/project/kernel", "o i 1 1 -> i o"),
    *norm(f"{_IE}.neck.1", f"{_E}/neck/project_norm"),
    Row(f"{_IE}.neck.2.weight", f"{_E}/neck/smooth/kernel", CONV),
    *norm(f"{_IE}.neck.3", f"{_E}/neck/smooth_norm"),
)

TWO_WAY: tuple[Row, ...] = (
    Row("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "prompt/fourier", SAME),
    *attention(f"{_LAYER}.self_attn", f"{_OUR_LAYER}/self_attn"),
    *norm(f"{_LAYER}.norm1", f"{_OUR_LAYER}/self_norm"),
    *attention(f"{_LAYER}.cross_attn_token_to_image", f"{_OUR_LAYER}/token_to_image"),
    *norm(f"{_LAYER}.norm2", f"{_OUR_LAYER}/token_to_image_norm"),
    *norm(f"{_LAYER}.norm3", f"{_OUR_LAYER}/mlp_norm"),
    *attention(f"{_LAYER}.cross_attn_image_to_token", f"{_OUR_LAYER}/image_to_token"),
    *norm(f"{_LAYER}.norm4", f"{_OUR_LAYER}/image_to_token_norm"),
    *attention("mask_decoder.transformer.final_attn_token_to_image", "decoder/two_way/final_attn"),
    *norm("mask_decoder.transformer.norm_final_attn", "decoder/two_way/final_norm"),
    Row("mask_decoder.iou_token.weight", "decoder/iou_token", SAME),
    Row("mask_decoder.mask_tokens.weight", "decoder/mask_tokens", SAME),
)

MASK_PROMPTS: tuple[Row, ...] = (
    Row("prompt_encoder.no_mask_embed.weight", "prompt/no_mask", SAME),
    *affine(f"{_STEM}.0", f"{_OUR_STEM}/conv_1", "o c y x -> (y x c) o"),
    *norm(f"{_STEM}.1", f"{_OUR_STEM}/norm_1"),
    *affine(f"{_STEM}.3", f"{_OUR_STEM}/conv_2", "o c y x -> (y x c) o"),
    *norm(f"{_STEM}.4", f"{_OUR_STEM}/norm_2"),
    *affine(f"{_STEM}.6", f"{_OUR_STEM}/conv_3", "o c 1 1 -> c o"),
)

# ------------------------------------------------------------------------- SAM's own

# Prompt encoder and mask decoder: MobileSAM's too.
PROMPTS: tuple[Row, ...] = (
    *TWO_WAY,
    *MASK_PROMPTS,
    Row("prompt_encoder.not_a_point_embed.weight", "prompt/padding", SAME),
    Row("prompt_encoder.point_embeddings.0.weight", "prompt/background", SAME),
    Row("prompt_encoder.point_embeddings.1.weight", "prompt/foreground", SAME),
    Row("prompt_encoder.point_embeddings.2.weight", "prompt/top_left", SAME),
    Row("prompt_encoder.point_embeddings.3.weight", "prompt/bottom_right", SAME),
    *affine(f"{_LAYER}.mlp.lin1", f"{_OUR_LAYER}/mlp/hidden"),
    *affine(f"{_LAYER}.mlp.lin2", f"{_OUR_LAYER}/mlp/out"),
    *upscale(f"{_UP}.0", f"{_OUR_UP}/conv_1"),
    *norm(f"{_UP}.1", f"{_OUR_UP}/norm"),
    *upscale(f"{_UP}.3", f"{_OUR_UP}/conv_2"),
    *mask_head(f"{_HEADS}.layers.0", f"{_OUR_HEADS}/hidden_1"),
    *mask_head(f"{_HEADS}.layers.1", f"{_OUR_HEADS}/hidden_2"),
    *mask_head(f"{_HEADS}.layers.2", f"{_OUR_HEADS}/out"),
    *affine(f"{_IOU}.layers.0", f"{_OUR_IOU}/hidden_1"),
    *affine(f"{_IOU}.layers.1", f"{_OUR_IOU}/hidden_2"),
    *affine(f"{_IOU}.layers.2", f"{_OUR_IOU}/out"),
)

ROWS: tuple[Row, ...] = (
    Row(f"{_IE}.pos_embed", f"{_E}/positions", "1 h w d -> h w d"),
    *ENCODER,
    Row(f"{_BLOCK}.attn.rel_pos_h", f"{_OUR_BLOCK}/attn/rel_rows", SAME),
    Row(f"{_BLOCK}.attn.rel_pos_w", f"{_OUR_BLOCK}/attn/rel_cols", SAME),
    *affine(f"{_BLOCK}.mlp.lin1", f"{_OUR_BLOCK}/mlp/hidden"),
    *affine(f"{_BLOCK}.mlp.lin2", f"{_OUR_BLOCK}/mlp/out"),
    *NECK,
    *PROMPTS,
)


def counts(config: SamConfig) -> dict[str, int]:
    """How far the numbers of the rows run."""
    cfg = config.decoder
    return {"block": config.encoder.depth, "layer": cfg.depth, "m": cfg.mask_tokens}


def sizes(config: SamConfig) -> dict[str, int]:
    """Axis sizes that a shape alone does not give: p and q pixels of a patch, x and y of a stem."""
    encoder, patch = config.encoder, config.encoder.patch_px
    assert not isinstance(encoder, TinyVitConfig)  # it has a table of its own
    return {
        "n": 3,
        "a": encoder.heads,
        "b": config.decoder.heads,
        "p": patch,
        "q": patch,
        "y": 2,
        "x": 2,
    }


def encoder_config(
    state: State,
    encoder: str = _IE,
    blocks: str = "blocks",
    patches: str = "patch_embed.proj",
    neck: str = "neck.0",
) -> SamVitConfig:
    """The config of SAM's ViT, by the shapes of a state dict; its names are those of the release
    unless others are given."""
    width = size(state, f"{encoder}.pos_embed", -1)
    first = f"{encoder}.{blocks}."
    depth = count(state, first)
    reach = [(size(state, f"{first}{i}.attn.rel_pos_h", 0) + 1) // 2 for i in range(depth)]
    patch_px = size(state, f"{encoder}.{patches}.weight", -1)
    grid = size(state, f"{encoder}.pos_embed", 1)
    # A global block reaches over the grid, which may be smaller than a window. Where both are
    # equal, all blocks compute the same.
    windows = sorted(set(reach) - {grid}) or [grid]
    if len(windows) > 1:
        raise CheckpointError(
            f"{encoder} has windows of {', '.join(map(str, windows))} cells in a grid of {grid}, "
            "but SAM's are all of one size"
        )
    return SamVitConfig(
        width=width,
        heads=unwritten(width).encoder_heads,
        depth=depth,
        patch_px=patch_px,
        neck_width=size(state, f"{encoder}.{neck}.weight", 0),
        image_px=grid * patch_px,
        window=windows[0],
        global_blocks=tuple(i for i, cells in enumerate(reach) if cells != windows[0]),
    )


def decoder_config(state: State, heads: int, iou_hidden: str = f"{_IOU}.layers.0") -> DecoderConfig:
    """The config of SAM's decoder, likewise."""
    return DecoderConfig(
        wiring="sam",
        width=size(state, "mask_decoder.iou_token.weight", 1),
        depth=count(state, "mask_decoder.transformer.layers."),
        heads=heads,
        mlp_width=size(state, "mask_decoder.transformer.layers.0.mlp.lin1.weight", 0),
        iou_width=size(state, f"{iou_hidden}.weight", 0),
        mask_tokens=size(state, "mask_decoder.mask_tokens.weight", 0),
        background="learned",
        mask_prompts="learned",
    )


def _links(config: SamConfig) -> Iterator[Link]:
    return links(ROWS, counts(config), sizes(config))


def _detect(state: State) -> SamConfig:
    encoder = encoder_config(state)
    heads = unwritten(encoder.width).decoder_heads
    return SamConfig(encoder=encoder, decoder=decoder_config(state, heads))


def unlike(config: ModelConfig, wiring: str, encoder: type, about: str) -> str | None:
    """Why a config is not of one wiring and one class of encoder, or None."""
    if not isinstance(config, SamConfig) or config.decoder.wiring != wiring:
        return f"it has only models in the {wiring} wiring"
    if config.decoder.text_width is not None:
        return "it has no text prompts"
    return None if isinstance(config.encoder, encoder) else f"its image encoder is {about}"


def refuses(config: ModelConfig) -> str | None:
    """Why the config cannot be written in a layout of SAM's ViT models."""
    return unlike(config, "sam", SamVitConfig, "SAM's windowed ViT")


def _golden(config: SamConfig) -> str:
    assert isinstance(config.encoder, SamVitConfig)
    return "sam_vit_b_a" if config.encoder.width == 768 else "sam_small_test"


FAMILY = Family(
    name="sam",
    about="SAM ViT-B, L or H, as segment-anything names it",
    marks=("prompt_encoder.not_a_point_embed.weight", f"{_IE}.pos_embed"),
    detect=_detect,
    links=_links,
    refuses=refuses,
    golden=_golden,
    licence="Apache-2.0",
)
