"""Masks for the prompts of a file, of any number of pictures; resumable.

`masks/NAME.json` for each picture, written whole: a picture whose json is there is done. Pictures
are read by threads while the devices of the host work on the ones before, a few in one call.
"""

import dataclasses
import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from esam_jax import files
from esam_jax.data import decode, pictures
from esam_jax.data.archives import Album
from esam_jax.data.findings import Finding
from esam_jax.errors import DataError, DiskError, MissingError, PromptError
from esam_jax.ops import regions
from esam_jax.predict import devices, overlays
from esam_jax.predict.masks import Masks
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.prompt_file import Asked, Matched, PromptFile
from esam_jax.predict.sam import Sam

COCO_FILE = "instances.json"
MASKS_FOLDER = "masks"
SETTINGS_FILE = "segment.json"
RESULTS = (COCO_FILE, f"{MASKS_FOLDER}/[!.]*", overlays.RESULTS)
_TOGETHER = 8  # pictures in one call of encoder and decoder, and as many more read ahead
_READERS = 4


@dataclasses.dataclass(frozen=True)
class Done:
    """A picture: masks written and prompts refused, or what is wrong with it."""

    name: str
    masks: int = 0
    refused: int = 0
    broken: str | None = None


def waiting(asked: Mapping[str, list[Asked]], out: Path) -> list[str]:
    """The pictures that are still to be done, in their order."""
    return [name for name in asked if not _is_done(out, name)]


def run(
    sam: Sam,
    album: Album,
    matched: Matched,
    names: Sequence[str],
    out: Path,
    *,
    sixteen_bit: decode.SixteenBit = "upper_byte",
    ambiguous_exif: decode.Orientation = "upright",
    with_overlays: bool = False,
    noted: list[Finding] | None = None,
) -> Iterator[Done]:
    """Writes the json of each picture; a broken one, or a refused prompt, is reported and left out.

    An overlay comes before its json. `noted` gets what was found in the pictures, in any order.
    """
    reader = _Reader(album, sixteen_bit, ambiguous_exif, [] if noted is None else noted)
    groups = [names[i : i + _TOGETHER] for i in range(0, len(names), _TOGETHER)]
    with ThreadPoolExecutor(_READERS * jax.local_device_count()) as pool:

        def begin(name: str) -> Future[Any]:
            return pool.submit(reader.read, name, matched.sizes.get(name))

        def work(sam: Sam, group: dict[str, Future[Any]]) -> list[Done]:
            read = {name: group.pop(name).result() for name in list(group)}
            return list(_of_group(sam, read, matched.asked, out, with_overlays))

        begun = ({name: begin(name) for name in group} for group in groups)
        shared = devices.share(begun, sam, work, count=len(groups), ahead=1)
        for _, done in shared:
            yield from done


def merge(asked: Mapping[str, list[Asked]], prompts: PromptFile, out: Path) -> int:
    """Writes one COCO json of all pictures that are done; how many there are."""
    images, annotations = [], []
    for number, name in enumerate(asked, 1):
        if not _is_done(out, name):
            continue
        content = json.loads(_file(out, name).read_text())
        images.append({"id": number, **content["image"]})
        for each in content["annotations"]:
            more = {"id": len(annotations) + 1, "image_id": number, "iscrowd": 0}
            annotations.append({"category_id": 1, **each, **more})
    categories = list(prompts.categories)
    if not categories:
        numbers = sorted({each["category_id"] for each in annotations} | {1})
        categories = [{"id": number, "name": f"object {number}"} for number in numbers]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    files.write(out / COCO_FILE, json.dumps(coco))
    return len(images)


def sheet(asked: Mapping[str, list[Asked]], out: Path) -> None:
    """Writes one picture of the first overlays, under the names of their pictures."""
    overlays.write_sheet(out, ((name, _overlay_file(out, name)) for name in asked))


def _file(out: Path, name: str) -> Path:
    return out / MASKS_FOLDER / f"{name}.json"


def _overlay_file(out: Path, name: str) -> Path:
    return out / overlays.FOLDER / f"{name}.png"


