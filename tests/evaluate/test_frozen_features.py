"""Features of every kind of model against its own network, and which pictures have some."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import made_sets, nano

from esam_jax.config import ClassifierConfig, ClipConfig, ImageFolderConfig, MaeConfig, SamConfig
from esam_jax.convert.families import timm_vit
from esam_jax.convert.model_folder import ModelFile
from esam_jax.data import sources
from esam_jax.data.views import classified
from esam_jax.errors import CheckpointError, DataError
from esam_jax.evaluate import frozen_features
from esam_jax.models import named
from esam_jax.models.pretrain.mae import Mae
from esam_jax.models.sam.network import Sam
from esam_jax.ops import images

ENCODER = dataclasses.replace(
    timm_vit.pretrained(named.sam("efficientsam_nano").encoder),
    depth=1,
    pretrain_px=32,
    image_px=32,
)
PICTURES = nano.picture(2 * 32, 32).reshape(2, 32, 32, 3)


def file(config, unused=None):
    return ModelFile(
        config=config, params=nano.params(config), source="a test", unused=unused or {}
    )


def tokens():
    """Those of a pretrained encoder behind its last norm: class token first."""
    config = MaeConfig(encoder=ENCODER)
    pixels = images.normalise(jnp.asarray(PICTURES))
    params = jax.device_put(nano.params(config))
    return np.asarray(Mae(config).apply({"params": params}, pixels, method="encode"))


def features(model, feature="mean"):
    made = frozen_features.extractor(model, feature)
    return np.asarray(jax.jit(made.compute)(made.params, PICTURES)), made


@pytest.mark.parametrize("feature", ["mean", "class_token"])
def test_of_a_pretrained_encoder_the_tokens_follow_on_the_norm(feature):
    found, made = features(file(MaeConfig(encoder=ENCODER)), feature)
    wanted = tokens()[:, 1:].mean(1) if feature == "mean" else tokens()[:, 0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert made.px == 32 and made.words.endswith("behind the last norm")


def test_of_a_classifier_the_norm_is_the_one_of_what_it_pools():
    """The parameters have the names of the pretrained encoder's, and so the values."""
    by_token = ClassifierConfig(encoder=ENCODER, classes=3, pool="class_token")
    for feature in ("mean", "class_token"):
        found, _ = features(file(by_token), feature)
        wanted, _ = features(file(MaeConfig(encoder=ENCODER)), feature)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    by_mean = dataclasses.replace(by_token, pool="mean")
    found, made = features(file(by_mean), "class_token")
    assert made.words.endswith("without a last norm") and "norm" not in made.params
    raw = nano.params(by_mean)
    centred = found - found.mean(1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(
        normed * raw["norm"]["scale"] + raw["norm"]["bias"], tokens()[:, 0], atol=1e-4
    )
    mean, _ = features(file(by_mean))
    assert np.abs(mean - tokens()[:, 1:].mean(1)).max() > 0.1  # the norm of the mean


def sam() -> SamConfig:
    encoder = dataclasses.replace(ENCODER, neck_width=64)
    return dataclasses.replace(named.sam("efficientsam_nano"), encoder=encoder)


def test_of_a_sami_run_the_class_token_lies_beside_the_model():
    mae = nano.params(MaeConfig(encoder=ENCODER))
    beside = timm_vit.kept({"class_token": mae["class_token"], "norm": mae["norm"]})
    for feature in ("mean", "class_token"):
        found, _ = features(file(sam(), beside), feature)
        wanted, _ = features(file(MaeConfig(encoder=ENCODER)), feature)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_of_a_promptable_model_the_patches_are_alone():
    found, made = features(file(sam()))
    assert found.shape == (2, ENCODER.width) and made.words.endswith("without a last norm")
    with pytest.raises(CheckpointError, match="a test has no class token: write --feature mean"):
        features(file(sam()), "class_token")


def test_of_another_encoder_it_is_the_mean_of_the_map():
    config = named.sam("sam_nano")
    made = frozen_features.extractor(file(config), "mean")
    pictures = jnp.asarray(nano.picture(2 * 64, 64).reshape(2, 64, 64, 3))

    @jax.jit
    def encoded(params, pixels):
        return Sam(config).apply({"params": params}, images.normalise(pixels), method="encode")

    map_BhwC = encoded(nano.params(config), pictures)
    found = jax.jit(made.compute)(made.params, pictures)
    np.testing.assert_allclose(found, np.asarray(map_BhwC).mean((1, 2)), atol=1e-5)
    assert made.px == 64
    with pytest.raises(CheckpointError, match="no class token"):
        frozen_features.extractor(file(config), "class_token")


def test_a_model_without_such_an_encoder_is_refused():
    with pytest.raises(CheckpointError, match="no encoder that a probe reads"):
        frozen_features.extractor(
            ModelFile(config=ClipConfig(encoder=ENCODER), params={}, source="a test"), "mean"
        )


def test_every_picture_has_its_own_features_in_its_place(tmp_path, monkeypatch):
    """Over eight devices, more than one batch; what is broken is left out and named."""
    monkeypatch.setattr(frozen_features, "_PIXELS", 24**2)
    folder = made_sets.image_folder(tmp_path, 13)
    (folder / "a" / "broken.png").write_bytes(b"nothing")
    source = sources.open_source(ImageFolderConfig(path=str(folder)))

    def number(label, record):
        if record.endswith("5.png"):
            raise DataError(f"{record} is not wanted")
        return 10 + label.index

    made = frozen_features.Extractor(
        lambda params, x: x.astype("float32").mean((1, 2)) * params["by"], {"by": 2.0}, 24, "means"
    )
    found = frozen_features.of(made, source, range(14), number, what="test", progress=False)
    used = [i for i in range(14) if not source.name(i).endswith(("broken.png", "5.png"))]
    wanted = [classified.centred(source.read(i), 24).astype(float).mean((0, 1)) for i in used]
    np.testing.assert_allclose(found.values, 2 * np.array(wanted), rtol=1e-5)
    assert found.labels.tolist() == [10 + source.read(i).annotation("label").index for i in used]
    words = [("broken.png", "broken.png"), ("5.png is not wanted", "5.png")]
    assert len(found.broken) == 2
    for (text, _), said in itertools.product(words, [" ".join(found.broken)]):
        assert text in said
