"""Frames of a video file by their numbers, decoded with PyAV (the extra `video`).

A frame's number is its place in the order in which frames are shown, whatever their times: some
videos have frames of different lengths. Files are hostile: they are read as MP4 alone, since FFmpeg
would open what a playlist names.
"""

import bisect
import dataclasses
import functools
import io
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from esam_jax import files
from esam_jax.errors import ConfigError, DataError
from esam_jax.ops.regions import MAX_PIXELS, MAX_SIDE
from esam_jax.places import Place

_MAX_BYTES = 2**30
_MAX_FRAMES = 10**6
_NEVER = 2**63  # later than any time
_KEPT = 4  # videos whose times are known


@dataclasses.dataclass
class _Place:
    """Where a thread is in a video: the time of the frame that it decoded last."""

    file: tuple[Place, int, int]
    container: Any
    frames: Iterator[Any]
    time: int


_of_thread = threading.local()  # `place`: frames are often read one after the other


def frame(path: Place, number: int) -> UInt8[np.ndarray, "H W 3"]:
    """The frame as RGB, turned as players show it.

    ConfigError without PyAV; MissingError, DiskError and DataError as for pictures, DataError also
    for a frame that the video does not have. All frames since the key frame before are decoded, or
    since the last frame that this thread has read; many videos have one key frame, the first.
    """
    found = files.read(path, path.stat, "check the path")
    file = (path, found.st_size, found.st_mtime_ns)
    times, keys = _times(*file)
    if number >= len(times):
        raise DataError(f"{path}: it has {len(times)} frames, and none of the number {number}")
    wanted = times[number]
    before = bisect.bisect_right(keys, (wanted, _NEVER)) - 1
    start, seek = keys[max(before, 0)] if keys else (wanted, 0)
    place: _Place | None = getattr(_of_thread, "place", None)
    _of_thread.place = None  # whatever fails below, it is not used again
    try:
        if place is None or place.file != file or not start <= place.time < wanted:
            if place is not None:
                place.container.close()
            place = _sought(file, seek)
        for each in place.frames:
            _check_size(each.width, each.height)
            if each.pts == wanted:
                place.time, _of_thread.place = wanted, place
                turned = np.rot90(each.to_ndarray(format="rgb24"), round(each.rotation / 90))
                return np.ascontiguousarray(turned)
            if each.pts is not None and each.pts > wanted:
                break
    except ConfigError:
        raise
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # FFmpeg answers broken bytes with any kind of exception
        raise DataError(f"{path}: broken video ({error}): fetch it again") from error
    raise DataError(f"{path}: its frame {number} cannot be decoded: fetch it again")


def _sought(file: tuple[Place, int, int], time: int) -> _Place:
    """The video from the key frame on that is decoded at this time."""
    container = _opened(file[0])
    stream = _stream(container)
    container.seek(time, stream=stream, backward=True)
    return _Place(file, container, container.decode(stream), time)


@functools.lru_cache(maxsize=_KEPT)
def _times(path: Place, size: int, changed: int) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
    """When each frame is shown; and of key frames, when each is shown and when it is decoded.

    In ticks of the stream, sorted. The file is read, and nothing is decoded.
    """
    try:
        with _opened(path) as container:
            found, keys = [], []
            for packet in container.demux(_stream(container)):
                if packet.pts is not None and not packet.is_discard:
                    found.append(packet.pts)
                    if packet.is_keyframe and packet.dts is not None:
                        keys.append((packet.pts, packet.dts))
                if len(found) > _MAX_FRAMES:
                    raise DataError(f"it has more than {_MAX_FRAMES} frames")
    except ConfigError:
        raise
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # as above
        raise DataError(f"{path}: broken video ({error}): fetch it again") from error
    return sorted(found), sorted(keys)


def _opened(path: Place) -> Any:
    """A container of PyAV, which closes at the end of a `with`."""
    try:
        import av  # here, since only videos need it
    except ImportError as error:
        raise ConfigError(
            f"{path} is a video, and PyAV is not installed: pip install 'esam_jax[video]'"
        ) from error

    def attempt() -> bytes:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES + 1)

    data = files.read(path, attempt, "check the path")
    if len(data) > _MAX_BYTES:
        raise DataError(f"it is larger than {_MAX_BYTES} bytes")
    return av.open(io.BytesIO(data), format="mp4")


def _stream(container: Any) -> Any:
    """The first video in a container, decoded in this thread alone."""
    if not container.streams.video:
        raise DataError("it has no video in it")
    stream = container.streams.video[0]
    context = stream.codec_context
    _check_size(context.width, context.height)
    context.thread_count = 1
    context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def _check_size(width: int, height: int) -> None:
    if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
        raise DataError(
            f"its frames are {width} x {height}, but at most {MAX_SIDE} a side and {MAX_PIXELS} "
            "pixels are read"
        )
