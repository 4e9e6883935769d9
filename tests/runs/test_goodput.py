"""Where the time of a run went, over restarts, from its lines alone."""

import json

import pytest

from esam_jax.runs import metrics_file
from esam_jax.runs.goodput import Ledger


def start(step, time):
    return {"step": step, "event": "start", "time": time, "batch": 10, "seconds": 0.0}


def update(step, seconds, rate=None, data=0.0):
    """A line whose steps came at `rate` examples a second."""
    speed = {} if rate is None else {"examples_per_second": rate, "data_wait_share": data}
    return {"step": step, "loss": 1.0, **speed, "seconds": seconds}


def took(event, step, seconds, length):
    return {"step": step, "event": event, "took": length, "seconds": seconds}


FIRST = [
    start(0, 1000.0),
    took("compile", 1, 30.0, 20.0),  # ten seconds of starting before it
    update(1, 31.0),
    update(11, 41.0, rate=10.0),  # ten steps of a second
    took("save", 11, 45.0, 4.0),
    update(21, 65.0, rate=5.0, data=0.5),  # ten of two seconds, half of them waiting
    update(31, 75.0, rate=10.0),
]


def test_one_part():
    spent = Ledger(FIRST).spent()
    wanted = {"steps": 30, "data": 10, "compile": 20, "start": 10, "save": 4, "redone": 0}
    assert {name: spent[name] for name in wanted} == pytest.approx(wanted)
    assert sum(spent.values()) == pytest.approx(75.0)
    assert Ledger(FIRST).goodput() == pytest.approx(30 / 75)


def test_what_the_start_measures_is_no_part_of_starting():
    lines = [start(0, 0.0), took("save", 0, 12.0, 2.0), took("evaluate", 0, 15.0, 3.0)]
    spent = Ledger([*lines, took("compile", 1, 40.0, 20.0)]).spent()
    wanted = {"save": 2, "evaluate": 3, "compile": 20, "start": 15, "other": 0}
    assert {name: spent[name] for name in wanted} == pytest.approx(wanted)


def test_skipped_updates_are_no_part_of_the_result():
    """Three of them, the first of which ends a line of ten updates of a second."""
    lines = [start(0, 0.0), update(1, 0.0)]
    lines += [{**update(step, step, rate=10.0), "skipped": 1} for step in (11, 12, 13)]
    lines += [{**update(23, 23.0, rate=10.0), "skipped": 0}]
    spent = Ledger(lines).spent()
    assert (spent["steps"], spent["skipped"]) == pytest.approx((9 + 10, 3))


def test_lost_steps_and_idle_hours_count_against_a_run():
    """Killed after step 31, begun again 25 s later from the checkpoint of step 11."""
    again = [*metrics_file.folded(FIRST, 11), start(11, 1100.0), update(12, 5.0)]
    again += [update(22, 15.0, rate=10.0), took("evaluate", 22, 18.0, 3.0)]
    assert [line["step"] for line in again if "loss" in line] == [1, 11, 12, 22]
    ledger = Ledger(again)
    spent = ledger.spent()
    assert spent["steps"] == pytest.approx(20.0)
    assert spent["redone"] == pytest.approx(30.0)
    assert spent["down"] == pytest.approx(25.0)
    assert spent["evaluate"] == pytest.approx(3.0)
    assert ledger.seconds() == pytest.approx(75 + 25 + 18)
    assert sum(spent.values()) == pytest.approx(ledger.seconds())


def test_a_line_that_straddles_the_checkpoint_is_shared():
    folded = metrics_file.folded(FIRST, 26)  # half way between two lines
    (redone,) = [line for line in folded if line.get("event") == "redone"]
    assert (redone["steps"], redone["took"], redone["useful"]) == (5, 5.0, 5.0)
    assert Ledger(folded).spent()["steps"] == pytest.approx(25.0)
    assert Ledger(folded).seconds() == pytest.approx(75.0)


def test_folding_twice_forgets_no_time():
    """A second restart that falls back behind the first one's checkpoint."""
    again = [*metrics_file.folded(FIRST, 21), start(21, 1080.0), update(22, 5.0)]
    again.append(update(32, 15.0, rate=10.0))
    ledger = Ledger([*metrics_file.folded(again, 11), start(11, 1100.0)])
    spent = ledger.spent()
    assert spent["steps"] == pytest.approx(10.0)
    assert spent["redone"] == pytest.approx(10.0 + 20.0 + 10.0)
    assert ledger.seconds() == pytest.approx(75 + 5 + 15 + 5)


def test_a_clock_set_back_gives_no_negative_time():
    ledger = Ledger([*FIRST, start(31, 500.0), update(32, 1.0)])
    assert ledger.spent()["down"] == 0.0
    assert ledger.seconds() == pytest.approx(76.0)


def test_unknown_events_keep_their_name():
    assert Ledger([*FIRST, took("rollback", 31, 80.0, 2.5)]).spent()["rollback"] == 2.5


def test_damaged_lines_are_left_out(tmp_path):
    file = tmp_path / "metrics.jsonl"
    whole = "".join(json.dumps(line) + "\n" for line in FIRST)
    file.write_text(whole + '[1]\n7\n{"loss": 1}\n' + whole[: len(whole) // 3])
    assert metrics_file.read(file)[: len(FIRST)] == FIRST
    assert all(isinstance(line["step"], int) for line in metrics_file.read(file))
