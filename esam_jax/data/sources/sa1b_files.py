"""Where the pictures and jsons of SA-1B's layout lie: in a folder, or in tar archives."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer, UInt64

from esam_jax import files
from esam_jax.data import decode, pictures, tar_files, tars
from esam_jax.data.findings import Finding
from esam_jax.data.tar_index import NO_NUMBER, ROW, Index
from esam_jax.errors import DataError
from esam_jax.places import Place, StorePath

_MAX_JSON_BYTES = 2**26  # genuine files stay below a megabyte
_JSON_FIELDS = (("json_block", "<u4"), ("json_size", "<u4"))
_PAIR = np.dtype([*ROW.descr, *_JSON_FIELDS])


@runtime_checkable  # for the shape checks in the tests
class Files(Protocol):
    """Pictures with their jsons, by index, in the order of their names."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def where(self, index: int) -> str:
        """The picture, for people: with the folder or archive that it lies in."""
        ...

    def picture(self, index: int) -> bytes:
        """A picture file, complete and not decoded; errors as of `decode.read_file`."""
        ...

    def json(self, index: int) -> bytes:
        """DataError for one that is too large, MissingError where there is none."""
        ...


def is_picture(name: str) -> bool:
    """Whether a picture's name is one of SA-1B's."""
    parts = PurePosixPath(name)
    return parts.name.startswith("sa_") and parts.suffix == ".jpg"


@dataclasses.dataclass(frozen=True)
class InFolder:
    """Every `sa_*.jpg` at any depth below `root`; its json lies beside it."""

    root: Place
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def where(self, index: int) -> str:
        return str(self.root / self.names[index])

    def picture(self, index: int) -> bytes:
        with decode.named(self.where(index)):
            return decode.read_file(self.root / self.names[index])

    def json(self, index: int) -> bytes:
        path = (self.root / self.names[index]).with_suffix(".json")

        def attempt() -> bytes:
            with path.open("rb") as file:
                if isinstance(path, StorePath):  # whose size would be another call
                    return _at_most(path, file.read(_MAX_JSON_BYTES + 1))
                return _limited(str(path), os.fstat(file.fileno()).st_size, file.read)

        return files.read(path, attempt, "check the path")


@dataclasses.dataclass(frozen=True)
class InTars:
    """Every `sa_*.jpg` of some archives with a json of its name in the same one."""

    files: tar_files.TarFiles

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files.name(index)

    def where(self, index: int) -> str:
        return self.files.where(index, self.name(index))

    def picture(self, index: int) -> bytes:
        with decode.named(self.where(index)):
            return decode.read_bytes(self.files.reader(index))

    def json(self, index: int) -> bytes:
        name = str(PurePosixPath(self.files.name(index)).with_suffix(".json"))
        where = self.files.where(index, name, "json_block")
        size = int(self.files.rows[index]["json_size"])
        with decode.named(where):
            return _limited("it", size, self.files.reader(index, "json_block", "json_size"))


def in_folder(root: Place) -> tuple[InFolder, int]:
    """The pictures of a folder, of which there may be none, and how many archives it holds."""
    listed = pictures.list_pictures(root)
    names = [name for name in listed.names if is_picture(name)]
    return InFolder(root, names), listed.left_out.get(tars.ENDING, 0)


def in_tars(path: Place, index: Place | None) -> tuple[InTars, list[Finding]]:
    """The pairs of the archive `path`, or of all below it, and what was left out of them.

    A name that occurs in several archives is read from the first.
    """
    pairs = _Pairs()
    opened = tar_files.open_all(path, index, pairs.of)
    return InTars(opened.files), [*pairs.findings(), *opened.findings()]


