"""The loop as a whole: it finishes, resumes to the same bits, and stops rather than spoil a run.

In-process tests train the toy task; those that kill a process train a real one, nano SAMI on drawn
scenes.
"""

import dataclasses
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers import nano, processes, toy

from esam_jax.config import (
    DataConfig,
    EvaluateConfig,
    GuardConfig,
    ProfileConfig,
    PromptedConfig,
    Sa1bConfig,
    SaveConfig,
    ScenesConfig,
    SegmentConfig,
)
from esam_jax.errors import CheckpointError, DeviceMemoryError, MissingError, TrainingError
from esam_jax.report import summary
from esam_jax.train import loop
from esam_jax.train.telemetry import log

SCENES = ScenesConfig(split="heldout")
STRICT = GuardConfig(max_skipped=1)  # the first update that is not finite stops the run
NANO_SEGMENT = toy.config(
    task=SegmentConfig(model="efficientsam_nano"),
    data=DataConfig(source=SCENES, view=PromptedConfig(image_px=64)),
)


@pytest.fixture
def use_toy(monkeypatch):
    """Puts the toy task and its data in the place of the real ones; `spoil` makes a step NaN."""

    def use(spoil=None):
        monkeypatch.setattr("esam_jax.tasks.build", lambda cfg: toy.task(noise=0.1))
        monkeypatch.setattr(loop.loader, "stream", functools.partial(toy.Stream, spoil=spoil))

    use()
    return use


def lines(folder):
    """Of metrics; events tell of restarts, which the tests bring about."""
    return [line for line in log.read(folder / "metrics.jsonl") if "event" not in line]


def saved(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("*[0-9]"))


def parameters(folder, step):
    """Every array of a checkpoint, as Orbax gives it back without being told what to expect."""
    with ocp.StandardCheckpointer() as reader:
        tree = reader.restore((folder / "checkpoints" / str(step) / "state").absolute())
    return {"/".join(path): value for path, value in _flat(tree)}


def _flat(tree, path=()):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        if isinstance(value, dict | list | tuple):
            yield from _flat(value, (*path, str(key)))
        elif value is not None:
            yield (*path, str(key)), np.asarray(value)


def assert_same_checkpoint(a, b, step):
    ours, theirs = parameters(a, step), parameters(b, step)
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_runs_to_the_end_then_only_says_so(use_toy, tmp_path, capsys, monkeypatch):
    result = loop.run(toy.config(), tmp_path)
    assert result["step"] == 6 and result["finished"] and result["loss"] > 0
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert saved(tmp_path) == [4, 6]  # of 2, 4, 6 two are kept
    out, err = capsys.readouterr()  # no terminal: a line at the start, one at the end, and no bar
    begun, done = err.splitlines()
    assert out == "" and begun == f"esam: toy: training, steps: 6; log: {tmp_path}/metrics.jsonl"
    assert done.startswith(f"esam: {tmp_path}: finished at step 6 after ") and "goodput" in done

    monkeypatch.setattr("esam_jax.tasks.build", None)  # nothing is built again
    assert loop.run(toy.config(), tmp_path) == result
    said = f"esam: {tmp_path} is finished already: all 6 steps are done\n"
    assert capsys.readouterr() == ("", said)
    assert loop.run(toy.config(), tmp_path, progress=False) == result
    assert capsys.readouterr() == ("", "")
    with pytest.raises(CheckpointError, match="seed was 0, is 3"):
        loop.run(toy.config(seed=3), tmp_path)


def test_stopped_run_goes_on_to_the_same_bits(use_toy, tmp_path, capsys):
    loop.run(toy.config(), tmp_path / "whole")
    use_toy(spoil=3)  # the fourth batch is NaN: the run dies after checkpoint 2
    with pytest.raises(TrainingError, match="loss of step 4 is nan"):
        loop.run(toy.config(guard=STRICT), tmp_path / "broken")
    assert saved(tmp_path / "broken") == [2]  # never a state from after it
    assert all(np.isfinite(x).all() for x in parameters(tmp_path / "broken", 2).values())

    use_toy()
    capsys.readouterr()
    loop.run(toy.config(), tmp_path / "broken")
    begun, *_ = capsys.readouterr().err.splitlines()
    log_file = tmp_path / "broken" / "metrics.jsonl"
    assert begun == f"esam: toy: resuming from step 2 of 6; log: {log_file}"
    assert_same_checkpoint(tmp_path / "whole", tmp_path / "broken", 6)
    keys = ("step", "loss", "grad_norm", "param_norm", "learning_rate")
    numbers = [
        [[line.get(key) for key in keys] for line in lines(tmp_path / name)]
        for name in ("whole", "broken")
    ]
    assert numbers[0] == numbers[1]


