"""Random masking."""

import jax
import numpy as np

from esam_jax.ops import masking


def test_each_token_is_visible_equally_often():
    visible, _ = masking.choose(jax.random.key(0), 4000, 8, 2)
    share = np.bincount(np.asarray(visible).ravel(), minlength=8) / 4000
    # Each count is binomial with probability 1/4: five standard deviations.
    np.testing.assert_allclose(share, 0.25, atol=5 * np.sqrt(0.25 * 0.75 / 4000))


def test_images_and_keys_differ():
    first, again, other = (
        np.asarray(masking.choose(jax.random.key(seed), 6, 64, 16)[0]) for seed in (0, 0, 1)
    )
    assert (first == again).all() and (first != other).any()
    assert len({tuple(row) for row in np.sort(first, axis=1)}) == 6
