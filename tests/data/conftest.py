"""Small data sets written to a temporary folder, one for each layout."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from esam_jax.ops import regions


def write_picture(path: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random picture; returns its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
    image.save(path)
    return np.asarray(image)


def disc(height: int, width: int, y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


@pytest.fixture
def sa1b_folder(tmp_path: Path) -> Path:
    """Three pictures of 40 x 60 with two discs each; the third has a disc of three pixels too."""
    folder = tmp_path / "sa1b"
    for number in (1, 2, 10):
        write_picture(folder / f"sa_{number}.jpg", 40, 60, seed=number)
        masks = [disc(40, 60, 12, 15, 9), disc(40, 60, 25, 40, 6 + number / 2)]
        masks += [disc(40, 60, 35, 5, 1)] * (number == 10)
        annotations = [
            {"segmentation": regions.to_rle(mask), "id": i} for i, mask in enumerate(masks)
        ]
        image = {"image_id": number, "width": 60, "height": 40, "file_name": f"sa_{number}.jpg"}
        content = json.dumps({"image": image, "annotations": annotations})
        (folder / f"sa_{number}.json").write_text(content)
    return folder


@pytest.fixture
def coco_json(tmp_path: Path) -> Path:
    """Pictures a (a polygon, a crowd), b (a compressed mask), c (a crowd only) and d (nothing)."""
    for seed, name in enumerate("abcd"):
        write_picture(tmp_path / "coco" / "val2017" / f"{name}.png", 20, 30, seed)
    plain = {"size": [20, 30], "counts": [100, 50, 450]}
    packed = regions.to_rle(disc(20, 30, 9, 11, 5))
    objects = [
        {"image_id": 7, "iscrowd": 0, "segmentation": [[2, 3, 22, 3, 22, 13, 2, 13]]},
        {"image_id": 7, "iscrowd": 1, "segmentation": plain},
        {"image_id": 3, "segmentation": packed},
        {"image_id": 5, "iscrowd": 1, "segmentation": plain},
    ]
    images = [
        {"id": identity, "file_name": f"{name}.png", "height": 20, "width": 30}
        for identity, name in zip((7, 3, 5, 9), "abcd")
    ]
    path = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"images": images, "annotations": objects}))
    return path


@pytest.fixture(name="write_picture")
def _write_picture() -> Callable[..., np.ndarray]:
    return write_picture
