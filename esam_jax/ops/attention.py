"""Dot-product attention with one entry point, relative positions, windows.

`attend` is the only place where the implementation is chosen, by `choose`:

- `xla`: plain batched products, with the complete N x J score matrix;
- `chunked`: the same in a loop over 256 queries at a time, so that no N x J matrix is stored.
  Images and heads stay batch axes, so that splitting them over devices needs no communication;
  on a CPU alone they are looped over as well, for its caches hold the scores of one head and no
  more;
- `cudnn`: the fused kernel of NVIDIA GPUs, for 16-bit numbers and a limited head width;
- `splash`: that of TPUs, for the same (`ops/splash.py`).
"""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import einops
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core
from jaxtyping import Array, Bool, Float

from esam_jax.errors import ConfigError
from esam_jax.ops import positions, products, splash

Impl = Literal["xla", "chunked", "cudnn", "splash"]

PLAIN_TOKENS = 1024  # without a fused kernel, up to here a complete score matrix is fastest
# Below, the tiles of a fused kernel are mostly empty.
FUSED_TOKENS: dict[Impl, int] = {"cudnn": 32, "splash": splash.LANES}
_FUSED: dict[str, Impl] = {"gpu": "cudnn", "tpu": "splash"}  # the kernel of a backend
CHUNK_QUERIES, CPU_CHUNK_QUERIES = 256, 1024
SMALL_SCORE = 30.0  # exp(30) is 1e13; a derivative squares the sum of J of them

_RESULT = "attended"  # what policies of recomputation call the result of `attend`


@dataclasses.dataclass(frozen=True)
class _Machine:
    """What a program is compiled for."""

    backend: str
    max_head_dim: int  # the widest head of its cuDNN kernel
    devices: int
    interpret: bool = False


_TARGET: contextvars.ContextVar[_Machine | None] = contextvars.ContextVar("target", default=None)


@contextlib.contextmanager
def target(
    backend: str, max_head_dim: int = 128, devices: int = 1, *, interpret: bool = False
) -> Iterator[None]:
    """Within it, `attend` chooses as it would on that backend, which need not exist here.

    With `interpret`, the kernel of TPUs is plain JAX that runs on any machine, slowly.
    """
    token = _TARGET.set(_Machine(backend, max_head_dim, devices, interpret))
    try:
        yield
    finally:
        _TARGET.reset(token)


def choose(
    impl: str,
    *,
    backend: str,
    tokens: tuple[int, int],
    head_dim: int,
    dtype: jax.typing.DTypeLike,
    max_head_dim: int = 128,
) -> Impl:
    """Name of the implementation to use; `tokens` counts the queries and the keys.

    `max_head_dim` is what the device's cuDNN kernel takes: 128 on Ampere and Ada, 256 from Hopper
    on, 0 where there is none. The kernel is differentiable at even lengths only: a missing query
    is padded, but an odd number of keys never goes to it.
    ConfigError for an implementation that does not exist or that can never run here.
    """
    if impl not in ("auto", *get_args(Impl)):
        names = ", ".join(get_args(Impl))
        raise ConfigError(f"attention is {impl!r}, but must be auto or one of {names}")
    kernel = _FUSED.get(backend)
    widest = splash.WIDEST if "splash" in (kernel, impl) else max_head_dim
    takes = kernel is not None and jnp.dtype(dtype).itemsize == 2 and head_dim <= widest
    if impl in FUSED_TOKENS and not (takes and impl == kernel):
        machine = next(each.upper() for each, name in _FUSED.items() if name == impl)
        raise ConfigError(
            f"attention {impl!r} cannot run {jnp.dtype(dtype).name} with head width {head_dim} on "
            f"{backend}: it needs a {machine}, 16 bits and at most {widest}; use 'auto'"
        )
    if impl in ("xla", "chunked"):
        return impl
    fits = takes and (kernel == "splash" or tokens[1] % 2 == 0)
    if kernel is not None and fits and (impl == kernel or min(tokens) >= FUSED_TOKENS[kernel]):
        return kernel
    return "xla" if min(tokens) <= PLAIN_TOKENS else "chunked"


