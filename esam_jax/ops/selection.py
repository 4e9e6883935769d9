"""Which of many masks to keep: how stable each is, its box, and non-maximum suppression.

Traceable, in fixed shapes. Source: segment-anything, `utils/amg.py`, and the CPU algorithm of
torchvision's `nms`, both to the last bit in float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from esam_jax.ops import bits

_BLOCK = 1024  # boxes that are compared with all others at once


def stability(
    logits: Float[Array, "*X H W"], threshold: float = 0.0, offset: float | Array = 1.0
) -> Float[Array, "*X"]:
    """IoU of the masks at threshold + offset and threshold - offset; NaN where both are empty."""
    high, low = areas(logits, threshold, offset)
    return high / low


def areas(
    logits: Float[Array, "*X H W"], threshold: float, offset: float | Array
) -> tuple[Int[Array, "*X"], Int[Array, "*X"]]:
    """Pixels of the masks at threshold + offset and at threshold - offset.

    The first mask lies within the second, so that stability is the ratio of the two.
    """
    H, W = logits.shape[-2:]
    # Both counts in the halves of a byte, 15 rows at a time: on a CPU, a twentieth of two sums.
    blocks = -(-H // 15)
    pairs = (logits > threshold + offset).astype(jnp.uint8)
    pairs += (logits > threshold - offset).astype(jnp.uint8) << 4
    pairs = pairs.reshape(-1, H, W)
    pairs = jnp.pad(pairs, ((0, 0), (0, blocks * 15 - H), (0, 0))).reshape(-1, blocks, 15, W)
    sums = pairs.sum(2, dtype=jnp.uint8)
    shape = logits.shape[:-2]
    high, low = (
        jnp.sum(half, (1, 2), dtype=jnp.int32).reshape(shape) for half in (sums & 15, sums >> 4)
    )
    return high, low


def boxes(masks: Bool[Array, "*X H W"]) -> Int[Array, "*X 4"]:
    """First and last column and row of each mask, (x0, y0, x1, y1) inclusive; zeros where empty."""
    box, some = extents(masks)
    return jnp.where(some[..., None], box, 0)


def extents(masks: Bool[Array, "*X H W"]) -> tuple[Int[Array, "*X 4"], Bool[Array, "*X"]]:
    """As `boxes`, with no meaning where a mask is empty, and which are not."""
    H, W = masks.shape[-2:]
    packed = bits.pack(masks.reshape(-1, H, W))  # on a CPU, a third of the time
    rows = jax.lax.reduce(packed, np.uint8(0), jax.lax.bitwise_or, (2,))
    x0, x1 = _ends((packed > 0).any(1))
    y0, y1 = _ends(bits.unpack(rows, H))
    shape = masks.shape[:-2]
    box = jnp.stack([x0, y0, x1, y1], axis=-1).reshape(*shape, 4)
    return box, (rows > 0).any(1).reshape(shape)


def nms(
    boxes: Float[Array, "X 4"], scores: Float[Array, " X"], threshold: float
) -> tuple[Int[Array, " X"], Bool[Array, " X"]]:
    """The order by falling score, and which in that order survive.

    A box goes when its IoU with a better survivor is above `threshold`; equal scores keep their
    order. Rows with a score of -inf are padding: they never survive and suppress nothing.
    """
    order = jnp.argsort(-scores, stable=True)
    block = min(_BLOCK, max(1, len(scores)))
    possible, spare = scores[order] > -jnp.inf, -len(scores) % block
    sorted_, possible = jnp.pad(boxes[order], ((0, spare), (0, 0))), jnp.pad(possible, (0, spare))
    limit = _at_most(threshold)

    def visit(i: Array, alive: Array) -> Array:
        """A block of boxes, with all better ones decided, and what its survivors suppress."""
        begin = i * block
        own = lax.dynamic_slice_in_dim(sorted_, begin, block)
        beaten = _overlap_more(own, sorted_, limit)
        beaten &= (begin + jnp.arange(block))[:, None] < jnp.arange(len(sorted_))
        inside = lax.dynamic_slice_in_dim(beaten, begin, block, axis=1)
        waiting = lax.dynamic_slice_in_dim(alive, begin, block)
        # Its survivors are those that no survivor suppresses. The first k are right after k steps,
        # so what no longer changes is right; that takes as many steps as boxes suppress in turn.
        with jax.named_scope("survivors"):
            left, _ = lax.while_loop(
                lambda state: (state[0] != state[1]).any(),
                lambda state: (waiting & ~(state[0][:, None] & inside).any(0), state[0]),
                (waiting, ~waiting),
            )
        # Better boxes are beaten by none of these.
        alive &= ~(left[:, None] & beaten).any(0)
        return alive

    alive = lax.fori_loop(0, len(sorted_) // block, visit, possible)
    return order, alive[: len(scores)]


def _overlap_more(
    some: Float[Array, "L 4"], others: Float[Array, "X 4"], limit: np.float32
) -> Bool[Array, "L X"]:
    """Whether the IoU of each with each other is above the limit."""
    x0, y0, x1, y1 = some.T[:, :, None]
    u0, v0, u1, v1 = others.T
    wide = jnp.minimum(u1, x1) - jnp.maximum(u0, x0)
    high = jnp.minimum(v1, y1) - jnp.maximum(v0, y0)
    inside = jnp.maximum(wide, 0) * jnp.maximum(high, 0)
    both = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0)
    # 0 / 0 of two empty boxes is NaN, which is above nothing: both stay, as in the original.
    return inside / (both - inside) > limit


def _at_most(threshold: float) -> np.float32:
    """The largest float32 that is not above it: x > this as float32 is x > threshold as float64."""
    rounded = np.float32(threshold)
    return rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-np.inf))


def _ends(line: Bool[Array, "*X L"]) -> tuple[Int[Array, "*X"], Int[Array, "*X"]]:
    """Index of the first and of the last true one."""
    first = jnp.argmax(line, axis=-1)
    last = line.shape[-1] - 1 - jnp.argmax(line[..., ::-1], axis=-1)
    return first, last
