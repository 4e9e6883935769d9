"""Networks of a few thousand parameters for MAE and DMAE, every axis of another size.

Pictures of 32 pixels, 16 patches, of which 4 are visible; `mae_wide` is the larger one.
"""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from esam_jax import configs, tasks
from esam_jax.config import (
    MaeConfig,
    MaePretrainConfig,
    PretrainDecoderConfig,
    RunConfig,
    VitConfig,
)
from esam_jax.models import named
from esam_jax.typing import Batch, Params
from helpers import nano, tiny

NAME, WIDE, PX, TOKENS, VISIBLE, IMAGES = "mae_small", "mae_wide", 32, 16, 4, 3
DECODER = PretrainDecoderConfig(width=64, depth=1, heads=2)
_SIZE = {"patch_px": 8, "image_px": PX, "pretrain_px": PX}
SMALL = MaeConfig(encoder=VitConfig(width=12, heads=3, depth=4, **_SIZE))
LARGE = MaeConfig(encoder=VitConfig(width=20, heads=5, depth=5, **_SIZE))
COMPLETE = dataclasses.replace(SMALL, decoder=DECODER)


def add(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a config name the two networks."""
    monkeypatch.setitem(named._BUILDERS, NAME, lambda: SMALL)
    monkeypatch.setitem(named._BUILDERS, WIDE, lambda: LARGE)


def config(**changes: Any) -> RunConfig:
    """A run of the small one."""
    run = configs.load("quickstart_mae")
    task = MaePretrainConfig(**{"model": NAME, "decoder": DECODER, **changes})
    view = dataclasses.replace(run.data.view, image_px=PX)
    return dataclasses.replace(run, task=task, data=dataclasses.replace(run.data, view=view))


def params() -> Params:
    """Of the complete network, all drawn, position tables too."""
    return tiny.params(COMPLETE)


@functools.cache
def batch() -> Batch:
    """Pictures, and an uneven choice of what is visible of each."""
    order = np.argsort(np.random.default_rng(4).random((IMAGES, TOKENS)), axis=1)
    pictures = nano.picture(IMAGES * PX, PX).reshape(IMAGES, PX, PX, 3)
    seen, masked = order[:, :VISIBLE], order[:, VISIBLE:]
    return {
        name: jnp.asarray(x)
        for name, x in zip(("image", "seen", "masked"), (pictures, seen, masked))
    }


def loss(run: RunConfig, mine: Params, frozen: Params | None = None) -> Any:
    """Of `batch`."""
    task = tasks.build(run)
    return tiny.jit(task.loss)({NAME: mine}, frozen or {}, batch())
