"""What a study trains and measures: arms, seeds, cells; and the trials that these take.

Reported seeds and those that rates were chosen with never meet, nor do their scenes.
"""

import dataclasses
import math
from typing import Literal

from esam_jax.errors import ConfigError
from esam_jax.study.arms import ARMS, FRAMEWORKS, SAMI, SCRATCH, named, needed, of_classes

Kind = Literal["reference", "pretraining", "prompted", "labelled", "classified", "probed"]
COLUMNS = frozenset({"prompted", "labelled", "classified", "probed"})  # kinds that are in the table
CHOOSING = 1000  # the first of the seeds that choose; what is reported has lower ones
SCENES = 20_000  # of one seed: no two seeds share a scene
BUDGETS = (40, 80, 160, 320, 640)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run with what is measured of it, in a folder of its own.

    `number`: of prompted steps, of labelled pictures; 0 for what has none. A "reference" is no run:
    the teacher itself is measured. Nor is one "probed": that reads what pretraining made.
    """

    seed: int
    arm: str
    kind: Kind
    number: int = 0

    @property
    def cell(self) -> str:
        """Its place in the table: "prompted_160"."""
        return f"{self.kind}_{self.number}" if self.number else self.kind

    @property
    def folder(self) -> str:
        """Below the folder of the study."""
        return f"seed_{self.seed}/{self.arm}/{self.cell}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """What is compared. ConfigError for numbers that mean nothing.

    `pretraining_steps` are SAMI's updates: every other arm gets as many as cost the same.
    `labelled`: numbers of labelled pictures, each fine-tuned on for `labelled_steps`. `classified`:
    labelled pictures on which classifiers are fine-tuned for `classified_steps`, and on whose
    features a linear layer is fitted ("probed"), None for no classification. `images` are measured.
    `data`: pictures with masks in place of scenes; `unlabelled`: what is pretrained on, in their
    place. `teacher`: a model of the size of `quickstart_teacher`.
    """

    arms: tuple[str, ...] = FRAMEWORKS
    seeds: tuple[int, ...] = (0, 1, 2)
    budgets: tuple[int, ...] = BUDGETS
    labelled: tuple[int, ...] = ()
    labelled_steps: int = 320
    classified: int | None = None
    classified_steps: int = 200
    pretraining_steps: int = 1000
    images: int = 200
    data: str | None = None
    unlabelled: str | None = None
    teacher: str = "quickstart_teacher"

    def __post_init__(self) -> None:
        for name in ("arms", "seeds"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty: name at least one")
        for name in ("arms", "seeds", "budgets", "labelled"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ConfigError(f"{name} is {list(values)}, but each counts once")
        for arm in self.arms:
            named(arm)
        if min(self.seeds) < 0:
            raise ConfigError(f"seeds is {list(self.seeds)}, but must be integers from 0")
        if len({seed < CHOOSING for seed in self.seeds}) > 1:
            raise ConfigError(
                f"seeds is {list(self.seeds)}: those from {CHOOSING} on chose the rates, and are "
                f"not reported with others: stay below {CHOOSING}"
            )
        numbers = {name: getattr(self, name) for name in _POSITIVE}
        numbers["budgets"] = min(self.budgets, default=1)
        numbers["labelled"] = min(self.labelled, default=1)
        numbers["classified"] = 1 if self.classified is None else self.classified
        for name, least in numbers.items():
            if least < 1:
                raise ConfigError(f"{name} has {least}, but must be at least 1")
        if not (self.budgets or self.labelled or self.classified):
            raise ConfigError("nothing is measured: give budgets, labelled or classified")
        if self.data is None:
            most = {"labelled": max(self.labelled, default=0), "classified": self.classified or 0}
            for name, number in {"images": self.images, **most}.items():
                if number > SCENES:
                    raise ConfigError(
                        f"{name} has {number}, but a seed has {SCENES} scenes: name fewer"
                    )
        if self.unlabelled is not None and self.data is None:
            raise ConfigError(
                f"unlabelled is {self.unlabelled!r}, but scenes are fine-tuned on: name pictures "
                "with masks as data, too"
            )
        if self.data is None:
            return
        if self.classified is not None:
            raise ConfigError("classified is of procedural scenes alone: leave it out with data")
        if wrong := [arm for arm in self.arms if of_classes(arm)]:
            raise ConfigError(
                f"arms names {', '.join(wrong)}, but classes are of procedural scenes alone: leave "
                "that out with data"
            )

    def without_classes(self) -> "Design":
        """What of it one's own pictures allow: no arm that learns classes, no classification."""
        arms = tuple(arm for arm in self.arms if not of_classes(arm))
        return dataclasses.replace(self, arms=arms, classified=None)

    def trials(self) -> list[Trial]:
        """All that must be run, in an order in which nothing comes before what it needs."""
        return [trial for seed in self.seeds for trial in self._of(seed)]

    def cells(self) -> list[Trial]:
        """Those of them that are columns of the table."""
        kept = {*self.arms}
        return [each for each in self.trials() if each.kind in COLUMNS and each.arm in kept]

    def _of(self, seed: int) -> list[Trial]:
        first = [
            Trial(seed, arm, "pretraining")
            for arm in needed(self.arms)
            if named(arm).config is not None
        ]
        if self.budgets or self.labelled:
            first.append(reference(seed))
        pictures = (self.classified,) if self.classified else ()
        numbers: dict[Kind, tuple[int, ...]] = {
            "prompted": self.budgets,
            "labelled": self.labelled,
            "classified": pictures,
            "probed": pictures,
        }
        columns: list[tuple[Kind, int]] = []
        for kind, each in numbers.items():
            for number in each:
                columns.append((kind, number))
        # Long ones first: of two processes neither waits for the other's last one.
        columns.sort(key=lambda each: -self.steps(*each))
        return first + [Trial(seed, arm, *each) for each in columns for arm in self.arms]

    def steps(self, kind: Kind, number: int) -> int:
        """Updates of a trial that follows pretraining."""
        lengths = {"labelled": self.labelled_steps, "classified": self.classified_steps}
        lengths |= {"probed": 0}
        return lengths.get(kind, number)


