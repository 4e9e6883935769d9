"""Both decoders of SAMI against the same in numpy, one image, one head and one token at a time."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from esam_jax.config import PretrainDecoderConfig, VitConfig
from esam_jax.models.encoders.vit import VitEncoder
from esam_jax.models.pretrain.sami import Sami
from esam_jax.ops import masking

ENCODER = VitConfig(
    width=12, heads=3, depth=1, patch_px=4, image_px=32, pretrain_px=16, neck_width=5
)
DECODER = PretrainDecoderConfig(width=8, depth=2, heads=2)
RNG = np.random.default_rng(3)
PIXELS = jnp.asarray(RNG.normal(size=(2, 16, 16, 3)), jnp.float32)
VISIBLE, MASKED = masking.choose(jax.random.key(1), 2, 16, 5)
FORMS = ("masked", "all")


def network(queries):
    return Sami(ENCODER, DECODER, target_width=7, queries=queries)


@functools.cache
def begun(queries):
    """Parameters, drawn large enough for every part to matter."""
    model = network(queries)
    shapes = jax.eval_shape(model.init, jax.random.key(0), PIXELS, VISIBLE, MASKED)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), shapes)
    return params, tiny.jit(model.apply)({"params": params}, PIXELS, VISIBLE, MASKED)


# ------------------------------------------------------------------------------- the slow version


def norm(params, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * params["scale"] + params["bias"]


def linear(params, x):
    return x @ params["kernel"] + params["bias"]


def attend(params, queries, context):
    """[tokens, E]: for each head and each query, the mean of values by the softmax of scores."""
    mixed = np.zeros((len(queries), DECODER.heads, DECODER.width // DECODER.heads))
    for a in range(DECODER.heads):
        q, k, v = (
            x @ params[name]["kernel"][:, a] + params[name]["bias"][a]
            for name, x in (("query", queries), ("key", context), ("value", context))
        )
        for i, query in enumerate(q):
            scores = np.exp(k @ query / math.sqrt(len(query)))
            mixed[i, a] = scores @ v / scores.sum()
    return np.einsum("nak,ake->ne", mixed, params["out"]["kernel"]) + params["out"]["bias"]


def mlp(params, x):
    hidden = linear(params["hidden"], x)
    return linear(
        params["out"], hidden * np.vectorize(lambda x: 0.5 * (1 + math.erf(x / 2**0.5)))(hidden)
    )


def anchored(params, tokens, visible, masked):
    """Masked tokens look at all; visible ones stay. One row for each patch, in image order."""
    decoder = params["decoder"]
    anchors = {i: tokens[1 + n] + decoder["positions"][i] for n, i in enumerate(visible)}
    learned = {i: decoder["mask_token"] + decoder["positions"][i] for i in masked}
    for number in range(DECODER.depth):
        block = decoder[f"block_{number:02d}"]
        context = norm(block["context_norm"], np.stack([*anchors.values(), *learned.values()]))
        x = np.stack([*learned.values()])
        x = x + attend(block["attn"], norm(block["query_norm"], x), context)
        x = x + mlp(block["mlp"], norm(block["mlp_norm"], x))
        learned = dict(zip(learned, x, strict=True))
    merged = {**anchors, **learned}
    return norm(decoder["norm"], np.stack([merged[i] for i in range(16)]))


def joint(params, tokens, visible, masked):
    """All tokens look at all, the class token among them."""
    decoder = params["decoder"]
    placed = {i: tokens[1 + n] for n, i in enumerate(visible)}
    placed |= dict.fromkeys(masked, params["mask_token"])
    x = np.stack([tokens[0], *(placed[i] for i in range(16))]) + decoder["positions"]
    for number in range(DECODER.depth):
        block = decoder[f"block_{number:02d}"]
        seen = norm(block["attn_norm"], x)
        x = x + attend(block["attn"], seen, seen)
        x = x + mlp(block["mlp"], norm(block["mlp_norm"], x))
    return norm(decoder["norm"], x)[1:]


@pytest.mark.parametrize("queries", FORMS)
def test_against_the_slow_version(queries):
    params, found = begun(queries)
    trunk = functools.partial(VitEncoder(ENCODER).apply, method=VitEncoder.trunk)
    encoded = tiny.jit(trunk)({"params": params["encoder"]}, PIXELS, VISIBLE, params["class_token"])
    slow = {"masked": anchored, "all": joint}[queries]
    for image in range(2):
        tokens = linear(params["embed"], norm(params["norm"], np.asarray(encoded[image], float)))
        visible, masked = (np.asarray(x[image]).tolist() for x in (VISIBLE, MASKED))
        wanted = linear(params["head"], slow(params, tokens, visible, masked))
        np.testing.assert_allclose(found[image].reshape(16, 7), wanted, rtol=1e-4, atol=2e-5)


# --------------------------------------------------------------------------- what tells them apart


def test_parameters_of_the_encoder_have_their_names_in_both_forms():
    a, b = (jax.tree.map(jnp.shape, begun(queries)[0]) for queries in FORMS)
    for part in ("encoder", "class_token", "norm", "embed", "head"):
        assert a[part] == b[part]
    # With all tokens they are those of MAE, so that its files fit.
    assert a.keys() | {"mask_token"} == b.keys()
    assert b["decoder"]["positions"] == (17, 8) and b["decoder"].keys() == {
        *("block_00", "block_01", "norm", "positions")
    }


def test_every_parameter_of_the_joint_decoder_learns():
    params, _ = begun("all")

    def loss(params):
        return (network("all").apply({"params": params}, PIXELS, VISIBLE, MASKED) ** 2).sum()

    gradient = tiny.jit(jax.grad(loss))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        # A bias of all keys shifts a query's scores alike, which softmax does not see.
        if "['key']['bias']" not in jax.tree_util.keystr(path):
            assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)
