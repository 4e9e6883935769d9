"""What becomes of a checkpoint once it is written: read back, compared by score, deleted at last.

All of it happens in one thread of process 0, behind the training.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from esam_jax.config import SaveConfig
from esam_jax.train.checkpoint import step_folders


class Keeper:
    """Verifies the steps in a folder, and deletes those that `save` does not ask to keep.

    `fault_of` reads a step and says what is wrong with it, or None. `tell` takes what a person
    should know. Processes other than 0 do nothing.
    """

    def __init__(
        self,
        save: SaveConfig,
        folder: Path,
        fault_of: Callable[[Path], str | None],
        tell: Callable[[str], None],
    ) -> None:
        self._save, self._folder = save, folder
        self._fault_of, self._tell = fault_of, tell
        self._scores = step_folders.read_scores(folder)
        self._thread = ThreadPoolExecutor(1, "keeper")

    def written(self, step: int) -> None:
        """Begins to verify a new step; older ones go only after it came back as it was written."""
        self._submit(self._verify, step)

    def score(self, step: int, values: Mapping[str, Any]) -> None:
        """Takes what the evaluation gave, which is nothing where no picture could be read."""
        best = self._save.best
        if best is not None and best in values:
            self._submit(self._note, step, {best: float(values[best])})

    def forget(self, after: int) -> None:
        """Takes back the scores of later steps, which a run that went back does anew."""
        self._submit(self._keep_scores, lambda step: step <= after)

    def wait(self) -> None:
        """Returns when nothing is left to do."""
        self._thread.submit(lambda: None).result()

    def close(self) -> None:
        """Ends the thread, after its work."""
        self._thread.shutdown()

    def _submit(self, work: Callable[..., None], *arguments: Any) -> None:
        """In the background, where an error must not be lost and must not end the training."""

        def run() -> None:
            try:
                work(*arguments)
            except Exception as fault:
                self._tell(f"checkpoints in {self._folder} are not looked after ({fault})")

        if jax.process_index() == 0:
            self._thread.submit(run)

    def _verify(self, step: int) -> None:
        fault = self._fault_of(self._folder / str(step))
        if fault is not None:
            place = step_folders.set_aside(self._folder, step, "damaged")
            self._tell(
                f"checkpoint {step} {fault} right after it was written: it is {place.name} now"
            )
            return
        step_folders.mark_verified(self._folder, step)
        self._retain()

    def _note(self, step: int, score: dict[str, float]) -> None:
        oldest = min(step_folders.steps(self._folder), default=step)
        self._scores[step] = score
        self._keep_scores(lambda step: step >= oldest)
        self._retain()

    def _keep_scores(self, which: Callable[[int], bool]) -> None:
        self._scores = {step: each for step, each in self._scores.items() if which(step)}
        step_folders.write_scores(self._folder, self._scores)

    def _retain(self) -> None:
        best = self._save.best
        scores = {step: each[best] for step, each in self._scores.items() if best in each}
        whole, good = step_folders.steps(self._folder), step_folders.verified(self._folder)
        for step in step_folders.surplus(whole, good, scores, self._save):
            step_folders.remove(self._folder, step)