def attend(
    q: Float[Array, "... N A K"],
    k: Float[Array, "... J A K"],
    v: Float[Array, "... J A C"],
    *,
    bias: Float[Array, "A N J"] | None = None,
    seen: Bool[Array, "... J"] | None = None,
    causal: bool = False,
    scale: float | None = None,
    impl: str = "auto",
    precision: lax.PrecisionLike = None,
    split: tuple[splash.Axes, splash.Axes] = (None, None),
) -> Float[Array, "... N A C"]:
    """Softmax(q k^T * scale + bias) v per head; leading axes broadcast. `scale` None is K ** -0.5.

    Scores and softmax are float32 whatever the dtype; the result has the dtype of `v`. `seen` says
    which keys count, at least one of each row; with `causal`, query i sees the keys up to i alone.
    These three are for few tokens: only `xla` takes them, which `auto` then is, and any other
    choice raises ConfigError. `split` names the axes of the surrounding mesh that cut the first
    axis, and the heads: a kernel needs it that the compiler cannot cut.
    """
    masked = causal or bias is not None or seen is not None
    if impl == "auto" and masked:
        impl = "xla"
    head_dim = q.shape[-1]
    factor = head_dim**-0.5 if scale is None else scale
    machine = _TARGET.get() or _here()
    chosen = choose(
        impl,
        backend=machine.backend,
        tokens=(q.shape[-3], k.shape[-3]),
        head_dim=max(head_dim, v.shape[-1]),
        dtype=q.dtype,
        max_head_dim=machine.max_head_dim,
    )
    if masked and chosen != "xla":
        raise ConfigError(f"attention {chosen!r} takes no bias or mask of the scores: use 'xla'")
    if chosen == "cudnn":
        return checkpoint_name(_cudnn(q, k, v, factor), _RESULT)
    if chosen == "splash":
        lead, flat = _flat(q if factor == 1 else q * factor, k, v)
        out = splash.attend(*flat, split=split, name=_RESULT, interpret=machine.interpret)
        return out.reshape(*lead, *out.shape[1:])
    # Scaling the N x K queries is cheaper than scaling the N x J scores.
    q, v = (jnp.swapaxes(x, -2, -3) for x in (q if factor == 1 else q * factor, v))
    k = jnp.moveaxis(k, -3, -1)  # as the products take it: transposed once, not in every chunk
    if chosen == "chunked":
        alone = (
            machine.backend == "cpu" and machine.devices == 1
        )  # a loop over heads cannot be split
        out = (_by_head if alone else _chunked)(q, k, v, precision)
    else:
        out = _plain(q, k, v, precision, bias, seen, causal=causal)
    return checkpoint_name(jnp.swapaxes(out, -2, -3), _RESULT)


def is_result(primitive: core.Primitive, params: Mapping[str, Any]) -> bool:
    """For a policy of `jax.checkpoint`: whether this is the result of `attend`.

    Of the fused kernel all that it gives is meant, for its backward needs the sums of the softmax.
    """
    fused = primitive.name.startswith("dot_product_attention_fwd")
    return fused or (primitive.name == "name" and params["name"] == _RESULT)


def _plain(
    q: Float[Array, "... N K"],
    k: Float[Array, "... K J"],
    v: Float[Array, "... J C"],
    precision: lax.PrecisionLike,
    bias: Float[Array, "A N J"] | None = None,
    seen: Bool[Array, "... J"] | None = None,
    *,
    causal: bool = False,
    stored: bool = False,
) -> Float[Array, "... N C"]:
    scores = products.einsum("...nk,...kj->...nj", q, k, precision)
    scores = scores if bias is None else scores + bias
    if seen is not None:
        scores = jnp.where(seen[..., None, None, :], scores, -jnp.inf)
    if causal:
        scores = jnp.where(jnp.tri(*scores.shape[-2:], dtype=bool), scores, -jnp.inf)
    if stored:
        top = _shift(*(lax.stop_gradient(x) for x in (q, k, scores)))
    else:
        top = lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.exp(scores - top)
    if stored:  # else XLA takes every exponential twice, for the product and for the sum;
        # the sum is a product too, which is faster there
        weights = lax.optimization_barrier(weights)
        total = jnp.matmul(weights, jnp.ones((weights.shape[-1], 1)), precision=precision)
    else:
        total = weights.sum(-1, keepdims=True)
    # Divide after the product with v: N x C numbers instead of N x J.
    out = products.einsum("...nj,...jc->...nc", weights.astype(v.dtype), v, precision) / total
    return out.astype(v.dtype)