def _is_done(out: Path, name: str) -> bool:
    try:
        return _file(out, name).exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise MissingError(f"{out} cannot be read ({error}): make it readable") from error


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads pictures; may be called from any thread."""

    album: Album
    sixteen_bit: decode.SixteenBit
    ambiguous_exif: decode.Orientation
    noted: list[Finding]

    def read(self, name: str, size: tuple[int, int] | None) -> UInt8[np.ndarray, "H W 3"] | str:
        """The picture in the frame of its prompts, or what is wrong with it."""
        try:
            data = self.album.read(name)
            upright = decode.header(data)
        except (DataError, DiskError, MissingError) as error:
            return str(error)
        try:
            header = pictures.frame(upright, size, name, self.ambiguous_exif, self.noted)
        except DataError as error:
            stated = " x ".join(map(str, size or ()))
            return f"it {error}, but the prompts are for {stated}: correct the size"
        try:
            return decode.pixels(data, header, None, self.sixteen_bit, self._notice(name))
        except DataError as error:
            return str(error)

    def _notice(self, name: str) -> decode.Notice:
        return lambda kind, text: self.noted.append(Finding(kind, f"{name}: {text}"))


def _of_group(
    sam: Sam,
    read: Mapping[str, Any],
    asked: Mapping[str, list[Asked]],
    out: Path,
    with_overlays: bool,
) -> Iterator[Done]:
    whole = {name: each for name, each in read.items() if not isinstance(each, str)}
    sorted_out = {name: _sorted_out(sam, asked[name], *whole[name].shape[:2]) for name in whole}
    answers: list[Masks] = []
    if whole:
        lists = [[prompt for _, prompt in good] for good, _ in sorted_out.values()]
        answers = sam.decode(sam.encode(list(whole.values())), lists)
    masks = dict(zip(whole, answers, strict=True))
    for name, picture in read.items():
        if isinstance(picture, str):
            yield Done(name, broken=picture)
            continue
        good, refused = sorted_out[name]
        if _write(out, name, masks[name], good, refused, picture if with_overlays else None):
            yield Done(name, len(good), len(refused))
        else:
            yield Done(name, broken="its name is too long for NAME.json: rename the picture")


def _sorted_out(
    sam: Sam, asked: list[Asked], height: int, width: int
) -> tuple[list[tuple[Asked, Prompt]], list[dict[str, Any]]]:
    """Prompts that the model takes, and what is wrong with the others."""
    good, refused = [], []
    for i, each in enumerate(asked):
        try:
            prompt = each.prompt().checked(sam.config, height, width, sam.untrained)
            good.append((each, prompt))
        except PromptError as error:
            refused.append({"number": i, **each.about, "reason": str(error)})
    return good, refused


def _write(
    out: Path,
    name: str,
    masks: Masks,
    good: list[tuple[Asked, Prompt]],
    refused: list[dict[str, Any]],
    drawn: UInt8[np.ndarray, "H W 3"] | None,
) -> bool:
    """Whether the file system takes a file of this name; an overlay is `drawn` on the picture."""
    indices, runs = masks.best_rle()
    annotations = []
    for i, (index, rle, (each, prompt)) in enumerate(zip(indices, runs, good, strict=True)):
        about = {f"prompt_{k}" if k == "score" else k: v for k, v in each.about.items()}
        parts = {"points": prompt.points.tolist(), "labels": prompt.labels.tolist()}
        given = parts if len(prompt.points) else {}
        given |= {} if prompt.box is None else {"box": prompt.box.tolist()}
        annotations.append(
            {
                **about,
                "segmentation": rle,
                "bbox": regions.rle_box(rle),
                "area": regions.rle_area(rle),
                "score": float(masks.scores[i, index]),
                "prompt": given,
            }
        )
    image = {"file_name": name, "width": masks.width, "height": masks.height}
    content = {"image": image, "annotations": annotations, "refused": refused}
    file = _file(out, name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if drawn is not None:
            scores = [each["score"] for each in annotations]
            prompts = [prompt for _, prompt in good]
            overlays.write(_overlay_file(out, name), drawn, runs, scores, prompts)
        files.write(file, json.dumps(content, allow_nan=False))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise MissingError(
            f"{out} cannot be written ({error}): make room, then run the same command"
        ) from error
    return True
