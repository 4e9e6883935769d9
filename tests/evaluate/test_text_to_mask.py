"""Text to mask is measured: a slow computation agrees, a right ranking is perfect, kills resume."""

import csv
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import nano
from PIL import Image

from esam_jax.config import ComputeConfig
from esam_jax.data import decode
from esam_jax.data.sources import scene_painter
from esam_jax.errors import ConfigError, DataError, ExistsError, PromptError
from esam_jax.evaluate import ground_truth, matches, results, text_scores, text_to_mask
from esam_jax.evaluate.text_protocol import TextSettings
from esam_jax.models import named
from esam_jax.models.clip import towers
from esam_jax.ops import regions
from esam_jax.predict import load
from esam_jax.predict.clip import Clip
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.zero_shot import crops

SMALL = TextSettings(
    crop_style="tight",
    templates=("a photo of a {}.", "{}"),
    min_area=20,
    points_per_side=5,
    pred_iou_thresh=0.5,
    stability_score_thresh=0.5,
)
STRICT = dataclasses.replace(SMALL, pred_iou_thresh=1.0, stability_score_thresh=1.0)
IDS = (3, "b", 7)  # of pictures, and one more without an object
TEXTS = {1: "traffic light", 2: "bow (weapon)", 4: "dog"}  # and a crowd, and one of no object


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each device compiles its own programs."""
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: jax.devices()[:1])


@functools.cache
def sam() -> Any:
    return load("quickstart_clicks")


@functools.cache
def clip() -> Clip:
    """Small, of random weights: it ranks, and knows nothing."""
    config = named.model("clip_nano")
    return Clip(towers.Clip(config, ComputeConfig()), nano.params(config))


class Planted(Clip):
    """A CLIP that takes a text for the crop that is meant by it."""

    meant: dict[str, np.ndarray]

    def encode_text(self, texts, *, truncate=False):
        return self.encode_image([self.meant[each] for each in texts])


def truth_of(folder: Path, categories: dict[int, str], category_of: Any) -> Path:
    """Three scenes with their objects, of which the second is a crowd; and an empty one."""
    images, objects = [], []
    for i, identity in enumerate((*IDS, 9)):
        pixels, labels = scene_painter.draw(i, 64, split="heldout")
        name = f"{identity}.png"
        Image.fromarray(pixels).save(folder / name)
        images.append({"id": identity, "file_name": name, "height": 64, "width": 64})
        for label in range(1, 1 + int(labels.max()) * (identity != 9)):
            number = len(objects)
            about = {"id": number + 10, "image_id": identity, "iscrowd": int(number == 1)}
            shape = {"segmentation": regions.to_rle(labels == label)}
            objects.append({**about, **shape, "category_id": category_of(number)})
    named_ones = [{"id": number, "name": name} for number, name in categories.items()]
    content = {"images": images, "annotations": objects, "categories": named_ones}
    (folder / "truth.json").write_text(json.dumps(content))
    return folder / "truth.json"


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return usual(tmp_path)


def usual(folder: Path) -> Path:
    """Several objects of a category in a picture, and names that are no texts as they are."""
    names = {8: "  ", 4: "dog", 3: "crowd", 2: "bow_(weapon)", 1: "traffic_light"}
    return truth_of(folder, names, lambda number: 3 if number == 1 else (1, 2, 4, 1)[number % 4])


def measured(truth: Path, settings: TextSettings = SMALL, **more: Any) -> dict[str, Any]:
    with_clip = more.pop("clip", clip())
    return text_to_mask.evaluate(sam(), with_clip, ground_truth.read(truth), settings, **more)


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in ("seconds", "resumed")}


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The scores of all pairs, of dense masks, one text and one object after the other."""
    truth, rows = usual(tmp_path_factory.mktemp("slow")), []
    generator = AutomaticMaskGenerator(sam(), 5, 64, 0.5, 0.5)
    for identity in IDS:
        picture = decode.read_rgb(truth.parent / f"{identity}.png")
        records = generator.generate(picture)
        for category, words in TEXTS.items():
            mine = [
                regions.from_rle(each["segmentation"])
                for each in json.loads(truth.read_text())["annotations"]
                if (each["image_id"], each["category_id"]) == (identity, category)
            ]
            if not mine:
                continue
            how = {"crop_style": "tight", "templates": ["a photo of a {}.", "{}"], "min_area": 20}
            found = sam().text(picture, words, clip=clip(), masks=records, **how)
            masks = [records[i]["segmentation"] for i in found.scored]
            ious = [max(regions.iou(mask, each) for each in mine) for mask in masks]
            [best] = found.best()
            rows.append(
                {
                    "picture": f"{identity}.png",
                    "category": category,
                    "text": words,
                    "objects": len(mine),
                    "iou": max(regions.iou(best, each) for each in mine),
                    "union_iou": regions.iou(best, np.any(mine, axis=0)),
                    "oracle": max(ious),
                    "chance": sum(ious) / len(ious),
                    "mask": best,
                }
            )
    return rows


