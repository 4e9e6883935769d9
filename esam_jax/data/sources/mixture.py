"""Several sources as one: the records of the first, then those of the second, and so on.

How often each comes in an epoch is decided behind it, by `data/copies.py`.
"""

import functools
import hashlib
import itertools
import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from esam_jax import places
from esam_jax.config import MixtureConfig, SourceConfig, rules
from esam_jax.config import json as config_json
from esam_jax.data import records, sources
from esam_jax.data.findings import Finding
from esam_jax.data.labels import Label
from esam_jax.data.records import (
    AnnotatedSource,
    ChecksummedSource,
    PartlyAnnotatedSource,
    Record,
    Source,
)
from esam_jax.errors import ConfigError

_SHARED = ("sixteen_bit", "crowds", "ambiguous_exif")  # with the data sets that have them
WORD = "mixture"  # for a path: its parts are named by options


def open(config: MixtureConfig, options: str = "") -> "Mixture":
    """The sources at all paths of the config; errors as of theirs, ConfigError for no path."""
    if not config.paths:
        raise ConfigError(
            f"source.paths is empty, but the source 'mixture' reads several: give --{options}paths "
            f"PATH PATH ... with --{options}times 1 2.5 ..."
        )
    configs = tuple(_of_path(config, number) for number in range(len(config.paths)))
    places = [_place(each) for each in configs]
    for number, place in enumerate(places):
        if places.index(place) != number:
            raise ConfigError(
                f"source.paths has {config.paths[number]} twice, also as "
                f"{config.paths[places.index(place)]}: leave one out, and raise its times"
            )
    return Mixture(configs, tuple(sources.open_source(each, options) for each in configs))


def detects(path: str) -> MixtureConfig | None:
    """A mixture of what options name, for the word "mixture"."""
    return MixtureConfig() if path == WORD and not Path(path).exists() else None


@dataclass(frozen=True)
class Mixture:
    """The records of several sources; `2/NAME` is NAME of the second one."""

    configs: tuple[SourceConfig, ...]
    sources: tuple[Source, ...]

    @functools.cached_property
    def ends(self) -> Sequence[int]:
        """Where the records of each source end."""
        return list(itertools.accumulate(map(len, self.sources)))

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def name(self, index: int) -> str:
        number, place = self._place(index)
        return f"{number + 1}/{self.sources[number].name(place)}"

    def read(self, index: int) -> Record:
        number, place = self._place(index)
        record = self.sources[number].read(place)
        known = record.annotations
        if self._renumbers[number] and "label" in known:
            known = _Renumbered(known, self._numbers)
        return replace(record, name=f"{number + 1}/{record.name}", annotations=known)

    @functools.cached_property
    def classes(self) -> Sequence[str]:
        """Those of the first source, then those of others that are new; a name is one class."""
        return tuple(
            dict.fromkeys(itertools.chain.from_iterable(map(records.classes, self.sources)))
        )

    @functools.cached_property
    def _numbers(self) -> Mapping[str, int]:
        return {name: number for number, name in enumerate(self.classes)}

    @functools.cached_property
    def _renumbers(self) -> Sequence[bool]:
        """Of each source, whether its classes have other numbers here."""
        own = map(records.classes, self.sources)
        return [each != self.classes[: len(each)] for each in own]

    @property
    def lacks(self) -> Mapping[str, str]:
        """The kinds of annotations that not all of the sources have, each with the first of them
        and the reason."""
        found: dict[str, str] = {}
        for config, source in zip(self.configs, self.sources, strict=True):
            where = sources.paths(config)[0] if sources.paths(config) else config.kind
            known = source.lacks if isinstance(source, PartlyAnnotatedSource) else {}
            for kind in sorted(MixtureConfig.annotations):
                if kind in known:
                    found.setdefault(kind, f"{where}: {known[kind]}")
                elif kind not in config.annotations:
                    found.setdefault(kind, f"{where} is {config.kind} data: leave it out")
            if len(self.sources) > 1 and not records.classes(source) and self.classes:
                text = f"{where} does not name its classes, as others do: leave it out"
                found.setdefault("label", text)
        return found

    @property
    def categories(self) -> Mapping[int, str] | None:
        """The names of the categories of objects, where all sources agree on them."""
        first, *others = (getattr(each, "categories", None) for each in self.sources)
        return first if all(each == first for each in others) else None

    @property
    def findings(self) -> Sequence[Finding]:
        known = (each.findings for each in self.sources if isinstance(each, AnnotatedSource))
        return tuple(itertools.chain.from_iterable(known))

    def digest(self) -> str:
        """Of each source, with how it is read."""
        both = zip(self.configs, self.sources, strict=True)
        return "; ".join(
            f"path {number}: {config.kind} {_choices(config)}, {records.summary(source)}"
            for number, (config, source) in enumerate(both, 1)
        )

    def damage(self) -> Iterator[str]:
        """Of the sources that have checksums."""
        for each in self.sources:
            if isinstance(each, ChecksummedSource):
                yield from each.damage()

    def _place(self, index: int) -> tuple[int, int]:
        """Which source it is, and the record there."""
        ends = self.ends
        number = bisect_right(ends, index)
        return number, index - (ends[number - 1] if number else 0)


class _Renumbered(Mapping[str, Any]):
    """Annotations whose class has its number in the mixture; they are read when they are used."""

    def __init__(self, known: Mapping[str, Any], numbers: Mapping[str, int]) -> None:
        self._known, self._numbers = known, numbers

    def __getitem__(self, kind: str) -> Any:
        found = self._known[kind]
        return Label(self._numbers[found.name], found.name) if kind == "label" else found

    def __contains__(self, kind: object) -> bool:
        return kind in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def _of_path(config: MixtureConfig, number: int) -> SourceConfig:
    """The config of one of the sources."""
    (path, keys), where = config.parts[number], f"source.paths[{number}]"
    keys = dict(keys)
    kind = keys.pop("kind", None)
    if kind is not None and kind not in sources.kinds():
        known = ", ".join(sources.kinds())
        raise ConfigError(f"{where}.kind is {kind!r}, but must be one of {known}")
    found = sources.detect(path) if kind is None else sources.named(kind, path)
    if isinstance(found, MixtureConfig):
        raise ConfigError(f"{where} is a mixture in a mixture: name its paths in its place")
    hints = rules.hints(type(found))
    if unknown := keys.keys() - hints.keys():
        known = ", ".join(name for name in hints if name != "path")
        raise ConfigError(
            f"{where} has {', '.join(sorted(unknown))} behind {path}, but keys of {found.kind} "
            f"data are {known}"
        )
    shared = {name: getattr(config, name) for name in _SHARED if name in hints}
    given = {key: _value(text, hints[key]) for key, text in keys.items()}
    return config_json.from_json(
        type(found), {**config_json.to_json(found), **shared, **given}, where
    )


def _value(text: str, hint: object) -> int | str:
    return int(text) if rules.plain(hint)[0] is int and text.isdecimal() else text


def _place(config: SourceConfig) -> SourceConfig:
    """The config with its path in one spelling."""
    path = getattr(config, "path", None)
    return config if path is None else replace(config, path=str(places.place(path).resolve()))


def _choices(config: SourceConfig) -> str:
    """A digest of how a source is read: of all that a resumed run may not change."""
    chosen = {
        key: value
        for key, value in config_json.to_json(config).items()
        if not config_json.may_differ(type(config), key)
    }
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]
