"""How often records come in an epoch, against a list that is counted out."""

import dataclasses
import hashlib
import math
from collections import Counter

import numpy as np
import pytest
from helpers.name_source import Names
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.data import copies, parts
from esam_jax.data.order import Order
from esam_jax.data.parts import Part
from esam_jax.errors import DataError

TIMES = st.floats(0.05, 4).map(lambda often: round(often, 2))


@dataclasses.dataclass(frozen=True)
class Sections(Names):
    ends: tuple[int, ...]


def sections(*sizes):
    names = [f"{k}/{i}.png" for k, size in enumerate(sizes) for i in range(size)]
    return Sections(tuple(names), tuple(np.cumsum(sizes).tolist()))


def obvious(source, times):
    """Every name as often as it comes."""
    found, first = [], 0
    for end, often in zip(source.ends, times, strict=True):
        for name in source.names[first:end]:
            hashed = hashlib.blake2b(name.encode(), digest_size=8, salt=bytes(8), person=b"copies")
            once_more = int.from_bytes(hashed.digest(), "big") / 2**64 < often - math.floor(often)
            found += [name] * (math.floor(often) + once_more)
        first = end
    return Counter(found)


def original(name):
    """The name of the record that a name is of."""
    return name.split("/", 1)[1] if name.startswith("copy_") else name


@given(st.lists(st.tuples(st.integers(1, 30), TIMES), min_size=1, max_size=4), st.integers(0, 99))
def test_every_record_comes_as_often_in_an_epoch_as_is_said(drawn, seed):
    source, times = sections(*[size for size, _ in drawn]), [often for _, often in drawn]
    expected, first = obvious(source, times), 0
    by_section = []
    for end in source.ends:
        by_section.append(sum(expected[name] for name in source.names[first:end]))
        first = end
    if 0 in by_section:
        with pytest.raises(DataError, match="leaves none of its"):
            copies.of(source, times)
        return
    found = copies.of(source, times)
    names = [found.name(i) for i in range(len(found))]
    assert Counter(map(original, names)) == expected
    assert len(set(names)) == len(names)  # so that each copy is augmented in its own way
    order = Order(len(found), seed)
    for epoch in (0, 1):
        read = [found.name(order[epoch * len(found) + i][1]) for i in range(len(found))]
        assert Counter(map(original, read)) == expected


@given(st.data())
def test_a_part_is_repeated_as_its_records_are_in_the_complete_set(data):
    """Which of them come once more depends on their names, and on nothing that was left out."""
    source = sections(9, 7, 12)
    kept = data.draw(st.lists(st.integers(0, 27), min_size=1, unique=True).map(sorted))
    times = (2.5, 1.0, 3.25)
    part = copies.of(Part(source, np.array(kept), "kept"), times)
    every = copies.of(source, times)
    names = {source.names[i] for i in kept}
    wanted = [name for i in range(len(every)) if original(name := every.name(i)) in names]
    assert [part.name(i) for i in range(len(part))] == wanted


def test_a_share_is_met_and_lies_in_a_larger_one_and_is_no_other_choice():
    source = sections(4000)

    def chosen(share):
        found = copies.of(source, (share,))
        return {found.name(i) for i in range(len(found))}

    quarter = chosen(0.25)
    assert abs(len(quarter) - 1000) < 3 * math.sqrt(4000 * 0.25 * 0.75)
    assert quarter < chosen(0.5)
    subset = {name for name in source.names if parts.in_share(name, 0.25, b"subset")}
    assert 150 < len(quarter & subset) < 350  # 250 by chance
    assert {original(name) for name in chosen(1.25) if name.startswith("copy_2/")} == quarter


def test_more_records_than_have_numbers_are_refused():
    source = sections(2**12)
    assert len(copies.of(source, (2.0**19 - 1,))) == 2**31 - 2**12
    with pytest.raises(DataError, match="times make 2147483648 records of an epoch, but at most"):
        copies.of(source, (2.0**19,))


def test_memory_is_four_bytes_for_each_that_comes_once_more():
    """Eleven million records are read three times by arithmetic, and by nothing else."""
    source = sections(1000)
    whole, part = (copies.of(source, (often,)) for often in (3.0, 3.5))
    assert whole._sections[0].chosen.nbytes == 0
    extra = len(part) - 3000
    assert part._sections[0].chosen.nbytes == 4 * extra and 400 < extra < 600
