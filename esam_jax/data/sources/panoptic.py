"""COCO panoptic annotations: a json of segments, and for each picture a PNG of their numbers."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32, Integer

from esam_jax import files, places
from esam_jax.config import PanopticConfig
from esam_jax.data import decode, pictures
from esam_jax.data.findings import Finding
from esam_jax.data.labels import SemanticMap
from esam_jax.data.mask_sets import LayeredMasks, Object, Region, corners, nothing_usable
from esam_jax.data.records import Record, sampled
from esam_jax.data.sources import coco_files, paired
from esam_jax.data.sources.annotations import (
    category_of,
    declared_size,
    field,
    is_crowd,
    listed_categories,
)
from esam_jax.errors import ConfigError, DataError, MissingError
from esam_jax.places import Place

_MAX_JSON_BYTES = 2**31
_MAX_SEGMENTS = 10_000  # of one picture
_MOST_ID = 2**24 - 1  # in three bytes
_TRIED = 20  # maps that are looked for, spread evenly: some may be missing
_VOID = 0  # of pixels that belong to no segment, or to one of no known category


def open(config: PanopticConfig, options: str = "") -> "Panoptic":
    """The pictures of the json that the path of the config is, or that lies in that folder."""
    return Panoptic(config)


def detects(path: str) -> PanopticConfig | None:
    """A json whose name begins with "panoptic", or a folder with one and no instance json.

    COCO's own folder has both, and is read as instances: name the json.
    """
    place = places.place(path)
    if place.is_file():
        ours = place.suffix == ".json" and place.name.startswith("panoptic")
    else:
        ours = bool(_jsons(place, "panoptic")) and not _jsons(place, "instances")
    return PanopticConfig(path=path) if ours else None


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A picture, its map, and its segments as the json has them; `size` is what it states."""

    name: str
    map_name: str
    size: tuple[int, int] | None
    segments: Sequence[Any]


class Panoptic:
    """The pictures of a panoptic json, with their segments and the category of every pixel."""

    def __init__(self, config: PanopticConfig) -> None:
        self._config = config
        self._json = _find_json(places.place(str(config.path)))
        content = files.read_json(
            self._json, max_bytes=_MAX_JSON_BYTES, error=DataError, finite=False
        )
        self.findings: list[Finding] = []
        self.categories = listed_categories(content, self._json, self.findings) or {}
        self._entries = self._listed(content)
        if not self._entries:
            raise DataError(f"{self._json} has no picture with segments: see COCO's panoptic form")
        names = [each.name for each in self._entries]
        self._pictures = coco_files.picture_folder(self._json, names)
        self._maps = _map_folder(self._json, [each.map_name for each in self._entries])

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, index: int) -> str:
        return self._entries[index].name

    def read(self, index: int) -> Record:
        entry, noted = self._entries[index], []
        numbers = decode.read_coloured_numbers(self._maps / entry.map_name)
        size = (len(numbers), len(numbers[0]))
        if entry.size not in (None, size):
            raise DataError(
                f"{entry.name}: its map {entry.map_name} is {size[0]} x {size[1]}, but its "
                f"annotations say {' x '.join(map(str, entry.size or ()))}"
            )
        frame = (entry.name, size, self._config, noted)
        picture = pictures.read_as_annotated(self._pictures / entry.name, *frame)
        segments = self._segments(entry, noted)
        present, runs = _runs(numbers)
        there = set(present.tolist())
        unlisted = sorted(there - {_VOID, *segments})
        if unlisted:
            text = f"{entry.name}: its map has the segment {unlisted[0]}, which is not listed"
            noted.append(Finding("labels_left_out", text, len(unlisted)))
        regions = [
            Region(0, key, about) for key, about in self._used(entry, segments, there, noted)
        ]
        found = {
            "masks": LayeredMasks(numbers[None], regions),
            "semantic": self._semantic(segments, present, runs, size),
        }
        return Record(entry.name, picture, found, noted)

    def digest(self) -> str:
        """Of the json, and of a thousand maps, spread evenly."""
        maps = [self._maps / self._entries[i].map_name for i in sampled(self)]
        return f"annotations {paired.digest([self._json])}, maps {paired.digest(maps)}"

    def _listed(self, content: Mapping[str, Any]) -> list[_Entry]:
        """The pictures with a map; what is none is left out and noted."""
        images: dict[int | str, tuple[str, tuple[int, int] | None]] = {}
        bad: list[str] = []
        for number, image in enumerate(field(content, "images", list, str(self._json))):
            where = f"{self._json}: image {number}"
            try:
                identity = field(image, "id", (int, str), where)
                if identity in images:
                    raise DataError(f"{where} has the id {str(identity)[:40]} of another one")
                images[identity] = coco_files.name_of(image, where), declared_size(image, ())
            except DataError as error:
                bad.append(str(error))
        found: dict[str, _Entry] = {}
        for number, entry in enumerate(field(content, "annotations", list, str(self._json))):
            where = f"{self._json}: annotation {number}"
            try:
                each = _entry(entry, images, where)
                if found.setdefault(each.name, each) is not each:
                    raise DataError(f"{where} is of {each.name}, as an earlier one")
            except DataError as error:
                bad.append(str(error))
        if bad:
            more = f" (the first of {len(bad)})" if len(bad) > 1 else ""
            self.findings.append(Finding("pictures_left_out", f"{bad[0]}{more}", len(bad)))
        return list(found.values())

    def _segments(self, entry: _Entry, noted: list[Finding]) -> dict[int, tuple[Object, bool]]:
        """What each listed segment is, and whether it is a crowd, by its number."""
        found: dict[int, tuple[Object, bool]] = {}
        unusable: list[str] = []
        for number, segment in enumerate(entry.segments):
            where = f"{entry.name}: segment {number}"
            try:
                identity = field(segment, "id", int, where)
                where = f"{where} (id {str(identity)[:40]})"
                if not 0 < identity <= _MOST_ID:
                    raise DataError(f"{where} has an id that no map can hold: 1 to {_MOST_ID}")
                if identity in found:
                    raise DataError(f"{where} has the id of an earlier one")
                crowd = _is_crowd(segment, where)
                category = category_of(segment, where, self.categories, noted)
            except DataError as error:
                unusable.append(str(error))
                continue
            found[identity] = Object(identity, corners(segment.get("bbox")), category), crowd
        if unusable and not found:
            raise DataError(nothing_usable(entry.name, unusable))
        noted += [Finding("objects_left_out", text) for text in unusable]
        return found

    def _used(
        self,
        entry: _Entry,
        segments: Mapping[int, tuple[Object, bool]],
        there: set[int],
        noted: list[Finding],
    ) -> Iterator[tuple[int, Object]]:
        """Segments that are masks: those that the map has, and crowds by choice."""
        use = self._config.crowds == "use"
        for identity, (about, crowd) in segments.items():
            label = f"{entry.name}: segment {identity}"
            if identity not in there:
                noted.append(Finding("objects_left_out", f"{label} is nowhere in its map"))
                continue
            if crowd:
                kind = "crowds_used" if use else "crowds_left_out"
                words = "is used" if use else "is left out"
                noted.append(Finding(kind, f"{label} is a crowd and {words}"))
            if use or not crowd:
                yield identity, about

    def _semantic(
        self,
        segments: Mapping[int, tuple[Object, bool]],
        present: Int32[np.ndarray, " X"],
        runs: tuple[Integer[np.ndarray, " L"], Integer[np.ndarray, " L"]],
        size: tuple[int, int],
    ) -> SemanticMap:
        """The category of every pixel, of crowds too; 0 where there is none."""
        known = {
            key: about.category if about.category in self.categories else _VOID
            for key, (about, _) in segments.items()
        }
        values = np.array([known.get(key, _VOID) for key in present.tolist()], np.int32)
        which, lengths = runs
        pixels = np.repeat(values[which], lengths).reshape(size)
        names = {key: name for key, name in self.categories.items() if key != _VOID}
        return SemanticMap(pixels, names, frozenset({_VOID}))


