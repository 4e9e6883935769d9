"""Runs with averaged weights, by the real loop: what they measure, write, resume and go back to."""

import dataclasses
import functools
from typing import Any, ClassVar

import flax.struct
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from helpers import toy

from esam_jax import sharding
from esam_jax.config import (
    DataConfig,
    EvaluateConfig,
    GuardConfig,
    MeshConfig,
    OptimConfig,
    PromptedConfig,
    SaveConfig,
    ScenesConfig,
    SegmentConfig,
)
from esam_jax.convert import load
from esam_jax.errors import CheckpointError
from esam_jax.models import named
from esam_jax.tasks.task import TrainedModel
from esam_jax.train import loop
from esam_jax.train.checkpoint import checksums, manager, step_folders
from esam_jax.train.checkpoint.manager import Checkpoints
from esam_jax.train.telemetry import log

DECAY, STEPS = 0.75, 6
VALUES = (0.1, 0.5, 0.2, 0.3)  # of the evaluations of one start
NANO = named.sam("efficientsam_nano")
OPTIM = OptimConfig(peak_lr=1e-2, warmup_steps=2)


class KilledError(Exception):
    """Ends a run between two updates."""


def config(ema=DECAY, **changes):
    scenes = ScenesConfig(split="heldout")
    defaults: dict[str, Any] = {
        "task": SegmentConfig(model="efficientsam_nano"),
        "data": DataConfig(source=scenes, view=PromptedConfig(image_px=64)),
        "evaluate": EvaluateConfig(source=scenes, every_steps=2),
        "save": SaveConfig(every_steps=2, keep=9),
        "optim": dataclasses.replace(OPTIM, ema=ema),
        "steps": STEPS,
    }
    return toy.config(**(defaults | changes))


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Trains the toy in a folder of that name; what it measured, by step, and what it wrote."""

    def start(folder, cfg, *, edit=None, die_at=None, **more):
        measured: list[Any] = []
        written: dict[str, Any] = {}

        def measurement(evaluate, mesh):
            def measure(params, frozen):
                measured.append(jax.device_get(params))
                return {"box_miou": VALUES[len(measured) - 1]}

            return measure

        class Stream(toy.Stream):
            def __next__(self):
                if self._step == die_at:
                    raise KilledError
                return super().__next__()

        def keep(folder, model, params, *, source, **more):
            written.update(params=params, source=source)

        task = dataclasses.replace(
            toy.task(noise=0.1),
            measurement=measurement,
            models=lambda params, start: {"toy": TrainedModel(NANO, params)},
        )
        monkeypatch.setattr(loop.model_folder, "write", keep)
        monkeypatch.setattr("esam_jax.tasks.build", lambda cfg: task)
        monkeypatch.setattr(loop.loader, "stream", functools.partial(Stream, edit=edit))
        loop.run(cfg, tmp_path / folder, progress=False, **more)
        return measured, written

    return start


def kernel(params):
    return params["toy"]["encoder"]["block_01"]["mlp"]["out"]["kernel"]


def state_of(folder, step, cfg):
    template = toy.abstract(toy.task(), cfg, sharding.make_mesh(cfg.mesh))
    return jax.device_get(manager.load(folder, step, template))


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_averages_are_measured_and_written(run, tmp_path):
    """And kept in every checkpoint: of the saved parameters, by hand."""
    cfg = config(save=SaveConfig(every_steps=1, keep=9))
    measured, written = run("run", cfg)
    states = [state_of(tmp_path / "run", step, cfg) for step in range(1, STEPS + 1)]
    first = states[0]  # whose rate is 0: nothing has moved yet
    wanted = kernel(first.params)
    for state in states:
        wanted = DECAY * wanted + (1 - DECAY) * kernel(state.params)
        np.testing.assert_allclose(kernel(state.averages), wanted, rtol=1e-5, atol=1e-7)
    assert len(measured) == 3
    for params, state in zip(measured, states[1::2], strict=True):
        assert_same(params, state.averages)  # everything is trained
        assert np.any(kernel(params) != kernel(state.params))
    assert_same(written["params"], states[-1].averages)
    assert written["source"] == "esam_jax training run 'toy', 6 steps, averaged weights"


def test_the_best_by_the_averages_is_written(run):
    measured, written = run("run", config(save=SaveConfig(every_steps=2, best="box_miou")))
    assert_same(written["params"], measured[1])
    assert written["source"].endswith("2 steps, averaged weights")


@pytest.mark.parametrize("devices", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_killed_run_resumes_to_the_same_averages(run, tmp_path, devices):
    """To the bit; on four devices to rounding."""
    cfg = config()
    measured, written = run("one", cfg)
    with pytest.raises(KilledError):
        run("other", cfg, die_at=5)
    assert manager.newest(tmp_path / "other") == 4
    resumed = dataclasses.replace(
        cfg, mesh=MeshConfig(data=devices // 2 or 1, fsdp=min(devices, 2))
    )
    later, again = run("other", resumed)
    assert len(later) == 1
    if devices == 1:
        assert_same((later[-1], again["params"]), (measured[-1], written["params"]))
        one, other = (state_of(tmp_path / name, STEPS, cfg) for name in ("one", "other"))
        assert checksums.on_host(one) == checksums.on_host(other)
    else:
        close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
        jax.tree.map(close, again["params"], written["params"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortMemory(GuardConfig):
    """A mean of losses that is known after few updates."""

    spike_horizon_steps: ClassVar[int] = 4


@pytest.mark.slow
def test_a_rollback_goes_back_to_the_averages_of_its_step(run, tmp_path):
    """As a run that was never shown the batches which the rollback leaves out."""
    cfg = config(guard=ShortMemory(spike=4.0), steps=10, evaluate=None)

    def spoil(number, batch):
        if number == 7:
            batch["y"] *= 30.0

    def left_out(number, batch):
        batch.update(toy.batch_of(0, number if number < 6 else number + 2, len(batch["x"])))

    _, spoilt = run("spoilt", cfg, edit=spoil)
    lines = log.read(tmp_path / "spoilt" / "metrics.jsonl")
    assert [(x["from"], x["to"]) for x in lines if x.get("event") == "rollback"] == [(8, 6)]
    _, plain = run("plain", cfg, edit=left_out)
    assert_same(spoilt["params"], plain["params"])
    one, other = (state_of(tmp_path / name, 10, cfg) for name in ("spoilt", "plain"))
    assert_same(one.averages, other.averages)
    assert np.any(kernel(one.averages) != kernel(one.params))


@pytest.mark.slow
def test_turned_on_in_a_run_they_begin_at_its_parameters_and_turned_off_they_are_gone(
    run, tmp_path
):
    """Neither without `--resume-with`."""
    save = SaveConfig(every_steps=1, keep=9)
    off, on, folder = config(None), config(steps=8, save=save), tmp_path / "run"
    run("run", off)
    said = r"optim\.ema was null, is 0\.75.*give --optim\.ema None --steps 6"
    with pytest.raises(CheckpointError, match=said):
        run("run", on)
    names = ("steps", "optim.ema")
    _, written = run("run", on, resume_with=names)
    before, seventh, last = (state_of(folder, step, on) for step in (6, 7, 8))
    assert before.averages is None
    wanted = DECAY * kernel(before.params) + (1 - DECAY) * kernel(seventh.params)
    np.testing.assert_allclose(kernel(seventh.averages), wanted, rtol=1e-5, atol=1e-7)
    assert_same(written["params"], last.averages)

    # Another decay keeps them; turned off, the checkpoints since hold none.
    _, written = run("run", config(0.5, steps=10), resume_with=names)
    assert_same(written["params"], state_of(folder, 10, on).averages)
    _, written = run("run", config(None, steps=12), resume_with=names)
    last = state_of(folder, 12, on)
    assert last.averages is None and "averaged" not in written["source"]
    assert_same(written["params"], last.params)


@pytest.mark.parametrize("ema", [DECAY, None])
def test_a_checkpoint_is_read_averaged_unless_the_raw_weights_are_named(run, tmp_path, ema):
    cfg = config(ema)
    run("run", cfg)
    state, place = state_of(tmp_path / "run", 4, cfg), f"{tmp_path / 'run'}@4"
    raw = load.model_file(place, weights="raw")
    assert_same(raw.params, state.params)
    assert raw.source == "esam_jax training run 'toy', step 4 of 6"
    if ema is None:
        with pytest.raises(CheckpointError, match="holds raw weights alone: leave out --weights"):
            load.model_file(place, weights="ema")
        assert_same(load.model_file(place).params, state.params)
    else:
        for weights in ("ema", None):
            averaged = load.model_file(place, weights=weights)
            assert_same(averaged.params, state.averages)
            assert averaged.source == f"{raw.source}, averaged weights"


def test_checkpoints_of_before_there_were_averages_are_read(tmp_path):
    @flax.struct.dataclass
    class OldState:
        step: Any
        params: Any
        opt_state: Any
        batches: Any
        guard: Any

    cfg = config(None)
    mesh = sharding.make_mesh(cfg.mesh)
    state = toy.create(toy.task(), cfg, mesh)
    names = [field.name for field in dataclasses.fields(OldState)]
    old = OldState(**{name: getattr(state, name) for name in names})
    folder = tmp_path / step_folders.CHECKPOINTS_FOLDER
    with ocp.CheckpointManager(folder) as orbax:
        item = ocp.args.JsonSave({"format": "position hash", "arrays": checksums.of(old)})
        orbax.save(4, args=ocp.args.Composite(state=ocp.args.PyTreeSave(old), checksums=item))
    template = toy.abstract(toy.task(), cfg, mesh)
    with Checkpoints(SaveConfig(), tmp_path, template) as checkpoints:
        found = checkpoints.restore(template)
    assert found.averages is None
    assert checksums.of(found) == checksums.of(state)
    # And what is written today without averages is what those releases read.
    with Checkpoints(SaveConfig(), tmp_path / "new", template) as checkpoints:
        checkpoints.save(4, state)
    there = ocp.PyTreeCheckpointHandler().metadata(
        epath.Path(tmp_path / "new" / "checkpoints" / "4" / "state")
    )
    assert set(there.tree) == set(names)
