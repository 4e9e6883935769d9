"""Annotating and training in turn: does a model that annotates for itself get better?

Round 0 trains on the few labelled pictures alone. In each further round the model of the round
before annotates all unlabelled pictures with its most stable masks, and a model is trained
from the same start, for as many updates, on the labelled pictures and these. So rounds differ by
their data alone, and what quality rises by is what the annotations are worth.

engine.json          the settings, which a second call must share
data/                the pictures and masks (`pool.py`), and round_N.json: what round N trains on
round_N/masks/       what the model of the round before annotated, in the layout of SA-1B
round_N/run/         the run
round_N/measured.json
result.json, quality.svg, sheet.png

Every stage writes what it makes complete or not at all, or resumes inside (annotating by picture,
training by checkpoint), so the same command resumes after a kill, to the same numbers.
"""

import dataclasses
import json
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from esam_jax import files
from esam_jax.config import CocoConfig, RunConfig, ScenesConfig
from esam_jax.config import json as config_json
from esam_jax.data import archives, sources
from esam_jax.engine import automatic_masks, pool
from esam_jax.errors import ConfigError, DataError
from esam_jax.evaluate import numbers, runner
from esam_jax.evaluate.protocol import Protocol
from esam_jax.predict import draw, load
from esam_jax.predict.everything import album
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.sam import Sam
from esam_jax.report import charts
from esam_jax.report.charts import Series
from esam_jax.tasks import own_data
from esam_jax.train import loop
from esam_jax.train.telemetry import log
from esam_jax.words import counted

