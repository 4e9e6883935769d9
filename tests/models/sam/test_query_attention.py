"""Attention between tokens and image against its definition, whichever side is projected."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from esam_jax.config import ComputeConfig
from esam_jax.models.sam.query_attention import ImageToTokens, TokensToImage, TokensToTokens

B, Q, Z, N, WIDTH, HEADS = 2, 3, 5, 7, 16, 2
CONFIG = tiny.config("sam").decoder
# Below, tokens times heads are not fewer than the projection is wide; above, they are.
WIDE, NARROW = 24, 8


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


PLACED, VALUE = normal(B, Q, Z, WIDTH), normal(B, Q, Z, WIDTH, seed=1)
POSITION, SEEN = normal(N, WIDTH, seed=2), np.ones((B, Q, Z), bool)
SEEN[0, 1, 3:] = SEEN[1, 2, :2] = False


def heads(x, weights):
    return jnp.einsum("nd,dak->ank", x, weights["kernel"]) + weights["bias"][:, None]


def slow(params, query, key, value, seen=None):
    """One image and one query: [n, E], [j, E], [j, E] -> [n, E]."""
    q, k, v = (heads(x, params[n]) for x, n in zip((query, key, value), ("query", "key", "value")))
    weights = jnp.exp(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]))
    weights = weights if seen is None else weights * seen
    mixed = weights / weights.sum(-1, keepdims=True) @ v
    return jnp.einsum("atk,akd->td", mixed, params["out"]["kernel"]) + params["out"]["bias"]


def each(function, shared):
    """Stacked over images and queries; the index of the image's query axis is 0 where shared."""
    rows = [[function(b, i, 0 if shared else i) for i in range(Q)] for b in range(B)]
    return jnp.stack([jnp.stack(row) for row in rows])


def check(module, arguments, expected):
    """Values, and gradients of a random combination of them in every argument and parameter."""
    params = tiny.jit(module.init)(jax.random.key(0), *arguments)["params"]
    shift = jax.tree.map(lambda x: x + 0.1 * normal(*x.shape, seed=9), params)  # no zero biases
    found = tiny.jit(lambda p, a: module.apply({"params": p}, *a))(shift, arguments)
    np.testing.assert_allclose(found, expected(shift, arguments), rtol=1e-5, atol=1e-5)
    weights = normal(*found.shape, seed=8)

    def gradient(function):
        return tiny.jit(jax.grad(lambda p, a: (function(p, a) * weights).sum(), (0, 1)))

    ours = gradient(lambda p, a: module.apply({"params": p}, *a))
    both = (f(shift, arguments) for f in (ours, gradient(expected)))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), *both)


@pytest.mark.parametrize("inner", [NARROW, WIDE])
@pytest.mark.parametrize("shared", [True, False])
def test_tokens_look_at_an_image(inner, shared):
    module = TokensToImage(CONFIG, inner)
    assert module.bind({}).few(Z) == (inner == WIDE)
    image = normal(B, 1 if shared else Q, N, WIDTH, seed=3)

    def expected(params, arguments):
        placed, image, position = arguments
        return each(
            lambda b, i, j: slow(params, placed[b, i], image[b, j] + position, image[b, j]), shared
        )

    check(module, (PLACED, image, POSITION), expected)


@pytest.mark.parametrize("inner", [NARROW, WIDE])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("seen", [None, SEEN])
def test_an_image_looks_at_tokens(inner, shared, seen):
    image = normal(B, 1 if shared else Q, N, WIDTH, seed=3)
    hides = None if seen is None else jnp.asarray(seen)

    class Hiding(ImageToTokens):
        def __call__(self, *arguments):
            return super().__call__(*arguments, hides)

    def expected(params, arguments):
        image, position, placed, value = arguments
        return each(
            lambda b, i, j: slow(
                params,
                image[b, j] + position,
                placed[b, i],
                value[b, i],
                None if seen is None else seen[b, i],
            ),
            shared,
        )

    check(Hiding(CONFIG, inner), (image, POSITION, PLACED, VALUE), expected)


def test_tokens_look_at_each_other():
    def expected(params, arguments):
        placed, value = arguments
        return each(lambda b, i, _: slow(params, placed[b, i], placed[b, i], value[b, i]), False)

    check(TokensToTokens(CONFIG, WIDTH), (PLACED, VALUE), expected)


@pytest.mark.parametrize("kind", [TokensToImage, ImageToTokens])
def test_the_image_is_never_projected_where_there_is_one_for_each_query(kind):
    """By shape: nothing of B Q N and the inner width is computed."""
    module, image = kind(CONFIG, WIDE), normal(B, Q, N, WIDTH)
    tokens = (
        (PLACED, image, POSITION)
        if kind is TokensToImage
        else (
            image,
            POSITION,
            PLACED,
            VALUE,
        )
    )
    params = module.init(jax.random.key(0), *tokens)
    text = str(jax.make_jaxpr(module.apply)(params, *tokens))
    assert f"[{B},{Q},{N},{WIDE}]" not in text
    assert f"[{B},{Q},{N},{HEADS},{WIDE // HEADS}]" not in text


def test_half_precision_is_as_good_as_the_plain_order():
    """Rounded projections of tokens instead of rounded projections of the image."""
    arguments = (PLACED, normal(B, Q, N, WIDTH, seed=3), POSITION)
    exact = TokensToImage(CONFIG, WIDE)
    params = exact.init(jax.random.key(0), *arguments)
    expected = exact.apply(params, *arguments)
    half = ComputeConfig(dtype="bfloat16")
    moved = TokensToImage(CONFIG, WIDE, half).apply(params, *arguments)
    error = np.abs(moved - expected).max() / np.abs(expected).max()
    assert error < 0.02
