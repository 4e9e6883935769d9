"""One trial: an ordinary run of the train loop, then what is measured of its model.

Its folder holds the run and, last of all, `measured.json`: a trial that has one is done. One that
was killed resumes from its last checkpoint.
"""

import functools
import json
from pathlib import Path
from typing import Any

import jax

from esam_jax import configs, files
from esam_jax.config import EvaluateConfig, RunConfig, SourceConfig
from esam_jax.convert import load as load_weights
from esam_jax.convert.model_folder import ModelFile
from esam_jax.data import sources
from esam_jax.evaluate import feature_probes, numbers, runner
from esam_jax.evaluate.protocol import Protocol
from esam_jax.models import named as named_models
from esam_jax.models.sam import network as sam_network
from esam_jax.predict import load
from esam_jax.runs import metrics_file
from esam_jax.study import material
from esam_jax.study.arms import SAMI, named
from esam_jax.study.design import Design, Trial, needs, warmup
from esam_jax.tasks import operations, own_data
from esam_jax.train import loop

MEASURED_FILE = "measured.json"
MASKS = 32  # of a picture, at most
_SAVE_STEPS = 250  # between checkpoints


def finished(trial: Trial, workdir: Path) -> dict[str, Any] | None:
    """What was measured of a trial that is done, else None."""
    file = workdir / trial.folder / MEASURED_FILE
    return json.loads(file.read_text()) if file.exists() else None


def run(trial: Trial, design: Design, workdir: Path) -> dict[str, Any]:
    """Trains and measures, as far as that is not done; what it writes to measured.json.

    Keys: `steps`, `batch`, `flops` (of all updates, frozen networks included), `peak_lr`; of a
    promptable model `box_miou`, `point_miou`, `fill_box`, `masks`; of a classifier `top1`.
    """
    done = finished(trial, workdir)
    if done is not None:
        return done
    folder = workdir / trial.folder
    if trial.kind == "reference":
        folder.mkdir(parents=True, exist_ok=True)
        return _kept(folder, measure(design.teacher, trial.seed, design))
    if trial.kind == "probed":
        folder.mkdir(parents=True, exist_ok=True)
        return _kept(folder, probe(trial, design, workdir))
    cfg = config(trial, design, workdir)
    metrics = loop.run(cfg, folder, progress=False)
    found: dict[str, Any] = {
        "steps": cfg.steps,
        "batch": cfg.batch,
        "peak_lr": cfg.optim.peak_lr,
        "flops": cfg.steps * cfg.batch * _of_example(folder),
    }
    if trial.kind == "classified":
        found["top1"] = metrics["top1"]
    elif trial.kind != "pretraining":
        found |= measure(folder, trial.seed, design)
    return _kept(folder, found)


def _kept(folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    files.write(folder / MEASURED_FILE, json.dumps(found, indent=1) + "\n")
    return found


def measure(model: str | Path, seed: int, design: Design) -> dict[str, Any]:
    """Box and one-point mIoU on the held-out pictures of a seed, and that of filling the box."""
    source = sources.open_source(material.held_out(design, seed))
    protocol = Protocol(images=design.images, masks_per_image=MASKS, seeds=(seed,))
    result = runner.evaluate(load(model), {"pictures": source}, protocol, progress=False)
    return {
        "box_miou": round(numbers.miou(result["numbers"], "box"), 6),
        "point_miou": round(numbers.miou(result["numbers"], "uniform", 1), 6),
        "fill_box": round(result["fill_box"], 6),
        "masks": result["masks"],
    }


def probe(trial: Trial, design: Design, workdir: Path) -> dict[str, Any]:
    """Top-1 of a linear layer on the frozen features of what was pretrained; random ones from
    scratch."""
    before = [workdir / each.folder for each in needs(trial)]
    file = load_weights.model_file(before[0]) if before else _random(trial.seed)
    result = feature_probes.evaluate(
        file,
        material.labelled(design, trial.seed, trial.number, workdir),
        material.held_out(design, trial.seed),
        "linear",
        images=design.images * _MORE,
        seed=trial.seed,
        progress=False,
    )
    return {"steps": 0, "flops": 0, "top1": result["top1"]}


def _random(seed: int) -> ModelFile:
    """The student before any training."""
    network = named_models.sam("efficientsam_nano")
    params = jax.device_get(
        jax.jit(functools.partial(sam_network.init, network))(jax.random.key(seed))
    )
    return ModelFile(config=network, params=params, source="random")


# ------------------------------------------------------------------------------------ configs


def config(trial: Trial, design: Design, workdir: Path) -> RunConfig:
    """The run of a trial. Its seed is that of its pictures, their order and all that is drawn, so
    that the arms of a seed start alike and see the same."""
    if trial.kind == "pretraining":
        return _pretraining(trial, design, workdir)
    before = [str(workdir / each.folder) for each in needs(trial)]
    start = before[0] if before else None
    name = "quickstart_classify" if trial.kind == "classified" else "quickstart_segment"
    cfg, steps = configs.load(name), design.steps(trial.kind, trial.number)
    labelled = None if trial.kind == "prompted" else trial.number
    values = {
        **_common(steps, trial.seed, material.labelled(design, trial.seed, labelled, workdir)),
        "task.init_from": start,
        "optim.peak_lr": named(trial.arm).fine_tuning_lr,
        "optim.warmup_steps": warmup(steps),
    }
    if trial.kind == "classified":
        source = material.held_out(design, trial.seed)
        values["evaluate"] = EvaluateConfig(source=source, images=design.images * _MORE)
    else:
        values["task.decoder_from"] = design.teacher
    return own_data.replaced(cfg, values)


_MORE = 10  # times as many pictures measure a classifier, of which each has one answer


def _pretraining(trial: Trial, design: Design, workdir: Path) -> RunConfig:
    """With as many steps as cost what SAMI's cost: operations of the update, teacher included."""
    sami, cfg = _arm(SAMI, trial, design, workdir), _arm(trial.arm, trial, design, workdir)
    steps = equal_steps(sami, design.pretraining_steps, cfg)
    source = material.unlabelled(design, trial.seed)
    warmup_steps = min(cfg.optim.warmup_steps, steps // 5)
    values = {**_common(steps, trial.seed, source), "optim.warmup_steps": warmup_steps}
    return own_data.replaced(cfg, values)


def equal_steps(one: RunConfig, steps: int, other: RunConfig) -> int:
    """The updates of another run that cost the arithmetic of so many of the one."""
    return max(1, round(steps * _of_update(one) / _of_update(other)))


def _arm(name: str, trial: Trial, design: Design, workdir: Path) -> RunConfig:
    arm = named(name)
    assert arm.config is not None
    cfg = configs.load(arm.config)
    values = dict(arm.changes)
    if arm.taught_by is not None:
        values[arm.teacher_at] = str(
            workdir / Trial(trial.seed, arm.taught_by, "pretraining").folder
        )
    elif getattr(cfg.task, "teacher", None) is not None:
        values["task.teacher.weights"] = design.teacher
    return own_data.replaced(cfg, values)


def _common(steps: int, seed: int, source: SourceConfig) -> dict[str, Any]:
    return {
        "steps": steps,
        "seed": seed,
        "data.source": source,
        "save.every_steps": _SAVE_STEPS,
    }


def _of_example(folder: Path) -> int:
    """Operations of an update for one picture, as the run has counted them."""
    lines = metrics_file.read(folder / metrics_file.METRICS_FILE)
    return next(line["flops_per_example"] for line in lines if line.get("event") == "start")


@functools.cache
def _of_update(cfg: RunConfig) -> int:
    return cfg.batch * operations.per_example(cfg)
