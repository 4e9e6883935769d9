"""What is read."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, get_args

from esam_jax.config.reading import (
    ANNOTATIONS,
    AnnotatedConfig,
    FilesConfig,
    MixtureConfig,
    SplitConfig,
    TarsConfig,
)
from esam_jax.config.rules import (
    MAY_DIFFER,
    Config,
    at_least,
    at_most,
    local_records,
    matching,
    readable,
)
from esam_jax.config.views import ViewConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScenesConfig(Config):
    """Procedural scenes with all their objects, drawn without any file.

    `first` is the number of the first of them: ranges that do not meet share no scene.
    """

    kind: ClassVar[Literal["scenes"]] = "scenes"
    annotations: ClassVar[frozenset[str]] = frozenset({"masks", "label"})
    RETIRED: ClassVar[tuple[str, ...]] = ("path",)  # when all sources had one dataclass

    split: Literal["train", "heldout"] = "train"
    scenes: Annotated[int, at_least(1)] = 20_000  # distinct scenes of one split
    first: Annotated[int, at_least(0)] = 0
    scene_px: Annotated[int, at_least(32)] = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsConfig(AnnotatedConfig):
    """A data set that tensorflow-datasets has prepared as ArrayRecord.

    `path` is its `data_dir` and `name` "imagenet2012", "coco/2017" or "coco/2017:1.1.0"; without a
    name, `path` is the folder of one version. `split` may be a part, such as "train[:1%]". Where
    the data set has several, `image` names the feature that is the picture, and `masks` the one
    that holds objects; a map that `masks` names is one of object numbers. What records carry is
    known when the data set is opened: `annotations` are all that there may be.
    """

    kind: ClassVar[Literal["tfds"]] = "tfds"
    usual: ClassVar[tuple[int, int, int]] = (375, 500, 0)  # ImageNet
    annotations: ClassVar[frozenset[str]] = frozenset({"label", "masks", "semantic"})
    RETIRED: ClassVar[tuple[str, ...]] = ()
    path: Annotated[str | None, local_records(), MAY_DIFFER] = None
    name: Annotated[
        str | None,
        matching(
            r"\w+(/[\w+-][\w.+-]*)?(:\d+\.\d+\.\d+)?", "NAME, NAME/CONFIG or NAME/CONFIG:1.0.0"
        ),
    ] = None
    split: str = "train"
    image: str | None = None
    masks: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolderConfig(FilesConfig):
    """Every picture below `path`, without masks: ImageNet's layout, or any other.

    The class of a picture is the first folder of its name; there are none where one has no folder.
    """

    kind: ClassVar[Literal["image_folder"]] = "image_folder"
    usual: ClassVar[tuple[int, int, int]] = (375, 500, 0)  # ImageNet
    annotations: ClassVar[frozenset[str]] = frozenset({"label"})  # that there may be


@dataclasses.dataclass(frozen=True, kw_only=True)
class CocoConfig(AnnotatedConfig):
    """A COCO instance json, or the image folder beside it."""

    kind: ClassVar[Literal["coco"]] = "coco"
    usual: ClassVar[tuple[int, int, int]] = (480, 640, 7)
    annotations: ClassVar[frozenset[str]] = frozenset({"masks"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sa1bConfig(AnnotatedConfig, TarsConfig):
    """`sa_*.jpg` with `sa_*.json` beside each, in a folder, a tar archive or a folder of these."""

    kind: ClassVar[Literal["sa1b"]] = "sa1b"
    usual: ClassVar[tuple[int, int, int]] = (1500, 2250, 100)
    annotations: ClassVar[frozenset[str]] = frozenset({"masks"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelMapsConfig(FilesConfig):
    """A folder with pictures in `images/` and, in `instances/`, a map of object numbers for each.

    A map is a grey PNG of the picture's name and size, of 8 or 16 bits: 0 is no object.
    """

    kind: ClassVar[Literal["label_maps"]] = "label_maps"
    usual: ClassVar[tuple[int, int, int]] = (256, 320, 60)  # nuclei of the Data Science Bowl 2018
    annotations: ClassVar[frozenset[str]] = frozenset({"masks"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTarsConfig(FilesConfig, TarsConfig):
    """Every picture of a tar archive, of the archives in it, or of a folder of archives.

    The class of a picture is the folder, or inner archive, that it lies in; `labels` is a text file
    that says more: the class of a picture in each line, in the order of their names, or behind the
    name. ImageNet's `ILSVRC2012_validation_ground_truth.txt` needs `meta.mat` beside it.
    """

    kind: ClassVar[Literal["image_tars"]] = "image_tars"
    usual: ClassVar[tuple[int, int, int]] = (375, 500, 0)  # ImageNet
    annotations: ClassVar[frozenset[str]] = frozenset({"label"})
    labels: Annotated[str | None, readable(), MAY_DIFFER] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PanopticConfig(AnnotatedConfig):
    """A COCO panoptic json with the folder of its PNGs, or the folder that both lie in.

    A mask is a segment, of a thing or of stuff.
    """

    kind: ClassVar[Literal["panoptic"]] = "panoptic"
    usual: ClassVar[tuple[int, int, int]] = (480, 640, 11)
    annotations: ClassVar[frozenset[str]] = frozenset({"masks", "semantic"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class SemanticMapsConfig(SplitConfig):
    """A folder with pictures in `images/` and a map of class numbers for each.

    Maps lie in `annotations/` (ADE20K), `labels/` or `semantic/`, under the picture's name with the
    ending .png. `split` is a folder in `images/`, such as ADE20K's "validation".
    """

    kind: ClassVar[Literal["semantic_maps"]] = "semantic_maps"
    usual: ClassVar[tuple[int, int, int]] = (512, 683, 0)  # ADE20K
    annotations: ClassVar[frozenset[str]] = frozenset({"semantic"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class BsdsConfig(SplitConfig):
    """BSDS500: pictures with the boundaries and regions that several people drew.

    `split` is "train", "val" or "test".
    """

    kind: ClassVar[Literal["bsds"]] = "bsds"
    usual: ClassVar[tuple[int, int, int]] = (321, 481, 100)  # masks of all people together
    annotations: ClassVar[frozenset[str]] = frozenset({"boundaries", "masks"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoConfig(SplitConfig):
    """Frames of videos with masks of their objects: DAVIS, YouTube-VOS, SA-V.

    `split` is a list of videos that the data set has, such as "2017/val" of DAVIS. `masklets` are
    those of SA-V's training videos: drawn by people, found by a model, or both.
    """

    kind: ClassVar[Literal["video"]] = "video"
    usual: ClassVar[tuple[int, int, int]] = (480, 854, 3)  # DAVIS 2017
    annotations: ClassVar[frozenset[str]] = frozenset({"masks"})
    masklets: Literal["both", "manual", "auto"] = "both"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackConfig(FilesConfig):
    """A folder of `esam data pack`: records of another source, with all that they have there.

    Values of 16 bits are stretched, too, where they were when the pack was made.
    """

    kind: ClassVar[Literal["pack"]] = "pack"
    usual: ClassVar[tuple[int, int, int]] = (480, 640, 7)
    # Of what was packed; a record without says so.
    annotations: ClassVar[frozenset[str]] = ANNOTATIONS
    path: Annotated[str | None, local_records(), MAY_DIFFER] = None


# A path is taken for the first of these that reads it: the more particular come first.
SourceConfig = (
    ScenesConfig
    | TfdsConfig
    | Sa1bConfig
    | LabelMapsConfig
    | PackConfig
    | PanopticConfig
    | BsdsConfig
    | SemanticMapsConfig
    | VideoConfig
    | CocoConfig
    | ImageTarsConfig
    | ImageFolderConfig
    | MixtureConfig
)


def lacking(
    source: SourceConfig, needs: frozenset[str], who: str, path: str = "source"
) -> Iterator[tuple[str, str]]:
    """The rule that is broken, for `Config.across`, unless the source has what `who` needs.

    It names the sources that would do. `path` is where the source stands in that config. Some
    kinds of data are known to lack something only when they are opened: see `data/sources`.
    """
    if not needs <= source.annotations:
        fitting = [each.kind for each in get_args(SourceConfig) if needs <= each.annotations]
        remedy = f"read {', '.join(fitting)}" if fitting else "no source has them"
        yield f"{path}.kind", f"{who} {' and '.join(sorted(needs))}: {remedy}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """What is read, how it is viewed, and how much may be broken.

    `threads` of each host make its examples. They share one interpreter, or are spread over as many
    `workers`, which are processes: then what Python itself does is no longer one core's work.
    `repeats` shows each picture so many times in a row, augmented differently, and only as
    large a part of the pictures in an epoch (repeated augmentation, arXiv:1901.09335).
    """

    RETIRED: ClassVar[tuple[str, ...]] = ("prefetch_batches",)
    source: SourceConfig
    view: ViewConfig
    threads: Annotated[int, at_least(1), MAY_DIFFER] = 8
    workers: Annotated[int, at_least(0), MAY_DIFFER] = 0
    repeats: Annotated[int, at_least(1)] = 1
    # Of the records read so far, once ten are broken.
    max_broken_share: Annotated[float, at_least(0), at_most(1), MAY_DIFFER] = 0.1

    def across(self) -> Iterator[tuple[str, str]]:
        yield from lacking(self.source, self.view.needs, f"{self.view.kind} views need")
        if self.workers > self.threads:
            yield (
                "workers",
                f"must be at most the {self.threads} threads, one for each: raise --data.threads",
            )
