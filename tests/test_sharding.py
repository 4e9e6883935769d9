"""Every parameter of every model has at most one row of the table, and every row a parameter."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from esam_jax import sharding
from esam_jax.config import (
    ClipConfig,
    MaeConfig,
    MeshConfig,
    PretrainDecoderConfig,
    SamConfig,
    TellsClasses,
)
from esam_jax.errors import ConfigError
from esam_jax.models import expected_shapes, named
from esam_jax.models.pretrain.sami import Sami

KINDS = SamConfig | TellsClasses | ClipConfig
MODELS = ("sami", "mae", *named.names(KINDS))


@functools.cache
def shapes(name):
    """Path -> shape of a named model, by tracing alone; "sami" and "mae" are for pretraining."""
    if name == "mae":
        encoder = named.sam("efficientsam_nano").encoder
        config = MaeConfig(encoder=encoder, decoder=PretrainDecoderConfig(width=32, depth=2))
        return dict(expected_shapes.of(config))
    if name != "sami":
        return dict(expected_shapes.of(named.model(name)))
    encoder = named.sam("efficientsam_nano").encoder
    network = Sami(encoder, PretrainDecoderConfig(width=32, depth=2, heads=4), target_width=48)
    tree = jax.eval_shape(
        network.init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32),
        jax.ShapeDtypeStruct((2, 16), jnp.int32),
        jax.ShapeDtypeStruct((2, 48), jnp.int32),
    )["params"]
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {sharding.name(path): leaf.shape for path, leaf in leaves}


@pytest.mark.parametrize("name", MODELS)
def test_no_parameter_has_two_rows(name):
    abstract = {
        path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes(name).items()
    }
    sharding.shardings(abstract, sharding.make_mesh(MeshConfig(fsdp=8)))


def test_every_row_has_a_parameter(monkeypatch):
    sharding.check_rows(path for name in MODELS for path in shapes(name))
    table = (*sharding.TABLE, ("gone/kernel", P()), ("left/bias", P()))
    monkeypatch.setattr(sharding, "TABLE", table)
    with pytest.raises(ConfigError, match="no parameter matches 'gone/kernel' and 'left/bias'"):
        sharding.check_rows(path for name in MODELS for path in shapes(name))


def test_kernels_are_split_where_they_are_wide():
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    kernels = {
        "a/encoder/block_00/attn/query/kernel": P("fsdp", "tensor", None),
        "a/encoder/block_00/attn/out/kernel": P("tensor", None, "fsdp"),
        "a/encoder/block_11/mlp/hidden/kernel": P("fsdp", "tensor"),
        "a/encoder/block_11/mlp/out/kernel": P("tensor", "fsdp"),
        "a/encoder/block_11/mlp_norm/scale": P(),
        "a/decoder/positions": P(),
    }
    tree = {path: np.zeros((4,) * max(len(spec), 1)) for path, spec in kernels.items()}
    assert {path: place.spec for path, place in sharding.shardings(tree, mesh).items()} == kernels


def test_optimiser_state_lies_where_its_parameters_do():
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=4))
    params = {"m": {"encoder": {"block_00": {"mlp": {"hidden": {"kernel": np.zeros((8, 12))}}}}}}
    state = jax.eval_shape(optax.adamw(1e-3).init, params)
    placed = jax.tree_util.tree_leaves_with_path(sharding.shardings(state, mesh))
    specs = {sharding.name(path).split("/")[-1]: place.spec for path, place in placed}
    assert specs == {"count": P(), "kernel": P("fsdp", "tensor")}


def test_a_parameter_without_a_row_is_replicated():
    tree = {"a": {"queery": {"kernel": np.zeros((3, 5))}}}
    mesh = sharding.make_mesh(MeshConfig(fsdp=8))
    assert sharding.shardings(tree, mesh)["a"]["queery"]["kernel"] == sharding.replicated(mesh)


def test_what_is_split_in_every_model():
    """By name: where a row no longer matched, its parameters would be replicated silently."""
    attention = ("attn", "self_attn", "token_to_image", "image_to_token", "final_attn")
    ends = {f"{one}/{part}/kernel" for one in attention for part in ("query", "key", "value")}
    ends |= {end.replace("kernel", "bias") for end in ends}
    ends |= {f"{one}/out/kernel" for one in attention}
    ends |= {"mlp/hidden/kernel", "mlp/hidden/bias", "mlp/out/kernel"}
    ends |= {"patch_embed/kernel", "embed/kernel", "head/kernel"}
    ends |= {"encoder/project/kernel", "text/project/kernel", "text/words"}
    for name in MODELS:
        for path in shapes(name):
            split = any(f"/{path}".endswith(f"/{end}") for end in ends)
            assert (sharding.spec(path) != P()) == split, f"{name}: {path}"


def test_ambiguous_paths_are_named(monkeypatch):
    monkeypatch.setattr(sharding, "TABLE", (("b/bias", P()), ("(a/)?b/bias", P())))
    with pytest.raises(ConfigError, match=r"a/b/bias .* matches 'b/bias' and '\(a/\)\?b/bias'"):
        sharding.spec("a/b/bias")


def test_axis_that_does_not_divide_is_named():
    mesh = sharding.make_mesh(MeshConfig(fsdp=2, tensor=4))
    tree = {
        "x/mlp/hidden": {"kernel": np.zeros((6, 10))},
        "y/mlp/out": {"kernel": np.zeros((4, 3))},
    }
    with pytest.raises(ConfigError) as error:
        sharding.shardings(tree, mesh)
    assert "x/mlp/hidden/kernel of shape (6, 10): axis 1 of size 10" in str(error.value)
    assert "tensor=4" in str(error.value)
    assert "y/mlp/out/kernel of shape (4, 3): axis 1 of size 3" in str(error.value)
    sharding.shardings(tree, one_device())  # axes of one device divide everything


def test_mesh_fills_the_devices():
    assert dict(sharding.make_mesh(MeshConfig()).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(sharding.make_mesh(MeshConfig(fsdp=2, tensor=2)).shape)["data"] == 2
    assert sharding.make_mesh(MeshConfig(data=2, fsdp=2)).size == 4  # fewer, when asked for
    for config in (MeshConfig(fsdp=3), MeshConfig(data=16), MeshConfig(fsdp=16)):
        with pytest.raises(ConfigError, match="does not fill 8 devices"):
            sharding.make_mesh(config)


def test_every_shape_of_eight_devices():
    shapes = [(d, f, 8 // (d * f)) for d in (1, 2, 4, 8) for f in (1, 2, 4, 8) if 8 % (d * f) == 0]
    assert len(shapes) == 10
    for data, fsdp, tensor in shapes:
        mesh = sharding.make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
        assert mesh.devices.shape == (data, fsdp, tensor)
        assert mesh == sharding.make_mesh(MeshConfig(fsdp=fsdp, tensor=tensor))
        assert [device.id for device in mesh.devices.flat] == list(range(8))


def pretended(**attributes):
    """What a mesh is arranged by, of a device that is not here."""
    return mock.Mock(spec=jax.Device, **attributes)


def tpu_slices(count):
    """Slices of 2 x 4 chips, listed in turn rather than one after the other."""
    return [
        pretended(
            id=8 * part + i,
            process_index=2 * part + i // 4,
            slice_index=part,
            coords=(i % 2, i // 2, 0),
            core_on_chip=0,
            platform="tpu",
            device_kind="TPU v5 lite",
        )
        for i in range(8)
        for part in range(count)
    ]


@pytest.mark.parametrize("fsdp, tensor", [(1, 1), (4, 1), (8, 1), (2, 4), (1, 8)])
def test_only_data_runs_over_tpu_slices(fsdp, tensor):
    mesh = sharding.make_mesh(MeshConfig(fsdp=fsdp, tensor=tensor), tpu_slices(3))
    assert mesh.devices.shape == (24 // (fsdp * tensor), fsdp, tensor)
    assert len({device.id for device in mesh.devices.flat}) == 24
    for group in mesh.devices:  # everything at one place of `data`
        assert len({device.slice_index for device in group.flat}) == 1
    # Replicas of one slice are neighbours along `data`, for sums inside it before those across.
    order = [group.flat[0].slice_index for group in mesh.devices]
    assert order == sorted(order)


@pytest.mark.parametrize("config", [MeshConfig(fsdp=16), MeshConfig(fsdp=2, tensor=8)])
def test_fsdp_and_tensor_do_not_leave_a_slice(config):
    with pytest.raises(ConfigError, match=r"does not fit into each of 2 slices of 8, 8 devices"):
        sharding.make_mesh(config, tpu_slices(2))


def test_slices_of_two_sizes_are_refused():
    with pytest.raises(ConfigError, match="2 slices of 8, 4 devices"):
        sharding.make_mesh(MeshConfig(), sorted(tpu_slices(2), key=lambda d: d.id)[:12])


def test_gpus_of_one_host_are_neighbours():
    """One process for each GPU, dealt out to two hosts in turn; each host counts as a slice."""
    gpus = [pretended(id=i, process_index=i, slice_index=i % 2, platform="gpu") for i in range(8)]
    mesh = sharding.make_mesh(MeshConfig(tensor=4), gpus)
    assert [[device.id for device in group.flat] for group in mesh.devices] == [
        [0, 2, 4, 6],
        [1, 3, 5, 7],
    ]
    # Unlike TPU slices, hosts may share the pieces of one parameter.
    assert sharding.make_mesh(MeshConfig(fsdp=8), gpus).devices.shape == (1, 8, 1)


def test_batch_is_split_over_data_and_fsdp():
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    x = jax.device_put(np.arange(8), sharding.batch(mesh))
    assert {shard.data.shape for shard in x.addressable_shards} == {(2,)}
    sharding.check_batch(24, 3, mesh)
    with pytest.raises(ConfigError, match="batch is 20, but must be a multiple of 12"):
        sharding.check_batch(20, 3, mesh)


def one_device():
    return sharding.make_mesh(MeshConfig(data=1))
