"""Weights that anyone can rebuild from a listing of names and shapes, bit for bit.

Sums of raw PCG64 output stand in for normal samples, so that no library's sampler is involved. The
golden cases beside this file were computed by the PyTorch originals with these weights.
"""

import functools
import json
import pathlib
import re
import zlib
from collections.abc import Mapping

import numpy as np

FOLDER = pathlib.Path(__file__).parent

# (what to search in the name, offset, scale); the first that is found wins.
_RULES = (
    (r"positional_encoding_gaussian_matrix$", 0.0, 1.0),
    (r"pos_embed$", 0.0, 0.3),
    (r"rel_pos_[hw]$", 0.0, 0.1),
    (r"bias$", 0.0, 0.1),
)
_TOKENS = (
    r"\b(iou_token|mask_tokens|point_embeddings|not_a_point_embed|no_mask_embed|invalid_points"
    r"|bbox_top_left_embeddings|bbox_bottom_right_embeddings)\b"
)


def listing(name: str) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of a PyTorch model."""
    shapes = json.loads((FOLDER / f"{name}.json").read_text())
    return {tensor: tuple(shape) for tensor, shape in shapes.items()}


@functools.lru_cache(maxsize=4)
def state_dict(name: str, seed: int = 0, scaled: tuple = ()) -> Mapping[str, np.ndarray]:
    """Every tensor of a listing; `scaled` holds (regular expression, factor) pairs."""
    state = {}
    for tensor, shape in listing(name).items():
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
    if len(shape) == 4 and "upscaling" in name:
        fan_in = shape[0]
    else:
        fan_in = int(np.prod(shape[1:]))
    # Sharper queries and keys keep attention far from uniform.
    gain = 1.5 if re.search(r"\b(qkv|q_proj|k_proj)\b", name) else 1.0
    return 0.0, gain / np.sqrt(fan_in)
