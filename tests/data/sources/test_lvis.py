"""What a json in COCO's form says beside masks: categories, LVIS's lists, ids that occur twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import whole

from esam_jax.config import CocoConfig
from esam_jax.data.labels import Federated
from esam_jax.data.mask_sets import describe
from esam_jax.data.sources.coco import CocoInstances
from esam_jax.ops import regions


def opened(json_file: Path, change: Callable[[dict], Any] = lambda c: None) -> CocoInstances:
    content = json.loads(json_file.read_text())
    for number, each in enumerate(content["annotations"]):
        each |= {"id": 100 + number, "category_id": 3 + 9 * number}
    content["categories"] = [{"id": i, "name": f"thing {i}"} for i in (3, 12, 21, 30, 90)]
    change(content)
    json_file.write_text(json.dumps(content))
    return CocoInstances(CocoConfig(path=str(json_file)))


def noted(source: CocoInstances, kind: str) -> list[str]:
    return [f"{each.count}: {each.text}" for each in source.findings if each.kind == kind]


def test_categories_are_kept_with_their_gaps(coco_json: Path):
    source = opened(coco_json)
    assert source.categories == {i: f"thing {i}" for i in (3, 12, 21, 30, 90)}
    records = [source.read(i) for i in range(2)]
    found = [describe(record.annotation("masks"), 0).category for record in records]
    assert found == [3, 21]
    assert not [x for record in records for x in record.findings if x.kind != "crowds_left_out"]


@pytest.mark.parametrize(
    ("value", "kept"), [(4, 4), (-1, None), ("3", None), (3.0, None), (10**400, None), ([], None)]
)
def test_an_unknown_category_costs_nothing_and_is_named(coco_json: Path, value: Any, kept: Any):
    source = opened(coco_json, lambda c: c["annotations"][0].update(category_id=value))
    record = source.read(0)
    assert describe(record.annotation("masks"), 0).category == kept
    (text,) = (each.text for each in record.findings if each.kind == "categories_unknown")
    assert text.startswith("a.png: mask 0 (id 100) has the category ")
    assert text.endswith(", which is not listed; it is used")


@pytest.mark.parametrize("change", [lambda c: c.pop("categories"), lambda c: None])
def test_objects_without_a_category_are_no_finding(coco_json: Path, change: Callable):
    def both(content: dict) -> None:
        change(content)
        content["annotations"][0].pop("category_id")

    source = opened(coco_json, both)
    record = source.read(0)
    assert describe(record.annotation("masks"), 0).category is None
    assert [each.kind for each in record.findings] == ["crowds_left_out"]
    # Without a list no id is unknown.
    assert describe(source.read(1).annotation("masks"), 0).category == 21


@pytest.mark.parametrize(
    ("entry", "kind", "said"),
    [
        (7, "labels_left_out", "category 5 has no 'id'"),
        ({"id": "3"}, "labels_left_out", "category 5 has a 'id' of type str"),
        ({"id": 2**31}, "labels_left_out", "has the id 2147483648, which is none"),
        ({"id": 3, "name": "dog"}, "ids_repeated", "has the id 3 of 'thing 3', which keeps it"),
    ],
)
def test_a_bad_category_costs_itself(coco_json: Path, entry: Any, kind: str, said: str):
    source = opened(coco_json, lambda c: c["categories"].append(entry))
    assert said in noted(source, kind)[0] and len(source) == 2
    assert source.categories == {i: f"thing {i}" for i in (3, 12, 21, 30, 90)}


def test_categories_of_another_type_are_not_read(coco_json: Path):
    source = opened(coco_json, lambda c: c.update(categories={"3": "dog"}))
    assert source.categories is None and len(source) == 2
    assert "'categories' of type dict" in noted(source, "labels_left_out")[0]


# -------------------------------------------------------------------------------------- federated


def lists(content: dict, negative: Any, not_exhaustive: Any) -> None:
    content["images"][0] |= {
        "neg_category_ids": negative,
        "not_exhaustive_category_ids": not_exhaustive,
    }


def test_the_lists_of_lvis_are_kept(coco_json: Path):
    source = opened(coco_json, lambda c: lists(c, [12, 90], [3]))
    assert source.read(0).annotation("federated") == Federated(frozenset({12, 90}), frozenset({3}))
    assert "federated" not in source.read(1).annotations


@pytest.mark.parametrize("bad", [None, 7, "12", {}, ["12"], [12.0], [True], [[12]]])
def test_lists_that_are_none_are_left_out_and_named(coco_json: Path, bad: Any):
    for both in ((bad, [3]), ([3], bad)):
        record = opened(coco_json, lambda c, both=both: lists(c, *both)).read(0)
        assert "federated" not in record.annotations and whole.masks(record, 0).any()
        texts = [each.text for each in record.findings if each.kind == "labels_left_out"]
        assert len(texts) == (bad is not None)
        assert all("category_ids are no list of ids, and are not read" in text for text in texts)


# ------------------------------------------------------------------------------------------- ids


def test_one_id_of_several_objects_is_named_and_all_are_used(coco_json: Path):
    source = opened(coco_json, lambda c: [a.update(id=5) for a in c["annotations"][:3]])
    assert noted(source, "ids_repeated") == [f"1: {coco_json}: the id 5 stands for several objects"]
    assert [len(source.read(i).annotation("masks")) for i in range(2)] == [1, 1]


def test_equal_objects_are_left_out_with_their_picture_and_not_named_twice(coco_json: Path):
    source = opened(coco_json, lambda c: c["annotations"].append(c["annotations"][0]))
    assert not noted(source, "ids_repeated")
    record = source.read(0)
    assert len(record.annotation("masks")) == 1
    assert "repeats an earlier one of that id" in record.findings[-1].text


def test_one_file_of_two_ids_is_one_picture_with_the_objects_of_both(coco_json: Path):
    square = [[1, 1, 9, 1, 9, 9, 1, 9]]

    def change(content: dict) -> None:
        content["images"].append({**content["images"][0], "id": 70})
        content["annotations"].append({"id": 200, "image_id": 70, "segmentation": square})

    source = opened(coco_json, change)
    names = [source.name(i) for i in range(len(source))]
    assert names == ["a.png", "b.png"] and len(set(names)) == len(names)
    boxes = [regions.mask_box(mask) for mask in whole.masks(source.read(0))]
    assert boxes == [(2, 3, 20, 10), (1, 1, 8, 8)]
    assert noted(source, "ids_repeated") == [
        f"1: {coco_json}: image 4 is a.png again: it has the ids 7, 70"
    ]
