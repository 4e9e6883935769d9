"""What a network is: these configs travel with its weights."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from esam_jax.config.rules import MAY_DIFFER, Config, each, few, multiple_of, some, within
from esam_jax.config.saliency import U2NetConfig
from esam_jax.config.wirings import WIRINGS, Fit, Wiring

# No size, no number of cells on a side and no number of weights may exceed its bound, so that a
# hostile config is refused before anything is made or traced. SAM ViT-H has 64 cells on a side and
# 0.64e9 weights.
_LARGEST = 16_384
_MOST_CELLS = 1024
_MOST_WINDOW = 64  # or the whole grid: a smaller grid is padded to one window
_MOST_STAGES = 8
_MOST_WEIGHTS = 2**31
Size = Annotated[int, within(1, _LARGEST)]
Sizes = Annotated[tuple[int, ...], some(), few(_MOST_STAGES), each(within(1, _LARGEST))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _EncoderConfig(Config):
    """What every image encoder has: a square input, and a neck whose width the decoder takes."""

    image_px: Size = 1024
    neck_width: Size = 256

    mlp_ratio: ClassVar[int] = 4  # of every released network


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PlainEncoderConfig(_EncoderConfig):
    """Blocks of one width over one grid of patches."""

    width: Size
    heads: Size
    depth: Size = 12
    patch_px: Size = 16

    def across(self) -> Iterator[tuple[str, str]]:
        if self.width % self.heads:
            yield "width", f"must divide into {self.heads} heads"
        if self.image_px % self.patch_px:
            yield "image_px", f"must be a multiple of patch_px={self.patch_px}"
        if self.grid > _MOST_CELLS:
            yield "image_px", f"must be at most {_MOST_CELLS} times patch_px={self.patch_px}"

    @property
    def grid(self) -> int:
        return self.image_px // self.patch_px

    @property
    def widest_layer(self) -> int:
        """Numbers of a picture, or of the widest layer where those are more."""
        return max(3 * self.image_px**2, self.mlp_ratio * self.grid**2 * self.width)

    @property
    def least_trunk(self) -> int:
        """Weights of patch embedding and blocks, without biases, norms and positions."""
        block = (4 + 2 * self.mlp_ratio) * self.width**2
        return self.width * 3 * self.patch_px**2 + self.depth * block

    @property
    def least_neck(self) -> int:
        return self.width * self.neck_width + 9 * self.neck_width**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitConfig(_PlainEncoderConfig):
    """Plain ViT image encoder of EfficientSAM (arXiv:2312.00863, section 3)."""

    kind: ClassVar[Literal["vit"]] = "vit"
    pretrain_px: Size = 224  # the position table covers this square, plus one class slot

    def across(self) -> Iterator[tuple[str, str]]:
        yield from super().across()
        if self.pretrain_px % self.patch_px:
            yield "pretrain_px", f"must be a multiple of patch_px={self.patch_px}"
        if self.pretrain_grid > _MOST_CELLS:
            yield "pretrain_px", f"must be at most {_MOST_CELLS} times patch_px={self.patch_px}"

    @property
    def pretrain_grid(self) -> int:
        return self.pretrain_px // self.patch_px

    @property
    def least_weights(self) -> int:
        """Fewer weights than this, and it is not such an encoder (nor, without its neck, a ViT)."""
        return self.least_trunk + (1 + self.pretrain_grid**2) * self.width


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamVitConfig(_PlainEncoderConfig):
    """SAM's windowed ViT image encoder (arXiv:2304.02643; upstream image_encoder.py)."""

    kind: ClassVar[Literal["sam_vit"]] = "sam_vit"
    global_blocks: Annotated[tuple[int, ...], each(within(0, _LARGEST))]
    window: Size = 14  # cells

    def across(self) -> Iterator[tuple[str, str]]:
        yield from super().across()
        if max(self.global_blocks, default=0) >= self.depth:
            yield "global_blocks", f"each must name one of {self.depth} blocks"
        if self.window > max(_MOST_WINDOW, self.grid):
            yield "window", f"must be at most {_MOST_WINDOW}, or the {self.grid} cells of the grid"

    @property
    def least_weights(self) -> int:
        per_head, wide = self.width // self.heads, len(set(self.global_blocks))
        reach = wide * (2 * self.grid - 1) + (self.depth - wide) * (2 * self.window - 1)
        tables = self.grid**2 * self.width + 2 * reach * per_head
        return self.least_trunk + self.least_neck + tables


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyVitConfig(_EncoderConfig):
    """MobileSAM's image encoder (arXiv:2306.14289; upstream tiny_vit_sam.py), one value a stage.

    Stage 0 is convolutional, so its heads and window are not used. Between stages the grid halves,
    except before the last.
    """

    kind: ClassVar[Literal["tiny_vit"]] = "tiny_vit"
    widths: Sizes = (64, 128, 160, 320)
    depths: Sizes = (2, 2, 6, 2)
    all_heads: Sizes = (2, 4, 5, 10)
    windows: Sizes = (7, 7, 14, 7)

    def across(self) -> Iterator[tuple[str, str]]:
        for field in ("depths", "all_heads", "windows"):
            if not len(getattr(self, field)) == len(self.widths) >= 2:
                yield (
                    field,
                    f"must have one value for each of widths={self.widths}, at least two",
                )
        if any(width % heads for width, heads in zip(self.widths, self.all_heads, strict=True)):
            yield "widths", f"each must divide into its heads: {self.all_heads}"
        if self.image_px % self.patch_px:
            yield "image_px", f"must be a multiple of {self.patch_px}"
        if self.grid > _MOST_CELLS:
            yield "image_px", f"must be at most {_MOST_CELLS} times {self.patch_px}"
        if max(self.windows) > _MOST_WINDOW:
            yield "windows", f"each must be at most {_MOST_WINDOW}"

    @property
    def widest_layer(self) -> int:
        """As of a plain encoder; the first stage, after a stem that divides by 4, is the widest."""
        cells = (self.image_px // 4) ** 2
        return max(3 * self.image_px**2, self.mlp_ratio * cells * self.widths[0])

    @property
    def least_weights(self) -> int:
        """Weights of the blocks: 8 squares of the width in the first stage, 12 in the others."""
        stages = zip(self.widths, self.depths, strict=True)
        return sum(8 * width**2 * depth for width, depth in stages)

    @property
    def patch_px(self) -> int:
        """Pixels a side of a final cell: the stem divides by 4, each step but the last by 2."""
        return 4 * 2 ** (len(self.widths) - 2)

    @property
    def grid(self) -> int:
        return self.image_px // self.patch_px

    @property
    def depth(self) -> int:
        return sum(self.depths)


EncoderConfig = VitConfig | SamVitConfig | TinyVitConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(Config):
    """Prompt encoder and two-way mask decoder; `wiring` names which of the two originals
    (`wirings.py` lists how they differ).

    `sam` always takes background points and mask prompts. `efficientsam` as released takes neither:
    `background="learned"` and `mask_prompts="learned"` add them, starting at zero, so that a
    released checkpoint keeps its outputs to the bit until it is trained further.
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
        heads = self.mask_tokens * 2 * self.width**2 + self.width * self.iou_width
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

    The norm and the head read the mean of the patches, or the class token.
    """

    kind: ClassVar[Literal["classifier"]] = "classifier"
    encoder: VitConfig
    classes: Size
    pool: Literal["mean", "class_token"]

    def across(self) -> Iterator[tuple[str, str]]:
        yield from _too_large(self)

    @property
    def least_weights(self) -> int:
        return self.encoder.least_weights + self.classes * self.encoder.width

    @property
    def depth(self) -> int:
        """Blocks in all."""
        return self.encoder.depth


ModelConfig = SamConfig | MaeConfig | ClassifierConfig | U2NetConfig


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
