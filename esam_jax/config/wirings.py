"""The two originals of the promptable decoder, as one table of the traits in which they differ.

Both have the same parameters, so only a config value distinguishes them. Sources:
`efficient_sam_decoder.py`, `two_way_transformer.py` and `efficient_sam.py` of EfficientSAM's
release (arXiv:2312.00863); `prompt_encoder.py`, `mask_decoder.py`, `transformer.py` and
`predictor.py` of segment-anything (arXiv:2304.02643).
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

Fit = Literal["stretch", "pad"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wiring:
    """What one original does; no other code compares the names of wirings."""

    # How a picture is brought to the square input: SAM keeps the aspect ratio and pads.
    fit: Fit
    # Every prompt is padded to `DecoderConfig.point_slots` points, and attends to the padding; the
    # other original takes any number, and its tokens attend only to slots that are given.
    fixed_slots: bool
    # Padding keeps the position code of its coordinates, or has its learned row alone.
    padding_has_position: bool
    # Background points and mask prompts: always there and drawn at random, or added to a released
    # checkpoint and zero at first, so that its outputs stay the same to the bit.
    extras: Literal["always", "optional"]
    # Of every MLP of the decoder.
    activation: Literal["gelu", "relu"]
    # The first self-attention of the tokens replaces them, or adds to them.
    first_residual: bool
    # Later self-attentions add the position code to queries and keys alone, or to values and to
    # the residual as well.
    position_in_values: bool
    # Upscaled features are normalised over each cell's channels, or over the complete map.
    upscale_norm: Literal["cell", "map"]
    # Whether a logit of exactly 0 belongs to the mask.
    zero_is_inside: bool


EFFICIENTSAM = Wiring(
    fit="stretch",
    fixed_slots=True,
    padding_has_position=True,
    extras="optional",
    activation="gelu",
    first_residual=True,
    position_in_values=True,
    upscale_norm="map",
    zero_is_inside=True,
)

SAM = Wiring(
    fit="pad",
    fixed_slots=False,
    padding_has_position=False,
    extras="always",
    activation="relu",
    first_residual=False,
    position_in_values=False,
    upscale_norm="cell",
    zero_is_inside=False,
)

WIRINGS: Mapping[str, Wiring] = MappingProxyType({"efficientsam": EFFICIENTSAM, "sam": SAM})
