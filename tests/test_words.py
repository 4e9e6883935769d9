"""Numbers in sentences."""

import pytest

from esam_jax.words import counted


@pytest.mark.parametrize(("count", "said"), [(0, "0 masks"), (1, "1 mask"), (2, "2 masks")])
def test_a_noun_agrees_with_its_count(count: int, said: str):
    assert counted(count, "mask") == said


def test_a_plural_may_be_given():
    assert [counted(n, "entry", "entries") for n in (1, 2)] == ["1 entry", "2 entries"]
