"""Plain ViTs that tell classes apart, in timm's names, which DeiT's and MAE's code share.

What pools says which of the three a file is: `fc_norm` (the mean of the patches: MAE's fine-tuned
models_vit.py, timm's global_pool="avg"), `norm` (the class token) or, with `dist_token`, DeiT's
distilled models. The mean and deviation of pixels are in no tensor. A folder of timm's on the hub
states them; a lone file is taken for one of ImageNet's, as DeiT's and MAE's are.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from esam_jax.config import ClassifierConfig, ModelConfig, VitConfig
from esam_jax.convert.families import mae
from esam_jax.convert.families.family import Family, Reduced, State, count, size, unwritten
from esam_jax.convert.table import Link, Row, affine, links, norm
from esam_jax.errors import CheckpointError
from esam_jax.typing import Params

_POSITIONS = "pos_embed"
_CASES = {"mean": "mean", "class_token": "token", "distilled": "distilled"}  # golden ones
_NORM = {"mean": "fc_norm", "class_token": "norm", "distilled": "norm"}

# ClassifierConfig.pixels -> mean and standard deviation of values from 0 to 1.
_PIXELS: dict[Literal["imagenet", "symmetric"], tuple[list[float], list[float]]] = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "symmetric": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
}

_TRUNK = tuple(row for row in mae.ENCODER if not row.torch.startswith((_POSITIONS, "norm.")))
_TABLE = tuple(row for row in mae.ENCODER if row.torch == _POSITIONS)
_DISTILLATION = (
    Row("dist_token", "distillation/token", "1 1 d -> d"),
    *affine("head_dist", "distillation/head"),
)


@dataclasses.dataclass(frozen=True)
class _Slots(Link):
    """The one table of DeiT's distilled models <-> ours, and the place of its second token."""

    def forward(self, tensors: list[np.ndarray]) -> list[np.ndarray]:
        (table_1SD,) = tensors
        return [np.delete(table_1SD[0], 1, axis=0), table_1SD[0, 1]]

    def backward(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        table_SD, position_D = arrays
        return [np.insert(table_SD, 1, position_D, axis=0)[None]]


_SLOTS = _Slots((_POSITIONS,), ("encoder/positions", "distillation/position"), "", {})


def _rows(config: ClassifierConfig) -> Iterator[Row]:
    yield from _TRUNK
    yield from norm(_NORM[config.pool], "norm")
    yield from affine("head", "head")
    yield from _DISTILLATION if config.pool == "distilled" else _TABLE


def _links(config: ClassifierConfig) -> Iterator[Link]:
    vit = config.encoder
    sizes = {"n": 3, "a": vit.heads, "p": vit.patch_px, "q": vit.patch_px}
    yield from links(_rows(config), {"block": vit.depth}, sizes)
    if config.pool == "distilled":
        yield _SLOTS


def _detect(state: State) -> ClassifierConfig:
    width = size(state, "cls_token", -1)
    patch_px = size(state, "patch_embed.proj.weight", -1)
    pool = "mean" if "fc_norm.weight" in state else "class_token"
    tokens = ["cls_token"]
    if "dist_token" in state:
        pool, tokens = "distilled", ["cls_token", "dist_token"]
    slots = size(state, _POSITIONS, 1)
    side = math.isqrt(max(slots - len(tokens), 0))
    if side == 0 or slots != len(tokens) + side**2:
        raise CheckpointError(
            f"{_POSITIONS} has {slots} slots, but must have one for {' and '.join(tokens)} each, "
            "and a square of them for the patches"
        )
    encoder = VitConfig(
        width=width,
        heads=unwritten(width).encoder_heads,
        depth=count(state, "blocks."),
        patch_px=patch_px,
        image_px=side * patch_px,
        pretrain_px=side * patch_px,
    )
    return ClassifierConfig(encoder=encoder, classes=size(state, "head.weight", 0), pool=pool)


def _described(config: ClassifierConfig, beside: Any) -> ClassifierConfig:
    """With the pixels that timm's config.json states; CheckpointError for any that are unknown."""
    settings = beside.get("pretrained_cfg")
    found = tuple(_three(settings, name) for name in ("mean", "std"))
    for pixels, known in _PIXELS.items():
        if np.allclose(found, known, rtol=0, atol=1e-3):
            return dataclasses.replace(config, pixels=pixels)
    raise CheckpointError(
        f"config.json: pretrained_cfg has mean {found[0]} and std {found[1]}, but those of "
        f"{' or '.join(_PIXELS)} pixels are needed: {_PIXELS}"
    )


def _three(settings: Any, name: str) -> list[float]:
    value = settings.get(name) if isinstance(settings, dict) else None
    if not isinstance(value, list) or [type(x) for x in value] != 3 * [float]:
        raise CheckpointError(
            f"config.json: pretrained_cfg.{name} is {value!r:.80}, but must be three numbers"
        )
    return value


def _refuses(config: ModelConfig) -> str | None:
    return None if isinstance(config, ClassifierConfig) else "it has only classifiers"


def _reduce(config: ClassifierConfig, params: Params, unused: State) -> Reduced:
    """All parameters; a lone file of other pixels than ImageNet's would be read for one of them."""
    return params, () if config.pixels == "imagenet" else (f"pixels ({config.pixels})",)


FAMILY = Family(
    name="vit_classifier",
    about="a ViT classifier as timm names it",
    marks=("cls_token", "pos_embed", "patch_embed.proj.weight", "head.weight"),
    detect=_detect,
    described=_described,
    links=_links,
    refuses=_refuses,
    reduce=_reduce,
    wrap="model",
    golden=lambda config: f"vit_classifier_{_CASES[config.pool]}_a",
)
