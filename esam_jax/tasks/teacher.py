"""A frozen SAM image encoder whose features are targets: its weights, features and checks.

What the SAMI paper (arXiv:2312.00863, section 4.1) leaves open, the teacher's input size and the
layer whose features are the target, is a config value; `TeacherConfig` names the choices.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from esam_jax.config import ComputeConfig, SamVitConfig, TeacherConfig
from esam_jax.convert import load
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.models import flops, named
from esam_jax.models.encoders.sam_vit import SamVitEncoder
from esam_jax.models.parts import stack
from esam_jax.ops import images, positions
from esam_jax.tasks.task import Frozen
from esam_jax.typing import Params

RANDOM_SEED = 1
DRAWN = "random"  # in the place of weights


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The encoder that a `TeacherConfig` describes; `image_px` is the side of the students' input.

    ConfigError, when it is made, for a model without a SAM encoder.
    """

    config: TeacherConfig
    compute: ComputeConfig
    image_px: int

    def __post_init__(self) -> None:
        _ = self.encoder

    @property
    def encoder(self) -> SamVitConfig:
        encoder = named.sam(self.config.model).encoder
        if not isinstance(encoder, SamVitConfig):
            raise ConfigError(
                f"task.teacher.model is {self.config.model!r}, which has no SAM encoder: choose a "
                "sam_* model"
            )
        return encoder

    @property
    def width(self) -> int:
        """Channels of its features."""
        neck = self.config.features == "neck"
        return self.encoder.neck_width if neck else self.encoder.width

    @property
    def patch_px(self) -> int | None:
        """Side of its patches in the students' input; None where its features are pooled anyway."""
        return self.encoder.patch_px if self.config.view == "native" else None

    def features(
        self, params: Params, image_BHW3: UInt8[Array, "B H W 3"], grid: int
    ) -> Float[Array, "B {grid} {grid} T"]:
        """Targets on a grid of `grid` x `grid` cells: float32, without gradient."""
        pixels = images.normalise(image_BHW3)
        if self.config.view == "enlarged":
            side = self.encoder.image_px
            pixels = positions.bilinear_resize(pixels, side, side)
        method = SamVitEncoder.trunk if self.config.features == "trunk" else None
        with stack.forward_only():
            features = self._network.apply({"params": params}, pixels, method=method)
        assert isinstance(features, jax.Array)
        if features.shape[1:3] != (grid, grid):
            features = images.area_pool(features.astype(jnp.float32), grid, grid)
        return jax.lax.stop_gradient(features.astype(jnp.float32))

    def frozen(self, grid: int) -> Frozen:
        """As the train loop reads, places and checks it."""
        return Frozen(
            key="task.teacher",
            weights=self.config.weights,
            read=self._read,
            shapes=lambda: jax.eval_shape(self._draw),
            placement=self.config.placement,
            features=lambda params, image: self.features(params, image, grid),
            drawn=self.config.weights == DRAWN,
            operations=self._operations(),
        )

    def unnamed(self) -> ConfigError:
        """What is wrong when no weights are given."""
        return ConfigError(
            "task.teacher.weights is not set, but a trained teacher is needed. Give "
            "--task.teacher.weights FILE (a SAM checkpoint or model folder), or the word "
            f"{DRAWN} for a dry run"
        )

    @property
    def _network(self) -> SamVitEncoder:
        return SamVitEncoder(self.encoder, self.compute)

    def _draw(self) -> Params:
        pixels = jnp.zeros((1, self.image_px, self.image_px, 3))
        return jax.jit(self._network.init)(jax.random.key(RANDOM_SEED), pixels)["params"]

    def _read(self) -> Params:
        weights = self.config.weights
        if weights is None:
            raise self.unnamed()
        if weights == DRAWN:
            return self._draw()
        file = load.model_file(weights)
        if file.config.encoder != self.encoder:
            raise CheckpointError(
                f"{weights} holds another image encoder than task.teacher.model "
                f"{self.config.model!r}: {load.differences(file.config.encoder, self.encoder)}; "
                "name the model that the file holds"
            )
        return file.params["encoder"]

    def _operations(self) -> int:
        """By formula: its jaxpr also holds products with the one-hot channels of its positions."""
        side = self.encoder.image_px if self.config.view == "enlarged" else self.image_px
        trunk = flops.sam_vit_trunk(self.encoder, side)
        if self.config.features == "trunk":
            return trunk
        cells = (side // self.encoder.patch_px) ** 2
        return trunk + flops.neck(self.encoder, cells, self.encoder.width)
