"""Annotations of a picture other than its masks."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Integer


@dataclasses.dataclass(frozen=True)
class SemanticMap:
    """The class of every pixel: `names` is in words what a value means, as far as files say it.

    Values in `void` are no class: such pixels count neither for nor against anything.
    """

    values: Integer[np.ndarray, "H W"]
    names: Mapping[int, str]
    void: frozenset[int]


@dataclasses.dataclass(frozen=True)
class Federated:
    """Of which categories LVIS says more than the objects of a picture do, by their ids.

    None of `negative` is in the picture. Of `not_exhaustive` there may be more than are annotated.
    Of a category that is in neither and has no object, nothing is known.
    """

    negative: frozenset[int]
    not_exhaustive: frozenset[int]


@dataclasses.dataclass(frozen=True)
class Label:
    """The class of a picture: its name, and its index among the classes of its source."""

    index: int
    name: str
