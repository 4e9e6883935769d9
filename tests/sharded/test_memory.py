"""What each axis of the mesh is for: less memory on a device, for bounded communication.

`test_equality.py` holds small tasks to it in every run of the suite. Here the real step is compiled
as `esam plan` does it, which takes minutes.
"""

import dataclasses

import jax
import pytest

from esam_jax import configs, tasks
from esam_jax.config import MeshConfig, PretrainDecoderConfig, SamiConfig, TeacherConfig
from esam_jax.errors import MissingError
from esam_jax.plan import compiled, topologies

pytestmark = pytest.mark.nightly


def sami(placement="replicated"):
    """A teacher and a student of several blocks, whose heads divide by two."""
    teacher = TeacherConfig(model="sam_b", weights="random", placement=placement)
    decoder = PretrainDecoderConfig(width=128, depth=2, heads=4)
    task = SamiConfig(students=("efficientsam_s",), teacher=teacher, decoder=decoder)
    return dataclasses.replace(configs.load("sami_s"), task=task, batch=64)


def segment():
    return dataclasses.replace(configs.load("quickstart_segment"), batch=64)


def plan(cfg, topology="cpu:8", devices=8, **mesh):
    """What the compiler says of one update on the first `devices` of a machine."""
    machine = topologies.parse(topology)
    try:
        found = topologies.devices(machine)
    except MissingError as missing:
        pytest.skip(str(missing))
    config = dataclasses.replace(cfg, mesh=MeshConfig(**mesh))
    return compiled.step(config, machine, found[:devices])


def sent(found, *kinds):
    return sum(each.bytes for each in found.collectives if each.kind in kinds)


def trained_bytes(cfg):
    shapes = jax.eval_shape(tasks.build(cfg).init, jax.random.key(0))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("topology", ["cpu:8", "h100:1x8", "v5e:2x4"])
@pytest.mark.parametrize("make", [sami, segment])
def test_fsdp_holds_less_and_moves_parameters_alone(make, topology):
    data, fsdp = plan(make(), topology), plan(make(), topology, fsdp=8)
    assert fsdp.peak < data.peak
    assert fsdp.arguments < data.arguments
    # A batch that is complete on every device would take several times as much.
    assert fsdp.temporaries < 1.25 * data.temporaries
    # Gradients are summed once; activations would be many times as large.
    assert sent(fsdp, "all-reduce", "reduce-scatter") < 1.5 * trained_bytes(make())
    assert sent(fsdp, "all-to-all", "collective-permute") < trained_bytes(make())


@pytest.mark.parametrize("topology", ["cpu:8", "h100:1x8"])
def test_a_teacher_in_pieces_holds_less(topology):
    complete, pieces = plan(sami(), topology, fsdp=8), plan(sami("fsdp"), topology, fsdp=8)
    assert pieces.peak < complete.peak
    assert pieces.arguments < complete.arguments / 2


@pytest.mark.parametrize("make", [sami, segment])
def test_tensor_holds_less_of_the_same_batch(make):
    """On twice as many devices: each has half of the heads and of the MLP for the same pictures."""
    alone, tensor = plan(make(), devices=4), plan(make(), tensor=2)
    assert tensor.arguments < 0.8 * alone.arguments
    assert tensor.temporaries < alone.temporaries
