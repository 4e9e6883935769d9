"""CLIP's checkpoints in OpenAI's names (openai/CLIP, model.py), which open_clip keeps.

OpenAI's files hold three more tensors, of numbers that the shapes say as well; its own loader
deletes them, and they are not written. Whether a file of somebody else's wants the GELU of a
sigmoid, as OpenAI's do, or the exact one (open_clip's names without "-quickgelu") is in no tensor:
the former is computed.
"""

import math
from collections.abc import Iterator

from esam_jax.config import ClipConfig, ModelConfig, TextConfig, VitConfig
from esam_jax.convert.families.family import Family, State, count, size
from esam_jax.convert.table import PATCHES, SAME, Link, Row, affine, links, norm
from esam_jax.errors import CheckpointError

# That a token sees none behind it: a TorchScript program of these modules holds it as a tensor,
# open_clip's once, OpenAI's in each block.
_MASKS = ("attn_mask", *(f"transformer.resblocks.{i}.attn_mask" for i in range(64)))
HEAD_WIDTH = 64  # of every release (model.py: build_model), for weights do not hold it


def _blocks(torch: str, params: str) -> tuple[Row, ...]:
    ours = f"{params}/attn/(query|key|value)"
    return (
        *norm(f"{torch}.ln_1", f"{params}/attn_norm"),
        Row(f"{torch}.attn.in_proj_weight", f"{ours}/kernel", "(n a k) d -> n d a k"),
        Row(f"{torch}.attn.in_proj_bias", f"{ours}/bias", "(n a k) -> n a k"),
        *affine(f"{torch}.attn.out_proj", f"{params}/attn/out", "d (a k) -> a k d"),
        *norm(f"{torch}.ln_2", f"{params}/mlp_norm"),
        *affine(f"{torch}.mlp.c_fc", f"{params}/mlp/hidden"),
        *affine(f"{torch}.mlp.c_proj", f"{params}/mlp/out"),
    )


IMAGE: tuple[Row, ...] = (
    Row("visual.conv1.weight", "encoder/patch_embed/kernel", PATCHES),
    Row("visual.class_embedding", "encoder/class_token", SAME),
    Row("visual.positional_embedding", "encoder/positions", SAME),
    *norm("visual.ln_pre", "encoder/pre_norm"),
    *_blocks("visual.transformer.resblocks.{block}", "encoder/block_{block}"),
    *norm("visual.ln_post", "encoder/norm"),
    Row("visual.proj", "encoder/project/kernel", SAME),  # multiplies from the right, as ours
)

TEXT: tuple[Row, ...] = (
    Row("token_embedding.weight", "text/words", SAME),
    Row("positional_embedding", "text/positions", SAME),
    *_blocks("transformer.resblocks.{block}", "text/block_{block}"),
    *norm("ln_final", "text/norm"),
    Row("text_projection", "text/project/kernel", SAME),
    Row("logit_scale", "logit_scale", SAME),
)


def towers(image: tuple[Row, ...], text: tuple[Row, ...], config: ClipConfig) -> Iterator[Link]:
    """The links of both encoders: letters a and b stand for heads, n for query, key and value."""
    for rows, half in ((image, config.encoder), (text, config.text)):
        patch = config.encoder.patch_px
        sizes = {"n": 3, "a": half.heads, "b": half.heads, "p": patch, "q": patch}
        yield from links(rows, {"block": half.depth}, sizes)


def of_sizes(
    *,
    width: int,
    depth: int,
    patch_px: int,
    slots: int,
    text_width: int,
    text_depth: int,
    embed_width: int,
) -> ClipConfig:
    """The config of these sizes; CheckpointError where the position table is of no square."""
    side = math.isqrt(max(slots - 1, 0))
    if side == 0 or slots != 1 + side**2:
        raise CheckpointError(
            f"the image encoder's position table has {slots} slots, but must have one for the "
            "class token and a square"
        )
    return ClipConfig(
        encoder=VitConfig(
            width=width,
            heads=max(1, width // HEAD_WIDTH),
            depth=depth,
            patch_px=patch_px,
            image_px=side * patch_px,
            pretrain_px=side * patch_px,
        ),
        text=TextConfig(width=text_width, heads=max(1, text_width // HEAD_WIDTH), depth=text_depth),
        embed_width=embed_width,
    )


def refuses(config: ModelConfig) -> str | None:
    return None if isinstance(config, ClipConfig) else "it has only CLIP's two encoders"


def _links(config: ClipConfig) -> Iterator[Link]:
    return towers(IMAGE, TEXT, config)


def _detect(state: State) -> ClipConfig:
    return of_sizes(
        width=size(state, "visual.class_embedding", 0),
        depth=count(state, "visual.transformer.resblocks."),
        patch_px=size(state, "visual.conv1.weight", -1),
        slots=size(state, "visual.positional_embedding", 0),
        text_width=size(state, "ln_final.weight", 0),
        text_depth=count(state, "transformer.resblocks."),
        embed_width=size(state, "text_projection", 1),
    )


def golden(config: ClipConfig) -> str:
    """The recorded case that is most like the config."""
    return "clip_small_test_a" if config.encoder.width < 768 else "clip_vit_b_32_a"


FAMILY = Family(
    name="clip",
    about="CLIP with a ViT, as OpenAI and open_clip name it",
    marks=("visual.class_embedding", "text_projection"),
    detect=_detect,
    links=_links,
    refuses=refuses,
    repeated=("input_resolution", "context_length", "vocab_size", *_MASKS),
    golden=golden,
    licence="MIT",
)
