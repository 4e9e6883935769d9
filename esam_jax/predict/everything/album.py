"""Every mask of every picture of an album, in the layout of SA-1B, which `esam train` reads.

`sa_<number>.jpg` and, written last, `sa_<number>.json`: a picture whose json is there is done, so
the same command resumes after a kill. The number follows from the picture's name alone, so that any
number of hosts share an album without communicating, and it may grow between two calls.
The devices of one host take the next picture each.
"""

import copy
import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import flax.traverse_util
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from esam_jax import files
from esam_jax.data import decode
from esam_jax.data.archives import Album
from esam_jax.data.findings import Finding
from esam_jax.errors import ConfigError, DataError, DiskError, ExistsError, MissingError
from esam_jax.ops import regions
from esam_jax.predict import devices, overlays
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.everything.tally import Tally
from esam_jax.predict.sam import Sam

SETTINGS_FILE = "everything.json"
COCO_FILE = "instances.json"
_RESULTS = ("sa_*.jpg", "sa_*.json", COCO_FILE, overlays.RESULTS)
_JPEG_QUALITY = 95


def number(name: str) -> int:
    """The number of a picture: SA-1B's own where the name has one, else from a hash of the name."""
    own = re.fullmatch(r"sa_(\d{1,15})", PurePosixPath(name).stem)
    if own:
        return int(own[1])
    # A name may hold bytes that are not UTF-8.
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big")


def digest(sam: Any) -> str:
    """Of the network and its weights, wherever they were read from."""
    found = hashlib.sha256(repr(sam.config).encode())
    for path, array in sorted(flax.traverse_util.flatten_dict(sam.params, sep="/").items()):
        host = np.ascontiguousarray(array)
        found.update(f"{path} {host.shape} {host.dtype};".encode())
        found.update(host.view(np.uint8).data)
    return f"sha256:{found.hexdigest()[:32]}"


def require_same(
    out: Path,
    settings: dict[str, Any],
    name: str = SETTINGS_FILE,
    results: Sequence[str] = _RESULTS,
) -> None:
    """ConfigError where the folder holds results made with other settings; nothing is written.

    `model` may be left out of the settings. ExistsError where the folder is of no album and holds
    files that would be replaced, or taken for done: SA-1B's own, for example.
    """
    file = out / name
    try:
        if not file.exists():
            _require_free(out, results)
            return
        stored = json.loads(file.read_text())
        unequal = [
            f"{key} was {stored.get(key)!r}, is {settings.get(key)!r}"
            for key in sorted({*stored, *settings} - ({"model"} - settings.keys()))
            if stored.get(key) != settings.get(key)
        ]
    except ExistsError:  # which is an OSError, too
        raise
    except OSError as error:
        raise MissingError(f"{file} cannot be read ({error}); name another folder") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is not JSON ({error}): name another folder") from error
    if unequal:
        raise ConfigError(
            f"{out} holds results made with other settings ({'; '.join(unequal)}): "
            "use the same settings, or another folder"
        )


def settle(
    out: Path,
    settings: dict[str, Any],
    name: str = SETTINGS_FILE,
    results: Sequence[str] = _RESULTS,
) -> None:
    """Makes the folder and keeps the settings in it; errors as for `require_same`.

    What a killed call left unfinished is removed.
    """
    require_same(out, settings, name, results)
    try:
        out.mkdir(parents=True, exist_ok=True)
        files.remove_unfinished(out)
        files.remove_unfinished(out / overlays.FOLDER)
        if not (out / name).exists():
            files.write(out / name, json.dumps(settings, indent=1) + "\n")
    except OSError as error:
        raise MissingError(f"{out} cannot be written ({error}); name another folder") from error


def _require_free(out: Path, results: Sequence[str]) -> None:
    for pattern in results:
        if (first := next(out.glob(pattern), None)) is not None:
            raise ExistsError(
                f"{first} was not written by this command, which would replace it or take it for "
                "done: name another folder with --out"
            )