def _entry(
    entry: Any, images: Mapping[int | str, tuple[str, tuple[int, int] | None]], where: str
) -> _Entry:
    owner = field(entry, "image_id", (int, str), where)
    if owner not in images:
        raise DataError(f"{where} belongs to image {str(owner)[:40]}, which is not listed")
    segments = field(entry, "segments_info", list, where)
    if len(segments) > _MAX_SEGMENTS:
        raise DataError(
            f"{where} has {len(segments)} segments, but at most {_MAX_SEGMENTS} are read"
        )
    map_name = field(entry, "file_name", str, where)
    if not coco_files.is_below(map_name.replace("\\", "/")):
        raise DataError(f"{where} has the map {map_name!r:.80}, but must name one below its folder")
    return _Entry(images[owner][0], map_name, images[owner][1], segments)


def _is_crowd(segment: Mapping[str, Any], where: str) -> bool:
    try:
        return is_crowd(segment)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _runs(
    numbers: Int32[np.ndarray, "H W"],
) -> tuple[Int32[np.ndarray, " X"], tuple[Integer[np.ndarray, " L"], Integer[np.ndarray, " L"]]]:
    """The numbers that occur; and in reading order which of them each run has, and its length.

    Neighbours are alike, so that sorting the runs is much faster than sorting the pixels.
    """
    flat = numbers.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    present, which = np.unique(flat[starts], return_inverse=True)
    return present, (which, np.diff(starts, append=flat.size))


def _jsons(folder: Place, prefix: str) -> list[Place]:
    if not folder.is_dir():
        return []
    found = [*folder.glob(f"{prefix}*.json"), *folder.glob(f"annotations/{prefix}*.json")]
    return sorted(each for each in found if each.is_file())


def _find_json(path: Place) -> Place:
    """The panoptic json that `path` is, or the one in that folder."""
    if path.is_file():
        return path
    found = _jsons(path, "panoptic")
    if len(found) > 1:
        listed = ", ".join(str(each.relative_to(path)) for each in found[:9])
        raise ConfigError(
            f"{path} holds {len(found)} panoptic jsons: give the path of one ({listed})"
        )
    if not found:
        raise MissingError(f"{path} is no panoptic json, nor a folder with panoptic*.json in it")
    return found[0]


def _map_folder(json: Place, names: Sequence[str]) -> Place:
    """Where the PNGs are: COCO has panoptic_val2017/ beside panoptic_val2017.json."""
    parent, above = json.parent, json.resolve().parent.parent
    folders = [folder / part for part in (json.stem, "panoptic") for folder in (parent, above)]
    folders.append(parent)
    some = names[:: max(1, len(names) // _TRIED)]
    counts = [sum((folder / name).is_file() for name in some) for folder in folders]
    if not any(counts):
        places = ", ".join(map(str, dict.fromkeys(folders)))
        raise MissingError(
            f"the map {some[0]!r} of {json} is in none of {places}: unpack the archive of PNGs "
            "beside the json"
        )
    return folders[counts.index(max(counts))]
