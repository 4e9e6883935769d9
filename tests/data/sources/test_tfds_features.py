"""What well-known data sets of tensorflow-datasets become, by the features that it gives them.

Those are copied from its builders (4.9.10), which need downloads, TensorFlow or both.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from esam_jax.config import TfdsConfig
from esam_jax.data.sources import tfds_features
from esam_jax.errors import ConfigError, DataError


def features(name: str) -> tuple[dict[str, Any], tuple[str, str] | None]:
    """Of a data set, with its (input, target)."""
    from tensorflow_datasets import features as f

    image, grey, text = f.Image(), f.Image(shape=(None, None, 1)), f.Text()
    label, box = f.ClassLabel(num_classes=3), f.BBoxFeature()
    described = {"id": np.int64, "area": np.int64, "bbox": box, "label": label}
    annotations = f.Sequence(
        {
            "area": f.Scalar(dtype=np.uint64),
            "bbox": box,
            "crop_box": box,
            "id": f.Scalar(dtype=np.uint64),
            "point_coords": f.Tensor(shape=(1, 2), dtype=np.float64),
            "predicted_iou": f.Scalar(dtype=np.float64),
            "segmentation": {"counts": np.str_, "size": f.Tensor(shape=(2,), dtype=np.uint64)},
            "stability_score": f.Scalar(dtype=np.float64),
        }
    )
    picture = {"content": image, "file_name": np.str_, "height": np.uint64, "image_id": np.uint64}
    expression = f.Sequence({"refexp_id": np.int64, "raw": text})
    found: dict[str, tuple[dict[str, Any], tuple[str, str] | None]] = {
        "imagenet2012": ({"image": image, "label": label, "file_name": text}, ("image", "label")),
        "mnist": ({"image": f.Image(shape=(28, 28, 1)), "label": label}, ("image", "label")),
        "segment_anything": ({"image": picture, "annotations": annotations}, None),
        "coco/2017": (
            {
                "image": image,
                "image/filename": text,
                "image/id": np.int64,
                "objects": f.Sequence({**described, "is_crowd": np.bool_}),
            },
            None,
        ),
        "coco/2017_panoptic": (
            {
                "image": image,
                "image/filename": text,
                "image/id": np.int64,
                "panoptic_image": image,
                "panoptic_image/filename": text,
                "panoptic_objects": f.Sequence({**described, "is_crowd": np.bool_}),
            },
            None,
        ),
        "lvis": (
            {
                "image": image,
                "image/id": np.int64,
                "neg_category_ids": f.Sequence(label),
                "not_exhaustive_category_ids": f.Sequence(label),
                "objects": f.Sequence({**described, "segmentation": grey}),
            },
            None,
        ),
        "ref_coco": (
            {
                "image": image,
                "image/id": np.int64,
                "objects": f.Sequence(
                    {"id": np.int64, "bbox": box, "mask": image, "refexp": expression}
                ),
                "coco_annotations": f.Sequence({"id": np.int64, "bbox": box}),
            },
            None,
        ),
        "oxford_iiit_pet": (
            {
                "image": image,
                "label": label,
                "species": label,
                "file_name": text,
                "segmentation_mask": f.Image(shape=(None, None, 1), use_colormap=True),
                "head_bbox": box,
            },
            ("image", "label"),
        ),
        "scene_parse150": ({"image": image, "annotation": image}, ("image", "annotation")),
        "lost_and_found": (
            {
                "image_left": image,
                "segmentation_label": f.Image(shape=(None, None, 1), use_colormap=True),
                "instance_id": f.Image(shape=(None, None, 1), use_colormap=True),
                "image_id": text,
            },
            None,
        ),
        "nyu_depth_v2": (
            {"image": image, "depth": f.Image(shape=(None, None, 1), dtype=np.float32)},
            ("image", "depth"),
        ),
        "davis": (
            {
                "video": f.Sequence({"frames": image, "segmentations": grey}),
                "metadata": {"num_frames": np.int64, "video_name": np.str_},
            },
            None,
        ),
        "rlds": ({"steps": f.Dataset({"image": image, "reward": np.float32})}, None),
    }
    return found[name]


def find(name: str, **fields: Any) -> tfds_features.Features:
    from tensorflow_datasets import features as f

    kinds, declared = features(name)
    info = SimpleNamespace(features=f.FeaturesDict(kinds), supervised_keys=declared)
    return tfds_features.find(info, TfdsConfig(path="x", name=name, **fields), "data.source.")


@pytest.mark.parametrize(
    ("name", "fields", "image", "label", "semantic", "masks", "own"),
    [
        ("imagenet2012", {}, "image", "label", None, None, "file_name"),
        ("mnist", {}, "image", "label", None, None, None),
        (
            "segment_anything",
            {},
            "image/content",
            None,
            None,
            ("annotations/segmentation", "runs"),
            "image/file_name",
        ),
        ("coco/2017", {}, "image", None, None, None, "image/filename"),
        ("coco/2017_panoptic", {"image": "image"}, "image", None, None, None, "image/filename"),
        ("lvis", {}, "image", None, None, ("objects/segmentation", "pictures"), "image/id"),
        ("ref_coco", {}, "image", None, None, ("objects/mask", "pictures"), "image/id"),
        ("oxford_iiit_pet", {}, "image", "label", "segmentation_mask", None, "file_name"),
        ("scene_parse150", {}, "image", None, None, None, None),
        ("lost_and_found", {}, "image_left", None, None, None, "image_id"),
        (
            "lost_and_found",
            {"masks": "instance_id"},
            "image_left",
            None,
            "segmentation_label",
            ("instance_id", "numbers"),
            "image_id",
        ),
        ("nyu_depth_v2", {}, "image", None, None, None, None),
    ],
)
def test_what_a_data_set_becomes(
    name: str,
    fields: dict,
    image: str,
    label: str | None,
    semantic: str | None,
    masks: tuple[str, str] | None,
    own: str | None,
):
    found = find(name, **fields)
    assert found.image == image and found.own_name == own
    assert (found.label and found.label.key) == label
    assert (found.semantic and found.semantic.key) == semantic
    assert (found.masks and (found.masks.key, found.masks.form)) == masks
    expected = {"label": label, "semantic": semantic, "masks": masks}
    assert set(found.lacks) == {kind for kind, key in expected.items() if key is None}


def test_what_is_known_of_an_object_is_beside_its_mask():
    masks = find("segment_anything").masks
    assert masks is not None
    assert (masks.identity, masks.box) == ("annotations/id", "annotations/bbox")
    masks = find("lvis").masks
    assert masks is not None and masks.crowd is None
    assert (masks.identity, masks.box) == ("objects/id", "objects/bbox")


@pytest.mark.parametrize("name", ["davis", "rlds"])
def test_data_sets_without_a_picture_a_record(name: str):
    with pytest.raises(DataError, match=rf"^{name} has no feature with one picture for each reco"):
        find(name)


def test_a_choice_that_is_left_open():
    with pytest.raises(
        ConfigError, match=r"choose one of image, panoptic_image with --data.source"
    ):
        find("coco/2017_panoptic")
