"""What a program rounds before anything else may be rounded once, with the same results."""

import functools
import math
import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny
from jax import lax

from esam_jax.config import ComputeConfig, SamConfig, TinyVitConfig
from esam_jax.models import expected_shapes, named, rounding
from esam_jax.models.parts import stack
from esam_jax.models.sam import network
from esam_jax.ops import products
from esam_jax.predict import weights

HALF = ComputeConfig(dtype="bfloat16")
SOME = 96  # numbers of a kernel that a test looks for in a program


def rounded(kernel, x):
    return x.astype(jnp.bfloat16) @ kernel.astype(jnp.bfloat16)


def in_a_loop(kernels, x):
    return lax.scan(lambda x, kernel: (rounded(kernel, x), None), x.astype(jnp.bfloat16), kernels)


def carried(kernel, x):
    """In the first round the parameter, in later ones another array of its type.

    Nothing but rounding is done with it, yet as 16 bits it would be no match for the result.
    """

    def one(kernel, _):
        return jnp.full(kernel.shape, rounded(kernel, x).mean(), jnp.float32), None

    return lax.scan(one, kernel, None, length=2)[0]


@pytest.mark.parametrize(
    ("function", "narrower"),
    [
        (rounded, True),
        (lambda k, x: rounded(k.T.reshape(4, 2, 2)[:, 1:].squeeze(1).T, x[:, :2]), True),
        (lambda k, x: jnp.tile(k[0], 2).astype(jnp.bfloat16), True),
        (lambda k, x: in_a_loop(jnp.stack([k, k]), x), True),
        (lambda k, x: in_a_loop(jnp.concatenate([k, k]).reshape(2, 4, 4), x), True),
        (lambda k, x: jax.jit(rounded)(k, x), True),
        (lambda k, x: jax.checkpoint(rounded)(k, x), True),
        (lambda k, x: products.linear(x.astype(jnp.bfloat16), k), True),
        (lambda k, x: rounded(jax.jit(jnp.transpose)(k), x), True),
        (lambda k, x: (rounded(k, x), rounded(k, x)), True),
        (lambda k, x: (rounded(k, x), k.sum()), False),  # read as it is, too
        (lambda k, x: (rounded(k, x), k.astype(jnp.float16)), False),
        (lambda k, x: (rounded(k, x), k), False),  # it is a result
        (lambda k, x: rounded(2 * k, x), False),
        (lambda k, x: rounded(k, x) + in_a_loop((k + 1)[None], x)[0], False),
        (carried, False),
        (
            lambda k, x: lax.cond(
                x[0, 0] > 0, lambda k: rounded(k, x), lambda k: k[:3].astype(jnp.bfloat16), k
            ),
            False,
        ),
        (lambda k, x: x, False),  # not read at all
        (lambda k, x: k.astype(jnp.int8), False),
        (lambda k, x: 2 * k.astype(jnp.float32), False),
    ],
)
def test_what_is_rounded_before_anything_else(function, narrower):
    kernel, x = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4, 4), (3, 4)))
    found = rounding.dtypes(lambda p, x: function(p["kernel"], x), {"kernel": kernel}, x)
    assert found == {"kernel": jnp.bfloat16 if narrower else jnp.float32}


def test_types_of_no_other_kind_are_taken():
    """A program in 16 bits has nothing to round, nor one that reads whole numbers."""
    params = {"a": jnp.ones(4, jnp.bfloat16), "b": jnp.ones(4, jnp.int32)}
    found = rounding.dtypes(lambda p: [each.astype(jnp.float16) for each in p.values()], params)
    assert found == {"a": jnp.bfloat16, "b": jnp.int32}


# ---------------------------------------------------------------------------------- networks


TINY_VIT = SamConfig(
    encoder=TinyVitConfig(
        image_px=64, neck_width=16, widths=(8, 12), depths=(1, 2), all_heads=(2, 3), windows=(3, 3)
    ),
    decoder=tiny.config("sam").decoder,
)


def networks():
    for wiring in tiny.WIRINGS:
        yield tiny.config(wiring), HALF
    yield tiny.config("efficientsam"), ComputeConfig()
    yield TINY_VIT, HALF


