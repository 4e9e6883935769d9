"""Which checkpoints a run keeps, as a preservation policy of Orbax's CheckpointManager.

The manager evaluates it when a save begins, and deletes what it does not preserve after that save
is committed: a save that fails costs no older checkpoint.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orbax.checkpoint import checkpoint_managers as policies

from esam_jax import files
from esam_jax.config import SaveConfig
from esam_jax.train.checkpoint import step_folders

SCORES_FILE = "scores.json"


def policy(save: SaveConfig, folder: Path) -> "Committed":
    """The newest `save.keep`, the best, and the newest at a multiple of `save.every_steps`.

    `guard.spike` goes back to the last of these when runs that were stopped have left newer ones.
    """
    kept = [
        policies.LatestN(save.keep),
        policies.EveryNSteps(save.every_steps, max_to_keep=1),
    ]
    if save.best is not None:
        kept.append(_Best(folder, save.best))
    return Committed(folder, policies.AnyPreservationPolicy(kept))


class Committed(policies.PreservationPolicy):
    """A policy that sees the committed steps alone, and the one being saved.

    Orbax lists every folder whose name is a number, also one that has lost its commit marker.
    """

    def __init__(self, folder: Path, inner: policies.AnyPreservationPolicy) -> None:
        self._folder, self._inner = folder, inner

    def should_preserve(
        self, checkpoints: Any, *, context: policies.PreservationContext
    ) -> list[bool]:
        committed = {*step_folders.steps(self._folder), checkpoints[-1].step}
        seen = [each for each in checkpoints if each.step in committed]
        answers = self._inner.should_preserve(seen, context=context)
        kept = {each.step for each, answer in zip(seen, answers, strict=True) if answer}
        return [each.step in kept for each in checkpoints]


class _Best(policies.PreservationPolicy):
    """The step with the highest value of a metric, the newest of equals.

    Orbax takes metrics only together with the save, but a model is measured after it is saved; so
    they are kept in a file of their own.
    """

    def __init__(self, folder: Path, metric: str) -> None:
        self._folder, self._metric = folder, metric

    def should_preserve(
        self, checkpoints: Any, *, context: policies.PreservationContext
    ) -> list[bool]:
        steps = [each.step for each in checkpoints]
        highest = best(self._folder, self._metric, steps)
        return [step == highest for step in steps]


def best(folder: Path, metric: str, steps: Sequence[int]) -> int | None:
    """Of these steps, the one with the highest value of a metric, the newest of equals."""
    scores = {step: each[metric] for step, each in read_scores(folder).items() if metric in each}
    scored = [step for step in steps if step in scores]
    return max(scored, key=lambda step: (scores[step], step), default=None)


def note_score(folder: Path, step: int, metric: str, value: float) -> None:
    """Records what the evaluation measured after `step` updates."""
    _write(folder, {**read_scores(folder), step: {metric: value}})


def forget_scores(folder: Path, after: int) -> None:
    """Drops the scores of later steps, which a run that went back repeats."""
    scores = read_scores(folder)
    if any(step > after for step in scores):
        _write(folder, {step: each for step, each in scores.items() if step <= after})


def read_scores(folder: Path) -> dict[int, dict[str, float]]:
    """The recorded measurements by step; {} where there are none."""
    try:
        found = json.loads((folder / SCORES_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return {int(step): values for step, values in found.items()}


def _write(folder: Path, scores: Mapping[int, Mapping[str, float]]) -> None:
    files.write(folder / SCORES_FILE, json.dumps(scores, indent=2) + "\n")
