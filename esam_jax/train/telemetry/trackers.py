"""TensorBoard and Weights & Biases beside metrics.jsonl. A failing tracker never stops a run."""

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax

from esam_jax import files
from esam_jax.errors import ConfigError

_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
_PATIENCE = 3  # failures in a row before a tracker is dropped


class Tracker(Protocol):
    """A destination for metrics."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records the numbers of one line."""

    def close(self) -> None:
        """Flushes and closes."""


def require(names: Collection[str]) -> None:
    """ConfigError, before anything expensive, when a package of one of the trackers is missing."""
    for name in names:
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise ConfigError(
                f"trackers names {name!r}, but {_PACKAGES[name]} is not installed: "
                f'pip install "esam_jax[{name}]", or leave it out'
            )


class TensorBoard:
    """Event files in `<workdir>/tensorboard`."""

    def __init__(self, workdir: Path) -> None:
        tensorboard = importlib.import_module(_PACKAGES["tensorboard"])
        self._writer = tensorboard.SummaryWriter(str(workdir / "tensorboard"))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A Weights & Biases run, the same after each restart; WANDB_* variables apply."""

    def __init__(self, workdir: Path, config: Mapping[str, Any]) -> None:
        wandb = importlib.import_module(_PACKAGES["wandb"])
        note = workdir / "wandb_id"
        run_id = note.read_text().strip() if note.is_file() else wandb.util.generate_id()
        files.write(note, run_id + "\n")
        self._run = wandb.init(
            project="esam_jax",
            name=config["name"],
            id=run_id,
            resume="allow",
            dir=str(workdir),
            config=config,
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


_TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": lambda workdir, config: TensorBoard(workdir),
    "wandb": Wandb,
}


class Trackers:
    """The trackers of a run; each is dropped, with a warning, after three failures in a row.

    `config` is that of the run, as config.json says it.
    """

    def __init__(self, names: Collection[str], workdir: Path, config: Mapping[str, Any]) -> None:
        self._sinks: dict[str, Tracker] = {}
        # Every host computes the same numbers; one of them reports.
        names = names if jax.process_index() == 0 else ()
        self._failures: dict[str, int] = dict.fromkeys(names, 0)
        for name in names:
            try:
                self._sinks[name] = _TRACKERS[name](workdir, config)
            except Exception as error:  # each has its own errors, and those of its network
                _warn(f"tracker {name} does not start ({error!r}): the run continues without it")

    def write(self, step: int, line: Mapping[str, Any]) -> None:
        """Passes the numbers of a line to every tracker."""
        numbers = {name: value for name, value in line.items() if type(value) in (int, float)}
        for name, sink in list(self._sinks.items()):
            try:
                sink.write(step, numbers)
                self._failures[name] = 0
            except Exception as error:
                self._note(name, error)

    def close(self) -> None:
        for name, sink in self._sinks.items():
            try:
                sink.close()
            except Exception as error:
                _warn(f"tracker {name} cannot be closed ({error!r}): its last lines may be lost")

    def _note(self, name: str, error: Exception) -> None:
        self._failures[name] += 1
        if self._failures[name] < _PATIENCE:
            return
        del self._sinks[name]
        _warn(
            f"tracker {name} failed {_PATIENCE} times in a row ({error!r}): the run continues "
            "without it, and metrics.jsonl has everything"
        )


def _warn(text: str) -> None:
    warnings.warn(" ".join(text.split()), stacklevel=3)
