"""SA-V's training videos: `VIDEO.mp4`, with `VIDEO_manual.json` and `VIDEO_auto.json` beside it.

A masklet is an object through a video. The json has run lengths of each for every fourth frame
(videos have 24 frames a second, annotations 6); so `VIDEO/00004` is the second record of a video.
Form of the json: facebookresearch/sam2, `sav_dataset/README.md`.
"""

import bisect
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from esam_jax import files
from esam_jax.config import VideoConfig
from esam_jax.data import video_file
from esam_jax.data.findings import Finding
from esam_jax.data.mask_sets import CocoMasks, Outline
from esam_jax.data.records import Record
from esam_jax.data.sources import paired
from esam_jax.data.sources.annotations import declared_size, field
from esam_jax.data.sources.coco_files import read_head
from esam_jax.errors import DataError, MissingError
from esam_jax.ops import regions
from esam_jax.places import Place

EVERY = 4  # frames of a video, of which one is annotated
KINDS = ("manual", "auto")
_MAX_JSON_BYTES = 2**29
_MOST_FRAMES, _MOST_MASKLETS = 10**6, 10_000
_READERS = 16
_SAMPLED = 1000  # videos that a digest is made of
_KEPT = 4  # jsons in memory: frames of one video are often read one after the other
_COUNT = re.compile(rb'"video_frame_count"\s*:\s*(\d{1,7})(?:\.0*)?\s*[,}]')
_SHORT = 12  # characters of run lengths, which an empty mask has at most


def are_in(place: Place) -> bool:
    """Whether a video of SA-V lies somewhere in a folder."""
    return place.is_dir() and any(_kinds_of(path) for path in place.rglob("*.mp4"))


@dataclasses.dataclass(frozen=True)
class Frame:
    """A frame of a video as a picture, decoded on demand."""

    path: Place
    number: int
    height: int
    width: int

    def rgb(self, at_least: tuple[int, int] | None = None) -> UInt8[np.ndarray, "H W 3"]:
        found = video_file.frame(self.path, self.number)
        if found.shape[:2] != (self.height, self.width):
            sizes = [" x ".join(map(str, x)) for x in (found.shape[:2], (self.height, self.width))]
            raise DataError(f"{self.path} is {sizes[0]}, but its annotations say {sizes[1]}")
        return found


