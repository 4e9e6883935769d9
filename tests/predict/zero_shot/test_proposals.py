"""Proposals: the plain algorithm's, ranked and cut; the single-output ablation; what is refused."""

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
from helpers import nano
from PIL import Image

from esam_jax.data.sources import scene_painter
from esam_jax.errors import DataError, PromptError
from esam_jax.ops import grids, regions
from esam_jax.predict import load
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.sam import Sam
from esam_jax.predict.zero_shot import proposals
from esam_jax.predict.zero_shot.proposals import SINGLE, ProposalSettings

SMALL = ProposalSettings(points_per_side=6)
SIZE = (48, 80)


@functools.cache
def model() -> Sam:
    """Trained, its single mask, too."""
    return load("quickstart_clicks")


@functools.cache
def picture(seed: int) -> np.ndarray:
    pixels = scene_painter.draw(seed, 64, split="heldout")[0]
    return np.asarray(Image.fromarray(pixels).resize(SIZE[::-1]))


def of(settings: ProposalSettings, seed: int = 0, **options: Any) -> list[dict[str, Any]]:
    return proposals.proposals(model(), picture(seed), settings, **options)


def slow(settings: ProposalSettings, seed: int) -> list[tuple[float, float, np.ndarray]]:
    """Every mask of every click at full size, then suppression, as the paper words it."""
    height, width = SIZE
    embedding, found = model().encode(picture(seed)), []
    for point in grids.points(settings.points_per_side) * [width, height]:
        masks = model().decode(
            embedding, [Prompt(points=[point])], multimask=settings.output == "three"
        )
        for logits, score in zip(masks.logits[0], masks.scores[0], strict=True):
            if not (logits > 0).any():
                continue
            x, y, wide, high = regions.mask_box(logits > 0)
            box = np.array([x, y, x + wide - 1, y + high - 1], float)
            stability = (logits > 1).sum() / (logits > -1).sum()
            found.append((float(score), float(stability), logits > 0, box))
    found.sort(key=lambda item: -item[0])
    kept: list[Any] = []
    for item in found:
        if not any(overlap(item[3], other[3]) > settings.box_nms_thresh for other in kept):
            kept.append(item)
    return [item[:3] for item in kept]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    wide, high = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    union = sum(areas) - wide * high
    return wide * high / union if union else 0.0


@pytest.mark.parametrize(
    "settings",
    [SMALL, dataclasses.replace(SMALL, output="single", box_nms_thresh=0.95)],
    ids=["three", "single"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_proposals_are_those_of_the_plain_algorithm(seed: int, settings: ProposalSettings):
    """In another order: by the mean of predicted IoU and stability."""
    wanted = slow(settings, seed)
    wanted.sort(key=lambda item: -(item[0] + item[1]))
    got = of(settings, seed, output_mode="binary_mask")
    assert len(got) == len(wanted) > 10
    for record, (score, stability, mask) in zip(got, wanted, strict=True):
        np.testing.assert_allclose(record["predicted_iou"], score, rtol=1e-4, atol=1e-5)
        # A pixel may lie on a threshold to within rounding.
        assert abs(record["stability_score"] - stability) <= 1.5 / mask.sum()
        assert record["score"] == pytest.approx((score + stability) / 2, abs=1 / mask.sum())
        assert (record["segmentation"] != mask).sum() <= 1


def test_only_where_there_are_more_the_best_are_kept():
    every = of(SMALL)
    scores = [record["score"] for record in every]
    assert scores == sorted(scores, reverse=True)
    assert of(dataclasses.replace(SMALL, most=len(every))) == every
    assert of(dataclasses.replace(SMALL, most=7)) == every[:7]


def test_nothing_is_left_out_for_its_quality():
    """With the thresholds of segment-everything most of them would be."""
    found = of(SMALL)
    assert min(record["predicted_iou"] for record in found) < 0.7
    assert min(record["stability_score"] for record in found) < 0.7
    assert all(record["area"] for record in found)


def test_random_ranking_depends_on_the_name_alone():
    random = dataclasses.replace(SMALL, ranking="random", most=9)
    first = of(random, name="a.jpg")
    assert first == of(random, name="a.jpg") and first != of(random, name="b\udcff.jpg")
    every = of(dataclasses.replace(random, most=1000), name="a.jpg")
    assert every[:9] == first and len({record["score"] for record in every}) == len(every)
    assert all(0 <= record["score"] < 1 for record in every)
    areas = sorted(record["area"] for record in every)
    assert areas == sorted(record["area"] for record in of(SMALL))


def test_settings_of_the_paper():
    assert proposals.PAPER["three"] == ProposalSettings() and proposals.PAPER["single"] == SINGLE
    assert (
        ProposalSettings().points_per_side,
        ProposalSettings().box_nms_thresh,
        ProposalSettings().most,
    ) == (
        64,
        0.9,
        1000,
    )
    assert (SINGLE.points_per_side, SINGLE.box_nms_thresh, SINGLE.ranking) == (128, 0.95, "random")
    assert "64 x 64" in ProposalSettings().words() and "at 0.9;" in ProposalSettings().words()
    assert "the single mask" in SINGLE.words() and "drawn by the name" in SINGLE.words()


def test_results_are_of_coco():
    records = of(dataclasses.replace(SMALL, most=5))
    for record, each in zip(records, proposals.as_results(records, 17), strict=True):
        mask = regions.from_rle(each["segmentation"])
        assert each["bbox"] == list(regions.mask_box(mask)) and mask.sum() == record["area"]
        x, y, wide, high = record["bbox"]
        assert each["bbox"] == [x, y, wide + 1, high + 1]
        assert (each["image_id"], each["category_id"]) == (17, 1)
        assert each["score"] == record["score"]


@pytest.mark.parametrize("size", [(1, 1), (3, 90)])
def test_a_picture_of_few_pixels(size: tuple[int, int]):
    found = proposals.proposals(model(), nano.picture(*size), ProposalSettings(points_per_side=2))
    for record in found:
        assert 1 <= record["area"] <= size[0] * size[1]


def test_what_is_wrong_is_refused_by_name():
    for settings, message in (
        (ProposalSettings(most=0), "most is 0, but must be an integer from 1"),
        (
            ProposalSettings(points_per_side=0),
            "points_per_side is 0, but must be an integer from 1",
        ),
        (ProposalSettings(box_nms_thresh=1.5), "box_nms_thresh is 1.5, but must be from 0 to 1"),
        (_changed("output", "four"), "output is 'four', but must be one of"),
        (_changed("ranking", "best"), "ranking is 'best', but must be one of"),
    ):
        with pytest.raises(PromptError, match=message):
            settings.require(model())
    with pytest.raises(PromptError, match="never learned the single mask: use 'three'"):
        proposals.proposals(load("quickstart_teacher"), picture(0), SINGLE)
    with pytest.raises(DataError):
        proposals.proposals(model(), np.zeros((4, 4)), SMALL)


def _changed(name: str, value: Any) -> ProposalSettings:
    """As where no types are checked."""
    changed = ProposalSettings()
    object.__setattr__(changed, name, value)
    return changed
