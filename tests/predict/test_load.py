"""`esam_jax.load` from a folder, with its warning and its precision."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nano

import esam_jax
from esam_jax.config import MaeConfig
from esam_jax.convert import model_folder
from esam_jax.errors import CheckpointError, ConfigError, PromptError
from esam_jax.models import named


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = named.sam("efficientsam_nano")
    model_folder.write(tmp_path, config, nano.params(config), source="a test")
    return tmp_path


def test_a_loaded_model_answers_as_the_one_that_was_written(folder: Path):
    picture, prompts = nano.picture(20, 30), [esam_jax.Prompt(points=[[3, 4]])]
    loaded, made = esam_jax.load(folder), nano.sam("efficientsam_nano")
    ours = loaded.decode(loaded.encode(picture), prompts)
    np.testing.assert_array_equal(ours.low_res, made.decode(made.encode(picture), prompts).low_res)


def test_bfloat16_computes_in_halves_and_keeps_whole_parameters(folder: Path):
    sam = esam_jax.load(folder, dtype="bfloat16")
    assert sam.model.compute.dtype == "bfloat16"
    assert sam.params["prompt"]["fourier"].dtype == np.float32


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, "float32"),
        ("fp32", "float32"),
        (np.float32, "float32"),
        (np.dtype("float32"), "float32"),
        ("bf16", "bfloat16"),
        (jnp.bfloat16, "bfloat16"),
    ],
)
def test_dtypes_have_the_names_that_people_give_them(folder: Path, given, wanted: str):
    assert esam_jax.load(folder, dtype=given).model.compute.dtype == wanted


@pytest.mark.parametrize("given", ["fp16", "half", "int8", np.float16, 16, ["float32"]])
def test_another_dtype_is_refused_before_anything_is_read(tmp_path: Path, given):
    with pytest.raises(ConfigError, match=r"dtype is .*float32 \(fp32\) or bfloat16 \(bf16\)"):
        esam_jax.load(tmp_path / "absent", dtype=given)


def test_a_dtype_of_torch_is_taken_too(folder: Path):
    torch = pytest.importorskip("torch")
    assert esam_jax.load(folder, dtype=torch.bfloat16).model.compute.dtype == "bfloat16"
    with pytest.raises(ConfigError, match="dtype is"):
        esam_jax.load(folder, dtype=torch.float16)


def test_untrained_parts_are_a_warning(tmp_path: Path):
    config = named.sam("efficientsam_nano")
    model_folder.write(
        tmp_path, config, nano.params(config), source="", untrained=("prompt", "decoder")
    )
    with pytest.warns(UserWarning, match=r"never trained \(prompt, decoder\)"):
        esam_jax.load(tmp_path)


def test_what_needs_an_untrained_part_is_refused_and_the_rest_answers(tmp_path: Path):
    config = named.sam("sam_nano")
    untrained = ("prompt/background", "prompt/mask", "decoder/single_mask")
    model_folder.write(tmp_path, config, nano.params(config), source="", untrained=untrained)
    sam = esam_jax.load(tmp_path)  # without a warning
    encoded, point = sam.encode(nano.picture(20, 30)), {"points": [[3, 4]]}
    assert sam.decode(encoded, [esam_jax.Prompt(**point)]).scores.shape == (1, 3)
    for prompt, multimask, message in (
        (esam_jax.Prompt(**point, labels=[0]), True, "never learned: leave that point out"),
        (esam_jax.Prompt(mask=np.ones((3, 4), bool)), True, "mask prompts: give its box"),
        (esam_jax.Prompt(**point), False, "single mask: leave it True"),
    ):
        with pytest.raises(PromptError, match=message):
            sam.decode(encoded, [prompt], multimask=multimask)


def test_a_pretrained_encoder_answers_no_prompts(tmp_path: Path):
    config = MaeConfig(encoder=named.sam("efficientsam_nano").encoder)
    model_folder.write(tmp_path, config, nano.params(config), source="")
    with pytest.raises(CheckpointError, match="holds a pretrained encoder, which answers no"):
        esam_jax.load(tmp_path)


def test_the_public_names_are_there():
    for name in esam_jax.__all__:
        assert getattr(esam_jax, name) is not None
    assert set(esam_jax.__all__) <= set(dir(esam_jax))
    with pytest.raises(AttributeError, match="no attribute 'predictor'"):
        _ = esam_jax.predictor
