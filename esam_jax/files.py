"""Reading from a disk that may not answer at once, as one across a network."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from esam_jax.errors import DiskError, EsamError, MissingError

Content = TypeVar("Content")

_PAUSES = (0.2, 1.0, 3.0)  # seconds before each further attempt
_PASSING = {  # also in the texts of libraries that read by themselves
    errno.EIO,
    errno.ESTALE,  # the file was replaced, or the server started again
    errno.EAGAIN,
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
}


def read(path: str | Path, attempt: Callable[[], Content], remedy: str) -> Content:
    """What `attempt` gives, which opens the file at `path` anew each time.

    MissingError with the remedy for a file that is not there or may not be read; DiskError, after
    some seconds, where the disk does not answer.
    """
    for pause in (*_PAUSES, None):
        try:
            return attempt()
        except EsamError:
            raise
        except (OSError, ValueError) as fault:  # ValueError for a name that no file can have
            if isinstance(fault, ValueError) or pause is None or not passes(fault):
                raise fault_of(path, fault, remedy) from fault
        time.sleep(pause)
    raise AssertionError


def passes(fault: BaseException) -> bool:
    """Whether it is of a kind that may be gone at the next attempt."""
    if isinstance(fault, OSError):
        return fault.errno in _PASSING
    return any(os.strerror(code) in str(fault) for code in _PASSING)


def fault_of(path: str | Path, fault: BaseException, remedy: str) -> DiskError | MissingError:
    """The error to raise in place of one of the operating system."""
    said = f"{path} cannot be read ({getattr(fault, 'strerror', None) or fault})"
    return DiskError(f"{said}: start again") if passes(fault) else MissingError(f"{said}: {remedy}")
