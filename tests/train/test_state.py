"""The state: born in pieces, started from given weights, refused when those do not fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy

from esam_jax import sharding
from esam_jax.config import MeshConfig
from esam_jax.errors import CheckpointError
from esam_jax.train import state as states

MESH = sharding.make_mesh(MeshConfig(data=1, fsdp=2, tensor=2))


def create(start=None, seed=0):
    cfg = toy.config(seed=seed)
    return toy.create(toy.task(), cfg, MESH, start)


def kernel(tree):
    return tree["toy"]["encoder"]["block_01"]["mlp"]["hidden"]["kernel"]


def test_born_sharded_moments_and_all():
    state = create()
    assert int(state.step) == 0
    moment = kernel(state.opt_state[0].mu)
    for leaf in (kernel(state.params), moment):
        assert {shard.data.shape for shard in leaf.addressable_shards} == {(4, 8)}  # of 8 x 16
    assert not np.any(moment)


def test_a_network_is_drawn_within_its_mesh():
    """Its forward pass gives the shapes, and a kernel in it must know how it is split."""
    seen, plain = [], toy.task()

    def init(rng):
        seen.append(dict(jax.sharding.get_abstract_mesh().shape))
        return plain.init(rng)

    toy.create(dataclasses.replace(plain, init=init), toy.config(), MESH)
    assert seen[-1] == {"data": 1, "fsdp": 2, "tensor": 2}


def test_sharding_does_not_change_what_is_drawn():
    alone = toy.task().init(states.init_key(5))
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(create(seed=5).params)):
        np.testing.assert_allclose(a, b, rtol=1e-6)  # compiled, the scaling rounds differently
    assert np.any(kernel(alone) != kernel(create(seed=6).params))


def test_starts_from_a_subset_of_the_leaves():
    ones = np.ones((8, 16))
    start = {"toy": {"encoder": {"block_01": {"mlp": {"hidden": {"kernel": ones}}}}}}
    plain, started = create().params, create(start).params
    np.testing.assert_array_equal(kernel(started), ones)
    assert kernel(started).dtype == jnp.float32
    assert kernel(started).sharding == kernel(plain).sharding
    other = [tree["toy"]["encoder"]["block_00"]["attn"]["query"] for tree in (plain, started)]
    np.testing.assert_array_equal(other[0]["kernel"], other[1]["kernel"])


def test_weights_that_do_not_fit_are_listed_together():
    mlp = {"hidden": {"kernel": np.ones((8, 15)), "bias": {"oops": np.ones(1)}}, "odd": np.ones(2)}
    start = {"toy": {"encoder": {"block_01": {"mlp": mlp}}}, "other": {}}
    with pytest.raises(CheckpointError) as error:
        create(start)
    for fault in (
        "toy/encoder/block_01/mlp/hidden/kernel is (8, 15) instead of (8, 16)",
        "toy/encoder/block_01/mlp/hidden/bias is a branch instead of (16,)",
        "toy/encoder/block_01/mlp/odd is unknown",
        "other is unknown",
    ):
        assert fault in str(error.value)
