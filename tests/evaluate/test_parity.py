"""The comparisons behind --verify: they measure, and they notice what is wrong."""

import dataclasses
import importlib.util

import numpy as np
import pytest

from esam_jax.convert import state_dict
from esam_jax.convert.families import registry
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError
from esam_jax.evaluate import golden, originals, parity, parity_sam
from esam_jax.models import named


def small(listing):
    state = golden.state_dict(listing)
    family = registry.recognise(state)
    config = state_dict.detect(state, family)
    params, _ = state_dict.to_params(state, family, config)
    return ModelFile(config=config, params=params, source="a test")


@pytest.mark.parametrize("listing", ["efficientsam_small_test", "sam_small_test"])
def test_golden_case_of_a_kind(listing):
    report = parity.against_golden(small(listing).config)
    assert report.holds and listing in report.against and "this size" in report.against
    names = [stage.name for stage in report.stages]
    assert names == ["embedding", "low-res masks", "IoU", "mask pixels"]
    # Float32 of two libraries: no difference at all would mean that nothing was compared.
    assert all(stage.error > 1e-8 for stage in report.stages[:3])


@pytest.mark.slow
def test_golden_case_of_mae():
    report = parity.against_golden(named.model("mae_b"))
    assert report.holds and "another size of this kind" in report.against  # it has a decoder
    names = [stage.name for stage in report.stages]
    assert names == ["latent", "loss", "loss on normalised pixels"]
    assert report.stages[0].error > 1e-8


@pytest.mark.slow
def test_golden_case_of_u2net():
    report = parity.against_golden(named.model("u2net"))
    assert report.holds and "u2netp_a (another size of this kind" in report.against
    assert len(report.stages) == 7 and all(stage.error > 1e-8 for stage in report.stages)


@pytest.mark.parametrize("listing", ["mean", "token", "distilled"])
def test_golden_case_of_classifiers(listing):
    report = parity.against_golden(small(f"vit_classifier_{listing}").config)
    assert report.holds and "this size" in report.against
    names = [stage.name for stage in report.stages]
    heads = [f"logits of the {each} token" for each in ("class", "distillation")]
    assert names == ["logits", *(heads if listing == "distilled" else [])]
    assert all(stage.error > 1e-8 for stage in report.stages)


def test_golden_case_of_regnet():
    report = parity.against_golden(small("regnety_002").config)
    assert report.holds and [stage.name for stage in report.stages] == ["logits"]
    assert report.stages[0].error > 1e-8


def test_a_wrong_network_is_noticed(monkeypatch):
    """The weights of the case are changed by a thousandth behind its back."""
    whole = golden.state_dict

    def off(*args):
        return {name: x * np.float32(1.001) for name, x in whole(*args).items()}

    monkeypatch.setattr(golden, "state_dict", off)
    report = parity.against_golden(small("efficientsam_small_test").config)
    assert not report.holds and not report.stages[0].holds


def test_each_kind_has_its_case():
    cases = {
        "efficientsam_ti": "efficientsam_ti_a",
        "efficientsam_s": "efficientsam_s_a",
        "efficientsam_b": "efficientsam_small_test",
        "sam_b": "sam_vit_b_a",
        "sam_h": "sam_small_test",
        "mobile_sam": "mobile_sam_a",
        "mae_l": "mae_vit_b_a",
        "u2net": "u2netp_a",
        "deit_b": "vit_classifier_token_a",
        "deit_b_distilled": "vit_classifier_distilled_a",
        "regnety_16gf": "regnety_002_a",
    }
    for name, case in cases.items():
        assert parity.case_for(named.model(name)) == case
    odd = named.sam("sam_nano").decoder
    encoder = dataclasses.replace(named.sam("efficientsam_nano").encoder)
    with pytest.raises(CheckpointError, match="no PyTorch release"):
        parity.case_for(dataclasses.replace(named.sam("sam_nano"), encoder=encoder, decoder=odd))


def needs_transformers():
    if not parity_sam.has_transformers():
        pytest.skip("torch and transformers are not installed: make test WITH_TORCH=1")


def test_these_weights_in_transformers():
    needs_transformers()
    report = parity.measure(small("sam_small_test"))
    assert report.holds and report.compared == "weights" and "transformers" in report.against
    assert all(stage.error > 1e-8 for stage in report.stages[:3])


def in_transformers_names() -> tuple[ModelFile, dict[str, np.ndarray]]:
    file = small("sam_small_test")
    family = registry.get("sam_transformers")
    return file, state_dict.to_state_dict(file.params, family, file.config)


def test_the_very_file_goes_into_the_original():
    needs_transformers()
    file, state = in_transformers_names()
    report = parity.measure(file, [("sam_transformers", state)])
    assert report.holds and report.compared == "file" and "tensors of the file" in report.against


@pytest.mark.parametrize(
    ("name", "stage"),
    [("vision_encoder.pos_embed", "embedding"), ("mask_decoder.iou_token.weight", "IoU")],
)
def test_a_tensor_of_the_file_that_ours_has_not_is_noticed(name, stage):
    """As if a row of the table named another tensor, which a way back by the table would hide."""
    needs_transformers()
    file, state = in_transformers_names()
    state = {**state, name: state[name] * np.float32(1.01)}
    report = parity.measure(file, [("sam_transformers", state)])
    assert not report.holds and not {s.name: s for s in report.stages}[stage].holds


def test_tensors_that_the_original_does_not_know_are_an_error():
    needs_transformers()
    file, state = in_transformers_names()
    with pytest.raises(CheckpointError, match=r"transformers refuses .* not know \['odd'\]"):
        parity.measure(file, [("sam_transformers", {**state, "odd": np.zeros(1, np.float32)})])
    del state["mask_decoder.iou_token.weight"]
    with pytest.raises(CheckpointError, match=r"transformers refuses .* lacks"):
        parity.measure(file, [("sam_transformers", state)])


@pytest.mark.parametrize(
    ("listing", "package"),
    [
        ("sam_small_test", "segment_anything"),
        ("mobile_sam_vit_t", "mobile_sam"),
        ("efficientsam_ti", "efficient_sam"),
    ],
)
def test_a_file_in_the_code_of_its_authors(listing, package):
    """None of these is needed for anything else; the figures are in docs/checkpoints.md."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:  # a folder of that name is not the package
        pytest.skip(f"{package} is not installed")
    file, state = small(listing), golden.state_dict(listing)
    report = parity.measure(file, [(registry.recognise(state).name, state)])
    assert report.holds and report.compared == "file" and package in report.against


def test_what_was_not_compared_is_said(monkeypatch):
    monkeypatch.setattr(originals, "of", lambda *arguments: None)
    file = small("sam_small_test")
    report = parity.measure(file, [("sam", golden.state_dict("sam_small_test"))])
    assert report.holds and report.compared == "code"
    assert report.absent == ("segment_anything", "transformers")
