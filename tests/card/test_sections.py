"""The sections themselves, at a small size on the CPU: the code that a card runs."""

import dataclasses
import json
import math

import pytest

from esam_jax import cli
from esam_jax.card import inference, updates
from esam_jax.card.setting import PRESETS
from esam_jax.machine import accelerators
from esam_jax.models import flops, named

SMALL = PRESETS["small"]


def rows(section, **changes) -> list[dict]:
    sizes = dataclasses.replace(SMALL, **{"dtypes": ("float32",), "runs": 2, **changes})
    found = [row for row in section(sizes) if row]
    json.dumps(found)
    return found


def add_up(row: dict) -> None:
    """The kernels of a program that ran, as far as the profile tells."""
    assert row["seconds"] > 0 and row["matched_share"] > 0.99
    assert row["busy_seconds"] == pytest.approx(
        sum(group["seconds"] for group in row["groups"]) + sum(row["unmatched_seconds"].values())
    )


def test_the_teacher(quick_programs):
    """As large as fits: twice the guess, where that is what memory allows."""
    views = (("native", 2, 4_000_000),)
    (row,) = rows(updates.teacher, teacher=views, memory_bytes=10**9)
    assert (row["table"], row["program"], row["size"]) == ("updates", "teacher, native", 2)
    assert row["examples_per_second"] == pytest.approx(2 / row["seconds"])
    assert 0 < row["peak_bytes"] <= row["usable_bytes"] == 10**9
    assert [each["ran"] for each in row["tried"]] == [True]
    assert row["paper_seconds"] is None and row["mfu"] is None  # a CPU has no data sheet
    add_up(row)


def test_kernels_of_the_encoder(monkeypatch):
    """Beside paper, as on a card that has a data sheet."""
    h200 = next(each for each in accelerators.ACCELERATORS if each.name == "h200")
    monkeypatch.setattr(accelerators, "of", lambda device: h200)
    sizes = dataclasses.replace(SMALL, batches=(1,), runs=2)
    row = next(row for row in inference.kernels(sizes) if row)
    assert row["program"] == "efficientsam_nano encoder" and row["dtype"] == "bfloat16"
    add_up(row)
    assert row["paper_seconds"] > row["roofline_seconds"] > 0
    assert row["paper_seconds"] == pytest.approx(sum(x["paper_seconds"] for x in row["groups"]))
    products = sum(group["flops"] for group in row["groups"] if group["kind"] == "product")
    config = named.sam("efficientsam_nano")
    assert products == pytest.approx(flops.encoder(config.encoder, 64), rel=0.1)


@pytest.mark.nightly
def test_an_update_of_each_kind():
    for section in (updates.sami, updates.fine_tune):
        (row,) = rows(section)
        assert math.isfinite(row["loss"]) and row["flops_per_example"] > 0
        add_up(row)


def test_the_command(tmp_path, capsys):
    """A section in its process, from the command line."""
    argv = ["bench", "card", "--out", str(tmp_path / "card"), "--preset", "small"]
    assert cli.main([*argv, "--sections", "machine", "--json"]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record == json.loads((tmp_path / "card" / "card.json").read_text())
    machine, *ceilings = record["sections"]["machine"]["rows"]
    assert machine["device"] == "cpu" and machine["data_sheet"] is None
    assert len(ceilings) == 5 and all(row["seconds"] > 0 for row in ceilings)
    page = (tmp_path / "card" / "card.md").read_text()
    assert "No data sheet for this device" in page and "shortest kernel in a row" in page
    assert "1 of 1: machine" in err


@pytest.mark.nightly
def test_all_of_it(tmp_path, capsys):
    """Every section of the small preset, fault checks with real runs included."""
    argv = ["bench", "card", "--out", str(tmp_path / "card"), "--preset", "small"]
    assert cli.main([*argv, "--minutes", "60", "--json"]) == 0
    sections = json.loads(capsys.readouterr().out)["sections"]
    assert {name: each["state"] for name, each in sections.items()} == dict.fromkeys(
        sections, "done"
    )
    assert all(row["holds"] for row in sections["faults"]["rows"])
    assert len(sections) == 9
