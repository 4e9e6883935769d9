"""Named models: one table from a name to its config.

The `efficientsam_*` sizes are those of arXiv:2312.00863, the `sam_*` sizes those of
arXiv:2304.02643, `mobile_sam` that of arXiv:2306.14289, the `clip_*` sizes those of CLIP
(arXiv:2103.00020), the `deit_*` sizes those of arXiv:2012.12877, `regnety_16gf` that
of their teacher (arXiv:2003.13678), the `u2net*` sizes those of
arXiv:2005.09007. The `nano` models are this
project's own: 64-pixel models for demonstrations and tests that have to train in minutes on a
laptop.
"""

import dataclasses
import difflib
from collections.abc import Callable, Collection
from types import UnionType
from typing import Literal

from esam_jax.config import (
    ClassifierConfig,
    ClipConfig,
    DecoderConfig,
    MaeConfig,
    ModelConfig,
    RegNetConfig,
    SamConfig,
    SamVitConfig,
    TextConfig,
    TinyVitConfig,
    U2NetConfig,
    VitConfig,
)
from esam_jax.errors import ConfigError


def sam(name: str) -> SamConfig:
    """The config of a promptable model; ConfigError, with a suggestion, where none has the name."""
    config = _BUILDERS[name]() if name in _BUILDERS else None
    if isinstance(config, SamConfig):
        return config
    problem = f"{name!r} answers no prompts" if config else f"no model is called {name!r}"
    raise ConfigError(f"{problem}: {_suggestion(name, names(SamConfig))}")


def model(name: str) -> ModelConfig:
    """As `sam`, of every model that has a name, such as the pretrained encoder `mae_b`."""
    if name not in _BUILDERS:
        raise ConfigError(f"no model is called {name!r}: {_suggestion(name, names())}")
    return _BUILDERS[name]()


def names(kind: type | UnionType = ModelConfig) -> tuple[str, ...]:
    """Every name that `model` takes, of configs of one class alone if that is given."""
    return tuple(name for name, build in _BUILDERS.items() if isinstance(build(), kind))


def name_of(config: ModelConfig) -> str | None:
    """The name of a config, or None."""
    return next((name for name, build in _BUILDERS.items() if build() == config), None)


