"""Multinomial logistic regression on frozen features (CLIP, arXiv:2103.00020, appendix A.3).

Features are standardised by those that are learned from. The strength of L2 is chosen on a part of
them that is held out, and all are learned from in the end.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Integer

from esam_jax import sharding
from esam_jax.evaluate import picture_rows

HELDOUT = 0.2  # of the pictures of each class
_STRENGTHS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)  # powers of ten that are tried first
_LAST_STEP = 0.125  # powers of ten between strengths that are compared in the end
_ITERATIONS = 1000  # at most, as in CLIP's
_CONVERGED = 1e-5  # the largest part of the gradient of the mean loss
_ROWS = 8192  # at once, by each device: what is held beside the features is their logits


@dataclasses.dataclass(frozen=True)
class Probe:
    """What is learned: logits are ((features - mean) / deviation) @ weights + bias.

    `strength` is that of L2, in units of the sum of losses over all pictures: CLIP's lambda.
    `tried` has the share of held-out pictures that each strength has right.
    """

    mean: Float[np.ndarray, " D"]
    deviation: Float[np.ndarray, " D"]
    weights: Float[np.ndarray, "D _"]
    bias: Float[np.ndarray, " _"]
    strength: float
    tried: dict[float, float]

    def logits(self, features: Float[np.ndarray, "X D"]) -> Float[np.ndarray, "X _"]:
        """float32; a part at a time needs the less memory."""
        found = (features - self.mean) / self.deviation @ self.weights + self.bias
        return found.astype(np.float32)


def learned(
    features: Float[np.ndarray, "X D"], labels: Integer[np.ndarray, " X"], classes: int, seed: int
) -> Probe:
    """The probe of these features and the numbers of their classes; the same for the same."""
    mean, deviation = _moments(features)
    standard = (features - mean) / deviation
    held = held_out(labels, seed)
    tried = _search(standard, labels, classes, held) if held.any() else {0.0: (0.0, 0.0)}
    best = max(tried, key=lambda power: (*tried[power], power))
    strength = 10.0**best
    weights, bias = fitted(standard, labels, classes, strength)
    shares = {10.0**power: tried[power][0] for power in sorted(tried)} if held.any() else {}
    return Probe(mean, deviation, weights, bias, strength, shares)


def _moments(features: Float[np.ndarray, "X D"]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each, 1 for what never varies and so says nothing."""
    mean, squares = features.mean(0, dtype=np.float64), np.zeros(features.shape[1])
    for first in range(0, len(features), _ROWS):  # no copy of all in float64
        squares += ((features[first : first + _ROWS] - mean) ** 2).sum(0)
    deviation = np.sqrt(squares / len(features)).astype(np.float32)
    small = 1e-6 * np.abs(mean) + np.finfo(np.float32).tiny  # what rounding makes of a constant
    return mean.astype(np.float32), np.where(deviation > small, deviation, np.float32(1))


def held_out(labels: Integer[np.ndarray, " X"], seed: int) -> np.ndarray:
    """Which pictures choose the strength: a fifth of each class, one at least where it has two."""
    chosen, rng = np.zeros(len(labels), bool), np.random.default_rng(seed)
    for number in np.unique(labels):
        there = rng.permutation(np.flatnonzero(labels == number))
        if len(there) > 1:
            chosen[there[: max(1, round(HELDOUT * len(there)))]] = True
    return chosen


def _search(
    features: np.ndarray, labels: np.ndarray, classes: int, held: np.ndarray
) -> dict[float, tuple[float, float]]:
    """Powers of ten -> (share that is right, -loss) of what is held out: a coarse grid, then ever
    smaller steps around the best."""
    tried: dict[float, tuple[float, float]] = {}
    part, rest = (features[~held], labels[~held]), (features[held], labels[held])

    def attempt(power: float) -> None:
        if power not in tried:
            # As strong for each picture as it will be when all are learned from.
            strength = 10.0**power * len(part[1]) / len(labels)
            weights, bias = fitted(*part, classes, strength)
            logits = (rest[0] @ weights + bias).astype(np.float64)
            right = float((logits.argmax(1) == rest[1]).mean())
            tried[power] = (right, -_mean_loss(logits, rest[1]))

    for power in _STRENGTHS:
        attempt(power)
    step = 1.0
    while step >= _LAST_STEP:
        best = max(tried, key=lambda power: (*tried[power], power))
        attempt(best - step)
        attempt(best + step)
        step /= 2
    return tried


def _mean_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    own = shifted[np.arange(len(labels)), labels]
    return float((np.log(np.exp(shifted).sum(1)) - own).mean())


def fitted(
    features: Float[np.ndarray, "X D"],
    labels: Integer[np.ndarray, " X"],
    classes: int,
    strength: float,
) -> tuple[Float[np.ndarray, "D _"], Float[np.ndarray, " _"]]:
    """Weights and bias with the least sum of cross-entropies + strength / 2 * sum of weights^2.

    By L-BFGS, over all devices of this host, from zero. The minimum is the only one but for what
    all biases have in common, which stays 0.
    """
    from scipy import optimize  # here, since few need it and it is slow to import

    width, mesh = features.shape[1], picture_rows.local_mesh(len(labels))
    parts = list(_placed(features, labels, mesh))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        matrix = flat.reshape(width + 1, classes)
        given = jax.device_put(matrix.astype(np.float32), sharding.replicated(mesh))
        found = jax.device_get([_sums(given, *part) for part in parts])
        loss = sum(float(each[0]) for each in found)
        slope = sum(np.asarray(each[1], np.float64) for each in found)
        loss += strength / 2 * float((matrix[:-1] ** 2).sum())
        slope[:-1] += strength * matrix[:-1]
        return loss / len(labels), slope.ravel() / len(labels)

    found = optimize.minimize(
        objective,
        np.zeros((width + 1) * classes),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _ITERATIONS, "gtol": _CONVERGED, "ftol": 0.0},
    )
    matrix = found.x.reshape(width + 1, classes).astype(np.float32)
    return matrix[:-1], matrix[-1]


def _placed(
    features: Float[np.ndarray, "X D"], labels: Integer[np.ndarray, " X"], mesh: Mesh
) -> Iterator[tuple[Array, Array, Array]]:
    """Parts of the features, their labels and weights, which are 0 for rows that are none."""
    rows = mesh.size * min(_ROWS, -(-len(labels) // mesh.size))
    place = sharding.batch(mesh)
    for first in range(0, len(labels), rows):
        some, their = features[first : first + rows], labels[first : first + rows]
        more = rows - len(their)
        weights = np.pad(np.ones(len(their), np.float32), (0, more))
        padded = np.pad(some, ((0, more), (0, 0))), np.pad(their.astype(np.int32), (0, more))
        yield tuple(jax.device_put((*padded, weights), place))


@jax.jit
def _sums(
    matrix: Float[Array, "_ _"],
    features_XD: Float[Array, "X D"],
    labels_X: Int[Array, " X"],
    weights_X: Float[Array, " X"],
) -> tuple[Float[Array, ""], Float[Array, "_ _"]]:
    """Cross-entropy, summed over pictures, and its gradient; the last row are biases."""

    def loss(matrix: Array) -> Array:
        logits = jnp.matmul(features_XD, matrix[:-1], precision="highest") + matrix[-1]
        own = jnp.take_along_axis(jax.nn.log_softmax(logits), labels_X[:, None], axis=1)[:, 0]
        return -(own * weights_X).sum()

    return jax.value_and_grad(loss)(matrix)
