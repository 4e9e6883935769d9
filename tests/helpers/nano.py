"""The nano models with random weights, for tests that need some model and not a good one."""

import contextlib
import functools
import zlib
from unittest import mock

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from esam_jax.config import ModelConfig, SamConfig, TinyVitConfig
from esam_jax.data.records import Source
from esam_jax.evaluate import runner
from esam_jax.evaluate.protocol import Protocol
from esam_jax.models import expected_shapes, named
from esam_jax.models.sam import network
from esam_jax.models.sam.network import Sam as Network
from esam_jax.predict.sam import Sam

NAMES = ("efficientsam_nano", "sam_nano")
# MobileSAM's encoder at that size, which no release has: a grid of 8 as the others.
MOBILE = SamConfig(
    encoder=TinyVitConfig(
        image_px=64,
        neck_width=64,
        widths=(8, 16, 24),
        depths=(1, 2, 1),
        all_heads=(1, 2, 3),
        windows=(4, 3, 8),
    ),
    decoder=named.sam("sam_nano").decoder,
)


def add_mobile(monkeypatch) -> None:
    """Lets a config name `MOBILE` as "mobile_nano"."""
    monkeypatch.setitem(named._BUILDERS, "mobile_nano", lambda: MOBILE)


def params(config: ModelConfig) -> dict:
    """Each parameter drawn by its own name; quicker than `init`, which compiles."""
    flat = {
        path: np.random.default_rng(zlib.crc32(path.encode()))
        .normal(0.0 if path.endswith("bias") else 0.1, 0.2, shape)
        .astype(np.float32)
        for path, shape in expected_shapes.of(config).items()
    }
    flat |= {path: abs(leaf) for path, leaf in flat.items() if path.endswith("variance")}
    return flax.traverse_util.unflatten_dict(flat, sep="/")


@functools.cache
def sam(name: str) -> Sam:
    config = named.sam(name)
    return Sam(Network(config), params(config))


@contextlib.contextmanager
def filled_with_zeros():
    """Where what trained models are filled up with is not looked at, it need not be compiled."""
    init = network.init

    def zeros(config: ModelConfig, rng: jax.Array) -> dict:
        return jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda: init(config, rng)))

    with mock.patch.object(network, "init", zeros):
        yield


def measured(sam: Sam, source: Source, protocol: Protocol) -> dict:
    """What `esam evaluate prompts` counts in one data set."""
    return runner.evaluate(sam, {"it": source}, protocol)["data"][0]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
