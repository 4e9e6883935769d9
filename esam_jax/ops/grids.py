"""Prompts and crops of segment-everything: grids of points, overlapping crops of a picture.

Source: segment-anything, `segment_anything/utils/amg.py`; for corners, the notebook
`EfficientSAM_segment_everything_example.ipynb` of EfficientSAM. NumPy, float64, host side.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, Num

EDGE_PX = 20.0  # a box this close to the edge of its crop was cut by it


def points(side: int) -> Float[np.ndarray, "{side}*{side} 2"]:
    """Centres (x, y) of side x side cells of the unit square, row by row."""
    centres = np.linspace(1 / (2 * side), 1 - 1 / (2 * side), side)
    x, y = np.meshgrid(centres, centres)
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def corners(side: int) -> Float[np.ndarray, "{side}*{side} 2"]:
    """Upper left corners (x, y) of the same cells, column by column."""
    steps = np.arange(side) / side
    x, y = np.meshgrid(steps, steps, indexing="ij")
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def layers(
    side: int,
    crop_layers: int,
    shrink: int,
    grid: Callable[[int], Float[np.ndarray, "X 2"]] = points,
) -> list[Float[np.ndarray, "X 2"]]:
    """The grid of each layer of crops: layer i has side / shrink^i points a side, rounded down.

    ValueError where a layer would have none.
    """
    sides = [int(side / shrink**layer) for layer in range(crop_layers + 1)]
    if sides[-1] < 1:
        raise ValueError(
            f"{side} points a side divided by {shrink}^{crop_layers} leaves none for the last "
            "layer of crops: use more points, fewer layers or a smaller downscale factor"
        )
    return [grid(each) for each in sides]


def crops(
    height: int, width: int, layers: int, overlap_ratio: float
) -> tuple[Int[np.ndarray, "X 4"], list[int]]:
    """Boxes (x0, y0, x1, y1) with x1, y1 outside, and the layer of each; layer 0 is the picture.

    Layer i has 2^i x 2^i crops, columns first; neighbours share `overlap_ratio` of the short side
    in layer 1 and half as much with each further layer. A picture smaller than its crops gives
    empty ones, which are dropped.
    """
    boxes, layer_of = [[0, 0, width, height]], [0]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / count))
        wide, high = (math.ceil((overlap * (count - 1) + s) / count) for s in (width, height))
        for i in range(count):
            for j in range(count):
                x, y = (wide - overlap) * i, (high - overlap) * j
                box = [x, y, min(x + wide, width), min(y + high, height)]
                if box[2] > box[0] and box[3] > box[1]:
                    boxes.append(box)
                    layer_of.append(layer)
    return np.array(boxes), layer_of


def cut_by_crop(
    boxes: Num[np.ndarray, "X 4"], crop: Num[np.ndarray, " 4"], height: int, width: int
) -> Bool[np.ndarray, " X"]:
    """Which boxes, in the frame of the crop, touch its edge where the picture continues.

    "Touch" means within 20 pixels, as torch.isclose(atol=20, rtol=0) has it.
    """
    x, y = crop[0], crop[1]
    in_picture = np.asarray(boxes, np.float32) + np.array([x, y, x, y], np.float32)
    at_crop = np.abs(in_picture - crop) <= EDGE_PX
    at_picture = np.abs(in_picture - np.array([0, 0, width, height])) <= EDGE_PX
    return np.asarray((at_crop & ~at_picture).any(axis=1))
