"""LoRA's pairs: which kernels have one, what they add, and that they begin as nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers import nano

from esam_jax.models import lora, named
from esam_jax.models.sam import network

MODELS = ("efficientsam_nano", "sam_nano", "mobile_nano")
# Blocks with attention, four projections in each; TinyViT's first stage is convolutional.
PAIRS = {"efficientsam_nano": 3 * 4, "sam_nano": 4 * 4, "mobile_nano": 3 * 4}


@pytest.fixture(autouse=True)
def _mobile(monkeypatch):
    nano.add_mobile(monkeypatch)


def _model(name, rank=3, b=0.0):
    """A model with pairs, whose b are random of that size."""
    params = nano.params(named.sam(name))
    pairs = jax.device_get(lora.init(params, rank, jax.random.key(1)))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        return b * rng.normal(size=leaf.shape).astype(np.float32) if path[-1].key == "b" else leaf

    return {**params, "lora": jax.tree_util.tree_map_with_path(draw, pairs)}


@pytest.mark.parametrize("name", MODELS)
def test_each_projection_of_the_encoders_attention_has_a_pair(name):
    model = _model(name, rank=3)
    kernels = flatten_dict(model["encoder"], sep="/")
    found = flatten_dict(model["lora"]["encoder"], sep="/")
    assert len(found) == 2 * PAIRS[name]
    for path in {each.rpartition("/")[0] for each in found}:
        module, projection = path.split("/")[-2:]
        assert module == "attn" and projection in ("query", "key", "value", "out")
        a, b, kernel = found[f"{path}/a"], found[f"{path}/b"], kernels[f"{path}/kernel"]
        assert a.shape[-1] == b.shape[0] == 3
        assert a.shape[:-1] + b.shape[1:] == kernel.shape
        # `out` takes heads x width, the others give them.
        assert a.ndim == (3 if projection == "out" else 2)
        assert not b.any() and a.std() > 0
    everywhere = {path for path in kernels if "/attn/" in f"/{path}" and path.endswith("/kernel")}
    assert len(everywhere) == PAIRS[name]


@pytest.mark.parametrize("name", MODELS)
def test_merged_kernels_are_the_sums_of_products(name):
    """Number by number, in float64."""
    model = _model(name, b=0.5)
    merged = lora.merge(model, 2.5)
    assert set(merged) == {"encoder", "prompt", "decoder"}
    before, after = (flatten_dict(x["encoder"], sep="/") for x in (model, merged))
    pairs, changed = flatten_dict(model["lora"]["encoder"], sep="/"), 0
    assert before.keys() == after.keys()
    for path, kernel in before.items():
        stem = path.removesuffix("/kernel")
        if f"{stem}/a" not in pairs:
            assert after[path] is kernel
            continue
        a, b = (np.float64(pairs[f"{stem}/{x}"]) for x in "ab")
        rank = b.shape[0]
        wanted = np.float64(kernel).reshape(-1, b[0].size).copy()
        flat_a, flat_b = a.reshape(-1, rank), b.reshape(rank, -1)
        for i in range(wanted.shape[0]):
            for r in range(rank):
                wanted[i] += 2.5 * flat_a[i, r] * flat_b[r]
        np.testing.assert_allclose(after[path].reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-5)
        assert np.abs(after[path] - kernel).max() > 0.01
        changed += 1
    assert changed == PAIRS[name]


@pytest.mark.parametrize("name", MODELS)
def test_pairs_begin_as_nothing_to_the_bit(name):
    model = _model(name)
    merged = lora.merge(model, 2.0)
    for branch in ("encoder", "prompt", "decoder"):
        jax.tree.map(np.testing.assert_array_equal, merged[branch], model[branch])


def test_a_model_without_pairs_is_returned_as_it_is():
    params = nano.params(named.sam("efficientsam_nano"))
    assert lora.merge(params, 2.0) is params


def test_first_pairs_have_the_size_of_the_paper_and_differ():
    params = jax.eval_shape(lambda: network.init(named.sam("efficientsam_ti"), jax.random.key(0)))
    pairs = lora.init(params, 8, jax.random.key(0))["encoder"]
    query, key = (pairs["block_00"]["attn"][name]["a"] for name in ("query", "key"))
    out = pairs["block_11"]["attn"]["out"]["a"]
    for a in (query, key, out):
        assert float(jnp.std(a)) == pytest.approx(192**-0.5, rel=0.06)  # of 1536 numbers
        assert abs(float(jnp.mean(a))) < 4 * 192**-0.5 / 1536**0.5
    assert not np.allclose(query, key)


def test_an_encoder_without_attention_has_nothing_to_pair_with():
    with pytest.raises(ValueError, match="no attention"):
        lora.init({"encoder": {"neck": {"kernel": np.ones(2)}}}, 8, jax.random.key(0))


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        # 12 blocks x 4 projections x rank 8 x (in + out).
        ("efficientsam_ti", 12 * 4 * 8 * 2 * 192),
        ("sam_b", 12 * 4 * 8 * 2 * 768),
        # Stages 1 to 3 of TinyViT.
        ("mobile_sam", 4 * 8 * 2 * (2 * 128 + 6 * 160 + 2 * 320)),
    ],
)
def test_a_run_of_rank_eight_trains_under_three_percent(name, pairs):
    params = jax.eval_shape(lambda: network.init(named.sam(name), jax.random.key(0)))
    found = jax.eval_shape(lambda: lora.init(params, 8, jax.random.key(0)))
    count, all_numbers = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (found, params))
    assert count == pairs
    assert count / (count + all_numbers) < 0.03
