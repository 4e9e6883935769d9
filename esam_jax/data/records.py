"""What every source returns: a picture that is decoded on demand, and its annotations by kind."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from esam_jax.data.findings import Finding
from esam_jax.data.pictures import Picture
from esam_jax.errors import ConfigError
from esam_jax.words import counted


@dataclasses.dataclass(frozen=True)
class Record:
    """One picture; `name` is unique in its source and the same on every machine.

    Annotations by kind, as far as the source has them: "masks" is a `masks.MaskSet`. A new kind
    needs no change here: its source stores it and its view reads it. `findings` grows while the
    record is decoded and viewed.
    """

    name: str
    picture: Picture
    annotations: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    findings: list[Finding] = dataclasses.field(default_factory=list)

    def annotation(self, kind: str) -> Any:
        """The annotations of this kind; ConfigError when the source has none."""
        if kind not in self.annotations:
            raise ConfigError(
                f"{self.name} comes from a source without {kind}: choose one that has them"
            )
        return self.annotations[kind]


class OnDemand(Mapping[str, Any]):
    """Annotations that are made when they are first read, which raises what making them does."""

    def __init__(self, makers: Mapping[str, Callable[[], Any]]) -> None:
        self._makers, self._made = makers, {}

    def __getitem__(self, kind: str) -> Any:
        if kind not in self._made:
            self._made[kind] = self._makers[kind]()
        return self._made[kind]

    def __contains__(self, kind: object) -> bool:
        return kind in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


@runtime_checkable
class Source(Protocol):
    """Records by index; may be called from many threads.

    `read` raises DataError, MissingError or DiskError for one that cannot be used, and so does the
    picture of a record when it is decoded.
    """

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def read(self, index: int) -> Record: ...


@runtime_checkable
class AnnotatedSource(Source, Protocol):
    """A source whose annotations come from files."""

    @property
    def findings(self) -> Sequence[Finding]:
        """What is known before any record is read."""
        ...

    def digest(self) -> str:
        """A digest of the annotations, and in words of how many."""
        ...


@runtime_checkable
class ChecksummedSource(Source, Protocol):
    """A source whose files are known by their checksums."""

    def damage(self) -> Iterator[str]:
        """A sentence for each file that is not as it was written; reads all of them."""
        ...


@runtime_checkable
class PartlyAnnotatedSource(Source, Protocol):
    """A source of which only opening says which of the annotations of its config there are."""

    @property
    def lacks(self) -> Mapping[str, str]:
        """The kinds of annotations that its records do not have, with the reason and remedy."""
        ...


@runtime_checkable
class LabelledSource(Source, Protocol):
    """A source whose pictures may have a class: the annotation "label"."""

    @property
    def classes(self) -> Sequence[str]:
        """The names of all classes, in the order of their numbers, also of those without a picture.

        Empty where pictures have no class, or classes no names.
        """
        ...


@runtime_checkable
class SectionedSource(Source, Protocol):
    """A source of several data sets, one after the other."""

    @property
    def ends(self) -> Sequence[int]:
        """How many records there are up to the end of each."""
        ...


def classes(source: Source) -> tuple[str, ...]:
    """The names of the classes of a source in the order of their numbers; empty for none."""
    return tuple(source.classes) if isinstance(source, LabelledSource) else ()


SAMPLED = 1000  # records of a source that its summary reads, spread evenly


def sampled(source: Source) -> range:
    """The records by which a source is recognised."""
    return range(0, len(source), max(1, len(source) // SAMPLED))


def summary(source: Source) -> str:
    """How many records there are, a digest of the names of a thousand, and of the annotations."""
    names = "\n".join(source.name(i) for i in sampled(source))
    # A name may hold bytes that are not UTF-8.
    digest = hashlib.sha256(names.encode(errors="surrogatepass")).hexdigest()[:12]
    about = f", {source.digest()}" if isinstance(source, AnnotatedSource) else ""
    return f"{counted(len(source), 'record')}, names {digest}{about}"
