"""A folder of pictures with maps of object numbers."""

from pathlib import Path

import numpy as np
from PIL import Image


def label_maps(folder: Path) -> Path:
    """Pictures a (objects 2 and 700), sub/b (nothing) and c (1, of 8 bits), all 12 x 20."""
    numbers = np.zeros((3, 12, 20), np.uint16)
    numbers[0, 1:9, 2:8], numbers[0, 5:11, 10:19], numbers[2, 3:9, 3:9] = 2, 700, 1
    for name, values in zip(("a", "sub/b", "c"), numbers, strict=True):
        for kind in ("images", "instances"):
            (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
        stored = values.astype(np.uint8) if name == "c" else values
        Image.fromarray(stored).save(folder / "instances" / f"{name}.png")
    return folder
