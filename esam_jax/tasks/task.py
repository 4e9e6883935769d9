"""What the train loop needs to know of a task: pure functions and nothing else."""

import dataclasses
from collections.abc import Callable, Mapping

from jaxtyping import Array

from esam_jax.config import SamConfig
from esam_jax.typing import Batch, Params, PerExample

# The output of mask token 0, whose parameters are slices of arrays shared with the candidates.
SINGLE_MASK = "decoder/single_mask"


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """One model that a run gives: its config, its parameters, and the branches never trained.

    `untrained` holds parameter paths ("encoder/neck"); a later run starts those anew. One name is
    no path: `SINGLE_MASK`.
    """

    config: SamConfig
    params: Params
    untrained: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learned. Parameters are nested dicts whose top-level keys are model names.

    init: key -> parameters. Traceable, so that they can be born sharded.
    loss: (parameters, frozen, batch, key) -> one value per example. Pure and traceable.
    load_frozen: weights that the loss reads but nothing changes, on the host; {} for none.
    initial: host arrays to start from, a subset of init's leaves, or None to start from scratch;
        called for a fresh run only, and the first to read what the run starts from.
    models: parameters -> what is written to the run's `model/`, by name.
    """

    init: Callable[[Array], Params]
    loss: Callable[[Params, Params, Batch, Array], PerExample]
    load_frozen: Callable[[], Params]
    initial: Callable[[], Params | None]
    models: Callable[[Params], Mapping[str, TrainedModel]]
