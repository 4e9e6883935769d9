"""The record of a card: what a section's process may do without harm to others, and resuming."""

import dataclasses
import json
import sys
import time

import pytest

from esam_jax import cli
from esam_jax.card import campaign, driver, section_process, setting
from esam_jax.card.sections import SECTIONS
from esam_jax.card.setting import MAY_STOP, PRESETS
from esam_jax.errors import ConfigError

SMALL = PRESETS["small"]
ROW = {"table": "types", "model": "a", "embedding_error": 0.1, "mask_pixels": 0.0, "holds": True}


def process(code: str, limit: float = 30.0) -> dict:
    """What becomes of a section whose process runs this."""
    head = "import json, os, sys, time\nsay = lambda x: print(json.dumps(x), flush=True)\n"
    return campaign.measure(
        SECTIONS["parity"], "parity", SMALL, 1.0, limit, lambda text: None,
        [sys.executable, "-c", head + code],
    )  # fmt: skip


def test_rows_and_the_end_are_taken_in():
    code = "assert json.load(sys.stdin)['preset'] == 'small'\nsay({'row': {'table': 'a'}})\n"
    code += "say({'end': {'state': 'done', 'error': None, 'device': 'cpu'}})"
    found = process(code)
    assert found["rows"] == [{"table": "a"}]
    assert (found["state"], found["error"], found["device"]) == ("done", None, "cpu")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("say({'row': {'table': 'a'}})\nraise ValueError('no such kernel')", "no such kernel"),
        ("say({'row': {'table': 'a'}})\nos.kill(os.getpid(), 9)", "code -9"),
        ("say({'row': {'table': 'a'}})\nprint('{\"row\": ', end='', flush=True)", "code 0"),
    ],
)
def test_a_process_that_dies_leaves_its_rows(code, words):
    found = process(code)
    assert found["state"] == "failed" and words in found["error"]
    assert found["rows"] == [{"table": "a"}]


def test_a_process_that_hangs_is_ended_with_its_children(tmp_path):
    """Runs of the fault checks would otherwise keep the card."""
    mark = tmp_path / "child"
    child = f"import time, pathlib; time.sleep(2); pathlib.Path({str(mark)!r}).touch()"
    code = f"import subprocess\nsubprocess.Popen([sys.executable, '-c', {child!r}])\n"
    code += "print('stuck in a kernel', file=sys.stderr, flush=True)\ntime.sleep(100)"
    began = time.monotonic()
    found = process(code, limit=1.0)
    assert time.monotonic() - began < 20
    assert "ended after 1 s" in found["error"] and "stuck in a kernel" in found["error"]
    time.sleep(2.5)
    assert not mark.exists()


# ------------------------------------------------------------------------------ several sections


@pytest.fixture
def measured(monkeypatch):
    """Names of sections that were measured; `outcomes` says what comes of one."""
    names, outcomes = [], {}

    def measure(section, name, sizes, seconds, limit, say):
        names.append(name)
        assert 0 < seconds < limit
        outcome = outcomes.get(name, {})
        if isinstance(outcome, BaseException):
            raise outcome
        fresh = {"state": "done", "error": None, "rows": [ROW], "seconds": 1.0, "device": "cpu"}
        return fresh | outcome

    monkeypatch.setattr(campaign, "measure", measure)
    return names, outcomes


def run(out, *more: str) -> int:
    return cli.main(["bench", "card", "--out", str(out), "--preset", "small", *more])


def record(out) -> dict:
    return json.loads((out / campaign.FILE).read_text())


def test_every_section_is_measured_once(measured, tmp_path, capsys):
    names, _ = measured
    assert run(tmp_path / "card") == 0
    assert names == list(SECTIONS)
    found = record(tmp_path / "card")
    assert found["format"] == campaign.FORMAT and found["holds"] is True
    assert found["setting"] == json.loads(json.dumps(SMALL.as_json()))
    assert list(found["sections"]) == names and found["seconds"] == len(names)
    assert (tmp_path / "card" / "card.md").read_text().startswith("# A card")
    assert run(tmp_path / "card") == 0 and names == list(SECTIONS)
    assert "are in" in capsys.readouterr().err
    assert run(tmp_path / "card", "--overwrite", "--sections", "sami") == 0
    assert names[len(SECTIONS) :] == ["sami"] and len(record(tmp_path / "card")["sections"]) == 9


