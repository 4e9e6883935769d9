"""Pictures of results: masks and prompts over a picture, sheets that compare models, galleries.

One style throughout: every query keeps its colour, masks are tinted and outlined, clicks are dots
with a white rim. Small pictures are enlarged by whole factors so that the marks stay legible.
"""

import colorsys
import dataclasses
import io
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from esam_jax.predict import lettering
from esam_jax.predict.prompt import Prompt
from esam_jax.typing import BACKGROUND

_SMALLEST_PX = 384  # long side of an overlay is at least about this
_SHEET_STROKE = 1 / 110  # of the long side: cells of a sheet are small
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_MARGIN, _FOOT = 12, 30  # of a page: between cells, below them
_TITLE_PX, _SMALL_PX = 16, 13  # height of letters
_LABEL_MARGIN = 6 / 13  # around the letters of a label, both sides together, in their height
_LETTERS = 1 / 80  # of the long side of an overlay: their height, where that is more
_RIM = 1.5  # of a dot: the white around it, in radii
_TINT = 0.45  # share of the mask's colour in its inside
_WHITE, _INK, _GREY, _RED = (255, 255, 255), (33, 37, 41), (108, 117, 125), (224, 49, 49)
# Chosen to stay apart on photographs; further queries go round the colour wheel.
_COLOURS = (
    (51, 154, 240),
    (255, 146, 43),
    (81, 207, 102),
    (240, 101, 149),
    (252, 196, 25),
    (151, 117, 250),
    (34, 184, 207),
    (166, 97, 26),
)

_Place = tuple[float, float, float, float]  # left, top, right, bottom