def _suggestion(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"


def _efficientsam(width: int, heads: int) -> Callable[[], SamConfig]:
    return lambda: SamConfig(
        encoder=VitConfig(width=width, heads=heads), decoder=DecoderConfig(wiring="efficientsam")
    )


def _extended(build: Callable[[], SamConfig]) -> Callable[[], SamConfig]:
    """With background points and mask prompts, which change nothing before they are trained."""

    def extended() -> SamConfig:
        config = build()
        decoder = dataclasses.replace(config.decoder, background="learned", mask_prompts="learned")
        return dataclasses.replace(config, decoder=decoder)

    return extended


def _sam(
    width: int, heads: int, depth: int, global_blocks: tuple[int, ...]
) -> Callable[[], SamConfig]:
    return lambda: SamConfig(
        encoder=SamVitConfig(width=width, heads=heads, depth=depth, global_blocks=global_blocks),
        decoder=DecoderConfig(wiring="sam", background="learned", mask_prompts="learned"),
    )


def _mobile_sam() -> SamConfig:
    return SamConfig(
        encoder=TinyVitConfig(),
        decoder=DecoderConfig(wiring="sam", background="learned", mask_prompts="learned"),
    )


def _efficientsam_nano() -> SamConfig:
    return SamConfig(
        encoder=VitConfig(
            width=64, heads=2, depth=3, patch_px=8, image_px=64, pretrain_px=64, neck_width=64
        ),
        decoder=DecoderConfig(
            wiring="efficientsam", width=64, heads=4, mlp_width=128, iou_width=64
        ),
    )


def _sam_nano() -> SamConfig:
    return SamConfig(
        encoder=SamVitConfig(
            width=96,
            heads=3,
            depth=4,
            global_blocks=(1, 3),
            window=4,
            patch_px=8,
            image_px=64,
            neck_width=64,
        ),
        decoder=DecoderConfig(
            wiring="sam",
            width=64,
            heads=4,
            mlp_width=128,
            iou_width=64,
            background="learned",
            mask_prompts="learned",
        ),
    )


def _mobile_sam_nano() -> SamConfig:
    """As many cells as `sam_nano` has, whose decoder it shares."""
    encoder = TinyVitConfig(
        widths=(24, 48, 96),
        depths=(1, 2, 2),
        all_heads=(2, 2, 4),
        windows=(7, 8, 8),
        image_px=64,
        neck_width=64,
    )
    return SamConfig(encoder=encoder, decoder=_sam_nano().decoder)


def _mae(
    width: int, heads: int, depth: int, patch_px: int = 16, image_px: int = 224
) -> Callable[[], MaeConfig]:
    return lambda: MaeConfig(
        encoder=VitConfig(
            width=width,
            heads=heads,
            depth=depth,
            patch_px=patch_px,
            image_px=image_px,
            pretrain_px=image_px,
        )
    )


def _u2net() -> U2NetConfig:
    return U2NetConfig(
        widths=(64, 128, 256, 512, 512, 512),
        inner=(32, 32, 64, 128, 256, 256, 256, 128, 64, 32, 16),
    )


def _u2netp() -> U2NetConfig:
    return U2NetConfig(widths=(64,) * 6, inner=(16,) * 11)


def _deit(
    width: int, heads: int, pool: Literal["class_token", "distilled"] = "class_token"
) -> Callable[[], ClassifierConfig]:
    return lambda: ClassifierConfig(
        encoder=VitConfig(width=width, heads=heads, image_px=224), classes=1000, pool=pool
    )


def _regnety_16gf() -> RegNetConfig:
    return RegNetConfig(
        widths=(224, 448, 1232, 3024), depths=(2, 4, 11, 1), group_width=112, classes=1000
    )


def _clip(
    width: int,
    depth: int,
    patch_px: int,
    image_px: int = 224,
    *,
    text: tuple[int, int] = (512, 12),
    embed_width: int = 512,
) -> Callable[[], ClipConfig]:
    """`text` is width and depth of that encoder; every head is 64 wide."""
    text_width, text_depth = text
    return lambda: ClipConfig(
        encoder=VitConfig(
            width=width,
            heads=width // 64,
            depth=depth,
            patch_px=patch_px,
            image_px=image_px,
            pretrain_px=image_px,
        ),
        text=TextConfig(width=text_width, heads=text_width // 64, depth=text_depth),
        embed_width=embed_width,
    )


_BUILDERS: dict[str, Callable[[], ModelConfig]] = {
    "efficientsam_nano": _efficientsam_nano,
    "efficientsam_ti": _efficientsam(width=192, heads=3),
    "efficientsam_s": _efficientsam(width=384, heads=6),
    "efficientsam_b": _efficientsam(width=768, heads=12),
    "efficientsam_nano_extended": _extended(_efficientsam_nano),
    "efficientsam_ti_extended": _extended(_efficientsam(width=192, heads=3)),
    "efficientsam_s_extended": _extended(_efficientsam(width=384, heads=6)),
    "mobile_sam": _mobile_sam,
    "mobile_sam_nano": _mobile_sam_nano,
    "sam_nano": _sam_nano,
    "sam_b": _sam(width=768, heads=12, depth=12, global_blocks=(2, 5, 8, 11)),
    "sam_l": _sam(width=1024, heads=16, depth=24, global_blocks=(5, 11, 17, 23)),
    "sam_h": _sam(width=1280, heads=16, depth=32, global_blocks=(7, 15, 23, 31)),
    # The encoders of the efficientsam_* of the same size.
    "mae_nano": _mae(width=64, heads=2, depth=3, patch_px=8, image_px=64),
    "mae_ti": _mae(width=192, heads=3, depth=12),
    "mae_s": _mae(width=384, heads=6, depth=12),
    # The released files hold the encoder alone (arXiv:2111.06377).
    "mae_b": _mae(width=768, heads=12, depth=12),
    "mae_l": _mae(width=1024, heads=16, depth=24),
    "mae_h": _mae(width=1280, heads=16, depth=32, patch_px=14),
    "deit_ti": _deit(width=192, heads=3),
    "deit_s": _deit(width=384, heads=6),
    "deit_b": _deit(width=768, heads=12),
    "deit_ti_distilled": _deit(width=192, heads=3, pool="distilled"),
    "deit_s_distilled": _deit(width=384, heads=6, pool="distilled"),
    "deit_b_distilled": _deit(width=768, heads=12, pool="distilled"),
    "regnety_16gf": _regnety_16gf,
    "u2net": _u2net,
    "u2netp": _u2netp,
    "clip_nano": _clip(128, 2, 16, 64, text=(128, 2), embed_width=64),
    "clip_b_32": _clip(768, 12, 32),
    "clip_b_16": _clip(768, 12, 16),
    "clip_l_14": _clip(1024, 24, 14, text=(768, 12), embed_width=768),
    "clip_l_14_336": _clip(1024, 24, 14, 336, text=(768, 12), embed_width=768),
}
