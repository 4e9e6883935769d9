"""State dicts there and back, damage of every kind, and files that must be refused."""

import dataclasses
import functools
import pickle
import sys

import jax
import nano
import numpy as np
import pytest
import safetensors.numpy
import tiny
from golden import weights
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.convert import torch_io
from esam_jax.errors import CheckpointError, MissingError
from esam_jax.models import variants

SMALL = ("efficientsam_small_test", "sam_small_test")


@functools.cache
def small(listing):
    state = weights.state_dict(listing)
    return state, torch_io.detect(state)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], strict=True)


# ------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize("listing", [*SMALL, "efficientsam_ti"])
def test_round_trip_is_exact(listing):
    state, config = small(listing)
    params = torch_io.from_state_dict(state, config)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(params))
    assert_same(torch_io.to_state_dict(params, config), state)


@pytest.mark.parametrize(
    "config",
    [
        tiny.config("efficientsam"),
        tiny.config("sam"),
        tiny.config("efficientsam", background="learned"),
        tiny.config("efficientsam", mask_prompts="learned"),
    ],
)
def test_round_trip_from_our_side_is_exact(config):
    params = nano.params(config)
    back = torch_io.from_state_dict(torch_io.to_state_dict(params, config), config)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True), back, params)


def test_export_refuses_parameters_of_another_model():
    params = nano.params(tiny.config("efficientsam"))
    with pytest.raises(CheckpointError, match="prompt/background"):
        torch_io.to_state_dict(params, tiny.config("efficientsam", background="learned"))


# -------------------------------------------------------------------------------------- damage


@given(
    listing=st.sampled_from(SMALL),
    removed=st.sets(st.integers(0, 120), max_size=3),
    renamed=st.sets(st.integers(0, 120), max_size=3),
    reshaped=st.sets(st.integers(0, 120), max_size=3),
)
def test_one_error_lists_exactly_the_damage(listing, removed, renamed, reshaped):
    state, config = small(listing)
    names, damaged = sorted(state), dict(state)
    renamed, reshaped = renamed - removed, reshaped - removed - renamed
    for i in removed:
        del damaged[names[i]]
    for i in renamed:
        damaged[f"{names[i]}.old"] = damaged.pop(names[i])
    for i in reshaped:
        damaged[names[i]] = damaged[names[i]][None]
    if not removed | renamed | reshaped:
        torch_io.from_state_dict(damaged, config)
        return
    with pytest.raises(CheckpointError) as caught:
        torch_io.from_state_dict(damaged, config)
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
    state, config = small("sam_small_test")
    name = "mask_decoder.iou_token.weight"
    for value, kind in ((np.nan, "NaN or infinity"), (-np.inf, "NaN or infinity")):
        with pytest.raises(CheckpointError, match=f"{kind}: {name}$"):
            torch_io.from_state_dict({**state, name: np.full_like(state[name], value)}, config)
    with pytest.raises(CheckpointError, match=f"floats: {name}$"):
        torch_io.from_state_dict({**state, name: state[name].astype(np.int64)}, config)


def test_half_precision_is_widened():
    state, config = small("sam_small_test")
    halved = {name: x.astype(np.float16) for name, x in state.items()}
    params = torch_io.from_state_dict(halved, config)
    assert_same(
        torch_io.to_state_dict(params, config),
        {name: x.astype(np.float32) for name, x in halved.items()},
    )


# ------------------------------------------------------------------------------------ detecting


@pytest.mark.parametrize(
    ("listing", "name"),
    [
        ("efficientsam_ti", "efficientsam_ti"),
        ("efficientsam_s", "efficientsam_s"),
        ("sam_vit_b", "sam_b"),
        ("sam_vit_h", "sam_h"),
    ],
)
def test_released_models_are_recognised(listing, name):
    shapes = weights.listing(listing)
    state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    assert torch_io.detect(state) == variants.sam(name)


