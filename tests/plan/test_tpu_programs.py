"""What the programs for a TPU are made of, compiled for chips that are not here: needs libtpu."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from esam_jax.models import named
from esam_jax.ops import attention
from esam_jax.plan import compiled, prediction, topologies
from esam_jax.predict import programs

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="TPU's compiler is not installed: pip install '.[plan-tpu]'",
    ),
]
CHIPS = ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2")


def compile_for(name, function, *arguments):
    """The optimised program for one chip; arguments may be abstract."""
    topology = topologies.parse(name)
    place = NamedSharding(Mesh(topologies.devices(topology)[:1], ("x",)), PartitionSpec())
    with compiled.choices_of(topology):
        lowered = jax.jit(function, in_shardings=place, out_shardings=place).lower(*arguments)
    return compiled._compile(lowered, topology)


def heads(queries, keys, width, value_width):
    sizes = ((queries, width), (keys, width), (keys, value_width))
    return [jax.ShapeDtypeStruct((2, n, 3, channels), jnp.bfloat16) for n, channels in sizes]


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize(
    "sizes",
    [
        (4096, 4096, 64, 64),  # Ti and S at 1024 px
        (4096, 4096, 208, 80),  # global attention of ViT-H, positions folded in
        (196, 196, 108, 80),  # its windows
        (147, 196, 32, 32),  # SAMI's decoder
        (5120, 1152, 256, 256),  # the widest, and blocks that are no power of two
    ],
)
def test_every_head_fits_the_chip_forward_and_backward(chip, sizes):
    def loss(*arrays):
        return attention.attend(*arrays, scale=1.0).astype(jnp.float32).sum()

    program = compile_for(chip, jax.value_and_grad(loss, (0, 1, 2)), *heads(*sizes))
    text = program.as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 3
    scores = f"{sizes[0]},{sizes[1]}]"
    assert scores not in text


def test_the_encoder_runs_one_kernel_a_block_and_no_loop():
    config = named.sam("efficientsam_ti")
    model, params = prediction.abstract(config, "bfloat16")
    pixels = jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.float32)
    program = compile_for("v5e:2x2", lambda p, x: programs.encode(model, p, x), params, pixels)
    text = program.as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == config.encoder.depth
    assert "while(" not in text and "4096,4096]" not in text
