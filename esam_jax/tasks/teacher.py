"""A frozen network whose features are targets: its weights, its input and its checks.

What the SAMI paper (arXiv:2312.00863, section 4.1) leaves open, the teacher's input size and the
layer whose features are the target, is a config value; `TeacherConfig` names the choices, and
`teachers/` has what each kind of network computes.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from esam_jax.config import ComputeConfig, TeacherConfig
from esam_jax.convert import load
from esam_jax.errors import ConfigError
from esam_jax.models.parts import stack
from esam_jax.ops import images, positions
from esam_jax.tasks import teachers
from esam_jax.tasks.task import Frozen
from esam_jax.tasks.teachers.patch_features import PatchFeatures
from esam_jax.typing import Params

RANDOM_SEED = 1
DRAWN = "random"  # in the place of weights


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The network that a `TeacherConfig` describes; `image_px` is the side of the students' input.

    ConfigError, when it is made, for a model whose features are no targets.
    """

    config: TeacherConfig
    compute: ComputeConfig
    image_px: int

    def __post_init__(self) -> None:
        _ = self.network

    @functools.cached_property
    def network(self) -> PatchFeatures:
        return teachers.features(self.config, self.compute)

    @property
    def width(self) -> int:
        """Channels of its features."""
        return self.network.width

    @property
    def own_px(self) -> int:
        """Side of the pictures that it was trained on."""
        return self.network.encoder.image_px

    @property
    def patch_px(self) -> int | None:
        """Side of its patches in the students' input; None where its features are pooled anyway."""
        return self.network.encoder.patch_px if self.config.view == "native" else None

    def features(
        self, params: Params, image_BHW3: UInt8[Array, "B H W 3"], grid: int
    ) -> Float[Array, "B {grid} {grid} T"]:
        """Targets on a grid of `grid` x `grid` cells: float32, without gradient."""
        pixels = images.normalise(image_BHW3, *self.network.pixels)
        if self.config.view == "enlarged":
            pixels = positions.bilinear_resize(pixels, self.own_px, self.own_px)
        with stack.forward_only():
            features = self.network(params, pixels).astype(jnp.float32)
        if features.shape[1:3] != (grid, grid):
            features = images.area_pool(features, grid, grid)
        return jax.lax.stop_gradient(features)

    def frozen(self, grid: int) -> Frozen:
        """As the train loop reads, places and checks it; ConfigError for a grid finer than its."""
        if self._side // self.network.encoder.patch_px < grid:
            raise ConfigError(
                f"task.teacher.model {self.config.model!r} has "
                f"{self._side // self.network.encoder.patch_px} cells a side, but the student has "
                f"{grid}, and features cannot be spread: choose a model with smaller patches"
            )
        counted = self.network.operations
        return Frozen(
            key="task.teacher",
            weights=self.config.weights,
            read=self._read,
            shapes=lambda: jax.eval_shape(self._draw),
            placement=self.config.placement,
            features=lambda params, image: self.features(params, image, grid),
            drawn=self.config.weights == DRAWN,
            operations=None if counted is None else counted(self._side),
        )

    def unnamed(self) -> ConfigError:
        """What is wrong when no weights are given."""
        return ConfigError(
            "task.teacher.weights is not set, but a trained teacher is needed. Give "
            f"--task.teacher.weights FILE ({self.network.accepts}), or the word {DRAWN} for a dry "
            "run"
        )

    @property
    def _side(self) -> int:
        """Of the pictures that it sees."""
        return self.own_px if self.config.view == "enlarged" else self.image_px

    def _draw(self) -> Params:
        draw = functools.partial(self.network.draw, side=self.image_px)
        return jax.jit(draw)(jax.random.key(RANDOM_SEED))

    def _read(self) -> Params:
        weights = self.config.weights
        if weights is None:
            raise self.unnamed()
        if weights == DRAWN:
            return self._draw()
        return self.network.taken(load.model_file(weights))
