"""What the chaos runner would notice: every way in which two runs may differ is named."""

import json
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest
from chaos import hooks, verdict


def finished(folder, kernel=(1.0, 2.0)):
    """A finished run of two steps, with journals of one process beside it."""
    workdir = folder / "run"
    (workdir / "model").mkdir(parents=True)
    (workdir / "model" / "model.safetensors").write_bytes(b"weights")
    (workdir / "config.json").write_text("{}")
    lines = [{"step": step, "loss": 1 / step, "seconds": 3.0} for step in (1, 2)]
    write(workdir / "metrics.jsonl", [*lines, {"step": 2, "finished": True}])
    journal = [{"life": 7, "step": 0}, {"step": 1, "digest": 5}, {"step": 2, "digest": 6}]
    write(hooks.journal(folder, 0), journal)
    with ocp.PyTreeCheckpointer() as writer:
        state = {"params": {"kernel": np.asarray(kernel, np.float32)}, "step": np.int32(2)}
        writer.save((workdir / "checkpoints" / "2" / "state").absolute(), state)
    return folder


def write(file, lines):
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("calm"))


@pytest.fixture
def stormy(calm, tmp_path):
    return shutil.copytree(calm, tmp_path / "stormy")


def differences(calm, stormy):
    return verdict.differences(calm / "run", stormy / "run", calm, stormy, 1)


def test_the_same_is_the_same_however_often_it_was_begun(calm, stormy):
    journal = hooks.journal(stormy, 0)
    again = [{"life": 8, "step": 1}, {"step": 2, "digest": 6}]
    journal.write_text(journal.read_text() + "".join(json.dumps(line) + "\n" for line in again))
    (stormy / "run" / "checkpoints" / "1.damaged").mkdir()  # evidence is no rubbish
    (stormy / "run" / "stacks").mkdir()
    (stormy / "run" / "stacks" / "host_000.txt").write_text("")
    assert differences(calm, stormy) == []


def test_one_bit_of_a_parameter_is_named(calm, tmp_path):
    other = finished(tmp_path, kernel=(1.0, np.nextafter(np.float32(2.0), np.float32(3.0))))
    (found,) = differences(calm, other)
    assert found.startswith("arrays differ in the last checkpoint") and "kernel" in found


def spoil_model(run):
    (run / "model" / "model.safetensors").write_bytes(b"weightz")


def spoil_loss(run):
    file = run / "metrics.jsonl"
    file.write_text(file.read_text().replace("0.5", "0.5000001"))


def repeat_line(run):
    file = run / "metrics.jsonl"
    file.write_text(file.read_text() + file.read_text().splitlines()[0] + "\n")


def lose_line(run):
    file = run / "metrics.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[1:]))


def change_batch(run):
    file = hooks.journal(run.parent, 0)
    file.write_text(file.read_text().replace('"digest": 6', '"digest": 7'))


def lose_batch(run):
    file = hooks.journal(run.parent, 0)
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")


def leave_half_a_checkpoint(run):
    (run / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()


def leave_half_a_file(run):
    (run / ".config.json.12.new").write_text("")


def leave_half_a_file_in_the_last_checkpoint(run):
    (run / "checkpoints" / "2" / ".metadata.3.new").write_text("")


def go_further(run):
    (run / "checkpoints" / "2").rename(run / "checkpoints" / "3")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (spoil_model, "model files differ: model/model.safetensors"),
        (spoil_loss, "other or no numbers in metrics.jsonl: 2"),
        (repeat_line, "several lines for one step"),
        (lose_line, "other or no numbers in metrics.jsonl: 1"),
        (change_batch, "process 0: steps had another batch: 2"),
        (lose_batch, "process 0: steps had no batch: 2"),
        (leave_half_a_checkpoint, "left over: checkpoints/4.orbax-checkpoint-tmp"),
        (leave_half_a_file, "left over: .config.json.12.new"),
        (leave_half_a_file_in_the_last_checkpoint, "left over: .metadata.3.new"),
        (go_further, "the last checkpoint is [3] instead of [2]"),
    ],
)
def test_every_difference_is_named(calm, stormy, change, words):
    change(stormy / "run")
    found = differences(calm, stormy)
    assert any(words in fault for fault in found), found
