"""Running out of memory becomes an error with advice, and leaves room for a smaller call."""

import contextlib
import traceback
from collections.abc import Iterator

import jax

from esam_jax.errors import DeviceMemoryError

_SIGNS = ("resource_exhausted", "out of memory")
_REMEDY = (
    "process fewer pictures or prompts at once (for masks of everything, a smaller "
    'points_per_batch), or load the model with dtype="bfloat16"'
)


@contextlib.contextmanager
def advice(remedy: str = _REMEDY) -> Iterator[None]:
    """What JAX and NumPy raise inside when memory runs out becomes a DeviceMemoryError with advice.

    Every other error passes. JAX computes while Python continues: the error of what is computed
    here and not waited for comes up where the result is read, which must be in here, too.
    """
    try:
        yield
    except DeviceMemoryError as error:
        traceback.clear_frames(error.__traceback__)
        raise
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        said = str(error).strip() or type(error).__name__
        if not isinstance(error, MemoryError) and not any(x in said.lower() for x in _SIGNS):
            raise
        # A notebook keeps the last error, its frames, and so every array of the failed call.
        traceback.clear_frames(error.__traceback__)
        first = said.splitlines()[0]
        raise DeviceMemoryError(f"out of memory ({first:.200}): {remedy}") from error
