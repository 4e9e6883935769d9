"""Work on records by processes: order, errors, and workers that die or are left behind."""

import functools
import os
import signal
import subprocess
import sys
import time

import pytest

from esam_jax.config import ScenesConfig
from esam_jax.data import parallel, sources
from esam_jax.errors import DataError, PeerError

SOURCE = sources.open_source(ScenesConfig(scenes=50))
# Workers know no test module, so that the work is a function of the package, or one of Python's.
NAME = functools.partial(type(SOURCE).name)


def names(indices):
    return [SOURCE.name(i) for i in indices]


@pytest.mark.parametrize("indices", [[], [3], range(7), [5, 1, 1, 40]])
def test_few_records_need_no_process(indices, monkeypatch):
    monkeypatch.setattr(parallel.multiprocessing, "get_context", None)
    assert list(parallel.over(SOURCE, indices, NAME, 3)) == names(indices)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_results_are_in_order(workers):
    indices = [*range(49, -1, -1), *range(50)]
    assert list(parallel.over(SOURCE, indices, NAME, workers, 3)) == names(indices)


@pytest.mark.slow
def test_an_error_of_a_worker_is_that_of_the_caller():
    found = parallel.over(SOURCE, range(40), functools.partial(_failing, 20), 2, 2)
    with pytest.raises(DataError, match="record 20"):
        list(found)


def _failing(number, source, index):
    if index == number:
        raise DataError(f"record {index}")
    return index


def _dying(number, source, index):
    if index == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return index


@pytest.mark.slow
def test_a_worker_that_is_killed_is_said():
    with pytest.raises(PeerError, match="fewer --workers"):
        list(parallel.over(SOURCE, range(40), functools.partial(_dying, 20), 2, 2))
    assert PeerError.exit_code == os.EX_TEMPFAIL


CHILD = """
import functools, sys, time
from esam_jax.config import ScenesConfig
from esam_jax.data import sources
from esam_jax.data import parallel

def main():
    source = sources.open_source(ScenesConfig(scenes=50))
    work = functools.partial(type(source).name)
    for each in parallel.over(source, list(range(50)) * 10_000, work, 2):
        print("begun", flush=True)
        time.sleep(60)

main()
"""


@pytest.mark.slow
def test_no_worker_outlives_its_parent():
    process = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", f"{process.pid}"], capture_output=True)
    children = [int(pid) for pid in found.stdout.split()]
    assert len(children) >= 2
    process.kill()
    process.communicate()
    end = time.monotonic() + 30
    while any(map(_alive, children)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(_alive, children))


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_processors_are_counted():
    assert 1 <= parallel.available() <= (os.cpu_count() or 1)
