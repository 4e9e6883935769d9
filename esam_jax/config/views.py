"""How what is read is shown to a task."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from esam_jax.config.rules import (
    MAY_DIFFER,
    Config,
    above,
    at_least,
    at_most,
    distinct,
    local_records,
    multiple_of,
)

_LARGEST_SCALE = 4.0  # pictures are resized before they are cut


@dataclasses.dataclass(frozen=True, kw_only=True)
class _CroppedConfig(Config):
    """A random resized crop, which may be mirrored."""

    image_px: Annotated[int, at_least(1)] = 224
    min_scale: Annotated[float, above(0), at_most(1)] = 0.2  # share of the area; MAE's value
    flip: Literal["none", "horizontal"] = "horizontal"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropConfig(_CroppedConfig):
    """Views for SAMI: random resized crop and horizontal flip, nothing else (section 4.1).

    With `crops`, a picture has so many, the same in every run, of which one is drawn each time:
    then a teacher's features of them can be stored. `features` is the folder of `esam features`.
    """

    kind: ClassVar[Literal["crop"]] = "crop"
    needs: ClassVar[frozenset[str]] = frozenset()  # annotations
    crops: Annotated[int | None, at_least(1)] = None
    features: Annotated[str | None, local_records(), MAY_DIFFER] = None

    def across(self) -> Iterator[tuple[str, str]]:
        if self.features is not None and self.crops is None:
            yield "crops", "must be as many as features were stored of: write --data.view.crops N"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandAugmentConfig(Config):
    """How many operations are drawn of fifteen, and how strong they are, from 0 to 10.

    The defaults are timm's "rand-m9-mstd0.5-inc1".
    """

    operations: Annotated[int, at_least(0)] = 2  # each is applied with an even chance
    magnitude: Annotated[float, at_least(0), at_most(10)] = 9.0  # the mean
    deviation: Annotated[float, at_least(0)] = 0.5  # the standard deviation


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifiedConfig(_CroppedConfig):
    """Views for classification: random resized crop, flip, RandAugment, random erasing; a class.

    A picture that is measured is resized and cut to the central seven eighths of its short side.
    """

    kind: ClassVar[Literal["classified"]] = "classified"
    needs: ClassVar[frozenset[str]] = frozenset({"label"})  # annotations
    # None: as many as the data has when a run starts. A record of another class is broken.
    classes: Annotated[int | None, at_least(2, "one alone cannot be told apart")] = 1000
    # By number; none: those of the data when a run starts, where they have names.
    class_names: Annotated[tuple[str, ...], distinct("a class has one name")] = ()

    min_scale: Annotated[float, above(0), at_most(1)] = 0.08
    rand_augment: RandAugmentConfig = RandAugmentConfig()
    # Chance that noise hides a rectangle.
    erasing: Annotated[float, at_least(0), at_most(1)] = 0.25

    def across(self) -> Iterator[tuple[str, str]]:
        if self.class_names and self.classes not in (None, len(self.class_names)):
            yield "classes", f"class_names has {len(self.class_names)}: leave one of them out"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _FittedConfig(Config):
    """The entire picture, in a square as a promptable model takes it."""

    image_px: Annotated[int, at_least(8), multiple_of(8)] = 1024
    fit: Literal["stretch", "pad"] = "stretch"
    flip: Literal["none", "horizontal"] = "none"  # at random


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptedConfig(_FittedConfig):
    """Views for promptable training: the entire picture, some of its masks, a first prompt each.

    First prompts follow SAM, section A: a foreground point or a noisy box.
    """

    kind: ClassVar[Literal["prompted"]] = "prompted"
    needs: ClassVar[frozenset[str]] = frozenset({"masks"})  # annotations
    masks: Annotated[int, at_least(1)] = 64  # drawn per picture; fewer are padded with weight 0
    max_area: Annotated[float, above(0), at_most(1)] = 0.9  # of the picture; larger: left out
    min_area_px: Annotated[int, at_least(0)] = 16  # of the model's input; smaller: left out
    box_share: Annotated[float, at_least(0), at_most(1)] = 0.5  # of first prompts; else points
    box_noise: Annotated[float, at_least(0)] = 0.1  # as share of the side
    # Whether that is a standard deviation (the paper), or bounds even chances (SAM 2's code).
    box_noise_as: Literal["normal", "uniform"] = "normal"
    box_noise_max_px: Annotated[float, at_least(0)] = 20.0  # the most that a side is moved
    # The range of scales of which one is drawn, and the picture cut or padded: (0.1, 2.0) is LSJ.
    jitter: tuple[float, float] | None = None
    # How much brightness, contrast and saturation may change, and hue a quarter of it.
    colour: Annotated[float, at_least(0), at_most(1)] = 0.0

    def across(self) -> Iterator[tuple[str, str]]:
        if self.jitter is not None and not 0 < self.jitter[0] <= self.jitter[1] <= _LARGEST_SCALE:
            yield "jitter", f"must be a range of scales above 0 and up to {_LARGEST_SCALE:g}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FramedConfig(_FittedConfig):
    """Views of entire pictures as a promptable model sees them, without masks or prompts.

    `features` is a folder of `esam features`: what it holds of each picture comes with it.
    """

    kind: ClassVar[Literal["framed"]] = "framed"
    needs: ClassVar[frozenset[str]] = frozenset()  # annotations
    features: Annotated[str | None, local_records(), MAY_DIFFER] = None

    def across(self) -> Iterator[tuple[str, str]]:
        if self.features is not None and self.flip != "none":
            yield "flip", "stored features are those of pictures as they are: write none"


ViewConfig = CropConfig | PromptedConfig | FramedConfig | ClassifiedConfig
