"""The parameters a model must have, without tracing every block of it."""

import functools

import flax.traverse_util
import jax
import pytest

from esam_jax.config import MaeConfig, PretrainDecoderConfig
from esam_jax.errors import CheckpointError
from esam_jax.models import expected_shapes, kinds, named

WITH_DECODER = MaeConfig(
    encoder=named.sam("efficientsam_nano").encoder, decoder=PretrainDecoderConfig(width=32, depth=3)
)
MODELS = ["efficientsam_ti", "sam_b", "mobile_sam", "sam_nano", "mae_b", "with decoder", "u2netp"]


def config_of(name):
    return WITH_DECODER if name == "with decoder" else named.model(name)


@pytest.mark.parametrize("name", MODELS)
def test_expected_shapes_are_those_of_the_complete_network(name):
    config = config_of(name)
    init = kinds.of(config).network.init
    traced = jax.eval_shape(functools.partial(init, config), jax.random.key(0))
    flat = flax.traverse_util.flatten_dict(traced, sep="/")
    assert expected_shapes.of(config) == {path: x.shape for path, x in flat.items()}


@pytest.mark.parametrize("name", MODELS)
def test_the_thin_model_has_few_blocks_and_each_stands_for_some(name):
    config = config_of(name)
    thin, stands_for = kinds.of(config).network.thin(config)
    assert thin.depth <= min(config.depth, 13) and type(thin) is type(config)
    runs = stands_for.values()
    assert all(sorted(set(run)) == list(range(max(run) + 1)) for run in runs)
    if name not in ("mobile_sam", "u2netp"):  # which are traced as they are
        assert sum(len(run) for run in runs) == config.depth
        assert sum(max(run) + 1 for run in runs) == thin.depth


def test_what_does_not_fit_is_listed():
    config = named.sam("efficientsam_nano")
    found = dict(expected_shapes.of(config))
    expected_shapes.check(found, config, "these")
    found["encoder/block_03/mlp/out/bias"] = found.pop("encoder/block_02/mlp/out/bias")
    found["prompt/padding"] = (2, 64)
    with pytest.raises(CheckpointError) as error:
        expected_shapes.check(found, config, "these")
    assert str(error.value) == (
        "these do not fit the model config; missing: encoder/block_02/mlp/out/bias; "
        "unexpected: encoder/block_03/mlp/out/bias; "
        "of another shape: prompt/padding is (2, 64), not (1, 64)"
    )
