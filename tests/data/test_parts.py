"""Two parts of one set of pictures: nothing in both, nothing lost, the same on every machine."""

import pickle

import pytest
from helpers.name_source import Names
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.config import CocoConfig
from esam_jax.data import parts, records, sources
from esam_jax.errors import ConfigError, DataError


class Readable(Names):
    """A source of records without pictures."""

    def read(self, index):
        return records.Record(name=self.names[index], picture=None)


def names_of(part):
    return [part.name(i) for i in range(len(part))]


NAMES = st.lists(st.text(min_size=1, max_size=4), min_size=2, max_size=20, unique=True)


@given(NAMES, st.data())
def test_the_parts_make_up_the_set(names, data):
    heldout = data.draw(st.integers(1, len(names) - 1))
    source = Readable(tuple(names))
    train, held = (parts.of(source, part, heldout) for part in ("train", "heldout"))
    assert len(held) == heldout
    assert sorted(names_of(train) + names_of(held)) == sorted(names)
    for part in (train, held):  # in the order of the source
        assert [names.index(name) for name in names_of(part)] == sorted(part.indices)
    turned = parts.of(Readable(tuple(reversed(names))), "heldout", heldout)
    assert set(names_of(turned)) == set(names_of(held))


@given(NAMES, st.data())
def test_another_picture_moves_one_at_most(names, data):
    heldout = data.draw(st.integers(1, len(names) - 1))
    one_more = (*names, "a name of nine")
    held = {*names_of(parts.of(Readable(tuple(names)), "heldout", heldout))}
    after = {*names_of(parts.of(Readable(one_more), "heldout", heldout))}
    assert len(held - after) <= 1


def test_no_part_may_be_empty():
    with pytest.raises(DataError, match="heldout is 3, but there are 3 pictures"):
        parts.of(Readable(("a", "b", "c")), "train", 3)


@pytest.mark.parametrize("values", [{"part": "train"}, {"heldout": 3}])
def test_a_part_and_its_size_come_together(values):
    with pytest.raises(ConfigError, match="heldout"):
        CocoConfig(path="x", **values)


def test_a_source_opens_in_parts(coco_json):
    """Findings about the file and a digest that changes with the part come along."""
    everything = sources.open_source(CocoConfig(path=str(coco_json)))
    both = [
        sources.open_source(CocoConfig(path=str(coco_json), part=part, heldout=1))
        for part in ("train", "heldout")
    ]
    assert len(both[1]) == 1 and len(both[0]) == len(everything) - 1
    assert sorted(name for each in both for name in names_of(each)) == sorted(names_of(everything))
    for each in both:
        assert isinstance(each, records.AnnotatedSource)
        assert list(each.findings) == list(everything.findings)
        assert each.read(0).name == each.name(0)
    assert len({records.summary(each) for each in (everything, *both)}) == 3


def test_a_part_takes_eight_bytes_a_record_when_it_is_sent():
    """Each worker process is sent it, and SA-1B has eleven million records."""
    part = parts.of(Readable(tuple(map(str, range(10_000)))), "train", 1)
    assert len(pickle.dumps(part.indices)) < 8 * 10_000 + 1000
    assert part.indices.nbytes == 8 * (10_000 - 1)
