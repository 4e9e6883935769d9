"""`esam data index PATH`: the indexes of tar archives, before a run needs them."""

import dataclasses
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import tyro

from esam_jax import outputs, places
from esam_jax.cli import arguments
from esam_jax.cli.progress import Progress
from esam_jax.data import tars
from esam_jax.errors import DataError, EsamError, MissingError
from esam_jax.words import counted


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Stores where each file of a tar archive lies, in TAR.index beside it.

    Sources read archives by these indexes, without unpacking anything: `--data.source.kind sa1b` or
    `image_tars`. An index that fits its archive is kept, so that the same command resumes.
    """

    path: tyro.conf.Positional[str]
    """A tar archive, or a folder with archives at any depth."""
    index: str | None = None
    """A folder for the indexes, where that of the archives may not be written."""
    json: bool = False
    """Print the counts as JSON."""


def main(argv: Sequence[str]) -> int:
    """DataError, after all others have been indexed, for archives that cannot be, or without files.

    MissingError where an index cannot be stored: then nothing is gained for a run.
    """
    args = arguments.parse(Arguments, argv, prog="esam data index")
    path = places.place(args.path)
    folder = None if args.index is None else places.place(args.index)
    if isinstance(folder, Path):
        outputs.require_folder(folder)
        arguments.require_writable(folder)
    found = tars.find(path)
    if not found:
        raise DataError(f"{args.path} holds no {tars.ENDING} file at any depth")
    if isinstance(beside := folder or found[0].parent, Path):
        arguments.require_writable(beside)
    files, built, broken, unstored = 0, 0, [], []
    progress = Progress(len(found), "file", unit="archive")
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # raised below instead
        for each in progress.over(tars.indexed(found, path, folder)):
            if isinstance(each, EsamError):
                broken.append(str(each))
                continue
            if each.why:
                print(f"esam: built again: {each.why}", file=sys.stderr)
            if each.unstored:
                unstored.append(each.unstored)
            built += each.built
            files += len(each.index)
            progress.found = files
    if args.json:
        counts = {"archives": len(found), "files": files, "built": built, "broken": broken}
        print(json.dumps(counts))
    else:
        total = f"{counted(files, 'file')} in {counted(len(found) - len(broken), 'archive')}"
        print(f"{args.path}: {total}, {built} indexed now")
    if not files and not broken:
        raise DataError(
            f"{args.path} holds no file in {counted(len(found), 'archive')}: fetch them again, or "
            "name others"
        )
    if broken:
        of = f"{len(broken)} of {counted(len(found), 'archive')}"
        raise DataError(f"{of} cannot be used, the first: {broken[0]}")
    if unstored:
        raise MissingError(
            f"{counted(len(unstored), 'index', 'indexes')} could not be stored, the first: "
            f"{unstored[0]}; name a folder that can be written with --index"
        )
    return 0
