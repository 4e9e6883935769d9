"""What a person is asked: all that a model found, or only what it is not sure of."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from helpers import engine_sets as made

from esam_jax.cli import engine_semi
from esam_jax.engine import asking, corrections, exchange, overlap
from esam_jax.engine.asking import Confidence
from esam_jax.errors import ConfigError, DataError
from esam_jax.ops import regions

LEFT, RIGHT, LOW = (2, 2, 20, 30), (30, 2, 50, 30), (5, 32, 55, 39)
RULES = Confidence(least_region=0.05)
ALL = (0, 0, made.WIDTH, made.HEIGHT)


def existing(box=LEFT, number: int = 0, **more) -> dict:
    """COCO json of one object, in a category of the user's own."""
    image = {"id": 5, "file_name": f"train/{number}.png"}
    each = {"id": 1, "image_id": 5, "category_id": 1, "segmentation": made.rectangle(box)}
    categories = [{"id": 1, "name": "leaf"}]
    return {"images": [image], "annotations": [each | more], "categories": categories}


def semi(folder, records, annotations=None, rules=RULES):
    made.found(folder, records)
    where = None if annotations is None else "existing.json"
    return asking.semi_automatic(folder, annotations or {}, where, rules)


def kinds(content: dict, number: int = 0) -> list[tuple]:
    own = [each for each in content["annotations"] if each["image_id"] == number]
    names = {each["id"]: each["name"] for each in content["categories"]}
    return [(x["state"], x.get("reason"), names[x["category_id"]]) for x in own]


def test_what_is_annotated_stays_and_what_is_sure_is_added(tmp_path):
    records = [made.record((3, 2, 21, 30)), made.record(RIGHT), made.record(LOW, 0.6)]
    content, report = semi(tmp_path, [records], existing())
    assert kinds(content)[:3] == [
        ("given", None, "leaf"),
        ("automatic", None, "object"),
        ("asked", "low_confidence", "question"),
    ]
    assert content["annotations"][0]["segmentation"] == made.rectangle(LEFT)
    assert content["annotations"][1]["segmentation"] == made.rectangle(RIGHT)
    assert (report["given"], report["automatic"], report["low_confidence"]) == (1, 1, 1)


@pytest.mark.parametrize(("iou", "stability"), [(0.87, 0.99), (0.99, 0.94)])
def test_both_thresholds_decide_about_confidence(tmp_path, iou: float, stability: float):
    content, _ = semi(tmp_path, [[made.record(LEFT, iou, stability)]])
    assert kinds(content)[0] == ("asked", "low_confidence", "question")


def test_uncovered_parts_are_exactly_what_no_mask_has(tmp_path):
    """Two columns cut the picture into three parts, of which one is too small to ask about."""
    records = [made.record((20, 0, 25, 40)), made.record((58, 0, 59, 40), 0.6)]
    content, report = semi(tmp_path, [records])
    asked = [x for x in content["annotations"] if x.get("reason") == "uncovered"]
    found = [regions.from_rle(each["segmentation"]) for each in asked]
    assert [x["segmentation"] for x in asked] == [
        made.rectangle((0, 0, 20, 40)),
        made.rectangle((25, 0, 58, 40)),
    ]
    assert report["uncovered"] == 2 and not (found[0] & found[1]).any()


def test_doubts_about_one_object_are_one_question(tmp_path):
    records = [made.record(LEFT, 0.6), made.record((2, 2, 19, 30), 0.7), made.record(RIGHT, 0.5)]
    content, report = semi(tmp_path, [records])
    assert report["low_confidence"] == 2
    asked = [x["segmentation"] for x in content["annotations"][:2]]
    assert asked == [made.rectangle((2, 2, 19, 30)), made.rectangle(RIGHT)]


def test_a_person_sees_only_pictures_with_questions(tmp_path):
    content, report = semi(tmp_path, [[made.record(ALL)], [made.record(LEFT)], []])
    shown = exchange.waiting(content)
    assert [image["id"] for image in shown["images"]] == [1, 2]
    assert {each["state"] for each in shown["annotations"]} == {"automatic", "asked"}
    assert report["settled"] == 1
    # The picture without a mask is one question.
    assert kinds(content, 2) == [("asked", "uncovered", "question")]
    assert corrections.instances(content, [])["images"][0]["id"] == 0


