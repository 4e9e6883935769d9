"""What an image encoder is: the configs of the three kinds, and the bounds of every size."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from esam_jax.config.rules import Config, each, few, some, within

# No size and no number of cells on a side may exceed its bound, so that a hostile config is refused
# before anything is made or traced. SAM ViT-H has 64 cells on a side.
_LARGEST = 16_384
_MOST_CELLS = 1024
_MOST_WINDOW = 64  # or the whole grid: a smaller grid is padded to one window
_MOST_STAGES = 8
Size = Annotated[int, within(1, _LARGEST)]
MaybeSize = Annotated[int | None, within(1, _LARGEST)]  # None: there is no such part
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