class Masklets:
    """The annotated frames of the videos at any depth below a folder."""

    def __init__(
        self, root: Place, config: VideoConfig, listed: Sequence[str] | None = None
    ) -> None:
        self._root = root
        self._kinds = KINDS if config.masklets == "both" else (config.masklets,)
        if not root.is_dir():
            raise MissingError(f"{root} is not a folder")
        there = sorted(x.relative_to(root).with_suffix("").as_posix() for x in root.rglob("*.mp4"))
        self.findings: list[Finding] = []
        if listed is not None:
            missing = set(listed) - {Path(name).name for name in there}
            self._note([f"{name} is listed, but is no video" for name in sorted(missing)])
            there = [name for name in there if Path(name).name in set(listed)]
        with ThreadPoolExecutor(_READERS) as pool:
            counts = list(pool.map(self._count, there))
        self._note([str(each) for each in counts if isinstance(each, DataError | MissingError)])
        found = [(x, n) for x, n in zip(there, counts, strict=True) if isinstance(n, int)]
        self._videos = [name for name, _ in found]
        self._ends = list(itertools.accumulate(-(-count // EVERY) for _, count in found))
        if not self._ends or not self._ends[-1]:
            raise DataError(
                f"{root} has no video with masklets ({', '.join(self._kinds)}): SA-V has "
                "VIDEO_manual.json and VIDEO_auto.json beside VIDEO.mp4"
            )

    def __len__(self) -> int:
        return self._ends[-1]

    def name(self, index: int) -> str:
        video, place = self._place(index)
        return f"{video}/{place * EVERY:05d}"

    def read(self, index: int) -> Record:
        (video, place), noted = self._place(index), []
        name, path = self.name(index), self._root / f"{video}.mp4"
        outlines: list[Outline] = []
        size = None
        for kind in self._kinds:
            json = _json(path, kind)
            if json.is_file():
                content = _read(json)
                outlines += _outlines(content, kind, place, json)
                size = size or _size(content, outlines)
        if size is None:
            raise DataError(f"{name}: its annotations have no size (video_height, video_width)")
        if max(size) > regions.MAX_SIDE or size[0] * size[1] > regions.MAX_PIXELS:
            raise DataError(
                f"{name}: its annotations say {str(size)[:80]}, but at most {regions.MAX_SIDE} a "
                f"side and {regions.MAX_PIXELS} pixels are read"
            )
        picture = Frame(path, place * EVERY, *size)
        return Record(name, picture, {"masks": CocoMasks(name, outlines, *size)}, noted)

    def digest(self) -> str:
        """Of the jsons of a thousand videos, spread evenly."""
        some = self._videos[:: max(1, len(self._videos) // _SAMPLED)]
        paths = [self._root / f"{video}.mp4" for video in some]
        jsons = [_json(path, kind) for path in paths for kind in self._kinds]
        return f"annotations {paired.digest(jsons)}"

    def _place(self, index: int) -> tuple[str, int]:
        """The video of a record, and the place of its frame among those that are annotated."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        video = bisect.bisect_right(self._ends, index)
        return self._videos[video], index - (self._ends[video - 1] if video else 0)

    def _count(self, video: str) -> int | DataError | MissingError:
        """How many frames a video has, or why none can be used."""
        path = self._root / f"{video}.mp4"
        kinds = [kind for kind in self._kinds if _json(path, kind).is_file()]
        if not kinds:
            return DataError(f"{video}.mp4 has no {video}_{self._kinds[0]}.json beside it")
        json = _json(path, kinds[0])
        try:
            # Jsons have megabytes, and begin with what is said of the video.
            head = _COUNT.search(read_head(json))
            count = int(head[1]) if head else EVERY * len(_masklets(_read(json), json))
        except (DataError, MissingError) as error:
            return error
        return min(count, _MOST_FRAMES)

    def _note(self, texts: Sequence[str]) -> None:
        if texts:
            more = f" (the first of {len(texts)})" if len(texts) > 1 else ""
            self.findings.append(Finding("pictures_left_out", f"{texts[0]}{more}", len(texts)))


def _json(video: Place, kind: str) -> Place:
    return video.with_name(f"{video.stem}_{kind}.json")


def _kinds_of(video: Place) -> list[str]:
    return [kind for kind in KINDS if _json(video, kind).is_file()]


def _read(json: Place) -> Mapping[str, Any]:
    found = files.read(json, json.stat, "check the path")
    return _parsed(json, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=_KEPT)
def _parsed(json: Place, size: int, changed: int) -> Mapping[str, Any]:
    return files.read_json(json, max_bytes=_MAX_JSON_BYTES, error=DataError, finite=False)


def _masklets(content: Mapping[str, Any], json: Place) -> Sequence[Any]:
    return field(content, "masklet", list, str(json))


def _outlines(content: Mapping[str, Any], kind: str, place: int, json: Place) -> Iterator[Outline]:
    """The masklets that are visible at a place; DataError where the json has no such place."""
    frames = _masklets(content, json)
    if place >= len(frames):
        raise DataError(f"{json} has {len(frames)} annotated frames, and none at place {place}")
    there = frames[place]
    if not isinstance(there, list) or len(there) > _MOST_MASKLETS:
        raise DataError(
            f"{json}: what is at place {place} is no list of at most {_MOST_MASKLETS} masklets"
        )
    ids = content.get("masklet_id")
    known = ids if isinstance(ids, list) and all(type(each) is int for each in ids) else []
    unique = len(set(known)) == len(known) >= len(there)
    for number, each in enumerate(there):
        if not _is_nothing(each):
            identity = f"{kind} {known[number] if unique else number}"
            yield Outline(f"masklet {identity}", each, identity)


def _is_nothing(rle: Any) -> bool:
    """Whether a masklet is not visible: null, or run lengths that are correct and empty."""
    if rle is None:
        return True
    counts = rle.get("counts") if isinstance(rle, Mapping) else None
    if not isinstance(counts, str | list) or len(counts) > _SHORT:
        return False
    try:
        return not regions.rle_runs(rle)[1::2].any()
    except DataError:  # which is said when the mask is read
        return False


def _size(content: Mapping[str, Any], outlines: Sequence[Outline]) -> tuple[int, int] | None:
    """(height, width) that the annotations state."""
    video = {"height": content.get("video_height"), "width": content.get("video_width")}
    return declared_size(video, outlines)
