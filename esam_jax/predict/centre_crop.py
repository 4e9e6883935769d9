"""The centre of a picture as CLIP takes it, to the bit (openai/CLIP, clip.py: _transform)."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# A strip so much longer than wide is resized at its centre alone: its ends would fill the memory.
_LONG = 16


def square(image_HW3: UInt8[np.ndarray, "H W 3"], px: int) -> UInt8[np.ndarray, "{px} {px} 3"]:
    """The shorter side resized to `px` by Pillow's bicubic, and as much of the longer one.

    The longer side is rounded down, and the place of the crop to even halves, as torchvision does.
    """
    height, width = image_HW3.shape[:2]
    short, picture = min(height, width), Image.fromarray(image_HW3)
    size = int(px * width / short), int(px * height / short)
    left, top = (round((side - px) / 2) for side in size)
    if max(size) > _LONG * px:
        # Columns first, as Pillow goes about a complete picture: it rounds in between.
        across, down = width / size[0], height / size[1]
        columns = (left * across, 0, (left + px) * across, height)
        rows = (0, top * down, px, (top + px) * down)
        narrow = picture.resize((px, height), Image.Resampling.BICUBIC, columns)
        return np.asarray(narrow.resize((px, px), Image.Resampling.BICUBIC, rows))
    resized = picture.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + px, top + px)))
