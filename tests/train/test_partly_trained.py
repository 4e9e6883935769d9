"""Runs that train a part of a model, by the real loop: what they write, and how they resume."""

import dataclasses

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax.traverse_util import flatten_dict

from esam_jax import configs
from esam_jax.cli import main
from esam_jax.config import EvaluateConfig, MeshConfig, SaveConfig, ScenesConfig
from esam_jax.convert import load
from esam_jax.data import loader
from esam_jax.models import named
from esam_jax.report import summary
from esam_jax.tasks import start
from esam_jax.train import loop
from esam_jax.train.telemetry import log

BASE, MODEL = "quickstart_teacher", "sam_nano"
STEPS = 4


class KilledError(Exception):
    """Ends a run between two updates."""


def _config(train, **optim):
    cfg = configs.load("quickstart_scratch")
    task = dataclasses.replace(
        cfg.task, model=MODEL, init_from=BASE, decoder_from=None, train=train
    )
    return dataclasses.replace(
        cfg,
        task=task,
        data=dataclasses.replace(
            cfg.data,
            source=ScenesConfig(scenes=16, scene_px=64),
            view=dataclasses.replace(cfg.data.view, masks=2, fit=named.sam(MODEL).fit),
        ),
        # Without a warm-up the first update counts.
        optim=dataclasses.replace(cfg.optim, peak_lr=1e-2, warmup_steps=0, **optim),
        evaluate=EvaluateConfig(
            source=ScenesConfig(scenes=2, scene_px=64, split="heldout"),
            images=2,
            masks_per_image=1,
            every_steps=2,
        ),
        batch=4,
        accumulate=1,
        steps=STEPS,
        mesh=MeshConfig(data=1),
        log_every_steps=1,
        save=SaveConfig(every_steps=2),
    )


def _state(folder, step):
    with ocp.StandardCheckpointer() as reader:
        tree = reader.restore((folder / "checkpoints" / str(step) / "state").absolute())
    found = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}
    return tree, found


def _flat(params):
    return flatten_dict(params, sep="/")


def _losses(folder):
    keys = ("step", "loss", "grad_norm", "param_norm", "box_miou", "point_miou")
    lines = [line for line in log.read(folder / "metrics.jsonl") if "event" not in line]
    return [[line.get(key) for key in keys] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("train", ["decoder", "lora"])
def test_a_run_trains_its_part_and_resumes_to_the_same_bits(train, tmp_path, monkeypatch, capsys):
    cfg = _config(train, weight_decay=0.3)
    one, other = tmp_path / "one", tmp_path / "other"
    loop.run(cfg, one)
    begun, *_ = capsys.readouterr().err.splitlines()

    read, count = loader.Stream.__next__, iter(range(100))

    def some(stream):
        if next(count) == 3:
            raise KilledError
        return read(stream)

    with monkeypatch.context() as patched:
        patched.setattr(loader.Stream, "__next__", some)
        with pytest.raises(KilledError):
            loop.run(cfg, other)
    loop.run(cfg, other)

    # ------------------------------------------------------------ the same, however it got there
    tree, state = _state(one, STEPS)
    _, resumed = _state(other, STEPS)
    assert state.keys() == resumed.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)
    assert _losses(one)[-1] == _losses(other)[-1]
    for file in ("model.safetensors", "config.json"):
        ours, theirs = ((folder / "model" / file).read_bytes() for folder in (one, other))
        assert ours == theirs, file

    # ------------------------------------------------------------------- what is frozen is intact
    before, after = _flat(load.model_file(BASE).params), _flat(tree["params"][MODEL])
    task = cfg.task
    moved = [path for path in before if not np.array_equal(after[path], before[path])]
    assert {path.split("/")[0] for path in moved} <= {"prompt", "decoder"}
    assert (len(moved) > 20) == (train == "decoder") and (not moved) == (train == "lora")
    moments = {name for name in state if ".nu" in name or "'nu'" in name}
    wanted = sum(start.trains(task, f"{MODEL}/{path}") for path in after)
    assert len(moments) == wanted > 0

    # ---------------------------------------------------------------------- what it says and leaves
    trained = sum(x.size for p, x in after.items() if start.trains(task, f"{MODEL}/{p}"))
    total = sum(x.size for x in after.values())
    assert f"; training {trained:,} of {total:,} parameters ({trained / total:.2%})" in begun
    (event,) = [x for x in log.read(one / "metrics.jsonl") if x.get("event") == "start"]
    assert (event["trained_parameters"], event["parameters"]) == (trained, total)
    plain = load.model_file(str(one))
    assert _flat(plain.params).keys() == before.keys()
    changed = {p for p, x in _flat(plain.params).items() if not np.array_equal(x, before[p])}
    if train == "lora":
        assert {path.rsplit("/", 2)[0].rsplit("/", 1)[-1] for path in changed} == {"attn"}
        assert {path.rsplit("/", 1)[-1] for path in changed} == {"kernel"}
    # A checkpoint is the same model, and goes to PyTorch's layout and back.
    of_step = load.model_file(f"{one}@{STEPS}")
    for path, value in _flat(of_step.params).items():
        np.testing.assert_array_equal(value, _flat(plain.params)[path], err_msg=path)
    released = tmp_path / "released.safetensors"
    assert main(["convert", str(one), str(released)]) == 0
    for path, value in _flat(load.model_file(str(released)).params).items():
        np.testing.assert_array_equal(value, _flat(plain.params)[path], err_msg=path)
    assert summary.summary(one)["restarts"] == 0
