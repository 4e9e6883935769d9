"""MAE's pretraining checkpoints, and plain ViTs as timm names them (a dict with the key `model`).

MAE's encoder is timm's VisionTransformer, so one table serves both. Its released files mostly hold
the encoder alone; with `mask_token` in it a file has the decoder too.
"""

import math
from collections.abc import Iterator

from esam_jax.config import MaeConfig, ModelConfig, PretrainDecoderConfig, VitConfig
from esam_jax.convert.families.family import Family, State, count, size, unwritten
from esam_jax.convert.table import PATCHES, Link, Row, affine, fused_attention, links, norm
from esam_jax.errors import CheckpointError

# Weights do not hold them: 16 in every size of MAE's (models_mae.py), whose decoder is 512 wide.
_DECODER_HEADS, _HEADS_BY_DECODER_WIDTH = 16, {64: 2}  # 64: quickstart_mae


def _blocks(torch: str, params: str) -> tuple[Row, ...]:
    return (
        *norm(f"{torch}.norm1", f"{params}/attn_norm"),
        *fused_attention(f"{torch}.attn", f"{params}/attn"),
        *norm(f"{torch}.norm2", f"{params}/mlp_norm"),
        *affine(f"{torch}.mlp.fc1", f"{params}/mlp/hidden"),
        *affine(f"{torch}.mlp.fc2", f"{params}/mlp/out"),
    )


ENCODER: tuple[Row, ...] = (
    Row("cls_token", "class_token", "1 1 d -> d"),
    Row("pos_embed", "encoder/positions", "1 s d -> s d"),
    *affine("patch_embed.proj", "encoder/patch_embed", PATCHES),
    *_blocks("blocks.{block}", "encoder/block_{block}"),
    *norm("norm", "norm"),
)

DECODER: tuple[Row, ...] = (
    *affine("decoder_embed", "embed"),
    Row("mask_token", "mask_token", "1 1 d -> d"),
    Row("decoder_pos_embed", "decoder/positions", "1 s d -> s d"),
    *_blocks("decoder_blocks.{block}", "decoder/block_{block}"),
    *norm("decoder_norm", "decoder/norm"),
    *affine("decoder_pred", "head"),
)


def _links(config: MaeConfig) -> Iterator[Link]:
    for rows, half in ((ENCODER, config.encoder), (DECODER, config.decoder)):
        if half is not None:
            patch = config.encoder.patch_px
            sizes = {"n": 3, "a": half.heads, "p": patch, "q": patch}
            yield from links(rows, {"block": half.depth}, sizes)


def _detect(state: State) -> MaeConfig:
    width = size(state, "cls_token", -1)
    patch_px = size(state, "patch_embed.proj.weight", -1)
    slots = size(state, "pos_embed", 1)
    side = math.isqrt(slots - 1)
    if side == 0 or slots != 1 + side**2:
        raise CheckpointError(
            f"pos_embed has {slots} slots, but must have one for the class token and a square"
        )
    encoder = VitConfig(
        width=width,
        heads=unwritten(width).encoder_heads,
        depth=count(state, "blocks."),
        patch_px=patch_px,
        image_px=side * patch_px,
        pretrain_px=side * patch_px,
    )
    return MaeConfig(encoder=encoder, decoder=_decoder(state) if "mask_token" in state else None)


def _decoder(state: State) -> PretrainDecoderConfig:
    width = size(state, "mask_token", -1)
    return PretrainDecoderConfig(
        width=width,
        depth=count(state, "decoder_blocks."),
        heads=_decoder_heads(width),
    )


def _decoder_heads(width: int) -> int:
    return _HEADS_BY_DECODER_WIDTH.get(width, _DECODER_HEADS)


def _refuses(config: ModelConfig) -> str | None:
    if not isinstance(config, MaeConfig):
        return "it has only pretrained ViTs, which have a class token and a last norm"
    decoder = config.decoder
    if decoder is not None and decoder.heads != _decoder_heads(decoder.width):
        return (
            f"its decoder has {decoder.heads} heads, which the layout does not hold, and one "
            f"{decoder.width} wide is read with {_decoder_heads(decoder.width)}"
        )
    return None


FAMILY = Family(
    name="mae",
    about="MAE pretraining, or a ViT as timm names it",
    marks=("cls_token", "pos_embed", "patch_embed.proj.weight"),
    detect=_detect,
    links=_links,
    refuses=_refuses,
    wrap="model",
    golden=lambda config: "mae_vit_b_a",
    licence="CC-BY-NC-4.0",  # MAE's repository; a ViT of somebody else's has terms of its own
)
