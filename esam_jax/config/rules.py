"""How a config value is refused: the field, its value, the rule."""

from esam_jax.errors import ConfigError


def require(ok: bool, field: str, value: object, rule: str) -> None:
    """ConfigError unless `ok`."""
    if not ok:
        raise ConfigError(f"{field} is {value!r}, but {rule}")
