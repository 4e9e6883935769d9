"""The named sizes are the published ones."""

import math

import pytest

from esam_jax.config import ClipConfig, MaeConfig, SamConfig, TellsClasses, U2NetConfig
from esam_jax.errors import ConfigError
from esam_jax.models import expected_shapes, named

# Parameters without the Fourier matrix, a buffer of 2 x 128 in the originals.
PUBLISHED = {
    "efficientsam_ti": 10_223_204,
    "efficientsam_s": 26_413_028,
    "sam_b": 93_735_472,
    "sam_l": 312_342_832,
    "sam_h": 641_090_608,
    "mobile_sam": 10_130_092,
    "u2net": 44_009_869,
    "u2netp": 1_131_181,
}
# MobileSAM's number counts the classifier of its pretraining, which no mask depends on and which
# is none of our parameters: a norm of 320 and a linear map to 1000. The statistics of its norms are
# parameters of ours and buffers there.
CLASSIFIER = {"mobile_sam": 2 * 320 + 320 * 1000 + 1000}
STATISTICS = ("/mean", "/variance")


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_parameter_counts_are_the_published_ones(name, count):
    shapes = dict(expected_shapes.of(named.model(name)))
    shapes.pop("prompt/fourier", None)
    sizes = [math.prod(x) for path, x in shapes.items() if not path.endswith(STATISTICS)]
    assert sum(sizes) + CLASSIFIER.get(name, 0) == count


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("clip_b_32", 151_277_313),
        ("clip_b_16", 149_620_737),
        ("clip_l_14", 427_616_513),
        ("clip_l_14_336", 427_944_193),
    ],
)
def test_sizes_of_clip_are_those_of_openai(name, count):
    shapes = expected_shapes.of(named.model(name))
    assert sum(math.prod(shape) for shape in shapes.values()) == count


@pytest.mark.parametrize(
    ("name", "millions"),
    [("ti", (5.72, 5.91)), ("s", (22.05, 22.44)), ("b", (86.57, 87.34))],
)
def test_sizes_of_deit_are_those_that_timm_lists(name, millions):
    for model, known in zip((f"deit_{name}", f"deit_{name}_distilled"), millions, strict=True):
        shapes = expected_shapes.of(named.model(model))
        assert sum(math.prod(shape) for shape in shapes.values()) / 1e6 == pytest.approx(
            known, abs=0.005
        )


def test_the_size_of_deits_teacher_is_that_which_timm_lists():
    shapes = expected_shapes.of(named.model("regnety_16gf"))
    count = sum(math.prod(x) for path, x in shapes.items() if not path.endswith(STATISTICS))
    assert count / 1e6 == pytest.approx(83.59, abs=0.005)


@pytest.mark.parametrize("name", named.names(SamConfig))
def test_names_say_the_wiring(name):
    config, family = named.sam(name), name.split("_")[0]
    kind, wiring = {
        "efficientsam": ("vit", "efficientsam"),
        "sam": ("sam_vit", "sam"),
        "mobile": ("tiny_vit", "sam"),
    }[family]
    assert (config.encoder.kind, config.decoder.wiring) == (kind, wiring)
    assert (config.image_px == 64) == ("nano" in name)


def test_unknown_name_gets_a_suggestion():
    with pytest.raises(
        ConfigError, match=r"no model is called 'efficientsam_tiny'.*'efficientsam_ti'"
    ):
        named.sam("efficientsam_tiny")
    with pytest.raises(ConfigError, match="choose one of efficientsam_nano, "):
        named.sam("?")
    with pytest.raises(ConfigError, match=r"choose one of .*mae_h"):
        named.model("?")


def test_an_encoder_alone_is_no_promptable_model():
    with pytest.raises(ConfigError, match=r"'mae_b' answers no prompts: .*sam_b"):
        named.sam("mae_b")
    assert named.names(MaeConfig) == ("mae_nano", "mae_ti", "mae_s", "mae_b", "mae_l", "mae_h")
    assert named.names(U2NetConfig) == ("u2net", "u2netp")
    kinds = (SamConfig, MaeConfig, TellsClasses, ClipConfig, U2NetConfig)
    assert {*named.names()} == {name for kind in kinds for name in named.names(kind)}
