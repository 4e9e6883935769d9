"""What disks, kills and people do to checkpoints, and what must result; by number of fault."""

import contextlib
import dataclasses
import errno
import gc
import json
import logging
import os
import pathlib
import random
import shutil
import subprocess
import sys
import threading
import time
import types

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers import toy
from helpers.steps import assert_restores, config, cut, flip, place, saved, spoil, state, template

from esam_jax.config import GuardConfig, SaveConfig
from esam_jax.errors import CheckpointError, DiskError
from esam_jax.runs import config_file, owner
from esam_jax.train import loop
from esam_jax.train.checkpoint import checksums, manager, quiet, reader, retention, step_folders
from esam_jax.train.checkpoint.manager import Checkpoints

# Where a write fails, Orbax leaves threads behind whose loops are closed under them.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True, scope="module")
def rubbish_goes_with_its_module():
    yield
    gc.collect()


# ------------------------------------------------------------------------- kills and markers

SAVING = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from helpers.steps import state, template
from esam_jax.config import SaveConfig
from esam_jax.train.checkpoint.manager import Checkpoints

with Checkpoints(SaveConfig(keep=2), pathlib.Path(sys.argv[2])) as checkpoints:
    step = checkpoints.latest() or 0
    if step:
        assert int(checkpoints.restore(template()).step) == step
    while True:
        step += 1
        checkpoints.save(step, state(step))
        print("saving", flush=True)