_POSITIVE = ("labelled_steps", "classified_steps", "pretraining_steps", "images")


def needs(trial: Trial) -> tuple[Trial, ...]:
    """The trials whose models this one starts from, or learns from."""
    if trial.kind == "reference":
        return ()
    arm = named(trial.arm)
    if trial.kind != "pretraining":
        return () if arm.config is None else (Trial(trial.seed, trial.arm, "pretraining"),)
    return () if arm.taught_by is None else (Trial(trial.seed, arm.taught_by, "pretraining"),)


def reference(seed: int) -> Trial:
    """The teacher, measured on the pictures of a seed."""
    return Trial(seed, "teacher", "reference")


def first_scene(seed: int) -> int:
    """The number of the first scene of a seed, in either split."""
    return seed * SCENES


def warmup(steps: int) -> int:
    """Three tenths of a fine-tuning run: 48 of 160."""
    return math.floor(0.3 * steps)


def _choices() -> tuple[str, ...]:
    """Every framework at half and twice its rate of pretraining, and at those of fine-tuning."""
    found = []
    for name in FRAMEWORKS:
        found.append(name)
        keys = ("fine",) if named(name).config is None else ("rate", "fine")
        found += [f"{name},{key}={rate}" for key in keys for rate in ("1e-3", "4e-3")]
    return tuple(found)


PRESETS: dict[str, Design] = {
    "first": Design(arms=(SAMI, "mae", SCRATCH), seeds=(0,)),
    "quick": Design(arms=(SAMI, "mae", "supervised", SCRATCH), budgets=(40, 160, 640)),
    "full": Design(
        arms=tuple(ARMS), seeds=(0, 1, 2), labelled=(16, 64, 256, SCENES), classified=1000
    ),
    "choose": Design(arms=_choices(), seeds=(CHOOSING, CHOOSING + 1, CHOOSING + 2), budgets=(160,)),
}
