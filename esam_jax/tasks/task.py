"""What the train loop needs to know of a task: pure functions and nothing else."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Array

from esam_jax.config import SamConfig
from esam_jax.typing import Batch, Params, PerExample

# The output of mask token 0, whose parameters are slices of arrays shared with the candidates.
SINGLE_MASK = "decoder/single_mask"
# Pretraining ends with the encoder's trunk; everything behind it starts anew in fine-tuning.
BEHIND_TRUNK = ("encoder/neck", "prompt", "decoder")


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """One model that a run gives: its config, its parameters, and the branches never trained.

    `untrained` holds parameter paths ("encoder/neck"); a later run starts those anew. One name is
    no path: `SINGLE_MASK`. `unused` holds what was trained beside the model and another layout
    needs, by that layout's names (`convert.model_folder`).
    """

    config: SamConfig
    params: Params
    untrained: tuple[str, ...] = ()
    unused: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learned. Parameters are nested dicts whose top-level keys are model names.

    init: key -> parameters. Traceable, so that they can be born sharded.
    loss: (parameters, frozen, batch) -> one value per example. Pure and traceable.
    draw: (key, images) -> every random choice of one update, one a row, which `loss` finds in its
        batch: made before the batch is cut, so that micro-batches choose what the whole would.
    load_frozen: weights that the loss reads but nothing changes, on the host; {} for none.
    initial: host arrays to start from, a subset of init's leaves, or None to start from scratch;
        called for a fresh run only, and the first to read what the run starts from.
    models: parameters -> what is written to the run's `model/`, by name.
    features: (frozen, uint8 pictures) -> what the teacher makes of them; None without a teacher.
    """

    init: Callable[[Array], Params]
    loss: Callable[[Params, Params, Batch], PerExample]
    load_frozen: Callable[[], Params]
    initial: Callable[[], Params | None]
    models: Callable[[Params], Mapping[str, TrainedModel]]
    draw: Callable[[Array, int], Batch] = lambda key, images: {}
    features: Callable[[Params, Array], Array] | None = None
