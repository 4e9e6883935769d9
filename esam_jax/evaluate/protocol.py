"""What is measured, and how, by `esam evaluate prompts`: every choice, and all of them in words."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from esam_jax.config import SamConfig
from esam_jax.convert import provenance
from esam_jax.errors import ConfigError
from esam_jax.evaluate.clicking import RANDOM, Click
from esam_jax.words import counted

MIN_AREA_PX = 16  # of the picture as given; smaller masks are left out by default
# Of COCO: the largest areas, in pixels, of small and of medium objects.
SMALL_PX, MEDIUM_PX = 32**2, 96**2
SIZES = ("all", "small", "medium", "large")


@dataclasses.dataclass(frozen=True)
class Takes:
    """What a model can be given, and was trained for."""

    background: bool
    masks: bool
    single: bool
    slots: int | None  # for points, at most; None for any number
    zero_is_inside: bool

    @staticmethod
    def of(config: SamConfig, untrained: Sequence[str]) -> "Takes":
        decoder = config.decoder
        return Takes(
            background=decoder.background != "none" and "prompt/background" not in untrained,
            masks=decoder.mask_prompts != "none" and "prompt/mask" not in untrained,
            single=provenance.SINGLE_MASK not in untrained,
            slots=decoder.point_slots if decoder.traits.fixed_slots else None,
            zero_is_inside=decoder.traits.zero_is_inside,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """Which pictures, masks and prompts, and which of the answers count.

    images, masks_per_image: at most so many, drawn with the first of the `seeds`; None for all.
    boxes: tight around the mask, the ones that the annotations give, or none. points: numbers of
    clicks. clicks: `clicking.py`; each seed draws its own. feed_back: with each further click the
    model gets the logits of its answer before. several: what it answers to more than one point,
    the single mask (which SAM keeps for that) or the best of the candidates; by default the single
    mask where it was trained.
    """

    images: int | None = None
    masks_per_image: int | None = None
    seeds: tuple[int, ...] = (0,)
    boxes: Literal["tight", "given", "none"] = "tight"
    points: tuple[int, ...] = (1,)
    clicks: tuple[Click, ...] = ("uniform",)
    feed_back: bool = False
    several: Literal["trained", "single", "candidates"] = "trained"
    min_area_px: int = MIN_AREA_PX

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(f"seeds is {list(self.seeds)}, but must be different integers from 0")
        if any(count < 1 for count in self.points) or len(set(self.points)) < len(self.points):
            raise ConfigError(
                f"points is {list(self.points)}, but must be numbers of clicks from 1"
            )
        if len(set(self.clicks)) < len(self.clicks):
            raise ConfigError(f"clicks is {list(self.clicks)}, but each way counts once")
        for name in ("images", "masks_per_image"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}, but at least 1 is needed (None for all)")
        if self.min_area_px < 1:
            raise ConfigError(f"min_area_px is {self.min_area_px}, but a mask has pixels: give 1")
        if not self.columns:
            raise ConfigError("nothing is measured: give boxes, or points and clicks")
        if self.feed_back and set(self.ways) <= {"uniform"}:
            raise ConfigError(
                "feed_back is set, but clicks that are uniform do not follow an answer: "
                "choose centre or random_first"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what is measured: box, uniform_1, centre_3."""
        boxes = () if self.boxes == "none" else ("box",)
        return (*boxes, *(f"{way}_{n}" for way in self.ways for n in sorted(self.points)))

    @property
    def ways(self) -> tuple[Click, ...]:
        """The ways of clicking that are measured: none without a number of clicks."""
        return self.clicks if self.points else ()

    @property
    def most(self) -> int:
        """The largest number of clicks."""
        return max(self.points) if self.ways else 0

    def runs(self, column: str) -> int:
        """How often it is measured: once, or once for each seed."""
        return len(self.seeds) if column.rsplit("_", 1)[0] in RANDOM else 1

    def single(self, takes: Takes) -> bool:
        """Whether several points are answered by the single mask."""
        return self.several == "single" or (self.several == "trained" and takes.single)

    def require(self, takes: Takes) -> None:
        """ConfigError where the model cannot be measured so."""
        if takes.slots is not None and self.most > takes.slots:
            raise ConfigError(
                f"points has {self.most}, but this checkpoint takes {takes.slots} at most: leave "
                "out what is more"
            )
        if self.feed_back and not takes.masks:
            raise ConfigError(
                "feed_back is set, but this checkpoint never learned mask prompts: leave it out"
            )
        if self.several == "single" and not takes.single:
            raise ConfigError(
                "several is 'single', but this checkpoint never learned the single mask: choose "
                "candidates"
            )

    def words(self, takes: Takes, pictures: str) -> str:
        """The protocol in words; `pictures` says which."""
        each = "all masks" if self.masks_per_image is None else "up to "
        each += "" if self.masks_per_image is None else counted(self.masks_per_image, "mask")
        drawn = f", drawn with seed {self.seeds[0]}" if self.masks_per_image or self.images else ""
        parts = [f"{pictures} and {each} of each{drawn}"]
        parts.append(f"masks under {self.min_area_px} pixels left out")
        parts.append(f"for each mask {'; or '.join(self._prompts(takes))}")
        parts.append("of three candidates the one with the highest predicted IoU")
        if self.most > 1:
            several = "the single mask" if self.single(takes) else "the best of the candidates"
            parts.append(f"several points: {several}")
        parts.append("oracle: the highest IoU of the candidates")
        sign = ">=" if takes.zero_is_inside else ">"
        parts.append(f"logits {sign} 0 at the picture's own size")
        parts.append(
            f"small: at most {SMALL_PX} pixels of mask, medium: at most {MEDIUM_PX}. IoU averaged "
            "over masks, then over data sets. fill_box: IoU of the filled tight box with the mask. "
            "Broken pictures and masks are left out and counted"
        )
        return f"{'; '.join(parts)}."

    def _prompts(self, takes: Takes) -> list[str]:
        counts = ", ".join(map(str, sorted(self.points)))
        noun = "point" if counts == "1" else "points"
        seeds = counted(len(self.seeds), "seed")
        where: dict[Click, str] = {
            "uniform": f"foreground {noun} uniform in it ({seeds})",
            "centre": f"{noun}, the first deepest in it{self._next(takes)}",
            "random_first": f"{noun}, the first uniform in it ({seeds}){self._next(takes)}",
        }
        box = {"tight": ["a tight box"], "given": ["the box of the annotations"], "none": []}
        return [*box[self.boxes], *(f"{counts} {where[way]}" for way in self.ways)]

    def _next(self, takes: Takes) -> str:
        """How later clicks follow on an answer."""
        if self.most <= 1:
            return ""
        fed = " with the logits before as a prompt" if self.feed_back else ""
        if takes.background:
            return f", each further one deepest in the larger of what is missing and too much{fed}"
        return (
            ", each further one deepest in what is missing, or in the mask where nothing is (this "
            f"checkpoint takes no background points){fed}"
        )


def size_of(area: int | float) -> str:
    """COCO's name for the size of an object of that many pixels."""
    return "small" if area <= SMALL_PX else "medium" if area <= MEDIUM_PX else "large"
