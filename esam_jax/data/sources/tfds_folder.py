"""Where tensorflow-datasets keeps what it has prepared: DATA_DIR/NAME[/CONFIG]/VERSION.

What lies there is read from its own files, and no code of the data set is loaded: neither that of
tensorflow-datasets' own, which looks in a bucket for what is missing, nor that of others.
"""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from esam_jax import files
from esam_jax.config import TfdsConfig
from esam_jax.errors import ConfigError, DataError, MissingError

INFO, FEATURES = "dataset_info.json", "features.json"
FORMAT = "array_record"

_MAX_JSON_BYTES = 2**26  # of a file that names every shard of a split
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_CLASSES = "tensorflow_datasets."  # where the classes of features are
_BY_TENSORFLOW = (".Audio", ".Video")  # which import it as soon as they are made
_OTHERS = ("downloads", ".config")  # folders of tensorflow-datasets that are no data set
_SHOWN = 8  # names in a message
_LOOKED = 64  # entries of a folder: one of pictures has thousands


def is_prepared(folder: Path) -> bool:
    """Whether it is the folder of one version of a data set."""
    return (folder / INFO).is_file() and (folder / FEATURES).is_file()


def below(folder: Path, depth: int = 3) -> Path | None:
    """A prepared version below a folder, if one of the first entries of each level leads to it."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        some = [Path(x) for x in itertools.islice(entries, _LOOKED) if x.is_dir()]
        found = [each for each in some if _VERSION.fullmatch(each.name) and is_prepared(each)]
        deeper = (below(each, depth - 1) for each in some if depth > 1)
        return next(iter(found), None) or next(filter(None, deeper), None)
    return None


def find(config: TfdsConfig, options: str) -> Path:
    """The folder of the version that a config means, which is the latest where it names none.

    Raises MissingError where there is none, ConfigError for a choice that is left open.
    """
    root, option = Path(str(config.path)).expanduser(), f"--{options}name"
    if config.name is None:
        if is_prepared(root):
            return root
        raise MissingError(
            f"{root} holds no {INFO} with a {FEATURES}: name the folder of a prepared version, or "
            f"its data_dir and the data set with {option}{_list('; it holds', _folders(root))}"
        )
    spec, _, version = config.name.partition(":")
    folder = root / spec
    if not folder.is_dir():
        raise MissingError(
            f"{folder} is not a folder: prepare the data set, or correct {option}"
            f"{_list('; there are', _folders(folder.parent))}"
        )
    versions = _versions(folder)
    if not versions:
        choices = [each.name for each in _folders(folder) if _versions(each)]
        if len(choices) > 1 or version:
            given = f":{version}" if version else ""
            raise ConfigError(
                f"{folder} holds several configs ({_names(choices)}): add one to the name, as in "
                f"{option} {spec}/{choices[0] if choices else 'CONFIG'}{given}"
            )
        folder = folder / choices[0] if choices else folder
        versions = _versions(folder)
    if not versions or version not in ("", *versions):
        raise MissingError(
            f"{folder} holds no prepared version{f' {version}' if version else ''}: prepare it, or "
            f"correct {option}{_list('; there are', [folder / each for each in versions])}"
        )
    return folder / (version or versions[-1])


def check(folder: Path) -> dict[str, Any]:
    """The information of a prepared data set; nothing that its files name is imported yet.

    ConfigError where it has another format than ArrayRecord, DataError for features that are not of
    tensorflow-datasets, which would import a package by a name from outside, or need TensorFlow.
    """
    info, features = _json(folder, INFO), _json(folder, FEATURES)
    formats = [info.get("fileFormat"), *_listed(info.get("alternativeFileFormats"))]
    if FORMAT not in formats:
        raise ConfigError(
            f"{folder} is prepared as {formats[0] or 'tfrecord'}, but only {FORMAT} has random "
            f"access: tfds convert_format --dataset_version_dir={folder} --out_file_format={FORMAT}"
            ", or prepare it with that file_format, where TensorFlow is installed"
        )
    for name in _class_names(features):
        if not name.startswith(_CLASSES):
            raise DataError(
                f"{folder / FEATURES} has features of the class {name[:80]!r}, but only those of "
                "tensorflow-datasets are read: prepare the data set with these"
            )
        if name.endswith(_BY_TENSORFLOW):
            raise DataError(
                f"{folder / FEATURES} has features of the class {name[:80]!r}, which need "
                "TensorFlow: prepare the data set without them"
            )
    return info


def splits(info: dict[str, Any]) -> list[str]:
    """The names of the splits that the information of a data set lists."""
    found = [each.get("name") for each in _listed(info.get("splits")) if isinstance(each, dict)]
    return [name for name in found if isinstance(name, str)]


def _json(folder: Path, name: str) -> dict[str, Any]:
    return files.read_json(folder / name, max_bytes=_MAX_JSON_BYTES, error=DataError, finite=False)


def _class_names(value: Any) -> Iterator[str]:
    """The names of Python classes in a features.json, which this release or an earlier one wrote.

    Without recursion: the file may nest as deep as the parser of JSON allows.
    """
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            for key in ("pythonClassName", "python_class_name", "type"):
                if isinstance(each.get(key), str):
                    yield each[key]
        waiting += each.values() if isinstance(each, dict) else _listed(each)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, none where it cannot be listed: they are for a message."""
    try:
        found = [each for each in folder.iterdir() if each.name not in _OTHERS and each.is_dir()]
        return sorted(found)
    except OSError:
        return []


def _versions(folder: Path) -> list[str]:
    """The prepared versions in a folder, the latest last."""
    found = [x.name for x in _folders(folder) if _VERSION.fullmatch(x.name) and is_prepared(x)]
    return sorted(found, key=lambda name: tuple(map(int, name.split("."))))


def _list(words: str, folders: list[Path]) -> str:
    return f"{words} {_names([each.name for each in folders])}" if folders else ""


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
