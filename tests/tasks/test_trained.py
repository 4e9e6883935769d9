"""Which leaves are trained: the part of a tree, and the tree put together again."""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.tasks import trained

names = st.sampled_from("abc")
trees = st.recursive(
    st.integers(0, 9), lambda node: st.dictionaries(names, node, min_size=1), max_leaves=8
)
some_trees = st.dictionaries(names, trees, min_size=1)


def flat(tree):
    """Path -> leaf, by JAX's own walk."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


@given(some_trees, st.sets(st.text("abc/", max_size=3)))
def test_a_part_holds_the_accepted_leaves_and_goes_back_into_its_tree(tree, ends):
    def accepts(path):
        return path.endswith(tuple(ends))

    part = trained.select(tree, accepts)
    assert flat(part) == {path: leaf for path, leaf in flat(tree).items() if accepts(path)}
    assert trained.merged(tree, part) == tree
    moved = trained.merged(tree, jax.tree.map(lambda x: x + 10, part))
    assert flat(moved) == {path: x + 10 * accepts(path) for path, x in flat(tree).items()}


def test_all_of_a_tree_is_that_tree_and_none_of_it_is_nothing():
    tree = {"m": {"encoder": {"kernel": 1}, "norm": {"scale": 2}}}
    assert trained.select(tree, lambda path: True) == tree
    assert trained.select(tree, lambda path: False) == {}


def test_counts_numbers_and_says_their_share():
    tree = {"m": {"encoder": np.ones((3, 5)), "decoder": np.ones(4), "scalar": np.float32(1)}}
    found = trained.count(tree, lambda path: path == "m/decoder")
    assert found == (4, 20)
    assert str(found) == "4 of 20 parameters (20.00%)"
