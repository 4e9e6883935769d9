"""The first updates of every task on real data, held to recorded numbers.

A constant that changes (a weight of a loss, a rate, the noise of a box) is a reviewed difference in
`losses.json`: `pytest tests/golden --rewrite-golden` writes it again.
"""

import dataclasses
import json
import pathlib
import typing

import pytest
from helpers import made_sets

from esam_jax import configs
from esam_jax.config import AlignConfig, GuardConfig, MeshConfig, SaveConfig, TaskConfig
from esam_jax.data import loader
from esam_jax.train import loop
from esam_jax.train.telemetry import log

# Cases of one network share its initialisation.
pytestmark = pytest.mark.usefixtures("quick_programs")

FILE = pathlib.Path(__file__).with_name("losses.json")
UPDATES = 3  # the first has a rate of zero, so that the third is the first to see the rate
KEYS = ("loss", "grad_norm", "param_norm", "update_ratio", "learning_rate")


class EnoughError(Exception):
    """Ends a run whose schedule is longer."""


def _labelled(cfg, folder):
    """The run, on drawn pictures of two classes where it reads those of its user."""
    source = cfg.data.source
    if getattr(source, "path", "") is not None:
        return cfg
    pictures = made_sets.image_folder(folder, 12)
    source = dataclasses.replace(source, path=str(pictures))
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, source=source))


def _config(name, **task):
    """A shipped run with few pictures an update, and no file that another run has to write."""
    cfg = configs.load(name)
    return dataclasses.replace(
        cfg,
        task=dataclasses.replace(cfg.task, **task),
        batch=4,
        accumulate=1,
        mesh=MeshConfig(data=1),
        evaluate=None,
        save=SaveConfig(),
        guard=GuardConfig(),
        log_every_steps=1,
    )


# A trained MAE is what another run has to write.
_ALIGN = AlignConfig(model="mae_nano", weights="random")

CASES = {
    "sami_mse": lambda: _config("quickstart_sami", loss="mse"),
    "sami_cosine": lambda: _config("quickstart_sami", loss="cosine"),
    "quickstart_mae": lambda: _config("quickstart_mae"),
    "quickstart_dmae": lambda: _config("quickstart_dmae", align=_ALIGN),
    "segment_low_res": lambda: _config("quickstart_scratch", loss_at="low_res"),
    "segment_image": lambda: _config("quickstart_scratch", loss_at="image"),
    "quickstart_teacher": lambda: _config("quickstart_teacher"),
    "quickstart_distill": lambda: _config("quickstart_distill"),
    "classify_nano": lambda: _config("classify_nano", drop_path=0.2),
}


def _first_updates(cfg, folder, monkeypatch):
    read, batches = loader.Stream.__next__, iter(range(UPDATES + 1))

    def some(stream):
        if next(batches, None) is None:
            raise EnoughError
        return read(stream)

    monkeypatch.setattr(loader.Stream, "__next__", some)
    with pytest.raises(EnoughError):
        loop.run(cfg, folder)
    lines = [line for line in log.read(folder / log.METRICS_FILE) if "loss" in line]
    return {key: [line[key] for line in lines[:UPDATES]] for key in KEYS}


def test_shipped_runs_are_among_the_cases():
    """The quickstart's two fine-tuning runs differ by what they start from; both are a case."""
    for name, case in (("sami", "sami_mse"), ("scratch", "segment_image")):
        assert _config(f"quickstart_{name}") == CASES[case]()
    scratch = configs.load("quickstart_scratch")
    assert dataclasses.replace(scratch, name="quickstart_segment") == configs.load(
        "quickstart_segment"
    )


def test_every_task_has_a_case():
    kinds = {each.kind for each in typing.get_args(TaskConfig)}
    assert {case().task.kind for case in CASES.values()} == kinds


# Each differs from a case beside it by its loss alone, which tests/tasks and tests/ops hold.
NIGHTLY = ("sami_cosine", "segment_low_res", "quickstart_dmae")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[pytest.mark.nightly] if x in NIGHTLY else []) for x in CASES],
)
def test_the_first_updates(name, tmp_path, monkeypatch, request):
    cfg = _labelled(CASES[name](), tmp_path / "pictures")
    found = _first_updates(cfg, tmp_path / "run", monkeypatch)
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    if request.config.getoption("--rewrite-golden"):
        FILE.write_text(json.dumps(known | {name: found}, indent=2) + "\n")
        return
    for key, values in found.items():
        # Another processor adds up in another order; a changed constant moves far more.
        assert values == pytest.approx(known[name][key], rel=2e-5), key
