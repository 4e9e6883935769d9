"""The package's own errors: each is also the built-in that a caller would expect.

Every message states the value, the rule and the remedy in one line. The command line exits with the
`exit_code` of an `EsamError`; any other exception that escapes is a defect of this package.
"""

import os


class EsamError(Exception):
    """Something the user can fix. A launcher does not restart a run that exits with this code."""

    exit_code = 2


class ConfigError(EsamError, ValueError):
    """A configuration value breaks a rule."""


class MissingError(EsamError, FileNotFoundError):
    """A named file or folder does not exist, or cannot be read or written."""


class ExistsError(EsamError, FileExistsError):
    """What would be written exists already, and is not to be replaced."""


class DataError(EsamError, ValueError):
    """A picture, mask or annotation cannot be used."""


class CheckpointError(EsamError, ValueError):
    """A model file or checkpoint is damaged or does not match what is expected."""


class DiskError(EsamError, OSError):
    """A transient I/O error; starting again may succeed."""

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
    """The device is out of memory; a smaller request may fit."""


class TrainingError(EsamError, RuntimeError):
    """Training cannot continue: a non-finite loss, or too many broken examples."""


class PeerError(EsamError, TimeoutError):
    """Another process of the run was not there in time; starting again may succeed."""

    exit_code = os.EX_TEMPFAIL


def one_line(error: BaseException) -> str:
    """Any error, for a sentence: its kind and the first 500 characters of its text."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
