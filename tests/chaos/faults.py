"""The faults: what each does to a run, and whether the run must live on or may start again.

`FAULTS` lists them all. A fault is over when training is known to continue; the runner measures
what it cost.
"""

import dataclasses
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from chaos import hooks

PAUSE_SECONDS = (0.5, 3.0)
START_SECONDS = (0.0, 12.0)  # of a start that is cut short
HOUR_SECONDS = 3600.0
FULL_STEPS = (6, 12)  # how long a disk stays full
_CHUNK_BYTES = 64 * 1024


@dataclasses.dataclass(frozen=True)
class Fault:
    """One kind. `inject(scene)` causes it and returns what was done, for the log.

    `ends`: the life in which it happens ends by itself, and the runner starts the next one.
    `alone`: its peers must notice and end by themselves; at start they would wait for it to join.
    `damages`: it spoils the newest checkpoint, so there must be two good ones.
    `workers`: the loader must have worker processes.
    """

    name: str
    inject: Callable
    ends: bool = True
    alone: bool = True
    damages: bool = False
    workers: bool = False


@dataclasses.dataclass
class Scene:
    """What a fault may touch. `wait(condition)` lets the run continue until then, or fails it."""

    supervisor: object
    checkpoints: Path
    rng: object
    wait: Callable

    def anyone(self):
        return self.rng.randrange(self.supervisor.count)

    def everyone(self):
        return range(self.supervisor.count)

    def not_coordinator(self):
        return self.rng.randrange(1, self.supervisor.count) if self.supervisor.count > 1 else 0


def saved(checkpoints):
    """The steps of committed checkpoints, in order. Unfinished ones have longer names."""
    return sorted(int(path.name) for path in checkpoints.glob("*") if path.name.isdecimal())


# ------------------------------------------------------------------------------------- signals


def _kill_worker(scene):
    victim = scene.not_coordinator()
    scene.supervisor.signal(victim, signal.SIGKILL)
    return f"SIGKILL of process {victim}"


def _kill_coordinator(scene):
    scene.supervisor.signal(0, signal.SIGKILL)
    return "SIGKILL of process 0"


def _kill_all(scene):
    for number in scene.everyone():
        scene.supervisor.signal(number, signal.SIGKILL)
    return "SIGKILL of all"


def _kill_twice(scene):
    """The second time strikes while the run starts: reads its checkpoint, compiles, joins."""
    supervisor = scene.supervisor
    _kill_all(scene)
    supervisor.end(patience=0)
    supervisor.start()
    seconds, victim = scene.rng.uniform(*START_SECONDS), scene.anyone()
    begin = time.monotonic()
    # A quick machine may have begun to train by then.
    while time.monotonic() < begin + seconds and supervisor.step()[0] is None:
        time.sleep(0.02)
    supervisor.signal(victim, signal.SIGKILL)
    return f"SIGKILL of all, and of process {victim} {seconds:.1f} s after the restart or earlier"


def _freeze(scene):
    """Never to wake: only missing heartbeats show it to the others. The runner kills it later."""
    victim = scene.anyone()
    scene.supervisor.signal(victim, signal.SIGSTOP)
    return f"SIGSTOP of process {victim} for good"


def _pause(scene):
    victim, seconds = scene.anyone(), scene.rng.uniform(*PAUSE_SECONDS)
    scene.supervisor.signal(victim, signal.SIGSTOP)
    time.sleep(seconds)
    scene.supervisor.signal(victim, signal.SIGCONT)
    return f"SIGSTOP of process {victim}, SIGCONT {seconds:.1f} s later"


def _terminate_one(scene):
    victim = scene.anyone()
    scene.supervisor.signal(victim, signal.SIGTERM)
    return f"SIGTERM to process {victim}"


def _terminate_all(scene):
    for number in scene.everyone():
        scene.supervisor.signal(number, signal.SIGTERM)
    return "SIGTERM to all"


# ---------------------------------------------------------------------------------------- disk


def _full_disk(scene):
    """Every byte is taken for some steps; what was saved before must be there afterwards."""
    supervisor, ballast = scene.supervisor, scene.checkpoints.resolve().parent / "ballast"
    before, (_, start) = saved(scene.checkpoints), supervisor.step()
    steps = scene.rng.randrange(*FULL_STEPS)

    def over():
        fill(ballast)  # again, for older checkpoints may have gone
        return supervisor.step()[1] >= start + steps

    try:
        scene.wait(over, "training on a full disk")
        kept = saved(scene.checkpoints)
    finally:
        ballast.unlink(missing_ok=True)
    if before and not set(before) & set(kept):
        raise LostCheckpointsError(f"of checkpoints {before} a full disk left none, but {kept}")
    newest = max(kept, default=0)
    scene.wait(lambda: saved(scene.checkpoints)[-1:] > [newest], "a save after the disk was freed")
    return f"no room for checkpoints for {steps} steps"


