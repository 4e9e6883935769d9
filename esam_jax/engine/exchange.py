"""The form in which the data engine gives pictures to annotation tools and takes them back.

A folder of the engine, which is a COCO data set of instances for any tool:

images/            the pictures, and what the model found of each, in the layout of SA-1B
proposed.json      COCO json for a person to open, correct and give back; theirs from then on
kept/proposed.json the same as it was written; not to be edited
kept/0001.json     what came back, byte for byte, in the order in which it came
instances.json     what follows from these: pictures that are done, for training
engine.json        the settings

An annotation is COCO's, and has its `score` (predicted IoU; None of what no model scored) and its
`state`: in proposed.json `proposed` (a mask of the model, to be corrected), `given` (annotated
before), `automatic` (the model is confident: annotated already) or `asked` (a question, with its
`reason`); in instances.json `accepted`, `changed` or `added` by a person, `given` or `automatic`.
A tool may drop what it does not know, number pictures and objects as it likes, turn run lengths
into polygons and give back some pictures only: pictures are known by `file_name`, objects by their
masks. A picture with `"reviewed": false` has not been looked at and keeps waiting.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from esam_jax import files
from esam_jax.engine import outlines
from esam_jax.errors import DataError, ExistsError, MissingError
from esam_jax.ops import regions

SETTINGS_FILE, PROPOSED_FILE, INSTANCES_FILE = "engine.json", "proposed.json", "instances.json"
IMAGES, KEPT = "images", "kept"
RESULTS = (PROPOSED_FILE, INSTANCES_FILE, f"{IMAGES}/*", f"{KEPT}/*")
QUESTION = "question"  # the category of what is asked
CATEGORIES = [{"id": 1, "name": "object", "supercategory": "object"}]
OPEN_STATES = ("proposed", "asked")  # of objects that wait for a person
MAX_JSON_BYTES = 2**31
_ROOM = "make room, then run the same command"

Form = Literal["rle", "polygons"]
State = Literal["proposed", "given", "automatic", "asked", "accepted", "changed", "added"]


def annotation(
    image_id: int, rle: Mapping[str, Any], state: State, score: float | None, **more: Any
) -> dict[str, Any]:
    """An object of COCO, without its id; `rle` is its mask in compressed run lengths."""
    return {
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": regions.rle_box(rle),
        "area": regions.rle_area(rle),
        "segmentation": dict(rle),
        "score": score,
        "state": state,
        **more,
    }


def data_set(
    images: Sequence[Mapping[str, Any]],
    annotations: Iterable[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]] = CATEGORIES,
) -> dict[str, Any]:
    """COCO json whose objects have running numbers from 1, as some readers take 0 for none."""
    numbered = [{**each, "id": i + 1} for i, each in enumerate(annotations)]
    return {"images": [*images], "annotations": numbered, "categories": [*categories]}


def by_picture(content: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The objects of each picture of a json of our own, by its key."""
    keys = {image["id"]: file_key(image["file_name"]) for image in content["images"]}
    found: dict[str, list[dict[str, Any]]] = {key: [] for key in keys.values()}
    for each in content["annotations"]:
        found[keys[each["image_id"]]].append(each)
    return found


def is_done(objects: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a picture needs no person: it has objects, and none is open."""
    return bool(objects) and all(each["state"] not in OPEN_STATES for each in objects)


def waiting(content: Mapping[str, Any]) -> dict[str, Any]:
    """The pictures of a json of our own that a person is to look at, with all their objects."""
    done = {key for key, objects in by_picture(content).items() if is_done(objects)}
    images = [x for x in content["images"] if file_key(x["file_name"]) not in done]
    ids = {image["id"] for image in images}
    annotations = [x for x in content["annotations"] if x["image_id"] in ids]
    return {**content, "images": images, "annotations": annotations}


def write_proposed(out: Path, content: Mapping[str, Any], form: Form = "rle") -> bool:
    """Writes proposed.json, of what waits, and the copy of all of it, in run lengths.

    False where the former was edited, and is left alone.
    """
    file = out / PROPOSED_FILE
    ours = not file.exists() or is_own(file)
    files.write(out / KEPT / PROPOSED_FILE, _signed(content), remedy=_ROOM)
    if ours:
        files.write(file, _signed(_in_form(waiting(content), form)), remedy=_ROOM)
    return ours


def _in_form(content: Mapping[str, Any], form: Form) -> Mapping[str, Any]:
    if form == "rle":
        return content
    shown = [
        {**each, "segmentation": outlines.segmentation(each["segmentation"])}
        if isinstance(each["segmentation"], Mapping)
        else each
        for each in content["annotations"]
    ]
    return {**content, "annotations": shown}


def write_instances(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes instances.json, whose owner was checked before (`require_own`)."""
    files.write(folder / INSTANCES_FILE, _signed(content), remedy=_ROOM)


def require_own(folder: Path) -> None:
    """ExistsError where instances.json is there and was edited since it was written."""
    file = folder / INSTANCES_FILE
    if file.exists() and not is_own(file):
        raise ExistsError(
            f"{file} was edited since it was written, and would be replaced: move it to another "
            "name, and give that to esam engine merge"
        )


def is_own(file: Path) -> bool:
    """Whether a json holds what was written here, and no more."""
    try:
        content = json.loads(file.read_bytes())
        signed = content.pop("info")["digest"]
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return False
    return signed == _digest(content)


def _signed(content: Mapping[str, Any]) -> bytes:
    plain = {key: value for key, value in content.items() if key != "info"}
    info = {"description": "written by esam engine", "digest": _digest(plain)}
    return json.dumps({"info": info, **plain}).encode()


def _digest(content: Mapping[str, Any]) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]}"


def proposed(folder: Path) -> dict[str, Any]:
    """The proposals of a folder as they were written.

    MissingError where the folder is none of the engine, or its proposals are not complete.
    """
    file = folder / KEPT / PROPOSED_FILE
    if not file.is_file():
        raise MissingError(
            f"{folder} has no {KEPT}/{PROPOSED_FILE}: name a folder that esam engine assist or "
            "semi wrote completely"
        )
    if not is_own(file):
        raise DataError(f"{file} was edited: run the command that wrote it again")
    return files.read_json(file, max_bytes=MAX_JSON_BYTES, error=DataError)


def file_key(name: str) -> str:
    """What a picture is known by: its file name, whatever folder a tool puts before it."""
    return PurePosixPath(name.replace("\\", "/")).name


def corrections(folder: Path) -> list[Path]:
    """What came back, in its order."""
    found = (file for file in (folder / KEPT).glob("*.json") if file.stem.isdecimal())
    return sorted(found, key=lambda file: int(file.stem))  # 10000 comes behind 9999


def keep(folder: Path, content: bytes) -> tuple[Path, bool]:
    """Keeps what came back under the next number, unless it is what came last: its file, and
    whether it is new."""
    there = corrections(folder)
    if there and there[-1].read_bytes() == content:
        return there[-1], False
    number = int(there[-1].stem) + 1 if there else 1
    file = folder / KEPT / f"{number:04d}.json"
    with files.replacing(file, remedy=_ROOM, durable=True) as fresh:
        fresh.write(content)
    return file, True
