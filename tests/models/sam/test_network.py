"""The whole model: what belongs together, and what EfficientSAM's extensions leave alone."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from esam_jax.models.sam.network import Sam
from esam_jax.models.sam.prompt_encoder import PromptEncoder
from esam_jax.typing import NOTHING

B, Q = 2, 3
PIXELS = np.random.default_rng(0).normal(size=(B, 40, 40, 3)).astype(np.float32)
POINTS = np.random.default_rng(1).uniform(0, 40, (B, Q, 2, 2)).astype(np.float32)
EMBEDDING = np.random.default_rng(3).normal(size=(B, 5, 5, 16)).astype(np.float32)
LABELS = np.int32([[[1, -1], [1, 0], [2, 3]]] * B)


@functools.cache
def compiled(wiring):
    """Everything that the model gives for one batch, compiled together."""
    model = Sam(tiny.config(wiring))

    def run(variables, pixels, points, labels):
        embedding = model.apply(variables, pixels, method="encode")
        return {
            "whole": model.apply(variables, pixels, points, labels),
            "embedding": embedding,
            "apart": model.apply(variables, embedding, points, labels, method="decode"),
        }

    variables = {"params": tiny.params(model.config)}
    return functools.partial(tiny.jit(run), variables)


@pytest.mark.parametrize("wiring", tiny.WIRINGS)
def test_decoding_an_embedding_is_calling_the_model(wiring):
    out = compiled(wiring)(PIXELS, POINTS, LABELS)
    logits, iou = out["whole"]
    assert out["embedding"].shape == (B, 5, 5, 16)
    assert logits.shape == (B, Q, 4, 20, 20) and iou.shape == (B, Q, 4)
    np.testing.assert_allclose(out["apart"][0], logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out["apart"][1], iou, rtol=1e-5, atol=1e-5)


def test_slots_of_nothing_change_nothing():
    """However many there are, wherever they lie, and wherever their points are."""
    config = tiny.config("sam")
    run = tiny.jit(functools.partial(Sam(config).apply, method="decode"))
    expected = run({"params": tiny.params(config)}, EMBEDDING, POINTS, LABELS)
    points = np.full((B, Q, 5, 2), 7.0, np.float32)
    labels = np.full((B, Q, 5), NOTHING, np.int32)
    points[:, :, 1::2], labels[:, :, 1::2] = POINTS, LABELS
    for one, other in zip(
        expected, run({"params": tiny.params(config)}, EMBEDDING, points, labels), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wiring", tiny.WIRINGS)
def test_pictures_of_a_batch_do_not_see_each_other(wiring):
    before = compiled(wiring)(PIXELS, POINTS, LABELS)["whole"]
    pixels, points = PIXELS.copy(), POINTS.copy()
    pixels[0], points[0] = -pixels[0], points[0] / 2
    after = compiled(wiring)(pixels, points, LABELS)["whole"]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[1], other[1])
        assert np.abs(one[0] - other[0]).max() > 1e-3


@pytest.mark.parametrize("wiring", tiny.WIRINGS)
def test_every_parameter_behind_the_encoder_has_a_gradient(wiring):
    config, mask = tiny.config(wiring), None
    if config.decoder.mask_prompts == "learned":
        mask = np.random.default_rng(2).normal(size=(B, Q, 20, 20)).astype(np.float32)

    def total(params, *inputs):
        whole = {"params": {**tiny.params(config), **params}}
        logits, iou = Sam(config).apply(whole, *inputs, method="decode")
        return (logits**2).mean() + (iou**2).mean()

    params = {part: tiny.params(config)[part] for part in ("prompt", "decoder")}
    gradient = tiny.jit(jax.grad(total))(params, EMBEDDING, POINTS, LABELS, mask)
    flat = flax.traverse_util.flatten_dict(gradient, sep="/")
    unused = {path for path, x in flat.items() if not np.asarray(x).any()}
    # The matrix is a buffer, and a mask stands in for no_mask.
    assert unused <= {"prompt/fourier", "prompt/no_mask"}


def test_extensions_keep_the_outputs_of_released_weights_to_the_bit():
    plain = tiny.config("efficientsam")
    extended = tiny.config("efficientsam", background="learned", mask_prompts="learned")
    released = tiny.params(plain)
    inputs = jnp.asarray(POINTS), jnp.asarray(LABELS), jnp.zeros((B, Q, 20, 20))
    fresh = tiny.jit(PromptEncoder(extended).init)(jax.random.key(0), *inputs)["params"]
    assert set(fresh) - set(released["prompt"]) == {"background", "no_mask", "mask"}
    grafted = {**released, "prompt": {**fresh, **released["prompt"]}}

    def decode(config, params):
        run = tiny.jit(functools.partial(Sam(config).apply, method="decode"))
        return run({"params": params}, EMBEDDING, POINTS, LABELS)

    before, after = decode(plain, released), decode(extended, grafted)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("wiring", tiny.WIRINGS)
def test_init_makes_every_parameter_without_a_mask_prompt(wiring):
    config = tiny.config(wiring, background="learned", mask_prompts="learned")
    inputs = (PIXELS, POINTS, LABELS)
    made = jax.eval_shape(Sam(config).init, jax.random.key(0), *inputs)["params"]
    mask = np.zeros((B, Q, 20, 20), np.float32)
    assert made == jax.eval_shape(Sam(config).init, jax.random.key(0), *inputs, mask)["params"]
    assert "conv_3" in made["prompt"]["mask"]
