"""Published numbers stand beside ours where model, protocol and data are theirs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import nano
from PIL import Image

from esam_jax.config import CocoConfig, ScenesConfig, VitConfig
from esam_jax.data import sources
from esam_jax.evaluate import published, published_classes
from esam_jax.evaluate.protocol import Protocol
from esam_jax.models import named

FULL = Protocol(points=(1, 3, 9), clicks=("uniform", "centre"))
# As printed: COCO, then LVIS; box, 1 and 3 clicks, and AP of all, small, medium, large.
TABLE_4 = """
sam_h           78.4 55.6 74.1  78.9 59.8 75.2
mobile_sam      74.2 43.7 59.7  73.8 51.0 54.4
efficientsam_ti 75.7 45.5 67.2  74.3 52.7 66.8
efficientsam_s  76.9 50.0 69.8  75.4 56.2 68.7
"""
TABLE_5 = """
sam_h           46.5 30.8 51.0 61.7  44.7 32.5 57.6 65.5
mobile_sam      38.7 23.7 42.2 54.3  34.4 23.8 44.9 53.7
efficientsam_ti 42.3 26.7 46.2 57.4  39.9 28.9 51.0 59.9
efficientsam_s  44.4 28.4 48.3 60.1  42.3 30.8 54.0 62.3
"""
FILES = {"COCO": ("instances_val2017.json", 5000), "LVIS": ("lvis_v1_val.json", 19809)}


@pytest.mark.parametrize("table", [TABLE_4, TABLE_5])
def test_all_numbers_are_those_of_the_paper(table: str):
    held = published._PROMPTS if table == TABLE_4 else published._INSTANCES
    for name, *values in map(str.split, table.strip().splitlines()):
        half = len(values) // 2
        wanted = {"COCO": values[:half], "LVIS": values[half:]}
        assert {on: [str(x) for x in each] for on, each in held[name].items()} == wanted
    assert len(held) == 4


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A json under the name of COCO's, with as many pictures, of which one has an object."""
    Image.fromarray(nano.picture(20, 30)).save(tmp_path / "a.png")
    square = [[2, 2, 12, 2, 12, 12, 2, 12]]
    objects = [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": square}]
    size = {"height": 20, "width": 30}
    images = [{"id": i, "file_name": f"{i}.png", **size} for i in range(2, 5001)]
    images.append({"id": 1, "file_name": "a.png", **size})
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "instances_val2017.json").write_text(json.dumps(content))
    return tmp_path / "instances_val2017.json"


def beside(
    coco: Path,
    name: str,
    model: str,
    protocol: Protocol = FULL,
    single: bool = False,
    broken: int = 0,
) -> dict[str, Any]:
    data = {"coco": sources.open_source(CocoConfig(path=str(coco)))}
    return published.prompts(
        named.sam(name), model, data, protocol, single=single, broken={"coco": broken}
    )


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
        ("sam_h", "sam_h", {"boxes": "none", "clicks": ("centre",)}, "neither tight boxes nor"),
    ],
)
def test_others_are_left_out_with_the_reason(coco: Path, name, model, changes, reason):
    found = beside(coco, name, model, dataclasses.replace(FULL, **changes))
    assert found["rows"] == [] and reason in found["left_out"][0]


def test_three_clicks_of_the_single_mask_are_another_protocol(coco: Path):
    """SAM's single mask answers them by default; the paper's are of the best candidate."""
    found = beside(coco, "sam_h", "sam_h", single=True)
    assert [row["column"] for row in found["rows"]] == ["box", "uniform_1"]
    assert "--several candidates" in found["left_out"][0]


def test_a_part_of_the_data_is_other_data(coco: Path):
    found = beside(coco, "sam_h", "sam_h", broken=2)
    assert found["rows"] == [] and "2 pictures of coco could not be read" in found["left_out"][0]
    content = json.loads(coco.read_text())
    coco.write_text(json.dumps({**content, "images": content["images"][1:]}))
    found = beside(coco, "sam_h", "sam_h")
    assert found["rows"] == [] and "lists 4999 pictures instead of 5000" in found["left_out"][0]


def test_other_data_is_left_out_with_the_reason(coco: Path):
    data = {
        "mine": sources.open_source(ScenesConfig(split="heldout")),
        "coco": sources.open_source(CocoConfig(path=str(coco))),
    }
    none = dict.fromkeys(data, 0)
    found = published.prompts(named.sam("sam_h"), "sam_h", data, FULL, single=False, broken=none)
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
    found = ap(name, "COCO", **how)
    if reason is not None:
        assert found["rows"] == [] and reason in found["left_out"][0]
        return
    wanted = {"sam_h": [0.465, 0.308, 0.51, 0.617], "efficientsam_s": [0.444, 0.284, 0.483, 0.601]}
    assert [row["ap"] for row in found["rows"]] == wanted[name]
    assert len(ap(name, "LVIS", **how)["rows"]) == 4
    for other, said in (
        ({"truth": Path("mine.json")}, "mine.json is not"),
        ({"pictures": 7, "boxed": 7}, "lists 7 pictures instead of 5000"),
        ({"boxed": 4999}, "some pictures have no box"),
        ({"broken": 1}, "1 picture of instances_val2017.json could not be read"),
        ({"rules": "lvis"}, "by the rules of COCO"),
    ):
        left = ap(name, "COCO", **how, **other)
        assert left["rows"] == [] and len(left["left_out"]) == 1 and said in left["left_out"][0]
    left = ap(name, "LVIS", **how, rules="coco")
    assert left["rows"] == [] and "by the rules of LVIS" in left["left_out"][0]


