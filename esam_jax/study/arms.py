"""What is compared: ways to pretrain the encoder of a promptable model, as data.

An arm is a config, the values by which it differs from it, and the arm whose model teaches it, if
one does. To add one, add a row to `ARMS`.
"""

import dataclasses
import math
from typing import Any

from esam_jax.errors import ConfigError

_RATE, _CLASSES = "optim.peak_lr", "quickstart_classify"
SAMI, SCRATCH = "sami", "scratch"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """A way to pretrain.

    `config` pretrains, with the values `changes` by their paths; None is no pretraining. The arm
    `taught_by` has the run that is its teacher, the value at `teacher_at`. `fine_tuning_lr` is the
    peak rate of everything that follows.
    """

    title: str
    config: str | None
    changes: tuple[tuple[str, Any], ...] = ()
    taught_by: str | None = None
    teacher_at: str = ""
    fine_tuning_lr: float = 2e-3
    ablation: bool = False  # of SAMI's, beside the frameworks


def _ablation(title: str, **changes: Any) -> Arm:
    """SAMI in all but a value or two of its task."""
    found = tuple((f"task.{name}", value) for name, value in changes.items())
    sami = ARMS[SAMI]
    return dataclasses.replace(sami, title=title, changes=sami.changes + found, ablation=True)


ARMS: dict[str, Arm] = {
    SAMI: Arm(title="SAMI", config="quickstart_sami"),
    "mae": Arm(title="MAE", config="quickstart_mae"),
    "dmae": Arm(
        title="DMAE",
        config="quickstart_dmae",
        taught_by="mae",
        teacher_at="task.align.weights",
    ),
    "regress": Arm(title="features", config="quickstart_regress"),
    "supervised": Arm(title="supervised", config=_CLASSES),
    SCRATCH: Arm(title="scratch", config=None),
}
ARMS |= {
    "sami_cosine": _ablation("cosine loss", loss="cosine"),
    "sami_mask_50": _ablation("mask 50 %", mask_ratio=0.5),
    "sami_mask_85": _ablation("mask 85 %", mask_ratio=0.85),
    "sami_all_tokens": _ablation("all tokens", queries="all"),
    "sami_masked_loss": _ablation("masked loss", loss_on="masked"),
    # In place of CLIP's, the features of a classifier: the supervised arm's.
    "sami_classifier": dataclasses.replace(
        _ablation("classifier", **{"teacher.model": "mae_nano"}),
        taught_by="supervised",
        teacher_at="task.teacher.weights",
    ),
}
FRAMEWORKS = tuple(name for name, arm in ARMS.items() if not arm.ablation)


def named(name: str) -> Arm:
    """The arm of a name; "sami,rate=4e-3,fine=1e-3" is SAMI with other peak rates before and in
    fine-tuning. ConfigError for what is none."""
    base, *changes = name.split(",")
    if base not in ARMS:
        raise ConfigError(f"arms names {base!r}: choose among {', '.join(ARMS)}")
    arm = ARMS[base]
    for change in changes:
        key, _, text = change.partition("=")
        rate = _rate(name, text)
        if key == "fine":
            arm = dataclasses.replace(arm, fine_tuning_lr=rate)
        elif key == "rate" and arm.config is not None:
            arm = dataclasses.replace(arm, changes=(*arm.changes, (_RATE, rate)))
        else:
            raise ConfigError(
                f"arms names {name!r}: after a comma comes fine=RATE or, of an arm that is "
                "pretrained, rate=RATE"
            )
    return dataclasses.replace(arm, title=", ".join([arm.title, *changes]))


def _rate(name: str, text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ConfigError(f"arms names {name!r}, whose rate {text!r} must be a number above 0")
    return rate


def of_classes(name: str) -> bool:
    """Whether an arm learns classes, or from an arm that does: those of procedural scenes alone."""
    return any(named(each).config == _CLASSES for each in needed((name,)))


def needed(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those arms and the ones that teach them, each after its teacher."""
    found: dict[str, None] = {}
    for name in names:
        teacher = named(name).taught_by
        found |= dict.fromkeys(needed((teacher,)) if teacher else ())
        found[name] = None
    return tuple(found)
