"""Grids and crops of segment-everything, with segment-anything's own numbers as the judge."""

import json
from pathlib import Path

import numpy as np
import pytest

from esam_jax.ops import grids

FOLDER = Path(__file__).parents[1] / "golden"
ARRAYS = np.load(FOLDER / "everything.npz")
CASES = json.loads((FOLDER / "everything.json").read_text())


@pytest.mark.parametrize("side", [1, 3, 4])
def test_points_are_the_centres_of_cells_row_by_row(side: int):
    np.testing.assert_array_equal(grids.points(side), ARRAYS[f"grid/{side}"])


def test_corners_go_down_the_columns():
    np.testing.assert_array_equal(grids.corners(2), [[0, 0], [0, 0.5], [0.5, 0], [0.5, 0.5]])
    width, height, found = 90, 50, []
    for i in range(32):  # as EfficientSAM's notebook has it
        for j in range(32):
            found.append([0.5 + i / 32 * width, 0.5 + j / 32 * height])
    np.testing.assert_array_equal(grids.corners(32) * [width, height] + 0.5, found)


@pytest.mark.parametrize("case", CASES["layer_grid_lengths"], ids=lambda case: str(case["args"]))
def test_deeper_layers_have_fewer_points(case: dict):
    assert [len(grid) for grid in grids.layers(*case["args"])] == case["points"]


def test_a_layer_without_points_is_refused():
    with pytest.raises(ValueError, match=r"2 points a side divided by 2\^2"):
        grids.layers(2, 2, 2)


@pytest.mark.parametrize("case", CASES["crop_boxes"])
def test_crops_are_those_of_the_original(case: dict):
    boxes, layers = grids.crops(*case["size"], case["layers"], case["overlap_ratio"])
    assert boxes.tolist() == case["boxes"] and layers == case["layer"]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2)])
def test_crops_of_a_tiny_picture_hold_a_pixel_and_cover_it(size: tuple[int, int]):
    boxes, _ = grids.crops(*size, 3, 512 / 1500)
    assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes[:, 2:] <= size[::-1]).all()


def test_boxes_cut_by_the_crop_are_those_of_the_original():
    edge = CASES["edge"]
    width, height = edge["orig"][2:]
    near = grids.cut_by_crop(ARRAYS["edge/boxes"], np.array(edge["crop"]), height, width)
    np.testing.assert_array_equal(near, ARRAYS["edge/near"])
