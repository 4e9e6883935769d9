"""Classes by their names: those of data, and those that a model tells apart.

Numbers of classes mean something in one data set alone: a folder more, and all behind it have other
ones. So a run keeps the names, and other data are compared by them.
"""

import dataclasses
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from esam_jax.data.labels import Label
from esam_jax.errors import ConfigError, DataError
from esam_jax.places import Place
from esam_jax.words import counted

IMAGENET = 1000  # classes of ImageNet-1K
_SYNSET = re.compile(r"n\d{8}")
_SHOWN = 8  # names in a message
UNEVEN = 10  # times as many pictures in a class as in another


@dataclasses.dataclass(frozen=True)
class Matched:
    """Which classes of a model those of some data are.

    `by` their names, or by their numbers where the model or the data has none; `numbers` are those
    of the model by the names of the data, `unknown` the names that the model lacks. `count` is how
    many classes the model has.
    """

    by: Literal["name", "number"]
    count: int
    numbers: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    def number(self, label: Label, record: str) -> int:
        """That of a picture's class in the model; DataError for one that it does not have."""
        if self.by == "name":
            if label.name not in self.numbers:
                raise DataError(
                    f"{record} is of class {label.name!r}, which is none of the model's"
                )
            return self.numbers[label.name]
        if not 0 <= label.index < self.count:
            wider = f", or train with --data.view.classes {label.index + 1} or more"
            raise DataError(
                f"{record} has class {label.index} ({label.name}), but there are {self.count}, "
                f"from 0: correct its label{wider if label.index > 0 else ''}"
            )
        return label.index

    def words(self) -> str:
        """For a protocol."""
        return f"a class counts by its {self.by}"


def match(model: Sequence[str], count: int, data: Sequence[str], where: str) -> Matched:
    """The classes of data as those of a model of `count` classes, whose names are `model` or empty.

    By number where either has no names, or where these are ImageNet's 1000 synsets in their order
    and the model names its 1000 classes otherwise. `where` is the data, for errors. ConfigError
    where the model knows no name of the data, or where numbers cannot mean the same: data that name
    another number of classes than a model has that names none.
    """
    if model and data:
        numbers = {name: number for number, name in enumerate(model)}
        known = {name: numbers[name] for name in data if name in numbers}
        if known:
            unknown = tuple(name for name in data if name not in numbers)
            return Matched("name", count, known, unknown)
        if not (count == IMAGENET and are_synsets(data)):
            raise ConfigError(
                f"the model knows none of the classes of {where}: it tells {shown(model)} apart, "
                f"and these are {shown(data)}: name data of its classes, or rename their folders"
            )
    elif data and len(data) != count:
        raise ConfigError(
            f"{where} has {counted(len(data), 'class', 'classes')} ({shown(data)}), but the model "
            f"tells {count} apart and does not name them: classes can only be compared by number, "
            "so give the data a folder for each of them, which may be empty"
        )
    return Matched("number", count)


def are_synsets(names: Sequence[str]) -> bool:
    """Whether these are names as those of ImageNet-1K's classes, as many and in their order."""
    return (
        len(names) == IMAGENET
        and list(names) == sorted({*names})
        and all(map(_SYNSET.fullmatch, names))
    )


def notes(classes: Sequence[str], counts: Mapping[str, int]) -> list[str]:
    """What is unexpected of the number of pictures of each class, in sentences; [] for nothing.

    `classes` are all that there are, as far as they are named, and `counts` pictures by name.
    """
    found = []
    there = {name: count for name, count in counts.items() if count}
    if empty := [name for name in classes if name not in there]:
        found.append(f"{counted(len(empty), 'class', 'classes')} without a picture: {shown(empty)}")
    if len(there) == 1:
        (only,) = there
        found.append(f"all pictures are of one class, {only}: nothing can be told apart")
    elif there:
        most, least = max(there, key=there.__getitem__), min(there, key=there.__getitem__)
        if there[most] >= UNEVEN * there[least]:
            found.append(
                f"classes are uneven: {there[most]} of {most}, but {there[least]} of {least}"
            )
    return found


def shown(names: Collection[str]) -> str:
    """The first names, in words."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:80] for name in [*names][:_SHOWN]) + more


def warn_of_empty(root: Place, classes: Collection[str], found: Iterable[str]) -> None:
    """A UserWarning where a class has no picture; `found` are the classes of all pictures."""
    there = {*found}
    if empty := sorted(name for name in classes if name not in there):
        warnings.warn(
            f"{root}: {counted(len(empty), 'class', 'classes')} without a picture: {shown(empty)}; "
            "a class keeps its number, and a folder that is none should lie elsewhere",
            UserWarning,
            stacklevel=4,
        )
