"""Sheets of examples: as a run sees them, or records with all that their source says of them."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from esam_jax.config import DataConfig
from esam_jax.data import views
from esam_jax.data.bitmaps import Grid
from esam_jax.data.examples import Examples, Tally
from esam_jax.data.labels import Label, SemanticMap
from esam_jax.data.mask_sets import SoundMasks
from esam_jax.data.order import Order
from esam_jax.data.records import Record, Source
from esam_jax.data.views import View, resize
from esam_jax.errors import DataError, DiskError, MissingError
from esam_jax.ops import images, rectangles
from esam_jax.predict import draw, overlays
from esam_jax.predict.prompt import Prompt
from esam_jax.typing import BACKGROUND, BOTTOM_RIGHT, FOREGROUND, TOP_LEFT
from esam_jax.words import counted

_LONG_PX = 512  # of a picture while it is drawn: all of its masks lie in memory then
_CELL_PX = 320  # of each panel on the page
_WIDE = 4  # panels beside each other
_MOST_MASKS = 256  # of a record, the largest: more cannot be distinguished
_MOST_CLASSES = 256
_STROKE = 1 / 160  # of the long side


@dataclasses.dataclass(frozen=True)
class Shown:
    """What is drawn of one example: masks and prompts of each query, and further panels of masks.

    `more` names them: a set of masks, and what is written on them.
    """

    name: str
    picture: UInt8[np.ndarray, "H W 3"]
    masks: Bool[np.ndarray, "Q H W"] | None = None
    prompts: Sequence[Prompt] = ()
    more: Sequence[tuple[Bool[np.ndarray, "_ H W"], Sequence[str]]] = ()
    about: str = ""


def examples(
    source: Source, config: DataConfig, *, seed: int, batch: int, first_batch: int = 0
) -> Iterator[Shown]:
    """The endless examples of a run from that batch on, exactly as its loader makes them.

    TrainingError or DiskError where too many records are unusable, as in the run; ConfigError where
    its view does not fit the data.
    """
    view = config.view
    if views.takes_from_data(view):
        view = views.adapted(view, source)
    made = Examples(source, view, seed, config.repeats)
    tally = Tally(made, config.max_broken_share)
    for position in itertools.count(first_batch * batch):
        yield of_view(*tally.named_view_of(made[position]))


def of_view(name: str, view: View) -> Shown:
    """What a view holds, unpacked: nothing is drawn that the run is not given."""
    image = view["image"]
    if "label" in view:
        return Shown(name, _with_noise(view), about=f"class {view['label']}")
    if "masks" not in view:
        return Shown(name, image)
    used = view["valid"] > 0
    masks = np.unpackbits(view["masks"][used], axis=-1, count=image.shape[1]).astype(bool)
    queries = zip(view["points"][used], view["labels"][used], strict=True)
    prompts = [_prompt(points, labels) for points, labels in queries]
    return Shown(name, image, masks, prompts, about=counted(len(masks), "mask"))


def _with_noise(view: View) -> UInt8[np.ndarray, "H W 3"]:
    """The picture of a view for classification, with the noise that hides a part of it."""
    rows = (np.asarray(view[name])[None] for name in ("image", "erased", "noise"))
    image, box, seed = map(jnp.asarray, rows)
    pixels = rectangles.erased(images.normalise(image), box, seed)
    return np.asarray(images.as_picture(pixels)[0])


def _prompt(points: np.ndarray, labels: np.ndarray) -> Prompt:
    """What is given for one query; its box from edge to edge of its outermost pixels."""
    clicks = np.isin(labels, (BACKGROUND, FOREGROUND))
    box = None
    if (labels == TOP_LEFT).any():
        corners = points[labels == TOP_LEFT][0], points[labels == BOTTOM_RIGHT][0]
        box = np.add(np.concatenate(corners), (0, 0, 1, 1), dtype=np.float64)
    return Prompt(points=points[clicks], labels=labels[clicks], box=box)


def records(
    source: Source, *, seed: int, left_out: Callable[[str], object] = lambda reason: None
) -> Iterator[Shown]:
    """Every record once, in the order of the first epoch of a run with that seed.

    `left_out` is called with the reason for one that cannot be read.
    """
    order = Order(len(source), seed)
    for position in range(len(source)):
        _, index = order[position]
        try:
            yield of_record(source.read(index))
        except (DataError, MissingError, DiskError) as error:
            left_out(f"{source.name(index)}: {error}")


def of_record(record: Record) -> Shown:
    """A record with all of its annotations, no larger than it is drawn."""
    picture = record.picture
    scale = min(1.0, _LONG_PX / max(picture.height, picture.width))
    height, width = (max(1, round(side * scale)) for side in (picture.height, picture.width))
    small = Image.fromarray(picture.rgb()).resize((width, height), Image.Resampling.LANCZOS)
    grid = Grid(
        picture.height,
        picture.width,
        resize.nearest(picture.height, height),
        resize.nearest(picture.width, width),
    )
    about, masks, more = [], None, []
    if "label" in record.annotations:
        label: Label = record.annotations["label"]
        about.append(label.name)
    if "masks" in record.annotations:
        masks, words = _masks(record, grid)
        about.append(words)
    if "semantic" in record.annotations:
        more.append(_classes(record.annotations["semantic"], grid))
    if "boundaries" in record.annotations:
        boundaries = record.annotations["boundaries"]
        about.append(counted(len(boundaries), "annotator"))
        more.append((_thin(boundaries, width, height), ()))
    return Shown(record.name, np.asarray(small), masks, (), more, ", ".join(about))


def _masks(record: Record, grid: Grid) -> tuple[Bool[np.ndarray, "Q H W"], str]:
    """The largest masks on a grid, in the order of the record, and in words how many there are."""
    masks = SoundMasks(record)
    found = [mask for i in range(len(masks)) if (mask := masks.sample(i, grid)) is not None]
    masks.require_some()
    kept = np.argsort([-mask.area() for mask in found], kind="stable")[:_MOST_MASKS]
    size = len(grid.rows), len(grid.columns)
    dense = np.zeros((len(kept), *size), bool)
    for slot, index in zip(dense, sorted(kept.tolist()), strict=True):
        slot[:] = found[index].dense()
    words = counted(len(found), "mask")
    return dense, words if len(kept) == len(found) else f"the largest {len(kept)} of {words}"


def _classes(found: SemanticMap, grid: Grid) -> tuple[Bool[np.ndarray, "_ H W"], tuple[str, ...]]:
    """A mask for each class, which has one colour in all pictures, and its name."""
    values = found.values.take(grid.rows, 0).take(grid.columns, 1)
    known = sorted({*found.names} - found.void) or list(range(_MOST_CLASSES))
    known += sorted({*np.unique(values).tolist()} - {*known} - found.void)
    known = known[: max(_MOST_CLASSES, len(found.names))]
    masks = np.stack([values == value for value in known])
    return masks, tuple(found.names.get(value, f"{value}") for value in known)


def _thin(
    boundaries: Bool[np.ndarray, "_ H W"], width: int, height: int
) -> Bool[np.ndarray, "_ {height} {width}"]:
    """The boundaries of each annotator, made smaller without gaps."""
    thick = [
        Image.fromarray(each.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BOX)
        for each in boundaries
    ]
    return np.stack([np.asarray(each) > 0 for each in thick])


def sheet(found: Iterable[Shown], count: int) -> tuple[UInt8[np.ndarray, "_ _ 3"], list[str]]:
    """The first `count` examples on one page, each above its name, and these names.

    The picture with its prompts, its masks beside it, and what else there is. DataError where there
    is no example.
    """
    panels: list[UInt8[np.ndarray, "_ _ 3"]] = []
    names: list[str] = []
    captions: list[str] = []
    wide = 1
    for each in itertools.islice(found, count):
        drawn = _panels(each)
        wide = max(wide, len(drawn))
        panels.append(np.concatenate(drawn, axis=1))
        names.append(each.name)
        captions.append(f"{each.name}: {each.about}" if each.about else each.name)
    if not panels:
        raise DataError("no record can be shown: `esam data check` says more of each")
    columns, cell_px = max(1, _WIDE // wide), _CELL_PX * wide
    return draw.gallery(panels, captions, columns=columns, cell_px=cell_px), names


def _panels(shown: Shown) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """Pictures of one size, no higher than wide: a page of them has rows of about one height."""
    small, masks, prompts = _reduced(shown)
    grey: Any = {"stroke": _STROKE, "ground": "grey"}
    drawn = [draw.overlay(small, None, prompts, stroke=_STROKE)]
    if masks is not None:
        drawn.append(draw.overlay(small, masks, **grey))
    for each, captions in shown.more:
        drawn.append(draw.overlay(small, each, captions=captions, **grey))
    height, width = drawn[0].shape[:2]
    beside = max(0, height - width)
    margins = ((0, 0), (beside // 2, beside - beside // 2), (0, 0))
    return [np.pad(each, margins, constant_values=255) for each in drawn]


def _reduced(
    shown: Shown,
) -> tuple[UInt8[np.ndarray, "_ _ 3"], Bool[np.ndarray, "Q _ _"] | None, list[Prompt]]:
    """Picture, masks and prompts at the size at which they are drawn."""
    height, width = shown.picture.shape[:2]
    scale = _LONG_PX / max(height, width)
    if scale >= 1:
        return shown.picture, shown.masks, list(shown.prompts)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(shown.picture).resize(size, Image.Resampling.LANCZOS)
    rows, columns = resize.nearest(height, size[1]), resize.nearest(width, size[0])
    masks = None if shown.masks is None else shown.masks.take(rows, 1).take(columns, 2)
    shares = size[0] / width, size[1] / height
    prompts = [overlays.scaled(prompt, *shares) for prompt in shown.prompts]
    return np.asarray(picture), masks, prompts