"""


@pytest.mark.slow
def test_f03_killed_at_random_points_of_a_save(tmp_path):
    tests, draw, reached = pathlib.Path(toy.__file__).parents[1], random.Random(3), 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVING, str(tests), str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3):
            assert process.stdout.readline() == "saving\n"
        time.sleep(draw.uniform(0, 0.3))
        process.kill()
        process.wait()
        process.stdout.close()
        newest = manager.newest(tmp_path)
        assert newest > reached  # of three saves that began, the first two are committed
        reached = newest
    assert_restores(tmp_path, reached)
    left = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()]
    assert all(name.isdecimal() for name in left), left


@pytest.mark.parametrize("marker", ["commit_success.txt", "_CHECKPOINT_METADATA"])
def test_f04_marker_deleted_from_the_newest(tmp_path, marker):
    folder = saved(tmp_path, 1, 2)
    (folder / "2" / marker).unlink()
    assert manager.newest(tmp_path) == 1
    with pytest.warns(UserWarning, match="checkpoint 2 has lost its commit marker"):
        assert_restores(tmp_path, 1)
    assert (folder / "2.uncommitted" / "state").is_dir()
    saved(tmp_path, 2)  # its place is free
    assert_restores(tmp_path, 2)


def test_checkpoints_of_earlier_releases_resume(tmp_path):
    """Sums of words, marks of their own and, before Orbax 0.12.3, no commit markers."""
    folder = saved(tmp_path, 1, 2)
    for marker in folder.rglob("commit_success.txt"):
        marker.unlink()
    for step in (1, 2):
        (folder / str(step) / "verified.json").write_text("{}")
        sums = checksums.word_sums(state(step))
        (folder / str(step) / "checksums" / "metadata").write_text(json.dumps(sums))
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    for field in ("save", "guard", "profile", "trackers"):
        del values[field]
    file.write_text(json.dumps(values | {"save_every_steps": 7, "keep_checkpoints": 2}))
    with pytest.raises(CheckpointError, match=r"guard\.spike was null, is 2\.0"):
        config_file.require_same(
            dataclasses.replace(config(), guard=GuardConfig(spike=2.0)), tmp_path
        )
    config_file.require_same(config(), tmp_path)
    assert_restores(tmp_path, 2)
    spoil(folder / "2", flip)
    with (
        Checkpoints(SaveConfig(), tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match=r"checkpoints/2 is damaged in (params/wide|opt_)"),
    ):
        checkpoints.restore(template())


# ----------------------------------------------------------------------------- failing saves


def full(*args, **kwargs):
    raise OSError(28, "No space left on device")


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_f05_failure_in_the_background_surfaces_at_the_next_step(tmp_path, monkeypatch):
    with Checkpoints(SaveConfig(), tmp_path) as checkpoints:
        checkpoints.save(1, state(1))
        checkpoints.wait()
        with monkeypatch.context() as broken:
            broken.setattr(ocp.CompositeCheckpointHandler, "finalize", full)
            checkpoints.save(2, state(2))  # returns: it fails afterwards
            wait_for(checkpoints._commit.done)
        with pytest.raises(DiskError, match=r"checkpoint 2 .*the disk is full.*make room"):
            checkpoints.check()
        assert checkpoints.check() == []  # reported once
        assert manager.steps(tmp_path) == [1] and checkpoints.latest() == 1
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
        checkpoints.save(3, state(3))  # later saves happen
        checkpoints.wait()
    assert manager.steps(tmp_path) == [1, 3]
    assert_restores(tmp_path, 3)


def test_f05_failure_of_the_last_save_is_not_lost(tmp_path, monkeypatch):
    with (
        pytest.raises(DiskError, match=r"checkpoint 2 .*the disk is full"),
        Checkpoints(SaveConfig(), tmp_path) as checkpoints,
    ):
        monkeypatch.setattr(ocp.CompositeCheckpointHandler, "finalize", full)
        checkpoints.save(2, state(2))


def test_f06_the_second_error_of_a_failed_save_is_not_of_the_next(tmp_path, monkeypatch):
    """A full disk fails the arrays and the metadata, in threads of their own."""
    with Checkpoints(SaveConfig(full_disk="continue"), tmp_path) as checkpoints:
        checkpoints.save(1, state(1))
        checkpoints.wait()
        store = type(checkpoints._manager._non_blocking_metadata_store)
        wait = store.wait_until_finished

        def fail_at_the_end(self):
            if threading.current_thread().name == "save_finalize":
                full()
            return wait(self)

        with monkeypatch.context() as broken:
            broken.setattr(ocp.CompositeCheckpointHandler, "finalize", full)
            broken.setattr(store, "wait_until_finished", fail_at_the_end)
            checkpoints.save(2, state(2))
            checkpoints.wait()
        with pytest.warns(UserWarning, match=r"checkpoint 2 .*training continues"):
            assert len(checkpoints.check()) == 1
        checkpoints.save(3, state(3))
        checkpoints.wait()
        assert checkpoints.check() == []
    assert manager.steps(tmp_path) == [1, 3]


def test_f06_what_comes_late_of_a_failed_save_does_not_stay(tmp_path, monkeypatch):
    """Arrays that were on their way when the first one failed make the folder again."""
    late = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp" / "state"
    with Checkpoints(SaveConfig(full_disk="continue"), tmp_path) as checkpoints:
        with monkeypatch.context() as broken:
            broken.setattr(ocp.CompositeCheckpointHandler, "finalize", full)
            checkpoints.save(2, state(2))
            checkpoints.wait()
        late.mkdir(parents=True)
        checkpoints.save(3, state(3))
        assert not late.exists()
        late.mkdir(parents=True)
        with pytest.warns(UserWarning, match="training continues"):
            checkpoints.check()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]


@pytest.mark.parametrize("policy", ["stop", "continue"])
def test_f06_full_disk_by_policy(tmp_path, monkeypatch, policy):
    monkeypatch.setattr("esam_jax.tasks.build", lambda cfg: toy.task())
    monkeypatch.setattr(loop.loader, "stream", toy.Stream)
    room = step_folders.free_bytes

    def little(folder):
        return 10 if manager.steps(tmp_path) == [2] else room(folder)

    monkeypatch.setattr(step_folders, "free_bytes", little)
    cfg = config(every_steps=2, full_disk=policy)
    if policy == "stop":
        with pytest.raises(DiskError, match=r"checkpoint 4 .*MB free.*make room"):
            loop.run(cfg, tmp_path)
    else:
        with pytest.warns(UserWarning, match=r"could not be written.*training continues") as warned:
            assert loop.run(cfg, tmp_path)["finished"]
        assert [str(each.message).split()[1] for each in warned] == ["4", "6"]
        lines = loop.log.read(tmp_path / "metrics.jsonl")
        assert [line["saves_failed"] for line in lines if "saves_failed" in line] == [1, 2]
    assert manager.steps(tmp_path) == [2]


@contextlib.contextmanager
def small_disk(folder, megabytes):
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk is a mounted tmpfs, which needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_f06_a_disk_that_fills_up_leaves_the_last_good_one(tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk", 2) as disk:
        run, filler = disk / "run", disk / "filler"
        saved(run, 1)
        monkeypatch.setattr(step_folders, "free_bytes", lambda folder: 1e9)  # it filled up since
        with Checkpoints(SaveConfig(full_disk="continue"), run) as checkpoints:
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(4096)):
                    pass
            checkpoints.save(2, state(2))
            with contextlib.suppress(DiskError):
                checkpoints.wait()
            with pytest.warns(UserWarning, match=r"checkpoint 2 .*training continues"):
                assert checkpoints.check()[0]["saves_failed"] == 1
            assert manager.steps(run) == [1]
            filler.unlink()
            checkpoints.save(3, state(3))
        assert manager.steps(run) == [1, 3]
        assert_restores(run, 3)


_FULL_DISK = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from helpers.steps import state
from esam_jax import cli
from esam_jax.cli import train
from esam_jax.config import SaveConfig
from esam_jax.train.checkpoint import step_folders
from esam_jax.train.checkpoint.manager import Checkpoints

def main(argv):
    run, room = pathlib.Path(sys.argv[2]), int(sys.argv[3])
    with Checkpoints(SaveConfig(), run) as checkpoints:
        checkpoints.save(1, state(1))
        checkpoints.wait()
        step_folders.free_bytes = lambda folder: 1e9  # it fills up while it is written
        with (run / "filler").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                file.truncate(file.tell() - room)
        checkpoints.save(2, state(2))
        checkpoints.wait()
    return 0

train.main = main
sys.exit(cli.main(["train"]))
"""