def test_numbers_are_those_of_a_slow_computation(truth, slow, tmp_path):
    out = tmp_path / "out"
    result = measured(truth, out=out, model="m", clip_model="c")
    assert json.loads((out / "result.json").read_text()) == result
    with (out / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(slow) == result["pairs"] > 5
    for row, wanted in zip(rows, slow, strict=True):
        for name in ("picture", "category", "text"):
            assert row[name] == str(wanted[name])
        for name in ("objects", "iou", "union_iou", "oracle", "chance"):
            assert float(row[name]) == pytest.approx(wanted[name], abs=1e-12), name
        assert float(row["hit"]) == (wanted["iou"] >= 0.5)
    for number, name in (("miou", "iou"), ("union_miou", "union_iou"), ("chance", "chance")):
        assert result[number] == pytest.approx(np.mean([row[name] for row in slow]))
    assert result["hits"] == np.mean([row["iou"] >= 0.5 for row in slow])
    assert 0 < result["chance"] < result["oracle"] <= 1 and result["miou"] < result["oracle"]
    assert any(row["union_iou"] != row["iou"] for row in slow)  # there are several objects
    assert (result["images"], result["nothing"], result["skipped"]) == (3, 0, 0)
    assert (result["model"], result["clip"]) == ("m", "c")
    for said in ("5 x 5 clicks", '"a photo of a {}.", "{}"', "tight enlarged 1.5 times"):
        assert said in result["protocol"]
    # Means over categories, which have unequal numbers of pairs.
    table = {row["id"]: row for row in result["per_category"]}
    assert {each: row["text"] for each, row in table.items()} == TEXTS
    pairs = [row["pairs"] for row in table.values()]
    assert pairs == sorted(pairs, reverse=True) and len(set(pairs)) > 1
    for category, row in table.items():
        ious = [each["iou"] for each in slow if each["category"] == category]
        assert (row["miou"], row["pairs"]) == (pytest.approx(np.mean(ious)), len(ious))
    means = [row["miou"] for row in table.values()]
    assert result["by_category"]["miou"] == pytest.approx(np.mean(means)) != result["miou"]
    # Anybody's scorer reads the answers.
    answers = json.loads((out / "masks.json").read_text())
    for entry, wanted in zip(answers, slow, strict=True):
        assert f"{entry['image_id']}.png" == wanted["picture"]
        np.testing.assert_array_equal(regions.from_rle(entry["segmentation"]), wanted["mask"])
    again = results.read(out / "masks.json", ground_truth.read(truth))
    assert (again.masks, again.findings) == (True, [])


def test_a_ranking_that_is_right_is_perfect_and_a_wrong_one_is_not(tmp_path):
    """A category for each object; its text is planted as the crop of the mask closest to it."""
    truth = truth_of(tmp_path, {i: f"thing_{i}" for i in range(99)}, lambda number: number)
    content = json.loads(truth.read_text())
    right, wrong = {}, {}
    for identity in IDS:
        picture = decode.read_rgb(tmp_path / f"{identity}.png")
        records = SMALL.generator(sam()).generate(picture)
        masks = [regions.from_rle(each["segmentation"]) for each in records]
        masks = [mask for mask in masks if mask.sum() > SMALL.min_area]
        for each in content["annotations"]:
            if each["image_id"] == identity:
                shape = regions.from_rle(each["segmentation"])
                order = np.argsort([-regions.iou(mask, shape) for mask in masks], kind="stable")
                words = f"thing {each['category_id']}"
                right[words], wrong[words] = (
                    crops.of_mask(picture, masks[i], "tight") for i in (order[0], order[-1])
                )
    planted, settings = (
        Planted(clip().model, clip().params),
        dataclasses.replace(SMALL, templates=("{}",)),
    )
    planted.meant = right
    result = measured(truth, settings, clip=planted)
    assert result["miou"] == result["oracle"] > 0.5 and result["hits"] > 0.5
    assert result["categories"] == result["pairs"] == len(right) - 1  # less the crowd
    planted.meant = wrong
    worst = measured(truth, settings, clip=planted)
    assert worst["miou"] < worst["chance"] < worst["oracle"] == result["oracle"]


@pytest.mark.slow
def test_devices_do_not_matter(truth, monkeypatch):
    """Each compiles its own programs."""
    wanted = measured(truth)
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: jax.devices()[:2])
    assert without_times(measured(truth)) == without_times(wanted)


