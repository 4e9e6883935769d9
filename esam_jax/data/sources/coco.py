"""COCO instance annotations: one json for all pictures, polygons or run lengths for each object.

LVIS has the same form, and says of each picture of which categories it knows more: those are its
"federated" annotations.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from esam_jax import files, places
from esam_jax.config import CocoConfig
from esam_jax.data import pictures
from esam_jax.data.findings import Finding, Findings
from esam_jax.data.labels import Federated
from esam_jax.data.mask_sets import CocoMasks
from esam_jax.data.records import Record
from esam_jax.data.sources import coco_files
from esam_jax.data.sources.annotations import (
    declared_size,
    field,
    is_crowd,
    listed_categories,
    outlines,
)
from esam_jax.errors import DataError, MissingError
from esam_jax.places import Place

_MAX_JSON_BYTES = 2**31

_SAME = ("image_id", "category_id", "segmentation")  # of two entries of one object

_Id = int | str


def open(config: CocoConfig, options: str = "") -> "CocoInstances":
    """The pictures of the json that the path of the config is, or lies beside."""
    return CocoInstances(config, options)


def detects(path: str) -> CocoConfig | None:
    """A json, or a folder of pictures with an instance json beside or in it."""
    place = places.place(path)
    if place.is_file() and place.suffix == ".json":
        return CocoConfig(path=path)
    if not place.is_dir():
        return None
    try:
        coco_files.find_json(place)
    except MissingError:
        return None
    return CocoConfig(path=path)


class CocoInstances:
    """The pictures of a COCO json that have an object; one of crowds alone, if they are used.

    The error where there is none names the choices under these `options`.
    """

    def __init__(self, config: CocoConfig, options: str = "") -> None:
        self._config = config
        self._json = coco_files.find_json(places.place(str(config.path)))
        content = files.read_json(
            self._json, max_bytes=_MAX_JSON_BYTES, error=DataError, finite=False
        )
        self.findings: list[Finding] = []
        self.categories = listed_categories(content, self._json, self.findings)
        self._same: dict[_Id, _Id] = {}  # of a second id of a picture the first one
        listed = self._listed(field(content, "images", list, str(self._json)))
        self.listed = len(listed)  # pictures, those without an object too
        annotations = field(content, "annotations", list, str(self._json))
        self._note_repeated(annotations)
        self._objects = self._by_picture(annotations, listed)
        self._images = [(name, listed[key]) for key, name in self._shown(listed)]
        if not self._images:
            raise DataError(self._nothing(options))
        self._root = coco_files.picture_folder(self._json, [name for name, _ in self._images])

    @property
    def file(self) -> Place:
        """The json."""
        return self._json

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        return self._images[index][0]

    def digest(self) -> str:
        """Of the complete json."""

        def attempt() -> str:
            with self._json.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()[:12]

        return f"annotations {files.read(self._json, attempt, 'check the path')}"

    def read(self, index: int) -> Record:
        name, entry = self._images[index]
        noted: list[Finding] = []
        objects = self._objects[entry["id"]]
        found = outlines(objects, name, self._config.crowds, noted, self.categories)
        frame = (name, declared_size(entry, found), self._config, noted)
        try:
            picture = pictures.read_as_annotated(self._root / name, *frame)
        except MissingError as error:
            spelled = coco_files.locate(self._root, name)
            if spelled in (None, self._root / name):
                raise MissingError(f"{error}{coco_files.hint(self._root, name)}") from error
            cause = coco_files.how_spelled(name, spelled)
            noted.append(Finding("names_corrected", f"{name}: {cause}; read as {spelled}"))
            picture = pictures.read_as_annotated(spelled, *frame)
        kinds: dict[str, Any] = {"masks": CocoMasks(name, found, picture.height, picture.width)}
        federated = _federated(entry, name, noted)
        return Record(name, picture, kinds | federated, noted)

    def _listed(self, images: list[Any]) -> dict[_Id, Any]:
        """The entry of each picture by its id; what is none is left out and noted."""
        listed: dict[_Id, Any] = {}
        bad: list[str] = []
        twice: set[_Id] = set()
        first: dict[str, _Id] = {}  # the id of each file
        again: list[str] = []
        for number, image in enumerate(images):
            where = f"{self._json}: image {number}"
            try:
                identity = field(image, "id", (int, str), where)
                name = coco_files.name_of(image, where)
            except DataError as error:
                bad.append(str(error))
                continue
            named = image if "file_name" in image else {**image, "file_name": name}
            if identity not in listed and first.setdefault(name, identity) != identity:
                self._same[identity] = first[name]
                again.append(f"{where} is {name} again: it has the ids {first[name]}, {identity}")
                continue
            if listed.setdefault(identity, named)["file_name"] != name:
                twice.add(identity)  # whose objects are those of this id?
                bad.append(f"{where} has the id {identity!r} of another picture, which is left out")
        self._note("pictures_left_out", bad)
        self._note("ids_repeated", again)
        return {key: image for key, image in listed.items() if key not in twice}

    def _by_picture(self, annotations: list[Any], listed: dict[_Id, Any]) -> dict[_Id, list[Any]]:
        """The annotations of each picture by its id; those of no picture are left out and noted."""
        objects: dict[_Id, list[Any]] = {}
        bad: list[str] = []
        for number, annotation in enumerate(annotations):
            where = f"{self._json}: annotation {number}"
            try:
                owner = field(annotation, "image_id", (int, str), where)
            except DataError as error:
                bad.append(str(error))
                continue
            owner = self._same.get(owner, owner)
            if owner in listed:
                objects.setdefault(owner, []).append(annotation)
            else:
                bad.append(f"{where} belongs to image {owner!r}, which is not listed")
        self._note("objects_left_out", bad)
        return objects

    def _note_repeated(self, annotations: list[Any]) -> None:
        """Notes the ids that stand for several objects, which are all used.

        Of equal ones in one picture, the later are left out when it is read.
        """
        first: dict[_Id, Any] = {}
        twice: dict[_Id, None] = {}
        for entry in annotations:
            identity = entry.get("id") if isinstance(entry, Mapping) else None
            if isinstance(identity, int | str):
                before = first.setdefault(identity, entry)
                if before is not entry and any(before.get(x) != entry.get(x) for x in _SAME):
                    twice[identity] = None
        where = f"{self._json}: the id"
        self._note("ids_repeated", [f"{where} {x} stands for several objects" for x in twice])

    def _shown(self, listed: dict[_Id, Any]) -> list[tuple[_Id, str]]:
        """Id and name of the pictures with an object; those of crowds alone, or none, are noted."""
        shown, crowds, pictures_of_crowds, empty = [], 0, [], []
        for identity, entry in listed.items():
            there = self._objects.get(identity, [])
            if there and self._config.crowds == "leave_out" and all(map(_is_crowd, there)):
                crowds += len(there)
                pictures_of_crowds.append(f"{entry['file_name']} has crowds alone")
            elif there:
                shown.append((identity, entry["file_name"]))
            else:
                empty.append(f"{entry['file_name']} has no object")
        self._note("pictures_left_out", empty)
        self._note("pictures_of_crowds_left_out", pictures_of_crowds)
        self._note("crowds_left_out", pictures_of_crowds, crowds)
        return shown

    def _note(self, kind: Any, texts: Sequence[str], count: int | None = None) -> None:
        """One finding for all of them, which quotes the first."""
        if texts:
            total = len(texts) if count is None else count
            more = f" (the first of {len(texts)})" if len(texts) > 1 else ""
            self.findings.append(Finding(kind, f"{texts[0]}{more}", total))

    def _nothing(self, options: str) -> str:
        text = f"{self._json} has no picture with an object that can be used"
        reasons = "".join(f"; {each}" for each in Findings(self.findings).in_words(options))
        return f"{text}: name data with masks{reasons}"


def _federated(entry: Any, name: str, noted: list[Finding]) -> dict[str, Federated]:
    """LVIS's lists of a picture, by the kind of annotation; nothing where it has none."""
    lists: list[frozenset[int]] = []
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        ids = entry.get(key)
        if ids is None:
            return {}
        if not isinstance(ids, list) or not all(type(each) is int for each in ids):
            text = f"{name}: its {key} are no list of ids, and are not read"
            noted.append(Finding("labels_left_out", text))
            return {}
        lists.append(frozenset(ids))
    return {"federated": Federated(*lists)}


def _is_crowd(annotation: Any) -> bool:
    """Whether it is one for certain; what is wrong with others is noted with their picture."""
    try:
        return is_crowd(annotation)
    except DataError:
        return False
