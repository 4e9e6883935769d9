"""The whole model: what belongs together, and what EfficientSAM's extensions leave alone."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from esam_jax.config import SamConfig
from esam_jax.models.efficient_sam import Sam
from esam_jax.models.prompt import PromptEncoder

B, Q = 2, 3
PIXELS = np.random.default_rng(0).normal(size=(B, 40, 40, 3)).astype(np.float32)
POINTS = np.random.default_rng(1).uniform(0, 40, (B, Q, 2, 2)).astype(np.float32)
LABELS = np.int32([[[1, -1], [1, 0], [2, 3]]] * B)


def jitted(config: SamConfig, method=None, **static):
    return jax.jit(functools.partial(Sam(config).apply, method=method, **static))


@pytest.fixture(scope="module", params=tiny.WIRINGS)
def whole(request):
    """Config, variables and what the model gives for the batch."""
    config = tiny.config(request.param)
    variables = {"params": tiny.params(config)}
    return config, variables, jitted(config)(variables, PIXELS, POINTS, LABELS)


def test_decoding_an_embedding_is_calling_the_model(whole):
    config, variables, (logits, iou) = whole
    embedding = jitted(config, "encode")(variables, PIXELS)
    assert embedding.shape == (B, 5, 5, 16)
    for multimask, kept in ((True, slice(1, None)), (False, slice(0, 1))):
        decode = jitted(config, "decode", multimask=multimask)
        low, scores = decode(variables, embedding, POINTS, LABELS)
        assert low.shape == (B, Q, kept.stop or 3, 20, 20)
        np.testing.assert_allclose(low, logits[:, :, kept], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(scores, iou[:, :, kept], rtol=1e-5, atol=1e-5)


def test_pictures_of_a_batch_do_not_see_each_other(whole):
    config, variables, (logits, iou) = whole
    alone = jitted(config)(variables, PIXELS[1:], POINTS[1:], LABELS[1:])
    np.testing.assert_allclose(alone[0][0], logits[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(alone[1][0], iou[1], rtol=1e-5, atol=1e-5)


def test_every_parameter_has_a_gradient(whole):
    config, variables, _ = whole
    mask = None
    if config.decoder.mask_prompts == "learned":
        mask = np.random.default_rng(2).normal(size=(B, Q, 20, 20)).astype(np.float32)

    def total(variables):
        inputs = (None if x is None else jnp.asarray(x) for x in (PIXELS, POINTS, LABELS, mask))
        logits, iou = Sam(config).apply(variables, *inputs)
        return (logits**2).mean() + (iou**2).mean()

    gradient = jax.jit(jax.grad(total))(variables)["params"]
    flat = flax.traverse_util.flatten_dict(gradient, sep="/")
    unused = {path for path, x in flat.items() if not np.asarray(x).any()}
    # The matrix is a buffer, a mask stands in for no_mask, and the last slot has no label 0.
    assert unused <= {"prompt/fourier", "prompt/no_mask"}


def test_extensions_keep_the_outputs_of_released_weights_to_the_bit():
    plain = tiny.config("efficientsam")
    extended = tiny.config("efficientsam", background="learned", mask_prompts="learned")
    released = tiny.params(plain)
    inputs = jnp.asarray(POINTS), jnp.asarray(LABELS), jnp.zeros((B, Q, 20, 20))
    fresh = PromptEncoder(extended).init(jax.random.key(0), *inputs)["params"]
    assert set(fresh) - set(released["prompt"]) == {"background", "no_mask", "mask"}
    grafted = {**released, "prompt": {**fresh, **released["prompt"]}}
    embedding = np.random.default_rng(3).normal(size=(B, 5, 5, 16)).astype(np.float32)
    before = jitted(plain, "decode")({"params": released}, embedding, POINTS, LABELS)
    after = jitted(extended, "decode")({"params": grafted}, embedding, POINTS, LABELS)
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
