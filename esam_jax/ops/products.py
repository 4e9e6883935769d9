"""Products of 16-bit numbers with 32-bit results, and the precision of their gradients.

JAX derives the gradient of a product with `preferred_element_type=float32` as products of the
32-bit cotangent with 16-bit operands, which it first widens: on a GPU those leave the tensor cores
for 16-bit numbers. Here each gradient has 16-bit operands and 32-bit sums.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def einsum(
    spec: str,
    a: Float[Array, "..."],
    b: Float[Array, "..."],
    precision: lax.PrecisionLike = None,
) -> Float[Array, "..."]:
    """`jnp.einsum` of two arrays of one dtype, in float32.

    Backward the cotangent is rounded to the dtype of the operands, and gradients have that dtype.
    """
    out: Any = _einsum(spec, a, b, precision)
    return out


def weighted(
    spec: str,
    x: Float[Array, "*X"],
    kernel: Float[Array, "*_"],
    precision: lax.PrecisionLike = None,
) -> Float[Array, "*_"]:
    """`jnp.einsum` of an array and a parameter, which is rounded to the dtype of `x`.

    The parameter's gradient is summed and kept in its own dtype, float32. Every letter of `spec`
    must occur twice.
    """
    out: Any = _weighted(spec, x, kernel, precision)
    return out


def linear(
    x: Float[Array, "*X C"],
    kernel: Float[Array, "C _"],
    bias: Float[Array, " _"] | None = None,
    precision: lax.PrecisionLike = None,
) -> Float[Array, "*X _"]:
    """`x kernel + bias`, with parameters rounded to the dtype of `x`, which the result has.

    The gradients of the parameters are summed and kept in the parameters' own dtype, float32, so
    that devices, too, add up their shares in float32.
    """
    out: Any = _linear(x, kernel, bias, precision)
    return out


# Forward rules repeat their function instead of calling it: policies of recomputation see the
# products of a plain function alone.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def _einsum(spec: str, a: Array, b: Array, precision: lax.PrecisionLike) -> Array:
    return jnp.einsum(spec, a, b, precision=precision, preferred_element_type=jnp.float32)


def _einsum_forward(
    spec: str, a: Array, b: Array, precision: lax.PrecisionLike
) -> tuple[Array, tuple[Array, Array]]:
    out = jnp.einsum(spec, a, b, precision=precision, preferred_element_type=jnp.float32)
    return out, (a, b)


def _einsum_backward(
    spec: str, precision: lax.PrecisionLike, kept: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    narrow = functools.partial(jnp.einsum, spec, precision=precision)
    _, transpose = jax.vjp(narrow, *kept)
    return transpose(cotangent.astype(kept[0].dtype))


_einsum.defvjp(_einsum_forward, _einsum_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def _weighted(spec: str, x: Array, kernel: Array, precision: lax.PrecisionLike) -> Array:
    return jnp.einsum(spec, x, kernel.astype(x.dtype), precision=precision)


def _weighted_forward(
    spec: str, x: Array, kernel: Array, precision: lax.PrecisionLike
) -> tuple[Array, tuple[Array, Array]]:
    return jnp.einsum(spec, x, kernel.astype(x.dtype), precision=precision), (x, kernel)


def _weighted_backward(
    spec: str, precision: lax.PrecisionLike, kept: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    (x, kernel), (left, right, out) = kept, spec.replace("->", ",").split(",")
    product = functools.partial(jnp.einsum, precision=precision)
    back = product(f"{out},{right}->{left}", cotangent, kernel.astype(x.dtype))
    sums = product(f"{left},{out}->{right}", x, cotangent, preferred_element_type=kernel.dtype)
    return back, sums


_weighted.defvjp(_weighted_forward, _weighted_backward)


def _affine(x: Array, kernel: Array, bias: Array | None, precision: lax.PrecisionLike) -> Array:
    y = jnp.dot(x, kernel.astype(x.dtype), precision=precision)
    return y if bias is None else y + bias.astype(x.dtype)


_linear = jax.custom_vjp(_affine, nondiff_argnums=(3,))


def _linear_forward(
    x: Array, kernel: Array, bias: Array | None, precision: lax.PrecisionLike
) -> tuple[Array, tuple[Array, Array, Array | None]]:
    return _affine(x, kernel, bias, precision), (x, kernel, bias)


def _linear_backward(
    precision: lax.PrecisionLike, kept: tuple[Array, Array, Array | None], cotangent: Array
) -> tuple[Array, Array, Array | None]:
    x, kernel, bias = kept
    back = jnp.dot(cotangent, kernel.astype(x.dtype).T, precision=precision)
    rows, columns = (a.reshape(-1, a.shape[-1]) for a in (x, cotangent))
    sums = jnp.einsum(
        "xi,xo->io", rows, columns, precision=precision, preferred_element_type=kernel.dtype
    )
    return back, sums, None if bias is None else columns.sum(0, dtype=bias.dtype)


_linear.defvjp(_linear_forward, _linear_backward)