def _shift(
    q: Float[Array, "N K"], k: Float[Array, "K J"], scores: Float[Array, "N J"]
) -> Float[Array, "N 1"]:
    """What to take off the scores: the largest of each row, or nothing when all are small.

    A softmax needs no shift while its exponentials stay in range, and |q . k| <= |q| |k| shows that
    without reading every score.
    """
    longest = [
        jnp.sqrt((x.astype(jnp.float32) ** 2).sum(axis).max()) for x, axis in ((q, 1), (k, 0))
    ]
    small = longest[0] * longest[1] < SMALL_SCORE
    none = jnp.zeros((len(q), 1), scores.dtype)
    return lax.cond(small, lambda x: none, lambda x: x.max(1, keepdims=True), scores)


def _chunked(
    q: Float[Array, "... N K"],
    k: Float[Array, "... K J"],
    v: Float[Array, "... J C"],
    precision: lax.PrecisionLike,
    *,
    most: int = CHUNK_QUERIES,
    stored: bool = False,
) -> Float[Array, "... N C"]:
    tokens = q.shape[-2]
    chunk = min(most, tokens)
    padding = [(0, 0)] * (q.ndim - 2) + [(0, -tokens % chunk), (0, 0)]
    chunks = einops.rearrange(jnp.pad(q, padding), "... (n c) k -> n ... c k", c=chunk)
    # Without the checkpoint, differentiation would store every chunk's scores: the matrix again.
    one = jax.checkpoint(lambda q_chunk: _plain(q_chunk, k, v, precision, stored=stored))
    out = einops.rearrange(lax.map(one, chunks), "n ... c j -> ... (n c) j")
    return out[..., :tokens, :]


def _by_head(
    q: Float[Array, "... N K"],
    k: Float[Array, "... K J"],
    v: Float[Array, "... J C"],
    precision: lax.PrecisionLike,
) -> Float[Array, "... N C"]:
    lead = jnp.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    each = [jnp.broadcast_to(x, lead + x.shape[-2:]) for x in (q, k, v)]
    heads = [x.reshape(-1, *x.shape[-2:]) for x in each]
    one = functools.partial(_chunked, precision=precision, most=CPU_CHUNK_QUERIES, stored=True)
    out = lax.map(lambda head: one(*head), heads)
    return out.reshape(*lead, *out.shape[-2:])


def _cudnn(
    q: Float[Array, "... N A K"],
    k: Float[Array, "... J A K"],
    v: Float[Array, "... J A C"],
    scale: float,
) -> Float[Array, "... N A C"]:
    lead, (q, k, v) = _flat(q, k, v)
    width, tokens, value_width = max(q.shape[-1], v.shape[-1]), q.shape[1], v.shape[-1]

    def padded(x: Array, rows: int = 0) -> Array:
        """With zeros up to one head width for all, a multiple of 8."""
        columns = width + -width % 8 - x.shape[-1]
        return jnp.pad(x, [(0, 0), (0, rows), (0, 0), (0, columns)])

    out = jax.nn.dot_product_attention(
        padded(q, tokens % 2), padded(k), padded(v), scale=scale, implementation="cudnn"
    )
    out = out[:, :tokens, :, :value_width]
    return out.reshape(*lead, *out.shape[1:])


def _flat(*arrays: Array) -> tuple[tuple[int, ...], list[Array]]:
    """The leading axes that [..., tokens, A, K] have together, and each with a single one."""
    lead = jnp.broadcast_shapes(*(x.shape[:-3] for x in arrays))
    spread = (jnp.broadcast_to(x, lead + x.shape[-3:]) for x in arrays)
    return lead, [x.reshape(-1, *x.shape[-3:]) for x in spread]


def _here() -> _Machine:
    capability = getattr(jax.local_devices()[0], "compute_capability", None)
    return _Machine(jax.default_backend(), fused_width(capability), jax.device_count())


def fused_width(capability: object) -> int:
    """Widest head of cuDNN's kernel on a device that says this of itself; 0 where there is none.

    NVIDIA's cards say "9.0", AMD's "gfx942"; there is no kernel before Ampere, 8.0.
    """
    try:
        major = int(str(capability).split(".")[0])
    except ValueError:
        return 0
    return 256 if major >= 9 else 128 if major == 8 else 0


# ------------------------------------------------------------------------ relative positions


