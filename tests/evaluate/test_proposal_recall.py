"""A model's proposals are measured: the numbers of what is written, kills, broken pictures."""

import csv
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from esam_jax import cli
from esam_jax.data.sources import scene_painter
from esam_jax.errors import ConfigError, ExistsError, PromptError
from esam_jax.evaluate import ground_truth, matches, proposal_recall, proposal_scores, results
from esam_jax.ops import regions
from esam_jax.predict import load
from esam_jax.predict.zero_shot import proposals
from esam_jax.predict.zero_shot.proposals import ProposalSettings

SMALL = ProposalSettings(points_per_side=5, most=40)
IDS = (3, "b", 7)  # of pictures, and one more without an object


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each device compiles its own programs."""
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: jax.devices()[:1])


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Three scenes with their objects, rare ones and common ones, and an empty one."""
    images, objects = [], []
    for i, identity in enumerate((*IDS, 9)):
        pixels, labels = scene_painter.draw(i, 64, split="heldout")
        name = f"{identity}.png"
        Image.fromarray(pixels).save(tmp_path / name)
        images.append({"id": identity, "file_name": name, "height": 64, "width": 64})
        for label in range(1, 1 + int(labels.max()) * (identity != 9)):
            mask = labels == label
            number = len(objects) + 10
            about = {"id": number, "image_id": identity, "category_id": 1 + number % 2}
            shape = {"segmentation": regions.to_rle(mask), "area": int(mask.sum())}
            box = list(regions.mask_box(mask))
            objects.append({**about, **shape, "bbox": box, "iscrowd": int(number == 11)})
    categories = [{"id": i, "name": f"{i}", "frequency": "rc"[i - 1]} for i in (1, 2)]
    content = {"images": images, "annotations": objects, "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return tmp_path / "truth.json"


def measured(truth: Path, settings: ProposalSettings = SMALL, **more: Any) -> dict[str, Any]:
    sam = load("quickstart_clicks")
    return proposal_recall.evaluate(sam, ground_truth.read(truth), settings, **more)


TIMES = ("seconds", "resumed", "model")


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in TIMES}


def test_numbers_are_those_of_the_proposals_that_are_written(truth, tmp_path):
    out = tmp_path / "out"
    result = measured(truth, out=out)
    assert json.loads((out / "result.json").read_text()) == result
    read = ground_truth.read(truth)
    again = results.read(out / "proposals.json", read)
    assert (again.masks, again.findings, again.unanswered(read)) == (True, [], 1)
    scored = proposal_scores.of_results(read, again)
    for name in ("ar", "box_ar", "objects", "proposals"):
        assert result[name] == scored[name], name
    assert result["AR@10"] == result["ar"]["AR@10"] > 0.2 and result["ARl"] == -1
    assert result["objects"]["r"] + result["objects"]["c"] == result["objects"]["all"]
    assert (result["images"], result["skipped"], result["published"]["rows"]) == (3, 0, [])
    assert "5 x 5" in result["protocol"] and "best 40 are kept" in result["protocol"]


def test_files_are_those_of_the_public_function(truth, tmp_path):
    """Each picture alone, and the closest proposal of each object again in NumPy."""
    out = tmp_path / "out"
    measured(truth, out=out)
    found = json.loads((out / "proposals.json").read_text())
    with (out / "objects.csv").open(newline="") as file:
        rows = {int(each["object"]): each for each in csv.DictReader(file)}
    content = json.loads(truth.read_text())
    assert set(rows) == {x["id"] for x in content["annotations"] if not x["iscrowd"]}
    for identity in IDS:
        with Image.open(truth.parent / f"{identity}.png") as file:
            picture = np.asarray(file.convert("RGB"))
        records = proposals.proposals(load("quickstart_clicks"), picture, SMALL)
        mine = [each for each in found if each["image_id"] == identity]
        assert mine == proposals.as_results(records, identity)
        masks = [regions.from_rle(each["segmentation"]) for each in mine]
        for each in content["annotations"]:
            if each["image_id"] == identity and not each["iscrowd"]:
                mask = regions.from_rle(each["segmentation"])
                ious = [regions.iou(mask, other) for other in masks]
                row = rows[each["id"]]
                assert float(row["iou"]) == pytest.approx(max(ious), abs=1e-12)
                best = ious.index(max(ious))
                assert float(row["score"]) == pytest.approx(mine[best]["score"])
    with Image.open(out / "worst.png") as sheet:
        assert sheet.height > 3 * 64


