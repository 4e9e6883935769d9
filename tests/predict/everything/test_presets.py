"""The settings with which SA-1B was made (arXiv:2304.02643, appendix B)."""

import numpy as np

from esam_jax.data.sources import scene_painter
from esam_jax.ops import grids
from esam_jax.predict import load
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.everything.presets import preset


def test_sa1b_looks_at_the_picture_and_20_crops_with_the_published_thresholds():
    generator = AutomaticMaskGenerator(load("quickstart_teacher"), **preset("sa1b"))
    assert [len(points) for points in generator.point_grids] == [32**2, 16**2, 8**2]
    _, layers = grids.crops(1500, 2250, generator.crop_n_layers, generator.crop_overlap_ratio)
    assert np.bincount(layers).tolist() == [1, 4, 16]
    assert (generator.pred_iou_thresh, generator.stability_score_thresh) == (0.88, 0.95)
    assert (generator.box_nms_thresh, generator.crop_nms_thresh) == (0.7, 0.7)
    assert (generator.stability_score_offset, generator.min_mask_region_area) == (1.0, 100)
    assert generator.largest_share == 0.95


def test_masks_of_too_large_a_share_are_left_out_before_any_suppression():
    """So they suppress nothing: what is left is what the others alone would leave."""
    picture = scene_painter.draw(3, 64, split="heldout")[0]
    settings = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
    generator = AutomaticMaskGenerator(load("quickstart_teacher"), 5, **settings)
    every = generator.generate(picture)
    generator.largest_share = 0.3
    least = 0.3 * picture.shape[0] * picture.shape[1]
    found = generator.generate(picture)
    expected = [record for record in every if record["area"] < least]
    assert 0 < len(expected) < len(every)
    assert [x["area"] for x in found] == [x["area"] for x in expected]
    assert all((x["segmentation"] == y["segmentation"]).all() for x, y in zip(found, expected))
    assert generator.tally.dropped["largest_share"] == len(every) - len(expected)
    assert "covered 30% of the picture or more" in generator.tally.why(generator)
    # Of 4096 pixels every share is exact: a mask that just reaches it is left out.
    largest = sorted(record["area"] for record in every)[len(every) // 2]
    generator.largest_share = largest / picture[..., 0].size
    assert max(record["area"] for record in generator.generate(picture)) < largest
