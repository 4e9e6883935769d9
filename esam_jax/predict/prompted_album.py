"""Masks for the prompts of a file, of any number of pictures; resumable.

`masks/NAME.json` for each picture, written whole: a picture whose json is there is done. Pictures
are read by threads while the devices of the host work on the ones before, a few in one call.
"""

import dataclasses
import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from esam_jax import files
from esam_jax.data import decode, pictures
from esam_jax.data.archives import Album
from esam_jax.data.findings import Finding
from esam_jax.errors import DataError, EsamError, MissingError, PromptError
from esam_jax.ops import regions
from esam_jax.predict import overlays, stream
from esam_jax.predict.masks import Masks
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.prompt_file import Asked, Matched, PromptFile
from esam_jax.predict.sam import Sam

COCO_FILE = "instances.json"
MASKS_FOLDER = "masks"
SETTINGS_FILE = "segment.json"
_TOGETHER = stream.TOGETHER
RESULTS = (COCO_FILE, f"{MASKS_FOLDER}/[!.]*", overlays.RESULTS)


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
    noted = [] if noted is None else noted
    requests = (
        _Picture(sam, album, name, matched, sixteen_bit, ambiguous_exif, noted) for name in names
    )

    def write(request: _Picture, answer: stream.Answer) -> Done:
        return request.written(out, answer, with_overlays)

    yield from stream.answered(
        sam,
        requests,
        write,
        together=_TOGETHER,
        device_count=-(-len(names) // _TOGETHER),
        # While one group is written, an accelerator computes the next; a CPU is busy either way.
        each=1 if jax.default_backend() == "cpu" else 2,
    )


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
class _Picture:
    """A picture of the album with its prompts, as a `stream.Request`."""

    sam: Sam
    album: Album
    name: str
    matched: Matched
    sixteen_bit: decode.SixteenBit
    ambiguous_exif: decode.Orientation
    noted: list[Finding]
    good: list[tuple[Asked, Prompt]] = dataclasses.field(default_factory=list)
    refused: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def read(self) -> UInt8[np.ndarray, "H W 3"]:
        """In the frame of its prompts."""
        data, size = self.album.read(self.name), self.matched.sizes.get(self.name)
        upright = decode.header(data)
        try:
            header = pictures.frame(upright, size, self.name, self.ambiguous_exif, self.noted)
        except DataError as error:
            stated = " x ".join(map(str, size or ()))
            raise DataError(
                f"it {error}, but the prompts are for {stated}: correct the size"
            ) from error
        return decode.pixels(data, header, None, self.sixteen_bit, self._notice)

    def prompts(self, picture: UInt8[np.ndarray, "H W 3"]) -> list[Prompt]:
        """Those that the model takes; the others are `refused`."""
        good, refused = _sorted_out(self.sam, self.matched.asked[self.name], *picture.shape[:2])
        self.good.extend(good)
        self.refused.extend(refused)
        return [prompt for _, prompt in good]

    def written(self, out: Path, answer: stream.Answer, with_overlay: bool) -> Done:
        """Its json, or what is wrong with it."""
        if isinstance(answer.masks, EsamError):
            return Done(self.name, broken=str(answer.masks))
        drawn = answer.picture if with_overlay else None
        if _write(out, self.name, answer.masks, self.good, self.refused, drawn):
            return Done(self.name, len(self.good), len(self.refused))
        return Done(self.name, broken="its name is too long for NAME.json: rename the picture")

    def _notice(self, kind: Any, text: str) -> None:
        self.noted.append(Finding(kind, f"{self.name}: {text}"))


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
