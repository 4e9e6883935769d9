"""Every mask of every picture of an album, in the layout of SA-1B, which `esam train` reads.

`sa_<number>.jpg` and, written last, `sa_<number>.json`: a picture whose json is there is done, so
the same command resumes after a kill. The number follows from the picture's name alone, so that any
number of hosts share an album without communicating, and it may grow between two calls.
The devices of one host take the next picture each.
"""

import collections
import copy
import dataclasses
import hashlib
import itertools
import json
import queue
import re
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from esam_jax import files
from esam_jax.data import decode
from esam_jax.data.archives import Album
from esam_jax.errors import ConfigError, DataError, DiskError, EsamError, ExistsError, MissingError
from esam_jax.ops import regions
from esam_jax.predict import draw
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.sam import Sam

SETTINGS_FILE = "everything.json"
COCO_FILE = "instances.json"
OVERLAYS_FOLDER = "overlays"
SHEET_FILE = "sheet.png"  # in the folder of overlays
_OVERLAY_PX = 1024  # of the long side: all masks of a picture lie in memory while it is drawn
_ON_SHEET = 60  # pictures at most
_JPEG_QUALITY = 95


def number(name: str) -> int:
    """The number of a picture: SA-1B's own where the name has one, else from a hash of the name."""
    own = re.fullmatch(r"sa_(\d{1,15})", PurePosixPath(name).stem)
    if own:
        return int(own[1])
    # A name may hold bytes that are not UTF-8.
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big")


def settle(out: Path, settings: dict[str, Any]) -> None:
    """Makes the folder and keeps the settings; ConfigError where it holds masks made with others.

    ExistsError where the folder is of no album and holds files that would be replaced, or taken for
    done: SA-1B's own, for example. What a killed call left unfinished is removed.
    """
    file = out / SETTINGS_FILE
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            _require_free(out)
        files.remove_unfinished(out)
        files.remove_unfinished(out / OVERLAYS_FOLDER)
        if not file.exists():
            files.write(file, json.dumps(settings, indent=1) + "\n")
        stored = json.loads(file.read_text())
    except EsamError:
        raise
    except OSError as error:
        raise MissingError(f"{out} cannot be written ({error}); name another folder") from error
    except ValueError as error:
        raise DataError(f"{file} is not JSON ({error}): name another folder") from error
    odd = [
        f"{key} was {stored.get(key)!r}, is {settings.get(key)!r}"
        for key in sorted({*stored, *settings})
        if stored.get(key) != settings.get(key)
    ]
    if odd:
        raise ConfigError(
            f"{out} holds masks made with other settings ({'; '.join(odd)}): "
            "use the same settings, or another folder"
        )


def _require_free(out: Path) -> None:
    for pattern in ("sa_*.jpg", "sa_*.json", COCO_FILE, f"{OVERLAYS_FOLDER}/[!.]*"):
        if (first := next(out.glob(pattern), None)) is not None:
            raise ExistsError(
                f"{first} was not written by this command, which would replace it or take it for "
                "done: name another folder with --out"
            )


def waiting(album: Album, out: Path, part: tuple[int, int] = (0, 1)) -> list[str]:
    """The names that are still to be done by host `part[0]` of `part[1]`."""
    index, count = part
    seen: dict[int, str] = {}
    for name in album.names:
        other = seen.setdefault(number(name), name)
        if other != name:
            raise DataError(f"{name} and {other} would be one file: rename one of them")
    mine = album.names[index::count]
    return [name for name in mine if not _file(out, name, ".json").exists()]


def run(
    generator: AutomaticMaskGenerator,
    album: Album,
    names: list[str],
    out: Path,
    *,
    overlays: bool = False,
    sixteen_bit: decode.SixteenBit = "upper_byte",
) -> Iterator[tuple[str, int | str]]:
    """(name, number of masks) for each picture that is written, or (name, what is wrong).

    `generator` must give COCO's run lengths. A broken picture is reported and left out. Each local
    device of JAX has its own copy of the weights; answers come in the order of names all the same.
    A UserWarning at the end counts 16-bit pictures of a narrow range.
    """
    work = _Work(album, out, overlays, sixteen_bit)
    yield from _answers(work, generator, names)
    if work.narrow:
        count, first = len(work.narrow), work.narrow[0]
        warnings.warn(f"{count} narrow 16-bit pictures, the first: {first}", stacklevel=2)


def _answers(
    work: "_Work", generator: AutomaticMaskGenerator, names: list[str]
) -> Iterator[tuple[str, int | str]]:
    """The answers of `run`, of all devices."""
    devices = jax.local_devices()[: max(1, len(names))]
    if len(devices) == 1:
        for name in names:
            yield name, work.on(generator, name)
        return
    idle: queue.SimpleQueue[tuple[jax.Device, AutomaticMaskGenerator]] = queue.SimpleQueue()
    for device in devices:
        idle.put((device, _copied(generator, device)))

    def next_one(name: str) -> int | str:
        device, copied = idle.get()
        try:
            with jax.default_device(device):
                return work.on(copied, name)
        finally:
            idle.put((device, copied))

    begun: collections.deque[tuple[str, Any]] = collections.deque()
    with ThreadPoolExecutor(len(devices)) as pool:
        try:
            for name in names:
                begun.append((name, pool.submit(next_one, name)))
                # Far enough ahead that a slow picture does not make other devices wait, but
                # bounded: an album may have millions of pictures.
                if len(begun) == 4 * len(devices):
                    first, answer = begun.popleft()
                    yield first, answer.result()
            while begun:
                first, answer = begun.popleft()
                yield first, answer.result()
        finally:
            for _, answer in begun:
                answer.cancel()


