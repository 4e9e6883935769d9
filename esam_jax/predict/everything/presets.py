"""Whose algorithm segment-everything follows: one table of how the originals select masks.

Sources: `automatic_mask_generator.py` of segment-anything; the notebook
`EfficientSAM_segment_everything_example.ipynb` of EfficientSAM, which differs in more than
thresholds; and for SA-1B, whose program was never released, Segment Anything (arXiv:2304.02643),
appendix B.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from esam_jax.ops import grids

Choice = Literal["all", "best", "single"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """What one original does; no other code compares the names of rules."""

    # The clicks of a layer of so many points a side, in the unit square.
    grid: Callable[[int], Float[np.ndarray, "X 2"]]
    # Where in its pixel a click lies: as the grid has it, or at the centre.
    click: Literal["exact", "pixel_centre"]
    # The candidates of a click that are looked at: all, the one with the highest predicted IoU, or
    # the single mask, which is none of the three.
    candidates: Choice
    # A mask passes with a stability at the threshold, or only above it.
    stability: Literal["at_least", "above"]
    # Whether a logit of exactly 0 belongs to the mask.
    zero_is_inside: bool
    # Duplicates of a crop are suppressed by predicted IoU before small regions are removed, and
    # again only if there is a limit to their size; or afterwards alone, in the order of clicks.
    suppress: Literal["before_cleaning", "after_cleaning"]
    # The original's settings.
    pred_iou_thresh: float
    stability_score_thresh: float
    min_mask_region_area: int
    crop_n_layers: int = 0
    crop_n_points_downscale_factor: int = 1
    # Masks of that share of the picture, or more, are left out before any suppression.
    largest_share: float | None = None


_SAM = Rules(
    grid=grids.points,
    click="exact",
    candidates="all",
    stability="at_least",
    zero_is_inside=False,
    suppress="before_cleaning",
    pred_iou_thresh=0.88,
    stability_score_thresh=0.95,
    min_mask_region_area=0,
)

# With which SA-1B was made: 32 x 32 clicks on the picture, 16 x 16 on each of 2 x 2 crops, 8 x 8 on
# each of 4 x 4.
_SA1B = dataclasses.replace(
    _SAM,
    min_mask_region_area=100,
    crop_n_layers=2,
    crop_n_points_downscale_factor=2,
    largest_share=0.95,
)

RULES: Mapping[str, Rules] = MappingProxyType(
    {
        "segment_anything": _SAM,
        # The ablation of arXiv:2304.02643, section 7.3: one mask a click, and no ambiguity.
        "segment_anything_single": dataclasses.replace(_SAM, candidates="single"),
        "efficientsam": Rules(
            grid=grids.corners,
            click="pixel_centre",
            candidates="best",
            stability="above",
            zero_is_inside=True,
            suppress="after_cleaning",
            pred_iou_thresh=0.7,
            stability_score_thresh=0.9,
            min_mask_region_area=100,
        ),
        "sa1b": _SA1B,
    }
)

_SETTINGS = ("pred_iou_thresh", "stability_score_thresh", "min_mask_region_area")
_OF_CROPS = ("crop_n_layers", "crop_n_points_downscale_factor")


def preset(name: str) -> dict[str, Any]:
    """Arguments of the generator with which it does what the original of that name does."""
    settings = _SETTINGS + (_OF_CROPS if RULES[name].crop_n_layers else ())
    return {setting: getattr(RULES[name], setting) for setting in settings} | {"rules": name}
