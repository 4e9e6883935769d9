"""Points go to the model's frame and back."""

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.ops import geometry

side = st.integers(1, 5000)
fits = st.sampled_from(["stretch", "pad"])
shares = hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.just(2)), elements=st.floats(0, 1))


@given(shares, side, side, st.sampled_from([64, 1024]), fits)
def test_frames_invert(shares, height, width, px, fit):
    points = shares * (width, height)
    inside = geometry.to_model(points, height, width, px, fit)
    # A share of the picture lands inside the square, less float32 rounding.
    assert (inside >= 0).all() and (inside <= px * (1 + 1e-6)).all()
    back = geometry.to_image(inside, height, width, px, fit)
    np.testing.assert_allclose(back, points, rtol=1e-6, atol=1e-6)


@given(side, side, st.integers(16, 1024))
def test_padding_keeps_the_longer_side_and_the_ratio(height, width, px):
    h, w = geometry.longest_side(height, width, px)
    assert max(h, w) == px
    # Whatever is narrower than half a pixel still gets one.
    for found, side in ((h, height), (w, width)):
        assert abs(found - max(side * px / max(height, width), 0.5)) <= 0.5 + 1e-9