def test_a_killed_one_resumes(truth, tmp_path, monkeypatch):
    out, wanted = tmp_path / "out", measured(truth)
    counts, put = [], text_to_mask.Kept.put

    def killed(self, place, content):
        if len(counts) == 2:
            raise KeyboardInterrupt
        counts.append(place)
        put(self, place, content)

    monkeypatch.setattr(text_to_mask.Kept, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        measured(truth, out=out)
    assert not (out / "result.json").exists()
    monkeypatch.setattr(text_to_mask.Kept, "put", put)
    found = measured(truth, out=out)
    assert (found["resumed"], wanted["resumed"]) == (2, 0)
    assert without_times(found) == without_times(wanted)
    before = {path.name: path.read_bytes() for path in out.glob("*.[cp]*")}
    again = measured(truth, out=out)
    assert again["resumed"] == 3 and without_times(again) == without_times(wanted)
    assert {name: (out / name).read_bytes() for name in before} == before
    other = dataclasses.replace(SMALL, templates=("{}",))
    with pytest.raises(ConfigError, match=r"made with other settings .*templates was"):
        measured(truth, other, out=out)
    weights = Clip(clip().model, jax.tree.map(lambda leaf: leaf * 2, clip().params))
    with pytest.raises(ConfigError, match=r"made with other settings .*clip_hash was"):
        measured(truth, out=out, clip=weights)


def test_a_broken_picture_is_left_out_with_its_pairs(truth):
    (truth.parent / "b.png").write_bytes(b"broken")
    with pytest.warns(UserWarning, match=r"1 broken picture left out, the first: .*b\.png"):
        result = measured(truth)
    assert (result["skipped"], result["images"]) == (1, 2)
    content = json.loads(truth.read_text())
    for key, name in (("images", "id"), ("annotations", "image_id")):
        content[key] = [each for each in content[key] if each[name] != "b"]
    truth.write_text(json.dumps(content))
    alone = measured(truth)
    assert {x: alone[x] for x in text_scores.NUMBERS} == {x: result[x] for x in text_scores.NUMBERS}
    for identity in IDS:
        (truth.parent / f"{identity}.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"none of 2 pictures could be read: .*3\.png"):
        measured(truth)


def test_without_a_mask_each_pair_counts_as_0(truth, tmp_path):
    result = measured(truth, STRICT, out=tmp_path / "out")
    assert (result["nothing"], result["masks"]) == (3, 0) and result["pairs"] > 5
    assert {result[name] for name in text_scores.NUMBERS} == {0.0}
    assert json.loads((tmp_path / "out/masks.json").read_text()) == []
    with Image.open(tmp_path / "out/worst.png") as sheet:
        assert sheet.height > 300


def test_the_sheets_show_the_best_and_the_worst_pairs(truth, slow, tmp_path, monkeypatch):
    sheets, sheet = [], matches.sheet
    monkeypatch.setattr(matches, "sheet", lambda *args: sheets.append(args[0]) or sheet(*args))
    measured(truth, out=tmp_path / "out")
    by_pair = {(row["picture"], f"{row['text']}: {row['objects']}"): row for row in slow}
    ious = sorted(row["iou"] for row in slow)
    for shown, wanted in zip(sheets, (ious[::-1], ious), strict=True):
        found = [by_pair[row.name, row.captions[0]] for row in shown]
        assert [each["iou"] for each in found] == pytest.approx(wanted[:12])
        for row, each in zip(shown, found, strict=True):
            assert row.captions[1:] == [f"IoU {each['iou']:.3f}", f"IoU {each['oracle']:.3f}"]
            assert [len(some) for some in row.masks] == [each["objects"], 1, each["oracle"] > 0]
            np.testing.assert_array_equal(row.masks[1][0], each["mask"])


def test_some_pictures_are_drawn(truth):
    result = measured(truth, images=2)
    assert result["images"] == 2 and "2 pictures drawn with seed 0" in result["protocol"]
    with pytest.raises(ConfigError, match="images is 0"):
        measured(truth, images=0)


def test_what_is_no_output_folder_is_left_alone(truth, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "masks.json").write_text("mine")
    with pytest.raises(ExistsError, match="was not written by this command"):
        measured(truth, out=tmp_path / "own")
    assert (tmp_path / "own" / "masks.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": []}, r"no picture of .*truth\.json has an object"),
        ({"name": " _ "}, r"category 4: its name is '', which has no words"),
        ({"name": "4"}, "category 4 has no name but its number"),
        ({"name": "dog " * 80}, "category 4: its name is 'dog .*, which has 8[0-9] tokens"),
        ({"categories": []}, "has no picture, or no category"),
    ],
)
def test_names_that_are_no_texts_are_refused(truth, change, message, monkeypatch):
    content = json.loads(truth.read_text())
    if "name" in change:
        [entry] = [each for each in content["categories"] if each["id"] == 4]
        entry |= change
    else:
        content |= change
    truth.write_text(json.dumps(content))
    monkeypatch.setattr("esam_jax.predict.sam.Sam.encode", None)  # before a picture is
    with pytest.raises(DataError, match=message):
        measured(truth)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"templates": ("a photo",)}, r"templates\[0\] is 'a photo'"),
        ({"templates": ()}, r"templates is \(\)"),
        ({"crop_style": "tight", "enlarge": 3.0}, "enlarge is 3.0"),
        ({"enlarge": 1.5}, "enlarge is 1.5, but the crop style white_frame"),
        ({"min_area": -1}, "min_area is -1"),
        ({"points_per_side": 0}, "points_per_side"),
        ({"pred_iou_thresh": 2.0}, "pred_iou_thresh is 2.0"),
    ],
)
def test_wrong_settings_are_named(truth, settings, message):
    with pytest.raises(PromptError, match=message):
        measured(truth, TextSettings(**settings))
