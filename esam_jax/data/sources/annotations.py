"""Annotation files: JSON from outside, checked before it is used.

An object that cannot be used is left out and noted; its picture keeps the others.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from esam_jax.data.findings import Finding
from esam_jax.data.mask_sets import Outline, nothing_usable
from esam_jax.errors import DataError
from esam_jax.places import Place

MOST_CATEGORY = 2**31 - 1  # the largest id
_MAX_MASKS = 10_000  # of one picture


def field(entry: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """entry[key], checked to be of this kind; the error names `where` it was looked for."""
    if not isinstance(entry, Mapping) or key not in entry:
        raise DataError(f"{where} has no {key!r}")
    value = entry[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{where} has a {key!r} of type {type(value).__name__}")
    return value


def outlines(
    entries: Sequence[Any],
    name: str,
    crowds: Literal["leave_out", "use"],
    noted: list[Finding],
    categories: Mapping[int, str] | None = None,
) -> list[Outline]:
    """The objects of the picture `name`; what is left out of `entries` is `noted`.

    So is a category that is not in the list of `categories`, if there is one. DataError when there
    are too many, or some and none is usable.
    """
    if len(entries) > _MAX_MASKS:
        raise DataError(f"{name} has {len(entries)} masks, but at most {_MAX_MASKS} are read")
    found, unusable = [], []
    known: dict[Any, Any] = {}  # the segmentation of each id
    for number, entry in enumerate(entries):
        try:
            outline, crowd = _outline(entry, number, known)
        except DataError as error:
            unusable.append(f"{name}: {error}")
            continue
        if crowd:
            used = crowds == "use"
            words = "is used" if used else "is left out"
            kind = "crowds_used" if used else "crowds_left_out"
            noted.append(Finding(kind, f"{name}: {outline.label} is a crowd and {words}"))
        if crowds == "use" or not crowd:
            label = f"{name}: {outline.label}"
            category = category_of(entry, label, categories, noted)
            found.append(dataclasses.replace(outline, category=category))
    if unusable and not found:
        raise DataError(nothing_usable(name, unusable))
    noted += [Finding("objects_left_out", text) for text in unusable]
    return found


def category_of(
    entry: Mapping[str, Any], label: str, known: Mapping[int, str] | None, noted: list[Finding]
) -> int | None:
    """The category of an object; one that is not in the list `known` is `noted`."""
    value = entry.get("category_id")
    is_id = type(value) is int and 0 <= value <= MOST_CATEGORY
    if known is not None and value is not None and not (is_id and value in known):
        text = f"{label} has the category {str(value)[:40]!r}, which is not listed; it is used"
        noted.append(Finding("categories_unknown", text))
    return value if is_id else None


def listed_categories(
    content: Mapping[str, Any], json: Place, noted: list[Finding]
) -> dict[int, str] | None:
    """The name of each category by its id, as it is: there may be gaps; None without a list.

    An entry that is none, and an id with a second name, are left out and `noted`.
    """
    entries = content.get("categories")
    if entries is None:
        return None
    if not isinstance(entries, list):
        text = f"{json} has 'categories' of type {type(entries).__name__}, which are not read"
        noted.append(Finding("labels_left_out", text))
        return None
    found: dict[int, str] = {}
    for number, entry in enumerate(entries):
        where = f"{json}: category {number}"
        try:
            identity = field(entry, "id", int, where)
            if not 0 <= identity <= MOST_CATEGORY:
                raise DataError(f"{where} has the id {str(identity)[:40]}, which is none")
            name = str(entry.get("name", identity))
        except DataError as error:
            noted.append(Finding("labels_left_out", str(error)))
            continue
        if found.setdefault(identity, name) != name:
            text = f"{where} has the id {identity} of {found[identity]!r:.60}, which keeps it"
            noted.append(Finding("ids_repeated", text))
    return found


def is_crowd(entry: Any) -> bool:
    """Whether COCO's `iscrowd` is set; DataError for a value that says neither."""
    value = entry.get("iscrowd")
    if value in (None, 0, "0", ""):  # 0 is False and 0.0, too
        return False
    if value in (1, "1"):
        return True
    raise DataError(f"its 'iscrowd' is {str(value)[:30]!r}, but must be 0 or 1")


def declared_size(image: Any, found: Sequence[Outline]) -> tuple[int, int] | None:
    """(height, width) of the frame in which the objects were drawn, as the annotations state it.

    That of the picture's entry, else of the first run lengths; None where neither has one.
    """
    sizes: list[Any] = [x.segmentation.get("size") for x in found if _is_runs(x)]
    if isinstance(image, Mapping):
        sizes.insert(0, [image.get("height"), image.get("width")])
    height, width = next(filter(_is_size, sizes), (0, 0))
    return (int(height), int(width)) if height else None


def _is_runs(outline: Outline) -> bool:
    return isinstance(outline.segmentation, Mapping)


def _outline(entry: Any, number: int, known: dict[Any, Any]) -> tuple[Outline, bool]:
    """An object and whether it is a crowd; DataError, with its label, when it is unusable."""
    identity = entry.get("id") if isinstance(entry, Mapping) else None
    identity = identity if isinstance(identity, int | str) else None
    label = f"mask {number}" if identity is None else f"mask {number} (id {str(identity)[:40]})"
    segmentation = field(entry, "segmentation", (list, Mapping), label)
    first = segmentation if identity is None else known.setdefault(identity, segmentation)
    if first is not segmentation and first == segmentation:
        raise DataError(f"{label} repeats an earlier one of that id")
    try:
        return Outline(label, segmentation, identity, entry.get("bbox")), is_crowd(entry)
    except DataError as error:
        raise DataError(f"{label}: {error}") from error


def _is_size(size: Any) -> bool:
    return (
        isinstance(size, list)
        and len(size) == 2
        and all(type(x) is int or (type(x) is float and x.is_integer()) for x in size)
        and min(size) > 0
    )
