"""What is put to a model that is measured, and what it answers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from esam_jax.data.bitmaps import Bitmap
from esam_jax.predict.prompt import Prompt


@dataclasses.dataclass(frozen=True)
class Query:
    """A prompt about a picture, and the mask of it that is to be found.

    `single`: the answer is the mask that the model gives for clear prompts, and not one of the
    candidates.
    """

    prompt: Prompt
    mask: int
    single: bool = False


@dataclasses.dataclass(frozen=True)
class Answer:
    """IoU of the most confident candidate with the mask, and the highest of all candidates.

    `found` is the most confident mask and `logits` are those of the decoder for it, if wanted;
    `prompt` is what was answered, where that is kept.
    """

    iou: float
    oracle: float
    found: Bitmap | None = None
    logits: Float[np.ndarray, "l l"] | None = None
    prompt: Prompt | None = None


@dataclasses.dataclass(frozen=True)
class Want:
    """What of the answers is fetched."""

    oracle: bool = False
    found: bool = False
    logits: bool = False


@dataclasses.dataclass(frozen=True)
class View:
    """One picture, and the masks to be found in it."""

    image: UInt8[np.ndarray, "H W 3"]
    masks: Sequence[Bitmap]


@runtime_checkable  # for the shape checks in the tests
class Session(Protocol):
    """A batch of pictures that can be prompted again and again."""

    def ask(self, queries: Mapping[int, Sequence[Query]], want: Want) -> Mapping[int, list[Answer]]:
        """The answers for each own row, in the order of its queries.

        Every process must call it equally often, whatever it has to ask.
        """
        ...


@runtime_checkable
class Answers(Protocol):
    """A model that is measured on a batch of pictures at a time.

    `rows` is the size of a batch over all processes, `read` are the rows whose pictures this
    process reads, `own` those that it answers for: together the processes own each row once.
    """

    @property
    def rows(self) -> int: ...

    @property
    def read(self) -> tuple[int, ...]: ...

    @property
    def own(self) -> frozenset[int]: ...

    def open(self, views: Mapping[int, View]) -> Session:
        """Every process must call it equally often."""
        ...