@pytest.mark.parametrize("name", nano.NAMES)
def test_our_own_models_are_recognised_with_their_extensions(name):
    config = variants.sam(name)
    extended = dataclasses.replace(
        config,
        decoder=dataclasses.replace(config.decoder, background="learned", mask_prompts="learned"),
    )
    for each in (config, extended):
        assert torch_io.detect(torch_io.to_state_dict(nano.params(each), each)) == each


def test_what_is_not_recognised_says_why():
    with pytest.raises(CheckpointError, match="no state dict of EfficientSAM or of SAM"):
        torch_io.detect({"conv1.weight": np.zeros((4, 3, 7, 7), np.float32)})
    odd = tiny.config("efficientsam")
    with pytest.raises(CheckpointError, match=r"width 12 is not known.*name the model"):
        torch_io.detect(torch_io.to_state_dict(nano.params(odd), odd))
    state = dict(small("sam_small_test")[0])
    del state["image_encoder.neck.0.weight"]
    with pytest.raises(CheckpointError, match=r"lacks image_encoder\.neck\.0\.weight"):
        torch_io.detect(state)
    state = {**small("sam_small_test")[0], "image_encoder.blocks.9999.norm1.bias": np.zeros(48)}
    with pytest.raises(
        CheckpointError, match=r"no image_encoder\.blocks\.0, or not all up to 9999"
    ):
        torch_io.detect(state)


# ---------------------------------------------------------------------------------------- files


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def assert_reads(path):
    state, config = small("sam_small_test")
    found, params = torch_io.read(path)
    assert found == config
    assert_same(torch_io.to_state_dict(params, config), state)


def test_safetensors_are_read(tmp_path):
    path = tmp_path / "sam.safetensors"
    safetensors.numpy.save_file(dict(small("sam_small_test")[0]), path)
    assert_reads(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="no whole safetensors file"):
        torch_io.read(path)


def test_pickles_are_read_bare_or_wrapped(tmp_path, torch):
    state = {name: torch.from_numpy(x) for name, x in small("sam_small_test")[0].items()}
    for name, content in (("bare.pth", state), ("wrapped.pt", {"model": state, "epoch": 3})):
        torch.save(content, tmp_path / name)
        assert_reads(tmp_path / name)


def test_pickles_in_bfloat16_are_widened(tmp_path, torch):
    state = {name: torch.from_numpy(x).bfloat16() for name, x in small("sam_small_test")[0].items()}
    torch.save(state, tmp_path / "sam.pt")
    config, params = torch_io.read(tmp_path / "sam.pt")
    assert_same(
        torch_io.to_state_dict(params, config), {n: x.float().numpy() for n, x in state.items()}
    )


class _Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (self.marker, "w")


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, torch):
    marker = tmp_path / "marker"
    torch.save({"model": _Payload(str(marker))}, tmp_path / "zip.pt")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(_Payload(str(marker))))
    for name in ("zip.pt", "plain.pth"):
        with pytest.raises(CheckpointError, match="is refused"):
            torch_io.read(tmp_path / name)
        assert not marker.exists()


def test_files_that_are_no_state_dict_are_refused(tmp_path, torch):
    path = tmp_path / "odd.pt"
    for content, message in (
        (torch.zeros(3), "holds a Tensor, but must hold a state dict"),
        ({"a": torch.zeros(3), "b": 1}, "holds what is no tensor: b"),
        ({"model": {"a": torch.zeros(3).to_sparse()}}, "holds what is no tensor: a"),
    ):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=message):
            torch_io.read(path)
    path.write_bytes(b"no pickle at all")
    with pytest.raises(CheckpointError, match="is refused"):
        torch_io.read(path)
    with pytest.raises(MissingError, match="no file at"):
        torch_io.read(tmp_path / "absent.pt")


def test_pickles_need_a_torch_that_reads_them_safely(tmp_path, torch, monkeypatch):
    path = tmp_path / "sam.pt"
    path.write_bytes(b"")
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    with pytest.raises(CheckpointError, match=r"PyTorch 2\.9\.1 .* upgrade it to 2\.10"):
        torch_io.read(path)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CheckpointError, match=r"takes PyTorch: pip install 'esam_jax\[convert\]'"):
        torch_io.read(path)
