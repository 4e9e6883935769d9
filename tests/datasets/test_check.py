"""`check.run` finds what is broken, and counts what is there as a slow reading does."""

import dataclasses
import itertools
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import label_maps, made_sets
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from esam_jax.data import sources
from esam_jax.data.labels import Label, SemanticMap
from esam_jax.data.mask_sets import LabelledMasks
from esam_jax.data.pictures import Pixels
from esam_jax.data.records import Record
from esam_jax.datasets import check, examine, totals
from esam_jax.errors import DataError, DiskError
from esam_jax.ops import regions

DATA = Path(os.environ.get("ESAM_TEST_DATA", "absent"))


def opened(path, **values):
    return sources.open_source(dataclasses.replace(sources.detect(str(path)), **values))


@dataclasses.dataclass(frozen=True)
class Made:
    """A source of given records; an error in the place of one is raised."""

    records: tuple

    def __len__(self):
        return len(self.records)

    def name(self, index):
        record = self.records[index]
        return record.name if isinstance(record, Record) else f"bad {index}"

    def read(self, index):
        record = self.records[index]
        if isinstance(record, Exception):
            raise record
        return record


def record(name="r", size=(6, 9), **annotations):
    return Record(name, Pixels(np.zeros((*size, 3), np.uint8)), annotations)


