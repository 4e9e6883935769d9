"""A profiler trace of chosen updates, for xprof or Perfetto, in `<workdir>/profile`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import jax

from esam_jax.config import ProfileConfig

FOLDER = "profile"


class Tracer:
    """Records updates `first_step` to `first_step + steps - 1`; a context manager around a loop."""

    def __init__(self, config: ProfileConfig, workdir: Path) -> None:
        first = config.first_step
        self._steps = range(0) if first is None else range(first, first + config.steps)
        self._folder, self._running = workdir / FOLDER, False

    def __enter__(self) -> "Tracer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stop()

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around waiting for the batch of update `number` and dispatching it."""
        if number not in self._steps:
            yield
            return
        if not self._running:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def after(self, number: int, metrics: object) -> None:
        """Ends the trace after the last of the updates; waits for it."""
        if self._running and number >= self._steps[-1]:
            jax.block_until_ready(metrics)
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
