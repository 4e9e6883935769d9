"""`esam study` from end to end: files, resumption, what it refuses."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import study_results

from esam_jax import configs
from esam_jax.cli import main
from esam_jax.config import MeshConfig
from esam_jax.errors import ConfigError, ExistsError, MissingError
from esam_jax.study import comparing, side_by_side, trials
from esam_jax.study.design import Design, Trial

DESIGN = Design(arms=("sami", "scratch"), seeds=(0, 1), budgets=(4, 8), images=3)


@pytest.fixture
def made_up(monkeypatch) -> list[Trial]:
    """Results are made up; what was run, in its order."""
    done: list[Trial] = []

    def over(waiting, design, workdir, processes):
        for trial in waiting:
            done.append(trial)
            folder = workdir / trial.folder
            folder.mkdir(parents=True, exist_ok=True)
            found = study_results.found(trial)
            (folder / trials.MEASURED_FILE).write_text(json.dumps(found))
            yield trial, found, 1.0

    monkeypatch.setattr(side_by_side, "over", over)
    return done


def files(folder: Path) -> dict[str, bytes]:
    """Everything that is written besides trials."""
    kept = (x for x in folder.rglob("*") if x.is_file() and x.name != trials.MEASURED_FILE)
    return {str(x.relative_to(folder)): x.read_bytes() for x in kept}


def test_all_files_are_written(tmp_path, made_up, capsys):
    table = comparing.run(tmp_path, DESIGN, progress=None)
    assert table == json.loads((tmp_path / "table.json").read_text())
    assert {"study.json", "table.md", "page.html", "curves/prompted_box.svg"} <= {*files(tmp_path)}
    assert made_up == DESIGN.trials()
    said = capsys.readouterr().err
    assert f"{len(made_up)}/{len(made_up)} seed 1, scratch, prompted_4: box" in said


def test_a_second_call_runs_what_is_missing_alone(tmp_path, made_up):
    comparing.run(tmp_path, DESIGN, progress=False)
    before, ran = files(tmp_path), len(made_up)
    comparing.run(tmp_path, DESIGN, progress=False)
    assert files(tmp_path) == before and len(made_up) == ran
    (tmp_path / Trial(1, "sami", "prompted", 8).folder / trials.MEASURED_FILE).unlink()
    comparing.run(tmp_path, DESIGN, progress=False)
    assert files(tmp_path) == before and made_up[ran:] == [Trial(1, "sami", "prompted", 8)]
    more = dataclasses.replace(DESIGN, seeds=(0, 1, 2), budgets=(4, 8, 16))
    comparing.run(tmp_path, more, progress=False)
    assert {*made_up[ran + 1 :]} == {*more.trials()} - {*DESIGN.trials()}


def test_results_of_other_settings_are_never_mixed(tmp_path, made_up):
    comparing.run(tmp_path, DESIGN, progress=False)
    for change in ({"pretraining_steps": 7}, {"images": 4}, {"labelled_steps": 5}):
        with pytest.raises(ConfigError, match="other settings"):
            comparing.run(tmp_path, dataclasses.replace(DESIGN, **change), progress=False)


def test_files_of_others_are_not_replaced(tmp_path, made_up):
    (tmp_path / "table.md").write_text("mine")
    with pytest.raises(ExistsError):
        comparing.run(tmp_path, DESIGN, progress=False)
    assert (tmp_path / "table.md").read_text() == "mine" and not made_up


def test_a_teacher_that_is_not_there_is_reported_first(tmp_path, made_up):
    with pytest.raises(MissingError):
        comparing.run(tmp_path, dataclasses.replace(DESIGN, teacher="no_teacher"), progress=False)
    assert not made_up and not [*tmp_path.iterdir()]


# --------------------------------------------------------------------------------- the command

COMMAND = ["study", "--preset", "first", "--images", "3"]


def test_the_command_prints_the_table(tmp_path, made_up, capsys):
    options = ["--arms", "sami", "scratch", "--seeds", "0", "1", "--budgets", "4", "8"]
    assert main([*COMMAND, *options, "--workdir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "| box, prompted steps | 4 | 8 |" in said and "page.html" in said
    assert main([*COMMAND, *options, "--workdir", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "table.json").read_text())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--arms", "simae"], "--arms names 'simae': choose among sami, mae"),
        (["--seeds", "0", "1000"], "--seeds is [0, 1000]: those from 1000 on chose the rates"),
        (["--budgets", "0"], "--budgets has 0, but must be at least 1"),
        (["--processes", "0"], "--processes is 0, but must be at least 1"),
        (["--preset", "second"], "must be one of first, quick, full, choose"),
        (["--unlabelled", "pictures"], "name pictures with masks"),
        (["--data", "scenes"], "leave it out"),
        (["--data", "absent"], "absent"),
        (["--preset", "full", "--data", "absent"], "absent"),
        (["--data", "absent", "--arms", "supervised"], "--arms names supervised, but classes"),
        (["--teacher", "absent"], "absent"),
        (["--budget", "4"], "did you mean --budgets?"),
    ],
)
def test_what_the_user_can_fix_ends_with_2(tmp_path, made_up, capsys, options, words):
    assert main([*COMMAND, *options, "--workdir", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
    assert not made_up and not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------- real trials


@pytest.fixture
def short(monkeypatch):
    """Runs of tiny batches, whose programs compile fast."""
    complete = configs.load

    def load(name: str):
        cfg = complete(name)
        return dataclasses.replace(cfg, batch=2, mesh=MeshConfig(data=1))

    monkeypatch.setattr(configs, "load", load)


def one_by_one(waiting, design, workdir, processes):
    """Trials in this process."""
    for trial in waiting:
        yield trial, trials.run(trial, design, workdir), 0.0


@pytest.mark.slow
@pytest.mark.usefixtures("quick_programs", "short")
def test_two_arms_and_two_seeds_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side, "over", one_by_one)
    design = dataclasses.replace(DESIGN, budgets=(2,), pretraining_steps=2, images=2)
    table = comparing.run(tmp_path, design, progress=False)
    assert len(table["rows"]) == 2 * 2
    for row in table["rows"]:
        assert 0 <= row["mean"] <= 1 and row["seeds"] == 2 and row["flops"] > 0
    values = {(x["arm"], x["seed"]): x.get("box_miou") for x in table["cells"] if x["number"] == 2}
    assert len(values) == 4 and len({*values.values()}) == 4  # no arm or seed is another
    assert table["references"]["box_miou"]["mean"] > 0.7
    kept = json.dumps(table)

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished trial was run again")

    again = tmp_path / Trial(1, "scratch", "prompted", 2).folder / trials.MEASURED_FILE
    again.unlink()  # as if killed between the run and its measurement: the run is not repeated
    assert json.dumps(comparing.run(tmp_path, design, progress=False)) == kept
    monkeypatch.setattr(trials, "run", fail)
    assert json.dumps(comparing.run(tmp_path, design, progress=False)) == kept
