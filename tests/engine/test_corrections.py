"""What a person returns: nothing is lost, everything is counted, what is broken is named."""

import concurrent.futures
import copy
import json
import random
import time
from pathlib import Path

import pytest
from helpers import engine_sets as made

from esam_jax import files
from esam_jax.config import CocoConfig
from esam_jax.data import sources
from esam_jax.engine import corrections, exchange
from esam_jax.errors import DataError, ExistsError, MissingError

# Two pictures with two proposals each, and one with none.
LEFT, RIGHT, LOW = (2, 2, 20, 30), (30, 2, 50, 30), (5, 32, 55, 39)
PICTURES = [[made.record(LEFT), made.record(RIGHT)], [made.record(LEFT), made.record(LOW)], []]
POLYGON = [[40.0, 5.0, 58.0, 5.0, 58.0, 20.0]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made.assisted(tmp_path / "set", PICTURES)
    return tmp_path / "set"


def proposed(folder: Path) -> dict:
    return json.loads((folder / exchange.PROPOSED_FILE).read_text())


def give(folder: Path, content: dict, name: str = "back.json") -> dict:
    file = folder.parent / name
    file.write_text(json.dumps(content))
    return corrections.merge(folder, file)


def counts(report: dict) -> dict[str, int]:
    return {name: report[name] for name in corrections.COUNTS if report[name]}


def data(folder: Path) -> dict:
    return json.loads((folder / exchange.INSTANCES_FILE).read_text())


def of(content: dict, number: int) -> list[dict]:
    return [each for each in content["annotations"] if each["image_id"] == number]


def test_every_proposal_is_an_instance_of_coco_with_score_and_state(folder: Path):
    content = proposed(folder)
    assert len(content["images"]) == 3
    assert [each["id"] for each in content["annotations"]] == [1, 2, 3, 4]
    for each in content["annotations"]:
        assert (each["state"], each["iscrowd"], each["score"]) == ("proposed", 0, 0.9)
    assert content["annotations"][0]["bbox"] == [2, 2, 18, 28]
    assert content["annotations"][0]["area"] == 18 * 28


def test_each_kind_of_correction_is_counted_and_kept(folder: Path):
    content = proposed(folder)
    first, second, third, _ = content["annotations"]
    second["segmentation"] = made.rectangle((31, 2, 50, 30))  # changed
    third["category_id"] = 7
    more = {"id": 99, "image_id": 2, "category_id": 7, "segmentation": POLYGON, "colour": "red"}
    content["annotations"] = [first, second, third, more]  # the last proposal is removed
    content["categories"].append({"id": 7, "name": "leaf"})
    report = give(folder, content)
    assert counts(report) == {"accepted": 2, "changed": 1, "added": 1, "removed": 1}
    assert (report["pictures"], report["waiting"], report["broken"]) == (3, 0, [])
    result = data(folder)
    states = [(x["image_id"], x["state"], x["category_id"]) for x in result["annotations"]]
    assert states == [(0, "accepted", 1), (0, "changed", 1), (1, "accepted", 7), (2, "added", 7)]
    added = result["annotations"][-1]
    assert added["segmentation"] == POLYGON and added["colour"] == "red" and added["score"] is None
    assert {"id": 7, "name": "leaf"} in result["categories"]
    assert Path(report["kept"]).read_bytes() == (folder.parent / "back.json").read_bytes()


def test_what_comes_of_it_is_data_that_training_reads(folder: Path):
    give(folder, proposed(folder))
    source = sources.open_source(sources.detect(str(folder / exchange.INSTANCES_FILE)))
    assert isinstance(sources.detect(str(folder / exchange.INSTANCES_FILE)), CocoConfig)
    record = source.read(0)
    assert len(record.annotation("masks")) == 2
    assert record.picture.rgb().shape == (made.HEIGHT, made.WIDTH, 3)


@pytest.mark.parametrize("seed", range(3))
def test_a_tool_may_number_order_and_drop_as_it_likes(folder: Path, seed: int):
    """As CVAT does: ids from 1, its own order, names with a folder, no state and no score."""
    content, rng = proposed(folder), random.Random(seed)
    ids = {image["id"]: number + 1 for number, image in enumerate(content["images"])}
    images = [
        {"id": ids[x["id"]], "file_name": f"default\\{x['file_name']}"} for x in content["images"]
    ]
    keys = ("segmentation", "category_id", "iscrowd")
    annotations = [
        {key: x[key] for key in keys} | {"id": 1000 + i, "image_id": ids[x["image_id"]]}
        for i, x in enumerate(content["annotations"])
    ]
    rng.shuffle(images)
    rng.shuffle(annotations)
    report = give(folder, {"images": images, "annotations": annotations, "categories": []})
    assert counts(report) == {"accepted": 4} and not report["broken"]


def test_polygons_of_a_tool_are_the_proposals_again(folder: Path):
    exchange.write_proposed(folder, exchange.proposed(folder), "polygons")
    content = proposed(folder)
    assert content["annotations"][0]["segmentation"] == [[2, 2, 20, 2, 20, 30, 2, 30]]
    assert counts(give(folder, content)) == {"accepted": 4}
    assert isinstance(data(folder)["annotations"][0]["segmentation"], list)


def test_pictures_come_back_in_parts_and_the_last_word_counts(folder: Path):
    content = proposed(folder)
    one = {**content, "images": content["images"][:1], "annotations": of(content, 0)}
    report = give(folder, one, "one.json")
    assert (report["pictures"], report["data_masks"], report["waiting"]) == (1, 2, 2)
    two = {**content, "images": content["images"][1:2], "annotations": of(content, 1)}
    report = give(folder, two, "two.json")
    assert (report["pictures"], report["data_masks"], report["waiting"]) == (1, 4, 1)
    again = copy.deepcopy(one)
    del again["annotations"][0]
    report = give(folder, again, "again.json")
    assert (report["data_masks"], report["waiting"], report["removed"]) == (3, 1, 1)
    assert [file.name for file in exchange.corrections(folder)] == [
        f"000{number}.json" for number in (1, 2, 3)
    ]
    assert exchange.corrections(folder)[0].read_text() == json.dumps(one)


def test_a_picture_that_was_not_reviewed_waits(folder: Path):
    content = proposed(folder)
    content["images"][1]["reviewed"] = False
    report = give(folder, content)
    assert (report["pictures"], report["not_reviewed"], report["waiting"]) == (2, 1, 1)
    assert not of(data(folder), 1)


def test_the_same_json_twice_is_merged_once(folder: Path):
    first = give(folder, proposed(folder))
    before = data(folder)
    second = give(folder, proposed(folder))
    assert (first["again"], second["again"]) == (False, True)
    assert data(folder) == before and len(exchange.corrections(folder)) == 1


def test_a_kill_between_the_two_files_loses_nothing(folder: Path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(exchange, "write_instances", kill)
        give(folder, proposed(folder))
    assert len(exchange.corrections(folder)) == 1
    report = give(folder, proposed(folder))
    assert report["again"] and report["data_masks"] == 4
    assert len(exchange.corrections(folder)) == 1


def test_a_full_disk_is_reported_and_what_was_there_stays(folder: Path, monkeypatch):
    give(folder, proposed(folder))
    before = (folder / exchange.INSTANCES_FILE).read_bytes()
    content = proposed(folder)
    del content["annotations"][0]

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", full)
        with pytest.raises(MissingError, match=r"No space left.*make room"):
            give(folder, content, "two.json")
    assert (folder / exchange.INSTANCES_FILE).read_bytes() == before
    assert len(exchange.corrections(folder)) == 1
    assert give(folder, content, "two.json")["data_masks"] == 3


BROKEN = {
    "annotation 0 (id 1): it covers no pixel": {"segmentation": [[0, 0, 0, 0, 0, 0]]},
    "its size is [9, 9]": {"segmentation": {"size": [9, 9], "counts": [81]}},
    "must be a list of at least one polygon": {"segmentation": []},
    "annotation 0 (id 1) has no 'segmentation'": {"segmentation": None},
    "belongs to image '77', which is not listed": {"image_id": 77},
    "its 'iscrowd' is 'perhaps'": {"iscrowd": "perhaps"},
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_annotation_is_named_and_the_others_are_used(folder: Path, reason: str):
    content = proposed(folder)
    content["annotations"][0] |= BROKEN[reason]
    if content["annotations"][0]["segmentation"] is None:
        del content["annotations"][0]["segmentation"]
    report = give(folder, content)
    assert len(report["broken"]) == 1 and reason in report["broken"][0]
    assert report["accepted"] == 3 and report["data_masks"] == 3
    # Nobody removed it, unless it is of no picture at all.
    assert report["removed"] == (1 if "not listed" in reason else 0)


def test_a_mask_that_comes_twice_counts_once(folder: Path):
    content = proposed(folder)
    content["annotations"].append({**content["annotations"][0], "id": 50})
    report = give(folder, content)
    assert report["data_masks"] == 4 and "repeats an earlier one" in report["broken"][0]


def test_a_resized_picture_is_named(folder: Path):
    content = proposed(folder)
    content["images"][0] |= {"width": 30, "height": 20}
    report = give(folder, content)
    assert "20 x 30 there, but 40 x 60: it was resized" in report["broken"][0]
    assert (report["pictures"], report["waiting"]) == (2, 1)


def test_pictures_of_another_set_change_nothing(folder: Path):
    content = proposed(folder)
    for image in content["images"]:
        image["file_name"] = "other_" + image["file_name"]
    with pytest.raises(DataError, match=r"no picture of this folder \(3 others, the first 'other_"):
        give(folder, content)
    assert not exchange.corrections(folder) and not (folder / exchange.INSTANCES_FILE).exists()


def test_a_few_pictures_of_another_set_are_named(folder: Path):
    content = proposed(folder)
    content["images"].append({"id": 70, "file_name": "stranger.jpg"})
    content["annotations"].append({"id": 9, "image_id": 70, "segmentation": POLYGON})
    report = give(folder, content)
    assert report["unknown"] == ["stranger.jpg"] and report["accepted"] == 4
    assert not report["broken"]


@pytest.mark.parametrize("text", ["[]", "{", '{"images": []}', '{"images": 3, "annotations": []}'])
def test_what_is_no_coco_json_is_refused(folder: Path, text: str):
    (folder.parent / "back.json").write_text(text)
    with pytest.raises(DataError, match=r"back\.json"):
        corrections.merge(folder, folder.parent / "back.json")
    assert not exchange.corrections(folder)


def test_an_edited_result_is_never_replaced(folder: Path):
    give(folder, proposed(folder))
    edited = data(folder)
    del edited["annotations"][0]
    (folder / exchange.INSTANCES_FILE).write_text(json.dumps(edited))
    with pytest.raises(ExistsError, match="was edited since it was written"):
        give(folder, {**proposed(folder), "annotations": []}, "two.json")
    assert data(folder) == edited
    # As the message says: under another name it is merged like any other.
    (folder / exchange.INSTANCES_FILE).rename(folder.parent / "moved.json")
    report = corrections.merge(folder, folder.parent / "moved.json")
    assert (report["accepted"], report["removed"]) == (3, 1)


def test_proposals_that_were_edited_in_place_are_left_alone(folder: Path):
    content = proposed(folder)
    content["annotations"] = content["annotations"][:1]
    text = json.dumps(content)
    (folder / exchange.PROPOSED_FILE).write_text(text)
    assert not exchange.write_proposed(folder, exchange.proposed(folder))
    assert (folder / exchange.PROPOSED_FILE).read_text() == text
    report = corrections.merge(folder, folder / exchange.PROPOSED_FILE)
    assert counts(report) == {"accepted": 1, "removed": 3}


def test_a_folder_without_proposals_is_refused(tmp_path: Path):
    (tmp_path / "back.json").write_text("{}")
    with pytest.raises(MissingError, match="name a folder that esam engine assist"):
        corrections.merge(tmp_path, tmp_path / "back.json")


@pytest.mark.parametrize("category", [[1], {"a": 1}, "7", 1.5, True, None, 10**30])
def test_a_category_that_is_none_is_that_of_objects(folder: Path, category):
    """Also what came back before must not make the folder unusable."""
    content = proposed(folder)
    content["annotations"][0]["category_id"] = category
    assert counts(give(folder, content)) == {"accepted": 4}
    assert {each["category_id"] for each in data(folder)["annotations"]} == {1}
    assert counts(give(folder, proposed(folder))) == {"accepted": 4}


@pytest.mark.parametrize("identity", [[1], {"a": 1}, None])
def test_a_broken_object_with_a_number_that_is_none_is_left_out(folder: Path, identity):
    content = proposed(folder)
    content["annotations"][0] |= {"id": identity, "segmentation": []}
    report = give(folder, content)
    assert report["accepted"] == 3 and len(report["broken"]) == 1
    content["annotations"][0] |= {"segmentation": POLYGON, "iscrowd": [1]}
    assert "annotation 0: its 'iscrowd' is '[1]'" in give(folder, content)["broken"][0]


def test_a_picture_with_one_side_of_another_size_is_named(folder: Path):
    content = proposed(folder)
    del content["images"][0]["height"]
    content["images"][0]["width"] = 5
    (broken,) = give(folder, content)["broken"]
    assert "is None x 5 there, but 40 x 60" in broken


def test_what_came_back_stays_in_order_however_often(folder: Path):
    content = proposed(folder)
    give(folder, content)
    (folder / exchange.KEPT / "0001.json").rename(folder / exchange.KEPT / "9999.json")
    content["annotations"] = content["annotations"][1:]
    assert Path(give(folder, content)["kept"]).name == "10000.json"
    assert len(data(folder)["annotations"]) == 3
    content["annotations"] = content["annotations"][1:]
    assert Path(give(folder, content)["kept"]).name == "10001.json"
    assert len(data(folder)["annotations"]) == 2


def test_of_two_merges_at_once_both_are_kept(folder: Path, monkeypatch):
    """Each would take the same number while the other has not written yet."""
    listed = exchange.corrections

    def slowly(folder: Path) -> list[Path]:
        found = listed(folder)
        time.sleep(0.1)
        return found

    monkeypatch.setattr(exchange, "corrections", slowly)
    content = proposed(folder)
    fewer = {**content, "annotations": content["annotations"][1:]}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        reports = [
            pool.submit(give, folder, each, f"{i}.json") for i, each in enumerate((content, fewer))
        ]
        names = {Path(each.result()["kept"]).name for each in reports}
    assert names == {"0001.json", "0002.json"} == {file.name for file in listed(folder)}


@pytest.mark.parametrize(("bottom", "expected"), [(16, "changed"), (15, "added")])
def test_from_half_of_its_pixels_on_a_mask_is_the_proposal(folder: Path, bottom, expected):
    content = proposed(folder)
    content["annotations"][0]["segmentation"] = made.rectangle((2, 2, 20, bottom))
    wanted = {"accepted": 3, expected: 1} | ({"removed": 1} if expected == "added" else {})
    assert counts(give(folder, content)) == wanted
