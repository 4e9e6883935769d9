"""CLIP against the recorded numbers of its original: tokens, pixels, every block, features."""

import functools
import zlib

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from golden import cases
from helpers import quick, small_clip, unrolled

from esam_jax.evaluate import golden
from esam_jax.models.clip import towers
from esam_jax.ops import images
from esam_jax.predict import centre_crop, tokenizer

NAMES = [
    ("clip_small_test_a", "clip_small_test"),
    pytest.param("clip_vit_b_32_a", "clip_vit_b_32", marks=pytest.mark.slow),
]
PROBS_LIMIT = 5e-6  # absolute: text.md, section 4


@functools.cache
def outcome(name, listing):
    """Logits of the case's pictures and texts, and {"encoder/block_00": (input, output), ...}."""
    config, params = small_clip.weights(listing)
    model, case = towers.Clip(config), golden.load(name)

    def run(params, pixels, tokens):
        seen = {}

        def intercept(call, args, kwargs, context):
            out = call(*args, **kwargs)
            path = "/".join(context.module.path)
            if path.count("/") < 2 and context.method_name == "__call__":
                seen[path] = (args[0], out)
            return out

        with nn.intercept_methods(intercept), unrolled.blocks():
            logits = model.apply({"params": params}, pixels, tokens)
        return logits, seen

    tokens = tokenizer.tokenize(case.meta["strings"], truncate=True)
    return quick.jit(run)(params, pixels_of(name, listing), jnp.asarray(tokens))


def pixels_of(name, listing):
    px = small_clip.weights(listing)[0].encoder.image_px
    squares = [centre_crop.square(golden.load(name).arrays[f"image_{i}"], px) for i in (0, 1)]
    return images.normalise(jnp.asarray(np.stack(squares)), images.CLIP_MEAN, images.CLIP_STD)


@pytest.mark.parametrize(("name", "listing"), NAMES)
def test_tokens_and_pixels(name, listing):
    case, (config, _) = golden.load(name), small_clip.weights(listing)
    tokens = tokenizer.tokenize(case.meta["strings"], truncate=True)
    np.testing.assert_array_equal(tokens, case.arrays["token_ids"], strict=True)
    for i, wanted in enumerate(case.arrays["resized_crc32"]):
        square = centre_crop.square(case.arrays[f"image_{i}"], config.encoder.image_px)
        assert zlib.crc32(square.tobytes()) == wanted
    sample = np.asarray(pixels_of(name, listing)).transpose(0, 3, 1, 2)[:, :, 7::31, 11::29]
    np.testing.assert_allclose(sample, case.arrays["pixel_sample"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "listing"), NAMES)
def test_every_block_that_was_recorded(name, listing):
    arrays, (_, seen) = golden.load(name).arrays, outcome(name, listing)
    rows, checked = arrays["text_rows"], 0
    for half, part, take in (("vision", "encoder", slice(None)), ("text", "text", rows)):
        for key in (key for key in arrays if key.startswith(f"{half}_") and "block" in key):
            _, when, *_, block = key.split("_")
            called = seen[f"{part}/block_{int(block):02d}"][when == "after"]
            cases.check(key, np.asarray(called)[take, ::3, ::8], arrays[key])
            checked += 1
    assert checked == (6 if listing == "clip_small_test" else 8)


@pytest.mark.parametrize(("name", "listing"), NAMES)
def test_features_logits_and_probabilities(name, listing):
    arrays, (logits, seen) = golden.load(name).arrays, outcome(name, listing)
    ends = arrays["token_ids"].argmax(1)
    pooled = np.asarray(seen["text/norm"][1])[np.arange(len(ends)), ends]
    cases.check("vision_pooled", seen["encoder/norm"][1], arrays["vision_pooled"])
    cases.check("text_pooled", pooled, arrays["text_pooled"])
    cases.check("image_features", seen["encoder"][1], arrays["image_features"])
    cases.check("text_features", seen["text"][1], arrays["text_features"])
    logits = np.asarray(logits)
    cases.check("logits_per_image", logits, arrays["logits_per_image"])
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    np.testing.assert_allclose(shares, arrays["probs"], rtol=0, atol=PROBS_LIMIT)
