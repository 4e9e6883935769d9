"""F14: one job at a time in a run folder, and none locked out by one that is dead."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from esam_jax.errors import CheckpointError, DiskError, MissingError
from esam_jax.runs import owner

HOLD = """
import pathlib, sys
from esam_jax.runs import owner
with owner.owned(pathlib.Path(sys.argv[1]), resumed=False):
    print("held", flush=True)
    sys.stdin.read()
"""


def held(folder):
    return owner.owned(folder, resumed=False)


def edit(folder, **changes):
    file = folder / "owner.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_f14_second_job_is_refused_and_a_killed_one_is_not_in_the_way(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(owner.__file__).parents[2])},
        text=True,
    )
    with process:
        assert process.stdout.readline() == "held\n"
        words = rf"in use by process {process.pid} on .*, since 20\d\d-.*--workdir"
        with pytest.raises(CheckpointError, match=words), held(tmp_path):
            raise AssertionError("must not start")
        process.kill()
        # Whether or not the kernel and the parent have noticed yet.
        with held(tmp_path):
            assert json.loads((tmp_path / "owner.json").read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_f14_a_killed_process_that_is_still_listed_is_waited_for(tmp_path, monkeypatch):
    with held(tmp_path):
        content = (tmp_path / "owner.json").read_text()
    (tmp_path / "owner.json").write_text(content)
    looks = iter([json.loads(content)["started"]] * 3)
    monkeypatch.setattr(owner, "_started", lambda pid: next(looks, None))
    with held(tmp_path):
        assert next(looks, None) is None


def test_f14_the_same_process_may_not_open_a_folder_twice(tmp_path):
    with held(tmp_path):
        with pytest.raises(CheckpointError, match="in use by process"), held(tmp_path):
            raise AssertionError("must not start")
        assert (tmp_path / "owner.json").exists()
    with held(tmp_path):
        pass


def test_f14_number_of_a_dead_process_given_to_another(tmp_path):
    with held(tmp_path):
        edit(tmp_path, started="0")
        with held(tmp_path):
            pass


def test_f14_a_job_of_another_machine_is_named_in_a_warning(tmp_path):
    with held(tmp_path):
        edit(tmp_path, machine="another", host="far", pid=7, since="2026-01-02 03:04:05")
        content = (tmp_path / "owner.json").read_text()
    assert (tmp_path / "owner.json").exists()  # not this job's to delete
    words = r"owner\.json names process 7 on far, since 2026-01-02 03:04:05.*end one of the two"
    with pytest.warns(UserWarning, match=words), held(tmp_path):
        assert (tmp_path / "owner.json").read_text() != content
    assert not (tmp_path / "owner.json").exists()


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"host": "here"}'])
def test_f14_what_a_crash_leaves_is_in_nobodys_way(tmp_path, content):
    (tmp_path / "owner.json").write_text(content)
    if content.startswith('{"'):
        with pytest.warns(UserWarning, match="process None on here"), held(tmp_path):
            return
    with held(tmp_path):
        assert json.loads((tmp_path / "owner.json").read_text())["pid"] == os.getpid()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for resumed, kind in ((False, MissingError), (True, DiskError)):
        with (
            pytest.raises(kind, match=r"file/run cannot be written \(Not a directory\)"),
            owner.owned(tmp_path / "file" / "run", resumed=resumed),
        ):
            raise AssertionError("must not start")
