"""MobileSAM's checkpoint (ChaoningZhang/MobileSAM, a bare state dict).

Everything but the image encoder has SAM's names. The encoder kept the head of its pretraining on
ImageNet and the counters of its batch norms, neither of which its masks depend on.
"""

import math
from collections.abc import Iterator

from esam_jax.config import ModelConfig, SamConfig, TinyVitConfig
from esam_jax.convert.families import sam
from esam_jax.convert.families.family import Family, State, Unused, count, size
from esam_jax.convert.table import CONV, SAME, Link, Row, affine, fused_attention, links, norm

_IE, _E = "image_encoder", "encoder"
_STEM = f"{_IE}.patch_embed.seq"
_CLASSES = 1000
_DECODER_HEADS = 8

_POINTWISE = "o i 1 1 -> i o"
_DEPTHWISE = "o 1 r c -> r c o"


def _conv_norm(torch: str, params: str, layout: str) -> list[Row]:
    """A convolution without bias, and the batch norm after it."""
    return [
        Row(f"{torch}.c.weight", f"{params}/kernel", layout),
        *norm(f"{torch}.bn", f"{params}_norm"),
        Row(f"{torch}.bn.running_mean", f"{params}_norm/mean", SAME),
        Row(f"{torch}.bn.running_var", f"{params}_norm/variance", SAME),
    ]


def _bottleneck(torch: str, params: str) -> list[Row]:
    return [
        *_conv_norm(f"{torch}.conv1", f"{params}/expand", _POINTWISE),
        *_conv_norm(f"{torch}.conv2", f"{params}/spatial", _DEPTHWISE),
        *_conv_norm(f"{torch}.conv3", f"{params}/project", _POINTWISE),
    ]


def _block(torch: str, params: str) -> list[Row]:
    return [
        *norm(f"{torch}.attn.norm", f"{params}/attn/norm"),
        *fused_attention(f"{torch}.attn", f"{params}/attn", order="a n k"),
        Row(f"{torch}.attn.attention_biases", f"{params}/attn/biases", SAME),
        *_conv_norm(f"{torch}.local_conv", f"{params}/local", _DEPTHWISE),
        *norm(f"{torch}.mlp.norm", f"{params}/mlp_norm"),
        *affine(f"{torch}.mlp.fc1", f"{params}/mlp/hidden"),
        *affine(f"{torch}.mlp.fc2", f"{params}/mlp/out"),
    ]


_AROUND: tuple[Row, ...] = (
    *_conv_norm(f"{_STEM}.0", f"{_E}/stem_1", CONV),
    *_conv_norm(f"{_STEM}.2", f"{_E}/stem_2", CONV),
    *sam.NECK,
    *sam.PROMPTS,
)


def _stage(number: int, last: int) -> list[Row]:
    torch, params = f"{_IE}.layers.{number}", f"{_E}/stage_{number}"
    block = _bottleneck if number == 0 else _block
    rows = block(f"{torch}.blocks.{{block}}", f"{params}/block_{{block}}")
    if number < last:
        rows += _bottleneck(f"{torch}.downsample", f"{params}/downsample")
    return rows


def _links(config: SamConfig) -> Iterator[Link]:
    encoder, decoder = config.encoder, config.decoder
    assert isinstance(encoder, TinyVitConfig)
    sizes = {"n": 3, "b": decoder.heads, "y": 2, "x": 2}  # y, x: of SAM's mask stem
    yield from links(_AROUND, {"layer": decoder.depth, "m": decoder.mask_tokens}, sizes)
    for number, depth in enumerate(encoder.depths):
        rows = _stage(number, len(encoder.depths) - 1)
        yield from links(rows, {"block": depth}, {"n": 3, "a": encoder.all_heads[number]})


def _unused(config: SamConfig) -> Unused:
    encoder = config.encoder
    assert isinstance(encoder, TinyVitConfig)
    width, norms = encoder.widths[-1], [x.torch[0] for x in _links(config)]
    counters = [x.removesuffix("running_var") for x in norms if x.endswith(".bn.running_var")]
    return {
        f"{_IE}.norm_head.weight": ((width,), "float32"),
        f"{_IE}.norm_head.bias": ((width,), "float32"),
        f"{_IE}.head.weight": ((_CLASSES, width), "float32"),
        f"{_IE}.head.bias": ((_CLASSES,), "float32"),
        **{f"{start}num_batches_tracked": ((), "int64") for start in counters},
    }


def _detect(state: State) -> SamConfig:
    defaults = TinyVitConfig()
    stages = range(count(state, f"{_IE}.layers."))
    blocks = [f"{_IE}.layers.{i}.blocks." for i in stages]
    # Stage 0 has no attention: its heads and window are nowhere, and change nothing.
    biases = [f"{block}0.attn.attention_biases" for block in blocks[1:]]
    widths = [size(state, f"{blocks[0]}0.conv3.c.weight", 0)]
    widths += [size(state, f"{block}0.attn.proj.weight", 0) for block in blocks[1:]]
    encoder = TinyVitConfig(
        widths=tuple(widths),
        depths=tuple(count(state, block) for block in blocks),
        all_heads=(defaults.all_heads[0], *(size(state, name, 0) for name in biases)),
        windows=(defaults.windows[0], *(math.isqrt(size(state, name, 1)) for name in biases)),
        neck_width=size(state, f"{_IE}.neck.0.weight", 0),
    )
    return SamConfig(encoder=encoder, decoder=sam.decoder_config(state, _DECODER_HEADS))


def _refuses(config: ModelConfig) -> str | None:
    return sam.unlike(config, "sam", TinyVitConfig, "TinyViT")


FAMILY = Family(
    name="mobile_sam",
    about="MobileSAM's release",
    marks=(f"{_STEM}.0.c.weight",),
    detect=_detect,
    links=_links,
    refuses=_refuses,
    unused=_unused,
    golden=lambda config: "mobile_sam_a",
    licence="Apache-2.0",
)
