"""The trunk of one of our image encoders, as the ViT backbone that timm knows.

In MAE's names, which are timm's. timm's ViT also has a class token and a last norm, which SAMI
trains and no promptable model uses. A SAMI run keeps them beside its model.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from esam_jax.config import MaeConfig, ModelConfig, SamConfig, VitConfig
from esam_jax.convert.families import mae
from esam_jax.convert.families.family import Reduced, State
from esam_jax.errors import CheckpointError
from esam_jax.models import expected_shapes
from esam_jax.typing import Params

CLASS_TOKEN, NORM_WEIGHT, NORM_BIAS = NAMES = ("cls_token", "norm.weight", "norm.bias")


def kept(sami: Params) -> dict[str, np.ndarray]:
    """What `backbone` needs beside the trunk of a `Sami` network, in timm's names and shapes."""
    return {
        CLASS_TOKEN: np.asarray(sami["class_token"])[None, None],
        NORM_WEIGHT: np.asarray(sami["norm"]["scale"]),
        NORM_BIAS: np.asarray(sami["norm"]["bias"]),
    }


def beside(unused: Mapping[str, np.ndarray]) -> Params:
    """{class_token, norm} of what `kept` gave; nothing where that is not complete."""
    if not {*NAMES} <= unused.keys():
        return {}
    norm = {"scale": unused[NORM_WEIGHT], "bias": unused[NORM_BIAS]}
    return {"class_token": np.asarray(unused[CLASS_TOKEN]).reshape(-1), "norm": norm}


def backbone(
    config: SamConfig, params: Params, unused: Mapping[str, np.ndarray]
) -> tuple[MaeConfig, Params]:
    """A promptable model's pretrained ViT: its trunk, with class token and last norm of `unused`.

    It takes pictures of `pretrain_px`, which its position table was made for. CheckpointError when
    the encoder is not a plain ViT, or when `unused` lacks what timm needs.
    """
    vit = _nearest(config)
    reason = _refuses(vit)
    if reason is not None:
        raise CheckpointError(f"this model cannot be written as {FAMILY.name}: {reason}")
    assert isinstance(vit, MaeConfig)
    absent = [name for name in NAMES if name not in unused]
    if absent:
        raise CheckpointError(
            f"this model cannot be written as {FAMILY.name}: it lacks {', '.join(absent)}, which "
            "only SAMI trains; give the model folder that a SAMI run wrote"
        )
    trunk = {name: part for name, part in params["encoder"].items() if name != "neck"}
    ours = {"encoder": trunk, **beside(unused)}
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(ours, sep="/")
    shapes = {path: np.shape(x) for path, x in flat.items()}
    expected_shapes.check(shapes, vit, "trunk, class token and last norm")
    return vit, ours


def pretrained(encoder: VitConfig) -> VitConfig:
    """The encoder as a `MaeConfig` has it: in the size it was pretrained in, the neck left open."""
    return dataclasses.replace(
        encoder, image_px=encoder.pretrain_px, neck_width=VitConfig.neck_width
    )


def _refuses(config: ModelConfig) -> str | None:
    if isinstance(config, SamConfig) and not isinstance(config.encoder, VitConfig):
        return (
            f"its image encoder is {config.encoder.kind!r}, but must be a plain ViT, as in the "
            "efficientsam_* models"
        )
    return mae.FAMILY.refuses(config)


def _nearest(config: ModelConfig) -> ModelConfig:
    if isinstance(config, SamConfig) and isinstance(config.encoder, VitConfig):
        return MaeConfig(encoder=pretrained(config.encoder))
    if isinstance(config, MaeConfig):
        return dataclasses.replace(config, decoder=None)
    return config


def _reduce(config: ModelConfig, params: Params, unused: State) -> Reduced:
    """All that the layout has room for is written: nothing counts as lost."""
    if isinstance(config, SamConfig):
        return backbone(config, params, unused)[1], ()
    if isinstance(config, MaeConfig):
        return {name: params[name] for name in ("encoder", "class_token", "norm")}, ()
    return params, ()


FAMILY = dataclasses.replace(
    mae.FAMILY,
    name="timm",
    about="a ViT backbone as timm names it",
    marks=(),  # what is read in these names is of the `mae` family
    refuses=_refuses,
    nearest=_nearest,
    reduce=_reduce,
    layout="timm",
)
