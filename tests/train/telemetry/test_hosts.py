"""Step and waiting times of every host, and which of them keeps the others."""

import json

import pytest
from helpers import hooks, processes, toy_run

from esam_jax.runs import metrics_file
from esam_jax.train.telemetry import hosts
from esam_jax.train.telemetry.clock import Span


def test_the_times_of_a_span():
    span = Span(steps=4, seconds=4.4, data=0.8, other=0.2, durations=[1.0, 1.1, 1.2, 1.1])
    assert hosts.own(span) == [1.1, 0.2, 0.05]


def test_a_line_lists_every_host_in_order():
    found = {1: ["b", 1.0, 0.3, 0.0], 0: ["a", 1.0, 0.0, 0.1]}
    line = hosts.in_order(found, 40)
    assert line["hosts_step"] == 40 and line["hosts"] == ["a", "b"]
    assert line["host_step_seconds"] == [1.0, 1.0]
    assert line["host_data_wait_seconds"] == [0.0, 0.3]
    assert line["host_other_seconds"] == [0.1, 0.0]
    assert hosts.in_order({}, 40) == {}


@pytest.mark.parametrize(("more", "named"), [(0.99, False), (1.01, True)])
@pytest.mark.parametrize("which", [2, 3])  # data, other
def test_a_straggler_idles_a_tenth_of_a_step_more_than_most(more, named, which):
    found = {n: [f"node{n}", 2.0, 0.05, 0.05] for n in range(5)}
    found[3][which] += more * 0.1 * 2.0
    line = hosts.in_order(found, 1)
    assert ("stragglers" in line) == named
    if named:
        assert line["stragglers"][0].startswith("host 3 (node3): idle 0.302 s of a step of 2 s")


def test_each_straggler_is_news_once():
    seen = hosts.Hosts()
    assert seen.news(["host 3 (a): idle 1 s", "host 4 (b): idle 1 s"]) == [
        "host 3 (a): idle 1 s", "host 4 (b): idle 1 s",
    ]  # fmt: skip
    assert seen.news(["host 3 (a): idle 2 s", "host 5 (c): idle 1 s"]) == ["host 5 (c): idle 1 s"]


def test_a_single_process_has_nobody_to_compare_with():
    alone = hosts.Hosts()
    assert alone.exchange(1, Span(steps=1, seconds=1.0, durations=[1.0])) == {} == alone.last()


@pytest.mark.slow
def test_two_processes_one_of_which_waits_for_its_data(tmp_path):
    wishes = {"workdir": str(tmp_path), "steps": 9, "save": 9, "log_every_steps": 3}
    wishes["alert"] = hooks.noting(tmp_path)
    wishes["pause_of"] = {"host": 1, "seconds": 0.4}
    started = processes.start([toy_run.__file__, json.dumps(wishes)], 2)
    (_, errors), _ = processes.finish(started)
    lines = metrics_file.read(tmp_path / "metrics.jsonl")
    told = [line for line in lines if "host_step_seconds" in line]
    assert [(line["step"], line["hosts_step"]) for line in told] == [(6, 3), (9, 6), (9, 9)]
    for line in told:
        assert len(line["hosts"]) == len(line["host_step_seconds"]) == 2
        waits = line["host_data_wait_seconds"]
        assert waits[1] > 0.2 > waits[0]
        assert [each.split(" (")[0] for each in line["stragglers"]] == ["host 1"]
    assert told[-1]["finished"]
    (event,) = [line for line in lines if line.get("event") == "straggler"]
    assert event["hosts"][0].startswith("host 1 (")
    assert "all hosts wait for host 1 (" in errors
    told = {each["event"]: each for each in hooks.facts(tmp_path)}
    assert told.keys() == {"straggler", "finished"} and len(hooks.facts(tmp_path)) == 2
    assert told["straggler"]["message"] == event["hosts"][0]
