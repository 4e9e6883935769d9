"""What segment-everything costs on one picture: seconds by part, and how many masks it finds."""

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Iterator
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import UInt8

from esam_jax.bench import timing
from esam_jax.bench.timing import Timing
from esam_jax.ops import grids
from esam_jax.predict import tiles
from esam_jax.predict.everything import candidates, search
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.sam import Sam

Part = Literal["encoder", "decoder", "selection", "run lengths", "host"]
PARTS: tuple[Part, ...] = ("encoder", "decoder", "selection", "run lengths", "host")

# Programs of the device whose time is a part's; none calls another. What is left of a call of
# `generate` is the host's: clicks, thresholds, run lengths from the pixels where masks turn, small
# regions, the form of the answer.
_WATCHED: tuple[tuple[Part, Any, str], ...] = (
    ("encoder", Sam, "encode"),
    ("decoder", search, "search"),
    ("selection", tiles, "measured"),
    ("selection", candidates, "low_res_stability"),
    ("selection", candidates, "suppress"),
    ("selection", candidates, "take"),
    ("run lengths", tiles, "turned"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One picture. `parts` are seconds: medians over the runs of `total`."""

    height: int
    width: int
    clicks: int  # of the picture and its crops together
    masks: int
    total: Timing
    parts: dict[Part, float]

    def as_json(self) -> dict[str, Any]:
        return {
            "height": self.height,
            "width": self.width,
            "clicks": self.clicks,
            "masks": self.masks,
            "parts_seconds": dict(self.parts),
            **self.total.as_json(),
        }


def measure(
    generator: AutomaticMaskGenerator, picture: UInt8[np.ndarray, "H W 3"], *, runs: int = 1
) -> Result:
    """Calls `generate` once to compile and `runs` times more.

    Each part is waited for before the next begins, so that the parts add up to the total. Without
    this the total is a little smaller where device and host work at the same time.
    """
    seconds: list[dict[Part, float]] = []
    totals, compiling, masks = [], [], 0
    for _ in range(1 + runs):
        before = timing.compile_seconds()
        with _watching() as watch:
            begin = time.perf_counter()
            masks = len(generator.generate(picture))
            total = time.perf_counter() - begin
        compiling.append(timing.compile_seconds() - before)
        host = max(0.0, total - sum(watch.seconds.values()))
        seconds.append({**watch.seconds, "host": host})
        totals.append(total)
    height, width = picture.shape[:2]
    crops = grids.crops(height, width, generator.crop_n_layers, generator.crop_overlap_ratio)
    clicks = sum(len(generator.point_grids[layer]) for layer in crops[1])
    return Result(
        height=height,
        width=width,
        clicks=clicks,
        masks=masks,
        total=Timing(totals[0], tuple(totals[1:]), compiling[0]),
        parts={part: statistics.median(each[part] for each in seconds[1:]) for part in PARTS},
    )


class _Watch:
    """Adds up the seconds of programs, by part."""

    def __init__(self) -> None:
        self.seconds: dict[Part, float] = {part: 0.0 for part, _, _ in _WATCHED}

    def around(self, part: Part, call: Any) -> Any:
        def timed(*args: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            value = call(*args, **options)
            jax.block_until_ready(value)
            self.seconds[part] += time.perf_counter() - begin
            return value

        return timed


@contextlib.contextmanager
def _watching() -> Iterator[_Watch]:
    """Within it, the functions of `_WATCHED` are timed wherever they are called from."""
    watch, originals = _Watch(), [getattr(home, name) for _, home, name in _WATCHED]
    try:
        for (part, home, name), call in zip(_WATCHED, originals, strict=True):
            setattr(home, name, watch.around(part, call))
        yield watch
    finally:
        for (_, home, name), call in zip(_WATCHED, originals, strict=True):
            setattr(home, name, call)
