"""MAE: who sees whom, the order of the result, and the model without a decoder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from esam_jax.config import ComputeConfig, MaeConfig, PretrainDecoderConfig, VitConfig
from esam_jax.errors import ConfigError
from esam_jax.models.encoders.vit import VitEncoder
from esam_jax.models.pretrain import mae
from esam_jax.models.pretrain.mae import Mae
from esam_jax.ops import masking, positions

CONFIG = MaeConfig(
    encoder=VitConfig(width=12, heads=3, depth=2, patch_px=4, image_px=16, pretrain_px=16),
    decoder=PretrainDecoderConfig(width=8, depth=2, heads=2),
)
ALONE = dataclasses.replace(CONFIG, decoder=None)
PARAMS = tiny.params(CONFIG)
RNG = np.random.default_rng(0)
PIXELS = jnp.asarray(RNG.normal(size=(2, 16, 16, 3)), jnp.float32)
VISIBLE, MASKED = masking.choose(jax.random.key(1), 2, 16, 5)

predict = tiny.jit(lambda *inputs: Mae(CONFIG).apply({"params": PARAMS}, *inputs))
encode = tiny.jit(lambda *inputs: Mae(CONFIG).apply({"params": PARAMS}, *inputs, method="encode"))


def test_names_and_first_values():
    params = jax.jit(functools.partial(mae.init, CONFIG))(jax.random.key(0))
    names = ["class_token", "decoder", "embed", "encoder", "head", "mask_token", "norm"]
    assert sorted(params) == names
    assert sorted(params["decoder"]) == ["block_00", "block_01", "norm", "positions"]
    assert sorted(params["encoder"]) == ["block_00", "block_01", "patch_embed", "positions"]
    for half, width in (("encoder", 12), ("decoder", 8)):
        table = np.asarray(params[half]["positions"])
        assert not table[0].any()
        np.testing.assert_array_equal(table[1:], positions.sincos(4, 4, width))


def test_without_a_decoder_only_the_encoder_is_there():
    shapes = jax.eval_shape(functools.partial(mae.init, ALONE), jax.random.key(0))
    assert sorted(shapes) == ["class_token", "encoder", "norm"]
    found = tiny.jit(functools.partial(Mae(ALONE).apply, method="encode"))(
        {"params": {name: PARAMS[name] for name in shapes}}, PIXELS, VISIBLE
    )
    np.testing.assert_array_equal(found, encode(PIXELS, VISIBLE))
    with pytest.raises(ConfigError, match="decoder is None"):
        Mae(ALONE).init(jax.random.key(0), PIXELS, VISIBLE, MASKED)


def test_all_patches_are_the_trunk_behind_a_class_token():
    encoder = {"params": {**PARAMS["encoder"], "neck": {}}}
    trunk = tiny.jit(functools.partial(VitEncoder(CONFIG.encoder).apply, method="trunk"))
    x = np.asarray(trunk(encoder, PIXELS, None, PARAMS["class_token"]))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    expected = x * PARAMS["norm"]["scale"] + PARAMS["norm"]["bias"]
    found = encode(PIXELS)
    assert found.shape == (2, 17, 12)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_kept_patches_come_in_the_order_they_were_named():
    found, turned = encode(PIXELS, VISIBLE), encode(PIXELS, VISIBLE[:, ::-1])
    assert found.shape == (2, 6, 12)
    np.testing.assert_allclose(turned[:, 1:], found[:, :0:-1], atol=2e-5)
    np.testing.assert_allclose(turned[:, 0], found[:, 0], atol=2e-5)


def test_result_does_not_depend_on_the_order_of_the_indices():
    expected = predict(PIXELS, VISIBLE, MASKED)
    assert expected.shape == (2, 16, 48)
    found = predict(PIXELS, VISIBLE[:, ::-1], jnp.sort(MASKED, axis=1))
    np.testing.assert_allclose(found, expected, atol=1e-4)  # of values around 3


def test_removed_pixels_have_no_influence():
    patch = int(MASKED[0, 0])
    i, j = 4 * (patch // 4), 4 * (patch % 4)
    changed = PIXELS.at[0, i : i + 4, j : j + 4].set(5.0)
    expected = predict(PIXELS, VISIBLE, MASKED)
    np.testing.assert_array_equal(predict(changed, VISIBLE, MASKED), expected)
    assert np.abs(encode(changed) - encode(PIXELS))[0].max() > 1e-2


def test_removed_patches_differ_by_position_alone():
    """Without the decoder's table all removed patches get the same prediction, and only they."""
    decoder = {**PARAMS["decoder"], "positions": jnp.zeros((17, 8))}
    found = tiny.jit(Mae(CONFIG).apply)(
        {"params": {**PARAMS, "decoder": decoder}}, PIXELS, VISIBLE, MASKED
    )
    removed = np.asarray(masking.gather(found, MASKED))
    np.testing.assert_allclose(removed, np.broadcast_to(removed[:, :1], removed.shape), atol=1e-4)
    kept = np.asarray(masking.gather(found, VISIBLE))
    assert np.abs(kept - removed[:, :1]).max(-1).min() > 1e-2
    apart = np.asarray(masking.gather(predict(PIXELS, VISIBLE, MASKED), MASKED))
    assert np.abs(apart[:, 1:] - apart[:, :1]).max(-1).min() > 1e-2


def test_every_parameter_learns():
    def loss(params):
        return (Mae(CONFIG).apply({"params": params}, PIXELS, VISIBLE, MASKED) ** 2).sum()

    for path, leaf in jax.tree_util.tree_leaves_with_path(tiny.jit(jax.grad(loss))(PARAMS)):
        # A bias of all keys shifts a query's scores alike, which softmax does not see.
        if "['key']['bias']" not in jax.tree_util.keystr(path):
            assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_other_pictures_than_the_pretraining_square_fit_the_tables():
    pixels = jnp.asarray(RNG.normal(size=(1, 12, 24, 3)), jnp.float32)
    visible, masked = masking.choose(jax.random.key(2), 1, 18, 4)
    assert predict(pixels, visible, masked).shape == (1, 18, 48)


def test_bfloat16_stays_close():
    half = Mae(CONFIG, ComputeConfig(dtype="bfloat16", remat="blocks"))
    found = tiny.jit(half.apply)({"params": PARAMS}, PIXELS, VISIBLE, MASKED)
    assert found.dtype == jnp.float32 and (found != found.astype(jnp.bfloat16)).any()
    expected = predict(PIXELS, VISIBLE, MASKED)
    error = np.abs(found - expected).max() / np.sqrt((expected**2).mean())
    assert error < 0.2  # some twenty roundings to 8 bits, each up to 2 ** -9
