"""What `esam bench card` measures: sizes, models and runs, in one plain object."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from esam_jax import configs, sharding
from esam_jax.config import MeshConfig, RunConfig
from esam_jax.errors import ConfigError
from esam_jax.machine import memory

Preset = Literal["full", "small"]
Row = dict[str, Any]
MAY_STOP: Row = {}  # a section yields it where another costly row begins: its time may be over

# Of the memory that JAX may use: the vendor's libraries take workspaces besides what XLA plans.
_USABLE_SHARE = 0.92
# Of a CPU's memory, which others use as well.
_HOST_SHARE = 0.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A program whose batch is fitted to the memory: where the search begins, and where it ends.

    `bytes_per_example` is about what the compiler needs in bfloat16: a guess near the truth saves
    compilations.
    """

    config: str
    most: int
    bytes_per_example: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything that decides about the figures, but for the machine.

    `parity` names models whose kinds have golden cases, `predict` and `everything` promptable
    models, which get random weights. `side` is that of the products which show what the device
    reaches, `picture` height and width for segment-everything.
    """

    preset: str
    dtypes: tuple[str, ...]
    runs: int  # calls that count, of a program that takes milliseconds
    updates: int  # the same, of one that takes a second
    parity: tuple[str, ...]
    predict: tuple[str, ...]
    batches: tuple[int, ...]
    prompts: tuple[int, ...]
    everything: str
    points_per_side: int
    picture: tuple[int, int]
    teacher: tuple[tuple[str, int, int], ...]  # view, most pictures, bytes of each
    sami: Program
    fine_tune: Program
    fault_steps: int
    side: int
    memory_bytes: int | None = None  # None: what the device reports

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


_FULL = Setting(
    preset="full",
    dtypes=("bfloat16", "float32"),
    runs=30,
    updates=3,
    # The two small networks, then each family at a size of its own.
    parity=(
        "efficientsam_b",
        "sam_l",
        "efficientsam_ti",
        "efficientsam_s",
        "mobile_sam",
        "mae_b",
        "sam_b",
    ),
    predict=("efficientsam_ti", "efficientsam_s"),
    batches=(1, 8),
    prompts=(1, 16, 64),
    everything="efficientsam_ti",
    points_per_side=32,
    picture=(1200, 1800),
    teacher=(("native", 512, 6_000_000), ("enlarged", 32, 150_000_000)),
    sami=Program(config="sami_ti", most=4096, bytes_per_example=26_000_000),
    fine_tune=Program(config="segment_ti", most=128, bytes_per_example=2_000_000_000),
    fault_steps=40,
    side=8192,
)
_SMALL = Setting(
    preset="small",
    dtypes=("bfloat16", "float32"),
    runs=3,
    updates=2,
    parity=("efficientsam_b", "sam_l"),
    predict=("efficientsam_nano",),
    batches=(1, 2),
    prompts=(1, 4),
    everything="efficientsam_nano",
    points_per_side=4,
    picture=(48, 72),
    teacher=(("native", 4, 4_000_000),),
    sami=Program(config="quickstart_sami", most=8, bytes_per_example=4_000_000),
    fine_tune=Program(config="quickstart_scratch", most=4, bytes_per_example=8_000_000),
    fault_steps=16,
    side=256,
)
PRESETS: dict[Preset, Setting] = {"full": _FULL, "small": _SMALL}


def from_json(value: Mapping[str, Any]) -> Setting:
    """The setting that `as_json` gave, also after a way through a file."""

    def plain(item: Any) -> Any:
        return tuple(plain(each) for each in item) if isinstance(item, list | tuple) else item

    found = {name: plain(item) for name, item in value.items()}
    for name in ("sami", "fine_tune"):
        found[name] = Program(**value[name])
    return Setting(**found)


def run_config(name: str, batch: int, dtype: str) -> RunConfig:
    """A shipped run on one device, with that batch and type."""
    cfg = configs.load(name)
    compute = dataclasses.replace(cfg.compute, dtype=dtype)  # pyright: ignore[reportArgumentType]
    return dataclasses.replace(cfg, batch=batch, compute=compute, mesh=MeshConfig())


def mesh() -> Mesh:
    """The first device alone, however many there are."""
    return sharding.make_mesh(MeshConfig(), jax.devices()[:1])


def usable_bytes(setting: Setting) -> int:
    """What programs may take of the device, less what is in use; of a CPU, a share of the host's.

    ConfigError where nothing is known of either.
    """
    if setting.memory_bytes is not None:
        return setting.memory_bytes
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(_USABLE_SHARE * stats["bytes_limit"]) - stats.get("bytes_in_use", 0)
    if jax.default_backend() == "cpu":
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return int(_HOST_SHARE * host) - memory.resident_bytes()
    raise ConfigError("the device does not report its memory: give --memory-gib")
