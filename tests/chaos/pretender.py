"""Stands for `esam train` in tests of the runner: the same signs of life, in milliseconds.

python pretender.py FOLDER WORKDIR NUMBER_OF_STEPS [how]: `deaf` ignores SIGTERM and dead peers,
`mend` leaves with exit code 2 at once.
"""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

folder, workdir, last, *how = sys.argv[1:]
me, count = (int(os.environ[f"JAX_{name}"]) for name in ("PROCESS_ID", "NUM_PROCESSES"))
checkpoints, over = Path(workdir) / "checkpoints", Path(folder) / "over"
told = []
signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in how else lambda *_: told.append(True))


def write(**line):
    with (Path(folder) / f"journal-{me}.jsonl").open("a", buffering=1) as journal:
        journal.write(json.dumps(line) + "\n")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def peers():
    """Who is there, by files that carry the coordinator's port: the name of this life."""
    port = os.environ["JAX_COORDINATOR_ADDRESS"].rpartition(":")[2]
    (Path(folder) / f"pid-{port}-{me}").write_text(str(os.getpid()))
    files = [Path(folder) / f"pid-{port}-{number}" for number in range(count)]
    while not all(file.exists() and file.read_text() for file in files):
        time.sleep(0.005)
    return [int(file.read_text()) for file in files]


if "mend" in how:
    sys.exit(2)
everyone = peers()
checkpoints.mkdir(parents=True, exist_ok=True)
first = max((int(path.name) for path in checkpoints.glob("*")), default=0)
write(life=os.getpid(), step=first)
for step in range(first + 1, int(last) + 1):
    write(step=step, digest=step)
    time.sleep(0.02)
    stop = bool(told)
    if stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough, and not while it leaves
        for pid in everyone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)  # all stop, whoever was told
    elif "deaf" not in how and not over.exists() and not all(map(alive, everyone)):
        sys.exit(134)
    if me == 0 and (stop or step % 4 == 0):
        (checkpoints / str(step)).mkdir(exist_ok=True)
    if stop:
        sys.exit(143)
over.touch()
