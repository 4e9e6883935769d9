"""Whether stored features are those that a run would compute: one header, written and compared."""

import functools
from pathlib import Path

from esam_jax.config import FramedConfig, RunConfig, json
from esam_jax.convert import digest
from esam_jax.data import stored_features
from esam_jax.data.stored_features import Header
from esam_jax.errors import ConfigError
from esam_jax.tasks.task import Frozen
from esam_jax.typing import Params


def header(
    cfg: RunConfig, part: Frozen, params: Params, shape: tuple[int, int, int], dtype: str
) -> Header:
    """Of the features that a frozen network of this run has of its pictures, with these weights."""
    teacher = functools.reduce(getattr, part.key.split("."), cfg)
    fields = json.to_json(teacher)
    view = cfg.data.view
    assert isinstance(view, FramedConfig)
    return Header(
        teacher={name: x for name, x in fields.items() if not json.may_differ(type(teacher), name)},
        weights=digest.of(params),
        view={"image_px": view.image_px, "fit": view.fit},
        shape=shape,
        dtype="bfloat16" if dtype == "bfloat16" else "float16",
    )


def require(folder: str | Path, wanted: Header, *, weights: bool = True) -> None:
    """ConfigError where the folder holds features of another teacher, size or view.

    In which of the two types they are stored does not matter. Without `weights` these are not
    compared: a run that resumes may not have them any more.
    """
    ignored = ("dtype",) if weights else ("dtype", "weights")
    found = stored_features.header(folder)
    if fault := found.differences(wanted, but=ignored):
        raise ConfigError(
            f"data.view.features {folder} holds features of something else: {fault}; write those "
            "of this run with `esam features`, or change the run"
        )
