"""Opens every kind of data: a `SourceConfig` becomes a `Source` of records.

A source is a config class in `config/data.py`, whose `kind` names a module here and whose
`annotations` name what its records carry, and that module, with two functions:

    open(config, options) -> Source   MissingError or DataError when there is nothing to read;
                                      `options` as for `open_source`
    detects(path) -> config | None    the config for what a user means by a path, if it is ours

A source whose annotations come from files is an `AnnotatedSource`: it says what it left out of
them, and has a digest by which a resumed run notices other annotations. What is known of one record
alone is a finding of that record (`data/findings.py`).

A source whose pictures have a class names all of them, in the order of their numbers: then it is a
`LabelledSource`, and other data are compared with it by these names (`data/class_names.py`).

Where only opening says which annotations there are, those of the config are all that there may be,
and the source is a `PartlyAnnotatedSource`: it says what it lacks, and why.

Nothing else knows a source by name. To add one: its class and its place in `SourceConfig`
(`detect` tries them in that order, so the more particular come first), its module, its tests in
`tests/data/sources/`; and its class in `config/__init__.py`, for people who write configs in
Python. A new kind of annotation also needs a view that reads it (`data/views/`).
"""

import dataclasses
import functools
import importlib
import itertools
import os
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from esam_jax import files, places
from esam_jax.config import SourceConfig
from esam_jax.config.data import lacking
from esam_jax.data import copies, id_lists, parts
from esam_jax.data.records import PartlyAnnotatedSource, Source
from esam_jax.errors import ConfigError, EsamError, MissingError


def open_source(
    config: SourceConfig, options: str = "data.source.", needs: frozenset[str] = frozenset()
) -> Source:
    """The source of a config, whose records carry the annotations in `needs`.

    `options` is what precedes the names of its fields in the options of the command, for remedies.
    Raises MissingError or DataError when there is nothing there to read, before any picture is, and
    ConfigError when it lacks what is needed.
    """
    path: str | None = getattr(config, "path", config.kind)
    if not path:
        raise ConfigError(
            f"source.path is {path!r}, but the source {config.kind!r} reads one: give "
            f"--{options}path PATH"
        )
    for _, words in lacking(config, needs, "this needs"):
        where = " and ".join(paths(config)) or config.kind
        raise ConfigError(f"{where} is {config.kind} data, but {words}")
    source: Source = _module(config.kind).open(config, options)
    lacks = source.lacks if isinstance(source, PartlyAnnotatedSource) else {}
    for kind in sorted(needs & lacks.keys()):
        raise ConfigError(f"the source {config.kind!r} has no {kind} here: {lacks[kind]}")
    ids: str | None = getattr(config, "ids", None)  # of sources that read files
    if ids is not None:
        source = id_lists.select(source, ids)
    part: Any = getattr(config, "part", "all")  # of sources that can be read in parts
    if part != "all":
        source = parts.of(source, part, getattr(config, "heldout", 0))
    times: Any = getattr(config, "times", ())  # of several data sets
    return copies.of(source, times) if times and part != "heldout" else source


def detect(path: str) -> SourceConfig:
    """The source a user means by a path, or by the word "scenes" (the held-out ones).

    MissingError for what is none, or may not be read.
    """
    if not path:
        raise MissingError("a path to data is empty: name a folder or file (. is this folder)")
    place = Path(path).expanduser()
    files.read(path, functools.partial(_look, place), "make it readable, or name another")
    for kind in kinds():
        config = _module(kind).detects(path)
        if config is not None:
            return config
    if not places.place(path).exists():
        raise MissingError(f"{path} does not exist: check the path, or write the word scenes")
    raise MissingError(
        f"{path} cannot be read as any of {', '.join(kinds())}: name a folder, a tar archive, a "
        "COCO json or the word scenes"
    )


def more_particular(config: SourceConfig) -> str | None:
    """The kind of another source that reads the path of a config and comes before its own."""
    for kind in itertools.takewhile(lambda each: each != config.kind, kinds()):
        try:
            if _module(kind).detects(str(getattr(config, "path", None))) is not None:
                return kind
        except EsamError:
            return None
    return None


def named(kind: str, path: str | None = None) -> SourceConfig:
    """The source of a kind, at a path where it has one."""
    config = next(each for each in get_args(SourceConfig) if each.kind == kind)
    reads = any(field.name == "path" for field in dataclasses.fields(config))
    return config(path=path) if reads else config()


def _look(place: Path) -> None:
    """An OSError for a folder that may not be listed, or whose files may not be opened."""
    if place.is_dir():
        with os.scandir(place):
            os.stat(os.path.join(place, "."))  # a Path would leave the dot out


def once(config: SourceConfig) -> SourceConfig:
    """The source with every record once, where training reads them more or less often."""
    changes: dict[str, Any] = {"times": ()} if hasattr(config, "times") else {}
    return dataclasses.replace(config, **changes)


def paths(config: SourceConfig) -> tuple[str, ...]:
    """What a source reads, as far as it is named."""
    several: Any = getattr(config, "parts", ())  # of a mixture: each path with its keys
    path: str | None = getattr(config, "path", None)
    return tuple(each for each, _ in several) if path is None else (path,)


def kinds() -> tuple[str, ...]:
    """The names of all sources, the more particular first."""
    return tuple(config.kind for config in get_args(SourceConfig))


def _module(kind: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{kind}")
