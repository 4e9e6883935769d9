"""Progress on stderr: a bar on a terminal, a line every some seconds elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from esam_jax.words import counted

_T = TypeVar("_T")
_EVERY_SECONDS = 10.0


class Progress:
    """Follows the pictures of a command, or other units; `noun` names what is found in them."""

    def __init__(self, total: int, noun: str, unit: str = "picture") -> None:
        self._total, self._noun, self._unit, self.found = total, noun, unit, 0
        self._bar: Any = None

    def over(self, results: Iterable[_T]) -> Iterator[_T]:
        """The results, one for each unit."""
        if sys.stderr.isatty():
            self._bar = tqdm(results, total=self._total, unit=self._unit)
            for result in self._bar:
                yield result
                self._bar.set_postfix({f"{self._noun}s": self.found})
            return
        begin = last = time.monotonic()
        for done, result in enumerate(results, 1):
            yield result
            now = time.monotonic()
            if now - last >= _EVERY_SECONDS and done < self._total:
                last, rate = now, done / (now - begin)
                left = (self._total - done) / rate
                self.say(
                    f"{done} of {self._total} {self._unit}s, {counted(self.found, self._noun)}, "
                    f"{rate:.3g} {self._unit}s/s, {left / 60:.1f} minutes left"
                )

    def say(self, text: str) -> None:
        """One line, whatever is in it."""
        line = "".join(letter if letter.isprintable() else " " for letter in f"esam: {text}")
        tqdm.write(line, file=sys.stderr)
