"""MobileSAM's table against the listing of the release: nothing left over, nothing lost."""

import functools
import itertools

import jax
import numpy as np
import pytest
from helpers import tiny

from esam_jax.convert import state_dict
from esam_jax.convert.families import mobile_sam, registry, sam
from esam_jax.errors import CheckpointError
from esam_jax.evaluate import golden
from esam_jax.models import expected_shapes, named

FAMILY = mobile_sam.FAMILY
CONFIG = named.sam("mobile_sam")
IE = "image_encoder"


@functools.cache
def released():
    """The listing's tensors; counters as of a network that was trained."""
    state = dict(golden.state_dict("mobile_sam_vit_t"))
    for i, name in enumerate(name for name in state if name.endswith("num_batches_tracked")):
        state[name] = np.array(1000 + i)
    return state


def test_release_is_recognised():
    assert registry.recognise(released()) is FAMILY
    assert state_dict.detect(released()) == CONFIG


def test_both_sides_are_covered_exactly_once():
    links = list(FAMILY.links(CONFIG))
    torch = list(itertools.chain.from_iterable(link.torch for link in links))
    ours = list(itertools.chain.from_iterable(link.params for link in links))
    assert sorted([*torch, *FAMILY.unused(CONFIG)]) == sorted(golden.listing("mobile_sam_vit_t"))
    assert sorted(ours) == sorted(expected_shapes.of(CONFIG))


def test_round_trip_is_exact_with_what_is_not_used():
    params, unused = state_dict.to_params(released(), FAMILY, CONFIG)
    back = state_dict.to_state_dict(params, FAMILY, CONFIG, unused)
    assert len(back) == 439 and back.keys() == released().keys()
    for name, tensor in released().items():
        np.testing.assert_array_equal(back[name], tensor, strict=True)
    assert unused[f"{IE}.patch_embed.seq.0.bn.num_batches_tracked"] == 1000


def test_what_is_not_used_is_zero_unless_it_is_brought():
    params, unused = state_dict.to_params(released(), FAMILY, CONFIG)
    back = state_dict.to_state_dict(params, FAMILY, CONFIG)
    assert back.keys() == released().keys()
    for name, tensor in unused.items():
        np.testing.assert_array_equal(back[name], np.zeros_like(tensor), strict=True)


def test_each_head_holds_its_query_key_and_value_together():
    name = f"{IE}.layers.2.blocks.3.attn.qkv.weight"
    link = next(link for link in FAMILY.links(CONFIG) if link.torch == (name,))
    assert link.params == tuple(
        f"encoder/stage_2/block_03/attn/{part}/kernel" for part in ("query", "key", "value")
    )
    weight = released()[name]
    x = np.random.default_rng(0).normal(size=160).astype(np.float32)
    expected = (weight @ x).reshape(5, 3, 32)  # upstream: view(B, N, heads, -1), then split
    for i, kernel in enumerate(link.forward([weight])):
        np.testing.assert_allclose(np.einsum("d,dak->ak", x, kernel), expected[:, i], atol=1e-5)


@pytest.mark.parametrize("kind", ["without counters", "without a classifier", "100 classes"])
def test_what_masks_do_not_use_is_not_demanded(kind):
    """timm and fine-tuned files leave it out, or have a classifier of their own."""
    head = f"{IE}.head."
    state = {
        name: x[:100] if kind == "100 classes" and name.startswith(head) else x
        for name, x in released().items()
        if not (kind == "without counters" and name.endswith("num_batches_tracked"))
        and not (kind == "without a classifier" and name.startswith((head, f"{IE}.norm_head.")))
    }
    params, unused = state_dict.to_params(state, FAMILY, state_dict.detect(state))
    wanted, _ = state_dict.to_params(released(), FAMILY, CONFIG)
    jax.tree.map(np.testing.assert_array_equal, params, wanted)
    back = state_dict.to_state_dict(params, FAMILY, CONFIG, unused)
    assert back.keys() == released().keys()
    for name, x in state.items():
        np.testing.assert_array_equal(back[name], x, strict=True)
    absent = released().keys() - state.keys()
    remarks = state_dict.remarks(state, FAMILY, CONFIG)
    assert len(remarks) == bool(absent) and all("of no use to the network" in x for x in remarks)


def test_damage_to_what_is_not_used_is_named():
    counter = f"{IE}.layers.0.blocks.0.conv1.bn.num_batches_tracked"
    state = {
        **released(),
        f"{IE}.head.bias": np.full(7, np.nan, np.float32),
        counter: np.zeros((), np.int32),
    }
    with pytest.raises(CheckpointError) as caught:
        state_dict.to_params(state, FAMILY, CONFIG)
    assert str(caught.value).endswith(
        f"not floats: {counter}; holding NaN or infinity: {IE}.head.bias"
    )


def test_windows_that_are_no_squares_are_refused():
    name = f"{IE}.layers.3.blocks.0.attn.attention_biases"
    state = {**released(), name: np.zeros((10, 50), np.float32)}
    with pytest.raises(CheckpointError, match=rf"{name} is \(10, 50\), not \(10, 49\)"):
        state_dict.to_params(state, FAMILY, state_dict.detect(state))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (f"{IE}.layers.0.blocks.0.conv3.c.weight", "lacks .*conv3"),
        (f"{IE}.layers.2.blocks.0.attn.attention_biases", "lacks .*attention_biases"),
    ],
)
def test_size_is_not_guessed(missing, message):
    state = {name: x for name, x in released().items() if name != missing}
    with pytest.raises(CheckpointError, match=message):
        state_dict.detect(state)


def test_other_models_are_refused():
    assert FAMILY.refuses(CONFIG) is None
    assert "TinyViT" in str(FAMILY.refuses(tiny.config("sam")))
    assert "sam wiring" in str(FAMILY.refuses(tiny.config("efficientsam")))
    assert sam.FAMILY.refuses(CONFIG) is not None
