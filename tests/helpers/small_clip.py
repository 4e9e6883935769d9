"""CLIP with golden weights in a network of two blocks each, and one of a few thousand numbers."""

import functools
from typing import Any

from esam_jax.config import ClipConfig, TextConfig, VitConfig
from esam_jax.convert import state_dict
from esam_jax.convert.families import registry
from esam_jax.evaluate import golden
from esam_jax.models.clip import towers
from esam_jax.predict.clip import Clip


def tiny(**sizes: int) -> ClipConfig:
    """Pictures of 12 pixels in 9 patches; every width and number of heads is another."""
    encoder = VitConfig(
        width=12, heads=3, depth=2, patch_px=4, image_px=12, pretrain_px=12, neck_width=256
    )
    text = TextConfig(width=8, heads=2, depth=3)
    return ClipConfig(encoder=encoder, text=text, **{"embed_width": 6, **sizes})


@functools.cache
def weights(listing: str = "clip_small_test") -> tuple[ClipConfig, Any]:
    """Config and parameters of a listing."""
    state = golden.state_dict(listing)
    family = registry.get("clip")
    config = state_dict.detect(state, family)
    assert isinstance(config, ClipConfig)
    return config, state_dict.to_params(state, family, config)[0]


@functools.cache
def clip() -> Clip:
    """The small one, which keeps what it compiles for all tests of a process."""
    config, params = weights()
    return Clip(towers.Clip(config), params)
