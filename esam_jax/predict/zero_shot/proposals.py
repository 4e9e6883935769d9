"""Object proposals: as many masks of everything as may be objects, ranked.

Source: arXiv:2304.02643, sections 7.3 and D.3. A dense grid of clicks, no crops, no threshold of
predicted IoU or stability, and a lenient suppression; where more than 1000 masks remain, the mean
of predicted IoU and stability ranks them. The single-output ablation takes the single mask of each
click of a denser grid, and ranks at random.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from esam_jax.convert import provenance
from esam_jax.errors import PromptError
from esam_jax.ops import regions
from esam_jax.predict.everything import arguments
from esam_jax.predict.everything.generator import AutomaticMaskGenerator, Record
from esam_jax.predict.sam import Sam

Output = Literal["three", "single"]
Ranking = Literal["quality", "random"]

_RULES: Mapping[Output, str] = MappingProxyType(
    {"three": "segment_anything", "single": "segment_anything_single"}
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProposalSettings:
    """How masks are proposed; as the paper does it without arguments, its ablation is SINGLE.

    output: the masks of a click, three candidates or the single mask. points_per_side: of the grid.
    box_nms_thresh: of two masks whose boxes overlap more, the one with the higher predicted IoU
    stays. most: masks that are kept, by the ranking. ranking: the mean of predicted IoU and
    stability, or numbers drawn by the name of the picture.
    """

    output: Output = "three"
    points_per_side: int = 64
    box_nms_thresh: float = 0.9
    most: int = 1000
    ranking: Ranking = "quality"

    def require(self, sam: Sam) -> None:
        """PromptError names the argument that is wrong, or that this model cannot follow."""
        arguments.require_whole(1, {"most": self.most})
        arguments.require_one_of("output", self.output, _RULES)
        arguments.require_one_of("ranking", self.ranking, ("quality", "random"))
        if self.output == "single" and provenance.SINGLE_MASK in sam.untrained:
            raise PromptError.of(
                "output",
                "is 'single', but this checkpoint never learned the single mask: use 'three'",
            )
        self.generator(sam)

    def generator(
        self, sam: Sam, *, points_per_batch: int = 64, output_mode: str = "coco_rle"
    ) -> AutomaticMaskGenerator:
        """The engine, with every threshold of quality off; PromptError names a wrong argument."""
        return AutomaticMaskGenerator(
            sam,
            points_per_side=self.points_per_side,
            points_per_batch=points_per_batch,
            pred_iou_thresh=0.0,
            stability_score_thresh=0.0,
            box_nms_thresh=self.box_nms_thresh,
            output_mode=output_mode,
            rules=_RULES[self.output],
        )

    def words(self) -> str:
        """The protocol."""
        grid = f"{self.points_per_side} x {self.points_per_side}"
        masks = {"three": "three candidates", "single": "the single mask"}[self.output]
        ranked = {
            "quality": "the mean of predicted IoU and stability",
            "random": "numbers drawn by the name of the picture",
        }[self.ranking]
        return (
            f"{masks} of each click of a grid of {grid}, no crops, no threshold of predicted IoU "
            f"or stability, NMS of boxes at {self.box_nms_thresh:g}; scored by {ranked}, and the "
            f"best {self.most} are kept where there are more"
        )


SINGLE = ProposalSettings(
    output="single", points_per_side=128, box_nms_thresh=0.95, ranking="random"
)
PAPER: Mapping[Output, ProposalSettings] = MappingProxyType(
    {"three": ProposalSettings(), "single": SINGLE}
)


def proposals(
    sam: Sam,
    picture: Any,
    settings: ProposalSettings = PAPER["three"],
    *,
    name: str = "",
    points_per_batch: int = 64,
    output_mode: str = "coco_rle",
) -> list[Record]:
    """The proposals of a picture (uint8 RGB [H, W, 3]), best first: records as of
    `AutomaticMaskGenerator.generate`, each with its `score`.

    The score is the mean of predicted IoU and stability, or by the random ranking a number in
    [0, 1) that the `name` of the picture decides. Masks without a pixel are no proposals.
    PromptError for settings that are wrong or that the model cannot follow, DataError for what is
    no picture.
    """
    settings.require(sam)
    generator = settings.generator(sam, points_per_batch=points_per_batch, output_mode=output_mode)
    return ranked(generator.generate(picture), settings, name)


def ranked(records: Sequence[Record], settings: ProposalSettings, name: str) -> list[Record]:
    """The records that have a pixel with their scores, best first, `settings.most` at most."""
    found = [record for record in records if record["area"]]
    if settings.ranking == "random":
        # A name may hold bytes that are not UTF-8.
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).digest()
        scores = np.random.default_rng(int.from_bytes(digest[:8], "big")).random(len(found))
    else:
        pairs = [(record["predicted_iou"], record["stability_score"]) for record in found]
        scores = np.array(pairs, np.float64).reshape(-1, 2).mean(1)
    order = np.argsort(-scores, kind="stable")[: settings.most].tolist()
    return [{**found[i], "score": float(scores[i])} for i in order]


def as_results(records: Sequence[Record], image_id: int | str) -> list[dict[str, Any]]:
    """Records with compressed run lengths as a results file of COCO has them, of category 1.

    A box reaches from edge to edge of its outermost pixels, as COCO has it, where the records'
    counts from pixel to pixel.
    """
    return [
        {
            "image_id": image_id,
            "category_id": 1,
            "segmentation": record["segmentation"],
            "bbox": regions.rle_box(record["segmentation"]),
            "score": record["score"],
            "predicted_iou": record["predicted_iou"],
            "stability_score": record["stability_score"],
        }
        for record in records
    ]
