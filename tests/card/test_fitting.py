"""The search for the largest batch: what fits is run, what does not is never run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.card import fitting
from esam_jax.errors import DeviceMemoryError

GIB = 2**30


@pytest.fixture(autouse=True)
def peaks(monkeypatch):
    """A program stands for its own peak."""
    monkeypatch.setattr(fitting, "peak_bytes", lambda program: program)


def search(fixed, each, usable, first=8, most=4096, crashes=()):
    """The batches that were run, and the result of `largest`, for peaks on a line."""
    ran = []

    def run(program, batch):
        assert program <= usable
        ran.append(batch)
        if batch in crashes:
            raise MemoryError("RESOURCE_EXHAUSTED: out of memory")
        return batch

    return ran, fitting.largest(
        lambda batch: (fixed + batch * each, 1.0), run, usable=usable, first=first, most=most
    )


@given(
    st.integers(0, 10**9),
    st.integers(10**5, 10**8),
    st.integers(1, 600),
    st.floats(0.3, 3.0),
)
def test_what_is_found_is_near_the_best(fixed, each, best, guess):
    """Within one step of the batches that are tried: a factor of 1.5, however wrong the guess."""
    usable = fixed + best * each
    if usable <= 0:
        return
    ran, (result, tried) = search(fixed, each, usable, first=max(1, int(guess * best)))
    assert ran == [result] and result <= best
    assert 1.5 * 1.5 * result >= fitting.rounded(best)
    assert len(tried) <= 4 and [each.batch for each in tried if each.ran] == [result]


def test_a_good_guess_is_compiled_once():
    _, (result, tried) = search(GIB, GIB, 10 * GIB, first=8)
    assert result == 8 and len(tried) == 1


def test_it_ends_at_the_most():
    _, (result, tried) = search(0, 1000, 10**9, first=8, most=64)
    assert result == 64 and [each.batch for each in tried] == [8, 64]


def test_the_device_has_the_last_word():
    """The compiler's peak leaves workspaces of libraries out."""
    ran, (result, tried) = search(0, GIB, 40 * GIB, first=32, crashes=(32, 16))
    assert result < 16 and ran[:2] == [32, 16]
    assert {each.batch: each.ran for each in tried} == {32: False, 16: False, result: True}


@pytest.mark.parametrize(
    ("said", "found"),
    [("RESOURCE_EXHAUSTED: Used 160.00G of 40.00G hbm", 12), ("RESOURCE_EXHAUSTED: a tile", 16)],
)
def test_a_compiler_that_runs_out_of_memory_is_asked_for_less(said, found):
    """By what it says that it needs, or half."""

    def compile_at(batch):
        if batch > 20:
            raise MemoryError(said)
        return batch * GIB, 1.0

    result, tried = fitting.largest(
        compile_at, lambda program, batch: batch, usable=40 * GIB, first=32, most=64
    )
    assert result == found and (tried[0].ran, tried[-1].ran) == (False, True)


def test_nothing_fits():
    with pytest.raises(DeviceMemoryError, match=r"no batch fits into 1.00 GiB \(8: 10.00 GiB"):
        search(2 * GIB, GIB, GIB)


def test_other_errors_pass():
    def run(program, batch):
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        fitting.largest(lambda batch: (1, 0.0), run, usable=10, first=1, most=1)


@pytest.mark.parametrize(
    ("batch", "expected"), [(0, 1), (1, 1), (2, 2), (3, 3), (5, 4), (7, 6), (95, 64), (97, 96)]
)
def test_batches_are_round(batch, expected):
    assert fitting.rounded(batch) == expected
