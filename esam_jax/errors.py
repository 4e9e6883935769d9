"""The package's own errors: each is also the built-in that a caller would expect.

Every message states the value, the rule and the remedy in one line. The command line turns any
`EsamError` into exit code 2; whatever else escapes is a defect of ours.
"""


class EsamError(Exception):
    """Something the user can mend."""


class ConfigError(EsamError, ValueError):
    """A configuration value breaks a rule."""


class MissingError(EsamError, FileNotFoundError):
    """A file or folder that was named is not there, or cannot be written."""


class DataError(EsamError, ValueError):
    """A picture, mask or annotation cannot be used."""


class CheckpointError(EsamError, ValueError):
    """A model file or checkpoint does not hold what it should."""


class PromptError(EsamError, ValueError):
    """A point, box, label or mask prompt breaks a rule."""


class DeviceMemoryError(EsamError, MemoryError):
    """The device has no room for what was asked; it has for less."""


class TrainingError(EsamError, RuntimeError):
    """Training cannot go on: a non-finite loss, or too many broken examples."""


def one_line(error: BaseException) -> str:
    """Any error, for a sentence: its kind and the first 500 characters of its text."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
