"""What a network is: these configs travel with its weights."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from esam_jax.config.encoders import EncoderConfig, MaybeSize, Size, Sizes, VitConfig
from esam_jax.config.rules import MAY_DIFFER, Config, distinct, multiple_of
from esam_jax.config.saliency import U2NetConfig
from esam_jax.config.wirings import WIRINGS, Fit, Wiring

# Nor may the number of weights exceed its bound (`encoders.py` has those of sizes): SAM ViT-H has
# 0.64e9.
_MOST_WEIGHTS = 2**31


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(Config):
    """Prompt encoder and two-way mask decoder; `wiring` names which of the two originals
    (`wirings.py` lists how they differ).

    `sam` always takes background points and mask prompts. `efficientsam` as released takes neither:
    `background="learned"` and `mask_prompts="learned"` add them, starting at zero, so that a
    released checkpoint keeps its outputs to the bit until it is trained further. `text_width` adds
    a prompt of CLIP's, a feature vector of so many numbers, to either; no release has it.
    """

    wiring: Literal["efficientsam", "sam"]
    width: Annotated[Size, multiple_of(8)] = 256
    depth: Size = 2
    heads: Size = 8
    mlp_width: Size = 2048
    iou_width: Size = 256  # of the head that predicts the IoU
    mask_tokens: Size = 4  # the first is the single-mask output, the others the candidates
    background: Literal["none", "learned"] = "none"
    mask_prompts: Literal["none", "learned"] = "none"
    text_width: MaybeSize = None

    # In every release: the points that efficientsam pads a prompt to (sam has no limit), and the
    # channels of the convolutions of mask prompts.
    point_slots: ClassVar[int] = 6
    mask_channels: ClassVar[int] = 16

    def across(self) -> Iterator[tuple[str, str]]:
        if self.width % (2 * self.heads):
            yield "width", f"half of it must divide into {self.heads} heads"
        for field in ("background", "mask_prompts"):
            if self.traits.extras == "always" and getattr(self, field) != "learned":
                yield field, f'the "{self.wiring}" wiring always has it: set "learned"'

    @property
    def least_weights(self) -> int:
        layer = 4 * self.width**2 + 2 * self.width * self.mlp_width
        text = (self.text_width or 0) * self.width
        heads = text + self.mask_tokens * 2 * self.width**2 + self.width * self.iou_width
        return self.depth * layer + heads

    @property
    def traits(self) -> Wiring:
        """What this wiring does."""
        return WIRINGS[self.wiring]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamConfig(Config):
    """A complete promptable model."""

    encoder: EncoderConfig
    decoder: DecoderConfig

    def across(self) -> Iterator[tuple[str, str]]:
        if self.encoder.neck_width != self.decoder.width:
            yield "encoder.neck_width", f"must equal decoder.width={self.decoder.width}"
        yield from _too_large(self)

    @property
    def least_weights(self) -> int:
        """A bound that is worked out without making anything; the true number is little larger."""
        return self.encoder.least_weights + self.decoder.least_weights

    @property
    def image_px(self) -> int:
        return self.encoder.image_px

    @property
    def fit(self) -> Fit:
        """How a picture is brought to the square input."""
        return self.decoder.traits.fit

    @property
    def depth(self) -> int:
        """Blocks in all."""
        return self.encoder.depth + self.decoder.depth

    @property
    def low_res_px(self) -> int:
        """Side of the decoder's mask logits: four times the feature grid."""
        return 4 * self.encoder.grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainDecoderConfig(Config):
    """The decoder that pretraining throws away.

    SAMI's attends across (arXiv:2312.00863, sections 3.2 and 4.1), MAE's to itself
    (arXiv:2111.06377; upstream models_mae.py); the sizes are the same.
    """

    width: Size = 512
    depth: Size = 8
    heads: Size = 16

    mlp_ratio: ClassVar[int] = 4

    def across(self) -> Iterator[tuple[str, str]]:
        if self.width % self.heads:
            yield "width", f"must divide into {self.heads} heads"

    @property
    def least_weights(self) -> int:
        return self.depth * (4 + 2 * self.mlp_ratio) * self.width**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaeConfig(Config):
    """A pretrained ViT: class token, trunk, last norm; with `decoder`, all of MAE.

    The encoder's neck is not part of it.
    """

    kind: ClassVar[Literal["mae"]] = "mae"
    encoder: VitConfig
    decoder: PretrainDecoderConfig | None = None

    def across(self) -> Iterator[tuple[str, str]]:
        yield from _too_large(self)

    @property
    def least_weights(self) -> int:
        more = 0 if self.decoder is None else self.decoder.least_weights
        return self.encoder.least_weights + more

    @property
    def depth(self) -> int:
        """Blocks in all."""
        return self.encoder.depth + (0 if self.decoder is None else self.decoder.depth)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig(Config):
    """A ViT with class token, last norm and a linear head; the encoder's neck is not part of it.

    The norm and the head read the mean of the patches, or the class token. "distilled": a second
    head reads a distillation token beside it (DeiT, arXiv:2012.12877). `pixels` are normalised with
    ImageNet's mean and deviation, or from -1 to 1, as Google's ViTs and timm's of them take them.
    `class_names` are those of the classes by number, or empty where files do not state them.
    """

    kind: ClassVar[Literal["classifier"]] = "classifier"
    encoder: VitConfig
    classes: Size
    pool: Literal["mean", "class_token", "distilled"]
    pixels: Literal["imagenet", "symmetric"] = "imagenet"
    class_names: Annotated[tuple[str, ...], distinct("a class has one name")] = ()

    def across(self) -> Iterator[tuple[str, str]]:
        if self.class_names and len(self.class_names) != self.classes:
            yield "classes", f"there are {len(self.class_names)} class_names"
        yield from _too_large(self)

    @property
    def least_weights(self) -> int:
        return self.encoder.least_weights + self.classes * self.encoder.width

    @property
    def image_px(self) -> int:
        """Side of the square that its position table is made for."""
        return self.encoder.pretrain_px

    @property
    def depth(self) -> int:
        """Blocks in all."""
        return self.encoder.depth


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegNetConfig(Config):
    """RegNetY (arXiv:2003.13678; timm's regnet.py), a convolutional classifier.

    Its stages have blocks of one width; their convolutions see groups of `group_width` channels.
    """

    kind: ClassVar[Literal["regnet"]] = "regnet"
    widths: Sizes
    depths: Sizes
    group_width: Size
    classes: Size
    stem_width: Size = 32

    image_px: ClassVar[int] = 224  # of the square that the released weights were trained on
    widest_layer: ClassVar[int] = 0  # nothing grows with the size of pictures, which is fixed
    class_names: ClassVar[tuple[str, ...]] = ()  # its files state none

    def across(self) -> Iterator[tuple[str, str]]:
        if len(self.depths) != len(self.widths):
            yield "depths", f"must have one value for each of widths={self.widths}"
        if any(width % min(self.group_width, width) for width in self.widths):
            yield "widths", f"each must divide into groups of {self.group_width}"
        yield from _too_large(self)

    @property
    def least_weights(self) -> int:
        """Of the convolutions of its blocks, but for the narrower input of each first one."""
        blocks = zip(self.widths, self.depths, strict=False)
        each = [
            depth * width * (2 * width + 9 * min(self.group_width, width)) - width * width
            for width, depth in blocks
        ]
        return sum(each) + self.widths[-1] * self.classes

    @property
    def depth(self) -> int:
        """Blocks in all."""
        return sum(self.depths)

    @property
    def encoder(self) -> "RegNetConfig":
        """What a picture goes into: all of it."""
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig(Config):
    """CLIP's text encoder: a causal transformer over byte pairs."""

    width: Size = 512
    heads: Size = 8
    depth: Size = 12

    # Of every release: the tokens of a text, and how many different ones there are.
    context: ClassVar[int] = 77
    vocabulary: ClassVar[int] = 49_408
    mlp_ratio: ClassVar[int] = 4

    def across(self) -> Iterator[tuple[str, str]]:
        if self.width % self.heads:
            yield "width", f"must divide into {self.heads} heads"

    @property
    def least_weights(self) -> int:
        block = (4 + 2 * self.mlp_ratio) * self.width**2
        return self.vocabulary * self.width + self.depth * block


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig(Config):
    """CLIP: one space for pictures and texts (arXiv:2103.00020; upstream model.py).

    The encoder's neck is not part of it, and pictures have the size of its position table.
    """

    kind: ClassVar[Literal["clip"]] = "clip"
    encoder: VitConfig
    text: TextConfig = TextConfig()
    embed_width: Size = 512

    def across(self) -> Iterator[tuple[str, str]]:
        if self.encoder.image_px != self.encoder.pretrain_px:
            yield "encoder.image_px", f"must equal pretrain_px={self.encoder.pretrain_px}"
        yield from _too_large(self)

    @property
    def least_weights(self) -> int:
        return self.encoder.least_weights + self.text.least_weights

    @property
    def depth(self) -> int:
        """Blocks in all."""
        return self.encoder.depth + self.text.depth


TellsClasses = ClassifierConfig | RegNetConfig
ModelConfig = SamConfig | MaeConfig | TellsClasses | ClipConfig | U2NetConfig


def _too_large(config: ModelConfig) -> Iterator[tuple[str, str]]:
    if config.least_weights > _MOST_WEIGHTS:
        yield (
            "least_weights",
            f"a model has at most {_MOST_WEIGHTS}: make it narrower or less deep",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig(Config):
    """How a network is computed; never changes which parameters it has."""

    dtype: Literal["float32", "bfloat16"] = "float32"  # softmax and norms stay in float32
    precision: Literal["default", "highest"] = "default"  # of float32 matrix products
    attention: Annotated[Literal["auto", "xla", "chunked", "cudnn", "splash"], MAY_DIFFER] = "auto"
    remat: Annotated[Literal["none", "blocks"], MAY_DIFFER] = "none"
    # Training on the same kind of GPU gives the same bits again, by slower kernels.
    deterministic: bool = False
