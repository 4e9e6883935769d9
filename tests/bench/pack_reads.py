"""Records of a pack read one by one, as training does, and by calls for many at once.

    esam data pack DATA --out PACK
    python tests/bench/pack_reads.py PACK

64 records of the first shard in random order, turn by turn in one process: the least of several
rounds, as the clock went and of all cores.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from array_record.python import (
    array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
)

from esam_jax.data import record_files

RECORDS, ROUNDS = 64, 15


def main(folder: str) -> None:
    path = str(min(Path(folder).glob("*.array_record")))
    single = array_record_module.ArrayRecordReader(path, record_files._RANDOM)
    usual = array_record_module.ArrayRecordReader(path)
    places = np.random.default_rng(0).permutation(single.num_records())[:RECORDS].tolist()
    ways: dict[str, Callable[[], object]] = {
        "one by one": lambda: [single.read([place]) for place in places],
        "one call": lambda: single.read(places),
        "one call, as the library reads ahead": lambda: usual.read(places),
    }
    spent = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, read in ways.items():
            clock, cores = time.perf_counter(), time.process_time()
            read()
            spent[name].append((time.perf_counter() - clock, time.process_time() - cores))
    for name, each in spent.items():
        clock, cores = (1e3 * min(times) for times in zip(*each, strict=True))
        print(f"{len(places)} records, {name}: {clock:.1f} ms, {cores:.1f} ms of all cores")


if __name__ == "__main__":
    main(sys.argv[1])
