"""Segment everything: masks for a grid of clicks, filtered by quality and overlap.

The fully automatic stage of SAM's data engine (arXiv:2304.02643, section 4), with the names and
the results of segment-anything's `automatic_mask_generator.py`, so that its users change one line.

A few programs do it, and only numbers leave the device between them: decoding all clicks, measuring
the masks whose predicted IoU passes, suppression, and marking where the survivors' pixels turn.
Masks stay at the decoder's size and are enlarged a few at a time, first to be measured, then to
become run lengths. So memory does not grow with picture size times number of clicks, as the
original's does.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from esam_jax.errors import PromptError
from esam_jax.machine import out_of_memory
from esam_jax.ops import grids, regions
from esam_jax.predict import frames, full_size, picture_array
from esam_jax.predict.everything import arguments, candidates, clicks, search
from esam_jax.predict.everything.candidates import Candidates, Mask, Survivors
from esam_jax.predict.everything.presets import RULES, preset
from esam_jax.predict.everything.tally import Tally
from esam_jax.predict.full_size import Axes
from esam_jax.predict.sam import Sam

_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
_STABILITY_RULES = ("full_size", "low_res")
Record = dict[str, Any]


class AutomaticMaskGenerator:
    """Every mask of a picture: `generate(image)`.

    Arguments are segment-anything's, and two more. `pred_iou_thresh` and `stability_score_thresh`
    are the model's own where it has some (`Sam.thresholds`), and otherwise SAM's, 0.88 and 0.95.
    `stability_rule` is where stability is measured: "full_size", on logits of the picture's size as
    the original does; or "low_res", on the decoder's own logits, which spares the enlarging of
    every mask that fails and gives slightly other scores. `rules` is whose algorithm it is, since
    EfficientSAM's differs in more than thresholds (`presets.py` lists how).
    """

    def __init__(
        self,
        model: Sam,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float | None = None,
        stability_score_thresh: float | None = None,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: list[np.ndarray] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = "binary_mask",
        *,
        stability_rule: str = "full_size",
        rules: str = "segment_anything",
    ) -> None:
        """PromptError says which argument is wrong. `point_grids`: (x, y) in [0, 1], by layer."""
        arguments.require_whole(1, {"points_per_batch": points_per_batch})
        arguments.require_layers("crop_n_layers", crop_n_layers)
        arguments.require_whole(
            1, {"crop_n_points_downscale_factor": crop_n_points_downscale_factor}
        )
        arguments.require_one_of("output_mode", output_mode, _MODES)
        arguments.require_one_of("stability_rule", stability_rule, _STABILITY_RULES)
        arguments.require_one_of("rules", rules, RULES)
        self._rules = RULES[rules]
        self.point_grids = self._grids(
            points_per_side, point_grids, crop_n_layers, crop_n_points_downscale_factor
        )
        self.model = model
        self.tally = Tally()  # of the last call of `generate`
        self.points_per_batch = points_per_batch
        default = {**preset("segment_anything"), **model.thresholds}
        self.pred_iou_thresh: float = (
            default["pred_iou_thresh"] if pred_iou_thresh is None else pred_iou_thresh
        )
        self.stability_score_thresh: float = (
            default["stability_score_thresh"]
            if stability_score_thresh is None
            else stability_score_thresh
        )
        self.stability_score_offset = stability_score_offset
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = crop_n_layers
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.min_mask_region_area = min_mask_region_area
        self.output_mode = output_mode
        self.stability_rule = stability_rule
        self.rules, self.largest_share = rules, self._rules.largest_share
        self._check_numbers()

    def _check_numbers(self) -> None:
        """PromptError names the threshold or ratio that means nothing."""
        values = vars(self)
        arguments.require_finite({"pred_iou_thresh": self.pred_iou_thresh})
        if self.pred_iou_thresh > 1:  # no lower bound: scores are raw numbers
            raise PromptError.of(
                "pred_iou_thresh",
                f"is {self.pred_iou_thresh!r}, but must be at most 1, the IoU of a perfect mask",
            )
        shares = ("stability_score_thresh", "box_nms_thresh", "crop_nms_thresh")
        arguments.require_between(0.0, 1.0, {name: values[name] for name in shares})
        # A crop that shares more with its neighbours would be larger than the picture.
        arguments.require_between(0.0, 0.9, {"crop_overlap_ratio": self.crop_overlap_ratio})
        names = ("stability_score_offset", "min_mask_region_area")
        arguments.require_between(0.0, 2.0**31, {name: values[name] for name in names})

    @classmethod
    def efficientsam(cls, model: Sam, **options: Any) -> "AutomaticMaskGenerator":
        """With the settings of EfficientSAM's notebook, and those of `options` instead of them."""
        return cls(model, **{**preset("efficientsam"), **options})

    def _grids(
        self, side: int | None, given: Any, layers: int, shrink: int
    ) -> list[Float[np.ndarray, "X 2"]]:
        """The clicks of each layer, in the unit square."""
        if (side is None) == (given is None):
            raise PromptError("give points_per_side or point_grids: exactly one of them")
        if side is None:
            return arguments.checked_grids(given, layers)
        arguments.require_whole(1, {"points_per_side": side})
        try:
            return grids.layers(side, layers, shrink, self._rules.grid)
        except ValueError as error:
            raise PromptError.of("points_per_side", f"is {side}, but {error}") from error

    @out_of_memory.advice()
    def generate(self, image: Any) -> list[Record]:
        """One record a mask: segmentation, area, bbox (x, y, w, h), predicted_iou, point_coords,
        stability_score, crop_box. `segmentation` is in the form of `output_mode`.

        image: uint8 RGB [H, W, 3]; DataError for anything else. DeviceMemoryError gives a remedy
        when the device is full. As in the original, a box is measured between its outermost pixels.
        """
        image = picture_array.of(image, "image")
        height, width = image.shape[:2]
        found = [
            mask
            for crop, layer in self._crops(image)
            for mask in self._masks(self._of_crop(image, crop, layer))
        ]
        if self.crop_n_layers and found:
            # The smaller the crop, the sharper the mask.
            crops = np.array([mask.crop for mask in found], np.float32)
            sizes = (crops[:, 2] - crops[:, 0]) * (crops[:, 3] - crops[:, 1])
            found = candidates.suppressed(found, 1 / sizes, self.crop_nms_thresh)
            self.tally.dropped["crop_nms_thresh"] += len(crops) - len(found)
        late = self._rules.suppress == "after_cleaning"
        if found and (self.min_mask_region_area > 0 or late):
            limit = max(self.box_nms_thresh, self.crop_nms_thresh)
            limit = self.box_nms_thresh if late else limit
            before = len(found)
            found = candidates.cleaned(found, self.min_mask_region_area, limit, height)
            self.tally.dropped["box_nms_thresh"] += before - len(found)
        return [self._record(mask, (height, width)) for mask in found]

    def survivors(self, image: Any) -> Iterator[Survivors]:
        """What `generate` makes its masks of, one crop after the other: logits on the device.

        Duplicates that several crops give are still among them; small regions are as they are.
        DataError as of `generate`.
        """
        image = picture_array.of(image, "image")
        for crop, layer in self._crops(image):
            yield self._of_crop(image, crop, layer)

    def _crops(
        self, image: UInt8[np.ndarray, "H W 3"]
    ) -> Iterator[tuple[Int[np.ndarray, " 4"], int]]:
        """The boxes that are searched, each with its layer."""
        self.tally = Tally()
        height, width = image.shape[:2]
        found = grids.crops(height, width, self.crop_n_layers, self.crop_overlap_ratio)
        yield from zip(*found, strict=True)

    def _of_crop(
        self, image: UInt8[np.ndarray, "H W 3"], crop: Int[np.ndarray, " 4"], layer: int
    ) -> Survivors:
        """What one crop gives, less duplicates."""
        height, width = image.shape[:2]
        x0, y0, x1, y1 = crop.tolist()
        embedding = self.model.encode(np.ascontiguousarray(image[y0:y1, x0:x1]))
        points = self._points(layer, x1 - x0, y1 - y0)
        axes = self._enlarging(crop)
        parts = [
            self._selected(passing, points, crop, axes, (height, width))
            for passing in self._passing(embedding, points)
        ]
        if self._rules.suppress == "before_cleaning":
            kept = self._best(parts)
            parts = [part.only(places) for part, places in zip(parts, kept, strict=True)]
        return Survivors(parts, crop, axes, (height, width))

    def _masks(self, survivors: Survivors) -> list[Mask]:
        """Those of one crop, in the frame of the picture."""
        crop, corner = survivors.crop, survivors.crop[:2]
        masks = [
            Mask(
                runs=runs,
                box=found.boxes[i] + np.tile(corner, 2),
                score=float(found.scores[i]),
                stability=float(found.stability[i]),
                point=found.points[i] + corner,
                crop=crop,
            )
            for found in survivors.parts
            for i, runs in enumerate(self._runs(found, crop, survivors.axes, survivors.size))
        ]
        if self._rules.suppress == "before_cleaning":
            # Best first, as suppression has them: equal ones are in the order of their clicks.
            masks.sort(key=lambda mask: -mask.score)
        return masks

    def _best(self, parts: list[Candidates]) -> list[Int[np.ndarray, " _"]]:
        """Places of those in each part that suppression leaves, in their order."""
        boxes = np.concatenate([part.boxes for part in parts])
        scores = np.concatenate([part.scores for part in parts])
        kept = np.sort(candidates.survivors(boxes, scores, self.box_nms_thresh))
        self.tally.dropped["box_nms_thresh"] += len(scores) - len(kept)
        ends = np.cumsum([len(part) for part in parts])
        cut = np.split(kept, np.searchsorted(kept, ends[:-1]))
        return [
            places - end + len(part) for places, end, part in zip(cut, ends, parts, strict=True)
        ]

    def _points(self, layer: int, width: int, height: int) -> Float[np.ndarray, "X 2"]:
        """The clicks of a crop, in its frame."""
        points = self.point_grids[layer] * [width, height]
        if self._rules.click == "exact":
            return points
        # A picture of a few pixels would be missed by the last click.
        return np.minimum(points + 0.5, np.nextafter([width, height], 0))

    def _passing(
        self, embedding: Any, points: Float[np.ndarray, "Q 2"]
    ) -> Iterator[search.Passing]:
        """Candidates with a high enough predicted IoU, as many at a time as the device holds."""
        [(height, width)] = embedding.sizes
        queries = clicks.as_queries(points, self.model.config, height, width)
        return search.passing(
            *(self.model, embedding.features, *queries),
            at_once=self.points_per_batch,
            candidates=self._rules.candidates,
            threshold=self.pred_iou_thresh if self.pred_iou_thresh > 0 else None,
        )

    def _selected(
        self,
        passing: search.Passing,
        points: Float[np.ndarray, "Q 2"],
        crop: Int[np.ndarray, " 4"],
        axes: Axes,
        size: tuple[int, int],
    ) -> Candidates:
        """Those that pass every test of their own, in the frame of the crop."""
        scores, M = passing.scores, passing.scores.shape[1]
        seen = scores.max(1) if self._rules.candidates == "best" else scores.reshape(-1)
        self.tally.candidates += len(seen)
        self.tally.see("pred_iou_thresh", seen)
        self.tally.dropped["pred_iou_thresh"] += len(seen) - len(passing.which)
        found = Candidates(
            logits=passing.logits,
            rows=np.arange(len(passing.which)),
            scores=scores.reshape(-1)[passing.which - passing.first * M],
            points=points[passing.which // M],
            stability=np.zeros(len(passing.which), np.float32),
            boxes=np.zeros((len(passing.which), 4), np.int32),
        )
        if self.stability_rule == "low_res":
            found = self._stable(dataclasses.replace(found, stability=self._low_res(found, crop)))
            found = dataclasses.replace(found, boxes=self._measured(found, axes)[1])
        else:
            stability, boxes = self._measured(found, axes)
            found = self._stable(dataclasses.replace(found, stability=stability, boxes=boxes))
        cut = grids.cut_by_crop(found.boxes, crop, *size)
        self.tally.dropped["crop_n_layers"] += int(cut.sum())
        return self._without_all(found.only(~cut), crop, axes, size).alone()

    def _without_all(
        self, found: Candidates, crop: Int[np.ndarray, " 4"], axes: Axes, size: tuple[int, int]
    ) -> Candidates:
        """Those that cover less of the picture than the rules allow, in pixels of their masks."""
        if self.largest_share is None:
            return found
        least = self.largest_share * size[0] * size[1]
        sides = found.boxes[:, 2:] - found.boxes[:, :2] + 1
        wide = np.flatnonzero(sides.prod(1) >= least)  # no other mask can have so many
        if not len(wide):
            return found
        areas = [runs[1::2].sum() for runs in self._runs(found.only(wide), crop, axes, size)]
        kept = np.ones(len(found), bool)
        kept[wide] = np.array(areas) < least
        self.tally.dropped["largest_share"] += len(kept) - int(kept.sum())
        return found.only(kept)

    def _stable(self, found: Candidates) -> Candidates:
        # NaN, of a mask that is empty at both thresholds, is not stable.
        threshold = np.float32(self.stability_score_thresh)
        self.tally.see("stability_score_thresh", found.stability)
        if self._rules.stability == "above":
            kept = found.stability > threshold
        elif threshold <= 0:
            return found
        else:
            kept = found.stability >= threshold
        self.tally.dropped["stability_score_thresh"] += len(kept) - int(kept.sum())
        return found.only(kept)

    def _low_res(self, found: Candidates, crop: Int[np.ndarray, " 4"]) -> Float[np.ndarray, " X"]:
        """Stability on the part of the decoder's logits that lies on the picture, of all rows."""
        if not len(found):
            return found.stability
        valid = np.array(frames.valid(*_size(crop), self.model.config), np.int32)
        offset = float(self.stability_score_offset)
        count = np.int32(len(found))
        stability = candidates.low_res_stability(found.logits, count, valid, offset=offset)
        return np.asarray(stability)[: len(found)]

    def _measured(
        self, found: Candidates, axes: Axes
    ) -> tuple[Float[np.ndarray, " X"], Int[np.ndarray, "X 4"]]:
        """Stability and box of each at full size."""
        return full_size.measured(
            found.logits,
            found.rows,
            axes,
            offset=self.stability_score_offset,
            zero_is_inside=self._rules.zero_is_inside,
        )

    def _runs(
        self, found: Candidates, crop: Int[np.ndarray, " 4"], axes: Axes, size: tuple[int, int]
    ) -> list[Int[np.ndarray, " L"]]:
        """Run lengths of each in the complete picture."""
        x, y = crop[:2].tolist()
        parts = found.in_parts(full_size.sizes(len(found), axes, for_runs=True))
        runs = full_size.runs(parts, axes, self._rules.zero_is_inside, (x, y), size)
        return runs[: len(found)]

    def _enlarging(self, crop: Int[np.ndarray, " 4"]) -> Axes:
        return frames.enlarging(*_size(crop), self.model.config)

    def _record(self, mask: Mask, size: tuple[int, int]) -> Record:
        x0, y0, x1, y1 = mask.box.tolist()
        left, top, right, bottom = mask.crop.tolist()
        return {
            "segmentation": _FORMS[self.output_mode](mask.runs, size),
            "area": int(mask.runs[1::2].sum()),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "predicted_iou": mask.score,
            "point_coords": [mask.point.tolist()],
            "stability_score": mask.stability,
            "crop_box": [left, top, right - left, bottom - top],
        }


def _plain(runs: Int[np.ndarray, " L"], size: tuple[int, int]) -> dict[str, Any]:
    return {"size": list(size), "counts": runs.tolist()}


_FORMS = {
    "binary_mask": lambda runs, size: np.ascontiguousarray(regions.fill(runs, *size)),
    "uncompressed_rle": _plain,
    "coco_rle": lambda runs, size: regions.compress(_plain(runs, size)),
}


def _size(crop: Int[np.ndarray, " 4"]) -> tuple[int, int]:
    """Height and width."""
    x0, y0, x1, y1 = crop.tolist()
    return y1 - y0, x1 - x0
