"""Fine-tuning a TinyViT: its statistics stay as they are stored, or follow the batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nano, tiny

from esam_jax import configs, sharding, tasks
from esam_jax.errors import ConfigError
from esam_jax.models.parts import batch_norm
from esam_jax.models.sam.network import Sam
from esam_jax.ops import images

MODEL = "mobile_nano"


@pytest.fixture(autouse=True)
def mobile(monkeypatch):
    nano.add_mobile(monkeypatch)


def run_of(accumulate=1, **task):
    config = configs.load("quickstart_teacher")
    task = {"model": MODEL} | task
    return dataclasses.replace(
        config, task=dataclasses.replace(config.task, **task), accumulate=accumulate
    )


def batch(made):
    rng = np.random.default_rng(0)
    given = {name: np.zeros((3, *shape), dtype) for name, (shape, dtype) in made.example.items()}
    return given | {"image": rng.integers(0, 256, (3, 64, 64, 3), np.uint8)}


def paths(tree):
    return {sharding.name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def test_stored_statistics_are_the_default():
    made = tasks.build(run_of())
    params = {MODEL: nano.params(nano.MOBILE)}
    assert jax.eval_shape(lambda *x: made.loss(*x).moments, params, {}, batch(made)) == {}
    statistics = {path for path in paths(params) if batch_norm.is_statistic(path)}
    assert len(statistics) > 20 and not any(map(made.trains, statistics))
    assert all(made.trains(path) for path in paths(params) - statistics)


def test_statistics_of_the_batch_reach_the_update():
    made = tasks.build(run_of(batch_norm="batch"))
    params, given = {MODEL: nano.params(nano.MOBILE)}, batch(made)
    moments = tiny.jit(lambda *x: made.loss(*x).moments)(params, {}, given)
    assert paths(moments) == {path for path in paths(params) if batch_norm.is_statistic(path)}
    pixels = np.asarray(images.normalise(jnp.asarray(given["image"])))
    # Of the first norm, from the convolution before it alone.
    kernel = params[MODEL]["encoder"]["stem_1"]["kernel"]
    seen = jax.lax.conv_general_dilated(
        pixels, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    found = moments[MODEL]["encoder"]["stem_1_norm"]
    np.testing.assert_allclose(found["mean"], np.mean(seen, (0, 1, 2)), rtol=1e-4, atol=1e-5)
    wanted = np.var(np.asarray(seen, np.float64), (0, 1, 2), ddof=1)
    np.testing.assert_allclose(found["variance"], wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": "sam_nano"}, "'sam_nano' has no batch norms"),
        ({"accumulate": 2}, "statistics of a batch that is not cut"),
        ({"train": "decoder", "init_from": "x"}, "which leaves the norms as they are"),
        ({"train": "lora", "init_from": "x"}, "which leaves the norms as they are"),
    ],
)
def test_where_there_are_none_to_follow(config, message):
    with pytest.raises(ConfigError, match=message):
        tasks.build(run_of(**{"batch_norm": "batch"} | config))


def test_an_encoder_without_norms_has_no_statistics():
    model = Sam(tiny.config("sam"))
    pixels = jax.ShapeDtypeStruct((1, 40, 40, 3), jnp.float32)
    params = tiny.params(tiny.config("sam"))
    _, moments = jax.eval_shape(
        lambda p, x: model.apply({"params": p}, x, method=Sam.encode_jointly), params, pixels
    )
    assert moments == {}
