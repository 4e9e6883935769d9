"""Names in little memory are the names, and each is found where it stands."""

import pickle
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.data.names import Names, Places

# What names of files may hold, bytes that are not UTF-8 among it.
texts = st.lists(st.binary(max_size=12).map(lambda x: x.decode(errors="surrogateescape")))


@given(texts)
def test_names_are_those_that_were_given(names: list[str]):
    found = Names(names)
    assert [*found] == names and len(found) == len(names)
    assert [*pickle.loads(pickle.dumps(found))] == names
    assert [found[-1 - i] for i in range(len(names))] == names[::-1]
    assert [*found[1:-1:2]] == names[1:-1:2]


@pytest.mark.parametrize("index", [2, -3])
def test_a_place_that_there_is_not_is_an_error(index: int):
    with pytest.raises(IndexError):
        Names(["a", "b"])[index]


@given(texts, texts)
def test_places_are_those_of_a_dictionary(names: list[str], others: list[str]):
    slow = {name: place for place, name in enumerate(names)}
    found = Places(names)
    assert len(found) == len(slow)
    for name in names + others:
        assert found.find(name) == slow.get(name)
        assert (name in found) == (name in slow)


def test_a_name_takes_little_more_memory_than_its_letters():
    count, letters = 20_000, 24
    tracemalloc.start()
    names = Names(f"{i:0{letters}}" for i in range(count))
    places = Places(names)
    held = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    assert len(names) == len(places) == count
    assert held < letters + 8 + 16 + 2  # its end, its hash and its place