def test_masks_are_counted_as_dense_ones(tmp_path):
    count = 12
    found = check.run(opened(made_sets.sa1b(tmp_path, count)))
    dense = [np.stack(made_sets.masks(number)) for number in range(count)]
    areas = [int(mask.sum()) for masks in dense for mask in masks]
    pixels = sum(masks[0].size for masks in dense)
    sums = [masks.sum(0) for masks in dense]
    masks = found["masks"]
    assert found["records"] == count and found["bad"] == 0 and found["reasons"] == []
    assert masks["count"] == len(areas)
    assert masks["sizes"] == {
        "small": sum(area < 1024 for area in areas),
        "medium": sum(1024 <= area < 9216 for area in areas),
        "large": sum(area >= 9216 for area in areas),
    }
    numbers = sorted(len(each) for each in dense)
    assert masks["per_picture"] == {"min": 1, "median": numbers[(count - 1) // 2], "max": 5}
    shares = [mask.sum() / mask.size for each in dense for mask in each]
    limits = (0, 0.001, 0.01, 0.1, 0.5, 0.9, 1.0)
    expected = [
        sum(low < share <= high for share in shares) for low, high in itertools.pairwise(limits)
    ]
    assert list(masks["shares"].values()) == expected and len(set(expected)) > 3
    assert masks["pictures_overlapping"] == sum((each > 1).any() for each in sums) > 0
    assert masks["covered"] == round(sum((each > 0).sum() for each in sums) / pixels, 4)
    assert masks["covered_twice"] == round(sum((each > 1).sum() for each in sums) / pixels, 4)
    heights = sorted(each.shape[1] for each in dense)
    assert found["pictures"]["height"]["median"] == heights[(count - 1) // 2]
    assert found["pictures"]["formats"] == {"PNG RGB": count}


@given(arrays.arrays(np.uint8, (4, 7), elements=st.integers(0, 4)))
def test_disjoint_masks_make_up_what_is_covered(labels):
    made = record(size=(4, 7), masks=LabelledMasks(labels))
    found = examine.masks_of(made)
    present = set(np.unique(labels).tolist()) - {0}
    assert found.count == len(present) and found.twice == 0
    assert found.empty == int(labels.max()) - len(present) and found.broken == 0
    assert found.covered == int((labels > 0).sum())
    assert found.complete == int(len(np.unique(labels)) == 1 and labels.max() > 0)
    assert sum(found.shares) == sum(found.sizes) == found.count


@pytest.mark.parametrize(("area", "size"), [(1023, 0), (1024, 1), (9215, 1), (9216, 2)])
def test_the_limits_of_sizes_are_cocos(area, size):
    labels = np.zeros((100, 100), np.uint8)
    labels.ravel()[:area] = 1
    found = examine.masks_of(record(size=(100, 100), masks=LabelledMasks(labels)))
    assert found.sizes == tuple(int(i == size) for i in range(3))


def test_broken_and_empty_masks_and_ids(tmp_path):
    path = made_sets.sa1b(tmp_path, 1) / "sa_0.json"
    content = json.loads(path.read_text())
    size = [content["image"]["height"], content["image"]["width"]]
    pixels = size[0] * size[1]
    full, empty, short = ([0, pixels], [pixels], [3, 4])
    for identity, counts in ((0, full), (5, empty), (6, short), (7, full)):
        annotation = {"id": identity, "segmentation": {"size": size, "counts": counts}}
        content["annotations"].append(annotation)
    path.write_text(json.dumps(content))
    noted = []
    found = check.run(opened(tmp_path), note=noted.append)
    masks = found["masks"]
    odd = ("count", "empty", "broken", "complete", "ids_repeated")
    assert [masks[name] for name in odd] == [3, 1, 1, 2, 1]
    assert found["findings"] == {"objects_left_out": 2} and found["bad"] == 0
    assert [each.kind for each in noted] == ["objects_left_out"] * 2
    assert all(each.record == "sa_0.jpg" for each in noted) and "id 5" in noted[0].text


def test_what_cannot_be_used_is_named(tmp_path):
    folder = made_sets.sa1b(tmp_path, 6)
    (folder / "sa_0.json").write_text("{")
    (folder / "sa_1.jpg").write_bytes((folder / "sa_1.jpg").read_bytes()[:150])
    (folder / "sa_2.json").unlink()
    content = json.loads((folder / "sa_3.json").read_text())
    for annotation in content["annotations"]:
        annotation["segmentation"]["counts"] = "!"
    (folder / "sa_3.json").write_text(json.dumps(content))
    (folder / "sa_4.jpg").write_bytes(b"")
    found = check.run(opened(folder))
    assert (found["records"], found["bad"]) == (6, 5) and found["bad_share"] == 5 / 6
    assert [each["record"] for each in found["reasons"]] == [f"sa_{i}.jpg" for i in range(5)]
    assert all(each["record"].split(".")[0] in each["text"] for each in found["reasons"])
    assert all(each["kind"] == "broken" for each in found["reasons"])
    assert found["masks"]["count"] == len(made_sets.masks(5))


def test_nothing_but_broken_ones(tmp_path):
    folder = made_sets.image_folder(tmp_path, 3)
    for path in folder.rglob("*.*"):
        path.write_bytes(b"no picture")
    found = check.run(opened(folder))
    assert found["bad_share"] == 1 and "pictures" not in found and "masks" not in found


def test_one_picture(tmp_path):
    found = check.run(opened(made_sets.image_folder(tmp_path, 1)))
    assert found["records"] == 1 and "masks" not in found
    assert found["pictures"]["formats"] == {"JPEG RGB": 1}


def test_the_same_bytes_and_the_same_names_are_found():
    rng = np.random.default_rng(0)
    arrays_ = [rng.integers(0, 256, (4, 4, 3), np.uint8) for _ in range(3)]
    made = [
        Record(name, Pixels(arrays_[i]))
        for name, i in (("a", 0), ("b", 1), ("c", 0), ("d", 2), ("b", 2), ("e", 0))
    ]
    noted = []
    found = check.run(Made(tuple(made)), note=noted.append)["duplicates"]
    assert found["contents"] == {"records": 5, "groups": [["a", "c", "e"], ["d", "b"]]}
    assert found["names"] == {"records": 2, "groups": [["b", "b"]]}
    assert [(each.record, each.kind) for each in noted] == [
        ("c", "same_contents"),
        ("e", "same_contents"),
        ("b", "same_contents"),
        ("b", "same_names"),
    ]


def test_labels_and_classes_are_counted():
    values = np.array([[1, 1, 2], [7, 9, 2]], np.uint8)
    semantic = SemanticMap(values, {1: "road", 2: "sky", 3: "tree"}, frozenset({9}))
    made = [
        record(str(i), (2, 3), label=Label(i % 2, ("no", "yes")[i % 2]), semantic=semantic)
        for i in range(3)
    ]
    found = check.run(Made(tuple(made)))
    assert found["labels"] == {"no": 2, "yes": 1}
    classes = found["classes"]
    assert classes["pictures"] == {"7": 3, "road": 3, "sky": 3}
    assert classes["shares"] == {"7": 0.1667, "road": 0.3333, "sky": 0.3333}
    assert classes["void"] == 0.1667 and classes["without_name"] == 0.1667


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("semantic", SemanticMap(np.zeros((6, 8), np.uint8), {}, frozenset())),
        ("boundaries", np.zeros((2, 5, 9), bool)),
    ],
)
def test_annotations_of_another_size_are_broken(kind, value):
    found = check.run(Made((record(**{kind: value}),)))
    assert found["bad"] == 1 and "but the picture is 6 x 9" in found["reasons"][0]["text"]


def test_annotators_are_counted():
    made = [record(str(i), boundaries=np.zeros((i, 6, 9), bool)) for i in (5, 7, 4)]
    assert check.run(Made(tuple(made)))["annotators"] == {"min": 4, "median": 5, "max": 7}


def test_a_disk_that_no_longer_answers_ends_the_check():
    def errors(count):
        return (record("0"), *(DiskError("no answer") for _ in range(count)), record("z"))

    assert check.run(Made(errors(9)))["bad"] == 9
    with pytest.raises(DiskError, match=r"10 records in a row .* bad 10: no answer"):
        check.run(Made(errors(10)))
    mixed = (*errors(8), DataError("x")) * 2
    assert check.run(Made(mixed))["bad"] == 18


@given(st.lists(st.integers(0, 9), min_size=1))
def test_the_spread_of_values(values):
    found = totals.spread(Counter(values))
    middle = sorted(values)[(len(values) - 1) // 2]
    assert found == {"min": min(values), "median": middle, "max": max(values)}


@pytest.mark.slow
def test_any_number_of_processes_finds_the_same(tmp_path):
    folder = made_sets.sa1b(tmp_path, 60)
    (folder / "sa_7.json").write_text("[]")
    (folder / "sa_30.jpg").write_bytes((folder / "sa_31.jpg").read_bytes())
    notes = [[], [], []]
    found = [
        check.run(opened(folder), workers=n, note=note.append)
        for n, note in zip((1, 2, 3), notes, strict=True)
    ]
    assert found[0] == found[1] == found[2] and notes[0] == notes[1] == notes[2]
    assert found[0]["bad"] == 2 and len(notes[0]) >= 2


def test_label_maps(tmp_path):
    found = check.run(opened(label_maps.label_maps(tmp_path)))
    assert found["records"] == 3 and found["masks"]["count"] == 3
    assert found["masks"]["pictures_without"] == 1 and found["findings"] == {}
    assert found["duplicates"]["contents"]["records"] == 3  # all are drawn alike


@pytest.mark.skipif(not DATA.is_dir(), reason="ESAM_TEST_DATA names no folder with test pictures")
@pytest.mark.parametrize(
    ("path", "masks", "sizes"),
    [
        ("coco_instances/val", 672, [309, 219, 144]),
        ("sa1b_layout", 187, [39, 80, 68]),
        ("nuclei_dsb2018", 1230, [1102, 128, 0]),
    ],
)
def test_shared_sets_are_fine(path, masks, sizes):
    source = opened(DATA / path)
    found = check.run(source)
    assert found["bad"] == 0 and found["records"] == len(source)
    assert found["masks"]["count"] == masks
    assert list(found["masks"]["sizes"].values()) == sizes
    assert found["duplicates"]["contents"]["records"] == 0
    if path == "sa1b_layout":
        areas = [
            int(regions.from_rle(each["segmentation"]).sum())
            for json_ in (DATA / path).glob("*.json")
            for each in json.loads(json_.read_text())["annotations"]
        ]
        assert sum(area < 1024 for area in areas) == sizes[0]
