"""The paper's other data sets, where the folder named by ESAM_TEST_DATA has them.

Each is compared with a plain reading of its files.
"""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers import whole
from PIL import Image

from esam_jax.data import sources
from esam_jax.data.mask_sets import describe
from esam_jax.ops import regions

DATA = Path(os.environ.get("ESAM_TEST_DATA", "absent"))
pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="ESAM_TEST_DATA names no folder with test pictures"
)


def opened(name: str, kind: str) -> sources.Source:
    config = sources.detect(str(DATA / name))
    assert config.kind == kind
    return sources.open_source(config)


def test_coco_panoptic():
    folder = DATA / "semseg" / "coco_panoptic"
    content = json.loads((folder / "panoptic.json").read_text())
    names = {str(each["id"]): each["name"] for each in content["categories"]}
    source = opened("semseg/coco_panoptic", "panoptic")
    assert len(source) == len(content["annotations"]) == 14
    masks = 0
    for index, entry in enumerate(content["annotations"]):
        record = source.read(index)
        assert record.name == entry["file_name"].replace(".png", ".jpg")
        colours = np.asarray(Image.open(folder / "panoptic" / entry["file_name"]), int)
        numbers = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
        segments = [each for each in entry["segments_info"] if not each["iscrowd"]]
        found = whole.masks(record)
        assert len(found) == len(segments)
        for i, (mask, segment) in enumerate(zip(found, segments, strict=True)):
            assert (mask == (numbers == segment["id"])).all()
            assert mask.sum() == segment["area"]
            assert regions.mask_box(mask) == tuple(segment["bbox"])
            about = describe(record.annotation("masks"), i)
            assert (about.identity, about.category) == (segment["id"], segment["category_id"])
        # Made by another tool, from the same segments.
        stored = np.asarray(Image.open(folder / "semantic" / entry["file_name"]))
        semantic = record.annotation("semantic")
        np.testing.assert_array_equal(semantic.values, stored)
        assert {str(key): name for key, name in semantic.names.items()} == names
        masks += len(found)
    assert masks == 192


def test_camvid():
    folder = DATA / "semseg" / "camvid"
    classes = json.loads((folder / "classes.json").read_text())["classes"]
    source = opened("semseg/camvid", "semantic_maps")
    assert len(source) == 8
    counts = np.zeros(12, int)
    for index in range(len(source)):
        record = source.read(index)
        found = record.annotation("semantic")
        np.testing.assert_array_equal(
            found.values, np.asarray(Image.open(folder / "labels" / record.name))
        )
        assert list(found.names.values()) == classes[:11] and found.void == {11}
        assert record.picture.rgb().shape[:2] == found.values.shape
        counts += np.bincount(found.values.ravel(), minlength=12)
    assert counts.argmax() == classes.index("Building") or counts.argmax() == classes.index("Road")


def test_bsds500():
    source = opened("bsds500_val20", "bsds")
    assert len(source) == 20
    regions_found = 0
    for index in range(0, len(source), 5):
        record = source.read(index)
        stored = np.load(DATA / "bsds500_val20" / "gt" / record.name.replace(".jpg", ".npz"))
        assert (record.annotation("boundaries") == (stored["boundaries"] == 1)).all()
        masks = record.annotation("masks")
        wanted = {
            f"annotator {person + 1} region {number}": layer == number
            for person, layer in enumerate(stored["segmentation"])
            for number in np.unique(layer)
        }
        assert [describe(masks, i).identity for i in range(len(masks))] == list(wanted)
        found = whole.masks(record)
        assert (found == np.stack(list(wanted.values()))).all()
        # What one person drew covers the picture, without overlaps.
        assert found.sum() == record.annotation("boundaries").size
        regions_found += len(found)
    assert regions_found == 454


def test_davis():
    source = opened("davis", "video")
    names = [source.name(i) for i in range(len(source))]
    assert names == [f"car-shadow/{i:05d}" for i in range(40)]
    for index in range(0, 40, 3):
        record = source.read(index)
        path = DATA / "davis" / "Annotations" / "480p" / f"{record.name}.png"
        (mask,) = whole.masks(record)
        np.testing.assert_array_equal(mask, np.asarray(Image.open(path)) > 0)
        assert record.picture.rgb().shape == (480, 854, 3)


def test_lvis():
    path = DATA / "lvis_mini" / "lvis_v0.5_val_mini.json"
    content = json.loads(path.read_text())
    source = opened("lvis_mini", "coco")
    assert len(source) == 3 and len(source.categories) == 1230  # type: ignore[attr-defined]
    entries = {each["file_name"]: each for each in content["images"]}
    objects = 0
    for index in range(len(source)):
        record = source.read(index)
        entry = entries[record.name]
        federated = record.annotation("federated")
        assert federated.negative == {*entry["neg_category_ids"]}
        assert federated.not_exhaustive == {*entry["not_exhaustive_category_ids"]}
        listed = [each for each in content["annotations"] if each["image_id"] == entry["id"]]
        about = [describe(record.annotation("masks"), i) for i in range(len(listed))]
        assert [each.category for each in about] == [each["category_id"] for each in listed]
        assert [each.identity for each in about] == [each["id"] for each in listed]
        assert not federated.negative & {each.category for each in about}
        objects += len(listed)
    assert objects == 11


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("coco_instances/val", "coco", 71),
        ("sa1b_layout", "sa1b", 6),
        ("nuclei_dsb2018", "label_maps", 20),
        ("imagenet100", "image_folder", 100),
        ("classification_ants_bees", "image_folder", 90),
        ("davis/JPEGImages/480p", "video", 40),
    ],
)
def test_what_each_set_is_taken_for(name: str, kind: str, count: int):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(opened(name, kind)) == count
