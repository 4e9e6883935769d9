"""The kernel of TPUs, run as plain JAX, against plain products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick
from jax.extend import core
from jax.sharding import PartitionSpec as P

from esam_jax import sharding
from esam_jax.config import ComputeConfig, MeshConfig
from esam_jax.models.parts import layers
from esam_jax.ops import attention, splash
from esam_jax.plan import collectives

SPLIT = (("data", "fsdp"), "tensor")


def drawn(seed, queries, keys, width, value_width, heads=2, lead=(2,), dtype="float32"):
    """Queries, keys and values of so many tokens."""
    rng = np.random.default_rng(seed)
    sizes = ((queries, width), (keys, width), (keys, value_width))
    shapes = [(*lead, tokens, heads, channels) for tokens, channels in sizes]
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def value_and_gradients(attend, arrays, weights):
    """Of a weighted sum of the result, in one program."""

    def loss(*arrays):
        return (attend(*arrays).astype(jnp.float32) * weights).sum()

    return quick.jit(jax.value_and_grad(loss, (0, 1, 2)))(*arrays)


def assert_near(found, expected, share):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        one, other = (np.asarray(x, np.float32) for x in (one, other))
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=share * np.abs(other).max())


@pytest.mark.parametrize(
    ("queries", "keys", "width", "value_width", "block"),
    [
        (147, 196, 12, 8, 1024),  # SAMI's masked tokens; padded to one block of each
        (256, 384, 8, 8, 128),  # several blocks of each, and nothing to pad
        (130, 300, 8, 12, 128),  # several, and padding in the last
    ],
)
def test_the_kernel_is_attention(queries, keys, width, value_width, block, monkeypatch):
    monkeypatch.setattr(splash, "BLOCK", block)
    arrays = drawn(0, queries, keys, width, value_width)
    weights = drawn(1, queries, keys, value_width, 1)[0]
    found = value_and_gradients(lambda *x: splash.attend(*x, interpret=True), arrays, weights)
    expected = value_and_gradients(
        lambda *x: attention.attend(*x, scale=1.0, impl="xla"), arrays, weights
    )
    assert_near(found, expected, 2e-5)


def kernels(jaxpr):
    """The names of all kernels in a program whose results are used in it."""
    found, used = [], {v for e in jaxpr.eqns for v in e.invars if isinstance(v, core.Var)}
    used |= {v for v in jaxpr.outvars if isinstance(v, core.Var)}
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            found += [equation.params["name"]] if used & set(equation.outvars) else []
            continue
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
            if is_program(value):
                found += kernels(getattr(value, "jaxpr", value))
    return found


def is_program(value):
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def test_one_door_to_all_axes_and_scales():
    q, k, v = drawn(2, 130, 128, 8, 8, lead=(2, 1), dtype="bfloat16")
    k = k[:, 0]
    with attention.target("tpu", interpret=True):
        assert kernels(jax.make_jaxpr(attention.attend)(q, k, v).jaxpr)
        found = jax.jit(attention.attend)(q, k, v[0, 0])
    expected = attention.attend(*(x.astype(jnp.float32) for x in (q, k, v[0, 0])), impl="xla")
    assert found.dtype == jnp.bfloat16
    assert_near(found, expected, 0.01)


def test_each_device_attends_to_its_own_images_and_heads():
    """On a mesh, gradients are those of one device, and nothing is sent between devices."""
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    place = jax.sharding.NamedSharding(mesh, P(("data", "fsdp"), None, "tensor", None))
    arrays = drawn(3, 128, 128, 8, 8, lead=(4,))

    def loss(*arrays):
        with sharding.activations(mesh):
            out = splash.attend(*arrays, split=SPLIT, interpret=True)
        return (out**2).sum()

    program = quick.jit(jax.grad(loss, (0, 1, 2)), in_shardings=place, out_shardings=place)
    text = program.lower(*arrays).compile(quick.OPTIONS).as_text()
    assert not collectives.parse(text)
    expected = value_and_gradients(
        lambda *x: attention.attend(*x, scale=1.0, impl="xla") ** 2, arrays, 1.0
    )[1]
    assert_near(program(*jax.device_put(arrays, place)), expected, 2e-5)


def test_models_say_how_images_and_heads_are_split():
    module = layers.Attention(4, ComputeConfig(dtype="bfloat16"))
    x = jax.ShapeDtypeStruct((4, 128, 32), jnp.float32)
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with attention.target("tpu"), sharding.activations(mesh):
        variables = jax.eval_shape(module.init, jax.random.key(0), x)
        program = jax.make_jaxpr(module.apply)(variables, x)
    (split,) = (e for e in program.eqns if e.primitive.name == "shard_map")
    assert set(split.params["in_specs"][-3:]) == {P(*SPLIT[:1], None, SPLIT[1], None)}


@pytest.mark.parametrize("images", [4, 3])  # 3 do not divide: every device takes all
def test_a_program_of_several_devices_is_lowered_for_tpus(images):
    """JAX refuses kernels there whose parts it does not know."""
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    place = sharding.replicated(mesh)
    arrays = drawn(6, 147, 196, 32, 32, lead=(images,), dtype="bfloat16")

    def loss(*arrays):
        with attention.target("tpu"), sharding.activations(mesh):
            return attention.attend(*arrays, split=SPLIT).astype(jnp.float32).sum()

    program = jax.jit(jax.grad(loss, (0, 1, 2)), in_shardings=place)
    text = program.trace(*arrays).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 3  # forward, and two of the backward pass
    part = images if images % 4 else 1  # of images, and of two heads one
    assert f"tensor<{part}x1x256x32xbf16>" in text


def test_a_policy_keeps_what_the_kernel_gives():
    """Recomputation does not run its forward pass again."""
    arrays = drawn(5, 128, 128, 8, 8, dtype="bfloat16")

    def policy(primitive, *_, **params):
        return attention.is_result(primitive, params)

    def loss(*arrays):
        return attention.attend(*arrays).astype(jnp.float32).sum()

    with attention.target("tpu", interpret=True):
        for kept, forward in ((policy, 1), (None, 2)):
            gradient = jax.grad(jax.checkpoint(loss, policy=kept), (0, 1, 2))
            names = kernels(jax.make_jaxpr(gradient)(*arrays).jaxpr)
            assert sum("fwd" in name for name in names) == forward, names