ANSWERS = {
    "silence": ({}, {"unanswered": 1}),
    "its state": ({"state": "accepted"}, {"accepted": 1}),
    "its category": ({"category_id": 2}, {"accepted": 1}),
    "another outline": ({"segmentation": made.rectangle((3, 2, 20, 30))}, {"changed": 1}),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_only_an_answer_makes_a_question_an_object(tmp_path, answer: str):
    records = [[made.record(LEFT, 0.6), made.record((20, 0, 60, 40)), made.record(LOW, 0.4)]]
    content, _ = semi(tmp_path, records, rules=Confidence(least_region=1.0))
    change, expected = ANSWERS[answer]
    back = exchange.waiting(content)
    back["categories"] = [*back["categories"], {"id": 3, "name": "leaf"}]
    change = {"category_id": 3} if "category_id" in change else change
    back["annotations"] = [
        {**x, **change} if x["state"] == "asked" else x for x in back["annotations"]
    ]
    found = corrections.compare(content, back, "back.json")
    assert found.counts == {"accepted": 1} | {
        key: value + (key == "accepted") for key, value in expected.items()
    } | {"removed": 0}
    names = {x["id"]: x["name"] for x in corrections.instances(content, [back])["categories"]}
    assert "question" not in names.values()


def test_what_was_given_as_polygons_comes_back_as_given(tmp_path):
    polygons = existing(segmentation=[[2, 2, 20, 2, 20, 30, 2, 30]])
    content, _ = semi(tmp_path, [[made.record(RIGHT)]], polygons)
    found = corrections.compare(content, exchange.waiting(content), "back.json")
    assert found.counts["accepted"] == 2 and not found.counts["removed"]
    own = corrections.instances(content, [exchange.waiting(content)])["annotations"]
    assert [each["state"] for each in own] == ["given", "accepted"]


def test_defaults_are_those_of_the_page():
    """docs/zero_shot.md, and the command's are the library's."""
    rules = dataclasses.asdict(Confidence())
    assert [*rules.values()] == [0.88, 0.95, 0.1, 0.01]
    command = engine_semi.Semi(path=Path(), model="", out=Path())
    assert {name: getattr(command, name) for name in rules} == rules
    assert (command.asked_iou_thresh, command.asked_stability_thresh) == (0.5, 0.6)


@pytest.mark.parametrize(("column", "state"), [(39, "automatic"), (38, None)])
def test_a_tenth_of_a_mask_may_be_annotated_already(tmp_path, column: int, state: str | None):
    records = [made.record((column, 0, column + 10, 40))]
    content, _ = semi(tmp_path, [records], existing((0, 0, 40, 40)))
    assert [kind for kind, *_ in kinds(content)][:2] == ["given", state or "asked"]


def test_the_best_of_what_the_model_found_comes_first(tmp_path):
    records = [made.record(LEFT, 0.9), made.record(LOW, 0.99), made.record(RIGHT, 0.95)]
    content, _ = semi(tmp_path, [records])
    scores = [x["score"] for x in content["annotations"] if x["state"] == "automatic"]
    assert scores == [0.99, 0.95, 0.9]


def test_annotations_of_other_pictures_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"existing\.json has no picture of this folder"):
        semi(tmp_path, [[made.record(LEFT)]], existing(number=8))


def test_a_broken_annotation_is_named(tmp_path):
    broken = existing(segmentation=[[1, 2, 3]])
    content, report = semi(tmp_path, [[made.record(LEFT)]], broken)
    assert "needs three or more" in report["broken_annotations"][0]
    assert kinds(content)[0] == ("automatic", None, "object")


def test_pictures_of_one_name_cannot_be_told_apart(tmp_path):
    made.found(tmp_path, [[], []])
    for number in (0, 1):
        file = tmp_path / exchange.IMAGES / f"sa_{number}.json"
        file.write_text(file.read_text().replace(f'"{number}.png"', f'"{number}/x.png"'))
    with pytest.raises(DataError, match=r"0/x\.png and 1/x\.png have one file name"):
        asking.semi_automatic(tmp_path, existing(), "existing.json", RULES)


def test_shares_must_be_shares():
    with pytest.raises(ConfigError, match=r"most_overlap is 1\.5, but must be from 0 to 1"):
        Confidence(most_overlap=1.5)


def test_overlaps_are_those_of_dense_masks():
    rng = np.random.default_rng(0)
    some, others = (rng.random((n, 9, 14)) < 0.4 for n in (4, 3))
    packed = [[regions.to_rle(mask) for mask in masks] for masks in (some, others)]
    iou, share = overlap.ious(*packed), overlap.shares(*packed)
    for i, one in enumerate(some):
        for j, other in enumerate(others):
            assert iou[i, j] == pytest.approx(regions.iou(one, other))
            assert share[i, j] == pytest.approx((one & other).sum() / one.sum())
    union = overlap.union(packed[0])
    assert union is not None and (regions.from_rle(union) == some.any(0)).all()
    assert overlap.union([]) is None and overlap.ious([], packed[0]).shape == (0, 4)


def test_pairs_are_the_best_first_and_each_is_used_once():
    iou = np.array([[0.9, 0.8, 0.0], [0.95, 0.6, 0.0], [0.0, 0.0, 0.4]])
    assert overlap.pairs(iou, 0.5) == [(1, 0), (0, 1)]
    assert overlap.pairs(iou, 0.3) == [(1, 0), (0, 1), (2, 2)]
    assert overlap.pairs(np.zeros((0, 3)), 0.5) == []