@pytest.mark.parametrize(
    "outcome",
    [
        {"state": "failed", "error": "out of memory"},
        {"rows": [ROW, {**ROW, "holds": False}]},
    ],
)
def test_a_failure_is_one_at_the_end(measured, tmp_path, outcome):
    names, outcomes = measured
    outcomes["predict"] = outcome
    assert run(tmp_path / "card") == 1
    assert names == list(SECTIONS) and record(tmp_path / "card")["holds"] is False
    # What failed is tried again; what came out wrong is a result.
    del outcomes["predict"]
    assert run(tmp_path / "card") == (0 if "state" in outcome else 1)
    assert names[len(SECTIONS) :] == (["predict"] if "state" in outcome else [])


def test_what_a_killed_call_leaves_is_completed(measured, tmp_path):
    names, outcomes = measured
    outcomes["everything"] = KeyboardInterrupt()
    assert run(tmp_path / "card") == 130
    assert list(record(tmp_path / "card")["sections"]) == ["machine", "parity", "predict"]
    del outcomes["everything"]
    outcomes["predict"] = {}
    assert run(tmp_path / "card") == 0
    assert names[4:] == list(SECTIONS)[3:]


def test_sections_that_time_stopped_are_measured_again(measured, tmp_path):
    names, outcomes = measured
    outcomes["sami"] = {"state": "stopped", "error": "its 3 seconds were over"}
    assert run(tmp_path / "card") == 0  # what is missing is said on the page
    assert "sami stopped" in (tmp_path / "card" / "card.md").read_text()
    assert run(tmp_path / "card") == 0 and names[len(SECTIONS) :] == ["sami"]


