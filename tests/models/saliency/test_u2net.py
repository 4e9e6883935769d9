"""U-2-Net: as torch computes it, on any size, with what is not halved evenly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_u2net, tiny

from esam_jax.config import U2NetConfig
from esam_jax.convert import state_dict
from esam_jax.convert.families.u2net import FAMILY
from esam_jax.errors import ConfigError
from esam_jax.models import named
from esam_jax.models.saliency import u2net

SMALL = small_u2net.CONFIG
_LIMIT = 1e-4  # of the spread of a map: rounding of float32 alone remains


def compare(config: U2NetConfig, height: int, width: int) -> None:
    torch = pytest.importorskip("torch", reason="compares with torch: make test WITH_TORCH=1")
    from helpers import torch_u2net

    network = torch_u2net.drawn(config)
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    assert state_dict.detect(state, FAMILY) == config
    params, _ = state_dict.to_params(state, FAMILY, config)
    pixels = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    with torch.no_grad():
        given = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        wanted = network(given).numpy()
    logits = tiny.jit(u2net.U2Net(config).apply)({"params": params}, pixels)
    got = np.moveaxis(np.asarray(jax.nn.sigmoid(logits)), -1, 0)
    assert got.shape == wanted.shape == (u2net.MAPS, 2, height, width)
    for ours, theirs in zip(got, wanted, strict=True):
        assert theirs.std() > 1e-3  # else anything would agree
        assert np.abs(ours - theirs).max() <= _LIMIT * theirs.std()


def test_odd_sizes_as_torch_has_them():
    compare(SMALL, 37, 53)


@pytest.mark.slow
def test_small_release_as_torch_has_it():
    compare(named.model("u2netp"), 64, 33)


def test_pooling_keeps_a_last_row_without_partner():
    x = -jnp.arange(1.0, 16.0).reshape(1, 3, 5, 1)
    found = u2net.halved(x)[0, ..., 0]
    np.testing.assert_array_equal(found, [[-1, -3, -5], [-11, -13, -15]])


def test_a_size_must_have_its_stages():
    with pytest.raises(ConfigError, match=r"inner is .*, but must have 11 values"):
        U2NetConfig(widths=(4,) * 6, inner=(2,) * 10)
    with pytest.raises(ConfigError, match=r"widths is .*, but must have 6 values"):
        U2NetConfig(widths=(), inner=(2,) * 11)


def test_widths_of_the_decoder_are_those_of_the_stages_above():
    assert SMALL.up_widths == (7, 6, 5, 4, 4)
    assert named.model("u2net").up_widths == (512, 256, 128, 64, 64)
    assert named.model("u2net").image_px == 320  # upstream's RescaleT(320)
