"""What the train loop needs to know of a task: pure functions, and what they read.

A task brings all of itself: loss, draws, frozen networks, the arrays of one example, what it starts
from, what it is measured by and the models that it leaves behind. Building one opens no file.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from esam_jax.config import EvaluateConfig, ModelConfig
from esam_jax.typing import Batch, Params, PerExample

# Pretraining ends with the encoder's trunk; fine-tuning draws everything behind it.
BEHIND_TRUNK = ("encoder/neck", "prompt", "decoder")

Shapes = Mapping[str, tuple[tuple[int, ...], np.dtype]]  # of one example, without a batch axis
# (sharded parameters, those of the frozen networks) -> values of metrics.jsonl
Measure = Callable[[Params, Params], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """One model that a run leaves: its config, its parameters, and the branches never trained.

    `untrained` holds parameter paths ("encoder/neck"); a later run draws those again. One name is
    no path: `convert.provenance.SINGLE_MASK`. `unused` holds what was trained beside the model
    and another layout needs, by that layout's names (`convert.model_folder`).
    """

    config: ModelConfig
    params: Params
    untrained: tuple[str, ...] = ()
    unused: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run starts from: host arrays in place of drawn parameters, and what those never learn.

    `params` is a subset of the leaves of `Task.init`. `untrained` names branches of the model that
    neither the files nor this task train (`TrainedModel.untrained`).
    """

    params: Params = dataclasses.field(default_factory=dict)
    untrained: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frozen:
    """One network that the loss reads and nothing changes.

    key: where its config stands ("task.teacher"), for errors; `weights` is that config's value.
    read: -> its parameters on the host. The first to open a file: ConfigError, MissingError or
        CheckpointError.
    shapes: -> the same, abstract.
    placement: every device holds all of it, or pieces by the table of `sharding.py`.
    features: (its parameters, uint8 pictures) -> what it computes of them, which must be finite.
    drawn: whether its weights are random, and so may differ on another device.
    operations: of its forward pass on one picture, where they cannot be counted in its jaxpr.
    """

    key: str
    weights: str | None
    read: Callable[[], Params]
    shapes: Callable[[], Params]
    placement: Literal["replicated", "fsdp"]
    features: Callable[[Params, Array], Array]
    drawn: bool = False
    operations: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is learned. Parameters are nested dicts whose top-level keys are model names.

    init: key -> parameters. Traceable, so that they can be born sharded.
    loss: (parameters, frozen, batch) -> one value per example. Pure and traceable. `frozen` holds
        the parameters of each frozen network by its name.
    example: the arrays of one example, as the view gives them.
    models: (parameters, start) -> what is written to the run's `model/`, by name.
    draw: (key, images) -> every random choice of one update, one a row, which `loss` finds in its
        batch: made before the batch is cut, so that micro-batches see what one batch would.
    prepare: (batch, with what was drawn) -> what `loss` is given in its place, of as many rows:
        made of the complete batch, whose pictures may be mixed, before it is cut. Pure, traceable.
    frozen: the networks that the loss reads and nothing changes, by name.
    initial: -> the start of a fresh run. Reads its files: MissingError or CheckpointError.
    resumed: -> the start of a run that resumes; its first files may be gone, and no parameter is
        needed of them.
    measurement: (what to measure on, mesh) -> the measurement of a model in training. Opens the
        data once; None for a task whose models are not measured.
    miscounted: operations of one example that the count in the jaxpr of the loss misses.
    trains: path of a parameter in the tree of `init` ("efficientsam_ti/encoder/positions") ->
        whether it is trained. The others keep their bits (`tasks/trained.py`), but for the running
        averages that the loss has `PerExample.moments` of.
    passes: operations of the loss of one example -> those of its update: backward needs as many for
        the gradient of what products take, and again for that of their parameters.
    """

    init: Callable[[Array], Params]
    loss: Callable[[Params, Params, Batch], PerExample]
    example: Shapes
    models: Callable[[Params, Start], Mapping[str, TrainedModel]]
    draw: Callable[[Array, int], Batch] = lambda key, images: {}
    prepare: Callable[[Batch], Batch] = lambda batch: batch
    frozen: Mapping[str, Frozen] = dataclasses.field(default_factory=dict)
    initial: Callable[[], Start] = Start
    resumed: Callable[[], Start] = Start
    measurement: Callable[[EvaluateConfig, Mesh], Measure] | None = None
    miscounted: int = 0
    trains: Callable[[str], bool] = lambda path: True
    passes: Callable[[int], int] = lambda forward: 3 * forward
