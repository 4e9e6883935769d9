"""What the device is, and what it reaches: products, copies, attention and launches.

These are the shares of the peaks that `plan/paper.py` assumes. Where a card reaches others, its
programs take other times than on paper, and no change of a program helps.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from esam_jax.bench import conditions, timing
from esam_jax.card import driver
from esam_jax.card.setting import Row, Setting
from esam_jax.machine import accelerators
from esam_jax.machine.accelerators import Accelerator
from esam_jax.ops import attention
from esam_jax.plan import paper

_LAUNCHES = 200
_TOKENS_A_SIDE = 64  # of the attention, for each 8192 of the products' side


def measure(setting: Setting) -> Iterator[Row]:
    """The machine first, then one row for each ceiling."""
    device = jax.devices()[0]
    sheet = accelerators.of(device)
    limit = (device.memory_stats() or {}).get("bytes_limit")
    yield {
        "table": "machine",
        **conditions.machine(),
        "versions": conditions.versions(),
        "memory_limit_bytes": limit,
        "nvidia_smi": driver.query(),
    }
    side = setting.side
    for dtype in setting.dtypes:
        yield _products(setting, side, dtype, sheet)
    yield _copy(setting, side, sheet)
    yield _attention(setting, max(4, _TOKENS_A_SIDE * side // 8192) ** 2, sheet)
    yield _launches(setting)


def _products(setting: Setting, side: int, dtype: str, sheet: Accelerator | None) -> Row:
    """One large square product; float32 at the default precision, which is TF32 on a card."""
    a, b = (_noise(key, (side, side), dtype) for key in (0, 1))
    seconds = _median(setting, functools.partial(jax.jit(jnp.dot), a, b))
    peak = None
    if sheet is not None:
        peak = sheet.flops if dtype == "bfloat16" else sheet.flops / 2
    rate = 2 * side**3 / seconds
    return _row(f"product {dtype} {side} x {side}", seconds, rate, "FLOP/s", peak, paper.PRODUCTS)


def _copy(setting: Setting, side: int, sheet: Accelerator | None) -> Row:
    """Reads and writes an array that no cache holds."""
    source = _noise(2, (4 * side, side), "float32")
    seconds = _median(setting, functools.partial(jax.jit(lambda x: x + 1.0), source))
    peak = None if sheet is None else sheet.bandwidth
    rate = 2 * source.nbytes / seconds
    return _row("copy", seconds, rate, "B/s", peak, paper.BANDWIDTH)


def _attention(setting: Setting, tokens: int, sheet: Accelerator | None) -> Row:
    """EfficientSAM-S's own: heads of 64 channels, on which products and exponentials take alike."""
    batch, heads, width = 4, 6, 64
    q, k, v = (_noise(key, (batch, tokens, heads, width), "bfloat16") for key in (3, 4, 5))
    seconds = _median(setting, functools.partial(jax.jit(attention.attend), q, k, v))
    scores = batch * heads * tokens**2
    flops, peak = 4 * scores * width, None
    if sheet is not None and sheet.exponentials is not None:
        peak = flops / (flops / sheet.flops + scores / sheet.exponentials)
    name = f"attention bfloat16 {tokens} tokens"
    return _row(name, seconds, flops / seconds, "FLOP/s", peak, paper.ATTENTION)


def _launches(setting: Setting) -> Row:
    """Kernels in a row that do nothing worth mentioning, and which nothing can join."""

    def chain(x: jax.Array) -> jax.Array:
        for _ in range(_LAUNCHES):
            x = jax.lax.optimization_barrier(x + 1.0)
        return x

    seconds = _median(setting, functools.partial(jax.jit(chain), jnp.zeros((8, 128))))
    return {
        "table": "ceilings",
        "what": "shortest kernel in a row",
        "seconds": seconds / _LAUNCHES,
        "assumed_seconds": paper.LAUNCH_SECONDS,
    }


def _row(
    what: str, seconds: float, rate: float, unit: str, peak: float | None, assumed: float
) -> Row:
    return {
        "table": "ceilings",
        "what": what,
        "seconds": seconds,
        "rate": rate,
        "unit": unit,
        "share": None if peak is None else rate / peak,
        "assumed_share": assumed,
    }


def _median(setting: Setting, call: Callable[[], Any]) -> float:
    (found,) = timing.in_turn([call], setting.runs)
    return found.median


def _noise(key: int, shape: tuple[int, ...], dtype: str) -> jax.Array:
    """Never zeros, on which a card draws less power and so runs faster."""
    return jax.random.normal(jax.random.key(key), shape).astype(dtype)
