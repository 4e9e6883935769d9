"""The models that ship do what their pages say, on scenes that they have not seen."""

import numpy as np
import pytest

import esam_jax as esam
from esam_jax.data import sources
from esam_jax.evaluate import numbers, runner, targets
from esam_jax.evaluate.protocol import Protocol


def test_one_of_them_can_be_corrected():
    """Nothing of it is untrained: background points, mask prompts, the single mask."""
    assert esam.load("quickstart_clicks").untrained == ()
    assert esam.load("quickstart_teacher").untrained


@pytest.mark.slow
def test_clicks_on_its_faults_help_it():
    data = {"scenes": sources.open_source(sources.detect("scenes"))}
    protocol = Protocol(
        images=60, masks_per_image=32, points=(1, 3, 5), clicks=("centre",), feed_back=True
    )
    found = runner.evaluate(esam.load("quickstart_clicks"), data, protocol, progress=False)
    rows = found["numbers"]
    box, *clicks = numbers.miou(rows, "box"), *(numbers.miou(rows, "centre", n) for n in (1, 3, 5))
    assert box > 0.84
    assert clicks[0] > 0.79 and clicks[1] > 0.85 and clicks[2] > 0.87
    assert clicks == sorted(clicks)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart_teacher", "quickstart_clicks"])
def test_everything_finds_its_objects_by_default(name):
    """Of the objects of twenty scenes at least 80 % have a mask with an IoU of half or more."""
    source = sources.open_source(sources.detect("scenes"))
    generator = esam.AutomaticMaskGenerator(esam.load(name))
    found = []
    for i in range(20):
        scene = targets.of(source.read(i), most=None, seed=0, min_area_px=1, given=False)
        masks = np.stack([x["segmentation"] for x in generator.generate(scene.image)])
        for truth in (target.mask.dense() for target in scene.targets):
            iou = (masks & truth).sum((1, 2)) / (masks | truth).sum((1, 2))
            found.append(iou.max() >= 0.5)
    assert len(found) > 60 and np.mean(found) >= 0.8
