"""State dicts there and back, and damage of every kind."""

import functools
import random

import jax
import ml_dtypes
import numpy as np
import pytest
from helpers import nano, tiny
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.convert import state_dict
from esam_jax.convert.families import registry
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.evaluate import golden
from esam_jax.models import named

SMALL = ("efficientsam_small_test", "sam_small_test")


FULL = ("efficientsam_ti", "efficientsam_s", "sam_vit_b", "mobile_sam_vit_t", "mae_vit_b_pretrain")


def known(listing):
    """A state dict with its family and config."""
    state = golden.state_dict(listing)
    family = registry.recognise(state)
    return state, family, state_dict.detect(state, family)


@functools.cache
def small(listing):
    return known(listing)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], strict=True)


# ------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize("listing", [*SMALL, *FULL])
def test_round_trip_is_exact_whatever_the_order(listing):
    state, family, config = known(listing)
    shuffled = list(state.items())
    random.Random(0).shuffle(shuffled)
    params, unused = state_dict.to_params(dict(shuffled), family, config)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(params))
    assert_same(state_dict.to_state_dict(params, family, config, unused), state)


@pytest.mark.parametrize("config", [tiny.config("efficientsam"), tiny.config("sam")])
def test_round_trip_from_our_side_is_exact(config):
    params, family = nano.params(config), registry.of_layout(config)
    state = state_dict.to_state_dict(params, family, config)
    back, unused = state_dict.to_params(state, family, config)
    assert jax.tree.structure(back) == jax.tree.structure(params) and not unused
    jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True), back, params)


def test_parameters_are_views_of_the_file():
    state, family, config = small("sam_small_test")
    params, _ = state_dict.to_params(state, family, config)
    copied = [
        x.size
        for x in jax.tree.leaves(params)
        if not any(np.shares_memory(x, tensor) for tensor in state.values())
    ]
    # Only what is stacked or merged is copied: the hypernetworks and the patch kernels.
    assert sum(copied) < 0.4 * sum(x.size for x in state.values())


def test_export_refuses_parameters_of_another_model():
    params, config = nano.params(tiny.config("sam")), tiny.config("sam")
    del params["prompt"]["background"]
    with pytest.raises(CheckpointError, match="prompt/background"):
        state_dict.to_state_dict(params, registry.get("sam"), config)


def test_what_a_layout_cannot_express_is_refused():
    for field in ("background", "mask_prompts"):
        config = tiny.config("efficientsam", **{field: "learned"})
        with pytest.raises(CheckpointError, match="as efficientsam: it has neither background"):
            state_dict.to_state_dict(nano.params(config), registry.get("efficientsam"), config)
    config = tiny.config("sam")
    with pytest.raises(CheckpointError, match=r"as efficientsam: .*the efficientsam wiring"):
        state_dict.to_state_dict(nano.params(config), registry.get("efficientsam"), config)


# -------------------------------------------------------------------------------------- damage


@given(
    listing=st.sampled_from(SMALL),
    removed=st.sets(st.integers(0, 120), max_size=3),
    renamed=st.sets(st.integers(0, 120), max_size=3),
    reshaped=st.sets(st.integers(0, 120), max_size=3),
)
def test_one_error_lists_exactly_the_damage(listing, removed, renamed, reshaped):
    state, family, config = small(listing)
    names, damaged = sorted(state), dict(state)
    renamed, reshaped = renamed - removed, reshaped - removed - renamed
    for i in removed:
        del damaged[names[i]]
    for i in renamed:
        damaged[f"{names[i]}.old"] = damaged.pop(names[i])
    for i in reshaped:
        damaged[names[i]] = damaged[names[i]][None]
    if not removed | renamed | reshaped:
        state_dict.to_params(damaged, family, config)
        return
    with pytest.raises(CheckpointError) as caught:
        state_dict.to_params(damaged, family, config)
    faults = {
        "missing": [names[i] for i in sorted(removed | renamed)],
        "unexpected": [f"{names[i]}.old" for i in sorted(renamed)],
        "of another shape": [
            f"{names[i]} is {(1, *state[names[i]].shape)}, not {state[names[i]].shape}"
            for i in sorted(reshaped)
        ],
    }
    listed = "; ".join(f"{kind}: {', '.join(found)}" for kind, found in faults.items() if found)
    assert str(caught.value) == f"the state dict does not fit the model; {listed}"


def test_numbers_that_no_network_holds_are_refused():
    state, family, config = small("sam_small_test")
    name = "mask_decoder.iou_token.weight"
    for value, kind in ((np.nan, "NaN or infinity"), (-np.inf, "NaN or infinity")):
        damaged = {**state, name: np.full_like(state[name], value)}
        with pytest.raises(CheckpointError, match=f"{kind}: {name}$"):
            state_dict.to_params(damaged, family, config)
    damaged = {**state, name: state[name].astype(np.int64)}
    with pytest.raises(CheckpointError, match=f"floats: {name}$"):
        state_dict.to_params(damaged, family, config)


@given(st.data())
def test_half_precision_is_widened_tensor_by_tensor(data):
    state, family, config = small("sam_small_test")
    kinds = st.sampled_from((np.float16, ml_dtypes.bfloat16, np.float32))
    stored = {name: x.astype(data.draw(kinds)) for name, x in state.items()}
    params, _ = state_dict.to_params(stored, family, config)
    assert_same(
        state_dict.to_state_dict(params, family, config),
        {name: x.astype(np.float32) for name, x in stored.items()},
    )


# ------------------------------------------------------------------------------------ detecting


@pytest.mark.parametrize(
    ("listing", "name"),
    [
        ("efficientsam_ti", "efficientsam_ti"),
        ("efficientsam_s", "efficientsam_s"),
        ("sam_vit_b", "sam_b"),
        ("sam_vit_l", "sam_l"),
        ("sam_vit_h", "sam_h"),
        ("mobile_sam_vit_t", "mobile_sam"),
    ],
)
def test_released_models_are_recognised(listing, name):
    shapes = golden.listing(listing)
    state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    family = registry.recognise(state)
    assert state_dict.detect(state, family) == named.sam(name)
    assert registry.of_layout(named.sam(name)) == family
    assert registry.closest(state, named.sam(name)) == family


@pytest.mark.parametrize("name", nano.NAMES)
def test_our_own_models_are_recognised(name):
    config = named.sam(name)
    family = registry.of_layout(config)
    state = state_dict.to_state_dict(nano.params(config), family, config)
    assert state_dict.detect(state) == config


def test_what_is_not_recognised_says_why():
    with pytest.raises(CheckpointError, match="this state dict is not of a known model"):
        registry.recognise({"conv1.weight": np.zeros((4, 3, 7, 7), np.float32)})
    odd = tiny.config("efficientsam")
    state = state_dict.to_state_dict(nano.params(odd), registry.get("efficientsam"), odd)
    with pytest.raises(CheckpointError, match=r"width 12 is unknown.*name the model"):
        state_dict.detect(state)
    state = dict(small("sam_small_test")[0])
    del state["image_encoder.neck.0.weight"]
    with pytest.raises(CheckpointError, match=r"lacks image_encoder\.neck\.0\.weight"):
        state_dict.detect(state)
    state = {**small("sam_small_test")[0], "image_encoder.blocks.9999.norm1.bias": np.zeros(48)}
    with pytest.raises(
        CheckpointError, match=r"no image_encoder\.blocks\.0, or not all up to 9999"
    ):
        state_dict.detect(state)
    with pytest.raises(ConfigError, match="no layout of checkpoints is called 'sma'"):
        registry.get("sma")
