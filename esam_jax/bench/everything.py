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
from esam_jax.ops import regions
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.sam import Sam

Part = Literal["encoder", "decoder", "selection", "run lengths"]
PARTS: tuple[Part, ...] = ("encoder", "decoder", "selection", "run lengths")

# Functions whose time is a part's; none calls another. Run lengths begin with enlarging the masks
# that stay. What is left of a call of `generate` is selection: stability, boxes, the enlarging
# that they need, suppression, small regions.
_WATCHED: tuple[tuple[Part, Any, str], ...] = (
    ("encoder", Sam, "encode"),
    ("decoder", Sam, "candidates"),
    ("run lengths", AutomaticMaskGenerator, "_runs"),
    ("run lengths", regions, "compress"),
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
    totals, compiling, masks, clicks = [], [], 0, 0
    for _ in range(1 + runs):
        before = timing.compile_seconds()
        with _watching() as watch:
            begin = time.perf_counter()
            masks = len(generator.generate(picture))
            total = time.perf_counter() - begin
        compiling.append(timing.compile_seconds() - before)
        clicks = watch.clicks
        selection = max(0.0, total - sum(watch.seconds.values()))
        seconds.append({**watch.seconds, "selection": selection})
        totals.append(total)
    height, width = picture.shape[:2]
    return Result(
        height=height,
        width=width,
        clicks=clicks,
        masks=masks,
        total=Timing(totals[0], tuple(totals[1:]), compiling[0]),
        parts={part: statistics.median(each[part] for each in seconds[1:]) for part in PARTS},
    )


class _Watch:
    """Adds up the seconds of functions, by part, and the prompts of the decoder."""

    def __init__(self) -> None:
        self.seconds: dict[Part, float] = {part: 0.0 for part, _, _ in _WATCHED}
        self.clicks = 0

    def around(self, part: Part, call: Any) -> Any:
        def timed(*args: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            value = call(*args, **options)
            jax.block_until_ready(value)
            self.seconds[part] += time.perf_counter() - begin
            if part == "decoder":
                _, scores = value
                self.clicks += len(scores)
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
