"""The protocol of text to mask: how masks are found and compared, and which texts are meant.

EfficientSAM (supplement, section 2) and FastSAM (section 3.3) show pictures of it and measure
nothing, so the protocol is our own.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from esam_jax.errors import DataError, PromptError
from esam_jax.evaluate import text_scores
from esam_jax.evaluate.ground_truth import Id, Truth
from esam_jax.predict.everything import arguments
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.sam import Sam
from esam_jax.predict.zero_shot import crops, text
from esam_jax.words import counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSettings:
    """How masks are found and compared with texts: as `sam.text` does it without arguments.

    crop_style, enlarge, background, templates and min_area are those of `text.ranked`; the others
    those of `AutomaticMaskGenerator`.
    """

    crop_style: crops.Style = "white_frame"
    enlarge: float | None = None
    background: crops.Background | None = None
    templates: tuple[str, ...] = text.PLAIN
    min_area: int = text.MIN_AREA_PX
    points_per_side: int = 32
    pred_iou_thresh: float | None = None
    stability_score_thresh: float | None = None

    def require(self) -> None:
        """PromptError names the argument that is wrong, of those that no model is needed for."""
        arguments.require_whole(0, {"min_area": self.min_area})
        crops.require(self.crop_style, self.enlarge, self.background)
        text.checked_texts("object", self.templates)

    def generator(self, sam: Sam) -> AutomaticMaskGenerator:
        """What finds the masks; PromptError names an argument that is wrong."""
        return AutomaticMaskGenerator(
            sam,
            self.points_per_side,
            pred_iou_thresh=self.pred_iou_thresh,
            stability_score_thresh=self.stability_score_thresh,
            output_mode="coco_rle",
        )

    def ranking(self) -> dict[str, Any]:
        """The arguments of `text.ranked`."""
        names = ("crop_style", "enlarge", "background", "templates", "min_area")
        return {name: getattr(self, name) for name in names}

    def kept(self, sam: Sam) -> dict[str, Any]:
        """What decides about the results: all of it, and the thresholds that the model brings."""
        found, names = self.generator(sam), ("pred_iou_thresh", "stability_score_thresh")
        return {**dataclasses.asdict(self), **{name: getattr(found, name) for name in names}}


def texts_of(truth: Truth, pictures: Sequence[Id], settings: TextSettings) -> dict[int, str]:
    """The text for each category that has objects in these pictures: its name with spaces for
    underscores, so that LVIS's "bow_(weapon)" is "bow (weapon)".

    DataError where there is none, for a name that is the number of its category, and for one that
    CLIP cannot read in one of the templates.
    """
    numbers = {truth.pictures[each].number for each in pictures}
    used = {
        each["category_id"]
        for each in truth.dataset["annotations"]
        if each["image_id"] in numbers and not each["iscrowd"]
    }
    if not used:
        raise DataError(f"no picture of {truth.file} has an object, so no text is meant by it")
    found: dict[int, str] = {}
    for each in truth.dataset["categories"]:
        category, name = each["id"], each["name"]
        if category not in used:
            continue
        label = f"{truth.file}: category {category}"
        found[category] = " ".join(name.replace("_", " ").split())
        if name == str(category):
            raise DataError(f"{label} has no name but its number: name what is to be found")
        try:
            text.checked_texts([found[category]], settings.templates)
        except PromptError as error:
            raise DataError(f"{label}: its name {error.problem}") from error
    return found


def words(settings: TextSettings, generator: AutomaticMaskGenerator, images: int | None) -> str:
    """The protocol."""
    which = "all pictures" if images is None else f"{counted(images, 'picture')} drawn with seed 0"
    grid = f"{settings.points_per_side} x {settings.points_per_side}"
    crop = settings.crop_style.replace("_", " ")
    if settings.crop_style != "white_frame":
        enlarge = crops.ENLARGED if settings.enlarge is None else settings.enlarge
        crop += f" enlarged {enlarge:g} times, background {settings.background or 'mean'}"
    templates = ", ".join(json.dumps(each, ensure_ascii=False) for each in settings.templates)
    return (
        f"{which} that have an object, crowds are none; a text for each category that has objects "
        f"in a picture: its name with spaces for underscores, in {templates}; masks of everything: "
        f"{grid} clicks, predicted IoU from {generator.pred_iou_thresh:g}, stability from "
        f"{generator.stability_score_thresh:g}, NMS of boxes at {generator.box_nms_thresh:g}, more "
        f"than {settings.min_area} pixels; crops: {crop}; {text_scores.WORDS}. Means over pairs of "
        "picture and category. Broken pictures are left out."
    )
