"""Real pictures and annotations, where the folder named by ESAM_TEST_DATA has them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import whole

from esam_jax.config import CropConfig, PromptedConfig
from esam_jax.data import sources, views
from esam_jax.data.records import Record
from esam_jax.data.views import draws
from esam_jax.ops import regions

DATA = Path(os.environ.get("ESAM_TEST_DATA", "absent"))
pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="ESAM_TEST_DATA names no folder with test pictures"
)


def records(name: str, kind: str, count: int) -> list[Record]:
    config = sources.detect(str(DATA / name))
    assert config.kind == kind
    source = sources.open_source(config)
    return [source.read(i) for i in range(min(count, len(source)))]


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_coco_picture_and_mask_can_be_read(split: str):
    source = sources.open_source(sources.detect(str(DATA / "coco_instances" / split)))
    content = json.loads((DATA / "coco_instances" / f"instances_{split}.json").read_text())
    declared = [a["area"] for a in content["annotations"] if not a["iscrowd"]]
    decoded = 0
    for i in range(len(source)):
        record = source.read(i)
        for k in range(len(record.annotation("masks"))):
            decoded += int(whole.masks(record, k).sum())
    # The declared areas are those of the polygons, before they are put on the pixel grid.
    assert abs(decoded - sum(declared)) < 0.01 * sum(declared)


def test_sa1b_areas_and_boxes_are_those_declared():
    for record in records("sa1b_layout", "sa1b", 2):
        path = DATA / "sa1b_layout" / record.name.replace(".jpg", ".json")
        for i, annotation in enumerate(json.loads(path.read_text())["annotations"]):
            (mask,) = whole.masks(record, i)
            assert mask.sum() == annotation["area"]
            assert regions.mask_box(mask) == tuple(annotation["bbox"])


@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize(
    ("name", "kind"), [("sa1b_layout", "sa1b"), ("coco_instances/val", "coco")]
)
def test_prompted_views(name: str, kind: str, fit: str):
    config = PromptedConfig(image_px=256, fit=fit, masks=8)
    for record in records(name, kind, 3):
        rng = draws.generator(0, 0, record.name)
        view = views.make(record, config, rng)
        masks = np.unpackbits(view["masks"], axis=-1).astype(bool)
        for mask, points, labels in zip(masks, view["points"], view["labels"]):
            assert mask.any() == (labels[0] != -1)
            if labels[0] == 1:
                x, y = points[0].astype(int)
                assert mask[y, x]


def test_imagenet_crops():
    with (
        pytest.warns(UserWarning, match=r"pictures without masks: class_index\.json is neither"),
        pytest.warns(UserWarning, match=r"not read: \.json \(1\)"),
    ):
        found = records("imagenet100", "image_folder", 10)
    for record in found:
        rng = draws.generator(0, 0, record.name)
        assert views.make(record, CropConfig(), rng)["image"].shape == (224, 224, 3)
