"""A run ends where its evaluations no longer improve, and leaves the model that measured best."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import toy
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.config import (
    DataConfig,
    EvaluateConfig,
    OptimConfig,
    PromptedConfig,
    SaveConfig,
    ScenesConfig,
    SegmentConfig,
)
from esam_jax.errors import ConfigError
from esam_jax.models import named
from esam_jax.runs import early_stop
from esam_jax.tasks.task import TrainedModel
from esam_jax.train import loop
from esam_jax.train.checkpoint import manager
from esam_jax.train.telemetry import log

SCENES = ScenesConfig(split="heldout")


def config(patience=2, save_every=2, steps=12):
    return toy.config(
        task=SegmentConfig(model="efficientsam_nano"),
        data=DataConfig(source=SCENES, view=PromptedConfig(image_px=64)),
        evaluate=EvaluateConfig(source=SCENES, every_steps=2, patience=patience),
        save=SaveConfig(every_steps=save_every, best="box_miou"),
        steps=steps,
    )


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Trains the toy, whose evaluations give these values in turn; the parameters it leaves."""
    written = {}

    def keep(folder, model, params, *, source, **more):
        written.update(params=params, source=source)

    monkeypatch.setattr(loop.model_folder, "write", keep)
    monkeypatch.setattr(loop.loader, "stream", toy.Stream)

    def start(cfg, *values):
        given, nano = list(values), named.sam("efficientsam_nano")
        task = dataclasses.replace(
            toy.task(),
            measurement=lambda config, mesh: lambda params, frozen: {"box_miou": given.pop(0)},
            models=lambda params, start: {"toy": TrainedModel(nano, params)},
        )
        monkeypatch.setattr("esam_jax.tasks.build", lambda cfg: task)
        loop.run(cfg, tmp_path, progress=False)
        return written

    return start


def events(folder):
    return [
        line for line in log.read(folder / "metrics.jsonl") if line.get("event") == "early_stop"
    ]


def assert_is_of_step(written, folder, step):
    mesh = loop.sharding.make_mesh(config().mesh)
    template = toy.abstract(toy.task(), config(), mesh)
    kept = manager.load(folder, step, template).params
    jax.tree.map(np.testing.assert_array_equal, written["params"], jax.device_get(kept))
    assert f"{step} steps" in written["source"]


def test_ends_after_evaluations_that_are_no_better(run, tmp_path):
    written = run(config(), 0.05, 0.1, 0.3, 0.2, 0.25)
    assert manager.steps(tmp_path)[-1] == 8
    assert [(each["step"], each["best"]) for each in events(tmp_path)] == [(8, 4)]
    assert log.merged(tmp_path / "metrics.jsonl")["finished"]
    assert_is_of_step(written, tmp_path, 4)


def test_an_ended_run_is_finished_until_it_has_more_patience(run, tmp_path):
    run(config(), 0.05, 0.1, 0.3, 0.2, 0.25)
    run(config())  # measures nothing: there is no value to give
    assert manager.steps(tmp_path)[-1] == 8
    written = run(config(patience=3), 0.4, 0.2)
    assert manager.steps(tmp_path)[-1] == 12
    assert_is_of_step(written, tmp_path, 10)


def test_ends_between_two_saves(run, tmp_path):
    written = run(config(save_every=4), 0.1, 0.3, 0.2, 0.1)
    assert manager.steps(tmp_path) == [4, 6]  # nothing was saved after the best, at 2
    assert_is_of_step(written, tmp_path, 4)


def test_a_run_killed_before_it_could_end_only_ends(run, tmp_path, monkeypatch):
    with monkeypatch.context() as cut:

        def killed(*_):
            raise KeyboardInterrupt

        cut.setattr(loop, "_finish", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config(), 0.05, 0.1, 0.3, 0.2, 0.25)
    written = run(config())
    assert manager.steps(tmp_path)[-1] == 8
    assert_is_of_step(written, tmp_path, 4)


def test_a_run_that_improves_to_its_end_has_its_last_model(run, tmp_path):
    written = run(config(steps=6), 0.05, 0.1, 0.2, 0.3)
    assert not events(tmp_path)
    assert_is_of_step(written, tmp_path, 6)


def test_a_run_that_only_ruins_its_model_keeps_the_start(run, tmp_path):
    cfg = dataclasses.replace(config(), optim=OptimConfig(peak_lr=10.0, warmup_steps=0))
    written = run(cfg, 0.5, 0.2, 0.4)
    mesh = loop.sharding.make_mesh(cfg.mesh)
    start = toy.create(toy.task(), cfg, mesh).params
    jax.tree.map(np.testing.assert_array_equal, written["params"], jax.device_get(start))
    assert manager.steps(tmp_path) == [0, 2, 4]
    lines = log.read(tmp_path / "metrics.jsonl")
    assert [x["step"] for x in lines if "box_miou" in x] == [0, 2, 4]
    assert [(x["step"], x["best"]) for x in events(tmp_path)] == [(4, 0)]
    [told] = [x for x in lines if x.get("event") == "earlier_model"]
    assert told["best"] == 0 and "no evaluation was better than the start" in told["why"]


def test_a_resumed_run_does_not_measure_its_start_again(run, tmp_path):
    interrupted(run, config(steps=6), 0.5, 0.1)  # at step 2, measured and saved
    written = run(config(steps=6, patience=3), 0.2, 0.3)
    assert manager.steps(tmp_path) == [0, 4, 6]
    assert_is_of_step(written, tmp_path, 0)


def test_a_run_killed_before_its_first_save_begins_anew(run, tmp_path):
    interrupted(run, config(save_every=4), 0.5)
    assert manager.steps(tmp_path) == [0]
    other = dataclasses.replace(config(save_every=4), seed=7)  # another start
    written = run(other, 0.1, 0.2, 0.3, 0.2, 0.1)
    lines = log.read(tmp_path / "metrics.jsonl")
    assert [(x["step"], x["box_miou"]) for x in lines if "box_miou" in x][:2] == [
        (0, 0.1),
        (2, 0.2),
    ]
    assert_is_of_step(written, tmp_path, 4)


def interrupted(run, cfg, *values):
    """Stops the run where it measures once more than there are values."""
    with pytest.raises(IndexError):
        run(cfg, *values)


@pytest.mark.parametrize(
    ("evaluate", "save"),
    [
        (EvaluateConfig(source=SCENES, patience=2), SaveConfig(best="box_miou")),
        (EvaluateConfig(source=SCENES, patience=2, every_steps=2), SaveConfig()),
    ],
)
def test_patience_needs_evaluations_to_compare(evaluate, save):
    with pytest.raises(ConfigError, match=r"evaluate\.patience is 2.*save\.best"):
        dataclasses.replace(config(), evaluate=evaluate, save=save)


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, None]), max_size=12), st.integers(1, 4))
def test_no_better_value_lies_in_what_was_waited_for(values, patience):
    """Against every prefix: a run ends at the first whose last values do not exceed the rest."""
    measured = {2 * i: {"box_miou": value} for i, value in enumerate(values)}
    numbers = [(2 * i, value) for i, value in enumerate(values) if value is not None]

    def ends(until):
        before, waited = numbers[: until - patience], numbers[until - patience : until]
        return bool(before) and max(x for _, x in waited) <= max(x for _, x in before)

    ended = [n for n in range(patience + 1, len(numbers) + 1) if ends(n)]
    expected = numbers[ended[0] - 1][0] if ended else None
    assert early_stop.exhausted_at(measured, "box_miou", patience) == expected
