"""Batch norms in training: against PyTorch's, against a slow form, and what is folded when."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from esam_jax import sharding
from esam_jax.config import ComputeConfig, MeshConfig, TinyVitConfig
from esam_jax.models.encoders.tiny_vit import TinyVitEncoder
from esam_jax.models.parts import batch_norm
from esam_jax.models.parts.batch_norm import BatchNorm

RNG = np.random.default_rng(0)
NAMES = ("scale", "bias", "mean", "variance")
GOOD, BAD = jnp.bool_(True), jnp.bool_(False)
CONFIG = TinyVitConfig(
    widths=(4, 6),
    depths=(1, 1),
    all_heads=(1, 2),
    windows=(9, 3),
    image_px=16,
    neck_width=7,
)


def drawn(channels):
    values = dict(zip(NAMES, RNG.normal(size=(4, channels)).astype(np.float32), strict=True))
    return values | {"variance": np.square(values["variance"]) + 0.1}


def normal(*shape):
    return RNG.normal(1.0, 3.0, size=shape).astype(np.float32)


@functools.cache
def joint():
    return tiny.jit(BatchNorm(joint=True).apply)


def test_statistics_are_those_of_all_axes_but_the_last():
    x, params = normal(3, 4, 5, 6), drawn(6)
    x[..., 0] /= 1000  # where the constant under the root matters
    found, moments = joint()({"params": params}, x)
    wide = x.astype(np.float64).reshape(-1, 6)
    mean, variance = wide.mean(0), wide.var(0)
    expected = (wide - mean) / np.sqrt(variance + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(found, expected.reshape(x.shape), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(moments["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(moments["variance"], wide.var(0, ddof=1), rtol=1e-5)


def test_a_step_of_training_is_that_of_pytorch():
    """Result, all gradients, and running averages after two batches."""
    torch = pytest.importorskip("torch")
    params, batches, weights = drawn(5), normal(2, 3, 4, 7, 5), normal(3, 4, 7, 5)
    theirs = torch.nn.BatchNorm2d(5, eps=1e-5, momentum=0.1)
    with torch.no_grad():
        for name, ours in zip(("weight", "bias", "running_mean", "running_var"), NAMES):
            getattr(theirs, name).copy_(torch.from_numpy(params[ours]))

    def loss(params, x):
        out, moments = BatchNorm(joint=True).apply({"params": params}, x)
        return (jnp.sin(out) * weights).sum(), (out, moments)

    graded = tiny.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    for x in batches:
        seen = torch.from_numpy(x).permute(0, 3, 1, 2).clone().requires_grad_()
        out = theirs(seen)
        (out.sin() * torch.from_numpy(weights).permute(0, 3, 1, 2)).sum().backward()
        (_, (ours, moments)), (grads, grad_x) = graded(params, x)
        back = (out.detach().permute(0, 2, 3, 1), seen.grad.permute(0, 2, 3, 1))
        for found, wanted in zip((ours, grad_x), back, strict=True):
            np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(grads["scale"], theirs.weight.grad, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(grads["bias"], theirs.bias.grad, rtol=1e-4, atol=1e-4)
        assert not np.any(grads["mean"]) and not np.any(grads["variance"])
        params = {**params, **batch_norm.folded(params, moments, GOOD)}
        np.testing.assert_allclose(params["mean"], theirs.running_mean, rtol=1e-5)
        np.testing.assert_allclose(params["variance"], theirs.running_var, rtol=1e-5)
        theirs.zero_grad()


def test_nothing_is_folded_of_a_batch_that_is_not_good():
    params = {"one": {"norm": drawn(3)}, "other": drawn(3)}
    moments = {"one": {"norm": {"mean": np.full(3, np.nan), "variance": np.full(3, np.inf)}}}
    found = batch_norm.folded(params, moments, BAD)
    for name in ("mean", "variance"):
        np.testing.assert_array_equal(found["one"]["norm"][name], params["one"]["norm"][name])
    assert found.keys() == {"one"} and found["one"]["norm"].keys() == {"mean", "variance"}
    assert not batch_norm.all_finite(moments)
    assert batch_norm.all_finite({}) and batch_norm.all_finite({"a": drawn(2)})


@functools.cache
def encoder_params():
    pixels = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    shapes = jax.eval_shape(TinyVitEncoder(CONFIG).init, jax.random.key(0), pixels)["params"]

    def draw(path, leaf):
        around_one = sharding.name(path).endswith(("scale", "variance"))
        return around_one + (0.1 if leaf.ndim == 1 else 0.3) * np.abs(normal(*leaf.shape)) / 3

    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def jointly():
    def run(params, pixels):
        return TinyVitEncoder(CONFIG).apply(
            {"params": params}, pixels, method=TinyVitEncoder.jointly
        )

    return tiny.jit(run)


def test_what_a_batch_shows_is_what_normalised_it():
    """Put in the place of what is stored, its statistics give the same features."""
    params, pixels = encoder_params(), normal(3, 16, 16, 3)
    features, moments = jointly()(params, pixels)
    paths = {sharding.name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    seen = {sharding.name(path) for path, _ in jax.tree_util.tree_leaves_with_path(moments)}
    assert seen == {path for path in paths if batch_norm.is_statistic(path)} and len(seen) == 18
    # One batch alone: each average moves all of the way to it, less Bessel's correction.
    counts = {"stem_1_norm": 64, "stem_2_norm": 16, "stage_0": 16, "stage_1": 16}

    def place(old, new, count):
        if "mean" in new:
            biased = np.asarray(new["variance"]) * (count - 1) / count
            return {**old, "mean": new["mean"], "variance": biased}
        return {**old, **{name: place(old[name], part, count) for name, part in new.items()}}

    stored = {
        **params,
        **{name: place(params[name], part, 3 * counts[name]) for name, part in moments.items()},
    }
    found = tiny.jit(TinyVitEncoder(CONFIG).apply)({"params": stored}, pixels)
    np.testing.assert_allclose(found, features, rtol=2e-4, atol=2e-4)


def test_a_sharded_batch_has_the_statistics_of_all_of_it():
    params, pixels = encoder_params(), normal(8, 16, 16, 3)
    alone = jointly()(params, pixels)
    place = sharding.batch(sharding.make_mesh(MeshConfig(data=8)))
    with sharding.activations(place.mesh):
        apart = jointly()(params, jax.device_put(pixels, place))
    for found, wanted in zip(jax.tree.leaves(apart), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    # The average of what each device would find is another number.
    parts = [jointly()(params, one[None])[1]["stem_1_norm"]["variance"] for one in pixels]
    wanted = alone[1]["stem_1_norm"]["variance"]
    assert np.abs(np.mean(parts, 0) / wanted - 1).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"remat": "blocks"}, {"dtype": "bfloat16"}])
def test_recomputed_blocks_and_short_products_see_the_same_statistics(change):
    params, pixels = encoder_params(), jnp.asarray(normal(3, 16, 16, 3))

    def loss(params, compute):
        model = TinyVitEncoder(CONFIG, compute)
        found, moments = model.apply({"params": params}, pixels, method=TinyVitEncoder.jointly)
        return jnp.square(found.astype(jnp.float32)).mean(), moments

    def graded(compute):
        run = jax.value_and_grad(functools.partial(loss, compute=compute), has_aux=True)
        return tiny.jit(run)(params)

    (value, moments), grads = graded(ComputeConfig(**change))
    (plain, plain_moments), plain_grads = graded(ComputeConfig())
    short = "dtype" in change
    assert float(value) == pytest.approx(float(plain), rel=0.05 if short else 1e-4)
    for found, wanted in zip(jax.tree.leaves(moments), jax.tree.leaves(plain_moments), strict=True):
        assert found.dtype == jnp.float32
        limit = 0.1 if short else 1e-4
        np.testing.assert_allclose(found, wanted, rtol=limit, atol=limit)
    if not short:
        scale = max(float(np.abs(x).max()) for x in jax.tree.leaves(plain_grads))
        for found, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(plain_grads), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5 * scale)
