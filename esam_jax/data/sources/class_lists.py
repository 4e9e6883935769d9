"""Text files that say of which class each picture is."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import scipy.io

from esam_jax import files
from esam_jax.data import tar_members
from esam_jax.errors import DataError, MissingError
from esam_jax.places import Place

_MAX_BYTES = 2**28
_MAX_MAT_BYTES = 2**20  # ImageNet's is smaller; what is compressed in it grows a thousandfold
_META = "meta.mat"


def read(file: Place, names: Sequence[str]) -> Mapping[str, str]:
    """The class of each picture that the file names; `names` are all of them, sorted.

    A line has a picture's name (with its folder, or without where it is not repeated) and its
    class, or the class alone: that of the picture at this place. Classes that are all numbers are
    those of ImageNet's development kit (`ILSVRC2012_ID`), whose `meta.mat` lies beside the file.
    DataError for a line of another form, for another number of lines, and where no name is there.
    """
    lines = [line.split() for line in _text(file).splitlines() if line.strip()]
    words = {len(line) for line in lines}
    if words == {1}:
        if len(lines) != len(names):
            raise DataError(
                f"{file} has {len(lines)} lines, but there are {len(names)} pictures: give each a "
                "line, or write the name of its picture before each class"
            )
        return dict(zip(names, _classes(file, [line[0] for line in lines]), strict=True))
    if words != {2}:
        bad = next((i for i, line in enumerate(lines, 1) if len(line) != 2), 1)
        raise DataError(
            f"{file}: line {bad} is not a picture's name and its class: write both, with a space "
            "between them, in each line"
        )
    known = set(names)
    repeated = Counter(PurePosixPath(name).name for name in names)
    by_file = {PurePosixPath(x).name: x for x in names if repeated[PurePosixPath(x).name] == 1}
    labels = _classes(file, [line[1] for line in lines])
    found = {}
    for (name, _), label in zip(lines, labels, strict=True):
        full = name if name in known else by_file.get(name)
        if full is not None:
            found[full] = label
    if not found:
        raise DataError(f"{file}: none of its pictures is there, the first is {lines[0][0][:80]}")
    return found


def _text(file: Place) -> str:
    def attempt() -> bytes:
        return _limited(file, _MAX_BYTES)

    content = files.read(file, attempt, "name a text file, a class in each line")
    try:
        text = content.decode("utf-8-sig")
    except ValueError as error:
        raise DataError(f"{file} is no text in UTF-8 ({error})") from error
    if not text.strip():
        raise DataError(f"{file} is empty: write a class in each line")
    return text


def _limited(file: Place, most: int) -> bytes:
    with file.open("rb") as opened:
        content = opened.read(most + 1)
    if len(content) > most:
        raise DataError(f"{file} has more than {most} bytes: this is no list of classes")
    return content


def _classes(file: Place, classes: Sequence[str]) -> Sequence[str]:
    """Names of classes; numbers become those of `meta.mat`."""
    for number, name in enumerate(classes, 1):
        if not tar_members.can_be_shown(name):
            raise DataError(f"{file}: line {number} has a class whose name cannot be shown")
    if not all(name.isdecimal() for name in classes):
        return classes
    meta = file.with_name(_META)
    try:
        known = _synsets(meta)
    except MissingError as error:
        raise MissingError(
            f"{file} numbers its classes as ImageNet's development kit does, whose {_META} says "
            f"which they are: put it at {meta}, or write the names of classes"
        ) from error
    unknown = next((name for name in classes if int(name) not in known), None)
    if unknown is not None:
        raise DataError(f"{file} has the class {unknown[:20]}, which is not in {meta}")
    return [known[int(name)] for name in classes]


def _synsets(meta: Place) -> dict[int, str]:
    """ILSVRC2012_ID -> WNID, as the development kit's readme describes `synsets`."""
    content = files.read(meta, lambda: _limited(meta, _MAX_MAT_BYTES), "check the path")
    try:
        table: Any = scipy.io.loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
        rows = zip(table["ILSVRC2012_ID"].tolist(), table["WNID"].tolist(), strict=True)
        return {int(number): str(name) for number, name in rows}
    except Exception as error:  # a broken file raises anything
        raise DataError(f"{meta} is not ImageNet's ({type(error).__name__}: {error})") from error
