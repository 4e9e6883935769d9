"""Records at a smaller size, for packs of pictures that are larger than a model sees them."""

import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image

from esam_jax.data import decode
from esam_jax.data.bitmaps import Bitmap, Grid
from esam_jax.data.labels import SemanticMap
from esam_jax.data.mask_sets import EmptyMaskError, MaskSet, Object, describe
from esam_jax.data.pictures import Encoded
from esam_jax.data.records import Record
from esam_jax.data.views import resize
from esam_jax.errors import ConfigError

QUALITY = 95  # of JPEG, without subsampling of colours


def record(found: Record, max_side: int | None) -> Record:
    """A record of which no side is longer; itself where none is, or there is no limit.

    The picture becomes a JPEG, reduced as Pillow's Lanczos does it; masks and classes keep, of each
    new pixel, the old one at its centre. ConfigError for boundaries, which that would tear.
    """
    picture = found.picture
    height, width = picture.height, picture.width
    if max_side is None or max(height, width) <= max_side:
        return found
    if "boundaries" in found.annotations:
        raise ConfigError(
            f"{found.name} has boundaries, which cannot be reduced: leave --max-side out"
        )
    scale = max_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(picture.rgb()).resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    data = buffer.getvalue()
    small = Encoded(found.name, data, decode.header(data), noted=found.findings)
    rows, columns = resize.nearest(height, size[1]), resize.nearest(width, size[0])
    annotations: dict[str, Any] = dict(found.annotations)
    if "masks" in annotations:
        annotations["masks"] = _Smaller(
            found.name, annotations["masks"], Grid(height, width, rows, columns)
        )
    if "semantic" in annotations:
        classes: SemanticMap = annotations["semantic"]
        values = np.ascontiguousarray(classes.values.take(rows, 0).take(columns, 1))
        annotations["semantic"] = dataclasses.replace(classes, values=values)
    return dataclasses.replace(found, picture=small, annotations=annotations)


@dataclasses.dataclass(frozen=True)
class _Smaller:
    """Masks on a grid of their picture, as a picture of its own, which is asked for as it is."""

    name: str
    masks: MaskSet
    grid: Grid

    def __len__(self) -> int:
        return len(self.masks)

    def sample(self, index: int, grid: Grid) -> Bitmap:
        mask = self.masks.sample(index, self.grid)
        if not mask.area():
            raise EmptyMaskError(
                f"{self.name}: mask {index} covers no pixel of the smaller picture"
            )
        dense = mask.dense().take(grid.rows, 0).take(grid.columns, 1)
        return Bitmap.of(dense)

    def describe(self, index: int) -> Object:
        about = describe(self.masks, index)
        if about.box is None:
            return about
        across, down = (
            len(new) / old
            for new, old in (
                (self.grid.columns, self.grid.width),
                (self.grid.rows, self.grid.height),
            )
        )
        x0, y0, x1, y1 = about.box
        return dataclasses.replace(about, box=(x0 * across, y0 * down, x1 * across, y1 * down))
