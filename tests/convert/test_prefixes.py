"""What wrappers and scripts write around a state dict is found, taken off and told."""

import json
import shutil
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from esam_jax.convert import load, prefixes, save
from esam_jax.convert.formats import tensor_files
from esam_jax.errors import CheckpointError
from esam_jax.evaluate import golden

PLAIN = dict(golden.state_dict("efficientsam_small_test"))
ZEROS = {name: np.zeros_like(x) for name, x in PLAIN.items()}


def under(prefix: str, state=PLAIN) -> dict[str, np.ndarray]:
    return {prefix + name: x for name, x in state.items()}


def put(path: Path, state) -> Path:
    safetensors.numpy.save_file(state, path)
    return path


def told(source, **options) -> tuple[load.ModelFile, str]:
    """The model, and all that was said about it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        file = load.model_file(source, **options)
    said = [str(each.message) for each in caught]
    assert said == [f"{load.locate(source).path}: {note}" for note in file.notes]
    return file, "; ".join(file.notes)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory):
    file, said = told(put(tmp_path_factory.mktemp("plain") / "a.safetensors", PLAIN))
    assert said == ""
    return file.params


def assert_same(file: load.ModelFile, wanted) -> None:
    jax.tree.map(np.testing.assert_array_equal, file.params, wanted)


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "module.model.", "model._orig_mod.", "sam."]
)
def test_the_prefix_of_a_wrapper_is_removed(tmp_path, wanted, prefix):
    file, said = told(put(tmp_path / "a.safetensors", under(prefix)))
    assert_same(file, wanted)
    assert said == f"the prefix {prefix!r} was removed from the names of the tensors"


@pytest.mark.parametrize("prefix", ["teacher.", "module", "a.module."])
def test_another_prefix_is_not_guessed(tmp_path, prefix):
    with pytest.raises(CheckpointError, match="is not of a known model"):
        load.model_file(put(tmp_path / "a.safetensors", under(prefix)))


def test_what_lies_outside_the_wrapped_network_is_named(tmp_path, wanted):
    more = {"criterion.weight": np.ones(3, np.float32), "n_averaged": np.array(4)}
    file, said = told(put(tmp_path / "a.safetensors", {**under("module."), **more}))
    assert_same(file, wanted)
    assert "left out, for they do not begin with 'module.': 'criterion.weight', 'n_aver" in said


def test_beside_a_plain_network_nothing_is_left_out(tmp_path):
    state = {**PLAIN, "criterion.weight": np.ones(3, np.float32)}
    with pytest.raises(CheckpointError, match=r"unexpected: criterion\.weight"):
        load.model_file(put(tmp_path / "a.safetensors", state))


@pytest.mark.parametrize("raw", ["model.", ""])
@pytest.mark.parametrize("averaged", ["ema_model.", "model_ema.module.", "ema."])
def test_of_averaged_and_raw_names_one_set_is_taken(tmp_path, wanted, raw, averaged):
    path = put(tmp_path / "a.safetensors", {**under(raw, ZEROS), **under(averaged)})
    for choice in (None, "ema"):
        file, said = told(path, weights=choice)
        assert_same(file, wanted)
        assert said.startswith(f"the averaged (EMA) weights under '{averaged}' were taken, not")
        assert "--weights raw" in said
    file, said = told(path, weights="raw")
    assert not any(x.any() for x in jax.tree.leaves(file.params))
    assert said.startswith("the raw weights under") and "--weights ema" in said


@pytest.mark.parametrize(("weights", "held"), [("ema", "raw"), ("raw", "averaged (EMA)")])
def test_weights_that_are_not_there_are_not_replaced_by_others(tmp_path, weights, held):
    prefix = "ema." if weights == "raw" else "module."
    with pytest.raises(CheckpointError, match="weights alone: leave out --weights") as caught:
        load.model_file(put(tmp_path / "a.safetensors", under(prefix)), weights=weights)
    assert f"holds {held} weights alone" in str(caught.value)
    with pytest.raises(CheckpointError, match="one set of weights"):
        load.model_file("quickstart_teacher", weights="ema")


def test_float64_is_rounded_and_said(tmp_path, wanted):
    double = {name: x.astype(np.float64) for name, x in PLAIN.items()}
    file, said = told(put(tmp_path / "a.safetensors", double))
    assert_same(file, wanted)
    assert said.startswith("rounded from float64 to float32: 'image_encoder") and "more" in said
    double["mask_decoder.iou_token.weight"] *= 1e300
    with pytest.raises(
        CheckpointError, match=r"iou_token\.weight holds values that float32 cannot"
    ):
        load.model_file(put(tmp_path / "b.safetensors", double))


# --------------------------------------------------------------------------------- PyTorch files


@pytest.mark.parametrize("name", ["last.ckpt", "LAST.PTH", "model.bin", "model.pt"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_checkpoints_of_scripts_are_read(tmp_path, wanted, name, protocol):
    """Lightning's, and what people write by hand, in any pickle protocol."""
    torch = pytest.importorskip("torch")
    tensors = {f"model.{k}": torch.from_numpy(x.copy()) for k, x in PLAIN.items()}
    content = {"state_dict": tensors, "epoch": 4, "hyper_parameters": {"out": Path("runs")}}
    torch.save(content, tmp_path / name, pickle_protocol=protocol)
    file, said = told(tmp_path / name)
    assert_same(file, wanted)
    assert "the prefix 'model.' was removed" in said
    assert "left out, beside the weights: epoch, hyper_parameters" in said


