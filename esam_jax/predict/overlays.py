"""Overlays of an album's pictures in a folder of their own, and a sheet of the first of them."""

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from esam_jax import files
from esam_jax.data import decode
from esam_jax.ops import regions
from esam_jax.predict import draw
from esam_jax.predict.prompt import Prompt

FOLDER = "overlays"
RESULTS = f"{FOLDER}/[!.]*"
SHEET_FILE = "sheet.png"  # in that folder
_LONG_PX = 1024  # of an overlay: all masks of a picture lie in memory while it is drawn
_ON_SHEET = 60  # pictures at most


def write(
    file: Path,
    picture: UInt8[np.ndarray, "H W 3"],
    runs: Sequence[dict[str, Any]],
    scores: Sequence[float],
    prompts: Sequence[Prompt] = (),
) -> None:
    """The picture with its masks, and their prompts, as a PNG file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write(file, draw.png(drawn(picture, runs, scores, prompts)))


def drawn(
    picture: UInt8[np.ndarray, "H W 3"],
    runs: Sequence[dict[str, Any]],
    scores: Sequence[float],
    prompts: Sequence[Prompt] = (),
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The picture with its masks of COCO's run lengths, at most 1024 pixels on its long side.

    Where there is room, a mask has its number, counted from 1, and its predicted IoU.
    """
    scale = min(1.0, _LONG_PX / max(picture.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    size = (width, height)
    small = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    masks = np.zeros((len(runs), *small.shape[:2]), bool)
    for slot, rle in zip(masks, runs, strict=True):
        mask = Image.fromarray(np.ascontiguousarray(regions.from_rle(rle)))
        slot[:] = np.asarray(mask.resize(size, Image.Resampling.NEAREST))
    across, down = width / picture.shape[1], height / picture.shape[0]
    captions = [f"{i}  {score:.2f}" for i, score in enumerate(scores, 1)]
    marks = [scaled(prompt, across, down) for prompt in prompts]
    return draw.overlay(small, masks, marks, captions=captions)


def write_sheet(out: Path, overlays: Iterable[tuple[str, Path]]) -> None:
    """Puts the first overlays that exist on one page, each above its name."""
    existing = (
        (name, file) for name, file in overlays if os.path.exists(file)
    )  # not a name too long
    found = list(itertools.islice(existing, _ON_SHEET))
    if found:
        page = draw.gallery((decode.read_rgb(file) for _, file in found), [n for n, _ in found])
        files.write(out / FOLDER / SHEET_FILE, draw.png(page))


def scaled(prompt: Prompt, across: float, down: float) -> Prompt:
    """The prompt for a picture that is resized; a point is the middle of its pixel."""
    size = np.array([across, down])
    points = np.maximum((prompt.points + 0.5) * size - 0.5, 0)
    box = None if prompt.box is None else (prompt.box.reshape(2, 2) * size).ravel()
    return Prompt(points=points, labels=prompt.labels, box=box, mask=prompt.mask)
