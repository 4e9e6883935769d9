"""Why masks of everything were left out: how many fell at which threshold."""

import collections
import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float

from esam_jax.words import counted

_WHAT = {
    "pred_iou_thresh": "had a predicted IoU of {value:g} or less",
    "stability_score_thresh": "had a stability below {value:g}",
    "largest_share": "covered {value:.0%} of the picture or more",
    "crop_n_layers": "were cut by the edge of a crop",
    "box_nms_thresh": "overlapped a better mask",
    "crop_nms_thresh": "were found in another crop, too",
    "area": "were empty",
}
_LOOSER = ("pred_iou_thresh", "stability_score_thresh")


@dataclasses.dataclass
class Tally:
    """Candidates, those dropped by the argument that decided, and the highest value seen there."""

    candidates: int = 0
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    highest: dict[str, float] = dataclasses.field(default_factory=dict)

    def see(self, name: str, values: Float[np.ndarray, " X"]) -> None:
        """Values that are compared with the threshold of that name."""
        finite = values[np.isfinite(values)]
        if finite.size:
            self.highest[name] = max(self.highest.get(name, -math.inf), float(finite.max()))

    def add(self, other: "Tally") -> None:
        """Those of another call, too."""
        self.candidates += other.candidates
        self.dropped += other.dropped
        for name, value in other.highest.items():
            self.highest[name] = max(self.highest.get(name, -math.inf), value)

    def why(self, settings: Any) -> str:
        """What became of the candidates, by the arguments of the generator."""
        parts = [
            f"{count} {_WHAT[name].format(value=getattr(settings, name, 0) or 0)}"
            for name, count in self.dropped.items()
            if count
        ]
        return f"of {counted(self.candidates, 'candidate')} {', '.join(parts)}" if parts else ""

    def remedy(self, settings: Any) -> str:
        """The options with which the best candidate would have passed where the most fell.

        No threshold helps where no value was a number, as the stability of empty masks (0 of 0).
        """
        options = [
            f"--{name.replace('_', '-')} {math.floor(100 * self.highest[name] - 1) / 100:g}"
            for name in _LOOSER
            if self.dropped[name] and self.highest.get(name, math.inf) <= getattr(settings, name)
        ]
        if not options:
            return "try more points, or another model"
        # A mask that falls at the first threshold is not measured by the next.
        more = " (other thresholds may follow)" if options[0].startswith("--pred") else ""
        return f"try {' '.join(options)}{more}"
