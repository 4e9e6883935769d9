"""What was never trained, and the licence, are known again after any layout."""

import dataclasses
import functools
import json
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nano

import esam_jax
from esam_jax import cli
from esam_jax.convert import describe, load, model_folder, provenance, save
from esam_jax.convert.formats import tensor_files
from esam_jax.errors import CheckpointError, PromptError
from esam_jax.models import named
from esam_jax.predict.embedding import Embedding

PARTS = {
    "prompt/background": ({"points": [[1, 1]], "labels": [0]}, True, "background.*never learned"),
    "prompt/mask": ({"mask": np.ones((8, 8), bool)}, True, "mask prompts|mask.*never learned"),
    "decoder/single_mask": ({"box": [1, 1, 6, 6]}, False, "never learned the single mask"),
    "prompt": None,
    "encoder/neck": None,
}
LAYOUTS = {
    "efficientsam_nano": ("m.pt", "m.safetensors", "m"),
    "sam_nano": ("m.pth", "m.bin", "m.safetensors", "hf", "m"),
}


def file_of(name, untrained, licence="Apache-2.0"):
    config = named.sam(name)
    return model_folder.ModelFile(
        config=config,
        params=nano.params(config),
        source="a test",
        untrained=untrained,
        licence=licence,
    )


def there_and_back(file, target):
    layout = "transformers" if target.name == "hf" else None
    if target.suffix in (".pt", ".pth", ".bin"):
        pytest.importorskip("torch", reason="writing them takes PyTorch")
    save.write(file, target, layout=layout, overwrite=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load.model_file(target)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_carries_them(tmp_path, name):
    everything = provenance.present(PARTS, nano.params(named.sam(name)))
    assert set(everything) >= {"decoder/single_mask", "prompt", "encoder/neck"}
    for untrained in ((), *((part,) for part in everything), everything):
        file = file_of(name, untrained)
        for target in LAYOUTS[name]:
            back = there_and_back(file, tmp_path / target)
            assert back.untrained == untrained, target
            assert describe.checksum(back.params) == describe.checksum(file.params)
            assert describe.round_trip(file, back, "float32") == "bit-equal"


@pytest.mark.parametrize("name", LAYOUTS)
def test_prompts_are_refused_as_by_the_folder(tmp_path, name):
    file = file_of(name, tuple(part for part, asked in PARTS.items() if asked))
    for target in LAYOUTS[name]:
        there_and_back(file, tmp_path / target)
        sam = esam_jax.load(tmp_path / target)
        side = sam.config.encoder.grid
        features = jnp.zeros((1, side, side, sam.config.encoder.neck_width))
        for prompt, multimask, said in filter(None, PARTS.values()):
            with pytest.raises(PromptError, match=said):
                sam.decode(
                    Embedding(features, ((8, 8),), True),
                    esam_jax.Prompt(**prompt),
                    multimask=multimask,
                )


@pytest.mark.parametrize("licence", ["CC-BY-NC-4.0", "unstated", "Apache-2.0"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_licence_stays(tmp_path, name, licence):
    """Weights that began as MAE's, for example, do not become EfficientSAM's release."""
    for target in LAYOUTS[name]:
        back = there_and_back(file_of(name, ("prompt",), licence), tmp_path / target)
        assert (back.licence, back.untrained) == (licence, ("prompt",))


def test_inspect_says_it(tmp_path, capsys):
    there_and_back(file_of("sam_nano", ("prompt",), "MIT"), tmp_path / "m.safetensors")
    assert cli.main(["inspect", str(tmp_path / "m.safetensors"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["untrained"], found["licence"]) == (["prompt"], "MIT")


def test_what_a_layout_leaves_out_is_not_named(tmp_path):
    """EfficientSAM's has no background points; zeros, it drops them without loss."""
    config = named.sam("efficientsam_nano")
    more = {"background": "learned", "mask_prompts": "learned"}
    config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, **more))
    params = nano.params(config)
    params["prompt"] |= {name: params["prompt"][name] * 0 for name in ("background", "no_mask")}
    params["prompt"]["mask"]["conv_3"] = {
        name: x * 0 for name, x in params["prompt"]["mask"]["conv_3"].items()
    }
    file = model_folder.ModelFile(
        config=config,
        params=params,
        source="",
        untrained=("prompt/background", "prompt/mask", "decoder/single_mask"),
        unused={
            "cls_token": np.ones((1, 1, 64), np.float32),
            "norm.weight": np.ones(64, np.float32),
            "norm.bias": np.ones(64, np.float32),
        },
    )
    back = there_and_back(file, tmp_path / "m.safetensors")
    assert back.untrained == ("decoder/single_mask",)
    save.write(file, tmp_path / "vit.safetensors", layout="timm")
    assert load.model_file(tmp_path / "vit.safetensors").untrained == ()


def test_pytorch_loads_it_strictly(tmp_path):
    torch = pytest.importorskip("torch")
    for name, wrap in (("efficientsam_nano", "model"), ("sam_nano", None)):
        there_and_back(file_of(name, ("prompt", "decoder/single_mask")), tmp_path / "m.pt")
        held = torch.load(tmp_path / "m.pt", weights_only=True)
        state = held if wrap is None else held[wrap]
        assert held.keys() == state.keys() if wrap is None else held.keys() == {wrap}
        network = torch.nn.Module()
        for path, tensor in state.items():
            at = network
            *parents, last = path.split(".")
            for child in parents:
                if not hasattr(at, child):
                    at.add_module(child, torch.nn.Module())
                at = getattr(at, child)
            at.register_parameter(last, torch.nn.Parameter(torch.zeros_like(tensor)))
        assert str(network.load_state_dict(state, strict=True)) == "<All keys matched successfully>"
        # What is trained from there says nothing any more.
        torch.save({"model": network.state_dict()}, tmp_path / "trained.pt")
        assert load.model_file(tmp_path / "trained.pt").untrained == ()


def test_a_file_without_such_parts_is_written_as_ever(tmp_path):
    torch = pytest.importorskip("torch")
    there_and_back(file_of("sam_nano", ()), tmp_path / "m.pth")
    assert type(torch.load(tmp_path / "m.pth", weights_only=True)) is dict


@pytest.mark.parametrize(
    ("note", "said"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('"prompt"', "must be a list of text"),
        ('["prompt", 1]', "must be a list of text"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_malformed_note_is_refused(tmp_path, note, said, suffix):
    target = tmp_path / f"m{suffix}"
    there_and_back(file_of("sam_nano", ()), target)
    tensors = {name: np.array(x) for name, x in tensor_files.read(target).tensors.items()}
    write = {
        ".safetensors": functools.partial(tensor_files.write_safetensors, target, tensors),
        ".pt": functools.partial(tensor_files.write_torch, target, tensors),
    }[suffix]
    write(metadata={provenance.UNTRAINED: note})
    with pytest.raises(CheckpointError, match=f"{provenance.UNTRAINED} {said}") as caught:
        load.model_file(target)
    assert len(str(caught.value)) < 500
    write(metadata={provenance.UNTRAINED: json.dumps(["prompt", "of/another/model"])})
    assert load.model_file(target).untrained == ("prompt",)


@pytest.mark.parametrize("value", [None, 1, "text", [1], {"esam_jax": 1}, {"esam_jax": {1: 2}}])
def test_metadata_of_others_is_disregarded(tmp_path, value):
    torch = pytest.importorskip("torch")
    there_and_back(file_of("sam_nano", ()), tmp_path / "m.pt")
    held = torch.load(tmp_path / "m.pt", weights_only=True)
    state = torch.nn.ParameterDict().state_dict()  # an OrderedDict
    state.update(held)
    state._metadata = value
    torch.save(state, tmp_path / "other.pt")
    assert load.model_file(tmp_path / "other.pt").untrained == ()
