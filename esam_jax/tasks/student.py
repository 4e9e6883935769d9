"""The network that distillation trains, and what it is compared with."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from esam_jax.config import (
    DistillConfig,
    FramedConfig,
    PromptedConfig,
    RunConfig,
    SamConfig,
    SegmentConfig,
    TinyVitConfig,
)
from esam_jax.errors import ConfigError
from esam_jax.models import encoders, named
from esam_jax.models.parts import batch_norm
from esam_jax.models.parts.batch_norm import Moments
from esam_jax.models.parts.layers import linear
from esam_jax.models.sam import network
from esam_jax.models.sam.network import Sam
from esam_jax.ops import images
from esam_jax.tasks import segment, stored
from esam_jax.tasks.teacher import Teacher
from esam_jax.typing import Batch, Params, PerExample

DECODER = ("prompt", "decoder")
_HEAD_STREAM = 1  # apart from the key that the network is drawn from


@dataclasses.dataclass(frozen=True)
class Student:
    """The network that learns, and what it is compared with; ConfigError, when it is made, for what
    does not fit.

    Its parameters are {encoder}, without a neck where its trunk is compared; {prompt, decoder}
    where it gets those of the teacher; and {head}, a linear map to the teacher's width, behind a
    trunk or a neck of another width, which the run's model has no place for.
    """

    task: DistillConfig
    run: RunConfig

    def __post_init__(self) -> None:
        view, task = self.run.data.view, self.task
        if self.is_promptable:
            self._check_promptable()
        if self.learns_masks and not isinstance(view, PromptedConfig):
            raise ConfigError(
                f"data.view.kind is {view.kind!r}, but task.coupling {task.coupling!r} compares "
                "masks: write --data.view.kind prompted, or --task.coupling decoupled"
            )
        if not self.learns_masks and task.feature_weight != 1:
            raise ConfigError(
                f"task.feature_weight is {task.feature_weight}, but task.coupling "
                f"{task.coupling!r} has no other loss that it could be weighed against: leave it 1"
            )
        if self.learns_trunk and isinstance(self.model.encoder, TinyVitConfig):
            raise ConfigError(
                f"{task.student!r} has no trunk of one width, which task.student_features names, "
                "or task.teacher.features in its place: write --task.student-features neck"
            )
        side = self.teacher.patch_px
        if side is not None and view.image_px // side != self.grid:
            raise ConfigError(
                f"{view.image_px} pixels are {self.grid} cells a side in {task.student!r}, but "
                f"{view.image_px // side} in {task.teacher.model!r}: choose models that agree, or "
                "--task.teacher.view enlarged, which pools the teacher's cells"
            )
        if self.run.accumulate > 1 and self._is_joint:
            raise ConfigError(batch_norm.cut(self.run.accumulate))

    def _check_promptable(self) -> None:
        view, task = self.run.data.view, self.task
        if not isinstance(named.model(task.teacher.model), SamConfig):
            raise ConfigError(
                f"task.teacher.model is {task.teacher.model!r}, which has no mask decoder, but "
                f"task.coupling {task.coupling!r} takes the teacher's over: choose a sam_* model, "
                "or --task.coupling features"
            )
        model = self.model
        if not isinstance(view, FramedConfig | PromptedConfig):
            raise ConfigError(
                f"data.view.kind is {view.kind!r}, but task.coupling {task.coupling!r} makes a "
                "promptable model, which sees entire pictures: write --data.view.kind framed, or "
                "--task.coupling features"
            )
        segment.check_view(view, task.student, model)
        if task.student_features == "trunk":
            raise ConfigError(
                f"task.student_features is 'trunk', but task.coupling {task.coupling!r} needs the "
                "embedding, which comes after the neck: leave it out, or write --task.coupling "
                "features"
            )
        teacher = task.teacher
        if teacher.features != "neck" or teacher.view != "native":
            raise ConfigError(
                f"task.teacher is {teacher.features!r} of {teacher.view!r} pixels, but its decoder "
                "reads the embedding of its own input: write --task.teacher.features neck "
                "--task.teacher.view native, or --task.coupling features"
            )
        if self.teacher.own_px != model.image_px:
            raise ConfigError(
                f"task.teacher.model {teacher.model!r} takes {self.teacher.own_px} "
                f"pixels, but {task.student!r} {model.image_px}: choose models that agree, or "
                "--task.coupling features"
            )

    # ------------------------------------------------------------------------------- what it is

    @functools.cached_property
    def teacher(self) -> Teacher:
        return Teacher(self.task.teacher, self.run.compute, self.run.data.view.image_px)

    @functools.cached_property
    def model(self) -> SamConfig:
        """The student's encoder with the teacher's decoder, or the model of the student's name."""
        own = named.sam(self.task.student)
        if not self.is_promptable:
            return own
        teacher = self.task.teacher.model
        decoder = named.sam(teacher).decoder
        if decoder.width != own.encoder.neck_width:
            raise ConfigError(
                f"task.student {self.task.student!r} has an embedding of {own.encoder.neck_width} "
                f"channels, but the decoder of {teacher!r} reads {decoder.width}: choose models "
                "that agree, or --task.coupling features"
            )
        return SamConfig(encoder=own.encoder, decoder=decoder)

    @functools.cached_property
    def sam(self) -> Sam:
        return Sam(self.model, self.run.compute)

    @property
    def is_promptable(self) -> bool:
        return self.task.coupling != "features"

    @property
    def learns_trunk(self) -> bool:
        """Whether its trunk is compared, and the neck behind it not even drawn."""
        return (self.task.student_features or self.teacher.network.layer) == "trunk"

    @property
    def learns_masks(self) -> bool:
        return self.task.coupling in ("semi", "coupled")

    @property
    def is_stored(self) -> bool:
        """Whether the teacher's features come with the pictures."""
        return stored.folder(self.run) is not None

    @property
    def grid(self) -> int:
        """Cells a side of its features."""
        view, encoder = self.run.data.view, self.model.encoder
        if view.image_px % encoder.patch_px:
            raise ConfigError(
                f"data.view.image_px is {view.image_px}, but must be a multiple of "
                f"{encoder.patch_px}, the patches of {self.task.student!r}"
            )
        return view.image_px // encoder.patch_px

    @property
    def example(self) -> dict[str, Any]:
        """`Task.example`."""
        return stored.example(self.run, self.target_shape)

    @property
    def target_shape(self) -> stored.Shape:
        """Of the teacher's features of a picture."""
        return self.grid, self.grid, self.teacher.width

    @property
    def _is_joint(self) -> bool:
        return self.task.batch_norm == "batch" and encoders.has_batch_norm(self.model.encoder)

    @property
    def _encoder(self) -> Any:
        return encoders.build(self.model.encoder, self.run.compute)

    @property
    def _method(self) -> str | None:
        """Of the encoder's module: what is compared with the teacher."""
        return "trunk" if self.learns_trunk else None

    @property
    def _head(self) -> nn.Module | None:
        # Channels of a trunk have no reason to be the teacher's one by one, however many there are.
        if not self.learns_trunk and self.model.encoder.neck_width == self.teacher.width:
            return None
        return linear(self.teacher.width, self.run.compute, "head").clone(name=None)

    # --------------------------------------------------------------------------- what it computes

    def init(self, rng: Array) -> Params:
        """`Task.init`."""
        px, head = self.run.data.view.image_px, self._head
        if self.is_promptable:
            params = network.init(self.model, rng)
        else:
            pixels = jnp.zeros((1, px, px, 3))
            drawn = self._encoder.init(rng, pixels, method=self._method)
            params = {"encoder": drawn["params"]}
        if head is not None:
            pixels = jnp.zeros((1, px, px, 3))
            shape = jax.eval_shape(self._own_features, params, pixels)[1].shape
            drawn = head.init(jax.random.fold_in(rng, _HEAD_STREAM), jnp.zeros(shape))
            params = {**params, "head": drawn["params"]}
        return {self.task.student: params}

    def features(
        self, params: Params, pixels_BHW3: Float[Array, "B H W 3"]
    ) -> tuple[Array, Array, Moments]:
        """Embedding, what is compared with the teacher, and the statistics of batch norms."""
        embedding, features, moments = self._own_features(params, pixels_BHW3)
        head = self._head
        if head is not None:
            features = head.apply({"params": params["head"]}, features)
            assert isinstance(features, jax.Array)
        return embedding, features, moments

    def _own_features(self, params: Params, pixels: Array) -> tuple[Array, Array, Moments]:
        variables, encoder = {"params": params["encoder"]}, self._encoder
        if self._is_joint:
            embedding, moments = encoder.apply(variables, pixels, method=type(encoder).jointly)
            return embedding, embedding, moments
        features = encoder.apply(variables, pixels, method=self._method)
        features = features.reshape(len(pixels), self.grid, self.grid, -1)
        return features, features, {}

    def target(self, frozen: Params, batch: Batch) -> Float[Array, "B h w T"]:
        """The teacher's features, stored or computed."""
        if self.is_stored and "target" in batch:
            return batch["target"]
        return self.teacher.features(frozen["teacher"], batch["image"], self.grid)

    def on_masks(self, params: Params, embedding: Array, batch: Batch) -> PerExample:
        """The loss on masks for first prompts, as in `segment`."""
        prompt = batch["points"], batch["labels"]
        variables = {"params": {part: params[part] for part in ("encoder", *DECODER)}}
        logits, scores = self.sam.apply(variables, embedding, *prompt, method=Sam.decode)
        assert isinstance(logits, jax.Array) and isinstance(scores, jax.Array)
        rules = SegmentConfig(model=self.task.student, loss_at=self.task.loss_at)

        def compare(packed: Array, valid: Array, logits: Array, scores: Array) -> PerExample:
            masks = images.unpack_bits(packed)
            return segment.round_loss(rules, logits, scores, masks, valid)

        if self.run.compute.remat == "blocks":
            compare = jax.checkpoint(compare)
        # One prompt leaves doubt about the object: the candidates answer.
        return compare(batch["masks"], batch["valid"], logits[:, :, 1:], scores[:, :, 1:])

    def trains(self, path: str) -> bool:
        """`Task.trains`: a decoder that is taken over is frozen unless it is coupled."""
        if path.split("/")[1] in DECODER:
            return self.task.coupling == "coupled"
        return not batch_norm.is_statistic(path)
