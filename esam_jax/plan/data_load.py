"""CPU cores that each host needs for its data: what one example costs here, at the planned rate."""

import dataclasses
import io
import itertools
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from esam_jax.config import DataConfig, ScenesConfig
from esam_jax.data import decode, sources, views
from esam_jax.data.examples import Examples
from esam_jax.data.labels import Label
from esam_jax.data.mask_sets import CocoMasks, Outline
from esam_jax.data.pictures import Encoded
from esam_jax.data.records import Record
from esam_jax.errors import EsamError
from esam_jax.ops import regions
from esam_jax.words import counted

_EXAMPLES, _SECONDS = 16, 2.0  # as many are timed, within about that time


@dataclasses.dataclass(frozen=True)
class DataLoad:
    """`seconds` is CPU time of one core of this machine for one example, the mean over `timed`."""

    seconds: float
    timed: str
    hosts: int
    threads: int  # that the loader of each host has
    examples_per_second: float | None = None  # of each host; None where the rate is not known
    cores: float | None = None  # of each host, like those of this machine


def measure(data: DataConfig, hosts: int, examples_per_second: float | None) -> DataLoad:
    """What the loader has to do for a run at that rate, over all hosts.

    Records of the source are timed where they can be read here, and otherwise drawn ones of the
    size that is usual for such a source.
    """
    seconds, timed = _of_source(data) or _of_drawn(data)
    if examples_per_second is None:
        return DataLoad(seconds, timed, hosts, data.threads)
    each = examples_per_second / hosts
    return DataLoad(seconds, timed, hosts, data.threads, each, each * seconds)


def _of_source(data: DataConfig) -> tuple[float, str] | None:
    """None where the source cannot be opened, or its first records not be used."""
    try:
        source = sources.open_source(data.source)
        examples = Examples(source, data.view, seed=0)
        seconds, count = _mean_seconds(lambda i: examples[i % len(source)].view is not None)
    except EsamError:
        return None
    where = getattr(data.source, "path", None) or data.source.kind
    return None if count == 0 else (seconds, f"{counted(count, 'record')} of {where}")


def _of_drawn(data: DataConfig) -> tuple[float, str]:
    assert not isinstance(data.source, ScenesConfig)  # which can always be opened
    height, width, masks = data.source.usual
    record = _draw(height, width, masks)
    seconds, _ = _mean_seconds(
        lambda i: views.make(record, data.view, np.random.default_rng(i)) is not None
    )
    return seconds, f"drawn pictures of {width} x {height} with {counted(masks, 'mask')}"


def _mean_seconds(made: Callable[[int], bool]) -> tuple[float, int]:
    """Of the calls that made something, after a first one that is not counted."""
    made(0)
    spent, count, end = 0.0, 0, time.monotonic() + _SECONDS
    for i in itertools.count(1):
        begin = time.thread_time()  # of this thread alone: other programs do not count
        if made(i):
            spent += time.thread_time() - begin
            count += 1
        if count == _EXAMPLES or i == 4 * _EXAMPLES or time.monotonic() > end:
            return (spent / count if count else 0.0), count
    raise AssertionError("itertools.count has no end")


def _draw(height: int, width: int, masks: int) -> Record:
    """A JPEG of blurred noise, with ellipses from 2 to 70 per cent of its height."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (max(1, height // 12), max(1, width // 12), 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height)).save(file, "JPEG", quality=90)
    outlines = []
    for i in range(masks):
        side = np.exp(rng.uniform(np.log(0.02), np.log(0.7))) * height / 2
        rows = (np.arange(height)[:, None] - rng.uniform(0, height)) / side
        columns = (np.arange(width) - rng.uniform(0, width)) / side
        outlines.append(Outline(str(i), regions.to_rle(np.hypot(rows, columns) < 1)))
    header = decode.header(file.getvalue())
    picture = Encoded("drawn", file.getvalue(), header)
    found = CocoMasks("drawn", outlines, height, width)
    return Record("drawn", picture, {"masks": found, "label": Label(0, "drawn")})
