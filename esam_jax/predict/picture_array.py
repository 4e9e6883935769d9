"""Pictures as callers have them -> uint8 RGB arrays."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from esam_jax.errors import DataError

_WIDE_MODES = ("I", "F")  # Pillow's, of more than 8 bits


def listed(images: Any, name: str = "images") -> tuple[list[Any], bool]:
    """The pictures of a list or a batch, not looked at yet; or the only one, and True.

    DataError, which calls them `name`, where there is none.
    """
    if isinstance(images, Image.Image):
        return [images], True
    if hasattr(images, "__array__"):
        images = _as_numpy(images, name)
        # A batch has four axes: whatever has fewer is one picture, or a list of such as NumPy has.
        if images.ndim <= 3 and images.dtype != object:
            return [images], True
    if isinstance(images, str | PurePath):
        raise DataError(
            f"{name} is {str(images)!r:.80}, but must be pixels: read the file with Pillow"
            f"{', or name it to segment_many' if name == 'images' else ''}"
        )
    if isinstance(images, bytes) or not isinstance(images, np.ndarray | Sequence):
        raise DataError(f"{name} is {images!r:.80}, but must be a numpy array or a list of them")
    if not len(images):
        raise DataError(f"{name} is empty, but at least one picture is needed")
    return list(images), False


def of(value: Any, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """A NumPy, JAX or Pillow picture as RGB; DataError, which calls it `name`, for anything else.

    A Pillow picture is converted to RGB, and keeps the orientation in which it is stored. What can
    be turned into an array (`__array__`), such as a tensor of PyTorch on the CPU, is taken, too.
    """
    if isinstance(value, Image.Image):
        return _of_pillow(value, name)
    if hasattr(value, "__array__"):
        value = _as_numpy(value, name)
    if not isinstance(value, np.ndarray):
        remedy = ": np.asarray it" if isinstance(value, list | tuple) else ""
        raise DataError(
            f"{name} is a {type(value).__name__}, but must be a numpy array or a Pillow "
            f"picture{remedy}"
        )
    if value.ndim != 3 or value.shape[2] != 3 or 0 in value.shape:
        raise DataError(
            f"{name} has shape {value.shape}, but must be RGB [height, width, 3]"
            f"{_remedy_for_shape(value)}"
        )
    if value.dtype != np.uint8:
        raise DataError(f"{name} has {value.dtype} pixels{_remedy_for_type(value)}")
    return value


def own(value: Any) -> Any:
    """The same picture, which changes no more when its caller reuses the memory or the object.

    Readers of video have one buffer for all frames, and Pillow one object (`ImageSequence`).
    """
    if isinstance(value, Image.Image):
        return value.copy() if getattr(value, "is_animated", False) else value
    if isinstance(value, jax.Array) or not hasattr(value, "__array__"):
        return value
    try:
        return np.array(value)
    except (TypeError, ValueError, RuntimeError):  # `of` says what is wrong with it
        return value


def _as_numpy(value: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # of PyTorch, for another device
        raise DataError(f"{name} cannot be taken as a numpy array ({error})") from error


def _of_pillow(image: Image.Image, name: str) -> UInt8[np.ndarray, "H W 3"]:
    if image.mode.startswith(_WIDE_MODES):
        raise DataError(
            f"{name} is a Pillow picture of mode {image.mode}, but must have 8 bits a channel: "
            "scale it to 0..255, then convert it to L or RGB"
        )
    if 0 in image.size:
        raise DataError(f"{name} is a Pillow picture of size {image.size}, but must have pixels")
    try:
        if image.mode == "P":  # Pillow warns on the direct way when the palette has transparency
            image = image.convert("RGBA")
        return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # of a file that is read only now
        problem = f"cannot be decoded ({error}): fetch its file again"
        raise DataError(f"{name} is a Pillow picture that {problem}") from error


def _remedy_for_shape(array: np.ndarray) -> str:
    if array.size == 0:
        return " of at least one pixel"
    if array.ndim == 2:
        return ": np.stack([grey] * 3, axis=-1)"
    if array.ndim == 3 and array.shape[2] == 1:
        return ": np.concatenate([grey] * 3, axis=-1)"
    if array.ndim == 4 and len(array) == 1:
        return ": take image[0]"
    if array.ndim == 3 and array.shape[0] == 3:
        return ": image.transpose(1, 2, 0) brings the channels last"
    if array.ndim == 3 and array.shape[2] == 4:
        return ": image[..., :3] leaves the alpha channel out"
    return ""


def _remedy_for_type(array: np.ndarray) -> str:
    rule = ", but must have uint8 from 0 to 255"
    if array.dtype.kind != "f":
        return rule
    if array.size and array.min() >= 0 and array.max() <= 1:
        return f" from 0 to 1{rule}: (image * 255).round().astype(np.uint8)"
    return f"{rule}: image.round().clip(0, 255).astype(np.uint8)"
