"""Prompts of some pictures -> calls of the decoder, of few shapes.

A compilation costs as much as hundreds of answers, so queries and points are filled up to a few
sizes. Queries do not see each other: a copy more changes nothing. Tokens of one query do, so what
fills them up is labelled NOTHING, and attended to by none (in SAM's wiring; in EfficientSAM's
every query has all its slots anyway).

    tokens of a query   mask   (pictures, queries of each) of one call
    up to 4             no     (1, 1) (1, 8) (1, 32) (1, 64) (1, 128) (1, 256) (8, 1)
    up to 16            no     (1, 1) (1, 8)
    up to 16            yes    (1, 1) (1, 8)

More tokens than 16 go to 64, then 256, and so on, each as the last two rows say. What the device
has no room for (`room.py`) is left out, and on a CPU, which computes it no faster, more than 32.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from esam_jax.config import SamConfig
from esam_jax.ops import geometry
from esam_jax.predict import frames
from esam_jax.predict.prompt import Prompt
from esam_jax.typing import NOTHING, PADDING, PADDING_XY

FEW = 8  # queries for which there must be room
_SIZES = (1, FEW, 32, 64, 128, 256)  # of one picture in one call
_PICTURES = 8
MOST_SHARED = FEW // 2  # of one picture, in a call that pictures share
_FEW_TOKENS, _MANY_TOKENS = 4, 16
_CERTAIN = 10.0  # logit of a pixel that a 0/1 mask covers, minus that where it does not


@dataclasses.dataclass(frozen=True)
class Call:
    """Queries for one call of the decoder.

    `pictures` are places in the list of pictures; `asked` are the (picture, query) that are
    answered, row by row, and the rest of B x Q are copies. Points are in pixels of the square model
    input, mask logits at the decoder's own size.
    """

    pictures: Int[np.ndarray, " B"]
    asked: Sequence[tuple[int, int]]
    points: Float[np.ndarray, "B Q P 2"]
    labels: Int[np.ndarray, "B Q P"]
    masks: Float[np.ndarray, "B Q l l"] | None


def calls(
    lists: Sequence[Sequence[Prompt]],
    config: SamConfig,
    sizes: Sequence[tuple[int, int]],
    most: int,
) -> Iterator[Call]:
    """Covers every prompt of every picture once, at most so many in one call, or `FEW`.

    sizes: (height, width) of the pictures.
    """
    kinds: dict[tuple[int, bool], list[tuple[int, int]]] = {}
    for picture, prompts in enumerate(lists):
        for i, prompt in enumerate(prompts):
            kinds.setdefault(kind(prompt, config), []).append((picture, i))
    for (slots, masked), members in kinds.items():
        for asked, shape in _cut(members, is_plain((slots, masked), config), most):
            yield _call(lists, asked, shape, slots, masked, config, sizes)


def mask_logits(
    mask: np.ndarray, config: SamConfig, height: int, width: int
) -> Float[np.ndarray, "l l"]:
    """Logits for the prompt encoder: floats as they are, booleans stretched over the picture.

    A cell covered to the share s gets 10 (2 s - 1); SAM's padding beside the picture gets -10.
    """
    if mask.dtype.kind == "f":
        return mask
    side = config.low_res_px
    cells_high, cells_wide = frames.valid(height, width, config)
    picture = Image.fromarray(mask.astype(np.float32))
    share = np.asarray(picture.resize((cells_wide, cells_high), Image.Resampling.BOX))
    covered = np.zeros((side, side), np.float32)
    covered[:cells_high, :cells_wide] = share
    return _CERTAIN * (2 * covered - 1)


def few_slots(config: SamConfig) -> int:
    """Tokens of most queries, as they are decoded."""
    decoder = config.decoder
    return decoder.point_slots if decoder.traits.fixed_slots else _FEW_TOKENS


def _slots(prompt: Prompt, config: SamConfig) -> int:
    """Tokens of the query as they are decoded: one of few numbers."""
    if config.decoder.traits.fixed_slots:
        return config.decoder.point_slots
    if prompt.tokens <= _FEW_TOKENS and prompt.mask is None:
        return _FEW_TOKENS
    slots = _MANY_TOKENS
    while slots < prompt.tokens:
        slots *= 4
    return slots


def _cut(
    members: list[tuple[int, int]], plain: bool, most: int
) -> Iterator[tuple[list[tuple[int, int]], tuple[int, int]]]:
    """Members of one kind, in order of pictures, as (asked, (pictures, queries of each))."""
    by_picture: dict[int, list[tuple[int, int]]] = {}
    for member in members:
        by_picture.setdefault(member[0], []).append(member)
    alone = []
    for own in by_picture.values():
        for run, size in _runs(own, _SIZES if plain else (1, FEW), most):
            if size == 1:
                alone += run
            else:
                yield run, (1, size)
    several = plain and len({picture for picture, _ in alone}) > 1
    for run, size in _runs(alone, (1, _PICTURES) if several else (1,), most):
        yield run, (size, 1)


def _runs(
    items: list[tuple[int, int]], sizes: tuple[int, ...], most: int
) -> Iterator[tuple[list[tuple[int, int]], int]]:
    """Runs of the given sizes, longest first; one is filled up only when more than half full."""
    first = 0
    while first < len(items):
        size = _size(len(items) - first, sizes, most)
        yield items[first : first + size], size
        first += size


def _size(left: int, sizes: tuple[int, ...], most: int) -> int:
    return max(size for size in sizes if size == 1 or (size <= max(most, FEW) and size < 2 * left))


def kind(prompt: Prompt, config: SamConfig) -> tuple[int, bool]:
    """Tokens as they are decoded, and whether there is a mask: one call has one kind."""
    return _slots(prompt, config), prompt.mask is not None


def is_plain(kind: tuple[int, bool], config: SamConfig) -> bool:
    """Of few tokens and without a mask: many go in one call where there is room."""
    slots, masked = kind
    return not masked and slots <= few_slots(config)


def largest(lists: Sequence[Sequence[Prompt]], config: SamConfig, most: int) -> int:
    """Queries of the largest call for the plain ones of these."""
    counts = (sum(is_plain(kind(prompt, config), config) for prompt in each) for each in lists)
    return max((_size(count, _SIZES, most) for count in counts), default=1)


def sizes(count: int, most: int) -> list[int]:
    """Queries of the calls for up to so many of one picture."""
    return [size for size in _SIZES if _size(size, _SIZES, most) == size < max(2, 2 * count)]


def shared(pictures: int, queries: int, prompt: Prompt) -> Iterator[list[list[Prompt]]]:
    """Prompts about several pictures that share a call; none where so many never do.

    With the features of the pictures in another order than they come, and in theirs.
    """
    each = -(-(_PICTURES // 2 + 1) // pictures)
    if each <= min(queries, MOST_SHARED):
        few = min(pictures, _PICTURES // 2 + 1)
        yield [[prompt] * each] * few + [[]] * (pictures - few)
        if pictures == _PICTURES:
            yield [[prompt]] * pictures


def _call(
    lists: Sequence[Sequence[Prompt]],
    asked: list[tuple[int, int]],
    shape: tuple[int, int],
    slots: int,
    masked: bool,
    config: SamConfig,
    sizes: Sequence[tuple[int, int]],
) -> Call:
    spare = shape[0] * shape[1] - len(asked)
    filled = asked + asked[:1] * spare
    rows = [(lists[picture][i], *sizes[picture]) for picture, i in filled]
    pairs = [_input(prompt, slots, config, height, width) for prompt, height, width in rows]
    points, labels = (np.stack(each) for each in zip(*pairs, strict=True))
    masks = None
    if masked:
        masks = np.stack([mask_logits(prompt.mask, config, *size) for prompt, *size in rows])
        masks = masks.reshape(*shape, *masks.shape[1:])
    return Call(
        pictures=np.array([picture for picture, _ in filled[:: shape[1]]]),
        asked=asked,
        points=points.reshape(*shape, slots, 2),
        labels=labels.reshape(*shape, slots),
        masks=masks,
    )


def _input(
    prompt: Prompt, slots: int, config: SamConfig, height: int, width: int
) -> tuple[Float[np.ndarray, "P 2"], Int[np.ndarray, " P"]]:
    """Points and labels of one query, in the frame of the model input."""
    traits = config.decoder.traits
    points, labels = prompt.padded(slots if traits.fixed_slots else prompt.tokens)
    points = geometry.to_model(points, height, width, config.image_px, config.fit)
    # EfficientSAM keeps the position code of an empty slot, and its place is (-1, -1) of the input.
    points = np.where(labels[:, None] == PADDING, PADDING_XY, points).astype(np.float32)
    spare = slots - len(labels)
    points = np.pad(points, ((0, spare), (0, 0)))
    return points, np.pad(labels, (0, spare), constant_values=NOTHING)


def query(
    prompt: Prompt, config: SamConfig, height: int, width: int
) -> tuple[Float[np.ndarray, "P 2"], Int[np.ndarray, " P"]]:
    """Points and labels of one prompt without a mask, as the decoder takes them; few sizes of P."""
    return _input(prompt, _slots(prompt, config), config, height, width)
