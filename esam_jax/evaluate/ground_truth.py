"""The objects of a COCO or LVIS json as their scorers need them: checked, renumbered, all masks.

Every listed picture counts, those without an object too, and crowds are regions to be ignored.
What cannot be used is left out and noted by its id. Ids are renumbered from 1: pycocotools takes
one that occurs twice for one object, and an object of the id 0 for none.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from esam_jax import files
from esam_jax.data.findings import Finding
from esam_jax.data.mask_sets import is_number
from esam_jax.data.sources import coco_files
from esam_jax.data.sources.annotations import field, is_crowd
from esam_jax.errors import DataError
from esam_jax.ops import regions
from esam_jax.places import Place

_MAX_JSON_BYTES = 2**31
_LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
_FREQUENCIES = ("r", "c", "f")
_SAME = ("image_id", "category_id", "segmentation")  # of two entries of one object

Id = int | str


@dataclasses.dataclass(frozen=True)
class Listed:
    """A picture of a json: its number for the scorers, its file, its size."""

    number: int
    name: str
    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class Truth:
    """The pictures of a json by their ids, and its objects in COCO's form."""

    file: Place
    root: Place
    pictures: Mapping[Id, Listed]
    dataset: Mapping[str, list[dict[str, Any]]]
    findings: list[Finding]
    digest: str

    @property
    def is_lvis(self) -> bool:
        """Whether every picture has the lists of LVIS, and every category its frequency."""
        lists = all(_LVIS_LISTS[0] in each for each in self.dataset["images"])
        return lists and all("frequency" in each for each in self.dataset["categories"])

    def of_pictures(self, ids: set[Id]) -> dict[str, list[dict[str, Any]]]:
        """The data set of these pictures alone, under their numbers."""
        numbers = {self.pictures[each].number for each in ids}
        images = [each for each in self.dataset["images"] if each["id"] in numbers]
        objects = [each for each in self.dataset["annotations"] if each["image_id"] in numbers]
        return {**self.dataset, "images": images, "annotations": objects}


def read(path: Place, *, lvis: bool | None = False, files_of_pictures: bool = True) -> Truth:
    """The json at a path, or the one beside or in a folder; DataError for what is none.

    With `lvis`, pictures need the lists of LVIS and categories their frequency; with None they may
    have them. Where results are scored no picture is read, and `files_of_pictures` is false: none
    need be there.
    """
    file = coco_files.find_json(path.expanduser())
    content = files.read_json(file, max_bytes=_MAX_JSON_BYTES, error=DataError, finite=False)
    findings: list[Finding] = []
    categories = list(_categories(content, file, bool(lvis), findings))
    images, pictures = _images(content, file, lvis, findings)
    if not pictures or not categories:
        raise DataError(f"{file} has no picture, or no category, that can be used: see COCO's form")
    known = {each["id"] for each in categories}
    objects: list[dict[str, Any]] = []
    first: dict[Id, Any] = {}  # the entry of each id
    twice: dict[Id, None] = {}
    for number, entry in enumerate(field(content, "annotations", list, str(file))):
        identity = _identity(entry)
        label = f"annotation {number}" + ("" if identity is None else f" (id {identity!s:.40})")
        before = entry if identity is None else first.setdefault(identity, entry)
        try:
            if before is not entry and all(before.get(x) == entry.get(x) for x in _SAME):
                raise DataError("it repeats an earlier one of that id")
            objects.append(_object(entry, pictures, known, len(objects) + 1))
        except DataError as error:
            findings.append(Finding("objects_left_out", f"{file.name}: {label}: {error}"))
            continue
        if before is not entry and identity is not None:
            twice[identity] = None
    if twice:
        text = f"the id {next(iter(twice))} stands for several objects, which are all used"
        findings.append(Finding("ids_repeated", f"{file.name}: {text}", len(twice)))

    def digest() -> str:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()[:12]

    names = [each.name for each in pictures.values()]
    return Truth(
        file,
        coco_files.picture_folder(file, names) if files_of_pictures else file.parent,
        pictures,
        {"images": images, "annotations": objects, "categories": categories},
        findings,
        f"{len(images)} pictures, {len(objects)} objects, annotations "
        f"{files.read(file, digest, 'check the path')}",
    )


