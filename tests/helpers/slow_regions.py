"""Small holes and islands of whole masks, by way of run lengths."""

import numpy as np

from esam_jax.ops import regions, small_regions


def without(mask, area, kind):
    """The mask less its small regions, and whether there were any."""
    runs = np.array(regions.to_runs(mask)["counts"])
    [found], [changed] = small_regions.without_small([runs], len(mask), area, kind)
    assert (found[1:] > 0).all() and found.sum() == mask.size
    return regions.fill(found, *mask.shape), bool(changed)
