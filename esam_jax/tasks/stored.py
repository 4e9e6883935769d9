"""Whether stored features are those that a run would compute: one header, written and compared."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from esam_jax.config import RunConfig, json
from esam_jax.convert import digest
from esam_jax.data import stored_features, views
from esam_jax.data.stored_features import DType, Header
from esam_jax.errors import ConfigError
from esam_jax.tasks.task import Frozen
from esam_jax.typing import Params

Shape = tuple[int, int, int]  # [h, w, T] of one view's features


def folder(cfg: RunConfig) -> str | None:
    """Where the features lie that a run reads; None where its teacher computes them."""
    return getattr(cfg.data.view, "features", None)


def example(cfg: RunConfig, shape: Shape) -> dict[str, Any]:
    """`Task.example`: the view, with its features where they are stored."""
    made = dict(views.shapes(cfg.data.view))
    if folder(cfg) is not None:
        made["target"] = (shape, np.dtype(np.float32))
    return made


def header(cfg: RunConfig, part: Frozen, params: Params, shape: Shape, dtype: DType) -> Header:
    """Of the features that a frozen network of this run has of its views, with these weights."""
    teacher = functools.reduce(getattr, part.key.split("."), cfg)
    return Header(
        teacher=_compared(teacher),
        weights=digest.of(params),
        view=_compared(cfg.data.view),
        shape=shape,
        dtype=dtype,
    )


def require(cfg: RunConfig, part: Frozen, shape: Shape, *, weights: bool) -> None:
    """ConfigError where the features that a run reads are of another teacher, size or view.

    In which type they are stored does not matter. Without `weights` these are not compared: a run
    that resumes may not have them any more. A run that reads none is none of its concern.
    """
    stored = folder(cfg)
    if stored is None:
        return
    wanted = header(cfg, part, part.read() if weights else {}, shape, "float16")
    ignored = ("dtype",) if weights else ("dtype", "weights")
    if fault := stored_features.header(Path(stored)).differences(wanted, but=ignored):
        raise ConfigError(
            f"data.view.features {stored} holds features of something else: {fault}; write those "
            "of this run with `esam features`, or change the run"
        )


def _compared(config: Any) -> dict[str, Any]:
    """The fields that change features, those of the view with its kind."""
    fields = json.to_json(config)
    return {name: x for name, x in fields.items() if not json.may_differ(type(config), name)}
