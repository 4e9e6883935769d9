"""Anybody's results are scored without a model, and what is wrong with them is named."""

import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esam_jax import cli
from esam_jax.errors import DataError
from esam_jax.evaluate import ground_truth, results
from esam_jax.ops import regions

GOLDEN = Path(__file__).parents[1] / "golden"
HEIGHT, WIDTH = 30, 40


def golden(name: str, folder: Path) -> tuple[list[str], dict]:
    """The options that name its files, and what is expected."""
    data = json.loads((GOLDEN / f"{name}.json").read_text())
    (folder / "truth.json").write_text(json.dumps(data["gt"]))
    (folder / "found.json").write_text(json.dumps(data["detections"]))
    return named(folder), data["expected"]


def named(folder: Path) -> list[str]:
    return ["--results", str(folder / "found.json"), "--data", str(folder / "truth.json")]


def scored(argv: list[str], capsys: pytest.CaptureFixture, said: str = "") -> dict:
    """The result; what is `said` on stderr, as a pattern, is all or nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # as of a user
        assert cli.main(["evaluate", *argv, "--json"]) == 0
    out, err = capsys.readouterr()
    assert re.search(said, err) if said else err == ""
    return json.loads(out)


@pytest.mark.parametrize("case", ["coco_ap_a", "coco_ap_b"])
def test_instances_by_the_rules_of_coco(case: str, tmp_path, capsys):
    """No picture lies there: none is needed."""
    argv, expected = golden(case, tmp_path)
    result = scored(["instances", *argv], capsys)
    for name, value in expected["segm"].items():
        if name != "AP_per_category":
            key = name.replace("AR1", "AR@1") if name[2:].isdigit() and name[1] == "R" else name
            assert result[key] == pytest.approx(value, abs=1e-9), name
            assert result["ap"][name] == result[key]
            assert result["box_ap"][name] == pytest.approx(expected["bbox"][name], abs=1e-9)
    assert result["iou_type"] == "segm" and result["by"].startswith("pycocotools")
    assert "AR@100" in result and "100 detections a picture" in result["protocol"]


@pytest.mark.parametrize("limit", [None, 4])
@pytest.mark.parametrize("case", ["lvis_a", "lvis_b"])
def test_instances_by_the_rules_of_lvis(case: str, limit: int | None, tmp_path, capsys):
    pytest.importorskip("hotcoco")
    argv, expected = golden(case, tmp_path)
    most = [] if limit is None else ["--max-detections", str(limit)]
    result = scored(["instances", *argv, *most], capsys)  # the data are of LVIS
    for kind, held in (("segm", "ap"), ("bbox", "box_ap")):
        wanted = expected[kind if limit is None else f"{kind}_max_dets_{limit}"]
        assert set(result[held]) == set(wanted)
        for name, value in wanted.items():
            assert result[held][name] == pytest.approx(value, abs=1e-9), name
    assert result["APr"] == result["ap"]["APr"] and f"AR@{limit or 300}" in result
    assert f"{limit or 300} detections a picture" in result["protocol"]


def test_the_rules_of_coco_can_be_named_for_lvis(tmp_path, capsys):
    argv, expected = golden("lvis_a", tmp_path)
    result = scored(["instances", *argv, "--annotations", "coco"], capsys)
    assert "APr" not in result and result["by"].startswith("pycocotools")
    assert result["AP"] != pytest.approx(expected["segm"]["AP"], abs=1e-3)


@pytest.mark.parametrize("case", ["coco_ap_a", "lvis_b"])
def test_proposals(case: str, tmp_path, capsys):
    argv, expected = golden(case, tmp_path)
    result = scored(["proposals", *argv], capsys)
    wanted = {"AR@1000": "AR1000_all", "ARs": "AR1000_small", "ARl": "AR1000_large"}
    if case == "lvis_b":
        wanted |= {"ARr": "AR1000_rare", "ARc": "AR1000_common", "ARf": "AR1000_frequent"}
    else:
        wanted |= {"AR@10": "AR10_all"}
        assert "ARr" not in result
    for name, key in wanted.items():
        assert result[name] == pytest.approx(expected["segm_class_agnostic"][key], abs=1e-9)
        assert result["ar"][name] == result[name]
        box = expected["bbox_class_agnostic"][key]
        assert result["box_ar"][name] == pytest.approx(box, abs=1e-9)
    groups = [result["objects"][name] for name in "sml"]
    assert result["objects"]["all"] == sum(groups) and result["published"]["rows"] == []


def test_proposals_for_people(tmp_path, capsys):
    argv, expected = golden("lvis_a", tmp_path)
    assert cli.main(["evaluate", "proposals", *argv]) == 0
    shown, said = capsys.readouterr()
    head, masks, boxes = shown.splitlines()[:3]
    assert head.split() == ["AR@10", "AR@100", "AR@1000", "ARs", "ARm", "ARl", "ARr", "ARc", "ARf"]
    assert f"{expected['segm_class_agnostic']['AR1000_rare']:.4f}" in masks
    assert f"{expected['bbox_class_agnostic']['AR1000_rare']:.4f}" in boxes
    assert "78 proposals for 38 objects in 10 pictures" in shown and said == ""
    assert "anybody's results; class-agnostic average recall" in shown


# ------------------------------------------------------------------------------- a small data set


def square(x: int, y: int, side: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + side, x : x + side] = True
    return mask


SQUARES = [(2, 2, 8), (20, 5, 10), (15, 15, 12)]


def truth(folder: Path) -> list[dict[str, Any]]:
    """Two pictures, the last without an object; returns results that are right."""
    masks = [square(*place) for place in SQUARES]
    objects = [
        {
            "id": i + 1,
            "image_id": "a",
            "category_id": 7,
            "segmentation": regions.to_rle(mask),
            "area": int(mask.sum()),
            "bbox": list(regions.mask_box(mask)),
            "iscrowd": 0,
        }
        for i, mask in enumerate(masks)
    ]
    size = {"height": HEIGHT, "width": WIDTH}
    images = [{"id": name, "file_name": f"{name}.png", **size} for name in ("a", "b")]
    content = {"images": images, "annotations": objects, "categories": [{"id": 7, "name": "it"}]}
    (folder / "truth.json").write_text(json.dumps(content))
    return [
        {key: each[key] for key in ("image_id", "category_id", "segmentation")}
        | {"score": 0.9 - i / 10}
        for i, each in enumerate(objects)
    ]


def write(folder: Path, found: Any) -> None:
    (folder / "found.json").write_text(json.dumps(found))


@pytest.mark.parametrize("task", ["instances", "proposals"])
def test_right_results_are_perfect_and_none_are_zero(task: str, tmp_path, capsys):
    key = "AP" if task == "instances" else "AR@1000"
    for found, value in ((truth(tmp_path), 1.0), ([], 0.0)):
        write(tmp_path, found)
        result = scored([task, *named(tmp_path)], capsys)
        assert result[key] == pytest.approx(value) and result["iou_type"] == "segm"
        assert result["unanswered"] == (1 if found else 2)
    # Of the other two sizes there is no object.
    names = ("APm", "APl") if task == "instances" else ("ARm", "ARl")
    assert {result[name] for name in names} == {-1}


def test_polygons_plain_runs_and_boxes_are_read(tmp_path, capsys):
    found = truth(tmp_path)
    x, y, side = SQUARES[0]
    found[0]["segmentation"] = [[x, y, x + side, y, x + side, y + side, x, y + side]]
    found[1]["segmentation"] = regions.to_runs(square(*SQUARES[1]))
    found[2]["bbox"] = [0, 0, 3.5, 0]  # as stated, also where it is not the mask's
    del found[0]["category_id"]
    found[1]["category_id"] = 99
    write(tmp_path, found)
    result = scored(["proposals", *named(tmp_path)], capsys)
    assert result["AR@10"] == 1 and result["box_ar"]["AR@10"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("task", ["instances", "proposals"])
def test_boxes_alone(task: str, tmp_path, capsys):
    found = truth(tmp_path)
    for each in found:
        each["bbox"] = regions.rle_box(each.pop("segmentation"))
    found[0]["segmentation"] = None  # as some programs write it
    write(tmp_path, found)
    result = scored([task, *named(tmp_path)], capsys)
    key, held = ("AP", "ap") if task == "instances" else ("AR@100", "ar")
    assert result[key] == pytest.approx(1) and result["iou_type"] == "bbox"
    assert result[held] is None and result[f"box_{held}"][key] == result[key]
    assert cli.main(["evaluate", task, *named(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "boxes  " in shown and "\nmasks" not in shown


BAD = {
    "another picture": ({"image_id": "c"}, "its image_id is 'c', which truth.json does not list"),
    "a picture of no kind": ({"image_id": ["a"]}, r"its image_id is \['a'\]"),
    "no score": ({"score": None}, "its score has None, but must be of finite numbers"),
    "a score that is not finite": ({"score": float("nan")}, "its score has nan"),
    "another size": (
        {"segmentation": {"size": [9, 9], "counts": [40, 41]}},
        r"its segmentation has the size \[9, 9\], but the picture is \[30, 40\]",
    ),
    "damaged runs": ({"segmentation": {"size": [30, 40], "counts": "?"}}, "run"),
    "a segmentation of no kind": ({"segmentation": 7}, "a polygon annotation must be a list"),
    "no segmentation": ({"segmentation": None}, "it has no segmentation, as other entries have"),
    "a box of negative width": ({"bbox": [1, 1, -2, 3]}, "is -2 wide and 3 high"),
    "a box of three": ({"bbox": [1, 1, 2]}, r"must be \[x, y, width, height\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_result_is_named_and_changes_no_number(case: str, tmp_path, capsys):
    changes, message = BAD[case]
    found = truth(tmp_path)
    write(tmp_path, found)
    wanted = scored(["proposals", *named(tmp_path)], capsys)
    found.insert(1, {**found[0], "score": 0.95, **changes})
    write(tmp_path, found)
    said = f"1 detection left out, the first: .*entry 1: .*{message}"
    result = scored(["proposals", *named(tmp_path)], capsys, said)
    same = ("ar", "box_ar", "objects", "proposals")
    assert {key: result[key] for key in same} == {key: wanted[key] for key in same}
    assert result["detections_left_out"] == 1 and "entry 1" in result["reasons"][0]


def test_an_unknown_category_matters_to_instances_alone(tmp_path):
    found = truth(tmp_path)
    found[0]["category_id"] = 99
    write(tmp_path, found)
    read = ground_truth.read(tmp_path / "truth.json", files_of_pictures=False)
    assert len(results.read(tmp_path / "found.json", read, any_category=True).entries) == 3
    chosen = results.read(tmp_path / "found.json", read)
    assert len(chosen.entries) == 2 and "category_id is 99" in chosen.findings[0].text
    del found[0]["category_id"]
    write(tmp_path, found)
    chosen = results.read(tmp_path / "found.json", read)
    assert len(chosen.entries) == 2 and "category_id is None" in chosen.findings[0].text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ("{}", "holds a dict: give a list of"),
        ('[{"image_id": 3}]', "has no result for a picture of .*entry 0: its image_id is 3"),
        ("[7]", "entry 0: it is 7, but must be an object"),
        ('[{"image_id": "a", "score": 1, "category_id": 7}]', "neither a segmentation nor a bbox"),
    ],
)
def test_files_without_a_result_are_refused(text: str, message: str, tmp_path, capsys):
    truth(tmp_path)
    (tmp_path / "found.json").write_text(text)
    read = ground_truth.read(tmp_path / "truth.json", files_of_pictures=False)
    with pytest.raises(DataError, match=message):
        results.read(tmp_path / "found.json", read)
    assert cli.main(["evaluate", "proposals", *named(tmp_path)]) == 2
    assert "found.json" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["instances", "proposals"])
def test_a_folder_of_files_is_read_as_one(task: str, tmp_path, capsys):
    found = truth(tmp_path)
    write(tmp_path, found)
    wanted = scored([task, *named(tmp_path)], capsys)
    folder = tmp_path / "parts"
    folder.mkdir()
    argv = ["evaluate", task, "--results", str(folder), "--data", str(tmp_path / "truth.json")]
    assert cli.main(argv) == 2
    assert "is a folder without a .json" in capsys.readouterr().err
    for i, part in enumerate((found[:1], [], found[1:])):
        (folder / f"{i}.json").write_text(json.dumps(part))
    (folder / ".1.json.0a.new").write_text("half")
    result = scored(argv[1:], capsys)
    other = ("results", "seconds")
    assert {**result, **{key: wanted[key] for key in other}} == wanted
    (folder / "2.json").write_text("[")
    assert cli.main(argv) == 2
    assert "2.json is not valid JSON" in capsys.readouterr().err


def test_a_file_that_is_too_large_is_refused(tmp_path, monkeypatch):
    write(tmp_path, truth(tmp_path))
    monkeypatch.setattr(results, "_MAX_BYTES", 9)
    with pytest.raises(DataError, match=r"more than 9 bytes: split it, and name the folder"):
        results.listed(tmp_path / "found.json", "")


def test_crowds_and_objects_without_a_mask_are_no_objects(tmp_path, capsys):
    found = truth(tmp_path)
    write(tmp_path, found)
    content = json.loads((tmp_path / "truth.json").read_text())
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["segmentation"] = []
    (tmp_path / "truth.json").write_text(json.dumps(content))
    said = r"1 object left out, the first: .*\(id 2\)"
    result = scored(["proposals", *named(tmp_path)], capsys, said)
    assert result["objects"]["all"] == 1 and result["AR@10"] == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["proposals"], "give --model or --results"),
        (["instances"], "give --model and --boxes, or --results alone"),
        (["instances", "--model", "m"], "give --model and --boxes, or --results alone"),
        (["instances", "--results", "r", "--model", "m"], "takes no --model: leave it out"),
        (["proposals", "--results", "r", "--out", "o"], "takes no --out: leave it out"),
        (
            ["instances", "--results", "r", "--annotations", "lvis", "--max-detections", "301"],
            "--max-detections is 301, but must be 1 to 300",
        ),
        (
            ["instances", "--model", "m", "--boxes", "b", "--max-detections", "4"],
            "without --results there is no --max-detections: leave it out",
        ),
        (["proposals", "--results", "r"], "truth.json"),
    ],
)
def test_what_does_not_fit_together_is_refused(argv: list[str], message: str, tmp_path, capsys):
    assert cli.main(["evaluate", *argv, "--data", str(tmp_path / "truth.json")]) == 2
    assert message in capsys.readouterr().err


# ------------------------------------------------------------------------------------- real data

DATA = Path(os.environ.get("ESAM_TEST_DATA", "absent"))
LVIS = DATA / "lvis_mini" / "lvis_v0.5_val_mini.json"
real = pytest.mark.skipif(
    not DATA.is_dir(), reason="ESAM_TEST_DATA names no folder with test pictures"
)


@real
def test_the_objects_of_lvis_themselves_are_perfect(tmp_path, capsys):
    """Polygons of 1230 categories, and one object that nobody found."""
    pytest.importorskip("hotcoco")
    objects = json.loads(LVIS.read_text())["annotations"]
    keys = ("image_id", "category_id", "segmentation", "bbox")
    found = [{**{key: each[key] for key in keys}, "score": 0.5} for each in objects]
    (tmp_path / "found.json").write_text(json.dumps(found))
    argv = ["--results", str(tmp_path / "found.json"), "--data", str(LVIS)]
    result = scored(["instances", *argv, "--annotations", "lvis"], capsys)
    assert [result["AP"], result["AR@300"], result["APr"]] == pytest.approx([1, 1, -1])
    result = scored(["proposals", *argv], capsys)
    found_ones = [result["AR@10"], result["ARf"], result["box_ar"]["ARc"]]
    assert found_ones == pytest.approx([1, 1, 1])
    (tmp_path / "found.json").write_text(json.dumps(found[1:]))
    result = scored(["proposals", *argv], capsys)
    assert result["AR@1000"] == pytest.approx(1 - 1 / len(objects))


@real
@pytest.mark.slow
def test_proposals_of_a_model_on_lvis(tmp_path, capsys):
    """What a model's evaluation prints is what its results file is scored with."""
    data, out = ["--data", str(LVIS)], tmp_path / "out"
    argv = ["proposals", "--model", "quickstart_clicks", *data, "--out", str(out)]
    result = scored([*argv, "--points-per-side", "8"], capsys)
    again = scored(["proposals", "--results", str(out / "proposals.json"), *data], capsys)
    for name in ("ar", "box_ar", "objects", "proposals", "images"):
        assert again[name] == result[name]
    assert result["box_ar"]["AR@1000"] > 0 and result["objects"]["r"] == 0


def test_a_limit_is_of_lvis(tmp_path, capsys):
    write(tmp_path, truth(tmp_path))
    argv = ["evaluate", "instances", *named(tmp_path), "--max-detections", "4"]
    assert cli.main(argv) == 2
    assert "counts by the rules of LVIS: add --annotations lvis" in capsys.readouterr().err