def colour(index: int) -> tuple[int, int, int]:
    """RGB of query number `index`."""
    if index < len(_COLOURS):
        return _COLOURS[index]
    golden = 0.61803398875  # steps by the golden ratio stay far from earlier hues
    red, green, blue = colorsys.hsv_to_rgb(index * golden % 1, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def overlay(
    picture: UInt8[np.ndarray, "H W 3"],
    masks: Bool[np.ndarray, "Q H W"] | None = None,
    prompts: Sequence[Prompt] = (),
    *,
    captions: Sequence[str] = (),
    stroke: float = 1 / 400,
    ground: Literal["colour", "grey"] = "colour",
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The picture with the mask and the prompt of each query in its colour.

    Larger than the picture by a whole factor when that is small. Large masks go below small ones.
    `captions` are written on the masks that have room for them beside the clicks. `stroke` is the
    width of lines as share of the long side; a grey `ground` lets masks stand out.
    """
    factor = max(1, round(_SMALLEST_PX / max(picture.shape[:2])))
    canvas = _enlarged(picture, factor).astype(np.float32)
    if ground == "grey":
        canvas[:] = 90 + 0.55 * (canvas @ _LUMA)[..., None]
    line_px = max(1, round(max(canvas.shape[:2]) * stroke))
    if masks is not None:
        for i in np.argsort([-mask.sum() for mask in masks], kind="stable"):
            _paint_mask(canvas, _enlarged(masks[i], factor), colour(int(i)), line_px)
    image = Image.fromarray(canvas.round().astype(np.uint8))
    for i, prompt in enumerate(prompts):
        _draw_box(image, prompt, factor, colour(i), line_px)
    radius = 2.5 * line_px + 1.5
    taken = [place for prompt in prompts for place in _places(prompt, factor, _RIM * radius)]
    letters_px = max(_SMALL_PX, round(max(image.size) * _LETTERS))
    for i, (mask, caption) in enumerate(zip(masks if masks is not None else (), captions)):
        _write_on(image, mask, factor, caption, letters_px, colour(i), taken)
    canvas = np.array(image, np.float32)
    for i, prompt in enumerate(prompts):
        _paint_points(canvas, prompt, factor, colour(i), radius)
    return canvas.round().astype(np.uint8)


def png(array: UInt8[np.ndarray, "H W 3"] | UInt8[np.ndarray, "H W"]) -> bytes:
    """The bytes of a PNG file, in colour or grey."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One picture of a contact sheet: its prompts, and masks and a caption per further column."""

    picture: UInt8[np.ndarray, "H W 3"]
    prompts: Sequence[Prompt]
    masks: Sequence[Bool[np.ndarray, "_ H W"]]
    captions: Sequence[str]
    name: str = ""


def contact_sheet(
    rows: Sequence[Row], titles: Sequence[str], *, cell_px: int = 208
) -> UInt8[np.ndarray, "_ _ 3"]:
    """A table of pictures: column 0 is the picture with its prompts, then one column per mask set.

    `titles` head the columns; captions stand below the cells.
    """
    margin, head, foot = _MARGIN, 34, _FOOT
    table = [_cells(row, cell_px) for row in rows]
    heights = [max(cell.height for cell in cells) for cells in table]
    width = margin + (cell_px + margin) * len(titles)
    sheet = Image.new("RGB", (width, head + sum(heights) + foot * len(rows)), _WHITE)
    pen = ImageDraw.Draw(sheet)
    middles = [margin + cell_px / 2 + (cell_px + margin) * column for column in range(len(titles))]
    for middle, title in zip(middles, titles, strict=True):
        text, font = _shortened(title, _TITLE_PX, cell_px)
        pen.text((middle, head / 2), text, _INK, font, anchor="mm")
    top = head
    for row, cells, height in zip(rows, table, heights, strict=True):
        captions = (row.name, *row.captions)
        for middle, cell, caption in zip(middles, cells, captions, strict=True):
            sheet.paste(cell, (round(middle - cell.width / 2), top))
            _write_below(pen, middle, top + cell.height, caption, cell_px)
        top += height + foot
    return np.asarray(sheet)


def gallery(
    pictures: Iterable[UInt8[np.ndarray, "_ _ 3"]],
    names: Sequence[str],
    *,
    columns: int = 5,
    cell_px: int = 288,
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Pictures row by row on one page, each with its name below; one at a time is in memory."""
    columns = min(columns, len(names))
    cells = [_fitted(Image.fromarray(picture), cell_px) for picture in pictures]
    rows = [
        range(first, min(first + columns, len(cells))) for first in range(0, len(cells), columns)
    ]
    heights = [max(cells[i].height for i in row) for row in rows]
    width = _MARGIN + (cell_px + _MARGIN) * columns
    page = Image.new("RGB", (width, _MARGIN + sum(heights) + _FOOT * len(rows)), _WHITE)
    pen, top = ImageDraw.Draw(page), _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            middle = _MARGIN + cell_px / 2 + (cell_px + _MARGIN) * column
            page.paste(cells[i], (round(middle - cells[i].width / 2), top))
            _write_below(pen, middle, top + cells[i].height, names[i], cell_px)
        top += height + _FOOT
    return np.asarray(page)


def _fitted(image: Image.Image, cell_px: int) -> Image.Image:
    """The image with a long side of a cell's."""
    scale = cell_px / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _write_below(
    pen: ImageDraw.ImageDraw, middle: float, top: int, text: str, width_px: int
) -> None:
    """A caption below what ends at `top`."""
    shown, font = _shortened(text, _SMALL_PX, width_px)
    pen.text((middle, top + 6), shown, _GREY, font, anchor="mt")


def _shortened(text: str, px: int, width_px: int) -> tuple[str, Any]:
    """The text, or its end where it is too wide, and its font."""
    shown, font = lettering.fitting(text, px)
    while len(shown) > 2 and font.getlength(shown) > width_px:
        shown = "…" + shown[2:]
    return shown, font


def _write_on(
    image: Image.Image,
    mask: np.ndarray,
    factor: int,
    text: str,
    px: int,
    rgb: tuple[int, int, int],
    taken: list[_Place],
) -> None:
    """The text in a row of the mask that is long enough, where nothing is `taken`, or nowhere."""
    shown, font = lettering.fitting(text, px)
    left, top, right, bottom = font.getbbox(shown)
    margin = _LABEL_MARGIN * px
    wide, high = right - left + margin, bottom - top + margin
    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) * factor < high:
        return
    # In the middle of the row if possible; from the middle row outwards.
    for side, share in itertools.product(
        (0.5, 0, 1), (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8, 0.1, 0.9)
    ):
        row = rows[int(share * len(rows))]
        turns = np.flatnonzero(np.diff(np.pad(mask[row].astype(np.int8), 1)))
        begins, ends = turns[::2], turns[1::2]
        longest = np.argmax(ends - begins)
        first = factor * float(begins[longest]) + wide / 2
        last = factor * float(ends[longest]) - wide / 2
        x, y = first + side * (last - first), factor * (float(row) + 0.5)
        place = (x - wide / 2, y - high / 2, x + wide / 2, y + high / 2)
        if first <= last and not any(_overlap(place, other) for other in taken):
            taken.append(place)
            pen = ImageDraw.Draw(image)
            pen.rectangle(place, fill=rgb)
            pen.text((x, y), shown, _INK, font, anchor="mm")
            return


def _overlap(one: _Place, other: _Place) -> bool:
    across = one[0] <= other[2] and one[2] >= other[0]
    return across and one[1] <= other[3] and one[3] >= other[1]


def _cells(row: Row, cell_px: int) -> list[Image.Image]:
    drawn = [overlay(row.picture, None, row.prompts, stroke=_SHEET_STROKE)]
    drawn += [
        overlay(row.picture, masks, stroke=_SHEET_STROKE, ground="grey") for masks in row.masks
    ]
    return [_fitted(Image.fromarray(array), cell_px) for array in drawn]


def _enlarged(array: np.ndarray, factor: int) -> np.ndarray:
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def _paint_mask(
    canvas: np.ndarray, mask: np.ndarray, rgb: tuple[int, int, int], line_px: int
) -> None:
    canvas[mask] = (1 - _TINT) * canvas[mask] + _TINT * np.asarray(rgb, np.float32)
    canvas[mask & ~_eroded(mask, line_px)] = rgb


def _eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """The mask less a rim of that many pixels, also where it touches the edge of the picture."""
    for _ in range(steps):
        inner = np.pad(mask, 1)
        mask = mask & inner[2:, 1:-1] & inner[:-2, 1:-1] & inner[1:-1, 2:] & inner[1:-1, :-2]
    return mask


def _draw_box(
    image: Image.Image, prompt: Prompt, factor: int, rgb: tuple[int, int, int], line_px: int
) -> None:
    if prompt.box is None:
        return
    x0, y0, x1, y1 = (prompt.box * factor).tolist()
    pen = ImageDraw.Draw(image)
    # Pillow's lines grow inwards, so the white rim is a wider box drawn first.
    for rim, stroke in ((max(1, line_px // 4), _WHITE), (0, rgb)):
        out = line_px / 2 + rim
        corners = (x0 - out, y0 - out, x1 - 1 + out, y1 - 1 + out)
        pen.rectangle(corners, outline=stroke, width=line_px + 1 + 2 * rim)


def _places(prompt: Prompt, factor: int, radius: float) -> list[_Place]:
    """Where the dots of a prompt lie."""
    centres = (prompt.points + 0.5) * factor - 0.5
    return [(x - radius, y - radius, x + radius, y + radius) for x, y in centres.tolist()]


def _paint_points(
    canvas: np.ndarray, prompt: Prompt, factor: int, rgb: tuple[int, int, int], radius: float
) -> None:
    """Dots in the query's colour, background ones in red; both with a white rim."""
    for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
        centre = ((x + 0.5) * factor - 0.5, (y + 0.5) * factor - 0.5)
        _paint_disc(canvas, *centre, _RIM * radius, _WHITE)
        _paint_disc(canvas, *centre, radius, _RED if label == BACKGROUND else rgb)


def _paint_disc(
    canvas: np.ndarray, x: float, y: float, radius: float, rgb: tuple[int, int, int]
) -> None:
    """Smooth-edged: a pixel is covered by how far its centre lies inside the circle."""
    reach = math.ceil(radius) + 1
    rows = slice(max(0, int(y) - reach), int(y) + reach + 2)
    columns = slice(max(0, int(x) - reach), int(x) + reach + 2)
    patch = canvas[rows, columns]
    row, column = np.mgrid[: patch.shape[0], : patch.shape[1]]
    distance = np.hypot(row + rows.start - y, column + columns.start - x)
    share = np.clip(radius + 0.5 - distance, 0, 1)[..., None]
    patch[:] = (1 - share) * patch + share * np.asarray(rgb)
