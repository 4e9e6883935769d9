"""Names of millions of records in little memory, and where a name stands among them."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from jaxtyping import Int64, UInt64


class Names(Sequence[str]):
    """Texts one after another in one array: a tuple of them takes three times the memory, and a
    copy for a process a second for each million.

    They may hold bytes that are not UTF-8, as names of files do.
    """

    def __init__(self, names: Iterable[str]) -> None:
        parts = [_bytes(name) for name in names]
        self._ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        self._bytes = b"".join(parts)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Names": ...
    def __getitem__(self, index: int | slice) -> "str | Names":
        if isinstance(index, slice):
            return Names(self[i] for i in range(len(self))[index])
        place = range(len(self))[index]
        begin, end = self._ends[place : place + 2].tolist()
        return self._bytes[begin:end].decode(errors="surrogateescape")


class Places:
    """name -> the last place at which it was listed, in sixteen bytes for each, without the names.

    A name is known by 64 bits of its hash: that one of a billion, which is not listed, is taken for
    one of eleven million that are has a chance of one in two thousand.
    """

    def __init__(self, names: Iterable[str]) -> None:
        keys = np.fromiter(map(_key, names), np.uint64)
        self._order: Int64[np.ndarray, " X"] = np.argsort(keys, kind="stable")
        self._keys: UInt64[np.ndarray, " X"] = keys[self._order]

    def __len__(self) -> int:
        """How many different names there are."""
        return int((self._keys[1:] != self._keys[:-1]).sum()) + bool(len(self._keys))

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def find(self, name: str) -> int | None:
        """The place of a name; None for one that is not listed."""
        key = np.uint64(_key(name))
        after = int(np.searchsorted(self._keys, key, side="right"))
        found = after and self._keys[after - 1] == key
        return int(self._order[after - 1]) if found else None


def _key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(_bytes(name), digest_size=8).digest(), "big")


def _bytes(name: str) -> bytes:
    return name.encode(errors="surrogateescape")