def require_distinct(album: Album) -> None:
    """DataError where the masks of two pictures would be one file."""
    seen: dict[int, str] = {}
    for name in album.names:
        other = seen.setdefault(number(name), name)
        if other != name:
            raise DataError(f"{name} and {other} would be one file: rename one of them")


def waiting(album: Album, out: Path, part: tuple[int, int] = (0, 1)) -> list[str]:
    """The names that are still to be done by host `part[0]` of `part[1]`."""
    index, count = part
    mine = album.names[index::count]
    return [name for name in mine if not _file(out, name, ".json").exists()]


def run(
    generator: AutomaticMaskGenerator,
    album: Album,
    names: list[str],
    out: Path,
    *,
    with_overlays: bool = False,
    sixteen_bit: decode.SixteenBit = "upper_byte",
    tally: Tally | None = None,
    noted: list[Finding] | None = None,
) -> Iterator[tuple[str, int | str]]:
    """(name, number of masks) for each picture that is written, or (name, what is wrong).

    `generator` must give COCO's run lengths. A broken picture is reported and left out. Each local
    device of JAX has its own copy of the weights; answers come in the order of names all the same.
    `tally` counts what was left out, `noted` gets what was found in decoding, in any order.
    """
    tally, noted = Tally() if tally is None else tally, [] if noted is None else noted
    work = _Work(album, out, with_overlays, sixteen_bit, tally, noted)

    def on(sam: Sam, name: str) -> int | str:
        copied = copy.copy(generator)
        copied.model = sam
        return work.on(copied, name)

    yield from devices.share(names, generator.model, on, count=len(names), ahead=3)


@dataclasses.dataclass(frozen=True)
class _Work:
    """Processes one picture; may be called from any thread."""

    album: Album
    out: Path
    with_overlays: bool
    sixteen_bit: decode.SixteenBit = "upper_byte"
    tally: Tally = dataclasses.field(default_factory=Tally)
    noted: list[Finding] = dataclasses.field(default_factory=list)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def on(self, generator: AutomaticMaskGenerator, name: str) -> int | str:
        """Writes the files of a picture; the number of masks, or what is wrong with it."""
        out = self.out
        try:
            data = self.album.read(name)
            picture = decode.decode_rgb(
                data,
                sixteen_bit=self.sixteen_bit,
                notice=lambda kind, text: self.noted.append(Finding(kind, f"{name}: {text}")),
            )
        except (DataError, DiskError, MissingError) as error:
            return str(error)
        # An empty mask is of no use, and its stability, 0 / 0, has no form in json.
        found = generator.generate(picture)
        records = [record for record in found if record["area"]]
        generator.tally.dropped["area"] += len(found) - len(records)
        with self.lock:
            self.tally.add(generator.tally)
        try:
            files.write(_file(out, name, ".jpg"), _jpeg(data, picture))
            if self.with_overlays:
                runs = [record["segmentation"] for record in records]
                scores = [record["predicted_iou"] for record in records]
                overlays.write(_overlay_file(out, name), picture, runs, scores)
            text = json.dumps(_annotations(name, picture, records), allow_nan=False)
            files.write(_file(out, name, ".json"), text)
        except OSError as error:
            raise MissingError(
                f"{out} cannot be written ({error}): make room, then run the same command"
            ) from error
        return len(records)


def merge(album: Album, out: Path) -> int:
    """Writes one COCO json of all pictures that are done; how many there are.

    Pictures lie beside it, under the names that it gives. A box reaches from edge to edge of its
    outermost pixels, as COCO has it, where SA-1B counts from pixel to pixel.
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
            more |= {"bbox": regions.rle_box(each["segmentation"]), "category_id": 1, "iscrowd": 0}
            annotations.append({**each, **more})
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
    overlays.write_sheet(out, ((name, _overlay_file(out, name)) for name in album.names))


def _file(out: Path, name: str, suffix: str) -> Path:
    return out / f"sa_{number(name)}{suffix}"


def _overlay_file(out: Path, name: str) -> Path:
    return out / overlays.FOLDER / _file(out, name, ".png").name


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
