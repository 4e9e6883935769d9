"""Trains once undisturbed and once under random faults, and compares the two bit for bit.

    python tests/chaos/run.py --seed 7 --faults 50 --minutes 30 --processes 2

Exit code 0 when the runs are the same, 1 when they are not or when a hand was needed. The same seed
draws the same faults at the same updates; where in an update they strike depends on the machine.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos import disk, faults, plan, stored, table, verdict
from chaos.runner import Runner, ViolationError
from chaos.supervisor import TERMINATED, Supervisor

EVERY_STEPS = 4
HEARTBEAT_SECONDS = 10
# Both axes of the mesh wherever they fit: each process then writes parts of its own.
MESHES = {1: (1, 1), 2: (1, 2), 3: (3, 1), 4: (2, 2)}


def main(argv=None):
    options = _parse(argv)
    names = options.kinds.split(",") if options.kinds else list(faults.NAMES)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="chaos_"))
    begin = time.monotonic()

    def say(line):
        print(f"{time.monotonic() - begin:7.1f} s  {line}", file=sys.stderr, flush=True)

    result = chaos(folder, options, names, say)
    print(json.dumps(result) if options.json else result["table"])
    if result["violations"]:
        again = f"--seed {options.seed} --faults {options.faults} --processes {options.processes}"
        again += f" --data {options.data} --workers {options.workers}"
        again += f" --kinds {options.kinds}" if options.kinds else ""
        for violation in result["violations"]:
            print(f"chaos: seed {options.seed}: {violation}", file=sys.stderr)
        print(f"chaos: see {folder}; once more: run.py {again}", file=sys.stderr)
        return 1
    if options.folder is None:
        shutil.rmtree(folder)
    return 0


def chaos(folder, options, names, say):
    """What happened, as plain values: `violations` is empty when every promise was kept."""
    seed, processes, seconds = options.seed, options.processes, 60 * options.minutes
    deadline = time.monotonic() + seconds
    of_data = f"{options.data} and {options.workers} workers"
    say(f"seed {seed}, {options.faults} faults, {processes} processes, {of_data}, in {folder}")
    keys = stored.keys(options.data, folder / "data", options.workers)
    if not options.workers:
        names = [fault.name for fault in faults.FAULTS if fault.name in names and not fault.workers]
    with disk.small(folder / "disk") as reason:
        if reason is not None and "full_disk" in names:
            say(f"full_disk is left out: no small disk can be had ({reason})")
            names = [name for name in names if name != "full_disk"]
        strikes, steps = plan.draw(seed, options.faults, names, EVERY_STEPS)
        runs = [
            _supervisor(folder, name, processes, [*keys, "--steps", steps])
            for name in ("undisturbed", "disturbed")
        ]
        _put_checkpoints_on(folder / "disk", runs[1].workdir)
        runners = [
            Runner(run, random.Random(seed), deadline, HEARTBEAT_SECONDS, say) for run in runs
        ]
        violations = _violations(runs, runners, strikes, say)
        if violations:
            say(f"last words:\n{runs[1].tail() or runs[0].tail()}")
            # Before the disk goes.
            shutil.copytree(folder / "disk" / "checkpoints", folder / "checkpoints_as_left")
    outcomes = runners[1].outcomes
    return {
        "seed": seed,
        "processes": processes,
        "data": options.data,
        "workers": options.workers,
        "steps": steps,
        "injected": len(outcomes),
        "unplanned_starts": runners[1].unplanned,
        "seconds": round(seconds - (deadline - time.monotonic()), 1),
        "violations": violations,
        "summary": table.summary(outcomes),
        "faults": table.plain(outcomes),
        "table": table.text(outcomes),
    }


def _violations(runs, runners, strikes, say):
    """What was promised and not kept, in words."""
    calm, stormy = runs
    try:
        runners[0].run()
        say(f"undisturbed: {calm.step()[1]} steps")
        runners[1].run(strikes)
    except ViolationError as violation:
        return [str(violation)]
    return verdict.differences(
        calm.workdir, stormy.workdir, calm.folder, stormy.folder, stormy.count
    )


def _put_checkpoints_on(small_disk, workdir):
    (small_disk / "checkpoints").mkdir()
    workdir.mkdir()
    (workdir / "checkpoints").symlink_to(small_disk / "checkpoints")


def _supervisor(folder, name, processes, keys):
    data, fsdp = MESHES[processes]
    keys = [*keys, "--save.every-steps", EVERY_STEPS]
    keys += ["--mesh.data", data, "--mesh.fsdp", fsdp]
    keys += ["--peers.heartbeat-seconds", HEARTBEAT_SECONDS]
    place = folder / name
    return Supervisor(place, place / "run", folder / "cache", processes, list(map(str, keys)))


def _parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--processes", type=int, default=2, choices=sorted(MESHES))
    parser.add_argument("--data", default="scenes", choices=stored.KINDS)
    parser.add_argument("--workers", type=int, default=0, help="processes of each loader")
    parser.add_argument("--kinds", help=f"some of {','.join(faults.NAMES)}; all by default")
    parser.add_argument("--folder", help="kept afterwards; a temporary one by default")
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    options = parser.parse_args(argv)
    unknown = set((options.kinds or faults.NAMES[0]).split(",")) - set(faults.NAMES)
    if unknown:
        parser.error(f"--kinds names {', '.join(unknown)}: choose from {', '.join(faults.NAMES)}")
    return options


if __name__ == "__main__":
    # Told to end, it leaves neither processes nor a disk behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    sys.exit(main())
