"""What the encoder keeps of pictures: taken apart, saved and loaded."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from esam_jax.convert.formats import safetensors_file
from esam_jax.errors import CheckpointError, MissingError
from esam_jax.ops.regions import MAX_SIDE

_KIND, _FEATURES = "esam_jax embedding", "features"


@flax.struct.dataclass
class Embedding:
    """What the encoder keeps of one or more pictures, and their sizes as given.

    `single`: one picture was given, not a list of one, and `decode` returns one `Masks`.
    `embedding[i]` is that of one picture, `embedding[i:j]` that of some.
    """

    features: Float[Array, "B h w C"]
    sizes: tuple[tuple[int, int], ...] = flax.struct.field(pytree_node=False)  # height, width
    single: bool = flax.struct.field(pytree_node=False)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int | slice) -> "Embedding":
        if isinstance(index, slice):
            return Embedding(self.features[index], self.sizes[index], single=False)
        i = range(len(self))[index]  # IndexError beyond the last, which ends a loop over them
        return Embedding(self.features[i : i + 1], self.sizes[i : i + 1], single=True)

    def __iter__(self) -> Iterator["Embedding"]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{height} x {width}" for height, width in self.sizes[:3])
        more = ", ..." if len(self) > 3 else ""
        about = f"{self.features.dtype} {list(self.features.shape)}"
        return f"Embedding({len(self)} of pictures of {sizes}{more}; features {about})"

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file; MissingError when it cannot be written."""
        about = {"kind": _KIND, "sizes": json.dumps(self.sizes), "single": json.dumps(self.single)}
        safetensors_file.write(path, {_FEATURES: self.features}, about)

    @staticmethod
    def load(path: str | Path) -> "Embedding":
        """What `save` wrote; CheckpointError for anything else. Only the same model can use it."""
        if not Path(path).is_file():
            raise MissingError(f"{path} does not exist: name a file that Embedding.save wrote")
        tensors, about = safetensors_file.read(Path(path))
        try:
            sizes, single = (json.loads(about[key]) for key in ("sizes", "single"))
            features = tensors[_FEATURES]
            kept = tuple((height, width) for height, width in sizes)
        except (KeyError, ValueError, TypeError, RecursionError):
            raise _not_ours(path) from None
        sound = about.get("kind") == _KIND and tensors.keys() == {_FEATURES}
        sound = sound and features.ndim == 4 and features.dtype in ("float32", "bfloat16")
        sound = sound and len(kept) == len(features) and all(map(_is_side, sum(kept, ())))
        if not sound or not isinstance(single, bool) or (single and len(kept) != 1):
            raise _not_ours(path)
        # Arrays of a file are views of it: the embedding must not change when it is replaced.
        return Embedding(jnp.array(features), kept, single)


def _is_side(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_SIDE


def _not_ours(path: str | Path) -> CheckpointError:
    return CheckpointError(f"{path} is not an embedding: name a file that save wrote")
