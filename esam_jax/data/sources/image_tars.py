"""Pictures in tar archives, which are never unpacked: ImageNet's own, or any others.

`ILSVRC2012_img_train.tar` is an archive of one archive a class, `ILSVRC2012_img_val.tar` has all
pictures side by side. An inner archive counts as a folder of its name, and so does each archive of
a folder of several: "n01440764/n01440764_10026.JPEG".
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from esam_jax import places
from esam_jax.config import ImageTarsConfig
from esam_jax.data import class_names, decode, pictures, tar_files, tar_index, tars
from esam_jax.data.findings import Finding
from esam_jax.data.labels import Label
from esam_jax.data.records import Record
from esam_jax.data.sources import class_lists
from esam_jax.data.tar_index import Index
from esam_jax.errors import DataError
from esam_jax.places import Place

_ENDINGS = (tars.ENDING, ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def open(config: ImageTarsConfig, options: str = "") -> "ImageTars":
    """Every picture of the archives at the path; a UserWarning counts other files."""
    return ImageTars(config)


def detects(path: str) -> ImageTarsConfig | None:
    """A tar archive, or a folder with some and without unpacked pictures."""
    place = places.place(path)
    if place.is_file():
        return ImageTarsConfig(path=path) if _is_archive(place) else None
    listed = pictures.list_pictures(place) if place.is_dir() else pictures.Listed((), {})
    return (
        ImageTarsConfig(path=path) if tars.ENDING in listed.left_out and not listed.names else None
    )


def _is_archive(path: Place) -> bool:
    """Also one that cannot be read, if its name says so: opening it gives the reason."""
    return path.name.endswith(_ENDINGS) or bool(tar_index.first_names(path, 1))


class ImageTars:
    """Every picture of some archives, by its name; `label` is its class, where that is known.

    Classes are numbered in the order of their names. Of a folder of archives each has its number,
    with or without pictures; other classes without a picture have none.
    """

    def __init__(self, config: ImageTarsConfig) -> None:
        self._config, path = config, places.place(str(config.path))
        self._other: Counter[str] = Counter()
        self._deep: dict[bool, Place] = {}  # an archive with folders, and one without
        index = None if config.index is None else places.place(config.index)
        opened = tar_files.open_all(path, index, self._pictures, folders=path.is_dir())
        if path.is_dir() and len(self._deep) == 2:
            raise DataError(
                f"{self._deep[True]} holds folders, and {self._deep[False]} none: what is a class "
                "cannot be known, name one of them"
            )
        self._files = opened.files
        if not len(self._files):
            members = sum(map(Counter, opened.left_out.values()), self._other)
            raise DataError(pictures.none_of(path, members))
        pictures.warn_of(path, self._other)
        self.findings: Sequence[Finding] = opened.findings()
        self._labels: Mapping[str, str] | None = None
        if config.labels is not None:
            self._read_labels(places.place(config.labels))
        found = self._folders() if self._labels is None else set(self._labels.values())
        if self._labels is None and path.is_dir() and True not in self._deep:
            each = {tar.with_suffix("").name for tar in self._files.tars}
            class_names.warn_of_empty(path, each, found)
            found |= each
        self.classes: Sequence[str] = sorted(found)
        self._numbers = {name: number for number, name in enumerate(self.classes)}

    def _pictures(self, tar: Place, index: Index) -> np.ndarray:
        endings, known = index.endings()
        ours = np.array([each.lower() in decode.SUFFIXES for each in known], bool)
        for number, ending in enumerate(known):
            if not ours[number]:
                name = pictures.other_ending(PurePosixPath(f"x{ending}"))
                self._other[name or ending] += int((endings == number).sum())
        rows = index.rows[ours[endings]] if len(known) else index.rows
        if len(rows):
            used = {*np.unique(rows["head"]).tolist(), *np.unique(rows["tail"]).tolist()}
            self._deep.setdefault(any("/" in index.strings[each] for each in used), tar)
        return rows

    def _folders(self) -> set[str]:
        """The folders of all pictures, by the strings that their names share where they do."""
        rows, strings = self._files.rows, self._files.strings
        below = np.array(["/" in text for text in strings], bool)[rows["tail"]]
        shared = [strings[head] for head in np.unique(rows["head"][~below]).tolist()]
        own = [self.name(place) for place in np.flatnonzero(below).tolist()]
        found = {_folder(f"{name}1" if name.endswith("/") else name) for name in (*shared, *own)}
        return found - {""}

    def _read_labels(self, file: Place) -> None:
        names = [self.name(i) for i in range(len(self))]
        labels = class_lists.read(file, names)
        without = [i for i, name in enumerate(names) if name not in labels]
        if without:
            more = f" (the first of {len(without)})" if len(without) > 1 else ""
            text = f"{names[without[0]]} has no class in {file}{more}"
            lacking = Finding("pictures_left_out", text, len(without))
            self.findings = [*self.findings, lacking]
            there = np.setdiff1d(np.arange(len(names)), without)
            self._files = self._files.take(there)
        self._labels = labels

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        return self._files.name(index)

    def read(self, index: int) -> Record:
        name, noted = self.name(index), []
        where = self._files.where(index, name)
        with decode.named(where):
            data = decode.read_bytes(self._files.reader(index))
        picture = pictures.encoded(where, data, "upright", self._config.sixteen_bit, noted)
        known = _folder(name) if self._labels is None else self._labels[name]
        label = {"label": Label(self._numbers[known], known)} if known else {}
        return Record(name, picture, label, noted)

    def digest(self) -> str:
        """Of the classes, and of the file that says which pictures are of them."""
        found = hashlib.sha256("\n".join(self.classes).encode())
        for name, label in sorted((self._labels or {}).items()):
            found.update(f"\n{name} {label}".encode())
        return f"{len(self.classes)} classes {found.hexdigest()[:12]}"


def _folder(name: str) -> str:
    """The folder that a picture lies in, without those above; "" for none."""
    return PurePosixPath(name).parent.name
