"""A read that never returns ends the run, which says what it waited for and leaves nothing."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chaos import supervisor
from helpers import hanging_task

TESTS = Path(__file__).resolve().parents[1]


def members(session: int) -> list[str]:
    """The command lines of all processes of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has ended meanwhile
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_f27_a_read_that_hangs_ends_the_run_and_is_named(tmp_path: Path, workers: int):
    train = [hanging_task.__file__, "--workdir", tmp_path / "run", "--data.threads", 2]
    train += ["--data.workers", workers, "--save.every-steps", 2]
    run = subprocess.Popen(
        [sys.executable, "-c", supervisor.COMMAND, "train", *map(str, train)],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS))),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        },
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = run.communicate(timeout=240)
        assert run.returncode == 75, errors
        deadline = time.monotonic() + 30
        while left := members(run.pid):
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, 9)
    (said,) = [line for line in errors.splitlines() if "no update finished in" in line]
    found = re.search(r"update (\d+) begun.* waiting for the data at position ([\d to]+),", said)
    assert found, said
    positions = [int(number) for number in found[2].split(" to ")]
    assert positions[0] <= hanging_task.POSITION <= positions[-1]
    assert len(positions) == (2 if workers else 1)  # a process hands over several at once
    assert int(found[1]) == positions[0] // 12 - 1  # one batch is ahead of the updates
    assert workers or f"which is of {hanging_task.record()}" in said
    # What was done is kept: the next start resumes.
    assert (tmp_path / "run" / "checkpoints" / "4").is_dir()
