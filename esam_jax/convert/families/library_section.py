"""A library's config.json: its sections, read value by value."""

from collections.abc import Mapping
from typing import Any, NoReturn

from esam_jax.errors import CheckpointError

LARGEST = 16_384  # as in model folders: a size beyond it is refused before anything is made

Fixed = Mapping[str, tuple[Any, ...]]  # key -> what it may be


class Section:
    """One object of a config.json, read with suspicion.

    `fixed` gives, for each key of ours, the values that name what our networks compute. The first
    is the library's own default, which stands for a key that is not there. The values may be
    compared as they are: no list or object of a hostile file equals one.
    """

    def __init__(self, config: dict[str, Any], name: str, fixed: Mapping[str, Fixed]) -> None:
        self.name, self.fixed = name, fixed[name]
        self.values = {} if config.get(name) is None else config[name]
        if not isinstance(self.values, dict):
            raise CheckpointError(
                f"{name} of config.json is {shown(self.values)}, but must be a JSON object"
            )

    def get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        return default if value is None else value

    def whole(self, key: str, default: int) -> int:
        value = self.get(key, default)
        if type(value) is not int or not 0 < value <= LARGEST:
            self.refuse(key, value, f"an integer from 1 to {LARGEST}")
        return value

    def check_fixed(self) -> None:
        for key, accepted in self.fixed.items():
            value = self.get(key, accepted[0])
            if value not in accepted:
                self.refuse(key, value, " or ".join(str(x) for x in accepted))

    def refuse(self, key: str, value: Any, rule: str) -> NoReturn:
        raise CheckpointError(
            f"{self.name}.{key} of config.json is {shown(value)}, but must be {rule}"
        )


def shown(value: Any) -> str:
    """A value short enough for a message; lists and objects may nest without end."""
    return f"{value!r:.80}" if isinstance(value, str | int | float) else type(value).__name__
