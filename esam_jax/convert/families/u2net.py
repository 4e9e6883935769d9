"""U-2-Net's checkpoints (xuebinqin/U-2-Net, a bare state dict): u2net.pth, u2netp.pth and alike."""

from collections.abc import Iterator

from esam_jax.config import ModelConfig, U2NetConfig
from esam_jax.convert.families.family import Family, State, Unused, size
from esam_jax.convert.table import CONV, SAME, Link, Row, affine, links, norm

_STAGES = 6
_ENCODER = tuple(f"stage{i}" for i in range(1, _STAGES + 1))
_DECODER = tuple(f"stage{i}d" for i in range(_STAGES - 1, 0, -1))


def _layer(torch: str, params: str) -> list[Row]:
    """A convolution with its bias, and the batch norm after it."""
    return [
        *affine(f"{torch}.conv_s1", params, CONV),
        *norm(f"{torch}.bn_s1", f"{params}_norm"),
        Row(f"{torch}.bn_s1.running_mean", f"{params}_norm/mean", SAME),
        Row(f"{torch}.bn_s1.running_var", f"{params}_norm/variance", SAME),
    ]


def _stage(torch: str, params: str, height: int) -> Iterator[Row]:
    yield from _layer(f"{torch}.rebnconvin", f"{params}/enter")
    for level in range(1, height + 1):
        yield from _layer(f"{torch}.rebnconv{level}", f"{params}/down_{level}")
    for level in range(height - 1, 0, -1):
        yield from _layer(f"{torch}.rebnconv{level}d", f"{params}/up_{level}")


def _rows(config: U2NetConfig) -> Iterator[Row]:
    heights = (*config.heights, 4, 4)
    for torch in (*_ENCODER, *_DECODER):
        number = int(torch[5])
        half = "decoder" if torch.endswith("d") else "encoder"
        yield from _stage(torch, f"{half}_{number}", heights[number - 1])
    for number in range(1, _STAGES + 1):
        yield from affine(f"side{number}", f"side_{number}", CONV)
    yield from affine("outconv", "fuse", CONV)


def _links(config: U2NetConfig) -> Iterator[Link]:
    return links(_rows(config), {}, {})


def _unused(config: U2NetConfig) -> Unused:
    """The counters of its batch norms."""
    names = [link.torch[0] for link in _links(config)]
    norms = [x.removesuffix("running_var") for x in names if x.endswith(".running_var")]
    return {f"{start}num_batches_tracked": ((), "int64") for start in norms}


def _detect(state: State) -> U2NetConfig:
    return U2NetConfig(
        widths=tuple(size(state, f"{x}.rebnconvin.conv_s1.weight", 0) for x in _ENCODER),
        inner=tuple(
            size(state, f"{x}.rebnconv1.conv_s1.weight", 0) for x in (*_ENCODER, *_DECODER)
        ),
    )


def _refuses(config: ModelConfig) -> str | None:
    return None if isinstance(config, U2NetConfig) else "it has only saliency networks"


FAMILY = Family(
    name="u2net",
    about="U-2-Net's release",
    marks=("stage1.rebnconvin.conv_s1.weight", "outconv.weight"),
    detect=_detect,
    links=_links,
    refuses=_refuses,
    unused=_unused,
    golden=lambda config: "u2netp_a",
    licence="Apache-2.0",
)
