"""metrics.jsonl: one object a line, in order, never twice, no update missing that was skipped."""

import itertools
import json
import math

import jax
import jax.numpy as jnp
import pytest
from helpers import toy

from esam_jax.config import GuardConfig
from esam_jax.data.findings import Finding
from esam_jax.errors import TrainingError
from esam_jax.train import guard
from esam_jax.train.telemetry import log
from esam_jax.train.telemetry.data_news import DataNews


def metrics(loss, grad_norm=1.0, in_a_row=0):
    """Of an update; `in_a_row` is how many were skipped up to this one."""
    return {
        "loss": jnp.float32(loss),
        "grad_norm": jnp.float32(grad_norm),
        "skipped": jnp.int32(in_a_row > 0),
        "skipped_in_a_row": jnp.int32(in_a_row),
    }


def all_lines(folder):
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


def lines(folder):
    """Without events, such as the start that comes first."""
    return [line for line in all_lines(folder) if "event" not in line]


def events(folder, name):
    return [line for line in all_lines(folder) if line.get("event") == name]


def start(folder, first_step=0, reads=None, every=2, records=None, progress=False):
    cfg = toy.config(log_every_steps=every)
    data = DataNews(reads or toy.Reads())
    more = {"data": data, "records": records, "progress": progress}
    return toy.open_log(cfg, folder, first_step, **more)


def test_every_update_is_read_one_late_and_some_get_a_line(tmp_path):
    with start(tmp_path) as report:
        seen = [report.after(step, metrics(step / 10)) for step in range(1, 6)]
        # Nothing is asked of an update before the next one is on its way.
        assert [[step for step, _ in each] for each in seen] == [[], [1], [2], [3], [4]]
        assert seen[2][0][1] == {
            "loss": pytest.approx(0.2), "grad_norm": 1.0, "skipped": 0, "skipped_in_a_row": 0,
        }  # fmt: skip
        # The first has a line of its own.
        assert [line["step"] for line in lines(tmp_path)] == [1, 2, 4]
        assert [step for step, _ in report.flush(5)] == [5]
        assert report.flush(5) == []
        report.write(5, {"box_miou": 0.5})
        report.finish(6)
    found = lines(tmp_path)
    assert "examples_per_second" not in found[0]  # it waited for the compiler
    assert found[0]["first_step_seconds"] > 0
    assert found[1]["loss"] == pytest.approx(0.2)
    assert found[1]["examples_per_second"] > 0 and found[1]["step_seconds"] > 0
    shares = [found[1][f"{part}_share"] for part in ("data_wait", "compute", "other")]
    assert sum(shares) == pytest.approx(1.0, abs=1e-3)
    assert found[1]["tflops_per_device"] > 0 and "mfu" not in found[1]  # no data sheet of a CPU
    assert found[1]["host_bytes"] > 1e6
    assert found[3] | {"seconds": 0} == {"step": 5, "box_miou": 0.5, "seconds": 0}
    assert found[4]["finished"] and found[4]["compile_seconds"] >= 0
    assert 0 <= found[4]["goodput"] <= 1
    whole = log.merged(tmp_path / "metrics.jsonl")
    assert whole["box_miou"] == 0.5 and "event" not in whole


def test_the_update_under_way_is_never_waited_for(tmp_path, monkeypatch):
    """As if no update were done before the next one is on its way."""
    under_way = []

    def fetch(found):
        assert found is not under_way[-1], "the host waits for the device"
        return {name: float(value) for name, value in found.items()}

    monkeypatch.setattr(log.scalars, "ready", lambda found: found is not under_way[-1])
    monkeypatch.setattr(log.scalars, "fetch", fetch)
    batches = itertools.repeat({})
    with start(tmp_path, every=1) as report:
        for step in range(1, 5):
            report.await_batch(batches)
            under_way.append(metrics(step))
            report.after(step, under_way[-1])
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [1, 2, 3]
    assert found[1]["data_wait_share"] == found[1]["other_share"] == 0


def test_mfu_is_told_where_there_is_a_data_sheet(tmp_path, monkeypatch):
    monkeypatch.setattr(log.environment, "peak_flops", lambda mesh: 1e12)
    with start(tmp_path, every=1) as report:
        for step in (1, 2):
            report.after(step, metrics(1.0))
        report.flush(2)
    line = lines(tmp_path)[1]
    wanted = line["examples_per_second"] * toy.FLOPS / 1e12
    assert line["mfu"] == pytest.approx(wanted, abs=1e-4)


