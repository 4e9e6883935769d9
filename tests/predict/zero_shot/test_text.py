"""Masks ranked for texts: the planted match is first, whatever the crop; and what is refused."""

import functools
import math

import jax
import numpy as np
import pytest
from helpers import nano

import esam_jax as esam
from esam_jax.config import ComputeConfig
from esam_jax.errors import DataError, MissingError, PromptError
from esam_jax.models import named
from esam_jax.models.clip import towers
from esam_jax.predict import tokenizer
from esam_jax.predict.clip import Clip
from esam_jax.predict.zero_shot import text

HEIGHT, WIDTH, OBJECTS = 72, 96, 6
CASES = 20


@functools.cache
def clip() -> Clip:
    """Small, of random weights: it knows nothing, and tells pictures and texts apart."""
    config = named.model("clip_nano")
    return Clip(towers.Clip(config, ComputeConfig()), nano.params(config))


class Planted(Clip):
    """A CLIP whose text features are those of given pictures, and whose towers are real."""

    def __init__(self, base: Clip, meant: dict[str, np.ndarray]) -> None:
        super().__init__(base.model, base.params)
        self.meant, self.seen = meant, []

    def encode_text(self, texts, *, truncate=False):
        return super().encode_image([self.meant[each] for each in texts])

    def encode_image(self, pictures):
        self.seen.append(len(pictures))
        return super().encode_image(pictures)


