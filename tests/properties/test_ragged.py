"""Whatever is asked together, every query gets the answer that it gets alone, from few programs."""

import functools

import numpy as np
import pytest
from helpers import nano, tiny
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.ops import geometry
from esam_jax.predict import batches, programs
from esam_jax.predict.embedding import Embedding
from esam_jax.predict.prompt import Prompt
from esam_jax.typing import PADDING

SIZES = [(40, 56), (64, 64), (90, 17)]
MASK = np.random.default_rng(0).random((9, 11)) > 0.5
MOST_PROGRAMS = 8
NAMES = ["efficientsam_nano", pytest.param("sam_nano", marks=pytest.mark.slow)]


def questions(height: int, width: int) -> list[Prompt]:
    """Of every kind: points of either label, boxes, masks, and all of them together."""
    rng = np.random.default_rng(height)

    def points(count: int) -> np.ndarray:
        return rng.uniform(0, [width - 1, height - 1], (count, 2))

    box = [2.5, 3, width - 4, height - 5.5]
    asked = [Prompt(points=points(1)) for _ in range(4)]
    asked += [Prompt(box=box), Prompt(box=[0, 0, width, height])]
    asked += [Prompt(points=points(count)) for count in (2, 3, 4)]
    asked += [Prompt(points=points(2), box=box), Prompt(points=points(4), box=box)]
    return asked


@functools.cache
def all_questions(name: str, height: int, width: int) -> list[Prompt]:
    asked = questions(height, width)
    if name == "sam_nano":
        box = [2.5, 3, width - 4, height - 5.5]
        asked += [Prompt(points=[[1, 1], [5, 7]], labels=[1, 0])]
        asked += [Prompt(mask=MASK), Prompt(box=box, mask=MASK)]
        asked += [Prompt(points=[[3, 4]] * 14, mask=MASK)]
    return asked


@functools.cache
def encoded(name: str, picture: int) -> Embedding:
    return nano.sam(name).encode(nano.picture(*SIZES[picture], picture))


@functools.cache
def network(name: str):
    return tiny.jit(functools.partial(nano.sam(name).model.apply, method="decode"))


@functools.cache
def alone(name: str, picture: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits and scores of one query, from the network, with its own tokens and no other."""
    sam, (height, width) = nano.sam(name), SIZES[picture]
    config, prompt = sam.config, all_questions(name, height, width)[number]
    efficient = config.decoder.wiring == "efficientsam"
    points, labels = prompt.padded(config.decoder.point_slots if efficient else prompt.tokens)
    points = geometry.to_model(points, height, width, config.image_px, config.fit)
    points = np.where(labels[:, None] == PADDING, -1, points).astype(np.float32)
    mask = None
    if prompt.mask is not None:
        mask = batches.mask_logits(prompt.mask, config, height, width)[None, None]
    features = encoded(name, picture).features
    logits, iou = network(name)(
        {"params": sam.params}, features, points[None, None], labels[None, None], mask
    )
    return np.asarray(logits)[0, 0], np.asarray(iou)[0, 0]


def check(name: str, picture: int, numbers: list[int], masks, kept: slice) -> None:
    assert len(masks.low_res) == len(numbers)
    for number, low_res, scores in zip(numbers, masks.low_res, masks.scores, strict=True):
        logits, iou = alone(name, picture, number)
        # Sums of the size of the largest logit, in another order.
        np.testing.assert_allclose(low_res, logits[kept], rtol=0, atol=2e-5 * np.abs(logits).max())
        np.testing.assert_allclose(scores, iou[kept], rtol=0, atol=2e-5 * np.abs(iou).max())


def compiled(run) -> int:
    """Decoder programs that are compiled while `run` runs, none being there before."""
    programs.decode.clear_cache()
    run()
    return programs.decode._cache_size()


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_prompts_and_any_chunking_give_the_same_masks(name: str):
    asked = all_questions(name, *SIZES[0])

    def session() -> None:
        for count in (1, 31, 32, 33, 97):
            numbers = [(7 * i + i // 50) % len(asked) for i in range(count)]
            masks = nano.sam(name).decode(encoded(name, 0), [asked[i] for i in numbers])
            check(name, 0, numbers, masks, slice(1, None))
        for most in (2, 8, 31):
            numbers = list(range(len(asked))) * 3
            for first in range(0, len(numbers), most):
                chunk = numbers[first : first + most]
                masks = nano.sam(name).decode(encoded(name, 0), [asked[i] for i in chunk])
                check(name, 0, chunk, masks, slice(1, None))

    assert compiled(session) <= MOST_PROGRAMS


@pytest.mark.parametrize("name", NAMES)
def test_ragged_batches_in_any_order_give_what_each_query_gives_alone(name: str):
    """A random session of many calls: right every time, from at most eight programs."""
    sam = nano.sam(name)
    many = len(all_questions(name, *SIZES[0]))
    lists = st.lists(st.integers(0, many - 1), min_size=1, max_size=20)
    albums = st.lists(st.tuples(st.integers(0, len(SIZES) - 1), lists), min_size=1, max_size=5)

    @given(albums, st.booleans())
    def session(batch: list[tuple[int, list[int]]], multimask: bool) -> None:
        pictures = [nano.picture(*SIZES[picture], picture) for picture, _ in batch]
        asked = [
            [all_questions(name, *SIZES[picture])[number] for number in numbers]
            for picture, numbers in batch
        ]
        answers = sam.decode(sam.encode(pictures), asked, multimask=multimask)
        kept = slice(1, None) if multimask else slice(0, 1)
        for (picture, numbers), masks in zip(batch, answers, strict=True):
            check(name, picture, numbers, masks, kept)

    assert compiled(session) <= MOST_PROGRAMS