def positive(params):
    """With variances that have a root."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: abs(leaf) if path[-1].key == "variance" else leaf, params
    )


def programs(model, points):
    """(method, arguments) of what is asked of a promptable model."""
    config, rng = model.config, np.random.default_rng(0)
    grid, px, side = config.encoder.grid, config.image_px, config.low_res_px

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    asked = jnp.asarray(rng.uniform(0, px, (2, 3, points, 2)), jnp.float32)
    labels = jnp.ones((2, 3, points), jnp.int32)
    embedding = normal(2, grid, grid, config.decoder.width)
    yield "encode", (normal(2, px, px, 3),)
    yield "decode", (embedding, asked, labels)
    if config.decoder.mask_prompts == "learned":
        yield "decode", (embedding, asked, labels, normal(2, 3, side, side))


def program(model, method):
    def call(params, *arrays):
        with stack.forward_only():
            return model.apply({"params": params}, *arrays, method=method)

    return call


FEW = tiny.config("sam", heads=1)  # with few tokens their key's bias is not read (`few`)


@pytest.mark.parametrize(
    ("config", "compute", "points"),
    [
        (tiny.config("efficientsam"), HALF, 2),
        pytest.param(tiny.config("sam"), HALF, 2, marks=pytest.mark.slow),
        pytest.param(TINY_VIT, HALF, 2, marks=pytest.mark.slow),
        pytest.param(FEW, HALF, 6, marks=pytest.mark.slow),
    ],
)
def test_rounded_once_a_network_gives_the_same_bits(config, compute, points):
    model, params = network.Sam(config, compute), positive(tiny.params(config))
    ready = rounding.rounded(params, weights.dtypes(model, params))
    for method, arrays in programs(model, points):
        call = program(model, method)
        before, after = (tiny.jit(call)(each, *arrays) for each in (params, ready))
        jax.tree.map(np.testing.assert_array_equal, before, after)


def parameter_copies(text, params):
    """Instructions of a traced program that round or pile up arrays with the shape of a kernel."""
    kernels = {
        "x".join(map(str, leaf.shape))
        for leaf in jax.tree.leaves(params)
        if leaf.ndim > 1 and leaf.size >= SOME
    }
    rounded = re.findall(r"convert .*\(tensor<([\dx]+)xf32>\) -> tensor<[\dx]+xbf16>", text)
    piles = [line for line in text.splitlines() if "stablehlo.concatenate" in line]
    piled = [shape for line in piles for shape in re.findall(r"tensor<1x([\dx]+)x[bf]+\d+>", line)]
    found = [*rounded, *piled]
    return [shape for shape in found if shape in kernels]


@pytest.mark.parametrize(("config", "compute"), [*networks()])
def test_programs_neither_round_nor_pile_up_kernels(config, compute):
    model, params = network.Sam(config, compute), tiny.params(config)
    types = weights.dtypes(model, params)
    assert (jnp.bfloat16 in jax.tree.leaves(types)) == (compute == HALF)
    ready = rounding.rounded(params, types)
    for method, arrays in programs(model, 2):
        text = jax.jit(program(model, method)).lower(ready, *arrays).as_text()
        assert parameter_copies(text, params) == []
        trained = functools.partial(model.apply, method=method)
        text = jax.jit(trained).lower({"params": params}, *arrays).as_text()
        assert (parameter_copies(text, params) != []) == (compute == HALF or method == "encode")


@pytest.mark.parametrize("name", ["efficientsam_ti", "sam_b", "mobile_sam"])
def test_of_released_models_only_small_parameters_are_rounded_in_calls(name):
    """Norms, tables and scores stay as they are; every kernel of a product is rounded at once."""
    config = named.sam(name)
    shapes = expected_shapes.of(config)
    params = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}
    params = flax.traverse_util.unflatten_dict(params, sep="/")
    types = weights.dtypes(network.Sam(config, HALF), params)
    types = flax.traverse_util.flatten_dict(types, sep="/")
    kept = {path for path, dtype in types.items() if dtype != jnp.bfloat16}
    kernels = {path for path in kept if path.endswith("/kernel")}
    depthwise = {path for path in kernels if path.endswith(("/local/kernel", "/spatial/kernel"))}
    assert kernels - depthwise == {"decoder/iou_head/out/kernel"}
    assert bool(depthwise) == (name == "mobile_sam")
    assert sum(math.prod(shapes[path]) for path in kept) < 0.05 * sum(
        map(math.prod, shapes.values())
    )
