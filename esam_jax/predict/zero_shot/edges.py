"""Edges of a picture, from the masks of segment-everything (arXiv:2304.02643, appendix D.2).

A grid of 16 x 16 clicks, all three candidates of each, none left out for its quality; suppression
of duplicates; the Sobel gradient of every probability map, kept on the outer boundary of its mask
alone; the highest of all masks at each pixel, scaled to [0, 1]; thinned by non-maximum suppression.

The paper leaves three things open, which are decided here. Duplicates overlap by 0.7 or more, as in
segment-anything's generator. The outer boundary of a mask, that of its holes included, is made of
the pixels outside that have one of it above, below, left or right: a line of one pixel, in which
even diagonals have no steps. Thinning is Canny's (PAMI 1986): a pixel stays where neither neighbour
along the gradient is stronger, on straight lines between those that the direction passes.

Gradients are found tile by tile on the device, some masks at a time, with a running maximum: memory
grows with the picture alone, and pictures of all sizes share a few compiled programs (`tiles.py`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int

from esam_jax.machine import out_of_memory
from esam_jax.ops.positions import Taps
from esam_jax.predict import full_size, tiles
from esam_jax.predict.everything.candidates import Candidates
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.full_size import Axes
from esam_jax.predict.sam import Sam
from esam_jax.predict.tiles import Cover

POINTS_PER_SIDE = 16
BOX_NMS_THRESH = 0.7  # not published: segment-anything's default
_AT_ONCE = 64  # masks in one call, so that their number compiles nothing
_LEAST_ROOM = 4  # tiles of the picture in one program, or a power of two times as many


@out_of_memory.advice()
def edges(
    sam: Sam,
    picture: Any,
    *,
    points_per_side: int = POINTS_PER_SIDE,
    box_nms_thresh: float = BOX_NMS_THRESH,
    points_per_batch: int = 64,
    thin: bool = True,
) -> Float32[np.ndarray, "H W"]:
    """How strong an edge each pixel of a picture is: float32 in [0, 1], 1 at the strongest.

    picture: uint8 RGB [H, W, 3]. All zeros where no mask has a boundary. `thin` leaves lines of
    about one pixel, as the published protocol has them. Arguments are those of the
    `AutomaticMaskGenerator`: PromptError names a wrong one, DataError another picture, and
    DeviceMemoryError gives a remedy when the device is full.
    """
    generator = AutomaticMaskGenerator(
        sam,
        points_per_side=points_per_side,
        points_per_batch=points_per_batch,
        pred_iou_thresh=0.0,  # which leaves nothing out, whatever it is
        stability_score_thresh=0.0,
        box_nms_thresh=box_nms_thresh,
    )
    [found] = generator.survivors(picture)
    strength, right, down = outlines(found.parts, found.axes)
    if thin:
        strength = np.where(highest(strength, right, down), strength, 0)
    most = float(strength.max())
    # The lowest value is 0 unless every pixel is on a boundary: scaling by the highest is linear
    # scaling, and keeps what is no edge at 0 even then.
    return (strength / np.float32(most or 1.0)).astype(np.float32)


def outlines(
    parts: list[Candidates], axes: Axes
) -> tuple[Float32[np.ndarray, "H W"], Float32[np.ndarray, "H W"], Float32[np.ndarray, "H W"]]:
    """The highest gradient of all masks on their outer boundaries, and its two components.

    Length, towards the right and downwards, in probability; Sobel's weights, 8 for one a pixel.
    Zero where no mask has a boundary.
    """
    layout = _Layout.of(axes)
    best = layout.nothing()
    for part in parts:
        calls = -(-len(part) // _AT_ONCE)
        for i, logits in enumerate(part.in_parts([_AT_ONCE] * calls)):
            count = np.int32(min(_AT_ONCE, len(part) - i * _AT_ONCE))
            best = _strongest(
                *(logits, count, layout.cover, best), side=layout.side, group=layout.group
            )
    return layout.assembled(best.length), layout.assembled(best.right), layout.assembled(best.down)


def highest(
    strength: Float[np.ndarray, "H W"],
    right: Float[np.ndarray, "H W"],
    down: Float[np.ndarray, "H W"],
) -> Bool[np.ndarray, "H W"]:
    """Where no neighbour along the gradient (`right`, `down`) is stronger, on either side.

    Beyond the picture there is nothing. Of equal neighbours both stay.
    """
    padded = np.pad(strength, 1)
    y, x = np.nonzero(strength)
    across, along = right[y, x], down[y, x]
    step_x, step_y = np.sign(across).astype(int), np.sign(along).astype(int)
    across, along = abs(across), abs(along)
    # One step along the longer component; the shorter one says how far from there to the diagonal.
    flat = across >= along
    slant = np.minimum(across, along) / np.maximum(np.maximum(across, along), np.float32(1e-30))
    stays = np.ones(len(y), bool)
    for way in (1, -1):
        diagonal = padded[y + 1 + way * step_y, x + 1 + way * step_x]
        straight = padded[
            y + 1 + np.where(flat, 0, way * step_y), x + 1 + np.where(flat, way * step_x, 0)
        ]
        stays &= strength[y, x] >= (1 - slant) * straight + slant * diagonal
    found = np.zeros(strength.shape, bool)
    found[y, x] = stays
    return found


# --------------------------------------------------------------------------------------- tiles


class _Gradient(NamedTuple):
    """Of the mask whose gradient is longest, for each pixel of each tile."""

    length: Any  # [tiles, rows, columns]
    right: Any
    down: Any


class _Layout(NamedTuple):
    """A picture as tiles that lie side by side, each with a margin of its neighbours' pixels.

    At the edges of the picture, where a margin has no neighbour, its own outermost pixels are
    there twice: a mask that ends with the picture has no boundary there.
    """

    cover: Cover
    side: int  # of a tile, with its margins
    size: tuple[int, int]

    @classmethod
    def of(cls, axes: Axes) -> "_Layout":
        side = axes.side
        laid = Axes(_with_margins(axes.rows, side), _with_margins(axes.columns, side))
        return cls(laid.cover, side, axes.size)

    @property
    def tiles(self) -> tuple[int, int]:
        """How many lie above and beside each other."""
        height, width = self.size
        return -(-height // (self.side - 2)), -(-width // (self.side - 2))

    @property
    def group(self) -> int:
        """Masks whose gradients are in memory together: fewer than are measured at once, since
        each needs several arrays of its size."""
        on_cpu = jax.default_backend() == "cpu"
        return max(1, full_size.group(self.side, _AT_ONCE, on_cpu=on_cpu) // 4)

    def nothing(self) -> _Gradient:
        """Before the first mask, with room for a power of two of tiles."""
        down, across = self.tiles
        room = max(_LEAST_ROOM, 1 << (down * across - 1).bit_length())
        shape = (room, self.side - 2, self.side - 2)
        return _Gradient(*(jnp.zeros(shape) for _ in _Gradient._fields))

    def assembled(self, tiles: Float[Array, "X s s"]) -> Float32[np.ndarray, "H W"]:
        """The picture that the tiles make up, column by column of them."""
        (down, across), (height, width) = self.tiles, self.size
        columns = np.asarray(tiles)[: down * across].reshape(across, down, *tiles.shape[1:])
        laid = columns.transpose(1, 2, 0, 3).reshape(down * (self.side - 2), -1)
        return laid[:height, :width]


def _with_margins(taps: Taps, side: int) -> Taps:
    """Rows or columns of all tiles, one tile after the other."""
    inner, length = side - 2, len(taps.places)
    first = np.arange(-(-length // inner)) * inner - 1
    which = np.clip(first[:, None] + np.arange(side), 0, length - 1).ravel()
    return Taps(*(part[which] for part in taps))


# ------------------------------------------------------------------------------------ programs


@partial(jax.jit, static_argnames=("side", "group"), donate_argnames="best")
def _strongest(
    logits: Float[Array, "X h w"],
    count: Int[Array, ""],
    cover: Cover,
    best: _Gradient,
    *,
    side: int,
    group: int,
) -> _Gradient:
    """`best` with the first `count` masks; those beyond are copies of the last."""
    down = cover.size[0] // side

    def visit(
        best: _Gradient, corner: Array, nothing: Array, made: Callable[[], Array]
    ) -> _Gradient:
        x, y = corner // side
        place = x * down + y
        before = _Gradient(*(lax.dynamic_index_in_dim(each, place, 0, False) for each in best))

        def longest() -> _Gradient:
            found = _on_boundaries(tiles.stored(made))
            # Of equal ones the earlier mask's.
            longer = found.length > before.length
            return _Gradient(*(jnp.where(longer, a, b) for a, b in zip(found, before, strict=True)))

        after = lax.cond(nothing, lambda: before, longest)
        return _Gradient(
            *(
                lax.dynamic_update_index_in_dim(a, b, place, 0)
                for a, b in zip(best, after, strict=True)
            )
        )

    def of_group(i: Array, best: _Gradient) -> _Gradient:
        some = lax.dynamic_slice_in_dim(logits, i * group, group)
        # Tiles without a pixel of any mask, margins included, have no boundary.
        return tiles.each_tile(some, cover, side, tiles.THRESHOLD, best, visit)

    with jax.named_scope("outlines"):
        return lax.fori_loop(0, (count + group - 1) // group, of_group, best)


def _on_boundaries(logits: Float[Array, "X s s"]) -> _Gradient:
    """The longest gradient at each pixel of the inside of a tile, on outer boundaries alone."""
    maps = tiles.stored(lambda: jax.nn.sigmoid(logits))
    beside = maps[:, :, 2:] - maps[:, :, :-2]
    below = maps[:, 2:] - maps[:, :-2]
    right = beside[:, :-2] + 2 * beside[:, 1:-1] + beside[:, 2:]
    down = below[:, :, :-2] + 2 * below[:, :, 1:-1] + below[:, :, 2:]
    inside = tiles.inside(logits, zero_is_inside=False)
    near = inside[:, :-2, 1:-1] | inside[:, 2:, 1:-1]
    near |= inside[:, 1:-1, :-2] | inside[:, 1:-1, 2:]
    on = near & ~inside[:, 1:-1, 1:-1]
    length = jnp.sqrt(right**2 + down**2)
    length = jnp.where(on & (length > 0), length, 0)  # no NaN of a broken mask
    which = length.argmax(0)[None]
    return _Gradient(*(jnp.take_along_axis(x, which, 0)[0] for x in (length, right, down)))
