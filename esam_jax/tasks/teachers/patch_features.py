"""A frozen network as a source of targets: one feature vector for each patch of a picture."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from esam_jax.config import SamVitConfig, TeacherConfig, VitConfig
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import ConfigError
from esam_jax.ops import images
from esam_jax.typing import Params

Layer = Literal["neck", "trunk"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchFeatures:
    """What a teacher is computed by.

    module, method: normalised pixels -> features, a row or a cell for each patch.
    encoder: its sizes.
    layer: behind a neck, or of blocks of one width.
    taken: of a file what `module` reads; CheckpointError for one of another network.
    accepts: what such a file is, for errors.
    pixels: mean and deviation by which its input is normalised.
    operations: of one picture by its side, where they cannot be counted in its jaxpr.
    """

    module: nn.Module
    method: Callable[..., Any] | None
    encoder: SamVitConfig | VitConfig
    layer: Layer
    taken: Callable[[ModelFile], Params]
    accepts: str
    pixels: tuple[np.ndarray, np.ndarray] = (images.MEAN, images.STD)
    operations: Callable[[int], int] | None = None

    @property
    def width(self) -> int:
        """Channels of its features."""
        return self.encoder.neck_width if self.layer == "neck" else self.encoder.width

    def draw(self, rng: Key[Array, ""], side: int) -> Params:
        """Every parameter that features of pictures of this side need, and no other."""
        pixels = jnp.zeros((1, side, side, 3))
        return self.module.init(rng, pixels, method=self.method)["params"]

    def __call__(
        self, params: Params, pixels_BHW3: Float[Array, "B H W 3"]
    ) -> Float[Array, "B h w T"]:
        h, w = (size // self.encoder.patch_px for size in pixels_BHW3.shape[1:3])
        found = self.module.apply({"params": params}, pixels_BHW3, method=self.method)
        assert isinstance(found, jax.Array)
        return found.reshape(-1, h, w, self.width)


def require_no_choice(teacher: TeacherConfig) -> None:
    """ConfigError where a layer is chosen of a network that has no neck."""
    if teacher.features == "trunk":
        raise ConfigError(
            f"task.teacher.features is 'trunk', a choice that SAM's encoders have; those of "
            f"{teacher.model!r} are its patches after the last norm: leave it out"
        )
