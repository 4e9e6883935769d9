"""The predictor that people know from segment-anything: `set_image`, then `predict`.

Source of names, arguments and results: segment-anything, `predictor.py`, `SamPredictor`. One
picture and one query at a time; `Sam.encode` and `Sam.decode` answer many of both.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from esam_jax.errors import PromptError
from esam_jax.machine import out_of_memory
from esam_jax.predict import picture_array
from esam_jax.predict.embedding import Embedding
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.sam import Sam

_FORMATS = ("RGB", "BGR")
_NAMES = {
    "points": "point_coords",
    "labels": "point_labels",
    "mask": "mask_input",
    "multimask": "multimask_output",
}


class Predictor:
    """Holds the features of one picture, and answers prompts about it."""

    def __init__(self, sam_model: Sam) -> None:
        self.model = sam_model
        self._embedding: Embedding | None = None

    def __repr__(self) -> str:
        held = f"picture of {self.original_size}" if self.is_image_set else "no picture"
        return f"{type(self).__name__}({held}, {self.model!r})"

    def set_image(self, image: Any, image_format: str = "RGB") -> None:
        """Encodes a uint8 picture [H, W, 3], or a Pillow one; `image_format` is "RGB" or "BGR".

        DataError says what is wrong with the picture; the one set before is then gone.
        """
        self.reset_image()
        if image_format not in _FORMATS:
            raise PromptError.of(
                "image_format", f"is {image_format!r}, but must be one of {_FORMATS}"
            )
        image = picture_array.of(image, "image")
        if image_format == "BGR":
            image = image[..., ::-1]
        self._embedding = self.model.encode([image])

    def predict(
        self,
        point_coords: Any = None,
        point_labels: Any = None,
        box: Any = None,
        mask_input: Any = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[
        Bool[np.ndarray, "M H W"] | Float[np.ndarray, "M H W"],
        Float[np.ndarray, " M"],
        Float[np.ndarray, "M l l"],
    ]:
        """Masks, predicted IoU and low-resolution logits of one query, in the model's own order.

        point_coords: (x, y) in pixels [P, 2]; point_labels: 1 foreground, 0 background [P]; box:
        (x0, y0, x1, y1); mask_input: low-resolution logits of an earlier answer [1, l, l].
        `return_logits` gives the masks as float logits. PromptError names what is wrong.
        """
        if point_coords is not None and point_labels is None:
            raise PromptError.of("point_labels", "is missing: give a 1 or a 0 for each point")
        if point_coords is None and point_labels is not None:
            raise PromptError.of(
                "point_labels", "is given without point_coords: give both or neither"
            )
        with _named_as_here():
            prompt = self._prompt(point_coords, point_labels, _one(box, 1), _one(mask_input, 2))
            [masks] = self.model.decode(self._set(), [[prompt]], multimask=multimask_output)
        full = masks.logits[0] if return_logits else masks.binary()[0]
        return full, masks.scores[0], masks.low_res[0]

    @out_of_memory.advice()
    def get_image_embedding(self) -> Float[np.ndarray, "1 C h w"]:
        """Features of the picture with the channels first, as PyTorch users expect them."""
        return np.asarray(self._set().features, np.float32).transpose(0, 3, 1, 2)

    def reset_image(self) -> None:
        """Forgets the picture."""
        self._embedding = None

    @property
    def is_image_set(self) -> bool:
        """Whether a picture is set."""
        return self._embedding is not None

    @property
    def original_size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self._set().sizes[0]

    def _prompt(self, points: Any, labels: Any, box: Any, mask: Any) -> Prompt:
        return Prompt(points=points, labels=labels, box=box, mask=mask)

    def _set(self) -> Embedding:
        if self._embedding is None:
            raise PromptError("no picture is set: call set_image(image) first")
        return self._embedding


def _one(value: Any, axes: int) -> Any:
    """The box or mask of so many axes: SAM takes it with a leading axis of one, too."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # refused by what takes it
        return value
    return array[0] if array.ndim == axes + 1 and len(array) == 1 else value


@contextlib.contextmanager
def _named_as_here() -> Iterator[None]:
    """Errors of `Prompt` and `Sam.decode` under the names of this class's arguments."""
    try:
        yield
    except PromptError as error:
        if error.argument is None or error.problem is None:
            raise
        name = _NAMES.get(error.argument, error.argument)
        raise PromptError.of(name, error.problem) from error
