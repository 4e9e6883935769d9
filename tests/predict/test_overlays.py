"""Overlays of large pictures: smaller, with everything on them in its place."""

import numpy as np
import pytest

from esam_jax.ops import regions
from esam_jax.predict import draw, overlays
from esam_jax.predict.prompt import Prompt


@pytest.mark.parametrize(("scale", "size"), [(1, (300, 800)), (0.5, (600, 2048))])
def test_prompts_are_scaled_with_the_picture_and_numbers_begin_at_1(
    monkeypatch: pytest.MonkeyPatch, scale: float, size: tuple[int, int]
):
    """The box by its edges, a point by the middle of its pixel."""
    given = []

    def overlay(picture, masks, prompts, *, captions):
        given.append((picture, masks, prompts, captions))
        return picture

    monkeypatch.setattr(draw, "overlay", overlay)
    mask = np.zeros(size, bool)
    mask[40:80, 100:260] = True
    prompts = [Prompt(box=[100, 40, 260, 80]), Prompt(points=[[121, 51]], labels=[1])]
    picture = np.zeros((*size, 3), np.uint8)
    overlays.drawn(picture, [regions.to_rle(x) for x in (mask, ~mask)], [0.9, 0.25], prompts)
    [(small, masks, (box, point), captions)] = given
    height, width = (round(side * scale) for side in size)
    assert small.shape == (height, width, 3) and masks.shape == (2, height, width)
    x0, y0, x1, y1 = (round(side * scale) for side in (100, 40, 260, 80))
    assert masks[0, y0:y1, x0:x1].all() and masks[0].sum() == (y1 - y0) * (x1 - x0)
    np.testing.assert_allclose(box.box, [x0, y0, x1, y1])
    assert box.points.shape == (0, 2) and point.box is None
    np.testing.assert_allclose(point.points, [[121.5 * scale - 0.5, 51.5 * scale - 0.5]])
    assert captions == ["1  0.90", "2  0.25"]
