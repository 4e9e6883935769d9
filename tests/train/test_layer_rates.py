"""Rates by layer, against MAE's tables and TinyViT's constructor, of the trees that there are."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from esam_jax.errors import ConfigError
from esam_jax.models import expected_shapes, named
from esam_jax.train import layer_rates, optim

FILE = pathlib.Path(__file__).parents[1] / "golden" / "layer_decay.json"
TABLES = json.loads(FILE.read_text())["tables"]
EXAMPLE = TABLES["example_depth12_decay0.75"]
OURS = {  # in a classifier; of `qkv` and blocks see `ours`
    "cls_token": "class_token",
    "pos_embed": "encoder/positions",
    "patch_embed.proj": "encoder/patch_embed",
    "fc_norm": "norm",
    "head": "head",
    "norm1": "attn_norm",
    "norm2": "mlp_norm",
    "attn.proj": "attn/out",
    "mlp.fc1": "mlp/hidden",
    "mlp.fc2": "mlp/out",
}


@functools.cache
def paths(name):
    """Every parameter of a model."""
    return list(expected_shapes.of(named.model(name)))


@functools.cache
def factors(name, decay):
    """What the rate of each parameter is multiplied by, by its path."""
    above = layer_rates.layers_above(name, paths(name))
    return {path: decay**n for path, n in zip(paths(name), above, strict=True)}


def classifier():
    """The tree of a ViT-B that classifies, with zeros in place of its arrays."""
    flat = dict.fromkeys((*paths("mae_b"), "head/kernel", "head/bias"), 0)
    return {"b": traverse_util.unflatten_dict(flat, sep="/")}


def ours(torch):
    """The paths of a tensor of timm's in a classifier of ours."""
    block, rest = "", torch
    if torch.startswith("blocks."):
        _, number, rest = torch.split(".", 2)
        block = f"encoder/block_{int(number):02d}/"
    stem, _, kind = rest.rpartition(".")
    if not stem:
        return [OURS[rest]]
    norm = stem in ("norm1", "norm2", "fc_norm")
    leaf = {"weight": "scale" if norm else "kernel", "bias": "bias"}[kind]
    if stem == "attn.qkv":
        return [f"{block}attn/{each}/{leaf}" for each in ("query", "key", "value")]
    return [f"{block}{OURS[stem]}/{leaf}"]


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def test_every_tensor_has_the_rate_and_the_decay_of_maes_fine_tuning():
    """The class token and positions do not decay, as there; every leaf of the tree is compared."""
    tree = classifier()
    above, decays = flat(layer_rates.layers(tree)), flat(optim.decays(tree))
    rows = {f"b/{path}": row for name, row in EXAMPLE.items() for path in ours(name)}
    for path, (layer, scale, decay) in rows.items():
        assert above[path] == 13 - layer, path
        assert 0.75 ** above[path] == pytest.approx(scale, rel=1e-6)
        assert decays[path] == (decay > 0), path
    # The table has the first and the last block; those between have the same tensors.
    others = {path for path in above if path not in rows}
    assert len(others) == 10 * (len(above) - len(others) - 8) / 2
    for path in others:
        number = int(path.split("block_")[1][:2])
        first = path.replace(f"block_{number:02d}", "block_00")
        assert above[path] == 12 - number and decays[path] == decays[first]


@pytest.mark.parametrize("name", [name for name in TABLES if "scales" in TABLES[name]])
def test_the_rates_of_every_depth_are_those_of_mae(name):
    """Of MAE's own trees and of SAM's encoders."""
    scales, decay = TABLES[name]["scales"], float(name.rsplit("decay", 1)[1])
    depth = len(scales) - 2
    for model in {12: ("mae_b", "sam_b"), 24: ("mae_l", "sam_l"), 32: ("mae_h", "sam_h")}[depth]:
        found = factors(model, decay)
        for path, factor in found.items():
            if "encoder/block_" in path:
                layer = 1 + int(path.split("/block_")[1][:2])
            elif path.startswith(("encoder/patch_embed/", "encoder/positions", "class_token")):
                layer = 0
            else:
                layer = depth + 1
            assert factor == pytest.approx(scales[layer], rel=1e-6), path
        assert len({*found.values()}) == len(scales)


