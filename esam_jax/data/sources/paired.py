"""Pictures in one folder, and in another a file of annotations under the same name for each."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from esam_jax import files
from esam_jax.config import FilesConfig
from esam_jax.data import pictures
from esam_jax.data.findings import Finding
from esam_jax.data.records import SAMPLED
from esam_jax.data.sources.coco_files import is_below
from esam_jax.errors import DataError, MissingError
from esam_jax.places import Place, StorePath

_LOOKED_AT = 1000  # pictures of a folder, for one with a file of annotations


@dataclasses.dataclass(frozen=True)
class Folders:
    """`images/a/b.jpg` has its annotations in `others/a/b` with the `suffix`."""

    images: Place
    others: Place
    suffix: str

    def other(self, name: str) -> Place:
        """The file of annotations of the picture of this name below `images`."""
        return self.others / PurePosixPath(name).with_suffix(self.suffix)

    def having(self, names: Sequence[str], split: str | None) -> Iterator[str]:
        """Those of the pictures that have their file."""
        if not isinstance(self.others, StorePath):
            yield from (name for name in names if self.other(name).is_file())
            return
        # Millions of questions for one file each would take hours.
        root = self.others / (split or "")
        walked = root.walk() if root.is_dir() else ()
        there = {folder / name for folder, _, found in walked for name in found}
        yield from (name for name in names if self.other(name) in there)

    def hold_a_pair(self) -> bool:
        """Whether one of the first pictures has its file, so that a layout can be recognised."""
        if not (self.images.is_dir() and self.others.is_dir()):
            return False
        seen = 0
        for path in self.images.rglob("*"):
            name = path.relative_to(self.images).as_posix()
            if pictures.other_ending(PurePosixPath(name)) is None:
                if self.other(name).is_file():
                    return True
                seen += 1
            if seen >= _LOOKED_AT:
                break
        return False


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The pictures that have a file of annotations, by name; the others are noted."""

    folders: Folders
    names: tuple[str, ...]
    findings: tuple[Finding, ...]

    def read(self, index: int, config: FilesConfig, noted: list[Finding]) -> pictures.Encoded:
        """The picture, upright."""
        path = self.folders.images / self.names[index]
        return pictures.read(path, "upright", config.sixteen_bit, noted)

    def other(self, index: int) -> Place:
        return self.folders.other(self.names[index])

    def digest(self) -> str:
        """Of a thousand files of annotations, spread evenly: "of 1000 0123456789ab"."""
        chosen = range(0, len(self.names), max(1, len(self.names) // SAMPLED))
        return digest([self.other(i) for i in chosen])


class Paired:
    """What sources of pairs share: each adds `read` and `digest`."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs

    @property
    def findings(self) -> Sequence[Finding]:
        return self._pairs.findings

    def __len__(self) -> int:
        return len(self._pairs.names)

    def name(self, index: int) -> str:
        return self._pairs.names[index]


def digest(paths: Sequence[Place]) -> str:
    """Of how many files, and of their content; a missing one counts as such."""
    found = hashlib.sha256()
    for path in paths:
        try:
            found.update(files.read(path, functools.partial(_digest, path), ""))
        except MissingError:  # its picture is left out, if it is met
            found.update(bytes(32))
    return f"of {len(paths)} {found.hexdigest()[:12]}"


def _digest(path: Place) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def find(folders: Folders, split: str | None, what: str) -> Pairs:
    """The pictures of a split, or of all, that have their file; DataError where none has.

    `what` is the file in a word: "map".
    """
    images, others = (f"{folder.name}/" for folder in (folders.images, folders.others))
    root = folders.images.parent
    listed = _listed(folders.images, split)
    with_file = set(folders.having(listed, split))
    names = tuple(name for name in listed if name in with_file)
    without = [name for name in listed if name not in with_file]
    if not names:
        raise DataError(
            f"{root} has no picture in {images} with a {what} in {others}: give each "
            f"{images}NAME.jpg its {others}NAME{folders.suffix}"
        )
    found: tuple[Finding, ...] = ()
    if without:
        more = f" (the first of {len(without)})" if len(without) > 1 else ""
        missing = folders.other(without[0]).name
        text = f"{images}{without[0]} has no {what} {missing} in {others}"
        found = (Finding("pictures_left_out", f"{text}{more}", len(without)),)
    return Pairs(folders, names, found)


def _listed(images: Place, split: str | None) -> Sequence[str]:
    """Names below `images`, of one folder there with a split."""
    if split is None:
        return pictures.list_pictures(images).names
    if not images.is_dir():
        raise MissingError(f"{images} is not a folder")
    if not is_below(split) or not (images / split).is_dir():
        there = sorted(x.name for x in images.iterdir() if x.is_dir())
        splits = f"its splits are {', '.join(there[:9])}" if there else "it has none"
        raise DataError(f"source.split is {split!r}, but {images} has no such folder: {splits}")
    split = split.rstrip("/")
    return [f"{split}/{name}" for name in pictures.list_pictures(images / split).names]


def require_size(name: str, what: str, found: Sequence[int], picture: pictures.Picture) -> None:
    """DataError unless annotations have the height and width of their picture."""
    wanted = (picture.height, picture.width)
    if tuple(found) != wanted:
        sizes = [" x ".join(map(str, each)) for each in (found, wanted)]
        raise DataError(f"{name}: its {what} is {sizes[0]}, but the picture is {sizes[1]}")