def test_the_sheet_has_each_object_in_one_place_of_all_sets(truth, tmp_path, monkeypatch):
    """So that it has one colour: itself, its closest proposal, and again where that is far off."""
    rows, sheet = [], matches.sheet
    monkeypatch.setattr(matches, "sheet", lambda *args: rows.extend(args[0]) or sheet(*args))
    monkeypatch.setattr(proposal_recall, "_FOUND", 0.94)
    measured(truth, out=tmp_path / "out")
    with (tmp_path / "out/objects.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert len(rows) == 3
    for row in rows:
        ious = np.array([float(each["iou"]) for each in listed if each["picture"] == row.name])
        objects, closest, missed = row.masks
        assert len(objects) == len(closest) == len(missed) == len(ious)
        got = [regions.iou(one, other) for one, other in zip(objects, closest, strict=True)]
        np.testing.assert_allclose(got, ious, atol=1e-12)
        np.testing.assert_array_equal(missed, objects & (ious < 0.94)[:, None, None])
    assert 0 < sum(float(each["iou"]) < 0.94 for each in listed) < len(listed)


@pytest.mark.slow
def test_devices_do_not_matter(truth, monkeypatch):
    """Each compiles its own programs."""
    wanted = measured(truth)
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: jax.devices()[:2])
    assert without_times(measured(truth)) == without_times(wanted)


def test_a_killed_one_resumes(truth, tmp_path, monkeypatch):
    wanted = measured(truth)
    counts, put = [], proposal_recall.Kept.put

    def killed(self, place, content):
        if len(counts) == 2:
            raise KeyboardInterrupt
        counts.append(place)
        put(self, place, content)

    monkeypatch.setattr(proposal_recall.Kept, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        measured(truth, out=tmp_path / "out")
    monkeypatch.setattr(proposal_recall.Kept, "put", put)
    found = measured(truth, out=tmp_path / "out")
    assert (found["resumed"], wanted["resumed"]) == (2, 0)
    assert without_times(found) == without_times(wanted)
    (tmp_path / "out/masks/00000002.json").unlink()
    again = measured(truth, out=tmp_path / "out")
    assert again["resumed"] == 2 and without_times(again) == without_times(wanted)
    assert (tmp_path / "out/masks/00000002.json").exists()
    with pytest.raises(ConfigError, match=r"made with other settings \(most was 40, is 39"):
        measured(truth, ProposalSettings(points_per_side=5, most=39), out=tmp_path / "out")


def test_a_broken_picture_is_left_out_with_its_objects(truth):
    (truth.parent / "b.png").write_bytes(b"broken")
    with pytest.warns(UserWarning, match=r"1 broken picture left out, the first: .*b\.png"):
        result = measured(truth)
    assert (result["skipped"], result["images"]) == (1, 2)
    content = json.loads(truth.read_text())
    for key, name in (("images", "id"), ("annotations", "image_id")):
        content[key] = [each for each in content[key] if each[name] != "b"]
    truth.write_text(json.dumps(content))
    assert measured(truth)["ar"] == result["ar"]


def test_some_pictures_are_drawn(truth, tmp_path):
    result = measured(truth, images=2, out=tmp_path / "out")
    with (tmp_path / "out/objects.csv").open(newline="") as file:
        assert {each["picture"] for each in csv.DictReader(file)} == {"3.png", "7.png"}
    assert result["images"] == 2 and "2 pictures drawn with seed 0" in result["protocol"]
    assert without_times(measured(truth, images=9))["ar"] == measured(truth)["ar"]
    with pytest.raises(ConfigError, match="images is 0"):
        measured(truth, images=0)


def test_what_is_no_output_folder_is_left_alone(truth, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "proposals.json").write_text("mine")
    with pytest.raises(ExistsError, match="was not written by this command"):
        measured(truth, out=tmp_path / "own")
    assert (tmp_path / "own" / "proposals.json").read_text() == "mine"


def test_a_picture_of_crowds_alone_is_not_looked_at(truth):
    content = json.loads(truth.read_text())
    for each in content["annotations"]:
        each["iscrowd"] = int(each["image_id"] == 7)
    truth.write_text(json.dumps(content))
    result = measured(truth)
    assert result["images"] == 2 and 0 < result["proposals"] <= 2 * 40


def test_data_without_an_object(truth):
    """There is nothing to look at, and no number."""
    content = json.loads(truth.read_text())
    truth.write_text(json.dumps({**content, "annotations": []}))
    result = measured(truth)
    assert set(result["ar"].values()) == {-1.0} and result["images"] == result["proposals"] == 0


def test_the_single_mask_needs_to_be_trained(truth):
    sam = load("quickstart_teacher")
    with pytest.raises(PromptError, match="never learned the single mask"):
        proposal_recall.evaluate(sam, ground_truth.read(truth), ProposalSettings(output="single"))


def test_the_command(truth, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["evaluate", "proposals", "--model", "quickstart_clicks", "--data", str(truth)]
    argv += ["--points-per-side", "5", "--most", "40"]
    assert cli.main([*argv, "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ar"] == measured(truth)["ar"]
    assert b">IoU<" in (out / "ious.svg").read_bytes()
    assert cli.main([*argv, "--out", str(out)]) == 0
    shown, said = capsys.readouterr()
    assert f"{result['AR@1000']:.4f}" in shown and "3 pictures done before" in shown and said == ""
    for text in (result["protocol"], result["data"], result["model_hash"], "no published numbers"):
        assert text in shown
    assert cli.main([*argv, "--output", "single", "--images", "0"]) == 2
    assert "--images is 0" in capsys.readouterr().err
    assert cli.main([*argv, "--out", str(truth)]) == 2
    assert "truth.json" in capsys.readouterr().err
