"""Where the json and the pictures of a COCO data set lie, as the common tools lay them out."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from esam_jax import files, places
from esam_jax.data.sources.annotations import field
from esam_jax.errors import ConfigError, DataError, MissingError
from esam_jax.places import Place

ROBOFLOW = "_annotations.coco.json"
_HEAD_BYTES = 4096
# How a COCO json may begin: keys come in any order.
_COCO_HEAD = re.compile(
    rb'\s*\{\s*"(info|licenses|images|annotations|categories|type)"\s*:\s*[\[{"]'
)
_TRIED = 20  # names that are looked for, spread evenly: some may be missing


def find_json(path: Place) -> Place:
    """The instance json that `path` is, or that lies beside or in the folder `path`.

    MissingError where there is none, ConfigError where several would do.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise MissingError(f"{path} is neither a json file nor a folder")
    path = path.resolve()
    name = f"instances_{path.name}.json"
    named = [path / ROBOFLOW, path.parent / name, path.parent / "annotations" / name, path / name]
    named += [path / "instances.json"]
    if path.name == "images":
        named += [path.parent / "instances.json", path.parent / ROBOFLOW]
    for candidate in named:
        if candidate.is_file():
            return candidate
    inside = [*path.glob("*.json"), *path.glob("annotations/*.json"), *path.glob(f"*/{ROBOFLOW}")]
    found = sorted(each for each in inside if _looks_like_coco(each))
    # COCO's own folder has captions_ and person_keypoints_ beside them.
    found = [each for each in found if each.name.startswith("instances")] or found
    if len(found) > 1:
        listed = ", ".join(str(each.relative_to(path)) for each in found[:9])
        raise ConfigError(f"{path} holds {len(found)} COCO jsons: give the path of one ({listed})")
    if not found:
        raise MissingError(f"no {name} beside {path}; give the path of the json itself")
    return found[0]


def picture_folder(json: Place, names: Sequence[str]) -> Place:
    """Where the pictures of a json are; COCO itself has annotations/ and, beside it, val2017/."""
    split = json.stem.removeprefix("instances_").removeprefix("panoptic_")
    parent, above = json.parent, json.resolve().parent.parent
    folders = [folder / part for part in (split, f"images/{split}") for folder in (parent, above)]
    folders += [parent / "images", above / "images", parent, above]
    some = names[:: max(1, len(names) // _TRIED)]
    there = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    counts = [sum(locate(folder, name) is not None for name in some) for folder in there]
    if not any(counts):
        near = next((text for each in folders if (text := hint(each, some[0]))), "")
        places = ", ".join(map(str, dict.fromkeys(folders)))
        raise MissingError(f"{some[0]!r} of {json} is in none of {places}{near}")
    return there[counts.index(max(counts))]


def locate(folder: Place, name: str) -> Place | None:
    """The file of this name; also one whose name has other separators, or composes its accents
    differently (NFC, NFD)."""
    for spelling in _spellings(name):
        if places.is_there(folder / spelling):
            return folder / spelling
    return None


def how_spelled(name: str, found: Place) -> str:
    """The cause, in words, for which a file was not found by its own name."""
    if "\\" in name:
        return "file_name has backslashes, as Windows writes them"
    return f"file_name composes its accents differently from {found.name!r} (Unicode NFC, NFD)"


def name_of(image: Any, where: str) -> str:
    """The name of an image of a json below its picture folder; DataError says `where` it is none.

    LVIS v1 gives the address alone: .../val2017/000000397133.jpg.
    """
    if "file_name" not in image and isinstance(image.get("coco_url"), str):
        name = "/".join(image["coco_url"].split("/")[-2:])
    else:
        name = field(image, "file_name", str, where)
    if not is_below(name.replace("\\", "/")):
        raise DataError(f"{where} is {name!r}, but must be a name below the picture folder")
    return name


def read_head(path: Place) -> bytes:
    """The first bytes of a file."""

    def attempt() -> bytes:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)

    return files.read(path, attempt, "check the path")


def _looks_like_coco(path: Place) -> bool:
    return path.is_file() and _COCO_HEAD.match(read_head(path)) is not None


def _spellings(name: str) -> Iterator[str]:
    slashed = name.replace("\\", "/")
    forms = [name, slashed]
    forms += [unicodedata.normalize(form, slashed) for form in ("NFC", "NFD")]
    for spelling in dict.fromkeys(forms):
        if is_below(spelling):
            yield spelling


def is_below(name: str) -> bool:
    """Whether a name leads to a place below the folder that it is relative to."""
    return bool(name) and not name.startswith("/") and ".." not in name.split("/")


def hint(folder: Place, name: str) -> str:
    """A likely cause for which a picture is not there, to end a sentence with; or nothing."""
    slashed = name.replace("\\", "/")
    place = (folder / slashed).parent
    try:
        others = [each.name for each in place.iterdir()] if place.is_dir() else []
    except (OSError, ValueError):
        others = []
    wanted = slashed.rsplit("/", 1)[-1]
    for other in others:
        if other.casefold() == wanted.casefold():
            return f"; {place} has {other!r}: file_name must have the same capitals"
    if "\\" in name:
        return f"; nor is {slashed!r}: file_name has backslashes, as Windows writes them"
    return ""
