"""SAMI: who sees whom, the order of the result, and the encoder that is taken over."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esam_jax.config import ComputeConfig, PretrainDecoderConfig, VitConfig
from esam_jax.models.encoders.vit import VitEncoder
from esam_jax.models.pretrain.sami import CrossBlock, Sami
from esam_jax.ops import masking

ENCODER = VitConfig(
    width=12, heads=3, depth=2, patch_px=4, image_px=32, pretrain_px=16, neck_width=5
)
DECODER = PretrainDecoderConfig(width=8, depth=2, heads=2)
SAMI = Sami(ENCODER, DECODER, target_width=7)
RNG = np.random.default_rng(0)
PIXELS = jnp.asarray(RNG.normal(size=(2, 16, 16, 3)), jnp.float32)
VISIBLE, MASKED = masking.choose(jax.random.key(1), 2, 16, 4)

predict = jax.jit(lambda params, *inputs: SAMI.apply({"params": params}, *inputs))


@pytest.fixture(scope="module")
def params():
    return jax.jit(SAMI.init)(jax.random.key(0), PIXELS, VISIBLE, MASKED)["params"]


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


def test_encoder_is_the_plain_one_less_the_neck(params):
    whole = jax.eval_shape(VitEncoder(ENCODER).init, jax.random.key(0), PIXELS)["params"]
    without = {name: part for name, part in shapes(whole).items() if name != "neck"}
    assert shapes(params["encoder"]) == without


def test_names(params):
    assert sorted(params) == ["class_token", "decoder", "embed", "encoder", "head", "norm"]
    assert sorted(params["decoder"]) == ["block_00", "block_01", "mask_token", "norm", "positions"]
    block = params["decoder"]["block_00"]
    assert sorted(block) == ["attn", "context_norm", "mlp", "mlp_norm", "query_norm"]
    assert params["decoder"]["positions"].shape == (16, 8)


def test_every_parameter_learns(params):
    def loss(p):
        return (SAMI.apply({"params": p}, PIXELS, VISIBLE, MASKED) ** 2).sum()

    gradient = jax.jit(jax.grad(loss))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        # A bias of all keys shifts a query's scores alike, which softmax does not see.
        if "['key']['bias']" not in jax.tree_util.keystr(path):
            assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_result_does_not_depend_on_the_order_of_the_indices(params):
    expected = predict(params, PIXELS, VISIBLE, MASKED)
    assert expected.shape == (2, 4, 4, 7)
    found = predict(params, PIXELS, VISIBLE[:, ::-1], jnp.sort(MASKED, axis=1))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_masked_pixels_have_no_influence(params):
    patch = int(MASKED[0, 0])
    i, j = 4 * (patch // 4), 4 * (patch % 4)
    changed = PIXELS.at[0, i : i + 4, j : j + 4].set(5.0)
    np.testing.assert_array_equal(
        predict(params, changed, VISIBLE, MASKED), predict(params, PIXELS, VISIBLE, MASKED)
    )


def test_visible_half_is_held_fixed_and_lands_at_its_places(params):
    """Visible outputs pass no decoder block: only norm and head stand behind the embedding."""
    idle = jax.tree.map(jnp.zeros_like, params["decoder"]["block_00"])
    without = {**params, "decoder": {**params["decoder"], "block_00": idle, "block_01": idle}}
    a, b = (predict(p, PIXELS, VISIBLE, MASKED).reshape(2, 16, 7) for p in (params, without))
    for image in range(2):
        visible, masked = np.asarray(VISIBLE[image]), np.asarray(MASKED[image])
        np.testing.assert_allclose(a[image, visible], b[image, visible], atol=1e-5)
        assert np.abs(a[image, masked] - b[image, masked]).max(-1).min() > 1e-4


def test_masked_tokens_are_keys_too():
    masked, visible = (jnp.asarray(RNG.normal(size=(1, n, 8)), jnp.float32) for n in (3, 2))
    block = CrossBlock(DECODER)
    params = jax.jit(block.init)(jax.random.key(0), masked, visible)
    apply = jax.jit(block.apply)
    first = apply(params, masked, visible)
    changed = apply(params, masked.at[:, 2].add(jnp.arange(8.0)), visible)
    assert np.abs(first[:, 0] - changed[:, 0]).max() > 1e-4


def test_images_do_not_see_each_other(params):
    together = predict(params, PIXELS, VISIBLE, MASKED)
    alone = predict(params, PIXELS[:1], VISIBLE[:1], MASKED[:1])
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)


def test_bfloat16_stays_close(params):
    half = Sami(ENCODER, DECODER, 7, ComputeConfig(dtype="bfloat16", remat="blocks"))
    found = jax.jit(half.apply)({"params": params}, PIXELS, VISIBLE, MASKED)
    assert found.dtype == jnp.float32 and (found != found.astype(jnp.bfloat16)).any()
    expected = predict(params, PIXELS, VISIBLE, MASKED)
    error = np.abs(found - expected).max() / np.sqrt((expected**2).mean())
    assert error < 0.2  # some twenty roundings to 8 bits, each up to 2 ** -9


def test_rows_of_position_tables_gather_their_gradients_in_32_bits(params):
    """A row's gradient is a sum over all images, of which 16 bits would lose the small addends."""
    half = Sami(ENCODER, DECODER, 7, ComputeConfig(dtype="bfloat16"))

    def loss(params):
        return half.apply({"params": params}, PIXELS, VISIBLE, MASKED).sum()

    program = str(jax.make_jaxpr(jax.grad(loss))(params))
    tables = re.findall(r":(\w+)\[16,\d+\] = scatter-add", program)
    assert tables == ["f32"] * 3  # the decoder's for visible and masked tokens, the encoder's
