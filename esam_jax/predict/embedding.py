"""What the encoder keeps of pictures: taken apart, saved and loaded."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from esam_jax import files
from esam_jax.config import SamConfig
from esam_jax.convert import describe
from esam_jax.convert.formats import safetensors_file
from esam_jax.errors import CheckpointError, MissingError
from esam_jax.machine import out_of_memory
from esam_jax.ops.regions import MAX_SIDE
from esam_jax.typing import Params

_KIND, _FEATURES = "esam_jax embedding", "features"
_ABOUT = ("sizes", "single", "encoder")  # fields that are kept as metadata
_SOME_NUMBERS = 4096


@flax.struct.dataclass
class Embedding:
    """What the encoder keeps of one or more pictures, and their sizes as given.

    `single`: one picture was given, not a list of one, and `decode` returns one `Masks`.
    `embedding[i]` is that of one picture, `embedding[i:j]` that of some. `encoder` names what made
    it (`encoder_name`), so that the decoder of another model refuses it; None where nobody knows.
    """

    features: Float[Array, "B h w C"]
    sizes: tuple[tuple[int, int], ...] = flax.struct.field(pytree_node=False)  # height, width
    single: bool = flax.struct.field(pytree_node=False)
    encoder: str | None = flax.struct.field(pytree_node=False, default=None)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int | slice) -> "Embedding":
        if isinstance(index, slice):
            return self._part(index, single=False)
        i = range(len(self))[index]  # IndexError beyond the last, which ends a loop over them
        return self._part(slice(i, i + 1), single=True)

    def _part(self, part: slice, *, single: bool) -> "Embedding":
        return Embedding(self.features[part], self.sizes[part], single, self.encoder)

    def __iter__(self) -> Iterator["Embedding"]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{height} x {width}" for height, width in self.sizes[:3])
        more = ", ..." if len(self) > 3 else ""
        about = f"{self.features.dtype} {list(self.features.shape)}"
        return f"Embedding({len(self)} of pictures of {sizes}{more}; features {about})"

    @out_of_memory.advice()
    def save(self, path: str | Path) -> None:
        """Writes one safetensors file; MissingError when it cannot be written.

        ConfigError for a bucket or a URL, DeviceMemoryError where the device had no room for it.
        """
        files.require_local(path)
        about = {name: json.dumps(getattr(self, name)) for name in _ABOUT} | {"kind": _KIND}
        safetensors_file.write(path, {_FEATURES: self.features}, about)

    @staticmethod
    @files.refusing()
    def load(path: str | Path) -> "Embedding":
        """What `save` wrote; CheckpointError for anything else, MissingError if unreadable.

        Only a model with the encoder that made it can use it.
        """
        files.require_local(path)
        if not Path(path).is_file():
            raise MissingError(f"{path} does not exist: name a file that Embedding.save wrote")
        tensors, about = safetensors_file.read(Path(path))
        try:
            sizes, single, encoder = (json.loads(about[name]) for name in _ABOUT)
            features = tensors[_FEATURES]
            kept = tuple((height, width) for height, width in sizes)
        except (KeyError, ValueError, TypeError, RecursionError):
            raise _not_ours(path) from None
        sound = about.get("kind") == _KIND and tensors.keys() == {_FEATURES}
        sound = sound and features.ndim == 4 and features.dtype in ("float32", "bfloat16")
        sound = sound and len(kept) == len(features) and all(map(_is_side, sum(kept, ())))
        sound = sound and isinstance(single, bool) and (not single or len(kept) == 1)
        sound = sound and (encoder is None or _is_name(encoder))
        if not sound:
            raise _not_ours(path)
        # Arrays of a file are views of it: the embedding must not change when it is replaced.
        return Embedding(jnp.array(features), kept, single, encoder)


def encoder_name(config: SamConfig, params: Params) -> str:
    """What tells an image encoder from others, in whatever layout its weights came.

    A SHA-256 of some of each array's numbers: training, merging and rounding change nearly all.
    """
    encoder = config.encoder
    digest = hashlib.sha256(f"{encoder.kind} {encoder.image_px} {config.fit}".encode())
    for path, array in sorted(describe.flat(params["encoder"]).items()):
        digest.update(f"{path} {array.shape};".encode())
        some = np.asarray(array).flat[:: max(1, array.size // _SOME_NUMBERS)]
        digest.update(np.ascontiguousarray(some, np.float32).data)
    return f"{encoder.kind} of {encoder.image_px} px, sha256:{digest.hexdigest()[:16]}"


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\w .,:-]{1,100}", value) is not None


def _is_side(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_SIDE


def _not_ours(path: str | Path) -> CheckpointError:
    return CheckpointError(f"{path} is not an embedding: name a file that save wrote")
