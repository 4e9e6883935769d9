"""Products against einsum, and the precision of their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esam_jax.ops import products


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def halved(*arrays):
    return [x.astype(jnp.bfloat16) for x in arrays]


def operands(function, *arguments):
    """Dtypes of the two operands and the result of every product of a program."""
    jaxpr = jax.make_jaxpr(function)(*arguments)
    found, programs = [], [jaxpr.jaxpr]
    while programs:
        for equation in programs.pop().eqns:
            programs += jax.extend.core.jaxprs_in_params(equation.params)
            if equation.primitive.name == "dot_general":
                arrays = (*equation.invars, *equation.outvars)
                found.append(tuple(str(v.aval.dtype) for v in arrays))
    return found


@pytest.mark.parametrize("spec", ["...nk,...kj->...nj", "xmc,xnc->xmn"])
def test_einsum_is_einsum(spec):
    a, b = normal(0, 2, 3, 4), normal(1, 2, 4, 5) if "..." in spec else normal(1, 2, 5, 4)
    weights = normal(2, 2, 3, 5)

    def gradient(product):
        return jax.grad(lambda a, b: (product(spec, a, b) * weights).sum(), (0, 1))(a, b)

    np.testing.assert_array_equal(products.einsum(spec, a, b), jnp.einsum(spec, a, b))
    for one, other in zip(gradient(products.einsum), gradient(jnp.einsum), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_einsum_sums_what_was_broadcast():
    a, b = normal(0, 2, 3, 4), normal(1, 1, 4, 5)

    def gradient(product):
        return jax.grad(lambda b: (product("...nk,...kj->...nj", a, b) ** 2).sum())(b)

    np.testing.assert_allclose(gradient(products.einsum), gradient(jnp.einsum), rtol=1e-5)


def test_no_product_of_a_16_bit_einsum_has_32_bit_operands():
    a, b = halved(normal(0, 2, 3, 4), normal(1, 2, 4, 5))

    def loss(a, b):
        return (products.einsum("xnk,xkj->xnj", a, b) ** 2).sum()

    assert products.einsum("xnk,xkj->xnj", a, b).dtype == jnp.float32
    assert {pair[:2] for pair in operands(jax.grad(loss, (0, 1)), a, b)} == {("bfloat16",) * 2}
    exact = jax.grad(loss, (0, 1))(*(x.astype(jnp.float32) for x in (a, b)))
    for one, other in zip(jax.grad(loss, (0, 1))(a, b), exact, strict=True):
        assert one.dtype == jnp.bfloat16
        assert np.abs(one - other).max() < 0.02 * np.abs(other).max()


@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_is_a_product_and_a_bias(with_bias):
    x, kernel = normal(0, 2, 3, 4), normal(1, 4, 5)
    bias, weights = normal(2, 5) if with_bias else None, normal(3, 2, 3, 5)

    def plain(x, kernel, bias):
        return x @ kernel if bias is None else x @ kernel + bias

    np.testing.assert_array_equal(products.linear(x, kernel, bias), plain(x, kernel, bias))
    ours, theirs = (
        jax.grad(lambda *a, f=f: (f(*a) * weights).sum(), (0, 1, 2) if with_bias else (0, 1))(
            x, kernel, bias
        )
        for f in (products.linear, plain)
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("product", ["linear", "weighted"])
def test_gradients_of_parameters_are_summed_in_float32(product):
    """A thousand rows of which each adds less than a 16-bit sum of them all would notice."""
    x, kernel, bias = jnp.full((1024, 4), 1.0, jnp.bfloat16), normal(0, 4, 5), normal(1, 5)

    def loss(kernel, bias):
        if product == "linear":
            out = products.linear(x, kernel, bias)
        else:
            out = products.weighted("nc,co->no", x, kernel) + 0 * bias
        return (out * jnp.asarray(1 / 256 + 1 / 2**15, jnp.bfloat16)).astype(jnp.float32).sum()

    gradients = jax.grad(loss, (0, 1))(kernel, bias)
    assert all(g.dtype == jnp.float32 for g in gradients)
    exact = 1024 * float(jnp.asarray(1 / 256 + 1 / 2**15, jnp.bfloat16))
    np.testing.assert_allclose(gradients[0], exact, rtol=1e-6)
    if product == "linear":
        np.testing.assert_allclose(gradients[1], exact, rtol=1e-6)
    found = operands(jax.grad(loss), kernel, bias)
    assert ("bfloat16", "bfloat16", "float32") in found
    assert all(each[:2] == ("bfloat16", "bfloat16") for each in found)
    assert not any(each[2] == "float32" for each in operands(loss, kernel, bias))


def test_weighted_is_einsum_with_a_parameter():
    x, kernel = normal(0, 2, 3, 4, 5), normal(1, 6, 4, 5)
    ours, theirs = (
        jax.grad(lambda x, w, f=f: (f("xzak,eak->xaze", x, w) ** 3).sum(), (0, 1))(x, kernel)
        for f in (products.weighted, jnp.einsum)
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)