def test_relative_positions_are_of_their_block_and_what_follows_learns_at_the_full_rate():
    found = factors("sam_b", 0.5)
    for table in ("rel_rows", "rel_cols"):
        assert found[f"encoder/block_03/attn/{table}"] == 0.5**9
    behind = [x for path, x in found.items() if path.startswith(("encoder/neck", "prompt", "dec"))]
    assert len(behind) > 50 and {*behind} == {1.0}
    mae = factors("mae_b", 0.5)
    assert mae["class_token"] == mae["encoder/positions"] == 0.5**13
    assert mae["norm/scale"] == 1.0
    decoder = ("embed/kernel", "mask_token", "positions", "block_00/attn/out/kernel", "norm/bias")
    ends = [f"decoder/{path}" for path in decoder] + ["head/kernel"]
    assert layer_rates.layers_above("mae", [*paths("mae_b"), *ends])[-len(ends) :] == [0] * len(
        ends
    )


@pytest.mark.parametrize(
    ("model", "depths"), [("mobile_sam", (2, 2, 6, 2)), ("mobile_sam_nano", None)]
)
def test_tiny_vit_counts_the_blocks_of_all_stages(model, depths):
    """As its constructor: the last block has the full rate, and the stem that of the first."""
    depths = depths or named.sam(model).encoder.depths
    scales = [0.8 ** (sum(depths) - i - 1) for i in range(sum(depths))]
    seen = set()
    for path, factor in factors(model, 0.8).items():
        part, *rest = path.removeprefix("encoder/").split("/")
        if not path.startswith("encoder/") or part == "neck":
            wanted = 1.0
        elif part.startswith("stem"):
            wanted = scales[0]
        else:
            before = sum(depths[: int(part[-1])])
            number = depths[int(part[-1])] - 1 if rest[0] == "downsample" else int(rest[0][-2:])
            wanted = scales[before + number]
        seen.add(factor)
        assert factor == pytest.approx(wanted, rel=1e-6), path
    assert len(seen) == len(scales)


def test_tokens_that_go_through_the_blocks_come_before_them():
    tree = ["encoder/block_00/norm/bias", "encoder/block_01/norm/bias", "class_token"]
    deit = [f"distillation/{name}" for name in ("token", "position", "head/kernel")]
    assert layer_rates.layers_above("deit", [*tree, *deit]) == [2, 1, 3, 3, 3, 0]


def test_the_depth_is_each_models_own_and_pairs_have_the_rate_of_their_block():
    block = {"attn": {"query": {"kernel": jnp.ones((2, 2))}}}
    pair = {"attn": {"query": {"a": jnp.ones((2, 1)), "b": jnp.ones((1, 2))}}}
    trees = {
        "two": {"encoder": {"block_00": block, "block_01": block}},
        "pairs": {"lora": {"encoder": {f"block_{i:02d}": pair for i in range(3)}}},
        "staged": {"lora": {"encoder": {f"stage_{i}": {"block_00": pair} for i in (1, 2)}}},
        "decoder": {"decoder": {"block_00": block}, "class_token": jnp.ones(2)},
    }
    rates = layer_rates.by_layer(0.5)
    scaled, _ = rates.update(trees, rates.init(trees))
    found = {
        name: np.unique([np.unique(x) for x in jax.tree.leaves(tree)])
        for name, tree in scaled.items()
    }
    np.testing.assert_array_equal(found["two"], [0.25, 0.5])
    np.testing.assert_array_equal(found["pairs"], [0.125, 0.25, 0.5])
    np.testing.assert_array_equal(found["staged"], [0.5, 1.0])
    np.testing.assert_array_equal(found["decoder"], [1.0])  # without an encoder nothing is slower


@pytest.mark.parametrize(
    ("tree", "named_path"),
    [
        ({"encoder": {"encode_1": {"kernel": 0}}}, "u2net/encoder/encode_1/kernel"),
        ({"encoder": {"patch_embed": {"kernel": 0}}}, "u2net/encoder/patch_embed/kernel"),
        ({"encoder": {"block_00": {"bias": 0}, "odd": 0}}, "u2net/encoder/odd"),
    ],
)
def test_an_encoder_whose_layers_are_unknown_is_refused_by_name(tree, named_path):
    """Before a folder is made: in the shapes of the state already."""
    said = f"optim.layer_decay is set, but {named_path} is in no layer .*: leave it out"
    with pytest.raises(ConfigError, match=said):
        layer_rates.by_layer(0.5).init({"u2net": tree})
