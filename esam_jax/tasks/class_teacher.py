"""A frozen classifier whose answers a student learns (DeiT, arXiv:2012.12877, section 4)."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from esam_jax.config import ClassTeacherConfig, ComputeConfig, ModelConfig, TellsClasses
from esam_jax.convert import load
from esam_jax.data import class_names as names
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.models import kinds, named
from esam_jax.models.parts import stack
from esam_jax.ops import images, soft_labels
from esam_jax.tasks.task import Frozen
from esam_jax.tasks.teacher import DRAWN, RANDOM_SEED
from esam_jax.typing import Params

KEY = "task.teacher"


@dataclasses.dataclass(frozen=True)
class ClassTeacher:
    """The classifier that a `ClassTeacherConfig` describes, of the student's classes: as many, and
    with the same names where both have names."""

    config: ClassTeacherConfig
    compute: ComputeConfig
    classes: int
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.config.model is not None:
            _ = self._named

    def logits(
        self, params: Params, pixels_BHW3: Float[Array, "B H W 3"]
    ) -> Float[Array, "B {self.classes}"]:
        """What it says of the pixels that the student sees: float32, without gradient.

        They are normalised as `ops.images.normalise` does; its network brings them to what it was
        trained on.
        """
        network = kinds.of(self.network).network.NETWORK(self.network, self.compute)
        with stack.forward_only():
            found: Any = network.apply({"params": params}, pixels_BHW3)
        return jax.lax.stop_gradient(found.astype(jnp.float32))

    def loss(
        self, logits_BX: Float[Array, "B X"], teacher_BX: Float[Array, "B X"]
    ) -> Float[Array, " B"]:
        """Of the head that learns from it, per picture."""
        if self.config.labels == "hard":
            return soft_labels.cross_entropy(logits_BX, soft_labels.hard(teacher_BX))
        return soft_labels.divergence(logits_BX, teacher_BX, self.config.temperature)

    def frozen(self) -> Frozen:
        """As the train loop reads, places and checks it."""
        return Frozen(
            key=KEY,
            weights=self.config.weights,
            read=self._read,
            shapes=lambda: jax.eval_shape(self._draw),
            placement="replicated",
            features=self._by_class,
            drawn=self.config.weights == DRAWN,
        )

    @functools.cached_property
    def network(self) -> TellsClasses:
        """That of the weights, where there are any; the first to open a file.

        ConfigError, MissingError or CheckpointError.
        """
        weights = self.config.weights
        if weights in (None, DRAWN):
            return self._named
        found = load.model_file(weights).config
        if not isinstance(found, TellsClasses):
            raise CheckpointError(_no_classifier(found, f"{KEY}.weights {weights}"))
        if found.classes != self.classes:
            raise CheckpointError(
                f"{KEY}.weights {weights} tells {found.classes} classes apart, but "
                f"data.view.classes is {self.classes}: name a teacher of the same classes"
            )
        if found.class_names and self.class_names and found.class_names != self.class_names:
            raise CheckpointError(
                f"{KEY}.weights {weights} tells {names.shown(found.class_names)} apart, but "
                f"the data has {names.shown(self.class_names)}: answers are compared by "
                "number, so name a teacher of the same classes in the same order"
            )
        wanted = found if self.config.model is None else self._named
        if found.encoder != wanted.encoder:
            raise CheckpointError(
                f"{KEY}.weights {weights} holds another network than {KEY}.model "
                f"{self.config.model!r}: {load.differences(found.encoder, wanted.encoder)}; name "
                f"the model that it holds, or write --{KEY}.model None"
            )
        return found

    @property
    def _named(self) -> TellsClasses:
        """The network of that name, with as many classes as there are."""
        if self.config.model is None:
            raise self._unnamed()
        found = named.model(self.config.model)
        if not isinstance(found, TellsClasses):
            raise ConfigError(_no_classifier(found, f"{KEY}.model {self.config.model}"))
        return dataclasses.replace(found, classes=self.classes)

    def _unnamed(self) -> ConfigError:
        return ConfigError(
            f"{KEY}.weights is not set, but a trained classifier is needed. Give --{KEY}.weights "
            f"FILE (a run of the task classify, a model folder or a file of timm's names), or "
            f"--{KEY}.model NAME with the word {DRAWN} for a dry run"
        )

    def _read(self) -> Params:
        weights = self.config.weights
        if weights is None:
            raise self._unnamed()
        _ = self.network
        return self._draw() if weights == DRAWN else load.model_file(weights).params

    def _draw(self) -> Params:
        init = functools.partial(kinds.of(self.network).network.init, self.network)
        return jax.jit(init)(jax.random.key(RANDOM_SEED))

    def _by_class(
        self, params: Params, image_BHW3: UInt8[Array, "B H W 3"]
    ) -> Float[Array, "B {self.classes} 1 1"]:
        """Logits of pictures, as a map whose cells are classes: those of weights that are of any
        use differ."""
        return self.logits(params, images.normalise(image_BHW3))[..., None, None]


def _no_classifier(config: ModelConfig, what: str) -> str:
    return f"{what} is {kinds.of(config).about}, which tells no classes apart: name a classifier"
