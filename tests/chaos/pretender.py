"""Stands for `esam train` in tests of the runner: the same signs of life, in milliseconds.

python pretender.py FOLDER WORKDIR NUMBER_OF_STEPS [how]: `deaf` never notices that a peer is gone,
`mend` leaves with exit code 2 at once.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

folder, workdir, last, *how = sys.argv[1:]
folder, checkpoints = Path(folder), Path(workdir) / "checkpoints"
me, count = (int(os.environ[f"JAX_{name}"]) for name in ("PROCESS_ID", "NUM_PROCESSES"))
life = os.environ["JAX_COORDINATOR_ADDRESS"].rpartition(":")[2]  # every life has another port
arrivals = [folder / f"arrivals-{life}-{number}" for number in range(count)]
stop_file = folder / f"stop-{life}"
told = []


def tell(file, text):
    with file.open("a") as handle:
        handle.write(text)


def meet():
    """A collective: nobody goes on before all have come as often."""
    tell(arrivals[me], f"{os.getpid():<9}\n")
    times = arrivals[me].stat().st_size
    while not all(file.exists() and file.stat().st_size >= times for file in arrivals):
        if "deaf" not in how and not all(map(alive, arrivals)):
            sys.exit(134)
        time.sleep(0.002)


def alive(file):
    """Whether the one who arrives there is still running, or yet to come."""
    try:
        pid = file.read_text()[:9].strip()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return not file.exists()
    return state not in "ZX"


signal.signal(signal.SIGTERM, lambda *_: told.append(True))
if "mend" in how:
    sys.exit(2)
meet()
checkpoints.mkdir(parents=True, exist_ok=True)
first = max((int(path.name) for path in checkpoints.glob("*")), default=0)
journal = folder / f"journal-{me}.jsonl"
tell(journal, json.dumps({"life": os.getpid(), "step": first}) + "\n")
for step in range(first + 1, int(last) + 1):
    meet()
    tell(journal, json.dumps({"step": step, "digest": step}) + "\n")
    time.sleep(0.02)
    if told and not stop_file.exists():
        tell(stop_file, str(step + 2))  # by then, all have seen it
    stop = stop_file.exists() and stop_file.read_text() == str(step)
    if me == 0 and (stop or step % 4 == 0):
        (checkpoints / str(step)).mkdir(exist_ok=True)
    if stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(143)
