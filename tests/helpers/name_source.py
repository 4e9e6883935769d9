"""A source of names alone: what reads a record of it has read too much."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Names:
    names: tuple[str, ...]

    def __len__(self):
        return len(self.names)

    def name(self, index):
        return self.names[index]

    def read(self, index):
        raise AssertionError("records are chosen by names alone")