def _categories(
    content: Mapping[str, Any], file: Place, lvis: bool, findings: list[Finding]
) -> Iterator[dict[str, Any]]:
    seen = set()
    for number, entry in enumerate(field(content, "categories", list, str(file))):
        where = f"{file}: category {number}"
        identity = field(entry, "id", int, where)
        if identity in seen:
            raise DataError(f"{where} has the id {identity} of another one: correct it")
        seen.add(identity)
        found = {"id": identity, "name": str(entry.get("name", identity))}
        if entry.get("frequency") in _FREQUENCIES:
            found["frequency"] = entry["frequency"]
        elif lvis:
            raise DataError(
                f"{where} (id {identity}) has no frequency of r, c or f, as LVIS has it: name "
                "a json of LVIS, or leave --annotations lvis out"
            )
        yield found


def _images(
    content: Mapping[str, Any], file: Place, lvis: bool | None, findings: list[Finding]
) -> tuple[list[dict[str, Any]], dict[Id, Listed]]:
    listed: dict[Id, Listed] = {}
    images: list[dict[str, Any]] = []
    for number, entry in enumerate(field(content, "images", list, str(file))):
        where = f"image {number}"
        try:
            identity = field(entry, "id", (int, str), where)
            where = f"image {number} (id {str(identity)[:40]})"
            if identity in listed:
                raise DataError(f"{where} has the id of another picture")
            height, width = (field(entry, side, int, where) for side in ("height", "width"))
            if not (0 < height <= regions.MAX_SIDE and 0 < width <= regions.MAX_SIDE):
                raise DataError(f"{where} is {width} x {height}")
            name = coco_files.name_of(entry, where)
        except DataError as error:
            findings.append(Finding("pictures_left_out", f"{file.name}: {error}"))
            continue
        listed[identity] = Listed(len(listed) + 1, name, height, width)
        image = {"id": len(listed), "file_name": name, "height": height, "width": width}
        if lvis or (lvis is None and all(key in entry for key in _LVIS_LISTS)):
            image |= {key: _numbers(entry, key, f"{file}: {where}") for key in _LVIS_LISTS}
        images.append(image)
    return images, listed


def _numbers(entry: Mapping[str, Any], key: str, where: str) -> list[int]:
    values = field(entry, key, list, where)
    if not all(type(x) is int for x in values):
        raise DataError(f"{where}: {key} must be a list of numbers of categories")
    return values


def _identity(entry: Any) -> Id | None:
    identity = entry.get("id") if isinstance(entry, Mapping) else None
    return identity if isinstance(identity, int | str) else None


def _object(
    entry: Any, pictures: Mapping[Id, Listed], categories: set[int], number: int
) -> dict[str, Any]:
    """The object with its mask as run lengths; DataError when it cannot be used."""
    owner = field(entry, "image_id", (int, str), "it")
    if owner not in pictures:
        raise DataError(f"it belongs to image {owner!r}, which is not listed")
    category = field(entry, "category_id", int, "it")
    if category not in categories:
        raise DataError(f"its category is {category}, which is not listed")
    picture, segmentation = pictures[owner], field(entry, "segmentation", (list, Mapping), "it")
    height, width = picture.height, picture.width
    if isinstance(segmentation, Mapping):
        if segmentation.get("size") != [height, width]:
            raise DataError(
                f"its size is {str(segmentation.get('size'))[:60]}, but the picture is "
                f"{[height, width]}"
            )
        runs = regions.rle_runs(segmentation)
    else:
        runs = regions.polygon_runs(segmentation, height, width)
    pixels = int(runs[1::2].sum())
    if not pixels:
        raise DataError("it covers no pixel")
    mask = regions.compress({"size": [height, width], "counts": runs.tolist()})
    return {
        "id": number,
        "source_id": entry.get("id"),
        "image_id": picture.number,
        "category_id": category,
        "segmentation": mask,
        # The area decides which objects are small; that of polygons is stated, and not counted.
        "area": _finite(entry.get("area"), pixels),
        "bbox": _box(entry.get("bbox"), mask),
        "iscrowd": int(is_crowd(entry)),
    }


def _finite(value: Any, otherwise: int) -> float | int:
    return value if is_number(value) and value > 0 else otherwise


def _box(value: Any, mask: Mapping[str, Any]) -> list[float]:
    """The stated one where it is a box, else that of the mask."""
    numbers = value if isinstance(value, list) and len(value) == 4 else []
    is_box = bool(numbers) and all(map(is_number, numbers))
    return list(map(float, numbers if is_box and min(numbers[2:]) > 0 else regions.rle_box(mask)))
