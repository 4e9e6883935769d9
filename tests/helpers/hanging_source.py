"""A source of which one record never comes, as from a disk that does not answer."""

import dataclasses
import time

from esam_jax.data.sources import Source


@dataclasses.dataclass(frozen=True)
class Hanging:
    """The records of another source, but for one."""

    source: Source
    index: int

    def __len__(self):
        return len(self.source)

    def name(self, index):
        return self.source.name(index)

    def read(self, index):
        if index == self.index:
            time.sleep(100_000)
        return self.source.read(index)
