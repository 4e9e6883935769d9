"""The sections of `esam bench card`, in their order, and the share of the time that each has."""

import dataclasses
import importlib
from collections.abc import Callable, Iterator

from esam_jax.card.setting import Row, Setting

Measure = Callable[[Setting], Iterator[Row]]

# Kernels that a graph holds have no name of their own in a profile.
_NO_GRAPHS = "--xla_gpu_enable_command_buffer="


@dataclasses.dataclass(frozen=True)
class Section:
    """A section yields rows, the most important first, and `MAY_STOP` where time may end it.

    `where` is "module:function" of this folder: what a section imports is loaded with it, in its
    own process. `flags` are added to XLA's.
    """

    title: str
    where: str
    share: float
    flags: str = ""

    def load(self) -> Measure:
        module, _, function = self.where.partition(":")
        return getattr(importlib.import_module(f"esam_jax.card.{module}"), function)


SECTIONS = {
    "machine": Section("Machine, and what it reaches", "ceilings:measure", 0.5),
    "parity": Section("The same numbers as the originals", "agreement:measure", 1.5),
    "predict": Section("Encoder, decoder, both together", "inference:measure", 2.0),
    "everything": Section("Segment everything", "inference:measure_everything", 0.7),
    "teacher": Section("SAMI's teacher", "updates:teacher", 1.3, _NO_GRAPHS),
    "sami": Section("One update of SAMI", "updates:sami", 1.8, _NO_GRAPHS),
    "fine-tune": Section("One update of fine-tuning", "updates:fine_tune", 1.5, _NO_GRAPHS),
    "kernels": Section("Kernels of inference", "inference:kernels", 0.8, _NO_GRAPHS),
    "faults": Section("Faults", "recovery:measure", 2.0),
}
