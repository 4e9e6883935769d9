"""Published numbers stand beside ours where model, protocol and data are theirs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import nano
from PIL import Image

from esam_jax.config import CocoConfig, ScenesConfig
from esam_jax.data import sources
from esam_jax.evaluate import published
from esam_jax.evaluate.protocol import Protocol
from esam_jax.models import named

FULL = Protocol(points=(1, 3, 9), clicks=("uniform", "centre"))


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A json under the name of COCO's, of one picture."""
    Image.fromarray(nano.picture(20, 30)).save(tmp_path / "a.png")
    square = [[2, 2, 12, 2, 12, 12, 2, 12]]
    objects = [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": square}]
    images = [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "instances_val2017.json").write_text(json.dumps(content))
    return tmp_path / "instances_val2017.json"


def beside(coco: Path, name: str, model: str, protocol: Protocol = FULL) -> dict[str, Any]:
    data = {"coco": sources.open_source(CocoConfig(path=str(coco)))}
    return published.prompts(named.sam(name), model, data, protocol)


@pytest.mark.parametrize(
    ("name", "model", "values"),
    [
        ("efficientsam_s", "efficientsam_s", [0.769, 0.5, 0.698]),
        ("efficientsam_ti", "weights/efficient_sam_vitt.pt", [0.757, 0.455, 0.672]),
        ("sam_h", "sam_vit_h_4b8939.pth", [0.784, 0.556, 0.741]),
        ("mobile_sam", "mobile_sam", [0.742, 0.437, 0.597]),
    ],
)
def test_numbers_of_the_same_protocol(coco: Path, name: str, model: str, values: list[float]):
    found = beside(coco, name, model)
    assert [row["miou"] for row in found["rows"]] == values
    assert [row["column"] for row in found["rows"]] == ["box", "uniform_1", "uniform_3"]
    assert {row["label"] for row in found["rows"]} == {"published"} and not found["left_out"]
    assert all("neither the split" in row["note"] for row in found["rows"])


@pytest.mark.parametrize(
    ("changes", "left"),
    [({"boxes": "given"}, 2), ({"points": (1,)}, 2), ({"boxes": "none", "points": (3,)}, 1)],
)
def test_only_what_is_measured_alike(coco: Path, changes: dict, left: int):
    found = beside(coco, "sam_h", "sam_h", dataclasses.replace(FULL, **changes))
    assert len(found["rows"]) == left and not found["left_out"]


@pytest.mark.parametrize(
    ("name", "model", "changes", "reason"),
    [
        ("efficientsam_ti", "runs/mine", {}, "runs/mine is none of the released"),
        ("efficientsam_s", "efficientsam_ti", {}, "efficientsam_ti is none of the released"),
        ("sam_h", "sam_h", {"images": 100}, "not all pictures and masks"),
        ("sam_h", "sam_h", {"masks_per_image": 9}, "not all pictures and masks"),
        ("sam_h", "sam_h", {"several": "single"}, "the single mask answers"),
        ("sam_h", "sam_h", {"boxes": "none", "clicks": ("centre",)}, "neither tight boxes nor"),
    ],
)
def test_others_are_left_out_with_the_reason(coco: Path, name, model, changes, reason):
    found = beside(coco, name, model, dataclasses.replace(FULL, **changes))
    assert found["rows"] == [] and reason in found["left_out"][0]


def test_other_data_is_left_out_with_the_reason(coco: Path):
    data = {
        "mine": sources.open_source(ScenesConfig(split="heldout")),
        "coco": sources.open_source(CocoConfig(path=str(coco))),
    }
    found = published.prompts(named.sam("sam_h"), "sam_h", data, FULL)
    assert {row["data"] for row in found["rows"]} == {"coco"}
    assert found["left_out"] == [
        "arXiv:2312.00863, Table 4: mine is not instances_val2017.json or lvis_v1_val.json"
    ]


@pytest.mark.parametrize(
    ("name", "how", "reason"),
    [
        ("sam_h", {"choice": "confident", "refine": True}, None),
        ("sam_h", {"choice": "confident", "refine": False}, "have a refining pass"),
        ("efficientsam_s", {"choice": "box_iou", "refine": False}, None),
        ("efficientsam_s", {"choice": "confident", "refine": False}, "highest IoU with the box"),
        ("efficientsam_s", {"choice": "box_iou", "refine": True}, "highest IoU with the box"),
    ],
)
def test_ap_of_the_same_passes(name: str, how: dict, reason: str | None):
    truth, every = Path("x/instances_val2017.json"), {"every_picture": True}
    found = published.instances(named.sam(name), name, truth, **how, **every)
    if reason is not None:
        assert found["rows"] == [] and reason in found["left_out"][0]
        return
    wanted = {"sam_h": [0.465, 0.308, 0.51, 0.617], "efficientsam_s": [0.444, 0.284, 0.483, 0.601]}
    assert [row["ap"] for row in found["rows"]] == wanted[name]
    for file, all_of_them in (("mine.json", True), ("instances_val2017.json", False)):
        other = published.instances(
            named.sam(name), name, Path(file), **how, every_picture=all_of_them
        )
        assert other["rows"] == [] and len(other["left_out"]) == 1
