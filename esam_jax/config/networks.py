"""What a network is: these configs travel with its weights."""

import dataclasses
from typing import Literal

from esam_jax.config.rules import require
from esam_jax.config.wirings import WIRINGS, Fit, Wiring


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitConfig:
    """Plain ViT image encoder of EfficientSAM (arXiv:2312.00863, section 3)."""

    kind: Literal["vit"] = "vit"
    width: int
    heads: int
    depth: int = 12
    mlp_ratio: int = 4
    patch_px: int = 16
    image_px: int = 1024
    pretrain_px: int = 224  # the position table covers this square, plus one class slot
    neck_width: int = 256

    def __post_init__(self) -> None:
        _check_encoder(self)
        require(
            self.pretrain_px % self.patch_px == 0,
            "pretrain_px",
            self.pretrain_px,
            f"must be a multiple of patch_px={self.patch_px}",
        )

    @property
    def grid(self) -> int:
        return self.image_px // self.patch_px

    @property
    def pretrain_grid(self) -> int:
        return self.pretrain_px // self.patch_px


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamVitConfig:
    """SAM's windowed ViT image encoder (arXiv:2304.02643; upstream image_encoder.py)."""

    kind: Literal["sam_vit"] = "sam_vit"
    width: int
    heads: int
    depth: int
    global_blocks: tuple[int, ...]
    window: int = 14  # cells
    mlp_ratio: int = 4
    patch_px: int = 16
    image_px: int = 1024
    neck_width: int = 256

    def __post_init__(self) -> None:
        _check_encoder(self)
        require(
            all(0 <= i < self.depth for i in self.global_blocks),
            "global_blocks",
            self.global_blocks,
            f"each must name one of {self.depth} blocks",
        )

    @property
    def grid(self) -> int:
        return self.image_px // self.patch_px


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyVitConfig:
    """MobileSAM's image encoder (arXiv:2306.14289; upstream tiny_vit_sam.py), one value a stage.

    Stage 0 is convolutional, so its heads and window are not used. Between stages the grid halves,
    except before the last.
    """

    kind: Literal["tiny_vit"] = "tiny_vit"
    widths: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    all_heads: tuple[int, ...] = (2, 4, 5, 10)
    windows: tuple[int, ...] = (7, 7, 14, 7)
    mlp_ratio: int = 4
    image_px: int = 1024
    neck_width: int = 256

    def __post_init__(self) -> None:
        for field in ("depths", "all_heads", "windows"):
            require(
                len(getattr(self, field)) == len(self.widths) >= 2,
                field,
                getattr(self, field),
                f"must have one value for each of widths={self.widths}, at least two",
            )
        for field in ("widths", "depths", "all_heads", "windows"):
            value = getattr(self, field)
            require(min(value) > 0, field, value, "each must be positive")
        for width, heads in zip(self.widths, self.all_heads, strict=True):
            require(width % heads == 0, "widths", width, f"must divide by {heads}")
        require(
            self.image_px % self.patch_px == 0,
            "image_px",
            self.image_px,
            f"must be a multiple of {self.patch_px}",
        )

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


def _check_encoder(config: VitConfig | SamVitConfig) -> None:
    require(
        config.width % config.heads == 0,
        "width",
        config.width,
        f"must divide into {config.heads} heads",
    )
    require(
        config.image_px % config.patch_px == 0,
        "image_px",
        config.image_px,
        f"must be a multiple of patch_px={config.patch_px}",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Prompt encoder and two-way mask decoder; `wiring` names which of the two originals
    (`wirings.py` lists how they differ).

    `sam` always takes background points and mask prompts. `efficientsam` as released takes neither:
    `background="learned"` and `mask_prompts="learned"` add them, starting at zero, so that a
    released checkpoint keeps its outputs to the bit until it is trained further.
    """

    wiring: Literal["efficientsam", "sam"]
    width: int = 256
    depth: int = 2
    heads: int = 8
    mlp_width: int = 2048
    iou_width: int = 256
    mask_tokens: int = 4  # the first is the single-mask output, the others the candidates
    point_slots: int = 6  # efficientsam pads every prompt to this many points; sam has no limit
    mask_channels: int = 16
    background: Literal["none", "learned"] = "none"
    mask_prompts: Literal["none", "learned"] = "none"

    def __post_init__(self) -> None:
        require(self.width % 8 == 0, "width", self.width, "must be a multiple of 8")
        require(
            self.width % (2 * self.heads) == 0,
            "width",
            self.width,
            f"half of it must divide into {self.heads} heads",
        )
        if self.traits.extras == "always":
            require(
                self.background == "learned" and self.mask_prompts == "learned",
                "background, mask_prompts",
                (self.background, self.mask_prompts),
                f'the "{self.wiring}" wiring always has both: say "learned"',
            )

    @property
    def traits(self) -> Wiring:
        """What this wiring does."""
        return WIRINGS[self.wiring]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamConfig:
    """A complete promptable model."""

    encoder: EncoderConfig
    decoder: DecoderConfig

    def __post_init__(self) -> None:
        require(
            self.encoder.neck_width == self.decoder.width,
            "encoder.neck_width",
            self.encoder.neck_width,
            f"must equal decoder.width={self.decoder.width}",
        )

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
class MaeDecoderConfig:
    """Decoder of MAE pretraining (arXiv:2111.06377; upstream models_mae.py)."""

    width: int = 512
    depth: int = 8
    heads: int = 16
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        require(
            self.width % self.heads == 0,
            "width",
            self.width,
            f"must divide into {self.heads} heads",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaeConfig:
    """A pretrained ViT: class token, trunk, last norm; with `decoder`, the whole of MAE.

    The encoder's neck is not part of it.
    """

    kind: Literal["mae"] = "mae"
    encoder: VitConfig
    decoder: MaeDecoderConfig | None = None

    @property
    def depth(self) -> int:
        """Blocks in all."""
        return self.encoder.depth + (0 if self.decoder is None else self.decoder.depth)


ModelConfig = SamConfig | MaeConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamiDecoderConfig:
    """Cross-attention decoder of SAMI pretraining (arXiv:2312.00863, sections 3.2 and 4.1)."""

    width: int = 512
    depth: int = 8
    heads: int = 16
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        require(
            self.width % self.heads == 0,
            "width",
            self.width,
            f"must divide into {self.heads} heads",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How a network is computed; never changes which parameters it has."""

    dtype: Literal["float32", "bfloat16"] = "float32"  # softmax and norms stay in float32
    precision: Literal["default", "highest"] = "default"  # of float32 matrix products
    attention: Literal["auto", "xla", "chunked", "cudnn"] = "auto"
    remat: Literal["none", "blocks"] = "none"
