"""Small data sets of drawn pictures, in the layouts of several sources, with their masks dense."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from esam_jax.ops import regions


def picture(number: int) -> np.ndarray:
    """Blocks of random colours, of another size for every number."""
    rng = np.random.default_rng(number)
    blocks = rng.integers(0, 256, (4 + number % 3, 5 + number % 4, 3), np.uint8)
    return blocks.repeat(9, 0).repeat(7, 1)


def masks(number: int) -> list[np.ndarray]:
    """Up to five rectangles, which may overlap."""
    height, width, _ = picture(number).shape
    rng = np.random.default_rng((number, 1))
    found = []
    for _ in range(1 + number % 5):
        mask = np.zeros((height, width), bool)
        y, x = rng.integers(0, height - 6), rng.integers(0, width - 6)
        mask[y : y + rng.integers(2, height - y), x : x + rng.integers(2, width - x)] = True
        found.append(mask)
    return found


def sa1b(folder: Path, count: int) -> Path:
    """`sa_N.jpg` (PNG inside, for JPEG decoders differ) with `sa_N.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"sa_{number}.jpg"
        Image.fromarray(picture(number)).save(path, "PNG")
        found = [
            {"id": i, "segmentation": regions.to_rle(mask)} for i, mask in enumerate(masks(number))
        ]
        height, width, _ = picture(number).shape
        size = {"height": height, "width": width}
        path.with_suffix(".json").write_text(json.dumps({"image": size, "annotations": found}))
    return folder


def coco(folder: Path, count: int, more: Mapping[str, Any] | None = None) -> Path:
    """`instances.json` with run lengths, plain ones and polygons; `more` fields of the json."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        height, width, _ = picture(number).shape
        name = f"{number:012}.png"
        Image.fromarray(picture(number)).save(folder / "images" / name)
        images.append({"id": 50 - number, "file_name": name, "height": height, "width": width})
        forms = [regions.to_rle(masks(number)[0]), regions.to_runs(masks(number)[-1])]
        forms.append([[1, 1, 20, 3, 9, 25.5], [2, 2, 9, 2, 9, 9, 2, 9]])
        annotations += [
            {"id": 10 * number + i, "image_id": 50 - number, "bbox": [1, 2, 3, 4.5]}
            | {"segmentation": each}
            for i, each in enumerate(forms)
        ]
    content = {"images": images, "annotations": annotations, **(more or {})}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json"


def image_folder(folder: Path, count: int) -> Path:
    """Pictures in two folders, JPEG and PNG."""
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number}.{('png', 'jpg')[number % 3 == 0]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(path)
    return folder