def scene(seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Textured blobs on a grid of cells, each of another place, size and colour; and specks, which
    no text may mean."""
    rng = np.random.default_rng(seed)
    picture = nano.picture(HEIGHT, WIDTH, seed) // 4
    masks = []
    for i in range(OBJECTS):
        row, column = divmod(i, 3)
        height, width = rng.integers(14, 30), rng.integers(14, 28)
        y = 36 * row + rng.integers(0, 36 - height)
        x = 32 * column + rng.integers(0, 32 - width)
        ys, xs = np.mgrid[:HEIGHT, :WIDTH]
        inside = np.hypot((ys - y - height / 2) / height, (xs - x - width / 2) / width) < 0.5
        picture[inside] = rng.integers(0, 256, 3) * 0.8 + rng.integers(0, 50, (inside.sum(), 3))
        masks.append(inside)
    for place in (0, 3):  # left out between the others, so that a place counted wrongly shows
        speck = np.zeros((HEIGHT, WIDTH), bool)
        speck[place : place + 3, 90:94] = True
        masks.insert(place, speck)
    return picture, masks


def expected(picture: np.ndarray, mask: np.ndarray, style: str) -> np.ndarray:
    """The crop of a mask, worked out another way than the package does."""
    ys, xs = np.nonzero(mask)
    y0, y1, x0, x1 = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
    if style == "white_frame":
        seen = np.full_like(picture, 255)
        seen[y0:y1, x0:x1] = picture[y0:y1, x0:x1]
        return seen
    seen = picture.copy()
    if style == "cut_out":
        seen[~mask] = (123, 117, 104)
    side = int(1.5 * max(y1 - y0, x1 - x0) + 0.5)
    top = min(max(y0 + math.floor((y1 - y0 - side) / 2), 0), HEIGHT - side)
    left = min(max(x0 + math.floor((x1 - x0 - side) / 2), 0), WIDTH - side)
    return seen[top : top + side, left : left + side]


@pytest.mark.parametrize("style", ["white_frame", "tight", "cut_out"])
def test_a_planted_match_ranks_first_in_20_of_20_scenes(style: str):
    first = []
    for seed in range(CASES):
        picture, masks = scene(seed)
        large = [i for i, mask in enumerate(masks) if mask.sum() > 100]
        wanted = large[seed % len(large)]
        other = large[(seed + 1) % len(large)]
        meant = {
            "a duck": expected(picture, masks[wanted], style),
            "a boat": expected(picture, masks[other], style),
        }
        planted = Planted(clip(), meant)
        found = text.ranked(picture, masks, [*meant], clip=planted, crop_style=style)
        first.append((int(found.ranked(0)[0]), int(found.ranked(1)[0])) == (wanted, other))
        assert planted.seen == [len(large)]  # once for both texts, without the specks
        assert found.scored.tolist() == large
        assert found.similarities.max(1) == pytest.approx(1, abs=1e-5)
        np.testing.assert_array_equal(found.best()[0], masks[wanted])
    assert first == [True] * CASES


def test_similarities_and_probabilities():
    picture, masks = scene(3)
    texts = ["a red thing", "something green"]
    found = text.ranked(picture, masks, texts, clip=clip(), crop_style="tight", min_area=0)
    assert len(found.scored) == len(masks)
    crops = [expected(picture, mask, "tight") for mask in masks[1:3]]
    pictures, words = clip().encode_image(crops), clip().encode_text(texts)
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    np.testing.assert_allclose(found.similarities[:, 1:3], words @ pictures.T, atol=1e-5)
    scale = np.exp(clip().logit_scale)
    assert found.scale == pytest.approx(scale)
    logits = np.exp(scale * found.similarities.astype(np.float64))
    np.testing.assert_allclose(
        found.probabilities, logits / logits.sum(1, keepdims=True), rtol=1e-5
    )
    fastsam = text.ranked(picture, masks, texts, clip=clip(), scale=text.FASTSAM_SCALE)
    assert fastsam.scale == 100
    np.testing.assert_array_equal(
        fastsam.ranked(1), fastsam.scored[np.argsort(-fastsam.probabilities[1], kind="stable")]
    )


def test_templates_are_averaged_as_clip_averages_them():
    picture, masks = scene(4)
    templates = ["a photo of a {}.", "{}"]
    found = text.ranked(picture, masks, "dog", clip=clip(), templates=templates)
    each = clip().encode_text(["a photo of a dog.", "dog"])
    each /= np.linalg.norm(each, axis=1, keepdims=True)
    mean = each.mean(0) / np.linalg.norm(each.mean(0))
    crop = expected(picture, masks[found.scored[2]], "white_frame")
    seen = clip().encode_image(crop)[0]
    assert found.similarities[0, 2] == pytest.approx(mean @ seen / np.linalg.norm(seen), abs=1e-5)
    assert found.texts == ("dog",)


def test_equal_masks_stay_in_their_order():
    picture, masks = scene(5)
    twice = [masks[1], masks[2], masks[1]]
    found = text.ranked(picture, twice, "a dog", clip=clip())
    assert found.similarities[0, 0] == found.similarities[0, 2]
    ranks = found.ranked().tolist()
    assert ranks.index(0) < ranks.index(2)


def test_a_function_takes_the_place_of_clip_in_parts_of_64_crops():
    picture, masks = scene(6)
    many, sizes = [masks[1 + i % 2] for i in range(70)], []

    def scorer(crops, texts):
        sizes.append(len(crops))
        assert texts == ["dog", "cat", "a dog", "a cat"]
        return np.array([[crop.mean() + i for crop in crops] for i in range(len(texts))])

    found = text.ranked(
        picture, many, ["dog", "cat"], clip=scorer, crop_style="tight", templates=["{}", "a {}"]
    )
    assert sizes == [64, 6] and found.scale == 1
    means = [expected(picture, mask, "tight").mean() for mask in many]
    np.testing.assert_allclose(found.similarities, [np.add(means, 1), np.add(means, 2)], rtol=1e-6)
    for returned, about in (([1.0, 2.0], "a list"), ("good", "a str"), (np.ones(2), r"\S+ \(2,\)")):
        with pytest.raises(PromptError, match=rf"clip returned {about} for 1 text and 1 crop"):
            text.ranked(picture, masks[1:2], "dog", clip=lambda *_, given=returned: given)


def test_features_that_are_not_finite_rank_nothing():
    picture, masks = scene(6)
    broken = Clip(clip().model, jax.tree.map(lambda leaf: leaf * np.nan, clip().params))
    with pytest.raises(DataError, match="clip gave features that are not finite"):
        text.ranked(picture, masks, "dog", clip=broken)


def everything() -> dict:
    return {
        "points_per_side": 3,
        "pred_iou_thresh": -1e9,
        "stability_score_thresh": 0.0,
        "box_nms_thresh": 1.0,
    }


def test_a_model_finds_the_masks():
    sam, picture = nano.sam("sam_nano"), nano.picture(40, 56)
    found = sam.text(picture, ["a dog", "a cat"], clip=clip(), **everything())
    records = esam.AutomaticMaskGenerator(sam, **everything()).generate(picture)
    assert len(found.masks) == len(records) > 1
    wanted = [i for i, record in enumerate(records) if record["area"] > 100]
    assert found.scored.tolist() == wanted and found.similarities.shape == (2, len(wanted))
    best = found.best(1, top=3)
    assert len(best) == min(3, len(wanted))
    np.testing.assert_array_equal(best[0], records[found.ranked(1)[0]]["segmentation"])
    given = sam.text(picture, ["a dog", "a cat"], clip=clip(), masks=records)
    np.testing.assert_allclose(given.similarities, found.similarities, atol=1e-6)


def test_no_mask_is_an_answer():
    sam = nano.sam("sam_nano")
    for picture in (np.zeros((1, 1, 3), np.uint8), np.full((40, 56, 3), 90, np.uint8)):
        options = {**everything(), "stability_score_thresh": 1.0, "stability_score_offset": 1e6}
        found = sam.text(picture, ["a dog", "a cat"], clip=clip(), **options)
        assert found.similarities.shape == found.probabilities.shape == (2, 0)
        assert found.ranked(1).shape == (0,) and found.best(1) == []


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("", {}, r"texts\[0\] is '', which has no words: describe an object"),
        (["a dog", " \n"], {}, r"texts\[1\] is ' \\n', which has no words"),
        ([], {}, r"texts is \[\], but must be text"),
        (["a dog", 3], {}, r"texts\[1\] is a int, but must be text"),
        (
            ["cat " * 76],
            {},
            r"texts\[0\] is 'cat cat .*\.\.\.', which has 78 tokens, start and end",
        ),
        ("cat " * 75, {"templates": ["a {}"]}, r"has 78 tokens within 'a \{\}', start"),
        ("dog", {"templates": ["a photo"]}, r"templates\[0\] is 'a photo', but must have one"),
        ("dog", {"templates": []}, r"templates is \[\]"),
        ("dog", {"crop_style": "middle"}, "crop_style is 'middle'"),
        ("dog", {"min_area": -1}, "min_area is -1"),
        ("dog", {"scale": math.inf}, "scale is inf"),
        ("dog", {"clip": None}, "clip is a NoneType, but must be what esam_jax.load_clip returns"),
    ],
)
def test_bad_arguments_are_named_before_anything_runs(texts, options, message, monkeypatch):
    def too_early(*args: object) -> None:
        raise AssertionError("the picture was encoded before the arguments were checked")

    monkeypatch.setattr("esam_jax.predict.sam.Sam.encode", too_early)
    with pytest.raises(PromptError, match=message):
        nano.sam("sam_nano").text(nano.picture(40, 56), texts, **{"clip": clip(), **options})


def test_77_tokens_are_not_too_many():
    texts, _ = text.checked_texts("cat " * 75)
    assert len(tokenizer.encode(texts[0])) + 2 == tokenizer.CONTEXT


def test_other_arguments_that_do_not_fit():
    picture, masks = scene(0)
    with pytest.raises(DataError, match="masks are of 72 x 96 pixels, but the picture has 9 x 8"):
        text.ranked(picture[:9, :8], masks, "a dog", clip=clip())
    with pytest.raises(PromptError, match="masks is given, so points_per_side has no use"):
        nano.sam("sam_nano").text(picture, "dog", clip=clip(), masks=masks, points_per_side=3)


def test_a_missing_tokenizer_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(tokenizer, "MERGES", tmp_path / "absent.gz")
    for each in (tokenizer._ranks, tokenizer._vocabulary, tokenizer._parts):
        each.cache_clear()
    try:
        with pytest.raises(MissingError, match=r"tokenizer needs .*absent\.gz"):
            nano.sam("sam_nano").text(nano.picture(9, 9), "a dog", clip=clip())
    finally:
        for each in (tokenizer._ranks, tokenizer._vocabulary, tokenizer._parts):
            each.cache_clear()
