"""The real training step, compiled for a topology from shapes alone: no weight, no picture."""

import contextlib
import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax

from esam_jax import sharding, tasks
from esam_jax.config import RunConfig
from esam_jax.errors import ConfigError, one_line
from esam_jax.machine import compile_cache
from esam_jax.ops import attention
from esam_jax.plan import collectives, compiled_kernels, paper, pretended, topologies
from esam_jax.plan.collectives import Collective
from esam_jax.plan.compiled_kernels import Kernel
from esam_jax.plan.paper import Paper
from esam_jax.plan.topologies import Topology
from esam_jax.train import frozen, optim
from esam_jax.train import state as states
from esam_jax.train.step import jit_step

# The tiler gives up on the teacher's products when there is no card to try tiles on. Machine code
# is thrown away: making it without optimisation takes minutes less and moves no buffer.
_CUDA_OPTIONS = {
    "xla_gpu_enable_triton_gemm": False,
    "xla_gpu_disable_gpuasm_optimizations": True,
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
# "Used 31.29G of 15.75G hbm"; "total memory required for HLO temporaries (31.29G) exceeds ...".
# Other memories than the device's, such as vmem, are the compiler's own affair.
_NEEDED = re.compile(
    r"Used (\d+(?:\.\d+)?)([KMGT]?) of [\d.]+[KMGT]? hbm"
    r"|memory required[^(]*\((\d+(?:\.\d+)?)([KMGT]?)"
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of one update on one device. Bytes; `peak` is what must fit.

    When the compiler itself refused for lack of memory, `peak` is what it said it would need, and
    there are no collectives to count.
    """

    peak: int
    fits: bool | None  # None: the device's memory is not known
    arguments: int = 0
    temporaries: int = 0
    collectives: tuple[Collective, ...] = ()
    paper: Paper | None = None  # None where there are no rates to write it with
    compile_seconds: float = 0.0


def step(
    cfg: RunConfig,
    topology: Topology,
    devices: list[Any],
    before: Callable[[], None] = lambda: None,
) -> Compiled:
    """One update of `cfg` on those devices.

    ConfigError where config and mesh do not agree, or TPU's compiler and jax.

    `before` is called when that is known, and compiling, which takes minutes, begins.
    """
    began = time.monotonic()
    lowered = lower(cfg, topology, devices)
    before()
    try:
        compiled = _compile(lowered, topology)
    except jax.errors.JaxRuntimeError as error:
        needed = needed_bytes(str(error))
        if needed is None:
            if (other := topologies.other_compiler(topology)) is None:
                raise
            raise ConfigError(f"TPU's compiler failed ({one_line(error)}): {other}") from error
        return Compiled(needed, fits=False, compile_seconds=time.monotonic() - began)
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None and text is not None  # every compiler used here reports both
    peak = peak_bytes(compiled, on_cpu=topology.platform == "cpu")
    usable = topology.usable_bytes
    return Compiled(
        peak=peak,
        fits=None if usable is None else peak <= usable,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        collectives=collectives.parse(text),
        paper=_paper(text, topology),
        compile_seconds=time.monotonic() - began,
    )


def kernels(
    lowered: jax.stages.Lowered,
    topology: Topology,
    trips: Mapping[str, int] = MappingProxyType({}),
) -> list[Kernel]:
    """Those of any program, compiled for that machine.

    trips: of loops whose length is data (`compiled_kernels.parse`).
    """
    text = _compile(lowered, topology).as_text()
    assert text is not None
    return compiled_kernels.parse(text, trips)


def _compile(lowered: jax.stages.Lowered, topology: Topology) -> jax.stages.Compiled:
    here = topology.platform == "cpu"
    with contextlib.nullcontext() if here else compile_cache.unused():
        return lowered.compile(options(topology))


def options(topology: Topology) -> dict[str, Any] | None:
    """The compiler options for a machine that is not present."""
    return _CUDA_OPTIONS if topology.platform == "cuda" else None


def _paper(text: str, topology: Topology) -> Paper | None:
    sheet = topology.accelerator
    return None if sheet is None else paper.write(compiled_kernels.parse(text), sheet)


def peak_bytes(program: jax.stages.Compiled, *, on_cpu: bool) -> int:
    """What a program needs of its device's memory: arguments, temporaries and results together."""
    memory = program.memory_analysis()
    assert memory is not None  # every compiler used here reports it
    if not on_cpu:
        return memory.peak_memory_in_bytes
    # The CPU's own figure leaves temporaries out.
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes + results


def lower(cfg: RunConfig, topology: Topology, devices: list[Any]) -> jax.stages.Lowered:
    """The update of a run, traced from shapes with the choices of that machine."""
    mesh = sharding.make_mesh(cfg.mesh, devices)
    if mesh.size < len(devices):  # one process may, but hours and dollars would be of all of them
        raise ConfigError(
            f"mesh data={cfg.mesh.data} uses {mesh.size} of the {len(devices)} devices of "
            f"{topology.name}: leave --mesh.data out, or plan for a smaller machine"
        )
    sharding.check_batch(cfg.batch, cfg.accumulate, mesh)
    task, optimiser = tasks.build(cfg), optim.make(cfg.optim, cfg.steps)
    state = states.abstract(task, optimiser, mesh)
    weights = frozen.abstract(task, mesh)
    update = jit_step(
        task,
        optimiser,
        mesh,
        state,
        weights,
        seed=cfg.seed,
        accumulate=cfg.accumulate,
        guarded=cfg.guard,
        deterministic=cfg.compute.deterministic,
    )
    with choices_of(topology):
        return update.lower(state, weights, states.abstract_batch(task, cfg.batch, mesh))


@contextlib.contextmanager
def choices_of(topology: Topology) -> Iterator[None]:
    """Attention kernels are chosen as on the machine that is planned.

    What was traced for another one is traced again: JAX does not know that the choice differs.
    """
    if topology.platform == "cpu":
        with attention.target("cpu", devices=topology.chips):
            yield
        return
    jax.clear_caches()
    try:
        if topology.platform == "tpu":
            with attention.target("tpu", devices=topology.chips):
                yield
            return
        card = topologies.CARDS[topology.kind]
        with attention.target("gpu", card.cudnn_head_dim), pretended.capability(card.capability):
            yield
    finally:
        jax.clear_caches()


def needed_bytes(message: str) -> int | None:
    """What a compiler that ran out of memory says it needs; None for another failure."""
    found = _NEEDED.search(message)
    if found is None:
        return None
    number, unit = found.groups()[:2] if found[1] else found.groups()[2:]
    return int(float(number) * _UNITS[unit])
