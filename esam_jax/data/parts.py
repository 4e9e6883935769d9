"""One set of pictures in two parts: what is trained on, and what is held out.

A picture is held out by its name alone, so that every machine and every run agree, and that those
who add pictures move few from one part to the other.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Integer

from esam_jax.data import records
from esam_jax.data.findings import Finding
from esam_jax.data.records import AnnotatedSource, ChecksummedSource, Record, Source
from esam_jax.errors import DataError

_BITS = 64  # of the hash that chooses a share


@dataclasses.dataclass(frozen=True)
class Part:
    """Some records of a source, in its order; what is known of all of them is known of it.

    `noted` is what is known of the choice itself.
    """

    source: Source
    indices: Sequence[int] | Integer[np.ndarray, " X"]
    words: str  # which part, for the digest
    noted: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))

    def read(self, index: int) -> Record:
        return self.source.read(int(self.indices[index]))

    @property
    def findings(self) -> Sequence[Finding]:
        known = self.source.findings if isinstance(self.source, AnnotatedSource) else ()
        return (*self.noted, *known)

    @property
    def classes(self) -> Sequence[str]:
        """Of the source: those without a picture in the part keep their numbers."""
        return records.classes(self.source)

    def damage(self) -> Iterator[str]:
        """Of the source, where it has checksums."""
        if isinstance(self.source, ChecksummedSource):
            yield from self.source.damage()

    def digest(self) -> str:
        of_all = self.source.digest() if isinstance(self.source, AnnotatedSource) else ""
        return f"{self.words} of {of_all}" if of_all else self.words


def of(source: Source, part: Literal["train", "heldout"], heldout: int) -> Part:
    """That part of a source of which `heldout` pictures are held out; DataError where that is all.

    Held out are the names with the least hashes.
    """
    if heldout >= len(source):
        raise DataError(
            f"source.heldout is {heldout}, but there are {len(source)} pictures: hold out fewer"
        )
    ranked = sorted(range(len(source)), key=lambda i: _rank(source.name(i)))
    chosen = ranked[:heldout] if part == "heldout" else ranked[heldout:]
    indices = np.sort(np.array(chosen, np.int64))
    return Part(source, indices, f"{part} part, {heldout} held out,")


def _rank(name: str) -> bytes:
    # A file's name may hold bytes that are not UTF-8.
    return hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=16).digest()


def in_share(name: str, share: float, purpose: bytes, seed: int = 0) -> bool:
    """Whether a record is in a share, by a hash of its name, the seed and what the share is for.

    A smaller share lies in a larger one; those of another purpose or seed are independent.
    """
    salt = seed.to_bytes(8, "little")
    data = name.encode(errors="surrogatepass")
    found = hashlib.blake2b(data, digest_size=_BITS // 8, salt=salt, person=purpose).digest()
    return int.from_bytes(found, "big") < share * 2**_BITS
