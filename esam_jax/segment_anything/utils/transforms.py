"""Pictures, points and boxes to the frame of SAM's square input.

Source of names and results: segment-anything, `utils/transforms.py`, `ResizeLongestSide`.
"""

from typing import Any

import numpy as np
from PIL import Image

from esam_jax.errors import DataError
from esam_jax.ops import geometry
from esam_jax.predict import picture_array
from esam_jax.segment_anything.tensor import Tensor, array, tensor

Size = tuple[int, ...]  # (height, width)


class ResizeLongestSide:
    """Scales the longer side to `target_length`; sizes are (height, width) of the picture."""

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_image(self, image: Any) -> np.ndarray:
        """The uint8 picture [H, W, 3] resized, antialiased."""
        picture = picture_array.of(image, "image")
        height, width = self._inside(picture.shape[:2])
        resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
        return np.array(resized)

    def apply_coords(self, coords: Any, original_size: Size) -> np.ndarray:
        """(x, y) [..., 2] in pixels of the picture -> in pixels of the resized one, float64."""
        height, width = original_size
        inside = self._inside(original_size)
        return np.asarray(coords, np.float64) * [inside[1] / width, inside[0] / height]

    def apply_boxes(self, boxes: Any, original_size: Size) -> np.ndarray:
        """Boxes [..., 4] of (x0, y0, x1, y1), as `apply_coords`: always [N, 4]."""
        corners = np.asarray(boxes, np.float64).reshape(-1, 2, 2)
        return self.apply_coords(corners, original_size).reshape(-1, 4)

    def apply_image_torch(self, image: Any) -> Tensor:
        """Pictures [B, 3, H, W], as `apply_image`, without rounding: float32 in the same range."""
        pictures = array(image, "image", "B 3 H W").astype(np.float32)
        if 0 in pictures.shape:
            raise DataError(f"image has shape {pictures.shape}, but must have pixels")
        height, width = self._inside(pictures.shape[2:])
        resized = [
            np.asarray(Image.fromarray(x).resize((width, height), Image.Resampling.BILINEAR))
            for x in pictures.reshape(-1, *pictures.shape[2:])
        ]
        return tensor(np.stack(resized).reshape(*pictures.shape[:2], height, width))

    def apply_coords_torch(self, coords: Any, original_size: Size) -> Tensor:
        """As `apply_coords`, float32."""
        return tensor(self.apply_coords(_plain(coords), original_size).astype(np.float32))

    def apply_boxes_torch(self, boxes: Any, original_size: Size) -> Tensor:
        """As `apply_boxes`, float32."""
        return tensor(self.apply_boxes(_plain(boxes), original_size).astype(np.float32))

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """Height and width after resizing."""
        return geometry.longest_side(oldh, oldw, long_side_length)

    def _inside(self, size: Size) -> tuple[int, int]:
        height, width = size
        return self.get_preprocess_shape(height, width, self.target_length)


def _plain(value: Any) -> np.ndarray:
    return np.asarray(value.detach() if hasattr(value, "detach") else value)
