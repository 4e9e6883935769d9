"""Floating-point operations of a training step for one example: what MFU is taken from.

Counted in the jaxpr of the loss (`models/flops.py`). A frozen network counts its forward pass, what
is trained three times that: backward needs the gradient of its inputs and that of its parameters;
a task that trains less says what that spares (`Task.passes`). Recomputation is not counted, nor is
the optimiser.
"""

import dataclasses

import jax

from esam_jax import tasks
from esam_jax.config import RunConfig
from esam_jax.models import flops
from esam_jax.typing import Params


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a step: operations for one example, forward and in all."""

    name: str
    forward: int
    total: int
    trained: bool = True


def per_example(cfg: RunConfig, params: Params | None = None, frozen: Params | None = None) -> int:
    """Of the complete step, for one picture; the trees as `parts` takes them."""
    return sum(part.total for part in parts(cfg, params, frozen))


def parts(
    cfg: RunConfig, params: Params | None = None, frozen: Params | None = None
) -> tuple[Part, ...]:
    """The frozen networks of a step, and what it trains.

    `params` and `frozen`, which may be abstract, save the tracing of their shapes.
    """
    compute = dataclasses.replace(cfg.compute, attention=flops.PLAIN.attention)
    task = tasks.build(dataclasses.replace(cfg, compute=compute))
    key = jax.eval_shape(lambda: jax.random.key(0))
    if params is None:
        params = jax.eval_shape(task.init, key)
    if frozen is None:
        frozen = {name: part.shapes() for name, part in task.frozen.items()}
    draws = jax.eval_shape(lambda key: task.draw(key, 1), key)
    given = {
        name: jax.ShapeDtypeStruct((1, *shape), dtype)
        for name, (shape, dtype) in task.example.items()
    }
    batch = jax.eval_shape(task.prepare, {**given, **draws})
    rest = flops.count(task.loss, params, frozen, batch)
    found = []
    for name, part in task.frozen.items():
        counted = flops.count(part.features, frozen[name], given["image"])
        rest -= counted
        exact = counted if part.operations is None else part.operations
        found.append(Part(name, exact, exact, trained=False))
    rest += task.miscounted
    return *found, Part("trained", rest, task.passes(rest))
