"""CLIP's encoders: what a token sees, where features are read, rounding, first values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from helpers import small_clip, tiny

from esam_jax.config import ComputeConfig, TextConfig
from esam_jax.models import expected_shapes
from esam_jax.models.clip import towers

CONFIG = small_clip.tiny()
RNG = np.random.default_rng(0)
PARAMS = jax.tree.map(
    lambda x: jnp.asarray(RNG.normal(0, 0.5, x.shape), jnp.float32),
    jax.eval_shape(functools.partial(towers.init, CONFIG), jax.random.key(0)),
)
START, END = TextConfig.vocabulary - 2, TextConfig.vocabulary - 1
PIXELS = jnp.asarray(RNG.normal(size=(3, 12, 12, 3)), jnp.float32)
TOKENS = np.array([[START, 5, 900, 7, END, 0, 0], [START, 11, END, 0, 0, 0, 0]], np.int32)


@functools.cache
def program(method, dtype="float32"):
    model = towers.Clip(CONFIG, ComputeConfig(dtype=dtype))
    return tiny.jit(lambda *given: model.apply({"params": PARAMS}, *given, method=method))


def text(tokens):
    return np.asarray(program("encode_text")(jnp.asarray(tokens)))


def close(one, other):
    np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_what_stands_behind_the_first_end_changes_nothing():
    other = TOKENS.copy()
    other[0, 5:], other[1, 3:] = (END, 3), (END, 8, 9, END)
    close(text(other), text(TOKENS))
    close(text(TOKENS[1:, :3]), text(TOKENS)[1:])  # nor do fewer places


def test_what_stands_before_the_end_changes_the_features():
    for place in (1, 2, 3):
        other = TOKENS.copy()
        other[0, place] = 6
        assert np.abs(text(other)[0] - text(TOKENS)[0]).max() > 1e-3
        close(text(other)[1], text(TOKENS)[1])


def test_the_text_encoder_against_plain_numpy():
    """Every step written out in float64, with a triangle of what may be seen."""
    parts, width, heads = PARAMS["text"], CONFIG.text.width, CONFIG.text.heads
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), parts)

    def norm(x, at):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * at["scale"] + at["bias"]

    tokens = TOKENS[0]
    x = p["words"][tokens] + p["positions"][: len(tokens)]
    for i in range(CONFIG.text.depth):
        block = p[f"block_{i:02d}"]
        y = norm(x, block["attn_norm"])
        q, k, v = (
            np.einsum("nd,dak->ank", y, block["attn"][name]["kernel"])
            + block["attn"][name]["bias"][:, None]
            for name in ("query", "key", "value")
        )
        scores = np.einsum("ank,ajk->anj", q, k) / np.sqrt(width / heads)
        scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("anj,ajk->nak", shares / shares.sum(-1, keepdims=True), v)
        out = block["attn"]["out"]
        x = x + np.einsum("nak,akd->nd", mixed, out["kernel"]) + out["bias"]
        hidden = norm(x, block["mlp_norm"]) @ block["mlp"]["hidden"]["kernel"]
        hidden = hidden + block["mlp"]["hidden"]["bias"]
        hidden = hidden / (1 + np.exp(-1.702 * hidden))
        x = x + hidden @ block["mlp"]["out"]["kernel"] + block["mlp"]["out"]["bias"]
    close(text(TOKENS)[0], norm(x, p["norm"])[4] @ p["project"]["kernel"])


def test_pictures_do_not_see_each_other():
    encode = program("encode_image")
    together = np.asarray(encode(PIXELS))
    assert together.shape == (3, CONFIG.embed_width) and together.std() > 0.1
    for i in range(3):
        close(np.asarray(encode(PIXELS[i : i + 1])), together[i : i + 1])


def test_every_pixel_counts():
    changed = PIXELS.at[:, 11, 11].add(1.0)
    both = (np.asarray(program("encode_image")(x)) for x in (PIXELS, changed))
    assert np.abs(np.subtract(*both)).max() > 1e-3


def test_logits_are_scaled_cosines():
    logits = np.asarray(program("__call__")(PIXELS, jnp.asarray(TOKENS)))
    pictures, texts = np.asarray(program("encode_image")(PIXELS)), text(TOKENS)
    cosines = (pictures @ texts.T) / np.outer(
        *(np.linalg.norm(x, axis=1) for x in (pictures, texts))
    )
    close(logits, np.exp(float(PARAMS["logit_scale"])) * cosines)


def test_sixteen_bits_come_near_and_features_are_float32():
    for method, given in (("encode_image", PIXELS), ("encode_text", jnp.asarray(TOKENS))):
        exact, rounded = program(method)(given), program(method, "bfloat16")(given)
        assert rounded.dtype == jnp.float32
        error = np.abs(np.asarray(rounded - exact)).max() / np.asarray(exact).std()
        assert 1e-4 < error < 0.2


def test_first_values():
    one_block, _ = towers.thin(CONFIG)
    params = tiny.jit(functools.partial(towers.init, one_block))(jax.random.key(0))
    assert float(params["logit_scale"]) == np.float32(np.log(1 / 0.07))
    assert 0.019 < np.asarray(params["text"]["words"]).std() < 0.021
    shapes = {path: x for path, x in expected_shapes.of(CONFIG).items() if path.endswith("kernel")}
    assert "encoder/project/kernel" in shapes and "text/block_02/attn/out/kernel" in shapes
    assert "encoder/patch_embed/bias" not in expected_shapes.of(CONFIG)