def test_time_that_is_left_is_shared(monkeypatch, tmp_path):
    """By share; a section that begins late has half of its own, and all may end by twice it."""
    spent, given, clock = {"machine": 400.0}, [], [0.0]

    def measure(section, name, sizes, seconds, limit, say):
        clock[0] += spent.get(name, 0.0)
        given.append((name, seconds, limit))
        return {"state": "done", "error": None, "rows": [], "seconds": 0.0}

    monkeypatch.setattr(campaign, "measure", measure)
    monkeypatch.setattr(campaign.time, "monotonic", lambda: clock[0])
    names = ("machine", "predict", "faults")
    options = campaign.Options(
        out=tmp_path / "card", sections=names, minutes=8.0, overwrite=False, command="x"
    )
    campaign.run(SMALL, options, lambda text: None)
    total = sum(SECTIONS[name].share for name in names)
    usual = [480 * SECTIONS[name].share / total for name in names]
    assert [seconds for _, seconds, _ in given] == pytest.approx(
        [usual[0], usual[1] / 2, 80.0 if usual[2] < 160 else usual[2] / 2]
    )
    assert all(limit >= 2 * x for (_, _, limit), x in zip(given, usual, strict=True))


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--preset", "full"), "figures of other settings"),
        (("--memory-gib", "1"), "figures of other settings"),
        (("--sections", "nothing"), "--sections names 'nothing'"),
        (("--minutes", "0"), "--minutes is 0"),
        (("--memory-gib", "-1"), "--memory-gib is -1"),
    ],
)
def test_what_cannot_be_is_refused(measured, tmp_path, capsys, more, message):
    names, _ = measured
    assert run(tmp_path / "card", "--sections", "machine") == 0
    capsys.readouterr()
    assert run(tmp_path / "card", *more) == 2
    _, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and names == ["machine"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("card.json", '{"sections": {}}'),
        ("card.json", "[]"),
        ("card.json", "mine"),
        ("card.md", "mine"),
    ],
)
def test_files_of_others_are_left_alone(measured, tmp_path, capsys, name, text):
    (tmp_path / name).write_text(text)
    assert run(tmp_path) == 2 and run(tmp_path, "--overwrite") == 2
    assert [each.name for each in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == text and measured[0] == []
    assert "name another folder with --out" in capsys.readouterr().err


def test_another_card_is_refused(measured, tmp_path, capsys):
    _, outcomes = measured
    assert run(tmp_path / "card", "--sections", "machine") == 0
    outcomes["parity"] = {"device": "NVIDIA H200"}
    assert run(tmp_path / "card") == 2
    assert "figures of cpu, but this is NVIDIA H200" in capsys.readouterr().err
    assert list(record(tmp_path / "card")["sections"]) == ["machine"]


# -------------------------------------------------------------------------- within the process


def test_a_section_stops_where_it_may():
    """At the pause that comes after its time, with every row before it."""
    rows, clock = [], iter([0.0, 1.0, 3.0, 9.0])
    given = [MAY_STOP, {"a": 1}, {"a": 2}, MAY_STOP, {"a": 3}, MAY_STOP, {"a": 4}]
    ended = section_process.run(iter(given), 5.0, rows.append, lambda: next(clock))
    assert rows == [{"a": 1}, {"a": 2}, {"a": 3}] and ended["state"] == "stopped"
    ended = section_process.run(iter(given), 5.0, rows.append, lambda: 0.0)
    assert ended == {"state": "done", "error": None} and len(rows) == 7


def test_numbers_that_json_lacks_are_null():
    given = {"a": [float("nan"), 1.0, {"b": float("inf")}], "c": (True, None, "x")}
    assert section_process.plain(given) == {"a": [None, 1.0, {"b": None}], "c": [True, None, "x"]}


def test_an_error_that_the_user_can_fix_is_one_line():
    """Any other ends the process, whose last words are kept."""
    bad = dataclasses.replace(SMALL, parity=("no_such_model",))
    ended = section_process.run(SECTIONS["parity"].load()(bad), 9.0, [].append)
    assert ended["state"] == "failed"
    assert ended["error"].startswith("no model is called 'no_such_model'")


def test_a_setting_survives_json():
    for preset in PRESETS.values():
        assert setting.from_json(json.loads(json.dumps(preset.as_json()))) == preset


def test_each_section_has_its_function():
    assert all(callable(section.load()) for section in SECTIONS.values())


# --------------------------------------------------------------------------------- the driver


CARD = "NVIDIA H200, 570.1, P0, 1980 MHz, 1980 MHz, 3201 MHz, 120.5 W, 700.00 W, 35, 0 %, {}, {}"


@pytest.fixture
def smi(monkeypatch, tmp_path):
    """Makes an nvidia-smi that prints this."""

    def make(text: str, code: int = 0) -> None:
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\necho '{text}'\nexit {code}\n")
        script.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv(driver.MEMORY_FRACTION, raising=False)
    return make


def test_what_the_driver_says(smi):
    smi(CARD.format("1000 MiB", "143771 MiB"))
    found = driver.query()
    assert found is not None and found["clocks.sm"] == "1980 MHz" and found["name"] == "NVIDIA H200"
    assert driver.memory_fraction() is None  # JAX's own three quarters are free
    assert campaign.environment(SECTIONS["sami"])["CUDA_VISIBLE_DEVICES"] == "0"


def test_memory_of_other_programs_is_left_to_them(smi, monkeypatch):
    smi(CARD.format("100000 MiB", "143771 MiB"))
    fraction = driver.memory_fraction()
    assert fraction == pytest.approx(0.9 * 43771 / 143771, abs=1e-3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    found = campaign.environment(SECTIONS["sami"])
    assert found[driver.MEMORY_FRACTION] == str(fraction) and found["CUDA_VISIBLE_DEVICES"] == "3"
    monkeypatch.setenv(driver.MEMORY_FRACTION, "0.5")
    assert driver.memory_fraction() is None


@pytest.mark.parametrize(("text", "code"), [("", 0), ("No devices were found", 6), ("a, b", 0)])
def test_a_driver_that_says_nothing(smi, text, code):
    smi(text, code)
    assert driver.query() is None and driver.memory_fraction() is None
    assert "CUDA_VISIBLE_DEVICES" not in campaign.environment(SECTIONS["sami"])


def test_programs_are_compiled_each_time(monkeypatch):
    """Their compile times are figures, and graphs hide the names of kernels."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/somewhere")
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    found = campaign.environment(SECTIONS["sami"])
    assert "JAX_COMPILATION_CACHE_DIR" not in found and found["ESAM_COMPILE_CACHE"] == "off"
    assert found["XLA_FLAGS"] == "--xla_a=1 --xla_gpu_enable_command_buffer="
    assert campaign.environment(SECTIONS["predict"])["XLA_FLAGS"] == "--xla_a=1"


def test_memory_is_known_or_asked_for(monkeypatch):
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    given = dataclasses.replace(SMALL, memory_bytes=5)
    assert setting.usable_bytes(given) == 5
    assert setting.usable_bytes(SMALL) > 0  # of a CPU
    stats = {"bytes_limit": 1000, "bytes_in_use": 100}
    monkeypatch.setattr(setting.jax, "devices", lambda: [Device(stats)])
    assert setting.usable_bytes(SMALL) == 920 - 100
    monkeypatch.setattr(setting.jax, "devices", lambda: [Device(None)])
    monkeypatch.setattr(setting.jax, "default_backend", lambda: "tpu")
    with pytest.raises(ConfigError, match="--memory-gib"):
        setting.usable_bytes(SMALL)