class _Pairs:
    """Selects the pictures of archives that have a json, and notes what has no partner."""

    def __init__(self) -> None:
        self._lone: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def of(self, tar: Place, index: Index) -> np.ndarray:
        endings, known = index.endings()
        places = dict(zip(known, range(len(known)), strict=True))
        jpg = np.flatnonzero(endings == places.get(".jpg", -1))
        json = np.flatnonzero(endings == places.get(".json", -1))
        jpg, json = (self._ours(index, rows) for rows in (jpg, json))
        keys = _stem_keys(index, index.rows[np.concatenate([jpg, json])])
        both = keys[: len(jpg)], keys[len(jpg) :]
        _, left, right = np.intersect1d(*both, assume_unique=True, return_indices=True)
        self._note(tar, index, np.delete(jpg, left), "json")
        self._note(tar, index, np.delete(json, right), "picture")
        pairs = np.empty(len(left), _PAIR)
        for field in ROW.names or ():
            pairs[field] = index.rows[field][jpg[left]]
        pairs["json_block"] = index.rows["block"][json[right]]
        pairs["json_size"] = index.rows["size"][json[right]]
        return pairs

    def findings(self) -> list[Finding]:
        return [
            Finding("pictures_left_out", f"{self._first[what]}{_more(count)}", count)
            for what, count in self._lone.items()
        ]

    @staticmethod
    def _ours(index: Index, rows: Integer[np.ndarray, " X"]) -> Integer[np.ndarray, " _"]:
        """Those of the rows whose file name begins with sa_."""
        heads, inverse = np.unique(index.rows["head"][rows], return_inverse=True)
        ours = [_is_ours(index.strings[head]) for head in heads.tolist()]
        sure = np.array(ours, bool)[inverse]
        tails, inverse = np.unique(index.rows["tail"][rows], return_inverse=True)
        sure &= np.array(["/" not in index.strings[tail] for tail in tails.tolist()], bool)[inverse]
        # The file name of the others may begin with their last number, or after it.
        rest = [i for i in np.flatnonzero(~sure).tolist() if _is_ours(index.name(int(rows[i])))]
        sure[rest] = True
        return rows[sure]

    def _note(self, tar: Place, index: Index, rows: Integer[np.ndarray, " X"], lacks: str) -> None:
        if len(rows):
            first = min(map(index.name, rows.tolist()))
            self._lone[lacks] += len(rows)
            self._first.setdefault(lacks, f"{tar}: {first} has no {lacks} of its name beside it")


def _is_ours(name: str) -> bool:
    return name.rsplit("/", 1)[-1].startswith("sa_")


def _stem_keys(index: Index, rows: np.ndarray) -> UInt64[np.ndarray, " X"]:
    """A number for each name without its ending, which a picture and its json share."""
    known: dict[str, int] = {}

    def places(column: np.ndarray, *, cut: bool = False) -> UInt64[np.ndarray, " X"]:
        used, inverse = np.unique(column, return_inverse=True)
        texts = [index.strings[i] for i in used.tolist()]
        texts = [each.rpartition(".")[0] if cut else each for each in texts]
        return np.array([known.setdefault(x, len(known)) for x in texts], np.uint64)[inverse]

    half = np.uint64(32)
    lacks = rows["number"] == NO_NUMBER  # then the ending is in the head
    heads = np.where(lacks, places(rows["head"], cut=True), places(rows["head"]))
    texts = heads << half | places(rows["tail"], cut=True)
    _, inverse = np.unique(texts, return_inverse=True)
    return inverse.astype(np.uint64) << half | rows["number"]


def _limited(what: str, size: int, read: Callable[[int], bytes]) -> bytes:
    if size > _MAX_JSON_BYTES:
        raise DataError(f"{what} has {size} bytes, but at most {_MAX_JSON_BYTES} are read")
    return read(size)


def _at_most(path: Place, content: bytes) -> bytes:
    if len(content) > _MAX_JSON_BYTES:
        raise DataError(f"{path} has more than the {_MAX_JSON_BYTES} bytes that are read")
    return content


def _more(count: int) -> str:
    return f" (the first of {count})" if count > 1 else ""
