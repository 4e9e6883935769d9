"""`esam.load_clip` and what it gives: features by name, in few programs, and its errors."""

from unittest import mock

import jax
import numpy as np
import pytest
from helpers import nano, small_clip
from PIL import Image

import esam_jax
from esam_jax.convert import load, model_folder, save
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError, ConfigError, DataError, MissingError, PromptError
from esam_jax.evaluate import golden
from esam_jax.models import named
from esam_jax.models.clip import towers
from esam_jax.predict import clip as clip_module
from esam_jax.predict.clip import Clip

CASE = golden.load("clip_small_test_a")
PICTURES = [CASE.arrays["image_0"], CASE.arrays["image_1"]]
LIMIT = 5e-5  # text.md, section 4


def close(found, wanted):
    error = np.abs(found - wanted).max() / np.sqrt((wanted.astype(np.float64) ** 2).mean())
    assert error <= LIMIT, error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with the golden weights."""
    config, params = small_clip.weights()
    path = tmp_path_factory.mktemp("clip") / "folder"
    model_folder.write(path, config, params, source="a test", licence="MIT")
    return path


def test_features_are_the_recorded_ones():
    clip = small_clip.clip()
    pictures, texts = clip.encode_image(PICTURES), CASE.meta["strings"]
    assert (pictures.shape, pictures.dtype) == ((2, 64), np.float32)
    close(pictures, CASE.arrays["image_features"])
    features = clip.encode_text(texts, truncate=True)
    assert (features.shape, features.dtype) == ((len(texts), 64), np.float32)
    close(features, CASE.arrays["text_features"])


def test_the_scale_is_the_stored_logarithm():
    clip = small_clip.clip()
    assert isinstance(clip.logit_scale, float)
    assert np.exp(clip.logit_scale) == pytest.approx(CASE.arrays["logit_scale_exp"], rel=1e-6)
    pictures, texts = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (
            clip.encode_image(PICTURES),
            clip.encode_text(CASE.meta["strings"], truncate=True),
        )
    )
    close(np.exp(clip.logit_scale) * pictures @ texts.T, CASE.arrays["logits_per_image"])


def test_however_many_are_given_each_has_its_features():
    """Runs of 8 that are filled up, runs of 1, and texts that take more than 16 tokens."""
    clip = small_clip.clip()
    rng = np.random.default_rng(0)
    many = [rng.integers(0, 256, (20 + i, 30, 3), np.uint8) for i in range(11)]
    together = clip.encode_image(many)
    assert together.shape == (11, 64)
    for i in (0, 7, 10):
        close(clip.encode_image(many[i])[0], together[i])
    texts = ["a dog", "", "one two three four five six seven eight nine ten, and so on and on", "x"]
    rows = clip.encode_text(texts)
    for text, row in zip(texts, rows, strict=True):
        close(clip.encode_text(text)[0], row)
    close(clip.encode_text(texts * 3)[4:8], rows)


def test_a_text_with_the_token_that_fills_rows_up_is_read_to_its_end():
    """Token 0 is "!" within a word: 17 tokens, of which 16 are not 0."""
    clip, text = small_clip.clip(), "a " * 13 + "!="
    tokens = clip.tokenize(text)[0]
    assert (tokens != 0).sum() == 16 and tokens.argmax() == 16 and tokens[14] == 0
    together = clip.encode_text([text, "word " * 20])
    close(clip.encode_text(text)[0], together[0])


def test_few_programs_are_compiled():
    shapes = set()

    def program(model, params, given):
        shapes.add(given.shape)
        return np.zeros((len(given), 64), np.float32)

    clip, picture = small_clip.clip(), np.zeros((10, 12, 3), np.uint8)
    with (
        mock.patch.object(clip_module, "_image_features", program),
        mock.patch.object(clip_module, "_text_features", program),
    ):
        for count in (1, 2, 5, 9, 40, 130):
            assert len(clip.encode_image([picture] * count)) == count
            assert len(clip.encode_text(["a dog"] * count)) == count
            assert len(clip.encode_text(["a dog " * 20] * count)) == count
    counts = {1, 8, 64}
    assert shapes == {(n, 64, 64, 3) for n in counts} | {(n, k) for n in counts for k in (16, 77)}


def test_pictures_as_people_have_them():
    clip, picture = small_clip.clip(), PICTURES[0]
    wanted = clip.encode_image(picture)
    for given in (Image.fromarray(picture), jax.numpy.asarray(picture), picture[None]):
        np.testing.assert_array_equal(clip.encode_image(given), wanted)
    rgba = Image.fromarray(picture).convert("RGBA")
    np.testing.assert_array_equal(clip.encode_image([rgba]), wanted)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([], "pictures is empty"),
        ([PICTURES[0], np.zeros((3, 4, 3))], r"pictures\[1\] has float64"),
        (np.zeros((0, 3, 3), np.uint8), "at least one pixel"),
        ("a.jpg", "pictures is 'a.jpg', but must be pixels: read the file with Pillow$"),
    ],
)
def test_what_is_no_picture_is_named(pictures, message):
    with pytest.raises(DataError, match=message):
        small_clip.clip().encode_image(pictures)


def test_texts_that_are_refused():
    clip = small_clip.clip()
    with pytest.raises(PromptError, match="texts is empty"):
        clip.encode_text([])
    with pytest.raises(PromptError, match=r"texts\[1\] is 'word .* has 102 tokens"):
        clip.encode_text(["dog", "word " * 100])
    assert clip.encode_text("word " * 100, truncate=True).shape == (1, 64)
    assert Clip.tokenize("a dog").shape == (1, 77)  # needs no model


# ------------------------------------------------------------------------------------ loading


def test_every_kind_of_file_gives_the_same(folder, tmp_path):
    file = load.model_file(folder)
    save.write(file, tmp_path / "openai.safetensors")
    save.write(file, tmp_path / "theirs", layout="transformers")
    wanted = esam_jax.load_clip(folder).params
    for source in (tmp_path / "openai.safetensors", str(tmp_path / "theirs")):
        jax.tree.map(np.testing.assert_array_equal, esam_jax.load_clip(source).params, wanted)


def test_another_precision(folder):
    clip = esam_jax.load_clip(folder, dtype="bf16")
    assert clip.model.compute.dtype == "bfloat16" and "bfloat16" in repr(clip)
    assert clip.params["encoder"]["project"]["kernel"].dtype == np.float32
    features = clip.encode_image(PICTURES[0])
    assert features.dtype == np.float32
    error = np.abs(features - CASE.arrays["image_features"][:1]).max() / features.std()
    assert 1e-4 < error < 0.1
    with pytest.raises(ConfigError, match="float32"):
        esam_jax.load_clip(folder, dtype="int8")


def test_others_parameters_and_another_device():
    config, params = small_clip.weights()
    clip = Clip(towers.Clip(config), params)
    there = clip.on(jax.devices()[1])
    assert {*there.params["logit_scale"].devices()} == {jax.devices()[1]}
    assert {*clip.params["logit_scale"].devices()} == {jax.devices()[0]}
    clip.params = {**params, "logit_scale": np.float32(1.5)}
    assert (clip.logit_scale, there.logit_scale) == (1.5, pytest.approx(2.35494, abs=1e-4))
    assert "64 px, patches of 16, 7.24 M parameters, float32" in repr(clip)


def test_models_of_other_kinds_say_what_they_are(folder, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"holds CLIP, which .* prompts: load it with esam_jax.load_clip"
    ):
        esam_jax.load(folder)
    config = named.sam("efficientsam_nano")
    params = nano.params(config)
    model_folder.write(tmp_path / "sam", config, params, source="a test")
    with pytest.raises(
        CheckpointError, match=r"holds a promptable model, which answers no texts: .*esam_jax.load$"
    ):
        esam_jax.load_clip(tmp_path / "sam")
    save.write(ModelFile(config=config, params=params, source=""), tmp_path / "sam.safetensors")
    with pytest.raises(CheckpointError, match="a promptable model"):
        esam_jax.load_clip(tmp_path / "sam.safetensors")
    with pytest.raises(MissingError, match="no model at"):
        esam_jax.load_clip(tmp_path / "nothing.pt")


@pytest.mark.parametrize(
    ("asked", "file"),
    [("clip_b_16", "ViT-B-16.pt"), ("ViT-B/32", "ViT-B-32.pt"), ("ViT-L/14@336px", "14-336px.pt")],
)
def test_names_of_releases(asked, file, monkeypatch, tmp_path):
    """A preset, or the name that OpenAI's own code takes; the address says its checksum."""
    monkeypatch.setenv("ESAM_CACHE", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", mock.Mock(side_effect=OSError("no network")))
    with pytest.raises(MissingError, match=f"openaipublic.*{file} cannot be downloaded"):
        esam_jax.load_clip(asked)
