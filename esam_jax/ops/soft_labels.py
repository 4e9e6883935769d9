"""Labels of classification as distributions: smoothed, and mixed as their pictures are.

Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899) as timm computes them (timm/data/mixup.py):
one mixture for all pictures of a batch, each with the picture that is as far from the batch's end
as it is from its beginning. Labels are smoothed first, then mixed.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer

from esam_jax.ops import rectangles


def smoothed(labels_B: Integer[Array, " B"], classes: int, smoothing: float) -> Float[Array, "B _"]:
    """`smoothing` of the mass spread evenly over all classes, the rest on the label: float32.

    A label that is no class has no mass of its own.
    """
    off = smoothing / classes
    return jnp.where(jax.nn.one_hot(labels_B, classes, dtype=bool), 1.0 - smoothing + off, off)


def mixed(x: Float[Array, "B *X"], kept_B: Float[Array, " B"]) -> Float[Array, "B *X"]:
    """Each row times its share, plus the row opposite of it in the batch times the rest."""
    kept = kept_B.reshape(-1, *[1] * (x.ndim - 1))
    return x * kept + x[::-1] * (1.0 - kept)


def mixed_inside(
    pixels_BHW3: Float[Array, "B H W 3"], kept_B: Float[Array, " B"], box_B4: Int[Array, "B 4"]
) -> Float[Array, "B H W 3"]:
    """`mixed` inside a rectangle alone (`ops.rectangles`): of `EVERYTHING` for mixup; CutMix keeps
    nothing of what is inside."""
    _, height, width, _ = pixels_BHW3.shape
    seen = rectangles.inside(box_B4, height, width)
    return jnp.where(seen, mixed(pixels_BHW3, kept_B), pixels_BHW3)


def cut(
    share: Float[Array, ""], y: Int[Array, ""], x: Int[Array, ""], height: int, width: int
) -> tuple[Int[Array, " 4"], Float[Array, ""]]:
    """CutMix's rectangle around (x, y), 1 - share of the picture, and the share that it leaves.

    What lies outside of the picture is cut off, so that more may be left. An uneven number of rows
    or columns loses one, as in timm 0.3.2, which MAE's recipe names; timm 1.0 keeps it.
    """
    side = jnp.sqrt(1.0 - share)
    half_height, half_width = (jnp.int32(size * side) // 2 for size in (height, width))
    top, bottom = jnp.clip(y - half_height, 0, height), jnp.clip(y + half_height, 0, height)
    left, right = jnp.clip(x - half_width, 0, width), jnp.clip(x + half_width, 0, width)
    area = (bottom - top) * (right - left)
    return jnp.stack([top, left, bottom, right]), 1.0 - area / (height * width)


def cross_entropy(
    logits_BX: Float[Array, "B X"], target_BX: Float[Array, "B X"]
) -> Float[Array, " B"]:
    """Of a distribution over classes, per picture; float32."""
    return -(target_BX * jax.nn.log_softmax(logits_BX.astype(jnp.float32))).sum(-1)


def hard(logits_BX: Float[Array, "B X"]) -> Float[Array, "B X"]:
    """The likeliest class alone, the first of several, as a distribution: float32."""
    return smoothed(logits_BX.argmax(-1), logits_BX.shape[-1], 0.0)


def divergence(
    logits_BX: Float[Array, "B X"], teacher_BX: Float[Array, "B X"], temperature: float
) -> Float[Array, " B"]:
    """Of a teacher's softened distribution from a student's, per picture and class; float32.

    The Kullback-Leibler divergence times the square of the temperature, divided by the number of
    classes as in DeiT's losses.py; equation 2 of its paper (arXiv:2012.12877) does not divide.
    """
    student, teacher = (
        jax.nn.log_softmax(x.astype(jnp.float32) / temperature) for x in (logits_BX, teacher_BX)
    )
    return temperature**2 * (jnp.exp(teacher) * (teacher - student)).mean(-1)
