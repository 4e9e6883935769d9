"""A run moves to other meshes and process counts; `restore.py` is the same with a real task."""

import dataclasses
import shutil

import layouts
import pytest
import restore
from layouts import Layout

STEPS = 3


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """(folder, what was told) of a run on two processes of two devices, after three updates."""
    folder = tmp_path_factory.mktemp("start") / "run"
    return folder, restore.leg_in_processes(folder, restore.HOME, STEPS, 2, 2, STEPS)


@pytest.fixture(scope="module")
def stayed(start, tmp_path_factory):
    """The same after nine updates on one device, for the losses and for what there is to read."""
    folder = tmp_path_factory.mktemp("stayed") / "run"
    told = restore.leg(folder, Layout(), 3 * STEPS, STEPS)
    assert told["rows"][:STEPS] == start[1]["rows"]
    cfg = layouts.config(Layout(), restore.TOTAL)
    assert told["rows"] == layouts.expected_rows(cfg, 0, 3 * STEPS)[1]
    return folder, told


@pytest.mark.slow
@pytest.mark.parametrize(
    "other", [Layout(data=2, tensor=4), Layout(fsdp=8, accumulate=2), Layout()]
)
def test_f10_two_processes_to_one(start, stayed, tmp_path, other):
    folder, told = start
    shutil.copytree(folder, tmp_path / "run")
    away = restore.leg(tmp_path / "run", other, 2 * STEPS, STEPS)
    assert away["restored"] == told["saved"] and len(told["saved"]) > 20
    assert away["rows"] == stayed[1]["rows"][STEPS : 2 * STEPS]
    assert max(restore.compare(tmp_path / "run", stayed[0], 0)) <= restore.BOUND


@pytest.mark.nightly
def test_f10_two_processes_to_four_and_back(start, stayed, tmp_path):
    folder, told = start
    shutil.copytree(folder, tmp_path / "run")
    away = restore.leg_in_processes(
        tmp_path / "run", dataclasses.replace(restore.HOME, data=1, fsdp=4), 2 * STEPS, 4, 1, STEPS
    )
    assert away["restored"] == told["saved"]
    back = restore.leg_in_processes(tmp_path / "run", restore.HOME, 3 * STEPS, 2, 2, STEPS)
    assert back["restored"] == away["saved"] != told["saved"]
    assert away["rows"] + back["rows"] == stayed[1]["rows"][STEPS:]
    assert max(restore.compare(tmp_path / "run", stayed[0], 0)) <= restore.BOUND
