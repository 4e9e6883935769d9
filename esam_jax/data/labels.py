"""Annotations of a record beside its masks."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Label:
    """The class of a picture: its name, and its index among the classes of its source."""

    index: int
    name: str
