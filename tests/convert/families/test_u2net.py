"""U-2-Net's files there and back, with the counters that no map depends on."""

import numpy as np
import pytest

from esam_jax.convert import load, save, state_dict
from esam_jax.convert.families import registry
from esam_jax.errors import CheckpointError
from esam_jax.evaluate import golden
from esam_jax.models import named
from esam_jax.predict import load as load_promptable


@pytest.mark.parametrize("name", ["u2net", "u2netp"])
def test_sizes_are_recognised(name):
    shapes = golden.listing(name)
    hollow = {
        tensor: np.broadcast_to(np.dtype(golden.dtype(tensor)).type(0), shape)
        for tensor, shape in shapes.items()
    }
    assert registry.recognise(hollow).name == "u2net"
    assert state_dict.detect(hollow) == named.model(name)


def test_round_trip_through_files_is_exact(tmp_path):
    state = dict(golden.state_dict("u2netp"))
    for i, name in enumerate(x for x in state if x.endswith("num_batches_tracked")):
        state[name] = np.array(1000 + i)
    family, config = registry.get("u2net"), named.model("u2netp")
    params, unused = state_dict.to_params(state, family, config)
    file = load.ModelFile(config=config, params=params, source="test", unused=unused)
    save.write(file, tmp_path / "folder")
    save.write(load.model_file(tmp_path / "folder"), tmp_path / "u2netp.safetensors")
    again = load.model_file(tmp_path / "u2netp.safetensors")
    back = state_dict.to_state_dict(again.params, family, again.config, again.unused)
    assert again.licence == "unstated" and again.config == config  # as the folder has it
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(back[name], tensor, strict=True)


def test_a_saliency_network_answers_no_prompts(tmp_path):
    family, config = registry.get("u2net"), named.model("u2netp")
    params, _ = state_dict.to_params(golden.state_dict("u2netp"), family, config)
    file = load.ModelFile(config=config, params=params, source="test")
    save.write(file, tmp_path / "folder")
    with pytest.raises(CheckpointError, match=r"no prompts: load it with esam_jax\.load_saliency"):
        load_promptable(tmp_path / "folder")


def test_a_file_that_lacks_a_stage_is_refused():
    state = {k: v for k, v in golden.state_dict("u2netp").items() if not k.startswith("stage3d.")}
    with pytest.raises(CheckpointError, match=r"lacks stage3d\.rebnconv1\.conv_s1\.weight"):
        state_dict.detect(state)
