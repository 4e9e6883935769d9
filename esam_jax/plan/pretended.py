"""A card that is not there, for the checks that JAX makes of this machine's own.

`jax.nn.dot_product_attention` looks at the local devices before it lowers cuDNN's kernel, whatever
it is lowered for: on a machine without a GPU it refuses heads that Hopper takes.
"""

import contextlib
from collections.abc import Iterator
from unittest import mock

from jax._src.cudnn import fused_attention_stablehlo


@contextlib.contextmanager
def capability(version: tuple[int, int]) -> Iterator[None]:
    """Within it, the local GPU has this compute capability."""

    def reached(wanted: str) -> bool:
        return tuple(int(part) for part in wanted.split(".")) <= version

    name = "check_compute_capability"
    with mock.patch.object(fused_attention_stablehlo, name, reached):
        yield
