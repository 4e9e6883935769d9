"""What each axis of the mesh saves on a device: `python tests/bench/mesh_memory.py`.

The steps of `tests/sharded/test_memory.py`, compiled for eight pretend devices: MiB of arguments,
of temporaries and of both with results, and MiB that each kind of collective moves in one update.
"""

import os
import pathlib
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "sharded"))

import test_memory as memory

MIB = 2**20


def row(name, found):
    sizes = (found.arguments, found.temporaries, found.peak)
    moved = ", ".join(f"{each.kind} {each.bytes / MIB:.1f}" for each in found.collectives)
    print(f"{name:<28}", *(f"{size / MIB:8.1f}" for size in sizes), f"  {moved}", flush=True)


def main():
    for make in (memory.segment, memory.sami):
        name = make.__name__
        row(f"{name} data=8", memory.plan(make()))
        row(f"{name} fsdp=8", memory.plan(make(), fsdp=8))
        row(f"{name} data=4", memory.plan(make(), devices=4))
        row(f"{name} data=4 tensor=2", memory.plan(make(), tensor=2))
    row("sami fsdp=8, teacher fsdp", memory.plan(memory.sami("fsdp"), fsdp=8))


if __name__ == "__main__":
    main()
