"""How well one box or one click finds a labelled mask (arXiv:2312.00863, section 4.3)."""

import dataclasses
import sys
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, UInt8
from tqdm import tqdm

from esam_jax.data import prompts as drawing
from esam_jax.data.records import Record, Source
from esam_jax.errors import DataError, MissingError
from esam_jax.evaluate.metrics import Mean
from esam_jax.ops import regions
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.sam import Sam

MIN_AREA_PX = 16  # of the picture as given; smaller masks are left out
_PICTURES_AT_ONCE = 4

Click = Literal["uniform", "centre"]


@dataclasses.dataclass(frozen=True)
class Question:
    """One picture, the masks that are asked for, and a box and a click for each."""

    image: UInt8[np.ndarray, "H W 3"]
    masks: Bool[np.ndarray, "Q H W"]
    boxes: list[Prompt]
    clicks: list[Prompt]


def evaluate(
    sam: Sam,
    source: Source,
    *,
    images: int,
    masks_per_image: int,
    seed: int,
    click: Click = "uniform",
    broken: Literal["raise", "skip"] = "raise",
    progress: bool | None = None,
) -> dict[str, Any]:
    """box_miou, point_miou, fill_box, masks, images, and the protocol in words.

    A broken record is an error by default, for leaving it out changes what the numbers mean, and so
    is data without a mask that is large enough: DataError or MissingError. With broken="skip", for
    a run in training that must not end here, broken records are counted as `skipped`, and the means
    are left out where nothing could be measured.
    `progress` forces the bar on stderr on or off.
    """
    chosen = np.random.default_rng(seed).permutation(len(source))[:images].tolist()
    sums = {name: Mean() for name in ("box_miou", "point_miou", "fill_box")}
    skipped, faults = 0, (DataError, MissingError) if broken == "skip" else ()
    hidden = not (sys.stderr.isatty() if progress is None else progress)
    with tqdm(total=len(chosen), desc="evaluate prompts", unit="picture", disable=hidden) as bar:
        for first in range(0, len(chosen), _PICTURES_AT_ONCE):
            chunk = chosen[first : first + _PICTURES_AT_ONCE]
            asked = []
            for i in chunk:
                try:
                    asked.append(ask(source.read(i), masks_per_image, (seed, i), click))
                except faults:
                    skipped += 1
            for name, values in _measure(sam, [item for item in asked if item.boxes]).items():
                sums[name] = sums[name].add(values)
            bar.update(len(chunk))
    masks = sums["fill_box"].count
    if not masks and broken == "raise":
        raise DataError(
            f"none of {len(chosen)} pictures has a mask of {MIN_AREA_PX} pixels or more: "
            "name data with masks"
        )
    return {
        **{name: round(mean.value, 6) for name, mean in sums.items() if mean.count},
        "masks": masks,
        "images": len(chosen) - skipped,
        **({"skipped": skipped} if broken == "skip" else {}),
        "protocol": _protocol(sam, len(source), len(chosen), masks_per_image, seed, click),
    }


def ask(record: Record, most: int, key: tuple[int, int], click: Click) -> Question:
    """Up to `most` masks of a record, drawn by `key` alone, with their prompts."""
    if "masks" not in record.annotations:
        raise DataError(f"{record.name} has no masks: name data with masks")
    masks, picture = record.annotation("masks"), record.picture
    rng = np.random.default_rng(key)
    order = rng.permutation(len(masks)).tolist()
    kept: list[np.ndarray] = []
    for i in order:
        if len(kept) == most:
            break
        (mask,) = masks.decode([i])
        if np.count_nonzero(mask) >= MIN_AREA_PX:
            kept.append(mask)
    points = [
        drawing.centre_point(mask) if click == "centre" else drawing.uniform_point(rng, mask)
        for mask in kept
    ]
    return Question(
        image=picture.rgb(),
        masks=np.stack(kept) if kept else np.zeros((0, picture.height, picture.width), bool),
        boxes=[Prompt(box=_box(mask)) for mask in kept],
        clicks=[Prompt(points=[point]) for point in points],
    )


def _measure(sam: Sam, questions: list[Question]) -> dict[str, list[float]]:
    """IoU of every mask with the answer to its box, to its click, and with its filled box."""
    ious: dict[str, list[float]] = {"box_miou": [], "point_miou": [], "fill_box": []}
    if not questions:
        return ious
    embedding = sam.encode([question.image for question in questions])
    answers = sam.decode(embedding, [question.boxes + question.clicks for question in questions])
    for question, answer in zip(questions, answers, strict=True):
        _, found = answer.best()
        for i, mask in enumerate(question.masks):
            ious["box_miou"].append(regions.iou(found[i], mask))
            ious["point_miou"].append(regions.iou(found[len(question.boxes) + i], mask))
            _, _, width, height = regions.mask_box(mask)
            ious["fill_box"].append(float(mask.sum()) / (width * height))
    return ious


def _box(mask: Bool[np.ndarray, "H W"]) -> np.ndarray:
    """The tight box; a mask of one row or column gets a box one pixel thick, as a box needs."""
    x0, y0, x1, y1 = drawing.tight_box(mask).tolist()
    return np.array([x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)])


def _protocol(sam: Sam, total: int, images: int, most: int, seed: int, click: Click) -> str:
    where = "the pixel farthest from its outside" if click == "centre" else "uniform inside it"
    sign = ">=" if sam.config.decoder.traits.zero_is_inside else ">"
    return (
        f"{images} of {total} pictures and up to {most} masks of each, drawn with seed {seed}; "
        f"masks under {MIN_AREA_PX} pixels left out. One tight box (box_miou), or one foreground "
        f"point, {where} (point_miou), per mask; of three candidates the one with the highest "
        f"predicted IoU, logits {sign} 0 at the picture's own size. IoU averaged over masks. "
        "fill_box: IoU of the filled tight box with the mask."
    )
