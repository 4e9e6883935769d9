"""The persistent cache of compiled programs: private to the user, or none.

What lies in it is run as it is, so that whoever can write it runs code as you: a folder that others
could write is refused (JAX's own documentation calls the cache trusted).
"""

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from esam_jax import files
from esam_jax.errors import ConfigError

SWITCH = "ESAM_COMPILE_CACHE"  # a folder, or the word off
JAX_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_MIN_SECONDS = 0.1  # what compiles faster is not worth a file


def enable(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Turns the cache on, before anything is compiled; its folder, or None where it is off.

    The word off in ours goes first, then JAX's own variable, then a folder in ours, then `compiled`
    in the cache folder. ConfigError for a folder that somebody else could write.
    """
    named = environment.get(JAX_FOLDER) or environment.get(SWITCH)
    if environment.get(SWITCH) == "off":
        return off()
    if named is not None and "://" in named:  # a bucket has no owner to look at
        return _use(named)
    folder = Path(named) if named else files.user_cache() / "compiled"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the compilation cache {folder} cannot be made ({error.strerror}): set {SWITCH} to "
            "another folder, or to off"
        ) from error
    require_private(folder)
    return _use(str(folder))


def is_named(environment: Mapping[str, str]) -> bool:
    """Whether the user names the folder, in either variable, and does not turn the cache off."""
    switch = environment.get(SWITCH)
    return switch != "off" and bool(environment.get(JAX_FOLDER) or switch)


def current() -> str | None:
    """Where this process keeps programs; None where it keeps none."""
    import jax

    # The type stubs know no option of the configuration.
    return jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]


def off() -> None:
    """Keeps no program from now on, and looks for none; before anything is compiled."""
    _use(None)


@contextlib.contextmanager
def unused() -> Iterator[None]:
    """Within it no program is kept, and none is looked for, in any thread.

    For machines that are not there: JAX keeps their programs, but only those machines could read
    them, and it warns each time that it tries.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    folder = current()
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()  # JAX asks once whether there is a folder
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()


def check(environment: Mapping[str, str] = os.environ) -> None:
    """ConfigError where others could write the folder that JAX's own variable names.

    JAX uses it automatically, also for commands that keep no compiled programs.
    """
    named = environment.get(JAX_FOLDER)
    if not named:
        return
    if environment.get(SWITCH) == "off":
        off()
    elif Path(named).exists():
        require_private(Path(named))


def require_private(folder: Path) -> None:
    """ConfigError unless the folder is the user's own, and nobody else's to write or replace."""
    folder = folder.resolve()
    found = folder.stat()
    remedy = f"name a folder of your own where this one is named, or set {SWITCH} to off"
    if found.st_uid != os.getuid():
        raise ConfigError(
            f"the compilation cache {folder} belongs to user {found.st_uid}, who would run code "
            f"as you: chown it, {remedy}"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"the compilation cache {folder} has mode {stat.S_IMODE(found.st_mode):04o}, and "
            f"whoever can write it runs code as you: delete it, since what others have left there "
            f"would be run, {remedy}"
        )
    for parent in folder.parents:
        mode = parent.stat().st_mode
        # In a sticky folder, such as /tmp, only the owner may replace what is in it.
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ConfigError(
                f"the compilation cache {folder} lies in {parent}, where everybody could replace "
                f"it and so run code as you: chmod o-w {parent}, {remedy}"
            )


def _use(folder: str | None) -> Path | None:
    import jax  # after the checks, which should fail without waiting for the import

    jax.config.update("jax_compilation_cache_dir", folder)  # also None: JAX has a variable itself
    if folder is None:
        return None
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return Path(folder)
