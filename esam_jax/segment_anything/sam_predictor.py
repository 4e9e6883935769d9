"""`Predictor` with what segment-anything's own has for batches of prompts.

Source of names, arguments and results: segment-anything, `predictor.py`, `SamPredictor`.
"""

from typing import Any

from esam_jax.errors import ConfigError
from esam_jax.ops import geometry
from esam_jax.predict.predictor import Predictor
from esam_jax.predict.prompt import Prompt
from esam_jax.segment_anything import sam_model
from esam_jax.segment_anything.tensor import Tensor, array, tensor
from esam_jax.segment_anything.utils.transforms import ResizeLongestSide


class SamPredictor(Predictor):
    """Holds the features of one picture, and answers prompts about it."""

    device = "cpu"  # where results are; JAX computes on its own device

    @property
    def transform(self) -> ResizeLongestSide:
        """To the frame in which `predict_torch` takes points and boxes."""
        if self.model.config.fit != "pad":
            raise ConfigError(
                "this model stretches pictures to a square, which ResizeLongestSide does not: "
                "give points and boxes in pixels of the picture to predict, or to Sam.decode"
            )
        return ResizeLongestSide(self.model.config.image_px)

    @property
    def features(self) -> Tensor:
        """As `get_image_embedding`."""
        return self.get_image_embedding()

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the resized picture."""
        config = self.model.config
        return geometry.inside(*self.original_size, config.image_px, config.fit)

    def get_image_embedding(self) -> Tensor:
        """Features of the picture [1, C, h, w]."""
        return tensor(super().get_image_embedding())

    def set_torch_image(self, transformed_image: Any, original_image_size: Any) -> None:
        """Encodes a picture [1, 3, H, W] resized by `transform`, of (height, width) before."""
        self.reset_image()
        px = self.transform.target_length
        [image] = array(transformed_image, "transformed_image", "1 3 H W")
        height, width = (int(side) for side in original_image_size)
        picture = sam_model.resized(image, "transformed_image", px)
        self._embedding = self.model.encode_resized([picture], [(height, width)])

    def predict_torch(
        self,
        point_coords: Any,
        point_labels: Any,
        boxes: Any = None,
        mask_input: Any = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Masks [N, M, H, W], predicted IoU [N, M] and low-resolution logits of N prompts.

        point_coords [N, P, 2] with point_labels [N, P], boxes [N, 4], in pixels of the picture as
        `transform` resizes it; mask_input [N, 1, l, l]; each may be None. A label -1 is padding;
        with all None there is one answer, to no prompt.
        """
        embedding = self._set()
        parts = (point_coords, point_labels, boxes, mask_input)
        asked = sam_model.prompts(self.model, self.original_size, *parts)
        [masks] = self.model.decode(embedding, [asked], multimask=multimask_output)
        return sam_model.as_tensors(masks, logits=return_logits)

    def _prompt(self, points: Any, labels: Any, box: Any, mask: Any) -> Prompt:
        return sam_model.prompt(points, labels, box, mask)
