"""Machines that may not exist here: their names, and devices to compile for.

TPU devices come from libtpu, NVIDIA devices from JAX's CUDA plug-in and a description of the card;
neither touches hardware. CPU devices are pretend devices of this machine.
"""

import contextlib
import dataclasses
import math
import os
import re
from importlib import metadata
from typing import Any, Literal

import jax
from jax.experimental import topologies

from esam_jax.errors import ConfigError, MissingError
from esam_jax.machine import accelerators
from esam_jax.ops import attention
from esam_jax.words import counted

Platform = Literal["tpu", "cuda", "cpu"]

_NAME = re.compile(r"(?:(\d+)\*)?([a-z0-9-]+):(\d+(?:x\d+)*)")
_TAKEN = re.compile(r"libtpu==([\d.]+\.)\*")
TPU_AXES = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2}
_FORMS = "v5e:4x4, v5p:4x4x4, 2*v6e:8x8, h100:2x8 (hosts x GPUs), a100:8x8 or cpu:8"


@dataclasses.dataclass(frozen=True)
class Topology:
    """One kind of machine: `slices` times `shape` chips, or hosts x GPUs, or pretend devices."""

    name: str
    platform: Platform
    kind: str  # of the accelerator, as machine/accelerators.py names it; "cpu" has no data sheet
    shape: tuple[int, ...]
    slices: int = 1
    memory_bytes: int | None = None  # of one device; None where nobody knows

    @property
    def chips(self) -> int:
        """What is rented."""
        return self.slices * math.prod(self.shape)

    @property
    def accelerator(self) -> accelerators.Accelerator | None:
        """Its data sheet; a CPU has none."""
        return next((each for each in accelerators.ACCELERATORS if each.name == self.kind), None)

    @property
    def usable_bytes(self) -> int | None:
        """What of a device's memory a program gets.

        On a GPU JAX takes three quarters, or what XLA_PYTHON_CLIENT_MEM_FRACTION says. A TPU's
        compiler knows its own limit, slightly below what the data sheet promises.
        """
        if self.memory_bytes is None or self.platform != "cuda":
            return self.memory_bytes
        return int(self.memory_bytes * float(os.environ.get(MEMORY_FRACTION, DEFAULT_FRACTION)))


MEMORY_FRACTION, DEFAULT_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75"


