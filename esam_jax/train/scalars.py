"""The metrics of one update as a single array: one copy to the host instead of a dozen."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@jax.tree_util.register_pytree_node_class
class Scalars:
    """Named float32 numbers in one vector, to be read by name."""

    def __init__(self, names: tuple[str, ...], vector: Float[Array, " X"]) -> None:
        self.names, self.vector = names, vector

    def __getitem__(self, name: str) -> Any:
        if name not in self.names:
            raise KeyError(name)
        return self.vector[self.names.index(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def keys(self) -> tuple[str, ...]:
        return self.names

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scalars):
            return NotImplemented
        return self.names == other.names and np.array_equal(self.vector, other.vector)

    def tree_flatten(self) -> tuple[tuple[Any], tuple[str, ...]]:
        return (self.vector,), self.names

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], leaves: Any) -> "Scalars":
        fresh = object.__new__(cls)  # JAX also builds trees of what is no array
        fresh.names, (fresh.vector,) = names, leaves
        return fresh


Metrics = Scalars | Mapping[str, Any]


def pack(metrics: Mapping[str, Float[Array, ""]]) -> Scalars:
    """The same numbers as float32, in one vector; traceable."""
    return Scalars(
        tuple(metrics), jnp.stack([jnp.asarray(x, jnp.float32) for x in metrics.values()])
    )


def ready(metrics: Metrics) -> bool:
    """Whether they are computed; does not wait."""
    leaf: Any = metrics.vector if isinstance(metrics, Scalars) else next(iter(metrics.values()))
    return leaf.is_ready()


def fetch(metrics: Metrics) -> dict[str, float]:
    """The numbers on the host; waits until they are computed, and for nothing that came after."""
    if isinstance(metrics, Scalars):
        # An explicit transfer, as jax.device_get is, and several times as fast for one small array.
        with jax.transfer_guard_device_to_host("allow"):
            values = np.asarray(metrics.vector).tolist()
        return dict(zip(metrics.names, values, strict=True))
    return {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
