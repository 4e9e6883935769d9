"""What people must know about data that is used all the same: what was left out of it, or assumed.

A record collects its findings while it is read, decoded and viewed. `Findings` adds up those of
many records, each counted once however often its record is read.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from esam_jax.words import counted

Kind = Literal[
    "objects_left_out",  # not usable; the other objects of the picture are used
    "crowds_left_out",
    "crowds_used",
    "pictures_of_crowds_left_out",  # they have no other object
    "pictures_left_out",  # entries of an annotation file that are no picture, or have no object
    "members_left_out",  # of archives: links, names that lead out of a folder and the like
    "ambiguous_exif",  # both readings of an EXIF orientation fit the size in the annotations
    "names_corrected",  # files found under another spelling of their name
    "narrow_16_bit",  # 16-bit pictures of a few grey levels
    "ids_repeated",  # one id for several objects, which are all used; one file under several ids
    "categories_unknown",  # ids that no category of the file has: their objects are used
    "labels_left_out",  # annotations that are no objects, not usable
    "detections_left_out",  # entries of a results file that no mask can be made for
    "animations",  # of which the first frame is read
    "ids_not_found",  # lines of an id list that name no picture
]

BY_CHOICE: frozenset[Kind] = frozenset(
    ("crowds_left_out", "crowds_used", "pictures_of_crowds_left_out")
)
KINDS: tuple[Kind, ...] = get_args(Kind)

_ONE_AND_MANY: Mapping[Kind, tuple[str, str]] = {
    "objects_left_out": ("object left out", "objects left out"),
    "crowds_left_out": ("crowd left out", "crowds left out"),
    "crowds_used": ("crowd used", "crowds used"),
    "pictures_of_crowds_left_out": ("picture of crowds left out", "pictures of crowds left out"),
    "pictures_left_out": ("picture left out", "pictures left out"),
    "members_left_out": ("archive member left out", "archive members left out"),
    "ambiguous_exif": ("ambiguous EXIF orientation", "ambiguous EXIF orientations"),
    "names_corrected": ("name corrected", "names corrected"),
    "narrow_16_bit": ("narrow 16-bit picture", "narrow 16-bit pictures"),
    "ids_repeated": ("repeated id", "repeated ids"),
    "categories_unknown": ("unknown category", "unknown categories"),
    "labels_left_out": ("label left out", "labels left out"),
    "detections_left_out": ("detection left out", "detections left out"),
    "animations": ("animation", "animations"),
    "ids_not_found": ("listed id not found", "listed ids not found"),
}


# The choice that reads them in another way, as an option of a command, and what it does.
_CHOICES: Mapping[Kind, tuple[str, str]] = {
    "crowds_left_out": ("crowds use", "reads them"),
    "ambiguous_exif": ("ambiguous-exif", "decides"),
    "narrow_16_bit": ("sixteen-bit stretch", "spreads grey values"),
}


def in_words(kind: Kind, count: int) -> str:
    """How many there are of a kind."""
    return counted(count, *_ONE_AND_MANY[kind])


def choice(kind: Kind, options: str = "") -> str:
    """What reads them in another way, in brackets: " (--crowds use reads them)"; "" for nothing.

    `options` is what precedes the name of that option in a command: "data.source." in training.
    """
    if kind not in _CHOICES:
        return ""
    option, effect = _CHOICES[kind]
    return f" (--{options}{option} {effect})"


@dataclasses.dataclass(frozen=True, order=True)
class Finding:
    """`text` names the picture, the object if it is one, and the reason; equal texts count once.

    `count` is above 1 where one text stands for several, of which it names the first.
    """

    kind: Kind
    text: str
    count: int = 1


class Findings:
    """All findings so far, in the order in which they were first made."""

    def __init__(self, found: Iterable[Finding] = ()) -> None:
        self.all: list[Finding] = []
        self._known: set[Finding] = set()
        self._counts: Counter[Kind] = Counter()
        self._first: dict[Kind, str] = {}
        self.add(found)

    def add(self, found: Iterable[Finding]) -> None:
        for each in found:
            if each not in self._known:
                self._known.add(each)
                self.all.append(each)
                self._counts[each.kind] += each.count
                self._first.setdefault(each.kind, each.text)

    def counts(self) -> dict[Kind, int]:
        """By kind, without those that did not occur."""
        return dict(self._counts)

    def in_words(self, options: str = "") -> list[str]:
        """For each kind how many there are, the first of them, and its `choice`."""
        return [
            f"{in_words(kind, count)}, the first: {self._first[kind]}{choice(kind, options)}"
            for kind, count in self._counts.items()
        ]