def test_averaged_weights_under_a_key_are_a_choice(tmp_path, wanted):
    torch = pytest.importorskip("torch")
    whole = {name: torch.from_numpy(x.copy()) for name, x in PLAIN.items()}
    zeros = {name: torch.zeros_like(x) for name, x in whole.items()}
    torch.save({"model": zeros, "model_ema": whole}, tmp_path / "ema.pth")
    file, said = told(tmp_path / "ema.pth")
    assert_same(file, wanted)
    assert (
        "the averaged (EMA) weights under 'model_ema' were taken, not those under 'model'" in said
    )
    file, said = told(tmp_path / "ema.pth", weights="raw")
    assert not any(x.any() for x in jax.tree.leaves(file.params)) and "the raw weights" in said


@pytest.fixture
def library_folder(tmp_path):
    """A folder of transformers, in safetensors."""
    save.write(load.model_file("quickstart_teacher"), tmp_path / "hf", layout="transformers")
    return tmp_path / "hf"


@pytest.mark.parametrize("sharded", [False, True])
def test_a_folder_of_transformers_may_hold_pytorch_files(library_folder, sharded):
    torch = pytest.importorskip("torch")
    wanted = load.model_file(library_folder)
    weights = library_folder / "model.safetensors"
    tensors = {
        name: torch.from_numpy(np.array(x))
        for name, x in tensor_files.read(weights).tensors.items()
    }
    weights.unlink()
    if sharded:
        names = sorted(tensors)
        index = {}
        for i, part in enumerate((names[:9], names[9:])):
            torch.save({n: tensors[n] for n in part}, library_folder / f"pytorch_model-{i}.bin")
            index |= dict.fromkeys(part, f"pytorch_model-{i}.bin")
        file = library_folder / "pytorch_model.bin.index.json"
        file.write_text(json.dumps({"weight_map": index}))
    else:
        torch.save(tensors, library_folder / "pytorch_model.bin")
        # The file alone has the config beside it, too.
        assert load.locate(library_folder / "pytorch_model.bin").kind == "transformers"
    found = load.model_file(library_folder)
    assert found.config == wanted.config
    assert_same(found, wanted.params)


def test_the_file_is_taken_that_is_named(library_folder, tmp_path):
    """A config beside a file is of that file only where the folder would be read from it."""
    torch = pytest.importorskip("torch")
    other = {name: torch.from_numpy(x.copy()) for name, x in PLAIN.items()}
    torch.save(other, library_folder / "pytorch_model.bin")
    assert load.model_file(library_folder / "pytorch_model.bin").config.decoder.wiring != "sam"
    assert load.model_file(library_folder).config.decoder.wiring == "sam"
    shutil.rmtree(library_folder)


def test_every_family_with_marks_is_found_behind_a_wrapper():
    for listing in ("sam_small_test", "efficientsam_small_test", "mobile_sam_vit_t"):
        state = under("module.", golden.listing(listing))
        kept, prefix, notes = prefixes.without(state, None)
        assert prefix == "module." and kept.keys() == golden.listing(listing).keys() and notes
