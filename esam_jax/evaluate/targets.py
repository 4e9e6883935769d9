"""The objects of a picture that are to be found, chosen by a seed and by names alone.

Neither the place of a picture in its source nor that of an object among the others matters, so that
the same object is chosen, and gets the same clicks, in any order and beside any other data.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from esam_jax.data import prompts as drawing
from esam_jax.data.bitmaps import Bitmap, Grid
from esam_jax.data.findings import Finding
from esam_jax.data.mask_sets import Object, SoundMasks
from esam_jax.data.records import Record
from esam_jax.errors import PromptError
from esam_jax.predict.prompt import Prompt


@dataclasses.dataclass(frozen=True)
class Target:
    """An object of the picture `picture` that is to be found."""

    picture: str
    about: Object
    mask: Bitmap

    @property
    def fill(self) -> float:
        """IoU of the filled tight box with the mask: what no model is needed for."""
        x0, y0, x1, y1 = drawing.tight_box(self.mask)
        return self.mask.area() / float((x1 - x0 + 1) * (y1 - y0 + 1))

    def box(self, given: bool) -> Prompt:
        """The tight box, or the one of the annotations clipped to the picture.

        A mask of one row or column gets a tight box one pixel thick, as a box needs. PromptError
        where no usable box is given.
        """
        if not given:
            x0, y0, x1, y1 = drawing.tight_box(self.mask).tolist()
            return Prompt(box=[x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)])
        if self.about.box is None:
            raise PromptError.of("bbox", "is missing, or is no box with an inside")
        return Prompt(box=self.about.box).clipped(self.mask.height, self.mask.width)

    def generator(self, seed: int) -> np.random.Generator:
        """For clicks on this object."""
        return np.random.default_rng(_key(seed, self.picture, self.about))


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture with its targets, in the order of its annotations."""

    image: UInt8[np.ndarray, "H W 3"]
    targets: Sequence[Target]


def of(record: Record, *, most: int | None, seed: int, min_area_px: int, given: bool) -> Scene:
    """Up to `most` objects of a record; None for all.

    Those that are broken, or have no given box where one is needed, are findings of the record.
    DataError when it has masks and all are broken, or when its pixels are.
    """
    masks, picture = SoundMasks(record), record.picture
    grid = Grid.whole(picture.height, picture.width)
    about = [masks.describe(i) for i in range(len(masks))]
    order = sorted(range(len(masks)), key=lambda i: (_key(seed, record.name, about[i]), i))
    found: dict[int, Target] = {}
    for i in order:
        if len(found) == most:
            break
        mask = masks.sample(i, grid)
        if mask is None or mask.area() < min_area_px:
            continue
        target = Target(record.name, about[i], mask)
        if not given or _has_box(target, record):
            found[i] = target
    masks.require_some()
    return Scene(picture.rgb(), [found[i] for i in sorted(found)])


def _has_box(target: Target, record: Record) -> bool:
    try:
        target.box(given=True)
    except PromptError as error:
        text = f"{record.name}: the object {target.about.identity}: {error}"
        record.findings.append(Finding("objects_left_out", text))
        return False
    return True


def _key(seed: int, picture: str, about: Object) -> int:
    # A name may hold bytes that are not UTF-8.
    text = f"{seed}\0{picture}\0{about.identity}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:16], "big")
