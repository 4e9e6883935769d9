"""Proposals of every picture of an album, as results of COCO; resumable.

`masks/<id>.json` for each picture, written complete: a picture whose json is there is done. Any
number of hosts share an album without communicating.
"""

import dataclasses
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from esam_jax import files
from esam_jax.data import decode
from esam_jax.data.archives import Album
from esam_jax.data.findings import Finding
from esam_jax.errors import ConfigError, DataError, DiskError, MissingError
from esam_jax.predict import devices, overlays
from esam_jax.predict.everything import album as albums
from esam_jax.predict.sam import Sam
from esam_jax.predict.zero_shot import proposals
from esam_jax.predict.zero_shot.proposals import ProposalSettings

SETTINGS_FILE, RESULTS_FILE, MASKS_FOLDER = "proposals.json", "results.json", "masks"
RESULTS = (RESULTS_FILE, f"{MASKS_FOLDER}/[!.]*", overlays.RESULTS)

_DRAWN = 20  # proposals of an overlay: more cannot be told apart

Ids = Mapping[str, int]  # of each picture of an album, by its name


def numbers(album: Album) -> dict[str, int]:
    """An id for each picture: the number that is its name, as in COCO and LVIS, else that of
    `esam everything`. DataError where two pictures would have one."""
    return _distinct({name: _number(name) for name in album.names})


def ids_of(album: Album, listed: Mapping[str, int], source: str) -> dict[str, int]:
    """The ids of a json's pictures, by file name or by its last part; ConfigError for a picture
    that it does not list, or lists in several folders, DataError where two would have one."""
    by_name: dict[str, list[int]] = {}
    for name, identity in listed.items():
        by_name.setdefault(PurePosixPath(name).name, []).append(identity)
    found = {}
    for name in album.names:
        same = [listed[name]] if name in listed else by_name.get(PurePosixPath(name).name, [])
        if not same:
            raise ConfigError(
                f"{name} is not listed in {source}: name a json of these pictures with --ids, or "
                "leave it out"
            )
        if len(same) > 1:
            raise ConfigError(
                f"{name} may be any of {len(same)} pictures of {source}, which have its name in "
                "different folders: name the folder above these"
            )
        [found[name]] = same
    return _distinct(found)


def _number(name: str) -> int:
    stem = PurePosixPath(name).stem
    return int(stem) if re.fullmatch(r"[0-9]{1,15}", stem) else albums.number(name)


def _distinct(ids: dict[str, int]) -> dict[str, int]:
    seen: dict[int, str] = {}
    for name, identity in ids.items():
        other = seen.setdefault(identity, name)
        if other != name:
            raise DataError(
                f"{name} and {other} would have one id, {identity}: rename one of them, or name a "
                "json that lists them with --ids"
            )
    return ids


def waiting(ids: Ids, out: Path, part: tuple[int, int] = (0, 1)) -> list[str]:
    """The names that are still to be done by host `part[0]` of `part[1]`.

    What a killed call left unfinished beside them is removed.
    """
    files.remove_unfinished(out / MASKS_FOLDER)
    index, count = part
    mine = list(ids)[index::count]
    return [name for name in mine if not file_of(out, ids[name]).exists()]


def run(
    sam: Sam,
    album: Album,
    ids: Ids,
    names: list[str],
    out: Path,
    settings: ProposalSettings,
    *,
    points_per_batch: int = 64,
    with_overlays: bool = False,
    sixteen_bit: decode.SixteenBit = "upper_byte",
    noted: list[Finding] | None = None,
) -> Iterator[tuple[str, int | str]]:
    """(name, number of proposals) for each picture that is written, or (name, what is wrong).

    A broken picture is reported and left out. Each local device has its own copy of the weights;
    answers come in the order of names all the same. `noted` gets what was found in decoding.
    """
    noted = [] if noted is None else noted
    work = _Work(album, ids, out, settings, points_per_batch, with_overlays, sixteen_bit, noted)
    yield from devices.share(names, sam, work.on, count=len(names), ahead=3)


@dataclasses.dataclass(frozen=True)
class _Work:
    """Processes one picture; may be called from any thread."""

    album: Album
    ids: Ids
    out: Path
    settings: ProposalSettings
    points_per_batch: int
    with_overlays: bool
    sixteen_bit: decode.SixteenBit
    noted: list[Finding]
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def on(self, sam: Sam, name: str) -> int | str:
        """Writes the files of a picture; the number of proposals, or what is wrong with it."""
        try:
            picture = decode.decode_rgb(
                self.album.read(name), sixteen_bit=self.sixteen_bit, notice=self._notice(name)
            )
        except (DataError, DiskError, MissingError) as error:
            return str(error)
        records = proposals.proposals(
            sam, picture, self.settings, name=name, points_per_batch=self.points_per_batch
        )
        found = proposals.as_results(records, self.ids[name])
        if self.with_overlays:
            best = found[:_DRAWN]
            runs, scores = [each["segmentation"] for each in best], [x["score"] for x in best]
            overlays.write(overlay_of(self.out, self.ids[name]), picture, runs, scores)
        write(file_of(self.out, self.ids[name]), json.dumps(found, allow_nan=False))
        return len(found)

    def _notice(self, name: str) -> Any:
        def notice(kind: Any, text: str) -> None:
            with self.lock:
                self.noted.append(Finding(kind, f"{name}: {text}"))

        return notice


def write(file: Path, text: str) -> None:
    """The proposals of a picture; MissingError where the folder cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write(file, text)
    except OSError as error:
        raise MissingError(
            f"{file.parent} cannot be written ({error}): make room, then run the same command"
        ) from error


def merge(masks: Iterable[Path], file: Path) -> int:
    """Writes the lists of these files as one, a picture at a time; how many of them exist.

    Thousands of pictures with a thousand masks each do not fit into memory.
    """
    count = 0
    with files.replacing(file, remedy="make room, then run the same command") as opened:
        opened.write(b"[")
        empty = True
        for each in masks:
            if not each.exists():
                continue
            count += 1
            inside = each.read_bytes().strip()[1:-1]
            if inside:
                opened.write((b"" if empty else b",\n") + inside)
                empty = False
        opened.write(b"]\n")
    return count


def sheet(ids: Ids, out: Path) -> None:
    """Writes one picture of the first overlays, under the names of their pictures."""
    overlays.write_sheet(out, ((name, overlay_of(out, identity)) for name, identity in ids.items()))


def file_of(out: Path, identity: int) -> Path:
    return out / MASKS_FOLDER / f"{identity}.json"


def overlay_of(out: Path, identity: int) -> Path:
    return out / overlays.FOLDER / f"{identity}.png"
