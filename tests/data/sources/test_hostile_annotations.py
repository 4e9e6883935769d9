"""Annotations from outside: a mask is the one that is written down, or its picture is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import nano

from esam_jax.config import CocoConfig, PromptedConfig, Sa1bConfig
from esam_jax.data import sources
from esam_jax.data.examples import Examples, Tally
from esam_jax.errors import DataError, MissingError
from esam_jax.evaluate import prompts
from esam_jax.ops import regions


def open_sa1b(folder: Path) -> sources.Source:
    return sources.open_source(Sa1bConfig(path=str(folder)))


def open_coco(path: Path) -> sources.Source:
    return sources.open_source(CocoConfig(path=str(path)))


def used(source: sources.Source, count: int) -> tuple[list[dict], dict[str, str]]:
    """The first views of a run in training, and the records that were broken."""
    examples = Examples(source, PromptedConfig(image_px=32, masks=3, min_area_px=1), seed=0)
    tally = Tally(examples, max_broken_share=0.1)
    return [tally.view_of(examples[position]) for position in range(count)], tally.broken


# What is written in place of a SA-1B json, from its content; and what is said of it.
BAD_JSON: dict[str, tuple[Callable[[dict], Any], str]] = {
    "no annotations": (lambda c: c.pop("annotations") and c, "has no 'annotations'"),
    "no segmentation": (lambda c: c["annotations"][1].pop("segmentation") and c, "mask 1 has no"),
    "no counts": (
        lambda c: c["annotations"][1]["segmentation"].pop("counts") and c,
        "mask 1: counts is a NoneType",
    ),
    "a list": (lambda c: [c], "must hold an object"),
    "NaN box": (lambda c: c["annotations"][0].update(bbox=[float("nan")] * 4) or c, "NaN is not"),
    "infinite": (lambda c: c["annotations"][0].update(area=float("inf")) or c, "Infinity is not"),
    "another size": (
        lambda c: c["annotations"][0]["segmentation"].update(size=[40, 61]) or c,
        r"mask 0: its size is \[40, 61\], but the picture is \[40, 60\]",
    ),
    "sides exchanged": (
        lambda c: c["annotations"][0]["segmentation"].update(size=[60, 40]) or c,
        r"mask 0: its size is \[60, 40\]",
    ),
    "huge size": (
        lambda c: c["annotations"][0]["segmentation"].update(size=[2**40, 2**40]) or c,
        "mask 0: its size",
    ),
    "id twice": (lambda c: c["annotations"][1].update(id=0) or c, "the mask id 0 occurs twice"),
    "a million masks": (lambda c: {"annotations": [{}] * 10**6}, "has 1000000 masks"),
    "deep": (lambda c: "[" * 10**5 + "]" * 10**5, "is not valid JSON"),
    "deep object": (lambda c: '{"a":' * 10**5 + "1" + "}" * 10**5, "is not valid JSON"),
    "a number of many digits": (
        lambda c: '{"annotations": ' + "9" * 10**5 + "}",
        "is not valid JSON",
    ),
    "cut short": (lambda c: json.dumps(c)[:-9], "is not valid JSON"),
    "empty": (lambda c: "", "is not valid JSON"),
    "another encoding": (lambda c: b"\xff\xfe\xfd", "is not valid JSON"),
}


def spoil(file: Path, change: Callable[[dict], Any]) -> None:
    spoilt = change(json.loads(file.read_text()))
    if not isinstance(spoilt, str | bytes):
        spoilt = json.dumps(spoilt)
    file.write_bytes(spoilt.encode() if isinstance(spoilt, str) else spoilt)


@pytest.mark.parametrize("case", BAD_JSON)
def test_f31_a_bad_annotation_is_skipped_in_training_and_an_error_in_evaluation(
    sa1b_folder: Path, case: str
):
    change, message = BAD_JSON[case]
    spoil(sa1b_folder / "sa_1.json", change)
    source = open_sa1b(sa1b_folder)
    with pytest.raises(DataError, match=rf"sa_1\.(jpg|json).*{message}"):
        prompts.evaluate(nano.sam("sam_nano"), source, images=3, masks_per_image=9, seed=0)
    views, broken = used(source, 3)
    assert all(view["valid"].any() for view in views)
    assert list(broken) == ["sa_1.jpg"] and "sa_1" in broken["sa_1.jpg"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].update(segmentation=[[1, 1, 5, 5, 1e999, 3]]), "Infinity"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 1, 5, 5, 1e9, 3]]), "leaves its"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 1, 5, 5]]), "three or more"),
        (lambda c: c["images"][0].update(width=31), r"a\.png is 20 x 30, but .* says \(20, 31\)"),
        (lambda c: c["annotations"].extend([c["annotations"][0]] * 10**4), "10001 masks"),
        (
            lambda c: c["annotations"].extend([{**c["annotations"][0], "id": 5}] * 2),
            r"a\.png: the mask id 5 occurs twice",
        ),
    ],
)
def test_f31_a_bad_coco_annotation_is_refused(coco_json: Path, change: Callable, message: str):
    content = json.loads(coco_json.read_text())
    change(content)
    coco_json.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        open_coco(coco_json).read(0).annotation("masks").decode([0])


@pytest.mark.parametrize("name", ["a\0.png", "\ud800.png", "a" * 5000 + ".png"])
def test_f31_a_name_that_no_file_can_have_is_missing(coco_json: Path, name: str):
    content = json.loads(coco_json.read_text())
    content["images"][1]["file_name"] = name
    coco_json.write_text(json.dumps(content))
    with pytest.raises(MissingError, match="cannot be read"):
        open_coco(coco_json).read(1)
    views, broken = used(open_coco(coco_json), 2)
    assert all(view["valid"].any() for view in views) and list(broken) == [name]
    content["images"][0]["file_name"] = name
    coco_json.write_text(json.dumps(content))
    with pytest.raises(MissingError, match="is in none of"):
        open_coco(coco_json)


# ----------------------------------------------------------------------------------- run lengths

SIZE = [40, 60]
PIXELS = 40 * 60
BAD_RLE: dict[str, tuple[Any, str]] = {
    "short": ([100, 50, 2249], "sum to 2399"),
    "long": ([100, 50, 2251], "sum to 2401"),
    "nothing": ([], "sum to 0"),
    "negative": ([2500, -100], "0 to 2400"),
    "negative, right sum": ([-1, 1, 2400], "0 to 2400"),
    "above 2^32": ([2**33, 1], "0 to 2400"),
    "around 2^64": ([2**64, 2400], "0 to 2400"),
    "fractions": ([0.5, 2399.5], "integers"),
    "booleans": ([True] * PIXELS, "integers"),
    "text in it": (["2400"], "integers"),
    "nested": ([[2400]], "integers"),
    "too many": ([0] * (2 * PIXELS) + [PIXELS], "at most 4800"),
    "too long": ("0" * (2 * PIXELS + 99), "characters"),
    "text short": ("00", "sum to 0"),
    "text negative": ("O", "0 to 2400"),
    "text above 2^32": ("PPPPPPPPP0", "32 bits"),
    "number without end": ("oooo", "inside a number"),
    "last number without end": ("PS2o", "inside a number"),
    "empty text": ("", "inside a number"),
    "not ASCII": ("é0", "ASCII"),
    "half a character": ("\ud800", "ASCII"),
    "NUL": ("\x000", "alphabet"),
    "outside the alphabet": ("~0", "alphabet"),
    "null": (None, "NoneType"),
    "a number": (2400, "is a int"),
    "an object": ({}, "is a dict"),
}


@pytest.mark.parametrize("case", BAD_RLE)
def test_f32_run_lengths_that_are_no_mask_are_refused(sa1b_folder: Path, case: str):
    counts, message = BAD_RLE[case]
    with pytest.raises(DataError, match=message):
        regions.from_rle({"size": SIZE, "counts": counts})
    file = sa1b_folder / "sa_1.json"
    content = json.loads(file.read_text())
    content["annotations"][1]["segmentation"]["counts"] = counts
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"sa_1\.jpg: mask 1: .*{message}"):
        open_sa1b(sa1b_folder).read(0).annotation("masks").decode([0, 1])


@pytest.mark.parametrize(
    "size",
    [
        *(None, {}, "ab", [], [2400], [40, 60, 1], [40.0, 60], ["40", "60"]),
        *([0, 60], [40, 0], [-40, -60], [2**16, 2**16], [16385, 1], [16384, 16384], [2**70, 1]),
    ],
)
def test_f32_sizes_that_are_none_are_refused(size: Any):
    with pytest.raises(DataError, match="mask size is"):
        regions.from_rle({"size": size, "counts": [PIXELS]})


def test_f32_whatever_is_decoded_is_what_is_written():
    """Thousands of damaged texts: an error, or the mask that a plain reading gives, of 0 and 1."""
    rng = np.random.default_rng(5)
    decoded = 0
    for _ in range(3000):
        shape = tuple(rng.integers(1, 9, 2).tolist())
        rle = regions.to_rle(rng.random(shape) < rng.random())
        text = bytearray(rle["counts"].encode())
        for _ in range(rng.integers(0, 3)):
            text[rng.integers(len(text))] = rng.integers(40, 120)
        if rng.random() < 0.2:
            del text[rng.integers(len(text)) :]
        try:
            mask = regions.from_rle({"size": rle["size"], "counts": bytes(text)})
        except DataError:
            continue
        decoded += 1
        assert mask.dtype == bool and mask.shape == shape
        assert set(np.unique(mask.view(np.uint8))) <= {0, 1}
        flat = [i % 2 for i, run in enumerate(plain_runs(bytes(text))) for _ in range(run)]
        np.testing.assert_array_equal(mask, np.reshape(flat, shape[::-1]).T)
    assert 500 < decoded < 2900


def plain_runs(text: bytes) -> list[int]:
    """COCO's text form, one character after the other (`rleFrString` of its C code)."""
    runs, value, place = [], 0, 0
    for character in text:
        value |= (character - 48 & 0x1F) << 5 * place
        place += 1
        if not character - 48 & 0x20:
            if character - 48 & 0x10:
                value -= 1 << 5 * place
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = place = 0
    return runs
