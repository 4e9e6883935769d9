"""A loaded saliency network: a picture to a map of what is salient in it.

Preprocessing is that of upstream's u2net_test.py and data_loader.py, with the scikit-image 0.14
that it names: stretched to 320 x 320, bilinear and without antialias, divided by the largest value
in it, normalised by ImageNet's mean and deviation. The first of the seven maps is brought to 0 to 1
by its smallest and largest value, then to the picture's size.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8
from PIL import Image

from esam_jax.config import U2NetConfig
from esam_jax.convert import load as models
from esam_jax.errors import CheckpointError
from esam_jax.machine import out_of_memory
from esam_jax.models import kinds
from esam_jax.models.saliency.u2net import U2Net
from esam_jax.ops import images, positions
from esam_jax.predict import picture_array
from esam_jax.typing import Params


class Saliency:
    """A saliency network with its weights, to be called with pictures.

    `model` is the Linen module, `params` its plain nested dict, on the device.
    """

    def __init__(self, model: U2Net, params: Params) -> None:
        self.model = model
        self.params: Params = jax.tree.map(jnp.asarray, params)

    @property
    def config(self) -> U2NetConfig:
        return self.model.config

    def on(self, device: jax.Device) -> "Saliency":
        """The same on that device."""
        return Saliency(self.model, jax.device_put(self.params, device))

    @out_of_memory.advice()
    def __call__(self, picture: Any) -> Float32[np.ndarray, "H W"]:
        """From 0 to 1, of the picture's size; all 0 where the network tells nothing apart.

        picture: as for `Sam.encode`, a single one.
        """
        picture = picture_array.of(picture, "picture")
        square = to_square(picture, self.config.image_px)
        found = np.asarray(_first_map(self.model, self.params, square))
        return fitted(scaled(found), *picture.shape[:2])


def load_saliency(source: str | Path) -> Saliency:
    """U-2-Net from its .pth file, or from whatever `esam convert` writes of it.

    CheckpointError for another network; other errors as of `esam_jax.load`. No code from the file
    is run.
    """
    file = models.model_file(source)
    if not isinstance(file.config, U2NetConfig):
        raise CheckpointError(
            f"{source} holds {kinds.of(file.config).about}, but a saliency network is needed: name "
            "a file of U-2-Net, such as u2netp.pth"
        )
    return Saliency(U2Net(file.config), file.params)


def to_square(picture: UInt8[np.ndarray, "H W 3"], px: int) -> Float32[np.ndarray, "{px} {px} 3"]:
    """As the network takes it."""
    rows, columns = (positions.taps(side, px, "linear") for side in picture.shape[:2])
    pixels = _along(_along(picture, rows, 0), columns, 1) / 255
    pixels /= max(float(pixels.max()), 1e-6)  # upstream divides a black picture by 0
    return ((pixels - images.MEAN) / images.STD).astype(np.float32)


def scaled(found: Float[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W"]:
    """From 0, its smallest value, to 1, its largest; all 0 where it is the same everywhere."""
    low, high = float(found.min()), float(found.max())
    if not high > low:
        return np.zeros(found.shape, np.float32)
    return ((found - low) / (high - low)).astype(np.float32)


def fitted(
    found: Float[np.ndarray, "h w"], height: int, width: int
) -> Float32[np.ndarray, "{height} {width}"]:
    """The map in another size, bilinear, as Pillow has it: with antialias where it shrinks.

    Upstream rounds to 8 bits before that.
    """
    image = Image.fromarray(np.ascontiguousarray(found, np.float32))
    return np.clip(np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)), 0, 1)


def _along(pixels: np.ndarray, taps: positions.Taps, axis: int) -> np.ndarray:
    """One axis resampled, without a copy of the others at full size."""
    shape = (-1, *(1,) * (2 - axis))
    left, right = (
        weights.reshape(shape) * pixels.take(places, axis)
        for weights, places in zip(taps.weights.T, taps.places.T, strict=True)
    )
    return left + right


@functools.partial(jax.jit, static_argnums=0)
def _first_map(
    model: U2Net, params: Params, square_ss3: Float[Array, "s s 3"]
) -> Float[Array, "s s"]:
    logits: Any = model.apply({"params": params}, square_ss3[None])
    return jax.nn.sigmoid(logits[0, ..., 0])
