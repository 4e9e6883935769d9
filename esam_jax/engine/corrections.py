"""What a person returns, compared with what they were given, as data that can be trained on.

Nothing that came back is ever lost: it is kept byte for byte before anything follows from it, and
`instances.json` is a function of the proposals and of all that is kept, so it can be made again.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from esam_jax import files
from esam_jax.data.mask_sets import CocoMasks, Outline
from esam_jax.data.sources import coco_files
from esam_jax.data.sources.annotations import field, is_crowd
from esam_jax.engine import exchange, overlap
from esam_jax.errors import DataError
from esam_jax.ops import regions
from esam_jax.words import counted

SAME_OBJECT = 0.5  # IoU from which a mask that came back is a proposal, changed
COUNTS = ("accepted", "changed", "added", "removed", "unanswered")
_REVIEWED = "reviewed"


@dataclasses.dataclass
class Given:
    """What one json says of the pictures of a folder.

    `objects` by the key of their picture, of every picture that was reviewed; `counts` compares
    them with the proposals; `broken` names what cannot be used, `unknown` pictures of other sets.
    """

    objects: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    broken: list[str] = dataclasses.field(default_factory=list)
    unknown: list[str] = dataclasses.field(default_factory=list)
    not_reviewed: int = 0


def merge(folder: Path, corrected: Path) -> dict[str, Any]:
    """Keeps what came back and writes instances.json; the report.

    Keys: `pictures` that were reviewed in it, the COUNTS of their objects, `broken` and `unknown`
    with a sentence for each, `kept` (the file), `again` (whether it was merged before), and of all
    so far `data`, `data_pictures`, `data_masks` and `waiting` pictures. DataError where it is no
    COCO json, or has no picture of this folder; ExistsError where instances.json was edited since.
    """
    proposals = exchange.proposed(folder)
    content = files.read(str(corrected), corrected.read_bytes, "name the json that came back")
    found = compare(proposals, _parsed(content, corrected), str(corrected))
    with files.locked(folder):  # else one of two merges at once would replace what the other kept
        exchange.require_own(folder)
        kept, new = exchange.keep(folder, content)
        data = write(folder, proposals)
    return {
        "pictures": len(found.objects),
        **{name: found.counts[name] for name in COUNTS},
        "broken": found.broken,
        "unknown": found.unknown,
        "not_reviewed": found.not_reviewed,
        "kept": str(kept),
        "again": not new,
        "data": str(folder / exchange.INSTANCES_FILE),
        "data_pictures": len(data["images"]),
        "data_masks": len(data["annotations"]),
        "waiting": len(proposals["images"]) - len(data["images"]),
    }


def write(folder: Path, proposals: Mapping[str, Any]) -> dict[str, Any]:
    """Writes instances.json of the proposals and all that came back, and returns its content."""
    exchange.require_own(folder)
    given = [_parsed(file.read_bytes(), file) for file in exchange.corrections(folder)]
    data = instances(proposals, given)
    exchange.write_instances(folder, data)
    return data


def instances(proposals: Mapping[str, Any], given: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """COCO json of the pictures that are done: reviewed, or without anything open to begin with.

    Of a picture that came back several times the last one counts.
    """
    before = exchange.by_picture(proposals)
    objects = {key: own for key, own in before.items() if exchange.is_done(own)}
    categories = _Categories(proposals["categories"])
    for each in given:
        found = compare(proposals, each, "")
        names = _names(each)
        for key, own in found.objects.items():
            objects[key] = [{**x, "category_id": categories.of(x, names)} for x in own]
    images = [
        {**image, _REVIEWED: True}
        for image in proposals["images"]
        if exchange.file_key(image["file_name"]) in objects
    ]
    annotations = [
        {**each, "image_id": image["id"]}
        for image in images
        for each in objects[exchange.file_key(image["file_name"])]
    ]
    return exchange.data_set(images, annotations, categories.listed())


def compare(proposals: Mapping[str, Any], content: Mapping[str, Any], where: str) -> Given:
    """What came back, object by object; DataError where it has no picture of the proposals."""
    known = {exchange.file_key(image["file_name"]): image for image in proposals["images"]}
    before = exchange.by_picture(proposals)
    found = Given()
    owners = _owners(content, where, known, found)
    entries: dict[str, list[tuple[str, Any]]] = {key: [] for key in owners.values()}
    listed = field(content, "annotations", list, where)
    for number, entry in enumerate(listed):
        label = f"annotation {number}"
        if isinstance(entry, Mapping) and isinstance(entry.get("id"), int | str):
            label += f" (id {str(entry['id'])[:40]})"
        owner = entry.get("image_id") if isinstance(entry, Mapping) else None
        if isinstance(owner, int | str) and owner in owners:
            entries[owners[owner]].append((label, entry))
        elif not (isinstance(owner, int | str) and owner in _ids(content)):
            found.broken.append(
                f"{label} belongs to image {str(owner)[:40]!r}, which is not listed"
            )
    names = _names(content)
    for key, own in entries.items():
        found.objects[key] = _of_picture(known[key], own, before.get(key, []), names, found)
    return found


def _owners(
    content: Mapping[str, Any], where: str, known: Mapping[str, Any], found: Given
) -> dict[int | str, str]:
    """The key of each picture that was reviewed, by the id that the json gives it."""
    owners: dict[int | str, str] = {}
    waiting, twice = 0, set()
    for number, image in enumerate(field(content, "images", list, where)):
        label = f"image {number}"
        try:
            identity = field(image, "id", (int, str), label)
            name = coco_files.name_of(image, label)
        except DataError as error:
            found.broken.append(str(error))
            continue
        key = exchange.file_key(name)
        if key not in known:
            found.unknown.append(name)
        elif owners.get(identity, key) != key:
            twice.add(identity)
            found.broken.append(f"{label} ({name}) has the id {identity!r} of another picture")
        elif not _same_size(image, known[key]):
            size = " x ".join(f"{image.get(side)!r:.20}" for side in ("height", "width"))
            ours = f"{known[key]['height']} x {known[key]['width']}"
            found.broken.append(f"{label} ({name}) is {size} there, but {ours}: it was resized")
        elif image.get(_REVIEWED) is False:
            waiting += 1
        else:
            owners[identity] = key
    found.not_reviewed = waiting
    if not owners and not waiting:
        reason = f"; {found.broken[0]}" if found.broken else ""
        first = f", the first {found.unknown[0]!r}" if found.unknown else ""
        raise DataError(
            f"{where} has no picture of this folder ({counted(len(found.unknown), 'other')}{first}"
            f"{reason}): give what was made of its {exchange.PROPOSED_FILE}"
        )
    return {identity: key for identity, key in owners.items() if identity not in twice}


def _of_picture(
    image: Mapping[str, Any],
    entries: Sequence[tuple[str, Any]],
    proposals: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
    found: Given,
) -> list[dict[str, Any]]:
    """The objects of one picture with their states; what they were before is counted."""
    sound: list[dict[str, Any]] = []
    masks: list[dict[str, Any]] = []
    lost: set[Any] = set()  # ids of what is broken, which nobody removed
    for label, entry in entries:
        try:
            mask = mask_of(entry, label, image)
            if mask in masks:
                raise DataError(f"{label} repeats an earlier one of {image['file_name']}")
        except DataError as error:
            found.broken.append(str(error))
            if isinstance(entry.get("id"), int | str):
                lost.add(entry["id"])
            continue
        sound.append({**entry})
        masks.append(mask)
    # What was given to begin with may be polygons.
    iou = overlap.ious(masks, [mask_of(each, "a proposal", image) for each in proposals])
    belongs = dict(overlap.pairs(iou, SAME_OBJECT))
    objects = []
    for row, (entry, mask) in enumerate(zip(sound, masks, strict=True)):
        before = proposals[belongs[row]] if row in belongs else None
        same = before is not None and bool(iou[row, belongs[row]] == 1)
        state = _state(entry, before, same, names)
        found.counts["accepted" if state == "given" else state] += 1
        if state != "unanswered":
            box, area = regions.rle_box(mask), regions.rle_area(mask)
            score = None if before is None else before.get("score")
            objects.append({**entry, "bbox": box, "area": area, "score": score, "state": state})
    left = [each for i, each in enumerate(proposals) if i not in belongs.values()]
    found.counts["removed"] += sum(each["id"] not in lost for each in left)
    return objects


def _state(
    entry: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    same: bool,
    names: Mapping[int, str],
) -> str:
    """What was done with an object; a question that came back as it was is no answer."""
    if before is None:
        return "added"
    if not same:
        return "changed"
    if before["state"] == "asked":
        category = _category(entry, names) or exchange.QUESTION
        answered = entry.get("state") == "accepted" or category != exchange.QUESTION
        return "accepted" if answered else "unanswered"
    return "given" if before["state"] == "given" else "accepted"


def mask_of(entry: Any, label: str, image: Mapping[str, Any]) -> dict[str, Any]:
    """The mask of an object in compressed run lengths; DataError names what is wrong with it."""
    segmentation = field(entry, "segmentation", (list, Mapping), label)
    try:
        is_crowd(entry)
    except DataError as error:
        raise DataError(f"{label}: {error}") from error
    name, height, width = image["file_name"], image["height"], image["width"]
    masks = CocoMasks(name, [Outline(label, segmentation)], height, width)
    return overlap.packed(masks.runs(0), height, width)


class _Categories:
    """Categories of several jsons as one list: those of one name are one."""

    def __init__(self, first: Sequence[Mapping[str, Any]]) -> None:
        named = {each["name"]: each["id"] for each in first}
        self._ids = {name: key for name, key in named.items() if name != exchange.QUESTION}

    def of(self, entry: Mapping[str, Any], names: Mapping[int, str]) -> int:
        """The id of an object's category; what has none, or was a question, is an object."""
        name = _category(entry, names) or "object"
        name = "object" if name == exchange.QUESTION else name
        if name not in self._ids:
            wanted, taken = entry["category_id"], set(self._ids.values())
            self._ids[name] = max(taken) + 1 if wanted in taken else wanted
        return self._ids[name]

    def listed(self) -> list[dict[str, Any]]:
        return [{"id": identity, "name": name} for name, identity in self._ids.items()]


