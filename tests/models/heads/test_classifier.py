"""The classifier: whom its head reads, its first values, drop path, its precision."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from esam_jax.config import ClassifierConfig, ComputeConfig, MaeConfig, VitConfig
from esam_jax.models.heads import classifier
from esam_jax.models.heads.classifier import Classifier
from esam_jax.models.pretrain.mae import Mae
from esam_jax.ops import images

MEAN = ClassifierConfig(
    encoder=VitConfig(width=12, heads=3, depth=2, patch_px=4, image_px=16, pretrain_px=16),
    classes=7,
    pool="mean",
)
TOKEN = dataclasses.replace(MEAN, pool="class_token")
PARAMS = tiny.params(MEAN)
PIXELS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)


def apply(config, *inputs, **compute):
    model = Classifier(config, ComputeConfig(**compute))
    return tiny.jit(model.apply)({"params": PARAMS}, *inputs)


def _head(x_BD):
    head = PARAMS["head"]
    return x_BD @ head["kernel"] + head["bias"]


def _normalised(x_BD):
    x_BD = (x_BD - x_BD.mean(-1, keepdims=True)) / np.sqrt(x_BD.var(-1, keepdims=True) + 1e-6)
    return x_BD * PARAMS["norm"]["scale"] + PARAMS["norm"]["bias"]


@functools.cache
def tokens():
    """Of the pretrained ViT with the same parameters, before and after its last norm."""
    config = MaeConfig(encoder=MEAN.encoder)
    pretrained = {name: PARAMS[name] for name in ("encoder", "class_token", "norm")}
    found = {}
    for norm in (PARAMS["norm"], None):
        # A norm that divides by nothing does not exist: what comes before it is that of the trunk.
        model = Mae(config)
        if norm is None:
            encode = functools.partial(
                model.apply, method=lambda m, x: m.encoder.trunk(x, None, m.class_token)
            )
        else:
            encode = functools.partial(model.apply, method="encode")
        found[norm is not None] = np.asarray(tiny.jit(encode)({"params": pretrained}, PIXELS))
    return found


def test_the_class_token_is_read_after_the_norm_of_pretraining():
    np.testing.assert_allclose(apply(TOKEN, PIXELS), _head(tokens()[True][:, 0]), atol=2e-5)


def test_the_mean_of_the_patches_is_normalised_after_pooling():
    pooled = tokens()[False][:, 1:].mean(1)
    np.testing.assert_allclose(apply(MEAN, PIXELS), _head(_normalised(pooled)), atol=2e-5)
    early = _head(tokens()[True][:, 1:].mean(1))
    assert np.abs(early - np.asarray(apply(MEAN, PIXELS))).max() > 0.01


def test_names_and_first_values():
    params = jax.jit(functools.partial(classifier.init, MEAN))(jax.random.key(0))
    assert sorted(params) == ["class_token", "encoder", "head", "norm"]
    assert sorted(params["encoder"]) == ["block_00", "block_01", "patch_embed", "positions"]
    kernel = np.asarray(params["head"]["kernel"])
    assert kernel.shape == (12, 7) and not np.asarray(params["head"]["bias"]).any()
    assert 0.01 < kernel.std() < 0.03 and 0.01 < np.asarray(params["class_token"]).std() < 0.03
    # Behind pretraining so small that every class is as likely, whatever the picture.
    draw = functools.partial(classifier.init, MEAN, head_std=classifier.PRETRAINED)
    small = np.asarray(jax.jit(draw)(jax.random.key(0))["head"]["kernel"])
    np.testing.assert_allclose(small, kernel / 1000, rtol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "class_token"])
def test_logits_are_float32_whatever_is_computed_in(pool):
    config = dataclasses.replace(MEAN, pool=pool)
    exact, rounded = apply(config, PIXELS), apply(config, PIXELS, dtype="bfloat16")
    assert exact.dtype == rounded.dtype == jnp.float32 and exact.shape == (2, 7)
    assert 0 < np.abs(exact - rounded).max() < 0.2 * np.abs(exact).max()


def test_a_block_that_is_left_out_adds_nothing():
    kept, none = jnp.ones((2, 2, 2)), jnp.zeros((2, 2, 2))
    assert np.array_equal(apply(MEAN, PIXELS, kept), apply(MEAN, PIXELS))
    left_out = kept.at[:, 1].set(0)  # both blocks, of the second picture
    found = apply(MEAN, PIXELS, left_out)
    assert np.array_equal(found[0], apply(MEAN, PIXELS, kept)[0])
    np.testing.assert_allclose(found[1], apply(MEAN, PIXELS, none)[1], atol=1e-6)


DISTILLED = dataclasses.replace(MEAN, pool="distilled")
OF_BOTH = tiny.params(DISTILLED)


def by_head(params, pixels=PIXELS):
    run = functools.partial(Classifier(DISTILLED).apply, method="by_head")
    return np.asarray(tiny.jit(run)({"params": params}, pixels))


def test_a_distillation_token_has_a_head_of_its_own():
    assert sorted(OF_BOTH["distillation"]) == ["head", "position", "token"]
    found = by_head(OF_BOTH)
    assert found.shape == (2, 2, 7)
    swapped = {
        **OF_BOTH,
        "class_token": OF_BOTH["distillation"]["token"]
        + OF_BOTH["distillation"]["position"]
        - OF_BOTH["encoder"]["positions"][0],
        "head": OF_BOTH["distillation"]["head"],
        "distillation": {
            "token": OF_BOTH["class_token"] + OF_BOTH["encoder"]["positions"][0],
            "position": np.zeros(12, np.float32),
            "head": OF_BOTH["head"],
        },
    }
    # Blocks know no order of tokens: each answers in the place of the other.
    np.testing.assert_allclose(by_head(swapped), found[::-1], atol=2e-5)


def test_in_use_the_logits_of_both_heads_are_averaged():
    both = tiny.jit(Classifier(DISTILLED).apply)({"params": OF_BOTH}, PIXELS)
    np.testing.assert_allclose(both, by_head(OF_BOTH).mean(0), atol=1e-6)


def test_pixels_from_minus_one_to_one_are_those_of_the_same_picture():
    picture = np.random.default_rng(2).integers(0, 256, (2, 16, 16, 3), np.uint8)
    symmetric = dataclasses.replace(MEAN, pixels="symmetric")
    wanted = apply(MEAN, jnp.asarray(picture / 127.5 - 1, jnp.float32))
    pixels = images.normalise(jnp.asarray(picture))
    np.testing.assert_allclose(apply(symmetric, pixels), wanted, atol=2e-5)
    # And its trunk, where it is taken over by what takes ImageNet's pixels.
    params = classifier.of_imagenet_pixels(symmetric, PARAMS)
    found = tiny.jit(Classifier(MEAN).apply)({"params": params}, pixels)
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert classifier.of_imagenet_pixels(MEAN, PARAMS) is PARAMS


def test_it_takes_other_sizes_than_that_of_its_table():
    larger = jnp.asarray(np.random.default_rng(1).normal(size=(1, 24, 24, 3)), jnp.float32)
    assert apply(MEAN, larger).shape == (1, 7)
