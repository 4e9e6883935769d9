"""What the examples of a run cost: each stage on one core, and the loader as a run uses it."""

import contextlib
import dataclasses
import io
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from esam_jax import sharding
from esam_jax.config import DataConfig, MeshConfig
from esam_jax.data import loader
from esam_jax.data.bitmaps import Bitmap, Grid
from esam_jax.data.examples import Examples, Tally
from esam_jax.data.mask_sets import MaskSet, sample_together
from esam_jax.data.pictures import Encoded, Picture
from esam_jax.data.records import Record, Source
from esam_jax.data.views import View
from esam_jax.errors import ConfigError

STAGES = ("read", "decode", "masks", "view", "batch", "to device")
_BATCH = 8  # examples that the stage of that name puts together
BARE = ("simplejpeg", "pillow")  # decoders alone, of the same files in full


@dataclasses.dataclass
class Stage:
    """Seconds of one example: of one core, and as the clock went; `pixels` of it were decoded."""

    cpu: float = 0.0
    wall: float = 0.0
    pixels: float = 0.0

    @property
    def per_second(self) -> float:
        """Examples of one core."""
        return 1 / self.cpu if self.cpu else float("inf")

    @property
    def pixels_per_second(self) -> float:
        """Of one core; 0 where it has no pixels of its own."""
        return self.pixels / self.cpu if self.cpu else 0.0


@dataclasses.dataclass(frozen=True)
class Stages:
    """By the name of the stage, for the mean example; `bytes` is of its picture file."""

    examples: int
    bytes: float
    stages: dict[str, Stage]
    bare: dict[str, Stage]  # empty where no file is a JPEG

    @property
    def cpu(self) -> float:
        """Seconds of one core for an example, from the disk to the device."""
        return sum(stage.cpu for stage in self.stages.values())


def stages(source: Source, data: DataConfig, *, examples: int, seed: int = 0) -> Stages:
    """The examples that a run with this seed begins with, one after another in one thread.

    The first one is not counted. ConfigError where a source has nothing that can be used.
    """
    clock = _Clock()
    timed = _TimedSource(source, clock)
    made = Examples(timed, data.view, seed, data.repeats)
    tally = Tally(Examples(source, data.view, seed, data.repeats), 1.0)
    tally.view_of(made[0])  # the first opens files, and imports
    clock.clear()
    timed.encoded.clear()
    rows: list[View] = []
    for position in range(1, 1 + examples):
        with clock.within("view"):
            example = made[position]
        rows.append(tally.view_of(example))
        if len(rows) == _BATCH or position == examples:  # a run keeps no more of them either
            with clock.within("batch"):
                batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
            rows.clear()
            with clock.within("to device"):
                jax.block_until_ready(jax.device_put(batch))
    found = {name: clock.mean(name, examples) for name in STAGES}
    sizes = [len(each.data) for each in timed.encoded]
    return Stages(examples, float(np.mean(sizes or [0])), found, _bare(timed.encoded))


@dataclasses.dataclass(frozen=True)
class Rate:
    """What the loader gave with so many worker processes and threads, in so many seconds."""

    workers: int
    threads: int
    examples: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.examples / self.seconds


def rate(source: Source, data: DataConfig, *, batch: int, seconds: float) -> Rate:
    """Batches on one device, after the first two, for so long; nothing else is done with them."""
    mesh = sharding.make_mesh(MeshConfig(data=1), jax.devices()[:1])
    with loader.stream(source, data, seed=0, batch=batch, mesh=mesh) as batches:
        for _ in range(2):
            jax.block_until_ready(next(batches))
        begin, count = time.perf_counter(), 0
        while count == 0 or time.perf_counter() - begin < seconds:
            jax.block_until_ready(next(batches))
            count += batch
        spent = time.perf_counter() - begin
    return Rate(data.workers, data.threads, count, spent)


def of_workers(data: DataConfig, workers: int) -> DataConfig:
    """The same loader with so many processes, and a thread for each at least."""
    return dataclasses.replace(data, workers=workers, threads=max(data.threads, workers))


def cores(found: Stages, per_second: float) -> float:
    """How many cores like this one a host needs for so many examples a second."""
    return per_second * found.cpu


