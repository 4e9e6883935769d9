"""A mean does not depend on how its numbers were brought together."""

import math

from hypothesis import given
from hypothesis import strategies as st

from esam_jax.evaluate.metrics import Mean

VALUES = st.lists(st.floats(0, 1), max_size=20)


@given(VALUES, VALUES)
def test_merging_is_adding(first: list[float], second: list[float]):
    merged = Mean().add(first).merge(Mean().add(second))
    together = Mean().add(first + second)
    assert merged.count == together.count == len(first) + len(second)
    assert math.isclose(merged.total, together.total, abs_tol=1e-12)


def test_the_mean_of_nothing_is_not_a_number():
    assert math.isnan(Mean().value)
    assert Mean().add([1.0, 2.0, 6.0]).value == 3
