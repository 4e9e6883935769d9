"""What was measured of each picture, kept in a folder so that a killed evaluation resumes.

`pictures/DATA/PLACE.json` for each picture, written complete: one whose json is there is done. The
settings beside them say of what model, data and protocol; other ones are refused.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from esam_jax import files
from esam_jax.errors import MissingError
from esam_jax.predict.everything import album

SETTINGS_FILE = "evaluate.json"
_FOLDER = "pictures"


class Kept:
    """Contents by place of the pictures of one data set; in memory where there is no folder."""

    def __init__(self, out: Path | None, data: str) -> None:
        self._folder = None if out is None else out / _FOLDER / data
        self._memory: dict[int, dict[str, Any]] = {}
        if self._folder is not None:
            files.remove_unfinished(self._folder)
            for file in self._folder.glob("*.json"):
                if file.stem.isdigit() and (content := _read(file)) is not None:
                    self._memory[int(file.stem)] = content

    def __contains__(self, place: int) -> bool:
        return place in self._memory

    def get(self, place: int, default: Mapping[str, Any]) -> Mapping[str, Any]:
        """The content of a place, or the default where nothing is kept."""
        return self._memory.get(place, default)

    @property
    def places(self) -> list[int]:
        """Of the pictures that are kept."""
        return sorted(self._memory)

    def put(self, place: int, content: dict[str, Any]) -> None:
        """MissingError where the folder cannot be written."""
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                files.write(self._folder / f"{place:08d}.json", json.dumps(content))
            except OSError as error:
                raise MissingError(
                    f"{self._folder} cannot be written ({error}): make room, then run the same "
                    "command"
                ) from error
        self._memory[place] = content

    def of(self, places: list[int]) -> Iterator[dict[str, Any]]:
        """The contents of these places, which are all there, in ascending order."""
        yield from (self._memory[place] for place in sorted(places))


def settle(out: Path, settings: Mapping[str, Any], results: tuple[str, ...]) -> None:
    """Makes the folder and keeps the settings in it; errors as of `album.settle`.

    `results` are patterns of the names of further files that are written.
    """
    plain = json.loads(json.dumps(settings))  # as it is read back: without tuples
    album.settle(out, plain, SETTINGS_FILE, (f"{_FOLDER}/*", *results))


def _read(file: Path) -> dict[str, Any] | None:
    """None for what is no json: its picture is measured again."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