def categories_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The categories of a json, as far as they are any, with that of objects."""
    names = _names(content)
    listed = [{"id": identity, "name": name} for identity, name in names.items()]
    if "object" in names.values():
        return listed
    return [*listed, {"id": 1 if 1 not in names else max(names) + 1, "name": "object"}]


def _names(content: Mapping[str, Any]) -> dict[int, str]:
    """The categories of a json by their ids, as far as they are any."""
    entries = content.get("categories")
    return {
        each["id"]: str(each.get("name", each["id"]))
        for each in (entries if isinstance(entries, list) else [])
        if isinstance(each, Mapping) and type(each.get("id")) is int
    }


def _category(entry: Mapping[str, Any], names: Mapping[int, str]) -> str | None:
    """The name of an object's category; None of one that is not listed, or is no number."""
    identity = entry.get("category_id")
    return names.get(identity) if type(identity) is int else None


def _ids(content: Mapping[str, Any]) -> set[Any]:
    images = (each for each in content["images"] if isinstance(each, Mapping))
    return {x["id"] for x in images if isinstance(x.get("id"), int | str)}


def _same_size(image: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    return all(image.get(side) in (None, ours[side]) for side in ("height", "width"))


def _parsed(content: bytes, file: Path) -> dict[str, Any]:
    return files.json_object(content, str(file), error=DataError, finite=False)
