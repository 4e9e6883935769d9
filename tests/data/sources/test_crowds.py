"""Crowds are left out or used by choice, and counted either way."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import nano, whole
from PIL import Image

from esam_jax.config import CocoConfig, PromptedConfig, Sa1bConfig
from esam_jax.data import sources
from esam_jax.data.examples import Examples, Tally
from esam_jax.evaluate.protocol import Protocol
from esam_jax.train.telemetry.data_news import DataNews


def findings(config: CocoConfig | Sa1bConfig) -> tuple[int, dict[str, int]]:
    """Masks of one epoch, and what was counted in it."""
    source = sources.open_source(config)
    view = PromptedConfig(image_px=32, min_area_px=1, max_area=1.0)
    tally = Tally(examples := Examples(source, view, seed=0), 0.1)
    views = [tally.view_of(examples[position]) for position in range(len(source))]
    return sum(int(view["valid"].sum()) for view in views), dict(tally.findings.counts())


def test_crowds_of_coco(coco_json: Path):
    """Pictures a (a polygon, a crowd), b (a mask), c (a crowd alone) and d (nothing)."""
    path = str(coco_json)
    assert findings(CocoConfig(path=path)) == (
        2,
        {"pictures_left_out": 1, "crowds_left_out": 2, "pictures_of_crowds_left_out": 1},
    )
    used = {"pictures_left_out": 1, "crowds_used": 2}
    assert findings(CocoConfig(path=path, crowds="use")) == (4, used)
    masks = sources.open_source(CocoConfig(path=path, crowds="use")).read(2)
    assert whole.masks(masks, 0).sum() == 50


def test_crowds_in_the_layout_of_sa1b(sa1b_folder: Path):
    file = sa1b_folder / "sa_1.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(content))
    path = str(sa1b_folder)
    assert findings(Sa1bConfig(path=path)) == (6, {"crowds_left_out": 1})
    assert findings(Sa1bConfig(path=path, crowds="use")) == (7, {"crowds_used": 1})


@pytest.mark.parametrize("value", [0, 0.0, False, None, "0"])
def test_what_is_no_crowd(coco_json: Path, value: object):
    content = json.loads(coco_json.read_text())
    for each in content["annotations"]:
        each["iscrowd"] = value
    coco_json.write_text(json.dumps(content))
    assert findings(CocoConfig(path=str(coco_json))) == (4, {"pictures_left_out": 1})


@pytest.mark.parametrize("value", [1, 1.0, True, "1"])
def test_what_is_a_crowd(coco_json: Path, value: object):
    content = json.loads(coco_json.read_text())
    for each in content["annotations"][1:]:
        each["iscrowd"] = value
    coco_json.write_text(json.dumps(content))
    counts = {"pictures_left_out": 1, "crowds_left_out": 3, "pictures_of_crowds_left_out": 2}
    assert findings(CocoConfig(path=str(coco_json))) == (1, counts)


def test_a_run_says_it_of_pictures_of_crowds_alone(coco_json: Path):
    """With the option of `esam train`, also where 16 bits are concerned."""
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)).save(
        coco_json.parents[1] / "val2017" / "a.png"
    )
    source = sources.open_source(CocoConfig(path=str(coco_json)))
    tally = Tally(examples := Examples(source, PromptedConfig(image_px=32), seed=0), 0.1)
    for position in range(len(source)):
        tally.view_of(examples[position])
    with pytest.warns(UserWarning) as warned:
        values = DataNews(tally).values()
    counts = {"pictures_of_crowds_left_out": 1, "crowds_left_out": 2, "pictures_left_out": 1}
    assert values.items() >= counts.items() and values["narrow_16_bit"] == 1
    (text,) = (str(each.message) for each in warned)
    for part in (
        "1 picture of crowds left out, the first: c.png has crowds alone",
        "2 crowds left out, the first: c.png has crowds alone (--data.source.crowds use reads",
        "3 of 256 levels (--data.source.sixteen-bit stretch spreads grey values)",
    ):
        assert part in text


def test_evaluation_counts_them_too(coco_json: Path):
    sam = nano.sam("sam_nano")
    for crowds, masks, counted in (("leave_out", 2, "left_out"), ("use", 4, "used")):
        source = sources.open_source(CocoConfig(path=str(coco_json), crowds=crowds))
        with pytest.warns(UserWarning, match=f"2 crowds {counted.replace('_', ' ')}, the first: "):
            found = nano.measured(sam, source, Protocol(images=9, masks_per_image=9))
        assert (found["masks"], found[f"crowds_{counted}"]) == (masks, 2)