def test_events_tell_of_the_run(tmp_path):
    with pytest.raises(RuntimeError), start(tmp_path, every=1) as report:
        report.after(1, metrics(1.0))
        report.flush(1)
        with report.timed("save", 1):
            pass
        raise RuntimeError("no\nmore")
    (begin,) = events(tmp_path, "start")
    assert begin["step"] == 0 and begin["batch"] == 8 and begin["devices"] == 1
    assert begin["mesh"] == {"data": 1, "fsdp": 1, "tensor": 1}
    assert begin["versions"].keys() >= {"jax", "jaxlib", "esam_jax", "python"}
    assert events(tmp_path, "compile")[0]["cache"] in ("off", "hit", "miss")
    assert events(tmp_path, "save")[0]["took"] >= 0
    assert events(tmp_path, "stop")[0]["reason"] == "RuntimeError: no more"


def test_other_data_than_before_is_told(tmp_path):
    for records in ("10 records", "10 records"):
        with start(tmp_path, records=records) as report:
            report.write(1, {"box_miou": 0.1})
    with pytest.warns(UserWarning, match="has changed: 11 records, but 10 records before"):
        start(tmp_path, first_step=1, records="11 records").__exit__(None, None, None)
    with start(tmp_path, first_step=1, records="11 records"):  # once
        pass
    assert [each["records"] for each in events(tmp_path, "start")] == [
        *["10 records"] * 2, *["11 records"] * 2,
    ]  # fmt: skip


def test_a_full_disk_costs_lines_and_not_the_run(tmp_path, monkeypatch):
    with start(tmp_path, every=1) as report:
        path = type(tmp_path)

        def full(self, *args, **options):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(path, "open", full)
            with pytest.warns(UserWarning, match="cannot be written .No space left"):
                report.write(1, {"box_miou": 0.1})
            report.write(1, {"box_miou": 0.15})  # a second warning would be an error here
        report.write(2, {"box_miou": 0.2})
        with monkeypatch.context() as patch:
            patch.setattr(path, "open", full)
            with pytest.warns(
                UserWarning, match="lines are lost until it can"
            ):  # it was full again
                report.write(3, {"box_miou": 0.3})
    assert [line["step"] for line in log.read(tmp_path / "metrics.jsonl")] == [0, 2]


def test_resumed_run_drops_what_it_does_anew(tmp_path):
    with start(tmp_path, every=1) as report:
        for step in range(1, 6):
            report.after(step, metrics(step))
        report.flush(5)
        report.write(3, {"box_miou": 0.3})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    with start(tmp_path, first_step=3, every=1) as report:
        assert set(report.measured) == {3}
        report.after(4, metrics(40.0))
        report.flush(4)
    assert [(line["step"], line.get("loss")) for line in lines(tmp_path)] == [
        (1, 1.0), (2, 2.0), (3, 3.0), (3, None), (4, 40.0),
    ]  # fmt: skip
    (redone,) = events(tmp_path, "redone")
    assert (redone["step"], redone["steps"]) == (3, 2) and redone["took"] > 0


@pytest.mark.parametrize("bad", [{"loss": math.nan}, {"loss": 1.0, "grad_norm": math.inf}])
def test_non_finite_numbers_have_a_line_before_the_guard_names_their_step(tmp_path, bad):
    with start(tmp_path, every=2) as report:
        report.after(1, metrics(1.0))
        report.after(2, metrics(1.0))
        report.after(3, metrics(**bad, in_a_row=1))
        found = report.flush(3)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    name = list(bad)[-1]
    with pytest.raises(TrainingError, match=f"^{name} of step 3 is {list(bad.values())[-1]}"):
        guard.judge(GuardConfig(max_skipped=1), found)


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


def test_events_are_no_evaluation_and_no_metric(tmp_path):
    with start(tmp_path, first_step=2) as report:
        report.event("rollback", 2, come_from=4)
    with start(tmp_path, first_step=2) as report:
        assert report.measured == {}
    assert events(tmp_path, "rollback")[0]["come_from"] == 4
    assert log.merged(tmp_path / "metrics.jsonl") == {}


