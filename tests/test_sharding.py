"""Every parameter of every model has one row of the table, and every row a parameter."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from esam_jax import sharding
from esam_jax.config import MaeConfig, MaeDecoderConfig, MeshConfig, SamiDecoderConfig
from esam_jax.convert import model_folder
from esam_jax.errors import ConfigError
from esam_jax.models import variants
from esam_jax.models.sami import Sami


@functools.cache
def shapes(name):
    """Path -> shape of a named model, by tracing alone; "sami" and "mae" are for pretraining."""
    if name == "mae":
        encoder = variants.sam("efficientsam_nano").encoder
        config = MaeConfig(encoder=encoder, decoder=MaeDecoderConfig(width=32, depth=2))
        return dict(model_folder.expected_shapes(config))
    if name != "sami":
        return dict(model_folder.expected_shapes(variants.sam(name)))
    encoder = variants.sam("efficientsam_nano").encoder
    network = Sami(encoder, SamiDecoderConfig(width=32, depth=2, heads=4), target_width=48)
    tree = jax.eval_shape(
        network.init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32),
        jax.ShapeDtypeStruct((2, 16), jnp.int32),
        jax.ShapeDtypeStruct((2, 48), jnp.int32),
    )["params"]
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {sharding.name(path): leaf.shape for path, leaf in leaves}


@pytest.mark.parametrize("name", [*variants.names(), "sami", "mae"])
def test_every_parameter_has_one_row(name):
    abstract = {
        path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes(name).items()
    }
    sharding.shardings(abstract, sharding.make_mesh(MeshConfig(fsdp=8)))


def test_every_row_has_a_parameter():
    models = ("sami", "sam_nano", "efficientsam_nano", "mobile_sam")
    paths = [path for name in models for path in shapes(name)]
    for pattern, _ in sharding.TABLE:
        assert any(re.search(rf"(?:^|/){pattern}$", path) for path in paths), pattern


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


def test_unknown_and_ambiguous_paths_are_named(monkeypatch):
    with pytest.raises(ConfigError, match=r"a/queery/kernel must match .* but matches none"):
        sharding.shardings({"a": {"queery": {"kernel": np.zeros(3)}}}, one_device())
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


def test_batch_is_split_over_data_and_fsdp():
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    x = jax.device_put(np.arange(8), sharding.batch(mesh))
    assert {shard.data.shape for shard in x.addressable_shards} == {(2,)}
    sharding.check_batch(24, 3, mesh)
    with pytest.raises(ConfigError, match="batch is 20, but must be a multiple of 12"):
        sharding.check_batch(20, 3, mesh)


def one_device():
    return sharding.make_mesh(MeshConfig(data=1))