@pytest.mark.parametrize("room", [0, 20_000, 60_000])  # at which of Orbax's writes it is full
def test_f06_a_full_disk_is_one_line(tmp_path, room):
    tests = str(pathlib.Path(toy.__file__).parents[1])
    with small_disk(tmp_path / "disk", 2) as disk:
        done = subprocess.run(
            [sys.executable, "-c", _FULL_DISK, tests, str(disk / "run"), str(room)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 75, done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("esam: checkpoint 2 could not be written to ")
        assert "(the disk is full); make room or repair the disk, then run the" in done.stderr


_NOT_AWAITED = """
import sys
from esam_jax.train.checkpoint import quiet

async def write():
    pass

if sys.argv[1] == "quiet":
    with quiet.quiet():
        pass
cycle = [write()]
cycle.append(cycle)
del cycle
"""


@pytest.mark.parametrize(("how", "lines"), [("quiet", 0), ("plain", 2)])
def test_f06_a_coroutine_that_a_failed_save_left_is_not_reported_at_the_end(how, lines):
    done = subprocess.run(
        [sys.executable, "-c", _NOT_AWAITED, how], capture_output=True, text=True, check=True
    )
    assert done.stderr.count("\n") == lines, done.stderr


def test_f06_what_else_goes_wrong_in_threads_and_logs_is_shown(capsys, caplog):
    orbax = logging.LogRecord("absl", 40, "/lib/orbax/a.py", 1, "broken", None, None)
    with quiet.quiet():
        logging.getLogger("absl").handle(orbax)  # without a traceback
        found = types.SimpleNamespace(exc_value=RuntimeError("another"), exc_type=RuntimeError)
        assert not quiet._is_late(found.exc_value) and quiet._is_news(orbax)
        orbax.exc_info = (ValueError, ValueError("full"), None)
        assert not quiet._is_news(orbax)
        orbax.pathname = "/lib/grain/a.py"
        assert quiet._is_news(orbax)
    assert "broken" in caplog.text


def test_f06_no_room_for_two_is_refused_first(tmp_path, monkeypatch):
    monkeypatch.setattr(step_folders, "free_bytes", lambda folder: 200_000)  # a state takes 132 kB
    with pytest.raises(CheckpointError, match=r"has 0.2 MB free, but 2 checkpoint\(s\) need 0.3"):
        Checkpoints(SaveConfig(), tmp_path, template())


def test_f06_a_run_that_has_its_two_needs_room_for_one(tmp_path, monkeypatch):
    """A disk that is large enough to save again and again is large enough to resume."""
    saved(tmp_path, 1, 2)
    monkeypatch.setattr(step_folders, "free_bytes", lambda folder: 200_000)
    assert_restores(tmp_path, 2)


def test_f06_a_run_that_resumes_without_room_by_policy(tmp_path, monkeypatch):
    saved(tmp_path, 1, 2)
    monkeypatch.setattr(step_folders, "free_bytes", lambda folder: 0)
    with pytest.raises(CheckpointError, match=r"has 0\.0 MB free"):
        Checkpoints(SaveConfig(), tmp_path, template())
    with (
        pytest.warns(UserWarning, match=r"has 0\.0 MB free.*training continues"),
        Checkpoints(SaveConfig(full_disk="continue"), tmp_path, template()) as checkpoints,
    ):
        assert int(checkpoints.restore(template()).step) == 2
        checkpoints.check()


FIRST_USE = {  # of the disk, for each thing read or written there: what fails, what is named
    "folder": (os, "scandir", "checkpoints"),
    "probe": (pathlib.Path, "mkdir", "run"),
    "owner": (pathlib.Path, "replace", "run"),
    "config": (pathlib.Path, "read_text", r"config\.json"),
}


@pytest.mark.parametrize("where", FIRST_USE)
def test_f06_a_disk_that_fails_at_the_next_start_may_come_back(tmp_path, monkeypatch, where):
    """A launcher starts it again, as it did when the disk failed a save."""
    tmp_path = tmp_path / "run"
    saved(tmp_path, 1, 2)
    holder, name, named = FIRST_USE[where]
    work = getattr(holder, name)

    def start():
        config_file.require_same(config(), tmp_path)
        with owner.owned(tmp_path, resumed=True):
            Checkpoints(SaveConfig(), tmp_path, template())

    def fail(path, *args, **kwargs):
        if where == "config" and path.name != "config.json":
            return work(path, *args, **kwargs)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(holder, name, fail)
    with pytest.raises(DiskError, match=rf"{named} .*Input/output error.*start again") as caught:
        start()
    assert caught.value.exit_code == 75
    monkeypatch.undo()
    assert_restores(tmp_path, 2)


FULL = """
import os, pathlib, sys
sys.path.insert(0, sys.argv[1])
from helpers.steps import state
from esam_jax.config import SaveConfig
from esam_jax.train.checkpoint.manager import Checkpoints

make = os.mkdir

def mkdir(path, *args, **kwargs):
    if ".orbax-checkpoint-tmp" in str(path):
        raise OSError(28, "No space left on device")
    return make(path, *args, **kwargs)

os.mkdir = mkdir
with Checkpoints(SaveConfig(full_disk="continue"), pathlib.Path(sys.argv[2])) as checkpoints:
    for step in (1, 2):
        checkpoints.save(step, state(step))
        checkpoints.wait()
    assert checkpoints.check()[-1]["saves_failed"] == 2
print("ended")
"""


def test_f06_a_process_whose_folder_cannot_be_made_ends(tmp_path):
    """Made in the background, Orbax's threads would wait five minutes for that folder."""
    tests = pathlib.Path(toy.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FULL, str(tests), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr
    assert manager.steps(tmp_path) == []


# ------------------------------------------------------------------------- damaged and absent


def test_the_start_that_is_kept_stands_in_for_no_damaged_step(tmp_path):
    folder = saved(tmp_path, 0, 1)
    spoil(folder / "1", flip)
    with (
        Checkpoints(SaveConfig(damaged="fallback"), tmp_path) as checkpoints,
        pytest.raises(DiskError, match="no checkpoint that can be read"),
    ):
        checkpoints.restore(template())
    assert manager.steps(tmp_path) == [0, 1]


@pytest.mark.parametrize("damage", [flip, cut])
def test_f08_damaged_array_is_refused_by_step_and_leaf(tmp_path, damage):
    folder = saved(tmp_path, 1, 2)
    spoil(folder / "2", damage)
    with (
        Checkpoints(SaveConfig(), tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match=r"2 .* in .*(params/wide|opt_state/0).*fallback"),
    ):
        checkpoints.restore(template())
    assert manager.steps(tmp_path) == [1, 2]  # nothing was changed
    with pytest.warns(UserWarning, match=r"checkpoint 2 .*it is 2.damaged now"):
        assert_restores(tmp_path, 1, damaged="fallback")
    assert (folder / "2.damaged").is_dir()


@pytest.mark.filterwarnings("ignore:checkpoint 2 ")
def test_f08_whichever_file_is_cut_short_the_run_goes_on(tmp_path):
    """From that step, where the file holds nothing it needs, else from the one before."""
    whole = tmp_path / "whole"
    folder, used = saved(whole, 1, 2) / "2", set()
    for file in [file for file in folder.rglob("*") if file.is_file() and file.stat().st_size]:
        copy = tmp_path / "copy"
        shutil.copytree(whole, copy)
        cut(copy / file.relative_to(whole))
        with Checkpoints(SaveConfig(damaged="fallback"), copy) as checkpoints:
            found, step = checkpoints.restore(template()), checkpoints.latest()
        for ours, theirs in zip(*map(jax.tree.leaves, (state(step), found)), strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=str(file.relative_to(whole)))
        used.add(step)
        shutil.rmtree(copy)
    assert used == {1, 2}


def test_f08_a_run_falls_back_and_repeats_the_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("esam_jax.tasks.build", lambda cfg: toy.task())
    monkeypatch.setattr(loop.loader, "stream", toy.Stream)
    whole = loop.run(config(every_steps=2, keep=9), tmp_path / "whole")
    loop.run(config(every_steps=2, keep=9), tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text("")  # as killed before it was finished
    spoil(tmp_path / "run" / "checkpoints" / "6", cut)
    with pytest.warns(UserWarning, match="checkpoint 6 cannot be read"):
        again = loop.run(config(every_steps=2, damaged="fallback"), tmp_path / "run")
    assert again["loss"] == whole["loss"]
    assert manager.steps(tmp_path / "run") == [4, 6]


def test_f08_permuted_chunks_are_found(tmp_path):
    """Their words are the same, and so were the sums that earlier releases compared."""
    saved(tmp_path, 1)
    permuted = state(1)
    rows = np.asarray(permuted.params["wide"])[::-1]
    assert checksums.word_sums({"a": rows}) == checksums.word_sums({"a": permuted.params["wide"]})
    permuted.params["wide"] = jax.device_put(rows, place())
    item = tmp_path / "checkpoints" / "1" / "checksums" / "metadata"
    item.write_text(json.dumps(reader.checksums_item(permuted)))
    with (
        Checkpoints(SaveConfig(), tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match="checkpoints/1 is damaged in params/wide; move"),
    ):
        checkpoints.restore(template())


def test_f09_missing_folder_of_a_process(tmp_path):
    folder = saved(tmp_path, 1, 2)
    shutil.rmtree(folder / "2" / "state" / "ocdbt.process_0")
    with (
        Checkpoints(SaveConfig(), tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match=r"checkpoints/2 cannot be read in .*params/wide"),
    ):
        checkpoints.restore(template())
    with pytest.warns(UserWarning, match="checkpoint 2 cannot be read"):
        assert_restores(tmp_path, 1, damaged="fallback")


def test_f08_where_nothing_can_be_read_nothing_is_quarantined(tmp_path, monkeypatch):
    """The disk may be at fault: a run that lost all its steps would begin at step 0."""
    folder = saved(tmp_path, 1, 2)
    for policy in ("stop", "fallback"):

        def fail(path, template):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(reader, "_restore", fail)
        with (
            Checkpoints(SaveConfig(damaged=policy), tmp_path) as checkpoints,
            pytest.raises(DiskError, match=r"checkpoints/2 cannot be read .*start again") as caught,
        ):
            checkpoints.restore(template())
        assert caught.value.exit_code == 75
        assert manager.steps(tmp_path) == [1, 2]
        monkeypatch.undo()
    assert_restores(tmp_path, 2)
    for step in ("1", "2"):
        spoil(folder / step, cut)
    with (
        Checkpoints(SaveConfig(damaged="fallback"), tmp_path) as checkpoints,
        pytest.raises(DiskError, match="None was changed"),
    ):
        checkpoints.restore(template())


@pytest.mark.parametrize("content", ["{}", '{"format": "position hash", "arraxs": {}}', '{"a": 1}'])
def test_f08_damaged_checksums_are_refused(tmp_path, content):
    folder = saved(tmp_path, 1, 2)
    (folder / "2" / "checksums" / "metadata").write_text(content)
    with pytest.warns(UserWarning, match="checkpoint 2 is damaged in .*params/narrow"):
        assert_restores(tmp_path, 1, damaged="fallback")


def test_f08_an_error_of_the_disk_is_found_behind_one_of_orbax(tmp_path, monkeypatch):
    saved(tmp_path, 1)

    def fail(path, template):
        try:
            raise ValueError("UNKNOWN: Error reading local file: Input/output error")
        except ValueError as fault:
            raise Exception("Encountered error while reading array index: ()") from fault

    monkeypatch.setattr(reader, "_restore", fail)
    with (
        Checkpoints(SaveConfig(damaged="fallback"), tmp_path) as checkpoints,
        pytest.raises(DiskError, match=r"checkpoints/1 .*Input/output error\): start again"),
    ):
        checkpoints.restore(template())


# ------------------------------------------------------------------------ other runs and steps


def test_f11_every_difference_of_the_tree_is_listed(tmp_path):
    saved(tmp_path, 1)
    changed = template(state(1, width=64, dtype=np.float16))
    changed = changed.replace(
        params={**changed.params, "deeper": changed.params["narrow"]}, opt_state=()
    )
    with pytest.raises(CheckpointError) as error:
        Checkpoints(SaveConfig(), tmp_path, changed)
    for line in (
        "params/wide was float32 (128, 128), is float16 (128, 64)",
        "params/narrow was float32 (128,), is float16 (64,)",
        "params/deeper was absent, is float16 (64,)",
        "opt_state/0 was float32 (128, 128), is absent",
    ):
        assert line in str(error.value)
    with (  # without a tree, at the restore
        Checkpoints(SaveConfig(), tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match=r"checkpoints/1 has another tree: params/"),
    ):
        checkpoints.restore(changed)


def test_f12_newer_steps_are_neither_overwritten_nor_hidden(tmp_path):
    folder = saved(tmp_path, 4, 8)
    with Checkpoints(SaveConfig(), tmp_path) as checkpoints:
        for step in (6, 8):
            with pytest.raises(CheckpointError, match=f"holds step 8, .* than step {step} to be"):
                checkpoints.save(step, state(step))
    (folder / "8.damaged").mkdir()
    spoil(folder / "8", cut)
    with pytest.warns(UserWarning, match=r"8.damaged.2"):
        assert_restores(tmp_path, 4, damaged="fallback")
    assert not any((folder / "8.damaged").iterdir())


def test_going_back_drops_what_came_later(tmp_path):
    saved(tmp_path, 2, 4, 6)
    with Checkpoints(SaveConfig(), tmp_path) as checkpoints:
        checkpoints.go_back(4)
        assert checkpoints.latest() == 4
        checkpoints.save(6, state(7))
    assert_restores(tmp_path, 6, state(7))


# ------------------------------------------------------------------------------ what is kept


def test_f13_two_committed_are_kept_when_the_newest_fail(tmp_path, monkeypatch):
    with Checkpoints(SaveConfig(keep=2, full_disk="continue"), tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step))
        checkpoints.wait()
        with monkeypatch.context() as broken:
            broken.setattr(ocp.CompositeCheckpointHandler, "finalize", full)
            for step in (3, 4):
                checkpoints.save(step, state(step))
                checkpoints.wait()
                assert manager.steps(tmp_path) == [1, 2]
        checkpoints.save(5, state(5))
        checkpoints.wait()
        assert manager.steps(tmp_path) == [2, 5]
        with pytest.warns(UserWarning, match="could not be written"):
            assert len(checkpoints.check()) == 2
    assert_restores(tmp_path, 5)


@pytest.mark.parametrize(
    ("committed", "scores", "kept"),
    [
        ([1, 2], {}, [1, 2]),
        ([1, 2, 3], {}, [2, 3]),
        ([1, 2, 3, 4], {1: 0.9, 2: 0.5, 3: 0.7}, [1, 3, 4]),
        ([1, 2, 3, 4], {1: 0.9, 2: 0.9}, [2, 3, 4]),
        ([1, 3, 4], {2: 0.9, 1: 0.1}, [1, 3, 4]),  # 2 has no marker: it neither counts nor stays
    ],
)
def test_f13_what_is_kept(tmp_path, monkeypatch, committed, scores, kept):
    for step, score in scores.items():
        retention.note_score(tmp_path, step, "box_miou", score)
    monkeypatch.setattr(step_folders, "steps", lambda folder: committed[:-1])  # one is being saved
    assert keeps(tmp_path, committed[-1], best="box_miou", every_steps=100) == kept


def keeps(folder, newest, **save):
    policy = retention.policy(SaveConfig(keep=2, **save), folder)
    infos = [types.SimpleNamespace(step=step) for step in range(1, newest + 1)]
    answers = policy.should_preserve(infos, context=ocp.checkpoint_managers.PreservationContext())
    return [info.step for info, answer in zip(infos, answers, strict=True) if answer]


def test_what_stopped_runs_have_saved_leaves_one_to_go_back_to(tmp_path, monkeypatch):
    monkeypatch.setattr(step_folders, "steps", lambda folder: [4, 8, 9, 10])
    assert keeps(tmp_path, 10, every_steps=4) == [8, 9, 10]


def test_the_best_by_the_metric_is_kept_over_a_restart(tmp_path):
    scores = {1: 0.2, 2: 0.7, 3: 0.5, 4: 0.6, 5: 0.1}
    for part in ((1, 2, 3), (4, 5)):
        with Checkpoints(SaveConfig(best="box_miou"), tmp_path) as checkpoints:
            for step in part:
                checkpoints.save(step, state(step))
                checkpoints.score(step, {"box_miou": scores[step], "other": 1})
            checkpoints.wait()
    assert manager.steps(tmp_path) == [2, 4, 5]


def test_scores_of_steps_that_are_repeated_are_forgotten(tmp_path):
    with Checkpoints(SaveConfig(best="box_miou", keep=9), tmp_path) as checkpoints:
        for step, score in {1: 0.2, 2: 0.9, 3: 0.5}.items():
            checkpoints.save(step, state(step))
            checkpoints.score(step, {"box_miou": score})
        checkpoints.go_back(1)
        checkpoints.wait()
        assert retention.read_scores(tmp_path / "checkpoints") == {1: {"box_miou": 0.2}}


def test_an_evaluation_that_measured_nothing_ends_no_run(tmp_path):
    with Checkpoints(SaveConfig(best="box_miou"), tmp_path) as checkpoints:
        for step, values in {1: {"box_miou": 0.5}, 2: {"masks": 0, "skipped": 9}, 3: {}}.items():
            checkpoints.save(step, state(step))
            checkpoints.score(step, values)
        checkpoints.wait()
        assert not checkpoints.check()
    assert manager.steps(tmp_path) == [1, 2, 3]


def test_f17_clock_jumps_change_nothing(tmp_path, monkeypatch):
    clock = time.time
    hours = {1: 0, 2: -1, 3: 1, 4: -1}
    with Checkpoints(SaveConfig(keep=2), tmp_path) as checkpoints:
        for step, hour in hours.items():
            monkeypatch.setattr(time, "time", lambda hour=hour: clock() + 3600 * hour)
            monkeypatch.setattr(time, "time_ns", lambda hour=hour: int(1e9 * time.time()))
            checkpoints.save(step, state(step))
            checkpoints.wait()
    assert manager.steps(tmp_path) == [3, 4]
    assert_restores(tmp_path, 4)


def test_the_state_may_be_donated_while_it_is_written(tmp_path):
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0, tree), donate_argnums=0)
    now = state(1)
    with Checkpoints(SaveConfig(), tmp_path) as checkpoints:
        checkpoints.save(1, now)
        for _ in range(3):
            now = jax.block_until_ready(update(now))
    assert_restores(tmp_path, 1)
