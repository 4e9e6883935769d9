"""Where the models say how activations lie on the mesh, read off the traced programs.

What the compiler makes of it is measured by `test_equality.py` and `test_memory.py`, whose small
programs also come out right where one of several constraints in a row is missing.
"""

import jax
import jax.numpy as jnp
import pytest
from helpers import tiny
from jax.extend import core
from jax.sharding import PartitionSpec as P

from esam_jax import sharding
from esam_jax.config import ComputeConfig, MeshConfig, PretrainDecoderConfig
from esam_jax.models.encoders.tiny_vit import TinyVitBlock
from esam_jax.models.parts import layers
from esam_jax.models.pretrain.sami import CrossBlock
from esam_jax.models.sam.mask_decoder import Upscale
from esam_jax.models.sam.two_way import TwoWayTransformer

BATCH = ("data", "fsdp")
B, Q, Z, N = 8, 3, 5, 36
# By their definition, so that nothing depends on how many tokens there are.
PLAIN = ComputeConfig(attention="xla")


def traced(module, *shapes):
    """The equations of a module's forward pass on a mesh."""
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    with sharding.activations(sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
        return jax.make_jaxpr(module.apply)(variables, *inputs).jaxpr


def inside(value):
    """The programs in a parameter of an equation."""
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, core.Jaxpr):
        return [value]
    return [each for part in value for each in inside(part)] if isinstance(value, tuple) else []


def constraints(jaxpr):
    """(shape, how each axis is split) of every constraint, in order."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "sharding_constraint":
            shape = equation.outvars[0].aval.shape
            spec = tuple(equation.params["sharding"].spec)
            found.append((shape, P(*spec, *[None] * (len(shape) - len(spec)))))
        for value in equation.params.values():
            for program in inside(value):
                found += constraints(program)
    return found


def leaves_constrained(jaxpr):
    (last,) = (each for each in jaxpr.eqns if jaxpr.outvars[0] in each.outvars)
    return last.primitive.name == "sharding_constraint"


def test_a_block_keeps_pictures_apart_and_splits_its_heads_and_mlp():
    attend = lambda name: layers.Attention(4, PLAIN, name=name)  # noqa: E731
    jaxpr = traced(layers.Block(attend, 48, PLAIN), (B, N, 16))
    stream = ((B, N, 16), P(BATCH, None, None))
    heads = ((B, N, 4, 4), P(BATCH, None, "tensor", None))
    hidden = ((B, N, 48), P(BATCH, None, "tensor"))
    # Enters; query, key, value and their mixture; the first sum; the MLP; leaves.
    assert constraints(jaxpr) == [stream, *[heads] * 4, stream, hidden, stream]
    assert leaves_constrained(jaxpr)


def test_a_block_of_the_pretraining_decoder_is_laid_out_alike():
    U, V = 5, 4
    config = PretrainDecoderConfig(width=16, heads=4, depth=1)
    jaxpr = traced(CrossBlock(config, PLAIN), (B, U, 16), (B, V, 16))
    query, rest = (((B, n, 4, 4), P(BATCH, None, "tensor", None)) for n in (U, U + V))
    stream = ((B, U, 16), P(BATCH, None, None))
    hidden = ((B, U, config.mlp_ratio * 16), P(BATCH, None, "tensor"))
    assert constraints(jaxpr) == [query, rest, rest, query, stream, hidden, stream]
    assert leaves_constrained(jaxpr)


def test_a_block_of_tiny_vit_is_laid_out_alike():
    """A grid of 6 in windows of 3: windows of one picture lie together."""
    jaxpr = traced(TinyVitBlock(4, 3, 48, PLAIN), (B, 6, 6, 16))
    heads = ((4 * B, 9, 4, 4), P(BATCH, None, "tensor", None))
    stream = ((B, 6, 6, 16), P(BATCH, None, None, None))
    hidden = ((B, 6, 6, 48), P(BATCH, None, None, "tensor"))
    assert constraints(jaxpr) == [*[heads] * 4, stream, hidden, stream]
    assert leaves_constrained(jaxpr)


def two_way(compute):
    config = tiny.config("sam").decoder
    shapes = (B, Q, Z, config.width), (B, 1, N, config.width), (N, config.width)
    return config, traced(TwoWayTransformer(config, compute), *shapes)


def test_heads_of_the_two_way_transformer_are_split():
    config, jaxpr = two_way(PLAIN)
    heads = [spec for _, spec in constraints(jaxpr) if "tensor" in spec and len(spec) == 5]
    assert heads == [P(BATCH, None, None, "tensor", None)] * 4 * (3 * config.depth + 1)


def test_what_a_round_of_the_two_way_transformer_hands_on_is_kept_apart():
    """Tokens and image are all that the backward pass keeps of a round that is computed again."""
    config, jaxpr = two_way(ComputeConfig(attention="xla", remat="blocks"))
    rounds = [each for each in jaxpr.eqns if len(each.outvars) == 2 and any_program(each)]
    assert len(rounds) == config.depth
    for number, each in enumerate(rounds):
        for handed_on in each.outvars:
            readers = [other for other in jaxpr.eqns if handed_on in other.invars]
            assert [reader.primitive.name for reader in readers] == ["sharding_constraint"], number
            assert readers[0].params["sharding"].spec[0] == BATCH


def any_program(equation):
    return any(inside(value) for value in equation.params.values())


@pytest.mark.parametrize("wiring", tiny.WIRINGS)
def test_upscaling_keeps_queries_of_pictures_apart_at_both_ends(wiring):
    """Images and queries are one axis there, of which pictures are the slower part."""
    config = tiny.config(wiring).decoder
    C = config.width
    jaxpr = traced(Upscale(config, PLAIN), (B, Q, N, C))
    (first, first_spec), *_, (last, last_spec) = constraints(jaxpr)
    assert (first, first_spec) == ((B * Q, N, C), P(BATCH, None, None))
    assert last[:2] == (B * Q, N) and last[-1] == C // 8
    assert last_spec == P(BATCH, *[None] * (len(last) - 1))
    assert len(constraints(jaxpr)) == 2
