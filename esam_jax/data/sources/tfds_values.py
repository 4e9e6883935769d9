"""The values of one serialized record of tensorflow-datasets, a `tf.train.Example`, by key."""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from jaxtyping import Integer

from esam_jax.data import decode
from esam_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Frame:
    """The size that all annotations of the picture `name` must have."""

    name: str
    height: int
    width: int

    def require(self, height: int, width: int, what: str) -> None:
        if (height, width) != (self.height, self.width):
            raise DataError(
                f"{self.name}: {what} is {height} x {width}, but the picture is {self.height} x "
                f"{self.width}: prepare the data set again"
            )


class Values:
    """The values of a record, by key; DataError, with its name, for what it does not hold."""

    def __init__(self, data: bytes, name: str) -> None:
        from tensorflow_datasets.proto import tf_example_pb2

        self._name, messages = name, cast(Any, tf_example_pb2)  # which are made when it is imported
        try:
            self._features = messages.Example.FromString(data).features.feature
        except Exception as error:
            raise DataError(
                f"{name} is no tf.train.Example ({error}): prepare the data set again"
            ) from error

    def all(self, key: str, kind: str) -> Sequence[Any]:
        """The values of a feature: "bytes_list", "int64_list" or "float_list"."""
        found = self._features.get(key)
        if found is None or found.WhichOneof("kind") not in (kind, None):
            held = "no value" if found is None else f"a {found.WhichOneof('kind')}"
            raise DataError(f"{self._name}: {key} has {held} instead of a {kind}")
        return getattr(found, kind).value

    def one(self, key: str, kind: str) -> Any:
        found = self.all(key, kind)
        if len(found) != 1:
            raise DataError(f"{self._name}: {key} has {len(found)} values instead of one")
        return found[0]

    def has(self, key: str) -> bool:
        return key in self._features

    def own_name(self, key: str | None) -> str:
        """The name of the record, with what the data set itself calls it."""
        held = self._features.get(key) if key is not None else None
        kind = held.WhichOneof("kind") if held is not None else None
        listed = list(getattr(held, kind).value[:1]) if kind is not None else []
        found = listed[0] if listed else ""
        text = found.decode(errors="replace") if isinstance(found, bytes) else str(found)
        shown = "".join(letter if letter.isprintable() else "?" for letter in text[:100])
        return f"{self._name} ({shown})" if shown else self._name


def read_map(values: Values, key: str, frame: Frame) -> Integer[np.ndarray, "H W"]:
    """The numbers of a picture of one channel; DataError unless it has the size of the frame."""
    data = values.one(key, "bytes_list")
    with decode.named(f"{frame.name}: {key}"):
        head = decode.header(data)
        frame.require(head.height, head.width, key)
        return decode.numbers(data, head)
