"""Losses and overlaps, one value per example or mask, always in float32."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from esam_jax.ops import masking


def feature_mse(pred: Float[Array, "B *N T"], target: Float[Array, "B *N T"]) -> Float[Array, " B"]:
    """Squared error, mean over tokens and channels.

    EfficientSAM's equation 1 (arXiv:2312.00863) sums over channels; the mean differs by a factor.
    """
    error = pred.astype(jnp.float32) - target.astype(jnp.float32)
    return (error**2).mean(axis=range(1, error.ndim))


def feature_cosine(
    pred: Float[Array, "B *N T"], target: Float[Array, "B *N T"]
) -> Float[Array, " B"]:
    """1 - cosine similarity of each token, mean over tokens (arXiv:2312.00863, table 6)."""
    pred, target = (_unit(x.astype(jnp.float32)) for x in (pred, target))
    distance = 1 - (pred * target).sum(-1)
    return distance.mean(axis=range(1, distance.ndim))


def feature_l1(pred: Float[Array, "B *N T"], target: Float[Array, "B *N T"]) -> Float[Array, " B"]:
    """Absolute error, mean over tokens and channels."""
    error = jnp.abs(pred.astype(jnp.float32) - target.astype(jnp.float32))
    return error.mean(axis=range(1, error.ndim))


def feature_unit_mse(
    pred: Float[Array, "B *N T"], target: Float[Array, "B *N T"]
) -> Float[Array, " B"]:
    """`feature_mse` of tokens divided by their length, which is 2 / T times `feature_cosine`."""
    return feature_mse(*(_unit(x.astype(jnp.float32)) for x in (pred, target)))


def feature_unit_l1(
    pred: Float[Array, "B *N T"], target: Float[Array, "B *N T"]
) -> Float[Array, " B"]:
    """`feature_l1` of tokens divided by their length: DMAE's alignment (arXiv:2208.12256)."""
    return feature_l1(*(_unit(x.astype(jnp.float32)) for x in (pred, target)))


# By the names that configs have for them.
FEATURES: Mapping[str, Callable[[Array, Array], Array]] = {
    "mse": feature_mse,
    "l1": feature_l1,
    "cosine": feature_cosine,
    "unit_mse": feature_unit_mse,
    "unit_l1": feature_unit_l1,
}


def of_the_mean(
    loss: Callable[[Array, Array], Array], target: Float[Array, "B *N T"]
) -> Float[Array, " B"]:
    """The loss of predicting, for every token, the mean of all tokens of the batch.

    Of `feature_mse` that is the variance of the target, mean over channels.
    """
    target = target.astype(jnp.float32)
    mean = target.mean(axis=range(target.ndim - 1))
    return loss(jnp.broadcast_to(mean, target.shape), target)


def _unit(x: Float[Array, "*X T"]) -> Float[Array, "*X T"]:
    # The floor is under the square root, so that a zero vector has a gradient of zero, not NaN.
    return x * jax.lax.rsqrt(jnp.maximum((x**2).sum(-1, keepdims=True), 1e-12))


def masked_mse(
    pred_BNY: Float[Array, "B N Y"], target_BNY: Float[Array, "B N Y"], masked_BU: Int[Array, "B U"]
) -> Float[Array, " B"]:
    """Squared error of the removed patches, mean over them and their values (MAE, forward_loss).

    `masked_BU` holds their raster indices. The target is the pixels that `ops.patches.patchify`
    gives, or with MAE's norm_pix_loss those that `ops.patches.standardise` makes of them.
    """
    return feature_mse(*(masking.gather(x, masked_BU) for x in (pred_BNY, target_BNY)))


def focal(
    logits: Float[Array, "*X H W"], target: Num[Array, "*X H W"] | Bool[Array, "*X H W"]
) -> Float[Array, " *X"]:
    """Focal loss (arXiv:1708.02002) with alpha 0.25 and gamma 2, mean over pixels."""
    logits, target = logits.astype(jnp.float32), target.astype(jnp.float32)
    cross_entropy = jax.nn.softplus(logits) - logits * target
    # Probability given to the wrong class, without the cancellation of 1 - p.
    wrong = jax.nn.sigmoid(jnp.where(target > 0.5, -logits, logits))
    alpha = jnp.where(target > 0.5, 0.25, 0.75)
    return (alpha * wrong**2 * cross_entropy).mean((-2, -1))


def dice(
    logits: Float[Array, "*X H W"], target: Num[Array, "*X H W"] | Bool[Array, "*X H W"]
) -> Float[Array, " *X"]:
    """1 - (2 |p t| + 1) / (|p| + |t| + 1) (arXiv:1606.04797, smoothed as in MaskFormer)."""
    p, t = jax.nn.sigmoid(logits.astype(jnp.float32)), target.astype(jnp.float32)
    overlap = (p * t).sum((-2, -1))
    return 1 - (2 * overlap + 1) / (p.sum((-2, -1)) + t.sum((-2, -1)) + 1)


def mask_iou(pred: Bool[Array, "*X H W"], target: Bool[Array, "*X H W"]) -> Float[Array, " *X"]:
    """Intersection over union of binary masks; 0 when both are empty."""
    overlap = (pred & target).sum((-2, -1))
    union = (pred | target).sum((-2, -1))
    return overlap / jnp.maximum(union, 1).astype(jnp.float32)
