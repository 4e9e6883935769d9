"""metrics.jsonl: one object a line, in order, never twice, no update missing that was skipped."""

import json
import math

import jax
import jax.numpy as jnp
import pytest
import toy

from esam_jax.config import GuardConfig
from esam_jax.errors import TrainingError
from esam_jax.train import log


def metrics(loss, grad_norm=1.0, in_a_row=0):
    """Of an update; `in_a_row` is how many were skipped up to this one."""
    return {
        "loss": jnp.float32(loss),
        "grad_norm": jnp.float32(grad_norm),
        "skipped": jnp.int32(in_a_row > 0),
        "skipped_in_a_row": jnp.int32(in_a_row),
    }


def lines(folder):
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


def start(folder, first_step=0, broken=None, every=2, max_skipped=10):
    cfg = toy.config(log_every_steps=every, guard=GuardConfig(max_skipped=max_skipped))
    return log.Log(cfg, folder, first_step, lambda: broken or {}, progress=False)


def test_lines_come_late_and_complete(tmp_path):
    with start(tmp_path) as report:
        for step in range(1, 6):
            report.after(step, metrics(step / 10))
        # The first has a line of its own; that of step 4 is not asked for yet.
        assert [line["step"] for line in lines(tmp_path)] == [1, 2]
        report.flush(5)
        assert [line["step"] for line in lines(tmp_path)] == [1, 2, 4]
        report.write(5, {"box_miou": 0.5})
        report.finish()
    found = lines(tmp_path)
    assert "examples_per_second" not in found[0]  # it waited for the compiler
    assert found[1]["loss"] == pytest.approx(0.2)
    assert found[1]["examples_per_second"] > 0
    assert found[3] | {"seconds": 0} == {"step": 5, "box_miou": 0.5, "seconds": 0}
    assert found[4]["finished"] and found[4]["compile_seconds"] >= 0
    assert log.merged(tmp_path / "metrics.jsonl")["box_miou"] == 0.5


def test_resumed_run_drops_what_it_does_anew(tmp_path):
    with start(tmp_path, every=1) as report:
        for step in range(1, 6):
            report.after(step, metrics(step))
        report.flush(5)
        report.write(3, {"box_miou": 0.3})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    with start(tmp_path, first_step=3, every=1) as report:
        assert report.evaluated == {3}
        report.after(4, metrics(40.0))
        report.flush(4)
    assert [(line["step"], line.get("loss")) for line in lines(tmp_path)] == [
        (1, 1.0), (2, 2.0), (3, 3.0), (3, None), (4, 40.0),
    ]  # fmt: skip


@pytest.mark.parametrize("bad", [{"loss": math.nan}, {"loss": 1.0, "grad_norm": math.inf}])
def test_non_finite_numbers_name_their_step(tmp_path, bad):
    with start(tmp_path, every=2, max_skipped=1) as report:
        report.after(1, metrics(1.0))
        report.after(2, metrics(1.0))
        report.after(3, metrics(**bad, in_a_row=1))
        report.after(4, metrics(math.nan, in_a_row=2))
        assert [line["step"] for line in lines(tmp_path)] == [1, 2]
        name = list(bad)[-1]
        with pytest.raises(TrainingError, match=f"^{name} of step 3 is {list(bad.values())[-1]}"):
            report.flush(4)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_every_skipped_update_has_a_line_of_valid_json(tmp_path):
    with start(tmp_path, every=4) as report:
        for step, row in enumerate((0, 1, 2, 0, 0), 1):
            report.after(step, metrics(math.nan if row else 1.0, in_a_row=row))
        report.flush(5)
    assert [(line["step"], line["skipped"]) for line in lines(tmp_path)] == [
        (1, 0), (2, 1), (3, 1), (4, 0),
    ]  # fmt: skip
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert lines(tmp_path)[1]["loss"] is None


def test_events_are_told_once_and_are_no_evaluation(tmp_path):
    for _ in range(2):  # the second run resumes and comes by the same
        with start(tmp_path, first_step=2) as report:
            report.event(2, {"event": "rollback", "from": 4})
            report.event(2, {"event": "rollback", "from": 6})
            assert report.evaluated == set()
    assert [line["from"] for line in lines(tmp_path)] == [4, 6]
    assert log.merged(tmp_path / "metrics.jsonl") == {}


def test_broken_records_are_named_once(tmp_path):
    broken = {"a.jpg": "cut short"}
    with start(tmp_path, broken=broken, every=1) as report:
        for step in range(1, 4):
            report.after(step, metrics(1.0))
            report.flush(step)
            if step == 2:
                broken["b.jpg"] = "empty"
        broken["c.jpg"] = "empty"
        report.finish()
    first, second, third, last = lines(tmp_path)
    assert (first["broken"], first["broken_names"]) == (1, ["a.jpg"])
    assert "broken" not in second
    assert (third["broken"], third["broken_names"]) == (2, ["b.jpg"])
    assert (last["broken"], last["broken_names"]) == (3, ["c.jpg"])


def test_every_host_knows_what_was_measured_but_one_writes(tmp_path, monkeypatch):
    with start(tmp_path, every=1) as report:
        report.write(2, {"box_miou": 0.3})
        report.write(4, {"box_miou": 0.4})
    before = (tmp_path / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with start(tmp_path, first_step=2, every=1) as report:
        assert report.evaluated == {2}
        report.write(3, {"box_miou": 0.5})
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_quiet_unless_a_terminal(tmp_path, capsys):
    with start(tmp_path) as report:
        report.after(1, metrics(1.0))
        report.finish()
    log.say("hello", None)
    assert capsys.readouterr() == ("", "")
    log.say("hello", True)
    assert capsys.readouterr().err == "hello\n"
