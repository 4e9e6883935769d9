"""Copies of one piece on several devices: equal ones pass, a flipped bit is found and named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy

from esam_jax import sharding
from esam_jax.config import GuardConfig, MeshConfig
from esam_jax.errors import TrainingError
from esam_jax.train import loop, replicas

MESH = sharding.make_mesh(MeshConfig(data=4, fsdp=2))


def tree(mesh):
    """A state with moments, and a teacher in half precision."""
    cfg = toy.config()
    made = toy.create(toy.task(), cfg, mesh)
    frozen = {"teacher": {"mlp": {"hidden": {"kernel": jnp.full((8, 16), 0.3, jnp.bfloat16)}}}}
    return {
        "params": made.params,
        "opt_state": made.opt_state,
        "frozen": jax.device_put(frozen, sharding.shardings(frozen, mesh)),
    }


def flip(leaf, *devices):
    """The array with the lowest bit of one element changed in the copies on these devices."""
    pieces = []
    for shard in leaf.addressable_shards:
        piece = np.array(shard.data)
        if shard.device.id in devices:
            piece.view(f"uint{8 * piece.dtype.itemsize}").flat[3] ^= 1
        pieces.append(jax.device_put(piece, shard.device))
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, pieces)


@pytest.fixture(scope="module")
def checked():
    whole = tree(MESH)
    copies = replicas.Replicas(whole, MESH, trusted=20)
    return whole, copies


def kernel(tree):
    return tree["toy"]["encoder"]["block_01"]["mlp"]["hidden"]["kernel"]


def test_equal_copies_pass_and_are_compiled_once(checked):
    whole, copies = checked
    copies.compare(20, whole)
    with jax.transfer_guard("disallow"), jax.log_compiles(False):
        copies.compare(20, whole)
    assert copies._sums._cache_size() == 1


@pytest.mark.parametrize("part", ["params", "moment", "frozen"])
def test_f21_a_flipped_bit_in_one_copy_is_named(checked, part):
    whole, copies = checked
    # Pieces of the kernels lie on every second device: 1, 3, 5 and 7 hold the same one.
    if part == "params":
        spoilt = {**whole, "params": jax.tree.map(lambda x: x, whole["params"])}
        layer = spoilt["params"]["toy"]["encoder"]["block_01"]["mlp"]["hidden"]
        layer["kernel"] = flip(layer["kernel"], 5)
        name = "params/toy/encoder/block_01/mlp/hidden/kernel"
    elif part == "moment":
        adam = whole["opt_state"][0]
        moment = jax.tree.map(lambda x: x, adam.nu)
        layer = moment["toy"]["encoder"]["block_01"]["mlp"]["hidden"]
        layer["kernel"] = flip(layer["kernel"], 5)
        spoilt = {**whole, "opt_state": (adam._replace(nu=moment), *whole["opt_state"][1:])}
        name = "opt_state/0/nu/toy/encoder/block_01/mlp/hidden/kernel"
    else:
        wide = whole["frozen"]["teacher"]["mlp"]["hidden"]["kernel"]
        spoilt = {**whole, "frozen": {"teacher": {"mlp": {"hidden": {"kernel": flip(wide, 5)}}}}}
        name = "frozen/teacher/mlp/hidden/kernel"
    with pytest.raises(TrainingError) as error:
        copies.compare(30, spoilt)
    message = f"after step 30, .* differ: {name} on device 5 of host 0 is unlike 3 others. .*"
    assert error.match(message + "up to step 20 are trusted")


def test_two_copies_have_no_majority():
    mesh = sharding.make_mesh(MeshConfig(data=2))
    place = sharding.replicated(mesh)
    whole = {"norm": {"scale": jax.device_put(np.ones(8, np.float32), place)}}
    copies = replicas.Replicas(whole, mesh, trusted=0)
    copies.compare(1, whole)
    odd = "norm/scale on device 0 of host 0, device 1 of host 0, without a majority"
    with pytest.raises(TrainingError, match=f"{odd}.* up to step 1 are trusted"):
        copies.compare(2, {"norm": {"scale": flip(whole["norm"]["scale"], 1)}})


def test_before_the_first_update_files_are_to_blame():
    mesh = sharding.make_mesh(MeshConfig(data=4))
    whole = jax.device_put({"scale": np.ones(8, np.float32)}, sharding.replicated(mesh))
    copies = replicas.Replicas(whole, mesh, trusted=7)
    with pytest.raises(TrainingError, match=r"on device 1 of host 0 is unlike 3.* same files"):
        copies.compare(7, {"scale": flip(whole["scale"], 1)})


def test_f21_the_run_stops_within_the_set_number_of_steps(monkeypatch, tmp_path):
    """A copy of a kernel is spoilt after update 3; the copies are compared after 2, 4 and 6."""
    monkeypatch.setattr("esam_jax.tasks.build", lambda cfg: toy.task())
    monkeypatch.setattr(loop.loader, "stream", toy.Stream)
    make, done = loop.jit_step, []

    def faulty(*args, **keys):
        update = make(*args, **keys)

        def step(state, frozen, batch):
            state, metrics = update(state, frozen, batch)
            done.append(metrics)
            if len(done) == 3:
                kernel(state.params)  # it is there
                layer = state.params["toy"]["encoder"]["block_01"]["mlp"]["hidden"]
                layer["bias"] = flip(layer["bias"], 2)
            return state, metrics

        return step

    monkeypatch.setattr(loop, "jit_step", faulty)
    cfg = toy.config(mesh=MeshConfig(data=4), guard=GuardConfig(checksum_every_steps=2))
    message = r"after step 4, .*mlp/hidden/bias on device 2 of host 0 .* up to step 2 are trusted"
    with pytest.raises(TrainingError, match=message):
        loop.run(cfg, tmp_path)
    assert len(done) == 4
