"""A small video file of frames that can be told apart; needs PyAV."""

import io
from collections.abc import Sequence
from fractions import Fraction

import numpy as np


def frame(number: int, height: int = 12, width: int = 20) -> np.ndarray:
    """Grey, brighter with the number, and darker on the right half."""
    values = np.full((height, width, 3), 20 + number * 5, np.uint8)
    values[:, width // 2 :] //= 2
    return values


def mp4(
    frames: Sequence[np.ndarray], times: Sequence[int] | None = None, key_every: int = 8
) -> bytes:
    """Frames as H.264, at least one in `key_every` a key frame; `times` in 24ths of a second."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "1", "g": str(key_every), "bf": "2"}
        for time, pixels in zip(times or range(len(frames)), frames, strict=True):
            each = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            each.pts, each.time_base = time, Fraction(1, 24)
            container.mux(stream.encode(each))
        container.mux(stream.encode())
    return file.getvalue()


def turned(data: bytes) -> bytes:
    """The same video, which players show turned by 90 degrees, clockwise (`tkhd`, ISO 14496-12)."""
    at = data.index(b"tkhd") + 4 + 40
    one, zero = (1 << 16).to_bytes(4, "big"), bytes(4)
    minus, unit = (-(1 << 16)).to_bytes(4, "big", signed=True), (1 << 30).to_bytes(4, "big")
    matrix = zero + one + zero + minus + zero + zero + zero + zero + unit
    return data[:at] + matrix + data[at + 36 :]