SETTINGS_FILE, RESULT_FILE = "engine.json", "result.json"
CHART_FILE, SHEET_FILE = "quality.svg", "sheet.png"
_MEASURED, _DATA = "measured.json", "data"
_RESULTS = (RESULT_FILE, CHART_FILE, SHEET_FILE, f"{_DATA}/*", "round_*")
_SHOWN = 5  # pictures of the sheet
_ROOM = "make room, then run the same command"
CURVES = {"box_miou": "box", "point_miou": "one point", "AR@10": "AR@10"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a loop does. ConfigError for numbers that mean nothing.

    `labelled`, `heldout`: pictures with masks to begin with, and to measure on; at most
    `unlabelled` others are annotated. Of all masks that pass the thresholds of the mask generator,
    the most stable ones are annotations: `masks_per_picture` on average, and `more_masks` in each
    further round. A threshold of predicted IoU would not do: of a model
    that was trained on few pictures it says nothing about others (docs/zero_shot.md has figures).
    """

    rounds: int = 3
    labelled: int = 24
    unlabelled: int = 240
    heldout: int = 150
    seed: int = 0
    masks_per_picture: float = 2.0
    more_masks: float = 1.0
    points_per_side: int = 8
    pred_iou_thresh: float = 0.5
    stability_score_thresh: float = 0.75

    def __post_init__(self) -> None:
        if not self.masks_per_picture > 0:
            raise ConfigError(f"masks_per_picture is {self.masks_per_picture}, but must be above 0")
        for name in ("rounds", "labelled", "unlabelled", "heldout", "points_per_side"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if not self.more_masks >= 0:
            raise ConfigError(f"more_masks is {self.more_masks}, but must be 0 or more")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}, but must be 0 or more")

    def budget(self, number: int) -> float:
        """Annotations of a picture in that round, from 1, on average."""
        return self.masks_per_picture + self.more_masks * (number - 1)

    def generator(self, sam: Sam) -> AutomaticMaskGenerator:
        """Of the masks that may become annotations."""
        return AutomaticMaskGenerator(
            sam,
            points_per_side=self.points_per_side,
            pred_iou_thresh=self.pred_iou_thresh,
            stability_score_thresh=self.stability_score_thresh,
            output_mode="coco_rle",
        )


def run(
    config: RunConfig,
    workdir: Path,
    plan: Plan,
    *,
    data: str | None = None,
    given: Collection[str] = (),
    progress: bool | None = None,
) -> dict[str, Any]:
    """Alternates, measures, draws; returns what it writes to `workdir/result.json`.

    `config` trains each round; its data, seed and measurement are those of the loop. `data` names
    pictures with masks; without it procedural scenes are drawn. `given` are the values of a config
    for one's own data that rules do not change (`tasks/own_data.py`). Keys of the result: `rounds`,
    one entry for each with `round`, `pictures` and `masks` that it was trained on, `box_miou`,
    `point_miou`, `AR@10`, and `annotated`: how good its automatic masks were; `rises`: whether the
    last round is better than round 0 in both mIoU; `plan`, `data`.
    ConfigError for a config of another task, DataError for too few pictures.
    """
    if not {"box_miou", "point_miou"} <= {*config.task.measures}:
        raise ConfigError(
            f"{config.name} is a config of the task {config.task.kind!r}, but masks are annotated "
            "by a model that segments: name another, such as quickstart_scratch"
        )
    settings = {"plan": dataclasses.asdict(plan), "data": data or "scenes"}
    settings["config"] = config_json.to_json(config)
    parts = None if (workdir / _DATA).is_dir() else _parts(config, plan, data)
    album.settle(workdir, json.loads(json.dumps(settings)), SETTINGS_FILE, _RESULTS)
    if parts is not None:
        log.say("writing the pictures", progress)
        pool.write(workdir / _DATA, parts, plan.unlabelled)
    work = _Loop(config, workdir, plan, frozenset(given), progress)
    rounds: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    for number in range(plan.rounds + 1):
        rounds.append(work.round(number))
        result = {"rounds": rounds, "rises": rises(rounds), **settings}
        _keep(workdir, result)
        log.say(table(result).splitlines()[-1], progress)
    if not (workdir / SHEET_FILE).exists():
        files.write(workdir / SHEET_FILE, draw.png(work.sheet()), remedy=_ROOM)
    return result


def _parts(config: RunConfig, plan: Plan, data: str | None) -> dict[str, Any]:
    counts = {"labelled": plan.labelled, "heldout": plan.heldout}
    if data is not None:
        source = sources.open_source(sources.detect(data), "data.", frozenset({"masks"}))
        return pool.split(source, counts, plan.seed)
    side = config.data.source.scene_px if isinstance(config.data.source, ScenesConfig) else 64
    # Other seeds have other scenes: the first ones of each are the labelled ones.
    first = plan.seed * 100_000
    every = first + plan.labelled + plan.unlabelled
    train = sources.open_source(ScenesConfig(split="train", scenes=every, scene_px=side))
    held = ScenesConfig(split="heldout", scenes=first + plan.heldout, scene_px=side)
    return {
        "labelled": (train, range(first, first + plan.labelled)),
        "unlabelled": (train, range(first + plan.labelled, every)),
        "heldout": (sources.open_source(held), range(first, first + plan.heldout)),
    }


@dataclasses.dataclass(frozen=True)
class _Loop:
    """One loop in its folder."""

    config: RunConfig
    workdir: Path
    plan: Plan
    given: frozenset[str]
    progress: bool | None

    def round(self, number: int) -> dict[str, Any]:
        """What was measured after a round, which is done first as far as it is not yet."""
        folder = self.workdir / f"round_{number}"
        measured = folder / _MEASURED
        if measured.exists():
            return json.loads(measured.read_text())
        begin = time.monotonic()
        listed = self._annotated(number) if number else self.workdir / _DATA / "labelled.json"
        content = json.loads(listed.read_text())
        counts = {"pictures": len(content["images"]), "masks": len(content["annotations"])}
        log.say(f"round {number}: training on {counted(counts['masks'], 'mask')}", self.progress)
        loop.run(self._config(listed, folder / "run"), folder / "run", progress=self.progress)
        found = {
            "round": number,
            **counts,
            "annotated": content.get("info"),
            **self._measured(folder),
        }
        found["seconds"] = round(time.monotonic() - begin, 1)
        files.write(measured, json.dumps(found, indent=1) + "\n", remedy=_ROOM)
        return found

    def _config(self, listed: Path, run: Path) -> RunConfig:
        """The config of a round, the same for all but for what is read."""
        config = dataclasses.replace(
            self.config,
            data=dataclasses.replace(self.config.data, source=CocoConfig(path=str(listed))),
            seed=self.plan.seed,
        )
        if config.defaults == "own_data":
            from esam_jax.runs import config_file
            from esam_jax.train.checkpoint import manager

            before = config_file.stored(run) if manager.newest(run) > 0 else None
            return own_data.fitted(config, {*self.given, "data.source.path"}, before)
        return dataclasses.replace(config, evaluate=None)

    def _annotated(self, number: int) -> Path:
        """The json of the labelled pictures and those that the model before annotated."""
        data, folder = self.workdir / _DATA, self.workdir / f"round_{number}" / "masks"
        listed = data / f"round_{number}.json"
        if listed.exists():
            return listed
        sam = load(self.workdir / f"round_{number - 1}" / "run")
        generator, pictures = self.plan.generator(sam), archives.open_album(data / "unlabelled")
        about = {"plan": dataclasses.asdict(self.plan), "model": album.digest(sam)}
        album.settle(folder, about)
        names = album.waiting(pictures, folder)
        log.say(f"round {number}: annotating {counted(len(names), 'picture')}", self.progress)
        for name, outcome in album.run(generator, pictures, names, folder):
            if isinstance(outcome, str):
                raise DataError(f"{data / 'unlabelled' / name}: {outcome}; delete {data}")
        content = automatic_masks.joined(data, folder, self.plan.budget(number))
        files.write(listed, json.dumps(content), remedy=_ROOM)
        return listed

    def _measured(self, folder: Path) -> dict[str, Any]:
        """Quality on the held-out pictures: mIoU for prompts, and recall of automatic masks."""
        sam, heldout = load(folder / "run"), self.workdir / _DATA / "heldout.json"
        source = sources.open_source(CocoConfig(path=str(heldout)))
        protocol = Protocol(masks_per_image=32, seeds=(self.plan.seed,))
        found = runner.evaluate(sam, {"heldout": source}, protocol, progress=self.progress)
        found_by = AutomaticMaskGenerator(
            sam, self.plan.points_per_side, output_mode="coco_rle", **automatic_masks.UNFILTERED
        )
        return {
            "box_miou": round(numbers.miou(found["numbers"], "box"), 6),
            "point_miou": round(numbers.miou(found["numbers"], "uniform", 1), 6),
            "AR@10": automatic_masks.recall(found_by, heldout, 10),
        }

    def sheet(self) -> np.ndarray:
        """Held-out pictures with the most stable masks of the first and the last model."""
        heldout = self.workdir / _DATA / "heldout.json"
        rounds = (0, self.plan.rounds)
        models = [load(self.workdir / f"round_{number}" / "run") for number in rounds]
        titles = ["picture", "ground truth", *(f"round {number}" for number in rounds)]
        generators = [self.plan.generator(sam) for sam in models]
        return automatic_masks.sheet(
            generators, titles, heldout, _SHOWN, self.plan.masks_per_picture
        )


def rises(rounds: list[dict[str, Any]]) -> bool:
    """Whether the last round is better than the first with boxes and with points."""
    first, last = rounds[0], rounds[-1]
    return all(last[name] > first[name] for name in ("box_miou", "point_miou"))


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    head = f"{'round':<7}{'pictures':>9}{'masks':>7}{'right':>7}{'box':>8}"
    lines = [f"{head}{'one point':>11}{'AR@10':>8}"]
    for each in result["rounds"]:
        right = (each["annotated"] or {}).get("right")
        shown = "-" if right is None else f"{right:.0%}"
        counts = f"{each['round']:<7}{each['pictures']:>9}{each['masks']:>7}{shown:>7}"
        lines.append(
            f"{counts}{each['box_miou']:>8.3f}{each['point_miou']:>11.3f}{each['AR@10']:>8.3f}"
        )
    return "\n".join(lines)


def verdict(result: dict[str, Any]) -> str:
    """What the rounds gained, in one line."""
    first, last = result["rounds"][0], result["rounds"][-1]
    gains = ", ".join(f"{label} {last[name] - first[name]:+.3f}" for name, label in CURVES.items())
    head = "quality rises" if result["rises"] else "quality does not rise"
    return f"{head} from round 0 to round {last['round']}: {gains}"


def _keep(workdir: Path, result: dict[str, Any]) -> None:
    """Writes the result so far and its curves."""
    curves = [
        Series(label, [(each["round"], each[name]) for each in result["rounds"]])
        for name, label in CURVES.items()
    ]
    drawn = charts.document("quality on held-out pictures", curves, below="round")
    files.write(workdir / RESULT_FILE, json.dumps(result, indent=1) + "\n", remedy=_ROOM)
    files.write(workdir / CHART_FILE, drawn, remedy=_ROOM)