def relative_table(table_LK: Float[Array, "L K"], size: int) -> Float[Array, "{size} {size} K"]:
    """Row i, column j: the vector for query i and key j on an axis of `size` cells.

    The table runs over i - j from -(size - 1) to size - 1. One learned for another size is first
    resampled linearly (segment-anything, image_encoder.py: get_rel_pos).
    """
    table_LK = positions.linear_resize(table_LK, 2 * size - 1)
    cells = jnp.arange(size)
    return table_LK[cells[:, None] - cells[None, :] + size - 1]


def fold_relative_positions(
    q: Float[Array, "... N A K"],
    k: Float[Array, "... N A K"],
    rel_rows: Float[Array, "L K"],
    rel_cols: Float[Array, "_ K"],
    grid: tuple[int, int],
    scale: float,
    precision: lax.PrecisionLike = None,
) -> tuple[Float[Array, "... N A K+{sum(grid)}"], Float[Array, "... N A K+{sum(grid)}"]]:
    """Queries and keys with h + w more channels, to be attended with scale 1.

    SAM adds q . rel_rows[i_q - i_k] + q . rel_cols[j_q - j_k] to the scaled scores, with q itself
    unscaled. Here the first term's value for each of the h key rows becomes h query channels, and
    the key's row, one-hot, the h key channels to pick it; columns alike. No N x N bias is stored.
    """
    h, w = grid
    q_hw = einops.rearrange(q, "... (h w) a k -> ... h w a k", h=h, w=w)
    tables = (relative_table(rel_rows, h), relative_table(rel_cols, w))
    rows, cols = (table.astype(q.dtype) for table in tables)
    by_row = products.einsum("...hwak,hik->...hwai", q_hw, rows, precision)
    by_col = products.einsum("...hwak,wjk->...hwaj", q_hw, cols, precision)
    extra = jnp.concatenate([by_row, by_col], axis=-1).astype(q.dtype)
    extra = einops.rearrange(extra, "... h w a j -> ... (h w) a j")
    row_of = jnp.repeat(jnp.eye(h, dtype=k.dtype), w, axis=0)
    col_of = jnp.tile(jnp.eye(w, dtype=k.dtype), (h, 1))
    one_hot = jnp.concatenate([row_of, col_of], axis=-1)[:, None, :]
    one_hot = jnp.broadcast_to(one_hot, (*k.shape[:-1], h + w))
    return jnp.concatenate([q * scale, extra], axis=-1), jnp.concatenate([k, one_hot], axis=-1)


def distance_biases(
    biases_AL: Float[Array, "A L"], side: int
) -> Float[Array, "A {side**2} {side**2}"]:
    """One bias for each head, query and key of a square of `side` cells, raster order.

    `biases_AL` holds one for each distance, at |rows| * side + |columns| (TinyViT's attention).
    """
    rows, cols = jnp.divmod(jnp.arange(side**2), side)
    far_rows, far_cols = (jnp.abs(x[:, None] - x[None, :]) for x in (rows, cols))
    return biases_AL[:, far_rows * side + far_cols]


# ------------------------------------------------------------------------------------ windows


def to_windows(
    x_BhwD: Float[Array, "B h w D"], window: int
) -> tuple[Float[Array, "X {window} {window} D"], tuple[int, int]]:
    """Squares of `window` cells, image-major then row-major, and the grid (h, w) after padding.

    The grid is padded with zeros at the bottom and right to complete windows.
    """
    _, h, w, _ = x_BhwD.shape
    padded = h + -h % window, w + -w % window
    x_BhwD = jnp.pad(x_BhwD, ((0, 0), (0, padded[0] - h), (0, padded[1] - w), (0, 0)))
    windows = einops.rearrange(x_BhwD, "b (i p) (j q) d -> (b i j) p q d", p=window, q=window)
    return windows, padded


def from_windows(
    windows: Float[Array, "X s s D"], padded: tuple[int, int], grid: tuple[int, int]
) -> Float[Array, "B {grid[0]} {grid[1]} D"]:
    """The grid that `to_windows` cut up, without its padding."""
    rows, cols = (size // windows.shape[1] for size in padded)
    x_BhwD = einops.rearrange(windows, "(b i j) p q d -> b (i p) (j q) d", i=rows, j=cols)
    return x_BhwD[:, : grid[0], : grid[1]]