class LostCheckpointsError(Exception):
    """What must be kept is not there."""


def fill(file):
    """Appends zeros until the disk of `file` has no room."""
    with file.open("ab", buffering=0) as ballast:
        size = _CHUNK_BYTES
        while size:
            try:
                ballast.write(b"\0" * size)
            except OSError:
                size //= 2  # the last bytes too


def _damage(change):
    """A fault that ends every process, as a power cut does, and changes the newest checkpoint."""

    def inject(scene):
        _kill_all(scene)
        scene.supervisor.end(patience=0)
        newest = scene.checkpoints / str(saved(scene.checkpoints)[-1])
        return change(newest, scene.rng)

    return inject


def flip(checkpoint, rng):
    """One bit: silent, in the arrays, unless somebody compares checksums."""
    file = _some_file(checkpoint / "state", rng)
    data = bytearray(file.read_bytes())
    place = rng.randrange(len(data))
    data[place] ^= 1 << rng.randrange(8)
    file.write_bytes(data)
    return f"bit flipped in byte {place} of {_within(file, checkpoint)}"


def truncate(checkpoint, rng):
    """A file ends early."""
    file = _some_file(checkpoint / "state", rng)
    size = rng.randrange(file.stat().st_size)
    with file.open("r+b") as handle:
        handle.truncate(size)
    return f"{_within(file, checkpoint)} cut to {size} bytes"


def delete_marker(checkpoint, rng):
    """The file that marks a checkpoint as committed."""
    file = checkpoint / rng.choice(("commit_success.txt", "_CHECKPOINT_METADATA"))
    return _delete(file if file.exists() else checkpoint / "_CHECKPOINT_METADATA", checkpoint)


def delete_metadata(checkpoint, rng):
    """What says which arrays there are and where, or what they sum to."""
    inner = ("state/_METADATA", "state/manifest.ocdbt", "checksums/metadata")
    return _delete(checkpoint / rng.choice(inner), checkpoint)


def delete_shards(checkpoint, rng):
    """All that one of the processes has written."""
    folder = rng.choice(sorted((checkpoint / "state").glob("ocdbt.process_*")))
    shutil.rmtree(folder)
    return f"{_within(folder, checkpoint)} deleted"


def _delete(file, checkpoint):
    file.unlink()
    return f"{_within(file, checkpoint)} deleted"


def _some_file(folder, rng):
    """One of the files below a folder; every byte is as likely as any other to be in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return rng.choices(files, [path.stat().st_size for path in files])[0]


def _within(file, checkpoint):
    return file.relative_to(checkpoint.parent).as_posix()


# -------------------------------------------------------------------------------- inside a process


def _clock(scene):
    victim, seconds = scene.anyone(), scene.rng.choice((-HOUR_SECONDS, HOUR_SECONDS))
    _ask(scene, hooks.CLOCK, victim, str(seconds))
    return f"time of day of process {victim} jumped by {seconds:+.0f} s"


def _reader(scene):
    """No signal reaches threads one by one, so one raises, here or in a worker process."""
    victim = scene.anyone()
    _ask(scene, hooks.READER, victim, "")
    return f"a loader thread of process {victim} raised"


def _kill_reader(scene):
    victim = scene.anyone()
    os.kill(scene.rng.choice(scene.supervisor.readers(victim)), signal.SIGKILL)
    return f"SIGKILL of a worker process of process {victim}'s loader"


def _ask(scene, kind, victim, size):
    file = hooks.request(scene.supervisor.folder, kind, victim)
    fresh = file.with_suffix(".new")
    fresh.write_text(size)
    fresh.replace(file)


FAULTS = (
    Fault("kill_worker", _kill_worker),
    Fault("kill_coordinator", _kill_coordinator),
    Fault("kill_all", _kill_all),
    Fault("kill_twice", _kill_twice, alone=False),
    Fault("freeze", _freeze),
    Fault("pause", _pause, ends=False),
    Fault("terminate_one", _terminate_one),
    Fault("terminate_all", _terminate_all),
    Fault("full_disk", _full_disk, ends=False),
    Fault("flip_bit", _damage(flip), damages=True),
    Fault("truncate", _damage(truncate), damages=True),
    Fault("delete_marker", _damage(delete_marker), damages=True),
    Fault("delete_metadata", _damage(delete_metadata), damages=True),
    Fault("delete_shards", _damage(delete_shards), damages=True),
    Fault("clock", _clock, ends=False),
    Fault("reader", _reader),
    Fault("kill_reader", _kill_reader, workers=True),
)
NAMES = tuple(fault.name for fault in FAULTS)
