"""The one legend of axis letters, and the types that several parts share.

B images            Q prompts (queries) per image   P points per prompt   M candidate masks
H W pixels          h w feature cells               N = h*w tokens        V visible tokens
S stored positions  C channels                      D encoder width       E decoder or neck width
T teacher width     F MLP width                     A attention heads     K width per head
L labels or layers  X any leading shape

Point labels, everywhere inside the package: -1 padding, 0 background, 1 foreground,
2 top-left box corner, 3 bottom-right box corner; -2 nothing, a slot that nothing attends to and
that only fills a fixed shape (padding is a token of the originals, and is seen).

Coordinates are (x, y), in pixels of the frame that the docstring names; the centre of the top-left
pixel is (0, 0) + 0.5 only inside the position code (SAM adds the half pixel there).
"""

from collections.abc import Mapping
from typing import Any

import flax.struct
from jaxtyping import Array, Float

Params = Mapping[str, Any]  # nested dict of arrays, names joined by "/" in files
Batch = Mapping[str, Any]  # name -> array with a leading batch axis

NOTHING, PADDING, BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = -2, -1, 0, 1, 2, 3
PADDING_XY = -1.0  # both coordinates of a padded point: EfficientSAM encodes its position too


@flax.struct.dataclass
class PerExample:
    """What a task's loss gives back: one value per example, so that the step does the averaging.

    The step minimises sum(loss * weight) / sum(weight) over the global batch, whatever the mesh or
    the number of accumulated micro-batches. `weight` is 0 for padding. Metrics are averaged alike.
    """

    loss: Float[Array, "*X"]
    weight: Float[Array, "*X"]
    metrics: Mapping[str, Float[Array, "*X"]]
