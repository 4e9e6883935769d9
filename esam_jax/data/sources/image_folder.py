"""Pictures in folders, without masks: ImageNet's layout, or any other nesting."""

import os
from pathlib import Path
from typing import NoReturn

from esam_jax import files
from esam_jax.data import decode
from esam_jax.data.records import Record
from esam_jax.errors import DataError, MissingError


class ImageFolder:
    """Every picture below a folder, by relative path. Classes are folders, and are not used."""

    def __init__(self, path: Path) -> None:
        self._root, self._names = path, list_pictures(path)
        if not self._names:
            raise DataError(f"{path} holds no {', '.join(decode.SUFFIXES)} picture at any depth")

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return self._names[index]

    def read(self, index: int) -> Record:
        name = self._names[index]
        return Record(name, decode.read_rgb(self._root / name))


def list_pictures(root: Path) -> list[str]:
    """Relative paths with "/" of all pictures below root, sorted; hidden ones are left out.

    MissingError for a folder that may not be read, DiskError where the disk does not answer: a
    list without its pictures would be other data.
    """
    try:
        there = root.is_dir()
    except OSError as fault:
        _refuse(fault)
    if not there:
        raise MissingError(f"{root} is not a folder")
    found = []
    for folder, subfolders, names in os.walk(root, onerror=_refuse):
        # A disk of its own has a folder that only its owner may list.
        subfolders[:] = [x for x in subfolders if not x.startswith(".") and x != "lost+found"]
        below = Path(folder).relative_to(root)
        found += [
            (below / name).as_posix()
            for name in names
            if name.lower().endswith(decode.SUFFIXES) and not name.startswith(".")
        ]
    # By code point: the order, and with it the shuffle, is the same on every machine.
    return sorted(found)


def _refuse(fault: OSError) -> NoReturn:
    raise files.read_error(fault.filename, fault, "make it readable, or move it away") from fault
