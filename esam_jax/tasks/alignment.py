"""DMAE's alignment: features inside of a student resemble those inside of a frozen, larger MAE.

Masked autoencoders enable efficient knowledge distillers (arXiv:2208.12256, section 3). Both see
the same patches of a picture, the rest is removed. Blocks of equal relative depth are compared, the
student's behind a linear map to the teacher's width; what stands behind the teacher's is never run.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from esam_jax.config import AlignConfig, ComputeConfig, MaeConfig, VitConfig
from esam_jax.convert import load
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.models import named
from esam_jax.models.encoders.vit import VitEncoder
from esam_jax.models.parts import stack
from esam_jax.models.parts.layers import Linear, linear
from esam_jax.models.pretrain import mae
from esam_jax.ops import images, losses
from esam_jax.tasks import plain_vit
from esam_jax.tasks.task import Frozen
from esam_jax.tasks.teacher import DRAWN
from esam_jax.typing import Params

NAME = "align"  # of the frozen network, and of the student's linear map
RANDOM_SEED = 4
_STREAM = 1  # apart from the key that the student is drawn from


@dataclasses.dataclass(frozen=True)
class Alignment:
    """What an `AlignConfig` says, for a student and so many visible patches of `image_px` pictures.

    ConfigError, when it is made, for a teacher that does not go with the student.
    """

    config: AlignConfig
    compute: ComputeConfig
    student: VitConfig
    image_px: int
    visible: int

    def __post_init__(self) -> None:
        _ = self.depth, self.encoder

    # ------------------------------------------------------------------------------ the networks

    @property
    def depth(self) -> int:
        """Blocks of the student before what is compared."""
        return _depth("student_blocks", self.config.student_blocks, self.student.depth)

    @functools.cached_property
    def encoder(self) -> VitConfig:
        """The teacher's, as far as it is run."""
        found = named.model(self.config.model)
        if not isinstance(found, MaeConfig):
            raise ConfigError(
                f"task.align.model is {self.config.model!r}, which is no MAE: choose an mae_* model"
            )
        complete = plain_vit.encoder("task.align.model", self.config.model, self.image_px)
        if complete.patch_px != self.student.patch_px:
            raise ConfigError(
                f"task.align.model {self.config.model!r} has patches of {complete.patch_px} "
                f"pixels, but the student of {self.student.patch_px}, so their tokens do not pair: "
                "choose models that agree"
            )
        depth = _depth("teacher_blocks", self.config.teacher_blocks, complete.depth)
        return dataclasses.replace(complete, depth=depth)

    def init(self, rng: Array) -> Params:
        """The linear map."""
        first = jnp.zeros((1, self.student.width))
        drawn = self._head.init(jax.random.fold_in(rng, _STREAM), first)
        return {"head": drawn["params"]}

    def frozen(self) -> Frozen:
        """As the train loop reads, places and checks it."""
        return Frozen(
            key="task.align",
            weights=self.config.weights,
            read=self._read,
            shapes=lambda: jax.eval_shape(self._draw),
            placement="replicated",
            features=self._of_some_patches,
            drawn=self.config.weights == DRAWN,
        )

    # ---------------------------------------------------------------------------- what they compute

    def loss(
        self,
        params: Params,
        frozen: Params,
        found_BXD: Float[Array, "B X D"],
        pixels_BHW3: Float[Array, "B H W 3"],
        visible_BV: Int[Array, "B V"],
    ) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        """The distance of a student's tokens from the teacher's, and that of the teacher's mean.

        `params` are those of `init`, `frozen` those of the teacher. `found_BXD` are the class token
        and the visible patches after `depth` blocks.
        """
        target = self._features(frozen, pixels_BHW3, visible_BV)
        found = self._head.apply({"params": params["head"]}, found_BXD)
        assert isinstance(found, jax.Array)
        compare = losses.FEATURES[self.config.loss]
        return compare(found, target), losses.of_the_mean(compare, target)

    def _features(
        self,
        params: Params,
        pixels_BHW3: Float[Array, "B H W 3"],
        visible_BV: Int[Array, "B V"],
    ) -> Float[Array, "B _ T"]:
        """The teacher's class token and visible patches: float32, without gradient."""
        network = VitEncoder(self.encoder, self.compute)
        given = {"params": params["encoder"]}, pixels_BHW3, visible_BV, params["class_token"]
        with stack.forward_only():
            found: Any = network.apply(*given, method=VitEncoder.trunk)
        return jax.lax.stop_gradient(found.astype(jnp.float32))

    def _of_some_patches(
        self, params: Params, image_BHW3: UInt8[Array, "B H W 3"]
    ) -> Float[Array, "B 1 _ T"]:
        """Of as many patches as an update shows, by which weights are tried out and counted."""
        tokens = self.encoder.pretrain_grid**2
        evenly_V = jnp.arange(self.visible) * tokens // self.visible
        shown_BV = jnp.broadcast_to(evenly_V, (len(image_BHW3), self.visible))
        return self._features(params, images.normalise(image_BHW3), shown_BV)[:, None]

    @property
    def _head(self) -> Linear:
        # What is compared with the target is never rounded to 16 bits.
        exact = dataclasses.replace(self.compute, dtype="float32")
        return linear(self.encoder.width, exact, "head").clone(name=None)

    # --------------------------------------------------------------------------------------- files

    def _draw(self) -> Params:
        drawn = jax.jit(functools.partial(mae.init, MaeConfig(encoder=self.encoder)))
        return self._part(drawn(jax.random.key(RANDOM_SEED)))

    def _read(self) -> Params:
        weights = self.config.weights
        if weights is None:
            raise ConfigError(
                "task.align.weights is not set, but a trained MAE is needed. Give "
                "--task.align.weights FILE (an MAE checkpoint, a run or a model folder), or the "
                f"word {DRAWN} for a dry run"
            )
        if weights == DRAWN:
            return self._draw()
        file = load.model_file(weights)
        complete = plain_vit.encoder("task.align.model", self.config.model, self.image_px)
        where = f"task.align.weights {weights}"
        plain_vit.require(file, complete, where=where, model=self.config.model)
        found = plain_vit.taken(file)
        if "class_token" not in found:
            raise CheckpointError(
                f"{where} has no class token, which takes part in what is compared: name an MAE, "
                "or a run of SAMI"
            )
        return self._part(found)

    def _part(self, params: Params) -> Params:
        """What is run of a complete ViT."""
        blocks = {f"block_{i:02d}" for i in range(self.encoder.depth)}
        names = {"patch_embed", "positions", *blocks}
        encoder = {name: x for name, x in params["encoder"].items() if name in names}
        return {"encoder": encoder, "class_token": params["class_token"]}


def _depth(field: str, value: int | None, of: int) -> int:
    """How many blocks; three quarters of them by default, as upstream's 9 of 12 and 18 of 24."""
    depth = max(1, 3 * of // 4) if value is None else value
    if depth > of:
        raise ConfigError(f"task.align.{field} is {depth}, but the encoder has {of} blocks")
    return depth
