"""Edge maps of every picture of an album: grey PNGs of 16 bits, which `esam evaluate edges` reads.

`NAME.png` for each picture, below the folders of its name, written complete: a picture whose map is
there is done, so the same command resumes after a kill. 16 bits, since 8 would move some pixels
across one of the benchmark's 99 thresholds. The devices of one host take the next picture each.
"""

import dataclasses
import errno
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from esam_jax import files, places
from esam_jax.data import decode
from esam_jax.data.archives import Album
from esam_jax.data.findings import Finding
from esam_jax.errors import DataError, DiskError, MissingError
from esam_jax.predict import devices, draw, overlays
from esam_jax.predict.sam import Sam
from esam_jax.predict.zero_shot import edges

SETTINGS_FILE = "edges.json"
RESULTS = ("**/*.png",)  # a folder where another program wrote any is refused
_MOST = 2**16 - 1
_LONG_PX = 1024  # of an overlay
_GAP = 8  # between the picture and its map


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides about a map, with the model; the arguments of `edges.edges`."""

    points_per_side: int = edges.POINTS_PER_SIDE
    box_nms_thresh: float = edges.BOX_NMS_THRESH
    thin: bool = True

    def words(self) -> str:
        """The part of the protocol that makes maps."""
        side = self.points_per_side
        thinned = "thinned along the gradient" if self.thin else "not thinned"
        return (
            f"{side} x {side} clicks, all candidates, none left out for its quality, box NMS "
            f"{self.box_nms_thresh:g} (not published), Sobel of probabilities on outer boundaries, "
            f"maximum, scaled to [0, 1], {thinned}"
        )


def require_distinct(names: Sequence[str]) -> None:
    """DataError where the maps of two pictures would be one file, or lie among the overlays."""
    seen: dict[PurePosixPath, str] = {}
    for name in names:
        stem = PurePosixPath(name).with_suffix("")
        if stem.parts[0] == overlays.FOLDER and len(stem.parts) > 1:
            raise DataError(f"{name} would lie among the overlays: rename its folder")
        other = seen.setdefault(stem, name)
        if other != name:
            raise DataError(f"the maps of {name} and {other} would be one file: rename one of them")


def waiting(album: Album, out: Path, part: tuple[int, int] = (0, 1)) -> list[str]:
    """The names that are still to be done by host `part[0]` of `part[1]`.

    What a killed call left unfinished beside them is removed.
    """
    index, count = part
    names = [name for name in album.names[index::count] if not places.is_there(file(out, name))]
    for folder in {place(out, name).parent for place in (file, overlay_file) for name in names}:
        if os.path.isdir(folder):  # not a name too long
            files.remove_unfinished(folder)
    return names


def run(
    sam: Sam,
    album: Album,
    names: Sequence[str],
    out: Path,
    settings: Settings,
    *,
    points_per_batch: int = 64,
    with_overlays: bool = False,
    sixteen_bit: decode.SixteenBit = "upper_byte",
    noted: list[Finding] | None = None,
) -> Iterator[tuple[str, int | str]]:
    """(name, pixels that are edges) for each map that is written, or (name, what is wrong).

    A broken picture is reported and left out. Each local device of JAX has its own copy of the
    weights; answers come in the order of names all the same. `noted` gets what was found in
    decoding, in any order.
    """
    noted = [] if noted is None else noted

    def on(sam: Sam, name: str) -> int | str:
        try:
            picture = decode.decode_rgb(
                album.read(name),
                sixteen_bit=sixteen_bit,
                notice=lambda kind, text: noted.append(Finding(kind, f"{name}: {text}")),
            )
        except (DataError, DiskError, MissingError) as error:
            return str(error)
        found = edges.edges(
            sam, picture, points_per_batch=points_per_batch, **dataclasses.asdict(settings)
        )
        try:
            if with_overlays:
                write(overlay_file(out, name), draw.png(beside(picture, found)))
            # Last: a picture whose map is there is done.
            write(file(out, name), png(found))
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return "its name is too long for NAME.png: rename the picture"
            raise MissingError(
                f"{out} cannot be written ({error}): make room, then run the same command"
            ) from error
        return int(np.count_nonzero(found))

    yield from devices.share(names, sam, on, count=len(names), ahead=3)


def sheet(album: Album, out: Path) -> None:
    """Writes one picture of the first overlays, under the names of their pictures."""
    overlays.write_sheet(out, ((name, overlay_file(out, name)) for name in album.names))


def file(out: Path, name: str) -> Path:
    """The map of a picture."""
    return out / PurePosixPath(name).with_suffix(".png")


def overlay_file(out: Path, name: str) -> Path:
    return out / overlays.FOLDER / PurePosixPath(name).with_suffix(".png")


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, content)


def png(found: Float[np.ndarray, "H W"]) -> bytes:
    """A map from 0 to 1 as the bytes of a grey PNG of 16 bits; an edge is never 0."""
    levels = np.where(found > 0, np.maximum(np.rint(found * _MOST), 1), 0).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()


def beside(
    picture: UInt8[np.ndarray, "H W 3"], *maps: Float[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The picture and maps of it, dark lines on white, at most 1024 pixels on the long side each.

    A map that is made smaller keeps its strongest lines: a pixel is as dark as the darkest of those
    that it is made of.
    """
    height, width = picture.shape[:2]
    scale = min(1.0, _LONG_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    cells = [np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))]
    for each in maps:
        cells.append(np.repeat((255 - _reduced(each, size))[..., None], 3, axis=2))
    gap = np.full((size[1], _GAP, 3), 255, np.uint8)
    parts = [part for cell in cells for part in (gap, cell)][1:]
    return np.concatenate(parts, axis=1)


def _reduced(found: Float[np.ndarray, "H W"], size: tuple[int, int]) -> UInt8[np.ndarray, "_ _"]:
    """A map from 0 to 1 at this width and height, which are at most its own."""
    levels = np.rint(255 * found).astype(np.uint8)
    for axis, new in ((0, size[1]), (1, size[0])):
        first = np.arange(new) * levels.shape[axis] // new
        levels = np.maximum.reduceat(levels, first, axis=axis)
    return levels
