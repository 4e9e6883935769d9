"""How much goes in one call: what the device has room for, by the compiled program's own account.

A program for 2^k pictures or prompts is compiled before it is called for the first time, and the
call finds it compiled. What it needs for each is what a larger or a smaller one needs, too.
"""

import dataclasses
import sys
from typing import Any

import jax

from esam_jax.machine import memory
from esam_jax.typing import Params

# Model input and prompts in one call at most, whatever the room: a CPU computes larger calls no
# faster, and an accelerator is busy with these.
_PIXELS, _PIXELS_OF_ACCELERATORS = 2**22, 2**24
_PROMPTS, _PROMPTS_OF_ACCELERATORS = 32, 256
_SHARE = 0.5  # of the free memory: results of other calls lie beside this one


@dataclasses.dataclass
class Room:
    """What fits in one call on one device: pictures and prompts, each once it is known."""

    _known: dict[str, int] = dataclasses.field(default_factory=dict)

    def at_once(
        self, kind: str, count: int, program: Any, model: Any, params: Params, *arrays: Any
    ) -> int:
        """How many of a kind fit. `arrays`, which may be abstract, are of a call with `count`.

        Found out once: a server must not compile because other work takes memory for a while.
        """
        if kind not in self._known:
            compiled = program.lower(model, params, *arrays).compile()
            [device] = jax.tree.leaves(params)[0].devices()
            self._known[kind] = _that_fit(count, compiled.memory_analysis(), device)
        return self._known[kind]


def _that_fit(count: int, needs: Any, device: jax.Device) -> int:
    free = memory.free_bytes(device)
    if needs is None or free is None:
        return sys.maxsize  # nobody knows
    each = (needs.temp_size_in_bytes + needs.output_size_in_bytes) / count
    return max(1, int(_SHARE * free / each))


def most_pictures(image_px: int) -> int:
    """In one call of the encoder, where they fit."""
    pixels = _PIXELS if jax.default_backend() == "cpu" else _PIXELS_OF_ACCELERATORS
    return max(1, pixels // image_px**2)


def most_prompts() -> int:
    """In one call of the decoder, where they fit."""
    return _PROMPTS if jax.default_backend() == "cpu" else _PROMPTS_OF_ACCELERATORS


def like(array: jax.Array, *shape: int) -> jax.ShapeDtypeStruct:
    """An abstract array of another shape: a program compiled for it takes one that lies there."""
    place = array.sharding if array.committed else None
    return jax.ShapeDtypeStruct(shape, array.dtype, sharding=place)