def as_json(found: Stages, rates: Sequence[Rate]) -> dict[str, Any]:
    """All that was measured."""
    return {
        "examples": found.examples,
        "bytes": found.bytes,
        "stages": {name: dataclasses.asdict(stage) for name, stage in found.stages.items()},
        "bare": {name: dataclasses.asdict(stage) for name, stage in found.bare.items()},
        "cpu_seconds": found.cpu,
        "rates": [dataclasses.asdict(each) | {"per_second": each.per_second} for each in rates],
    }


def _bare(files: Sequence[Encoded]) -> dict[str, Stage]:
    """Decoders alone, of those files that are JPEGs of three colours, in turn."""
    files = [each for each in files if each.header.kind == "JPEG" and each.header.mode == "RGB"]
    calls: dict[str, Callable[[bytes], Any]] = {
        "simplejpeg": lambda data: simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False),
        "pillow": lambda data: np.asarray(Image.open(io.BytesIO(data))),
    }
    clock = _Clock()
    for each in files:
        for name in BARE:
            with clock.within(name):
                calls[name](each.data)
            clock.spent[name].pixels += each.height * each.width
    return {name: clock.mean(name, len(files)) for name in BARE} if files else {}


class _Clock:
    """Time by stage; what is timed within another stage counts for the inner one alone."""

    def __init__(self) -> None:
        self.spent = {name: Stage() for name in (*STAGES, *BARE)}
        self._inner: list[Stage] = []

    def clear(self) -> None:
        self.spent.update({name: Stage() for name in self.spent})

    def mean(self, name: str, count: int) -> Stage:
        spent = self.spent[name]
        return Stage(spent.cpu / count, spent.wall / count, spent.pixels / count)

    @contextlib.contextmanager
    def within(self, name: str) -> Iterator[None]:
        inner = Stage()
        self._inner.append(inner)
        cpu, wall = time.thread_time(), time.perf_counter()
        try:
            yield
        finally:
            cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
            self._inner.pop()
            self.spent[name].cpu += cpu - inner.cpu
            self.spent[name].wall += wall - inner.wall
            if self._inner:
                self._inner[-1].cpu += cpu
                self._inner[-1].wall += wall


@dataclasses.dataclass
class _TimedSource:
    """A source whose records say what reading and decoding them took; remembers their files."""

    source: Source
    clock: _Clock
    encoded: list[Encoded] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def read(self, index: int) -> Record:
        with self.clock.within("read"):
            record = self.source.read(index)
        if isinstance(record.picture, Encoded):
            self.encoded.append(record.picture)
        annotations = {
            kind: _TimedMasks(each, self.clock) if kind == "masks" else each
            for kind, each in record.annotations.items()
        }
        picture = _TimedPicture(record.picture, self.clock)
        return dataclasses.replace(record, picture=picture, annotations=annotations)


@dataclasses.dataclass(frozen=True)
class _TimedPicture:
    picture: Picture
    clock: _Clock

    @property
    def height(self) -> int:
        return self.picture.height

    @property
    def width(self) -> int:
        return self.picture.width

    def rgb(self, at_least: tuple[int, int] | None = None) -> UInt8[np.ndarray, "H W 3"]:
        with self.clock.within("decode"):
            pixels = self.picture.rgb(at_least)
        self.clock.spent["decode"].pixels += pixels.shape[0] * pixels.shape[1]
        return pixels


@dataclasses.dataclass(frozen=True)
class _TimedMasks:
    masks: MaskSet
    clock: _Clock

    def __len__(self) -> int:
        return len(self.masks)

    def sample(self, index: int, grid: Grid) -> Bitmap:
        with self.clock.within("masks"):
            return self.masks.sample(index, grid)

    def sample_together(self, indices: Sequence[int], grid: Grid) -> list[Bitmap] | None:
        with self.clock.within("masks"):
            return sample_together(self.masks, indices, grid)


def require(examples: int, seconds: float, workers: Sequence[int]) -> None:
    """ConfigError for numbers that nothing can be measured with."""
    if examples < 1:
        raise ConfigError(f"--examples is {examples}, but must be at least 1")
    if not seconds > 0:
        raise ConfigError(f"--seconds is {seconds}, but must be above 0")
    if any(each < 0 for each in workers):
        raise ConfigError(f"--workers names {min(workers)}, but there cannot be fewer than 0")
