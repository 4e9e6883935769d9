"""What a command may write, decided in one place: nothing of the user's is lost by accident.

- An input is never an output: not under another name, through a link, or as the folder around it.
- A file that exists is replaced only with `--overwrite`.
- A folder that is replaced complete must be empty, or hold nothing but what the same command wrote
  (and then `--overwrite` is needed, too). No other folder is ever emptied.
- A bucket or a URL is no place for a file (`files.require_local`; inputs have the same rule).
- A name ends as what is written there does: `x.onnx` is neither a folder nor a weight file.

Commands check this before any work, so that a refusal costs no time and changes nothing.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from esam_jax import files
from esam_jax.errors import ConfigError, ExistsError

_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,11}")  # "v1.0" and "lr1e-4" are not file endings


def require_file(
    file: Path,
    *,
    overwrite: bool,
    inputs: Iterable[Path] = (),
    endings: Sequence[str] = (),
    remedy: str = "name another file, or add --overwrite to replace it",
) -> None:
    """ConfigError or ExistsError unless the file may be written; `endings`, if any, are its own."""
    files.require_local(file)
    if endings and file.suffix.lower() not in endings:
        raise ConfigError(f"{str(file)!r} must end in {' or '.join(endings)}: name such a file")
    _require_apart(file, inputs)
    if file.is_dir():
        raise ExistsError(f"{file} is a folder, but a file is written: name a file in it")
    if os.path.lexists(file) and not overwrite:
        raise ExistsError(f"{file} exists already: {remedy}")


def require_new_folder(
    folder: Path,
    *,
    overwrite: bool,
    is_own: Callable[[Path], bool],
    inputs: Iterable[Path] = (),
) -> None:
    """ConfigError or ExistsError unless a complete new folder may take the place of this one.

    `is_own` says whether a folder holds only what is written here.
    """
    files.require_local(folder)
    if folder.name in ("", "..") or Path.cwd().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{str(folder)!r} is the current folder or one above it, which cannot be replaced: "
            "name a new folder"
        )
    _require_apart(folder, inputs, emptied=True)
    if folder.is_symlink():
        raise ExistsError(f"{folder} is a link to {folder.resolve()}: name a new folder")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ExistsError(f"{folder} is a file, but a folder is made: name another")
    if next(folder.iterdir(), None) is None:
        return
    if not is_own(folder):
        raise ExistsError(
            f"{folder} is not empty and holds other files than a model, which would be lost: "
            f"name a new folder, such as {folder / 'model'}"
        )
    if not overwrite:
        raise ExistsError(
            f"{folder} holds a model already: name another folder, or add --overwrite to replace it"
        )


def require_folder(folder: Path, inputs: Iterable[Path] = ()) -> None:
    """ConfigError or ExistsError unless files may be written into a folder of this name.

    Nor may it be one of the `inputs`, or lie in one: a second call would read what the first wrote.
    """
    files.require_local(folder)
    _require_apart(folder, inputs)
    if folder.is_dir():
        return
    if os.path.lexists(folder):
        raise ExistsError(f"{folder} is a file, but a folder is needed: name another")
    if has_ending(folder):
        raise ConfigError(
            f"{str(folder)!r} ends in {folder.suffix!r} like a file, but a folder is made: name it "
            "without an ending"
        )


def has_ending(path: Path) -> bool:
    """Whether a name looks like a file's: "x.onnx", not "sam_v1.0"."""
    return _ENDING.fullmatch(path.suffix) is not None


def _require_apart(target: Path, inputs: Iterable[Path], *, emptied: bool = False) -> None:
    """ConfigError if the target is an input, lies in one or, when it is `emptied`, holds one."""
    real = target.resolve()
    for each in inputs:
        source = each.resolve()
        fault = None
        if real == source or (real.exists() and source.exists() and real.samefile(source)):
            fault = "is what is read"
        elif real.is_relative_to(source):
            fault = f"lies in {each}, which is read"
        elif emptied and source.is_relative_to(real):
            fault = f"holds {each}, which is read"
        if fault is not None:
            raise ConfigError(f"{str(target)!r} {fault}: an input is never replaced, name another")
