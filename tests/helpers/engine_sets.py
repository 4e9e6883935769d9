"""Folders of the data engine with drawn pictures and masks that no model had to find."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from esam_jax.engine import asking, exchange
from esam_jax.ops import regions
from helpers import made_sets

HEIGHT, WIDTH = 40, 60
Box = tuple[int, int, int, int]  # x0, y0, x1, y1, less the last column and row


def rectangle(box: Box) -> dict[str, Any]:
    """Run lengths of a filled box."""
    x0, y0, x1, y1 = box
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return regions.to_rle(mask)


def record(box: Box, iou: float = 0.9, stability: float = 0.97) -> dict[str, Any]:
    """A mask as the generator has it."""
    return {"segmentation": rectangle(box), "predicted_iou": iou, "stability_score": stability}


def found(folder: Path, pictures: Sequence[Sequence[dict[str, Any]]]) -> Path:
    """What `esam everything` would have found in pictures 0.png, 1.png, ..."""
    (folder / exchange.IMAGES).mkdir(parents=True)
    for number, records in enumerate(pictures):
        file = folder / exchange.IMAGES / f"sa_{number}.jpg"
        pixels = np.resize(made_sets.picture(number), (HEIGHT, WIDTH, 3))
        Image.fromarray(pixels).save(file, "PNG")
        image = {"image_id": number, "width": WIDTH, "height": HEIGHT, "file_name": file.name}
        image["source"] = f"{number}.png"
        content = {"image": image, "annotations": list(records)}
        file.with_suffix(".json").write_text(json.dumps(content))
    return folder


def assisted(folder: Path, pictures: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """The proposals of `esam engine assist`, once they are written."""
    content = asking.assisted(found(folder, pictures))
    (folder / exchange.KEPT).mkdir()
    assert exchange.write_proposed(folder, content)
    return json.loads((folder / exchange.PROPOSED_FILE).read_text())