def test_a_start_that_is_killed_before_its_log_opens_is_a_restart(use_toy, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*args, **keys):
        raise Killed

    loop.run(toy.config(steps=3), tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        patch.setattr(loop.start, "begin", kill)
        for _ in range(2):
            with pytest.raises(Killed):
                loop.run(toy.config(steps=3), tmp_path / "killed")
    loop.run(toy.config(steps=3), tmp_path / "killed")
    found = {name: summary.summary(tmp_path / name) for name in ("undisturbed", "killed")}
    assert {name: each["restarts"] for name, each in found.items()} == {
        "undisturbed": 0,
        "killed": 2,
    }
    faults = found["killed"]["faults"]
    assert [each["event"] for each in faults] == ["restart", "restart"]
    assert all(each["host"] == socket.gethostname() and each["at"] > 1.7e9 for each in faults)


def test_spoilt_state_is_not_saved_when_no_line_is_due(use_toy, tmp_path):
    use_toy(spoil=2)
    with pytest.raises(TrainingError, match="loss of step 3 is nan"):
        loop.run(
            toy.config(guard=STRICT, log_every_steps=100, save=SaveConfig(every_steps=4)), tmp_path
        )
    assert saved(tmp_path) == []


def test_f07_folder_that_cannot_be_written_is_refused_first(use_toy, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.start.states, "create", None)  # nothing is computed or compiled
    monkeypatch.setattr(loop, "jit_step", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingError, match="cannot be written"):
        loop.run(toy.config(), tmp_path / "file" / "run")


def test_wrong_data_or_weights_are_refused_before_anything_is_written(tmp_path):
    absent = Sa1bConfig(path=str(tmp_path / "absent"))
    prompted = dataclasses.replace(NANO_SEGMENT.data, source=absent)
    wrong = (
        toy.config(data=dataclasses.replace(toy.config().data, source=absent)),
        dataclasses.replace(NANO_SEGMENT, data=prompted),
        dataclasses.replace(NANO_SEGMENT, evaluate=EvaluateConfig(source=absent)),
        dataclasses.replace(
            NANO_SEGMENT, task=dataclasses.replace(NANO_SEGMENT.task, init_from=absent.path)
        ),
    )
    for cfg in wrong:
        with pytest.raises(MissingError, match="absent"):
            loop.run(cfg, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_resumed_run_needs_no_initial_weights(use_toy, tmp_path, monkeypatch):
    use_toy(spoil=3)
    with pytest.raises(TrainingError):
        loop.run(toy.config(guard=STRICT), tmp_path)

    def vanished():
        raise MissingError("no model any more")

    task = dataclasses.replace(toy.task(noise=0.1), initial=vanished)
    use_toy()
    monkeypatch.setattr("esam_jax.tasks.build", lambda cfg: task)
    assert loop.run(toy.config(), tmp_path)["finished"]
    with pytest.raises(MissingError, match="no model any more"):
        loop.run(toy.config(), tmp_path / "fresh")


def test_a_short_run_leaves_its_losses(use_toy, tmp_path):
    result = loop.run(
        toy.config(steps=3, log_every_steps=100, save=SaveConfig(every_steps=100)), tmp_path / "run"
    )
    assert result["loss"] > 0 and result["step"] == 3
    assert [line["step"] for line in lines(tmp_path / "run") if "loss" in line] == [1, 3]


def test_a_full_device_says_what_to_do(use_toy, tmp_path, monkeypatch):
    def step(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")

    monkeypatch.setattr(loop, "jit_step", lambda *args, **keys: step)
    with pytest.raises(DeviceMemoryError, match=r"9 bytes\): raise --accumulate, lower --batch"):
        loop.run(toy.config(), tmp_path)


def test_nothing_crosses_to_the_device_unasked(use_toy, tmp_path, monkeypatch):
    class Stream(toy.Stream):
        def __next__(self):
            return jax.device_get(super().__next__())  # as a loader that forgot to place it

    monkeypatch.setattr(loop.loader, "stream", Stream)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        loop.run(toy.config(), tmp_path)


def test_the_updates_asked_for_are_traced(use_toy, tmp_path):
    loop.run(toy.config(profile=ProfileConfig(first_step=3, steps=2)), tmp_path)
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 0


def test_failed_save_stops_the_run_at_the_next_step(use_toy, tmp_path, monkeypatch):
    def full(self):
        raise CheckpointError("a checkpoint could not be written: no space")

    monkeypatch.setattr(loop.Checkpoints, "check", full)
    with pytest.raises(CheckpointError, match="no space"):
        loop.run(toy.config(), tmp_path)


def test_sigterm_saves_the_update_under_way(use_toy, tmp_path, monkeypatch):
    class Terminating(toy.Stream):
        def __next__(self):
            if self._step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    monkeypatch.setattr(loop.loader, "stream", Terminating)
    with pytest.raises(SystemExit) as stopped:
        loop.run(toy.config(save=SaveConfig(every_steps=100)), tmp_path)
    assert stopped.value.code == 143
    assert saved(tmp_path) == [3]
    assert lines(tmp_path)[-1]["step"] == 3
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # the handler is put back


def test_evaluates_as_asked_and_makes_up_for_what_was_cut_short(use_toy, tmp_path, monkeypatch):
    calls = []

    def measure(params, frozen):
        calls.append(float(params["toy"]["encoder"]["block_01"]["mlp"]["out"]["bias"][0]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"box_miou": len(calls) / 10}

    task = dataclasses.replace(toy.task(noise=0.1), measurement=lambda config, mesh: measure)
    monkeypatch.setattr("esam_jax.tasks.build", lambda cfg: task)
    # Only what has masks may be measured.
    cfg = dataclasses.replace(NANO_SEGMENT, evaluate=EvaluateConfig(source=SCENES, every_steps=2))
    with pytest.raises(KeyboardInterrupt):  # while measuring step 4, which is saved
        loop.run(cfg, tmp_path)
    loop.run(cfg, tmp_path)
    found = [(line["step"], line["box_miou"]) for line in lines(tmp_path) if "box_miou" in line]
    assert found == [(2, 0.1), (4, 0.3), (6, 0.4)]
    assert calls[1] == calls[2]  # of the same parameters


NANO = """
import sys
from helpers import nano
from esam_jax import config as c
from esam_jax.report import summary
from esam_jax.train import loop

cfg = c.RunConfig(
    name="nano",
    task=c.SamiConfig(
        students=("efficientsam_nano",),
        teacher=c.TeacherConfig(model="sam_nano", weights="random"),
        decoder=c.PretrainDecoderConfig(width=32, depth=1, heads=2),
    ),
    data=c.DataConfig(
        source=c.ScenesConfig(scenes=20), view=c.CropConfig(image_px=64), threads=1
    ),
    optim=c.OptimConfig(peak_lr=1e-3, warmup_steps=2),
    steps=int(sys.argv[2]),
    batch=4,
    log_every_steps=1,
    save=c.SaveConfig(every_steps=5),
)
with nano.filled_with_zeros():
    loop.run(cfg, sys.argv[1])
"""


def start(folder, steps, cache):
    """The nano run in a process of its own, on one CPU device; only the first one compiles."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(Path(nano.__file__).parents[1]),
        **processes.keeping(cache),
    }
    return subprocess.Popen(
        [sys.executable, "-c", NANO, str(folder), str(steps)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process, condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def finish(process, code=0):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    return errors


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_bits(tmp_path):
    whole, killed, cache = tmp_path / "whole", tmp_path / "killed", tmp_path / "cache"
    finish(start(whole, 15, cache))
    process = start(killed, 15, cache)
    wait_for(process, lambda: (killed / "checkpoints" / "5").exists())
    process.kill()
    finish(process, -signal.SIGKILL)
    assert 5 <= max(saved(killed)) < 15
    finish(start(killed, 15, cache))
    assert_same_checkpoint(whole, killed, 15)
    assert [line["step"] for line in lines(killed) if "loss" in line] == list(range(1, 16))
    for name in ("model.safetensors", "unused.safetensors"):
        models = [folder / "model" / name for folder in (whole, killed)]
        assert models[0].read_bytes() == models[1].read_bytes()
