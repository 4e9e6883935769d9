"""A part of a data set by share, size of masks and number of masks, as a list of names."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Literal

from esam_jax.data import parallel, parts
from esam_jax.data.bitmaps import Grid
from esam_jax.data.mask_sets import SoundMasks
from esam_jax.data.records import Source
from esam_jax.errors import ConfigError, DataError, DiskError, MissingError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """Which records are chosen: those that fit all of these.

    `share` is by a hash of seed and name alone: of one seed, a smaller share lies in a larger one,
    and a record stays chosen whatever is added. It is met on average, not exactly. A record has so
    many masks, of those with an area (pixels of the picture) within the limits: with limits of area
    alone, at least one.
    """

    share: float = 1.0
    seed: int = 0
    min_area: int | None = None
    max_area: int | None = None
    min_masks: int | None = None
    max_masks: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"--share is {self.share}, but must be above 0 and at most 1")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"--seed is {self.seed}, but must be from 0 to {2**63 - 1}")
        for low, high in (("min_area", "max_area"), ("min_masks", "max_masks")):
            least, most = getattr(self, low), getattr(self, high)
            for name, value in ((low, least), (high, most)):
                if value is not None and value < 0:
                    option = f"--{name.replace('_', '-')}"
                    raise ConfigError(f"{option} is {value}, but must be at least 0")
            if least is not None and most is not None and least > most:
                option = f"--{low.replace('_', '-')}"
                raise ConfigError(f"{option} is {least}, but must be at most the maximum of {most}")

    @property
    def reads_masks(self) -> bool:
        """Whether records must be read: their names do not say what they have."""
        limits = (self.min_area, self.max_area, self.min_masks, self.max_masks)
        return any(limit is not None for limit in limits)

    def by_name(self, name: str) -> bool:
        """Whether a record is in the share."""
        return parts.in_share(name, self.share, b"subset", self.seed)

    def fits(self, areas: Iterable[int]) -> bool:
        """Whether a record with masks of these areas is chosen."""
        least, most = self.min_area or 1, self.max_area
        count = sum(area >= least and (most is None or area <= most) for area in areas)
        by_area = self.min_area is not None or self.max_area is not None
        fewest = self.min_masks
        if fewest is None:
            fewest = int(by_area and self.max_masks is None)
        return fewest <= count and (self.max_masks is None or count <= self.max_masks)


@dataclasses.dataclass(frozen=True)
class Subset:
    """Names in the order of the source; `in_share` were looked at, `broken` left out: reasons."""

    names: tuple[str, ...]
    in_share: int
    broken: tuple[str, ...]


Status = tuple[Literal["chosen", "other", "broken"], str]


def choose(
    source: Source,
    rules: Rules,
    *,
    workers: int = 1,
    over: Callable[[Iterable[Status]], Iterable[Status]] = iter,
) -> Subset:
    """The records that fit the rules. Masks are decoded only where the rules need them.

    `over` follows the progress over the records that are read, ConfigError for rules about masks
    where there are none.
    """
    shared = [i for i in range(len(source)) if rules.by_name(source.name(i))]
    if not rules.reads_masks:
        return Subset(tuple(source.name(i) for i in shared), len(shared), ())
    names, broken = [], []
    found = parallel.over(source, shared, functools.partial(_try, rules), workers)
    for index, (status, reason) in zip(shared, over(found), strict=True):
        if status == "chosen":
            names.append(source.name(index))
        elif status == "broken":
            broken.append(f"{source.name(index)}: {reason}")
    return Subset(tuple(names), len(shared), tuple(broken))


def _try(rules: Rules, source: Source, index: int) -> Status:
    try:
        record = source.read(index)
        masks = SoundMasks(record)
        grid = Grid.whole(record.picture.height, record.picture.width)
        sampled = (masks.sample(i, grid) for i in range(len(masks)))
        areas = [mask.area() for mask in sampled if mask is not None]
        masks.require_some()
    except (DataError, MissingError, DiskError) as error:
        return "broken", str(error)
    return ("chosen" if rules.fits(areas) else "other"), ""