@dataclasses.dataclass(frozen=True)
class _Work:
    """Processes one picture; may be called from any thread."""

    album: Album
    out: Path
    overlays: bool
    sixteen_bit: decode.SixteenBit = "upper_byte"
    narrow: list[str] = dataclasses.field(default_factory=list)

    def on(self, generator: AutomaticMaskGenerator, name: str) -> int | str:
        """Writes the files of a picture; the number of masks, or what is wrong with it."""
        out = self.out
        try:
            data = self.album.read(name)
            picture = decode.decode_rgb(
                data,
                sixteen_bit=self.sixteen_bit,
                notice=lambda text: self.narrow.append(f"{name}: {text}"),
            )
        except (DataError, DiskError, MissingError) as error:
            return str(error)
        # An empty mask is of no use, and its stability, 0 / 0, has no form in json.
        records = [record for record in generator.generate(picture) if record["area"]]
        try:
            files.write(_file(out, name, ".jpg"), _jpeg(data, picture))
            if self.overlays:
                place = _overlay_file(out, name)
                place.parent.mkdir(exist_ok=True)
                files.write(place, draw.png(overlay(picture, records)))
            text = json.dumps(_annotations(name, picture, records), allow_nan=False)
            files.write(_file(out, name, ".json"), text)
        except OSError as error:
            raise MissingError(
                f"{out} cannot be written ({error}): make room, then run the same command"
            ) from error
        return len(records)


def _copied(generator: AutomaticMaskGenerator, device: jax.Device) -> AutomaticMaskGenerator:
    """The same with its weights on a device."""
    copied, sam = copy.copy(generator), generator.model
    copied.model = Sam(sam.model, jax.device_put(sam.params, device), sam.untrained)
    return copied


def merge(album: Album, out: Path) -> int:
    """Writes one COCO json of all pictures that are done; how many there are.

    Pictures lie beside it, under the names that it gives.
    """
    images, annotations = [], []
    for name in album.names:
        file = _file(out, name, ".json")
        if not file.exists():
            continue
        content = json.loads(file.read_text())
        image = content["image"]
        images.append({"id": image["image_id"], **{k: image[k] for k in _COCO_IMAGE_KEYS}})
        for each in content["annotations"]:
            more = {"id": len(annotations) + 1, "image_id": image["image_id"]}
            annotations.append({**each, **more, "category_id": 1, "iscrowd": 0})
    coco = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object", "supercategory": "object"}],
    }
    files.write(out / COCO_FILE, json.dumps(coco))
    return len(images)


_COCO_IMAGE_KEYS = ("width", "height", "file_name")


def sheet(album: Album, out: Path) -> None:
    """Writes one picture of the first overlays, under the names of their pictures."""
    drawn = ((name, _overlay_file(out, name)) for name in album.names)
    found = list(itertools.islice(((n, file) for n, file in drawn if file.exists()), _ON_SHEET))
    if found:
        overlays = (decode.read_rgb(file) for _, file in found)
        page = draw.gallery(overlays, [name for name, _ in found])
        files.write(out / OVERLAYS_FOLDER / SHEET_FILE, draw.png(page))


def overlay(
    picture: UInt8[np.ndarray, "H W 3"], records: list[dict[str, Any]]
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The picture with its masks, at most 1024 pixels on its long side."""
    scale = min(1.0, _OVERLAY_PX / max(picture.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    size = (width, height)
    small = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    masks = np.zeros((len(records), *small.shape[:2]), bool)
    for slot, record in zip(masks, records, strict=True):
        mask = Image.fromarray(np.ascontiguousarray(regions.from_rle(record["segmentation"])))
        slot[:] = np.asarray(mask.resize(size, Image.Resampling.NEAREST))
    return draw.overlay(small, masks)


def _file(out: Path, name: str, suffix: str) -> Path:
    return out / f"sa_{number(name)}{suffix}"


def _overlay_file(out: Path, name: str) -> Path:
    return out / OVERLAYS_FOLDER / _file(out, name, ".png").name


def _annotations(
    name: str, picture: UInt8[np.ndarray, "H W 3"], records: list[dict[str, Any]]
) -> dict[str, Any]:
    """SA-1B's json, with the name that the picture came under."""
    height, width = picture.shape[:2]
    image = {
        "image_id": number(name),
        "width": width,
        "height": height,
        "file_name": _file(Path(), name, ".jpg").name,
        "source": name,
    }
    return {
        "image": image,
        "annotations": [{"id": i + 1, **record} for i, record in enumerate(records)],
    }


def _jpeg(data: bytes, picture: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """The bytes as they came where they are a JPEG in the frame of the masks, else a new one."""
    if data.startswith(b"\xff\xd8\xff"):
        stored = decode.decode_rgb(data, "stored")
        if stored.shape == picture.shape and (stored == picture).all():
            return data
    return simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=_JPEG_QUALITY)
