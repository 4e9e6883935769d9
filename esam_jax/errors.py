"""The package's own errors: each is also the built-in that a caller would expect.

Every message states the value, the rule and the remedy in one line. The command line leaves with
the `exit_code` of an `EsamError`; whatever else escapes is a defect of ours.
"""

import os


class EsamError(Exception):
    """Something the user can mend; a launcher does not start again what left with its code."""

    exit_code = 2


class ConfigError(EsamError, ValueError):
    """A configuration value breaks a rule."""


class MissingError(EsamError, FileNotFoundError):
    """A file or folder that was named is not there, or cannot be written."""


class DataError(EsamError, ValueError):
    """A picture, mask or annotation cannot be used."""


class CheckpointError(EsamError, ValueError):
    """A model file or checkpoint does not hold what it should."""


class DiskError(EsamError, OSError):
    """A disk does not do what it did before. It may the next time: start again."""

    exit_code = os.EX_TEMPFAIL


class PromptError(EsamError, ValueError):
    """A point, box, label or mask prompt breaks a rule.

    `argument` names what breaks it, where that is one argument; the message is its name followed by
    `problem`, so that a caller whose arguments have other names can raise it under these.
    """

    argument: str | None = None
    problem: str | None = None

    @classmethod
    def of(cls, argument: str, problem: str) -> "PromptError":
        """The error of one argument."""
        error = cls(f"{argument} {problem}")
        error.argument, error.problem = argument, problem
        return error


class DeviceMemoryError(EsamError, MemoryError):
    """The device has no room for what was asked; it has for less."""


class TrainingError(EsamError, RuntimeError):
    """Training cannot go on: a non-finite loss, or too many broken examples."""


class PeerError(EsamError, TimeoutError):
    """Another process of the run did not come in time. It may be on its way: start again."""

    exit_code = os.EX_TEMPFAIL


def one_line(error: BaseException) -> str:
    """Any error, for a sentence: its kind and the first 500 characters of its text."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
