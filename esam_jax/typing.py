"""The legend of axis letters (AXES), and types that several parts share.

Point labels, everywhere inside the package: -1 padding, 0 background, 1 foreground,
2 top-left box corner, 3 bottom-right box corner; -2 nothing, a slot that nothing attends to and
that only fills a fixed shape (padding is a token of the originals and is attended to).

Coordinates are (x, y), in pixels of the frame that the docstring names; the centre of the top-left
pixel is (0, 0) + 0.5 only inside the position code (SAM adds the half pixel there).
"""

from collections.abc import Mapping
from typing import Any

import flax.struct
from jaxtyping import Array, Float

Params = Mapping[str, Any]  # nested dict of arrays, names joined by "/" in files
Batch = Mapping[str, Any]  # name -> array with a leading batch axis

# One letter, one meaning, in every jaxtyping annotation and every suffix of a name (x_BND).
# tests/design/test_axes.py checks annotations and names against this table. A size that only one
# function knows is computed in braces ("{side**2} K") or left open ("_").
AXES = {
    "B": "images of a batch",
    "Q": "prompts (queries) per image",
    "q": "Q, with 1 for a value that all prompts share",
    "P": "points per prompt",
    "M": "candidate masks",
    "H": "rows of pixels",
    "W": "columns of pixels",
    "h": "rows of feature cells",
    "w": "columns of feature cells",
    "l": "rows and columns of a low-resolution mask",
    "s": "rows and columns of another square: window, kernel, model frame",
    "N": "tokens of an image (h * w)",
    "V": "visible tokens, V + U = N",
    "U": "masked (unseen) tokens",
    "Z": "tokens of the mask decoder: outputs and points",
    "J": "tokens that are attended to: keys and values",
    "S": "stored positions",
    "L": "length of a list: distances, bytes, run lengths, blocks",
    "C": "channels",
    "Y": "pixel values of a patch",
    "D": "encoder width",
    "E": "decoder width",
    "T": "teacher width",
    "F": "MLP width",
    "A": "attention heads",
    "K": "width per head",
    "X": "items of any kind (*X: any leading axes)",
}

NOTHING, PADDING, BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = -2, -1, 0, 1, 2, 3
PADDING_XY = -1.0  # both coordinates of a padded point: EfficientSAM encodes its position too


@flax.struct.dataclass
class PerExample:
    """The result of a task's loss: one value per example, which the step averages.

    The step minimises sum(loss * weight) / sum(weight) over the global batch, whatever the mesh or
    the number of accumulated micro-batches. `weight` is 0 for padding. Metrics are averaged alike.
    `moments` are statistics of all examples together, by the names of the parameters that are their
    running averages (`models/parts/batch_norm.py`).
    """

    loss: Float[Array, "*X"]
    weight: Float[Array, "*X"]
    metrics: Mapping[str, Float[Array, "*X"]]
    moments: Params = flax.struct.field(default_factory=dict)
