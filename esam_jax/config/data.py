"""What is read, and how it is shown to a task."""

import dataclasses
from typing import ClassVar, Literal, get_args

from esam_jax.config.rules import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """Procedural scenes with all their objects, drawn without any file."""

    annotations: ClassVar[frozenset[str]] = frozenset({"masks"})
    kind: Literal["scenes"] = "scenes"
    split: Literal["train", "heldout"] = "train"
    scenes: int = 20_000  # distinct scenes of one split
    scene_px: int = 64

    def __post_init__(self) -> None:
        require(self.scenes > 0, "scenes", self.scenes, "at least one is needed")
        require(self.scene_px >= 32, "scene_px", self.scene_px, "must be at least 32")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolderConfig:
    """Every picture below `path`, without masks: ImageNet's layout, or any other."""

    annotations: ClassVar[frozenset[str]] = frozenset()
    kind: Literal["image_folder"] = "image_folder"
    path: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CocoConfig:
    """A COCO instance json, or the image folder beside it."""

    annotations: ClassVar[frozenset[str]] = frozenset({"masks"})
    kind: Literal["coco"] = "coco"
    path: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sa1bConfig:
    """A folder of `sa_*.jpg` with `sa_*.json` beside each."""

    annotations: ClassVar[frozenset[str]] = frozenset({"masks"})
    kind: Literal["sa1b"] = "sa1b"
    path: str | None = None


# A path is taken for the first of these that reads it: the more particular come first.
SourceConfig = ScenesConfig | Sa1bConfig | CocoConfig | ImageFolderConfig


def require_annotations(source: SourceConfig, needs: frozenset[str], who: str) -> None:
    """ConfigError, naming the sources that would do, unless the source has what `who` needs."""
    fitting = [each.kind for each in get_args(SourceConfig) if needs <= each.annotations]
    remedy = f"read {', '.join(fitting)}" if fitting else "no source has them"
    require(
        needs <= source.annotations,
        "source.kind",
        source.kind,
        f"{who} {' and '.join(sorted(needs))}: {remedy}",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Views for SAMI: random resized crop and horizontal flip, nothing else (section 4.1)."""

    needs: ClassVar[frozenset[str]] = frozenset()  # annotations
    kind: Literal["crop"] = "crop"
    image_px: int = 224
    min_scale: float = 0.2  # share of the area; MAE's value
    flip: Literal["none", "horizontal"] = "horizontal"

    def __post_init__(self) -> None:
        require(0 < self.min_scale <= 1, "min_scale", self.min_scale, "must lie in (0, 1]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptedConfig:
    """Views for promptable training: the whole picture, some of its masks, a first prompt for each.

    First prompts follow SAM, section A: a foreground point or a noisy box with equal chance.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"masks"})  # annotations
    kind: Literal["prompted"] = "prompted"
    image_px: int = 1024
    fit: Literal["stretch", "pad"] = "stretch"
    masks: int = 64  # drawn per picture; fewer are padded with weight 0
    max_area: float = 0.9  # larger masks are left out, as share of the picture
    min_area_px: int = 16  # smaller masks are left out, in pixels of the model's input
    box_noise: float = 0.1  # standard deviation, as share of the side; at most box_noise_max_px
    box_noise_max_px: float = 20.0
    flip: Literal["none", "horizontal"] = "none"

    def __post_init__(self) -> None:
        require(self.masks > 0, "masks", self.masks, "at least one is needed")
        require(0 < self.max_area <= 1, "max_area", self.max_area, "must lie in (0, 1]")
        require(self.image_px % 8 == 0, "image_px", self.image_px, "must be a multiple of 8")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, how it is viewed, and how much may be broken."""

    source: SourceConfig
    view: CropConfig | PromptedConfig
    threads: int = 8
    prefetch_batches: int = 4
    max_broken_share: float = 0.1  # of the records read so far, once ten are broken

    def __post_init__(self) -> None:
        for field in ("threads", "prefetch_batches"):
            require(getattr(self, field) > 0, field, getattr(self, field), "must be positive")
        require(
            0 <= self.max_broken_share <= 1,
            "max_broken_share",
            self.max_broken_share,
            "must lie in [0, 1]",
        )
        require_annotations(self.source, self.view.needs, f"{self.view.kind} views need")
