"""The comparisons behind --verify: they measure, and they notice what is wrong."""

import dataclasses

import numpy as np
import pytest

from esam_jax.convert import state_dict
from esam_jax.convert.families import registry
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError
from esam_jax.evaluate import golden, parity, parity_sam
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


def test_golden_case_of_mae():
    report = parity.against_golden(named.model("mae_b"))
    assert report.holds and "another size of this kind" in report.against  # it has a decoder
    names = [stage.name for stage in report.stages]
    assert names == ["latent", "loss", "loss on normalised pixels"]
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
    }
    for name, case in cases.items():
        assert parity.case_for(named.model(name)) == case
    odd = named.sam("sam_nano").decoder
    encoder = dataclasses.replace(named.sam("efficientsam_nano").encoder)
    with pytest.raises(CheckpointError, match="no PyTorch release"):
        parity.case_for(dataclasses.replace(named.sam("sam_nano"), encoder=encoder, decoder=odd))


def test_these_weights_in_transformers():
    if not parity_sam.has_transformers():
        pytest.skip("torch and transformers are not installed: make test WITH_TORCH=1")
    report = parity.measure(small("sam_small_test"))
    assert report.holds and "SamModel" in report.against
    assert all(stage.error > 1e-8 for stage in report.stages[:3])
