"""`esam_jax.load` from a folder, with its warning and its precision."""

from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nano

import esam_jax
from esam_jax.config import MaeConfig
from esam_jax.convert import model_folder
from esam_jax.errors import CheckpointError, ConfigError, PromptError
from esam_jax.models import named
from esam_jax.predict import programs
from esam_jax.predict.sam import Sam

NAME = "efficientsam_nano"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = named.sam(NAME)
    model_folder.write(tmp_path, config, nano.params(config), source="a test")
    return tmp_path


def test_a_loaded_model_answers_as_the_one_that_was_written(folder: Path):
    picture, prompts = nano.picture(20, 30), [esam_jax.Prompt(points=[[3, 4]])]
    loaded, made = esam_jax.load(folder), nano.sam("efficientsam_nano")
    ours = loaded.decode(loaded.encode(picture), prompts)
    np.testing.assert_array_equal(ours.low_res, made.decode(made.encode(picture), prompts).low_res)


def test_float32_programs_read_the_parameters_themselves(folder: Path):
    sam = esam_jax.load(folder)
    assert sam.ready is sam.params
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(sam.params))


def test_bfloat16_parameters_are_rounded_once_and_kept_whole_on_the_host(folder: Path):
    """Both on the device would take three times the room of what programs read."""
    sam, written = esam_jax.load(folder, dtype="bfloat16"), nano.params(named.sam(NAME))
    assert sam.model.compute.dtype == "bfloat16"
    jax.tree.map(np.testing.assert_array_equal, sam.params, written)
    leaves = jax.tree.leaves(sam.params)
    assert all(isinstance(leaf, np.ndarray) and leaf.dtype == np.float32 for leaf in leaves)
    assert not any(leaf.flags.writeable for leaf in leaves)  # programs would not see the change
    ready = flax.traverse_util.flatten_dict(sam.ready, sep="/")
    assert all(isinstance(leaf, jax.Array) for leaf in ready.values())
    assert ready["prompt/fourier"].dtype == jnp.float32
    assert ready["encoder/block_00/mlp/hidden/kernel"].dtype == jnp.bfloat16
    assert sum(leaf.nbytes for leaf in ready.values()) < 0.6 * sum(leaf.nbytes for leaf in leaves)


def test_bfloat16_answers_are_those_of_rounding_in_every_call(folder: Path):
    sam = esam_jax.load(folder, dtype="bfloat16")
    pixels = jnp.asarray(np.random.default_rng(0).normal(size=(1, 64, 64, 3)), jnp.float32)
    ready, each_call = (programs.encode(sam.model, p, pixels) for p in (sam.ready, sam.params))
    np.testing.assert_array_equal(ready, each_call)
    points, labels = jnp.ones((1, 1, 2, 2)), jnp.ones((1, 1, 2), jnp.int32)
    answers = [
        programs.decode(sam.model, params, ready, points, labels, None)
        for params in (sam.ready, sam.params)
    ]
    jax.tree.map(np.testing.assert_array_equal, *answers)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_parameters_may_be_assigned(folder: Path, dtype: str):
    sam, picture = esam_jax.load(folder, dtype=dtype), nano.picture(20, 30)
    before, encoder = sam.encode(picture), sam.encoder
    sam.params = jax.tree.map(lambda x: x / 2, sam.params)
    other = Sam(sam.model, jax.tree.map(lambda x: x / 2, nano.params(named.sam(NAME))))
    after = sam.encode(picture)
    np.testing.assert_array_equal(after.features, other.encode(picture).features)
    assert np.abs(np.float32(after.features) - np.float32(before.features)).max() > 1e-3
    assert sam.encoder == other.encoder != encoder


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
