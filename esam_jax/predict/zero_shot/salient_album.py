"""Salient objects of every picture of an album; resumable.

For each picture, under its name: `maps/NAME.png`, the map in grey; `masks/NAME.png`, all its masks
together in white; with overlays `overlays/NAME.png`; and, written last, `masks/NAME.json`: a
picture whose json is there is done, unless its map was given and is another one now. `masks.json`
lists those of all pictures, in COCO's form.
"""

import dataclasses
import errno
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from esam_jax import files
from esam_jax.data import decode
from esam_jax.data.archives import Album
from esam_jax.data.findings import Finding
from esam_jax.errors import DataError, DiskError, MissingError
from esam_jax.ops import regions
from esam_jax.predict import devices, draw, overlays
from esam_jax.predict.zero_shot import map_files
from esam_jax.predict.zero_shot.finder import Finder
from esam_jax.predict.zero_shot.salient import Salient

SETTINGS_FILE, LIST_FILE = "salient.json", "masks.json"
MAPS, MASKS = "maps", "masks"
RESULTS = (LIST_FILE, f"{MAPS}/[!.]*", f"{MASKS}/[!.]*", overlays.RESULTS)


@dataclasses.dataclass(frozen=True)
class Done:
    """A picture: how many masks, or what is wrong with it."""

    name: str
    masks: int = 0
    broken: str | None = None


def waiting(finder: Finder, album: Album, out: Path, part: tuple[int, int] = (0, 1)) -> list[str]:
    """The names that are still to be done by host `part[0]` of `part[1]`."""
    index, count = part
    return [
        name
        for name in album.names[index::count]
        if not _is_done(out, name) or _map_has_changed(finder, out, name)
    ]


def run(
    finder: Finder,
    album: Album,
    names: Sequence[str],
    out: Path,
    *,
    with_overlays: bool = False,
    sixteen_bit: decode.SixteenBit = "upper_byte",
    noted: list[Finding] | None = None,
) -> Iterator[Done]:
    """Writes the files of each picture; a broken one is reported and left out.

    Each local device has its own copy of the weights; results come in the order of names all the
    same. `noted` gets what was found in decoding, in any order.
    """
    noted = [] if noted is None else noted

    def on(placed: Finder, name: str) -> Done:
        map_digest = placed.map_digest(name)  # before it is read: a later change is then noticed
        try:
            picture = decode.decode_rgb(
                album.read(name),
                sixteen_bit=sixteen_bit,
                notice=lambda kind, text: noted.append(Finding(kind, f"{name}: {text}")),
            )
            found = placed(name, picture)
        except (DataError, DiskError, MissingError) as error:
            return Done(name, broken=str(error))
        content = _annotations(name, found)
        if map_digest is not None:
            content["map"] = map_digest
        return _written(out, name, picture, found, content, with_overlays)

    for _, done in devices.share(names, finder, on, count=len(names), ahead=3):
        yield done


def merge(album: Album, out: Path) -> int:
    """Writes one COCO json of all pictures that are done; how many there are."""
    images, annotations = [], []
    for number, name in enumerate(album.names, 1):
        if not _is_done(out, name):
            continue
        content = json.loads(_file(out, MASKS, name, "json").read_text())
        images.append({"id": number, **content["image"]})
        for each in content["annotations"]:
            more = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            annotations.append({**more, **each})
    categories = [{"id": 1, "name": "salient object", "supercategory": "object"}]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    files.write(out / LIST_FILE, json.dumps(coco))
    return len(images)


def sheet(album: Album, out: Path) -> None:
    """Writes one picture of the first overlays, under the names of their pictures."""
    overlays.write_sheet(
        out, ((name, _file(out, overlays.FOLDER, name, "png")) for name in album.names)
    )


def drawn(picture: UInt8[np.ndarray, "H W 3"], found: Salient) -> UInt8[np.ndarray, "_ _ 3"]:
    """The map in grey beside the picture with its clicks and masks."""
    right = overlays.drawn(picture, found.runs, found.scores, found.prompts)
    grey = np.repeat(np.rint(found.map * 255).astype(np.uint8)[..., None], 3, axis=2)
    left = overlays.drawn(grey, (), ())
    return np.concatenate([left, right], axis=1)


def _file(out: Path, folder: str, name: str, ending: str) -> Path:
    return out / folder / f"{name}.{ending}"


def _is_done(out: Path, name: str) -> bool:
    try:
        return _file(out, MASKS, name, "json").exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise MissingError(f"{out} cannot be read ({error}): make it readable") from error


def _map_has_changed(finder: Finder, out: Path, name: str) -> bool:
    """Whether the file that it was made by holds something else now."""
    if name not in finder.files:
        return False
    try:
        stored = json.loads(_file(out, MASKS, name, "json").read_text())
    except ValueError:  # damaged: it is made again
        return True
    return stored.get("map") != finder.map_digest(name)


def _written(
    out: Path,
    name: str,
    picture: UInt8[np.ndarray, "H W 3"],
    found: Salient,
    annotations: dict[str, Any],
    with_overlay: bool,
) -> Done:
    """Its json comes last; MissingError where the folder cannot be written."""
    pictures = {MAPS: map_files.png(found.map), MASKS: draw.png(_white(found))}
    if with_overlay:
        pictures[overlays.FOLDER] = draw.png(drawn(picture, found))
    try:
        for folder, content in pictures.items():
            _put(_file(out, folder, name, "png"), content)
        text = json.dumps(annotations, allow_nan=False)
        _put(_file(out, MASKS, name, "json"), text)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return Done(name, broken="its name is too long for NAME.json: rename the picture")
        raise MissingError(
            f"{out} cannot be written ({error}): make room, then run the same command"
        ) from error
    return Done(name, len(found.runs))


def _put(file: Path, content: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write(file, content)


def _white(found: Salient) -> UInt8[np.ndarray, "H W"]:
    return found.union().astype(np.uint8) * 255


def _annotations(name: str, found: Salient) -> dict[str, Any]:
    height, width = found.map.shape
    annotations = [
        {
            "segmentation": runs,
            "bbox": regions.rle_box(runs),
            "area": regions.rle_area(runs),
            "score": score,
            "points": prompt.points.tolist(),
        }
        for runs, score, prompt in zip(found.runs, found.scores, found.prompts, strict=True)
    ]
    image = {"file_name": name, "width": width, "height": height}
    return {"image": image, "annotations": annotations}