def ap(name: str, data: str, **changes: Any) -> dict[str, Any]:
    file, pictures = FILES[data]
    given = {"rules": data.lower(), "pictures": pictures, "boxed": pictures, "broken": 0}
    given = {"truth": Path(file), **given, **changes}
    return published.instances(named.sam(name), name, **given)


# As printed: all, small, medium, large, frequent, common, rare.
TABLE_OF_PROPOSALS = """
ViTDet-H           63.0 51.7 80.8 87.0 63.1 63.3 58.3
SAM, single output 54.9 42.8 76.7 74.4 54.7 59.8 62.0
SAM                59.3 45.5 81.6 86.9 59.1 63.9 65.8
"""


def test_proposals_of_lvis_alone_have_published_numbers():
    found = published.proposals(Path("data/lvis_v1_val.json"), 19809, 0)
    assert found["left_out"] == []
    lines = TABLE_OF_PROPOSALS.strip().splitlines()
    for row, line in zip(found["rows"], lines, strict=True):
        name, *values = line.rsplit(maxsplit=7)
        names = ("AR@1000", "ARs", "ARm", "ARl", "ARf", "ARc", "ARr")
        assert row["model"] == name.strip() and row["label"] == "published"
        assert [row[each] for each in names] == [round(float(x) / 100, 3) for x in values]
        assert "FastSAM" in row["note"]


@pytest.mark.parametrize(
    ("name", "pictures", "broken", "why"),
    [
        ("instances_val2017.json", 5000, 0, "instances_val2017.json is not lvis_v1_val.json"),
        ("mine.json", 19809, 0, "mine.json is not lvis_v1_val.json"),
        ("lvis_v1_val.json", 100, 0, "lists 100 pictures instead of 19809"),
        ("lvis_v1_val.json", 19809, 2, "2 pictures of lvis_v1_val.json could not be read"),
    ],
)
def test_other_proposals_have_none(name: str, pictures: int, broken: int, why: str):
    found = published.proposals(Path(name), pictures, broken)
    assert found["rows"] == [] and why in found["left_out"][0]


# --------------------------------------------------------------------------- classification

SYNSETS = [f"n{i:08}" for i in range(1000)]


def encoder(name: str):
    found = named.sam(name).encoder
    assert isinstance(found, VitConfig)
    return found


def imagenet(vit=None, classes=SYNSETS, there=50_000, pictures=50_000, skipped=0):
    counts = {"there": there, "pictures": pictures, "skipped": skipped}
    return published_classes.imagenet(vit, classes, **counts)


def test_table_1_stands_beside_imagenet_by_the_size_of_the_vit():
    rows = imagenet(encoder("efficientsam_ti"))["rows"]
    assert {x["pretraining"]: x["top1"] for x in rows} == {
        "DeiT": 0.745, "SSTA": 0.752, "DMAE": 0.7, "MAE": 0.752, "SAMI": 0.768
    }  # fmt: skip
    assert {x["model"] for x in rows} == {"ViT-Ti"} and all("Table 1" in x["source"] for x in rows)
    small, base = (imagenet(encoder(f"efficientsam_{x}"))["rows"] for x in "sb")
    assert (len(small), len(base)) == (9, 9)
    for found, sami, mae in ((small, 0.827, 0.815), (base, 0.848, 0.836)):
        by_name = {x["pretraining"]: x["top1"] for x in found}
        assert (by_name["SAMI"], by_name["MAE"]) == (sami, mae)
    assert len(imagenet()["rows"]) == 5 + 9 + 9  # of predictions the network is not known


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pictures": 49_999}, "these are 49999 of 50000 pictures of 1000 classes"),
        ({"there": 1_281_167}, "these are 50000 of 1281167 pictures of 1000 classes"),
        ({"classes": SYNSETS[:-1]}, "these are 50000 pictures of 999 classes"),
        ({"classes": [f"thing {i}" for i in range(1000)]}, "validation set"),
        ({"pictures": 49_999, "skipped": 1}, "1 picture could not be used"),
        ({"vit": encoder("efficientsam_nano")}, "this is another network"),
        ({"vit": dataclasses.replace(encoder("efficientsam_ti"), pretrain_px=384)}, "at 224 pix"),
    ],
)
def test_table_1_is_left_out_where_it_does_not_stand_for_what_is_measured(change, words):
    found = imagenet(**change)
    assert not found["rows"] and words in found["left_out"][0]