def parse(name: str) -> Topology:
    """The machine of that name; ConfigError that shows how names are written."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise ConfigError(f"topology is {name!r}, but must be written like {_FORMS}")
    slices, kind = int(found[1] or 1), found[2]
    shape = tuple(int(size) for size in found[3].split("x"))
    platform = _platform(name, kind)
    axes = {"tpu": TPU_AXES.get(kind), "cuda": 2, "cpu": 1}[platform]
    if len(shape) != axes or min(*shape, slices) < 1:
        raise ConfigError(f"topology {name!r} must have {axes} positive sizes: write like {_FORMS}")
    if slices > 1 and platform != "tpu":
        raise ConfigError(
            f"topology {name!r} has several slices, which only TPUs have: leave N* out"
        )
    topology = Topology(name, platform, kind, shape, slices)
    sheet = topology.accelerator
    return dataclasses.replace(topology, memory_bytes=sheet.memory_bytes if sheet else None)


def _platform(name: str, kind: str) -> Platform:
    if kind in TPU_AXES:
        return "tpu"
    if kind in CARDS:
        return "cuda"
    if kind == "cpu":
        return "cpu"
    known = ", ".join((*TPU_AXES, *CARDS, "cpu"))
    raise ConfigError(f"topology {name!r} names an unknown accelerator: choose one of {known}")


def devices(topology: Topology) -> list[Any]:
    """Its devices, for a mesh; MissingError names the package to install."""
    make = {"tpu": _tpu, "cuda": _cuda, "cpu": _cpu}[topology.platform]
    return make(topology)


def _tpu(topology: Topology) -> list[Any]:
    # libtpu would query the cloud for metadata that a machine elsewhere does not have, for minutes.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nothing is locked: no TPU is used
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")  # only silences a warning
    shape = "x".join(map(str, topology.shape))
    # Without it the compiler shows the two cores of a v4 chip, which a TPU VM joins, one by one.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if topology.kind == "v4" else {}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    try:
        import libtpu  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingError(
            f"topology {topology.name} needs TPU's compiler: pip install '.[plan-tpu]' in the "
            "project's folder, or pip install --no-deps 'libtpu==0.0.42.*' beside jax 0.10.2"
        ) from error
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{topology.kind}:{shape}", **options
        )
    except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"topology {topology.name} is refused by TPU's compiler ({_brief(error)}): choose a "
            "shape that exists, such as v5e:4x4, v5p:4x4x4 or v6e:8x8"
        ) from error
    return list(found.devices)


def other_compiler(topology: Topology) -> str | None:
    """In words that TPU's compiler is of another version than jax takes; None where it is not, or
    where its version is not known.

    Of what one wrote, the other may be unable to read.
    """
    if topology.platform != "tpu":
        return None
    if (found := _libtpu()) is None:
        return None
    (name, installed), taken = found, None
    for requirement in metadata.requires("jax") or ():  # 'libtpu==0.0.42.*; extra == "tpu"'
        taken = taken or _TAKEN.match(requirement)
    if taken is None or f"{installed}.".startswith(taken[1]):
        return None
    return (
        f"{name} {installed} and jaxlib {metadata.version('jaxlib')} are installed, but jax "
        f"{jax.__version__} takes libtpu {taken[1]}*: pip install 'jax[tpu]=={jax.__version__}'"
    )


def _libtpu() -> tuple[str, str] | None:
    """The package that TPU's compiler was installed from, and its version."""
    for name in ("libtpu", "libtpu-nightly"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return name, metadata.version(name)
    return None


def _cuda(topology: Topology) -> list[Any]:
    hosts, gpus = topology.shape
    try:
        import jax_plugins.xla_cuda13  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingError(
            f"topology {topology.name} needs NVIDIA's compiler: pip install '.[plan-gpu]' in "
            "the project's folder, or pip install "
            f"'jax-cuda13-plugin[with-cuda]=={jax.__version__}'"
        ) from error
    found = topologies.get_topology_desc(
        platform="cuda", target_config=target_config(topology.kind), topology=f"1x{hosts}x{gpus}"
    )
    return list(found.devices)


def _cpu(topology: Topology) -> list[Any]:
    (count,) = topology.shape
    found = jax.devices("cpu")
    if count > len(found):
        raise ConfigError(
            f"topology {topology.name} has {counted(count, 'device')}, but JAX started with "
            f"{len(found)}: set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count}"
        )
    return found[:count]


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


# -------------------------------------------------------------------------------------- cards


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """What XLA's compiler must know of an NVIDIA card (openxla/xla pull requests 16913, 25919)."""

    capability: tuple[int, int]
    cores: int
    units_per_core: int
    shared_bytes: int  # of a core
    l2_bytes: int
    clock_ghz: float

    @property
    def cudnn_head_dim(self) -> int:
        """Widest head of its cuDNN attention kernel."""
        return attention.fused_width("{}.{}".format(*self.capability))


_A100 = Card(
    capability=(8, 0),
    cores=108,
    units_per_core=64,
    shared_bytes=167_936,
    l2_bytes=41_943_040,
    clock_ghz=1.41,
)
_HOPPER = Card(
    capability=(9, 0),
    cores=132,
    units_per_core=128,
    shared_bytes=233_472,
    l2_bytes=52_428_800,
    clock_ghz=1.98,
)
CARDS = {"a100": _A100, "a100-40": _A100, "h100": _HOPPER, "h200": _HOPPER}


def target_config(kind: str) -> str:
    """The text protobuf that describes a card to XLA."""
    card, sheet = CARDS[kind], Topology("", "cuda", kind, ()).accelerator
    assert sheet is not None
    major, minor = card.capability
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {card.shared_bytes}
  threads_per_core_limit: 2048
  core_count: {card.cores}
  fpus_per_core: {card.units_per_core}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {int(sheet.bandwidth)}
  l2_cache_size: {card.l2_bytes}
  clock_rate_ghz: {card.clock_ghz}
  device_memory_size: {sheet.memory_bytes}
  shared_memory_per_block_optin: {card.shared_bytes - 1024}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{kind.upper()}"
"""
