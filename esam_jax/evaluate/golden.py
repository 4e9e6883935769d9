"""Golden cases: what the PyTorch originals computed with weights that anyone can rebuild.

The weights come from a listing of names and shapes, bit for bit: sums of raw PCG64 output stand in
for normal samples, so that no library's sampler is involved. `assets/golden` holds the listings and
what the originals gave, so that a converted model can be checked where PyTorch is not installed.
"""

import dataclasses
import functools
import json
import pathlib
import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

FOLDER = pathlib.Path(__file__).parents[1] / "assets" / "golden"

# (what to search in the name, offset, scale); the first that is found wins.
_RULES = (
    (r"running_mean$", 0.0, 0.1),
    (r"running_var$", 1.0, 0.2),
    (r"positional_encoding_gaussian_matrix$", 0.0, 1.0),
    (r"(pos_embed|^positional_embedding|visual\.positional_embedding)$", 0.0, 0.3),
    (r"(cls_token|mask_token|visual\.class_embedding)$", 0.0, 0.5),
    (r"rel_pos_[hw]$", 0.0, 0.1),
    (r"attention_biases$", 0.0, 0.5),
    (r"logit_scale$", 2.5, 0.1),
    (r"bias$", 0.0, 0.1),
)
_TOKENS = (
    r"\b(iou_token|mask_tokens|point_embeddings|not_a_point_embed|no_mask_embed|invalid_points"
    r"|bbox_top_left_embeddings|bbox_bottom_right_embeddings"
    r"|token_embedding)\b"
)

_BARE = r"(visual\.proj|^text_projection)$"  # matrices that multiply from the right


@dataclasses.dataclass(frozen=True)
class Case:
    """One file: its arrays by name, and how it was made."""

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def prompt(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of one prompt, without its name in front."""
        start = f"{name}/"
        return {k[len(start) :]: x for k, x in self.arrays.items() if k.startswith(start)}

    @property
    def scaled(self) -> tuple[tuple[str, float], ...]:
        """(Regular expression, factor) pairs for `state_dict`."""
        return tuple((pattern, factor) for pattern, factor in self.meta.get("scaled", []))

    @property
    def pictures(self) -> np.ndarray:
        """uint8 RGB, one [H, W, 3] or a batch: stored small and enlarged, where that says so."""
        repeat = self.meta.get("repeat", 1)
        return self.arrays["image"].repeat(repeat, axis=-3).repeat(repeat, axis=-2)


@functools.cache
def load(name: str) -> Case:
    """The golden case of that name."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return Case(json.loads(str(arrays.pop("meta"))), arrays)


def listing(name: str) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of a PyTorch model."""
    shapes = json.loads((FOLDER / f"{name}.json").read_text())
    return {tensor: tuple(shape) for tensor, shape in shapes.items()}


def dtype(tensor: str) -> str:
    """What a tensor of that name holds: floats, but for BatchNorm's counters."""
    return "int64" if tensor.endswith("num_batches_tracked") else "float32"


@functools.lru_cache(maxsize=4)
def state_dict(name: str, seed: int = 0, scaled: tuple = ()) -> Mapping[str, np.ndarray]:
    """Every tensor of a listing; `scaled` holds (regular expression, factor) pairs."""
    state = {}
    for tensor, shape in listing(name).items():
        if dtype(tensor) == "int64":
            state[tensor] = np.zeros(shape, np.int64)
            continue
        offset, scale = _offset_and_scale(tensor, shape)
        noise = _noise(tensor, shape, seed)
        noise *= scale
        noise += offset
        state[tensor] = noise.astype(np.float32)
        for pattern, factor in scaled:
            if re.search(pattern, tensor):
                state[tensor] = state[tensor] * np.float32(factor)
    return state


def _noise(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Mean 0, variance 1, float64: each value is a sum of four 16-bit integers."""
    seeds = np.random.SeedSequence([zlib.crc32(name.encode()), seed])
    raw = np.random.PCG64(seeds).random_raw(int(np.prod(shape)))
    total = raw & 0xFFFF
    for _ in range(3):
        raw >>= 16
        total += raw & 0xFFFF
    noise = total.astype(np.float64)
    noise -= 2 * 65535
    noise /= np.sqrt(4 * (65536**2 - 1) / 12)
    return noise.reshape(shape)


def _offset_and_scale(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    for pattern, offset, scale in _RULES:
        if re.search(pattern, name):
            return offset, scale
    if name.endswith("weight") and len(shape) == 1:  # of a norm
        return 1.0, 0.1
    if re.search(_TOKENS, name):
        return 0.0, 0.7
    if (len(shape) == 4 and "upscaling" in name) or re.search(_BARE, name):
        fan_in = shape[0]
    else:
        fan_in = int(np.prod(shape[1:]))
    # Sharper queries and keys keep attention far from uniform.
    gain = 1.5 if re.search(r"\b(qkv|q_proj|k_proj|in_proj_weight)\b", name) else 1.0
    return 0.0, gain / np.sqrt(fan_in)
