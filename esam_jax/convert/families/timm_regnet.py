"""RegNetY as timm names it: DeiT's teacher (regnety_160-*.pth, a dict with the key `model`)."""

import itertools
from collections.abc import Iterator

from esam_jax.config import ModelConfig, RegNetConfig
from esam_jax.convert.families.family import Family, State, Unused, count, size
from esam_jax.convert.table import CONV, SAME, Link, Row, affine, links, norm
from esam_jax.errors import CheckpointError

_FIRST = "stem.conv.weight"
_CONVOLUTIONS = {"conv1": "enter", "conv2": "mix", "conv3": "leave", "downsample": "shortcut"}


def _layer(torch: str, params: str) -> Iterator[Row]:
    """A convolution, and the batch norm after it."""
    yield Row(f"{torch}.conv.weight", f"{params}/kernel", CONV)
    yield from norm(f"{torch}.bn", f"{params}_norm")
    yield Row(f"{torch}.bn.running_mean", f"{params}_norm/mean", SAME)
    yield Row(f"{torch}.bn.running_var", f"{params}_norm/variance", SAME)


def _rows(config: RegNetConfig) -> Iterator[Row]:
    yield from _layer("stem", "stem")
    for stage, depth in enumerate(config.depths, 1):
        for block in range(depth):
            torch, params = f"s{stage}.b{block + 1}", f"stage_{stage}/block_{block:02d}"
            for theirs, ours in _CONVOLUTIONS.items():
                if theirs != "downsample" or block == 0:
                    yield from _layer(f"{torch}.{theirs}", f"{params}/{ours}")
            one = "o i 1 1 -> i o"  # a convolution of one cell
            yield from affine(f"{torch}.se.fc1", f"{params}/squeeze", one)
            yield from affine(f"{torch}.se.fc2", f"{params}/excite", one)
    yield from affine("head.fc", "head")


def _links(config: RegNetConfig) -> Iterator[Link]:
    return links(_rows(config), {}, {})


def _unused(config: RegNetConfig) -> Unused:
    """The counters of its batch norms."""
    names = [link.torch[0] for link in _links(config)]
    norms = [x.removesuffix("running_var") for x in names if x.endswith(".running_var")]
    return {f"{start}num_batches_tracked": ((), "int64") for start in norms}


def _detect(state: State) -> RegNetConfig:
    stages = list(itertools.takewhile(lambda i: f"s{i}.b1.conv1.conv.weight" in state, range(1, 9)))
    if not stages:
        raise CheckpointError("the state dict lacks s1.b1.conv1.conv.weight, the first of a stage")
    return RegNetConfig(
        widths=tuple(size(state, f"s{i}.b1.conv1.conv.weight", 0) for i in stages),
        depths=tuple(count(state, f"s{i}.b") - 1 for i in stages),  # they count from 1
        group_width=size(state, "s1.b1.conv2.conv.weight", 1),
        classes=size(state, "head.fc.weight", 0),
        stem_width=size(state, _FIRST, 0),
    )


def _refuses(config: ModelConfig) -> str | None:
    return None if isinstance(config, RegNetConfig) else "it has only networks of RegNetY"


FAMILY = Family(
    name="regnet",
    about="RegNetY as timm names it",
    marks=(_FIRST, "s1.b1.se.fc1.weight", "head.fc.weight"),
    detect=_detect,
    links=_links,
    refuses=_refuses,
    unused=_unused,
    wrap="model",
    golden=lambda config: "regnety_002_a",
)
