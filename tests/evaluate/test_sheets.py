"""A picture drawn for a report: the objects found worst, and the prompts for them."""

import numpy as np

from esam_jax.data.bitmaps import Bitmap
from esam_jax.data.mask_sets import Object
from esam_jax.evaluate import sheets
from esam_jax.evaluate.prompts import Found
from esam_jax.evaluate.questions import Answer
from esam_jax.evaluate.targets import Scene, Target
from esam_jax.predict.prompt import Prompt


def found(count):
    """Of a picture with so many objects; each was found better than the one before."""
    masks = np.zeros((count, 20, 100), bool)
    for i, mask in enumerate(masks):
        mask[5:9, 2 * i : 2 * i + 2] = True
    bitmaps = [Bitmap.of(mask) for mask in masks]
    scores = []
    for i, bitmap in enumerate(bitmaps):
        box, click = Prompt(box=[2 * i, 5, 2 * i + 2, 9]), Prompt(points=[[2 * i, 6]])
        iou = (i + 1) / 100
        answers = {"box": box, "uniform_1": click}
        scores.append(
            {column: [Answer(iou, iou, bitmap, None, prompt)] for column, prompt in answers.items()}
        )
    targets = [Target("p", Object(identity=i), bitmaps[i]) for i in range(count)]
    return Found(0, "p", Scene(np.zeros((20, 100, 3), np.uint8), targets), scores)


def test_boxes_and_clicks_are_shown():
    seen = found(2)
    row = sheets.row([(seen, "box"), (seen, "uniform_1")])
    assert [prompt.box.tolist() for prompt in row.prompts] == [[0, 5, 2, 9], [2, 5, 4, 9]]
    assert [prompt.points.tolist() for prompt in row.prompts] == [[[0, 6]], [[2, 6]]]
    assert row.captions == ["2 objects", "IoU 0.015", "IoU 0.015"]
    assert [prompt.box for prompt in sheets.row([(seen, "uniform_1")]).prompts] == [None, None]


def test_of_many_objects_the_worst_are_shown():
    seen = found(30)
    row = sheets.row([(seen, "box")])
    assert len(row.prompts) == len(row.masks[0]) == len(row.masks[1]) == 12
    assert row.captions == ["the worst 12 of 30", "IoU 0.065"]
