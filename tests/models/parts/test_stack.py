"""Blocks in a loop give what blocks one after the other give."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny, unrolled

from esam_jax.config import ComputeConfig, SamVitConfig, VitConfig
from esam_jax.models.encoders.sam_vit import SamVitEncoder
from esam_jax.models.encoders.vit import VitEncoder
from esam_jax.models.parts import layers, stack

SIZES = {"width": 12, "heads": 3, "patch_px": 8, "image_px": 40, "neck_width": 16, "depth": 4}


def drawn(model, pixels):
    """Parameters that differ from block to block."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), pixels)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes
    )


def loss(model):
    pixels = jnp.asarray(np.random.default_rng(1).normal(size=(2, 40, 40, 3)), jnp.float32)

    def of(params):
        return jnp.square(model.apply({"params": params}, pixels)).mean()

    return of, drawn(model, pixels)


@functools.cache
def one_by_one(model):
    """Value and gradients from single blocks, none of them recomputed whatever `remat` says."""
    with unrolled.blocks():
        of, params = loss(model(ComputeConfig()))
        assert "scan[" not in str(jax.make_jaxpr(of)(params))
        return tiny.jit(jax.value_and_grad(of))(params)


def vit(compute):
    return VitEncoder(VitConfig(**SIZES, pretrain_px=32), compute)


def sam_vit(*global_blocks):
    encoder = SamVitConfig(**SIZES, window=3, global_blocks=global_blocks)
    return functools.partial(SamVitEncoder, encoder)


ROUNDS = sam_vit(1, 3)  # windowed, global, windowed, global: one loop over two rounds
NO_PATTERN = sam_vit(1)  # a loop over the last two alone


@pytest.mark.parametrize(
    ("model", "remat"),
    [
        (vit, "none"),
        (vit, "blocks"),
        (ROUNDS, "none"),
        pytest.param(NO_PATTERN, "none", marks=pytest.mark.slow),
        # In a loop and outside of it.
        pytest.param(NO_PATTERN, "blocks", marks=pytest.mark.slow),
        (sam_vit(), "none"),
    ],
)
def test_values_and_gradients_are_those_of_single_blocks(model, remat):
    of, params = loss(model(ComputeConfig(remat=remat)))
    assert str(jax.make_jaxpr(of)(params)).count("scan[") == 1
    value, grads = tiny.jit(jax.value_and_grad(of))(params)
    expected, expected_grads = one_by_one(model)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(expected_grads), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=str(path))


@pytest.mark.parametrize(("remat", "kept"), [("none", True), ("blocks", False)])
def test_products_with_parameters_are_kept_and_scores_are_not(remat, kept):
    """What a loop over 4 blocks stores has their number in front."""
    of, params = loss(vit(ComputeConfig(remat=remat)))
    program = str(jax.make_jaxpr(jax.grad(of))(params))
    images, tokens, heads, width = 2, 25, SIZES["heads"], SIZES["width"]
    assert f"[{images},{heads},{tokens},{tokens}]" in program
    assert f"[4,{images},{heads},{tokens},{tokens}]" not in program
    assert (f"[4,{images},{tokens},{4 * width}]" in program) == kept


@pytest.mark.parametrize("model", [vit, ROUNDS, NO_PATTERN])
def test_without_gradients_blocks_are_called_in_turn_with_parameters_as_they_are(model):
    of, params = loss(model(ComputeConfig()))

    def forward(params):
        with stack.forward_only():
            return of(params)

    assert "scan[" in str(jax.make_jaxpr(of)(params))
    program = str(jax.make_jaxpr(forward)(params))
    assert not any(each in program for each in ("scan[", "stack[", "remat2["))
    assert "scan[" in str(jax.make_jaxpr(of)(params))  # the choice ends where it was made
    np.testing.assert_allclose(tiny.jit(forward)(params), one_by_one(model)[0], rtol=1e-6)


@pytest.mark.parametrize(("model", "kinds"), [(vit, 1), (ROUNDS, 2)])
def test_a_block_of_each_kind_is_traced_once(monkeypatch, model, kinds):
    """Tracing takes most of the time in which a large network is compiled."""
    traced, call = [], layers.Mlp.__call__
    monkeypatch.setattr(layers.Mlp, "__call__", lambda mlp, x: traced.append(mlp) or call(mlp, x))
    of, params = loss(model(ComputeConfig()))
    traced.clear()
    with stack.forward_only():
        text = jax.jit(of).lower(params).as_text()
    assert len(traced) == kinds
    assert text.count("call @call") == SIZES["depth"]


@pytest.mark.parametrize(
    ("kinds", "period", "runs"),
    [
        ("aaaa", 1, [(0, 4)]),
        ("aabaab", 3, [(0, 2), (2, 3), (3, 5), (5, 6)]),
        ("abaa", 4, [(0, 1), (1, 2), (2, 4)]),
        ("a", 1, [(0, 1)]),
    ],
)
def test_patterns(kinds, period, runs):
    assert stack._period(kinds) == period
    assert stack._runs(kinds) == runs


@pytest.mark.parametrize("model", [vit, ROUNDS], ids=["vit", "sam_vit"])
def test_a_block_without_its_branches_is_passed_by(model):
    """As in a network that has the other blocks alone; scales of one change no bit."""
    model = model(ComputeConfig())
    _, params = loss(model)
    pixels = jnp.asarray(np.random.default_rng(1).normal(size=(2, 40, 40, 3)), jnp.float32)

    @tiny.jit
    def features(params, scales):
        return model.apply({"params": params}, pixels, scales)

    every = jnp.ones((SIZES["depth"], 2, 2))
    passed = every.at[1].set(0).at[2, 1].set(0)
    kept = {**params, "block_01": jax.tree.map(jnp.zeros_like, params["block_01"])}
    alone = {**kept, "block_02": jax.tree.map(jnp.zeros_like, params["block_02"])}
    found = features(params, passed)
    np.testing.assert_allclose(found[:1], features(kept, every)[:1], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[1:], features(alone, every)[1:], rtol=1e-6, atol=1e-6)
    assert np.abs(found - features(params, every)).max() > 1e-3
    plain = tiny.jit(lambda params: model.apply({"params": params}, pixels))(params)
    np.testing.assert_array_equal(features(params, every), plain)
    with unrolled.blocks():
        in_turn = model.apply({"params": params}, pixels, passed)
    np.testing.assert_allclose(found, in_turn, rtol=1e-5, atol=1e-5)


def test_each_branch_has_its_own_scale():
    """Doubling what attention adds to one picture is doubling its last product."""
    model = vit(ComputeConfig())
    _, params = loss(model)
    pixels = jnp.asarray(np.random.default_rng(1).normal(size=(2, 40, 40, 3)), jnp.float32)
    for branch, last in enumerate([("attn", "out"), ("mlp", "out")]):
        scales = jnp.ones((SIZES["depth"], 2, 2)).at[3, 1, branch].set(2)
        block = params["block_03"]
        twice = {**block[last[0]], last[1]: jax.tree.map(lambda x: 2 * x, block[last[0]][last[1]])}
        doubled = {**params, "block_03": {**block, last[0]: twice}}
        found = model.apply({"params": params}, pixels, scales)
        np.testing.assert_allclose(
            found[1], model.apply({"params": doubled}, pixels)[1], rtol=1e-5, atol=1e-5
        )
        np.testing.assert_allclose(
            found[0], model.apply({"params": params}, pixels)[0], rtol=1e-5, atol=1e-5
        )