def test_broken_records_are_named_once(tmp_path):
    broken = {"a.jpg": "cut short"}
    with (
        start(tmp_path, reads=toy.Reads(broken), every=1) as report,
        pytest.warns(UserWarning) as warned,
    ):
        for step in range(1, 4):
            report.after(step, metrics(1.0))
            report.flush(step)
            if step == 2:
                broken["b.jpg"] = "empty"
        broken["c.jpg"] = "empty"
        report.finish(6)
    # Once when the first is met, and the total at the end.
    assert [str(each.message) for each in warned] == [
        "data so far: 1 record cannot be used, the first: a.jpg: cut short",
        "data so far: 3 records cannot be used, the first: a.jpg: cut short",
    ]
    first, second, third, last = lines(tmp_path)
    assert (first["broken"], first["broken_names"]) == (1, ["a.jpg"])
    assert first["broken_reasons"] == ["cut short"]
    assert "broken" not in second
    assert (third["broken"], third["broken_names"]) == (2, ["b.jpg"])
    assert (last["broken"], last["broken_names"]) == (3, ["c.jpg"])


def test_what_is_left_out_is_counted_with_its_reason_and_said_once(tmp_path):
    reads = toy.Reads()
    with (
        start(tmp_path, reads=reads, every=1) as report,
        pytest.warns(UserWarning) as warned,
    ):
        for step in range(1, 4):
            reads.findings.add([Finding("objects_left_out", f"a.jpg: mask {step % 2}: bad")])
            report.after(step, metrics(1.0))
            report.flush(step)
        report.finish(6)
    first, second, third, last = lines(tmp_path)
    for n, line in enumerate((first, second), 1):
        assert line["objects_left_out"] == n
        assert line["left_out_reasons"] == {"objects_left_out": [f"a.jpg: mask {n % 2}: bad"]}
    assert "objects_left_out" not in third and "objects_left_out" not in last  # nothing new
    assert [str(each.message) for each in warned] == [
        f"data so far: {n} left out, the first: a.jpg: mask 1: bad"
        for n in ("1 object", "2 objects")
    ]


def test_a_line_names_twenty_of_many(tmp_path):
    reads = toy.Reads({f"{i}.jpg": f"fault {i}" for i in range(25)})
    reads.findings.add(Finding("crowds_used", f"crowd {i}") for i in range(25))
    with start(tmp_path, reads=reads) as report, pytest.warns(UserWarning):
        report.after(1, metrics(1.0))
        report.flush(1)
    (line,) = lines(tmp_path)
    assert (line["broken"], line["crowds_used"], len(line["broken_names"])) == (25, 25, 25)
    assert line["broken_reasons"] == [f"fault {i}" for i in range(20)]
    assert line["left_out_reasons"] == {"crowds_used": [f"crowd {i}" for i in range(20)]}


def test_other_hosts_name_all_that_is_new(tmp_path, monkeypatch):
    """Their share of the records is another one, and the file is of process 0."""
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    reads = toy.Reads({"a.jpg": "cut short", "b.jpg": "empty"})
    news = DataNews(reads)
    with pytest.warns(UserWarning) as warned:
        news.values()
        reads.findings.add([Finding("objects_left_out", "c.jpg: mask 0: bad")])
        news.values()
        news.values()
    assert [str(each.message) for each in warned] == [
        "host 1: data so far: new records and objects (2): a.jpg: cut short; b.jpg: empty",
        "host 1: data so far: new records and objects (1): c.jpg: mask 0: bad",
    ]


def test_every_host_knows_what_was_measured_but_one_writes(tmp_path, monkeypatch):
    with start(tmp_path, every=1) as report:
        report.write(2, {"box_miou": 0.3})
        report.write(4, {"box_miou": 0.4})
    before = (tmp_path / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with start(tmp_path, first_step=2, every=1) as report:
        assert set(report.measured) == {2}
        report.write(3, {"box_miou": 0.5})
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_one_line_at_the_end_unless_a_terminal(tmp_path, capsys):
    with start(tmp_path, progress=None) as report:
        report.after(1, metrics(1.0))
        report.finish(6)
    log.say("hello", None)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"esam: {tmp_path}: finished at step ")
    assert err.count("\n") == 1
    log.note("quiet", False)
    assert capsys.readouterr() == ("", "")
    log.say("hello", True)
    assert capsys.readouterr().err == "esam: hello\n"
