"""Annotations from outside: a mask is the one that is written down, or it is left out and named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import nano, whole

from esam_jax.config import CocoConfig, PromptedConfig, Sa1bConfig
from esam_jax.data import sources
from esam_jax.data.examples import Examples, Tally
from esam_jax.data.findings import Findings
from esam_jax.errors import DataError, MissingError
from esam_jax.evaluate.protocol import Protocol
from esam_jax.ops import regions


def open_sa1b(folder: Path) -> sources.Source:
    return sources.open_source(Sa1bConfig(path=str(folder)))


def open_coco(path: Path) -> sources.Source:
    return sources.open_source(CocoConfig(path=str(path)))


def used(source: sources.Source, count: int) -> tuple[list[dict], Tally]:
    """The first views of a run in training, and what it says of its data."""
    examples = Examples(source, PromptedConfig(image_px=32, masks=3, min_area_px=1), seed=0)
    tally = Tally(examples, max_broken_share=0.1)
    return [tally.view_of(examples[position]) for position in range(count)], tally


def texts(findings: Findings) -> list[str]:
    return [f"{each.kind}: {each.text}" for each in findings.all]


# What is written in place of a SA-1B json, from its content; and what is said of its picture.
BAD_JSON: dict[str, tuple[Callable[[dict], Any], str]] = {
    "no annotations": (lambda c: c.pop("annotations") and c, "has no 'annotations'"),
    "all of another size": (
        lambda c: [a["segmentation"].update(size=[40, 61]) for a in c["annotations"]] and c,
        r"2 of 2 objects cannot be used, the first: mask \d \(id \d\): its size is \[40, 61\]",
    ),
    "no object usable": (
        lambda c: [a.pop("segmentation") for a in c["annotations"]] and c,
        r"2 of 2 objects cannot be used, the first: mask 0 \(id 0\) has no 'segmentation'",
    ),
    "another frame": (
        lambda c: c["image"].update(width=61) or c,
        "is 40 x 60, but its annotations say 40 x 61: they belong to another picture",
    ),
    "a list": (lambda c: [c], "must hold an object"),
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
# What is done to one of two masks; and what is said of it.
BAD_MASK: dict[str, tuple[Callable[[dict], Any], str]] = {
    "no segmentation": (lambda a: a.pop("segmentation"), "has no 'segmentation'"),
    "null": (lambda a: a.update(segmentation=None), "has a 'segmentation' of type NoneType"),
    "text": (lambda a: a.update(segmentation="x"), "has a 'segmentation' of type str"),
    "no polygon": (lambda a: a.update(segmentation=[]), "a polygon annotation must be a list of"),
    "a polygon of two points": (
        lambda a: a.update(segmentation=[[1, 1, 5, 5]]),
        "a polygon has shape (4,), but needs three or more",
    ),
    "one good polygon": (
        lambda a: a.update(segmentation=[[1, 1, 20, 1, 20, 20], [1, 1, 5, 5]]),
        "a polygon has shape (4,), but needs three or more",
    ),
    "a flat polygon": (
        lambda a: a.update(segmentation=[1, 1, 20, 1, 20, 20]),
        "a polygon has shape (), but needs",
    ),
    "NaN": (
        lambda a: a.update(segmentation=[[1, 1, 20, float("nan"), 20, 20]]),
        "a polygon holds a number that is not finite",
    ),
    "infinite": (
        lambda a: a.update(segmentation=[[1, 1, 20, float("inf"), 20, 20]]),
        "a polygon holds a number that is not finite",
    ),
    "an integer beyond float64": (
        lambda a: a.update(segmentation=[[1, 1, 20, 10**400, 20, 20]]),
        "a polygon must be a flat list of numbers",
    ),
    "far away": (
        lambda a: a.update(segmentation=[[1, 1, 5, 5, 1e9, 3]]),
        "a polygon leaves its 40 x 60 picture by more than one frame",
    ),
    "nothing": (
        lambda a: a.update(segmentation={"size": [40, 60], "counts": [2400]}),
        "it covers no pixel",
    ),
    "a polygon of no area": (
        lambda a: a.update(segmentation=[[1, 1, 1, 1, 1, 1]]),
        "it covers no pixel",
    ),
    "no counts": (lambda a: a["segmentation"].pop("counts"), "counts is a NoneType"),
    "another size": (
        lambda a: a["segmentation"].update(size=[40, 61]),
        "its size is [40, 61], but the picture is [40, 60]",
    ),
    "sides exchanged": (
        lambda a: a["segmentation"].update(size=[60, 40]),
        "its size is [60, 40], but the picture is [40, 60]",
    ),
    "huge size": (lambda a: a["segmentation"].update(size=[2**40, 2**40]), "its size is [10995"),
    "neither crowd nor not": (lambda a: a.update(iscrowd="yes"), "its 'iscrowd' is 'yes', but"),
}
# What is done to one of two masks that costs nothing: nobody reads it.
UNREAD: dict[str, Callable[[dict], Any]] = {
    "NaN box": lambda a: a.update(bbox=[float("nan")] * 4),
    "infinite area": lambda a: a.update(area=float("inf")),
    "no area": lambda a: a.update(area=0),
    "the id of another mask": lambda a: a.update(id=1 - a["id"]),
    "no id": lambda a: a.pop("id"),
    "no category": lambda a: a.pop("category_id", None),
    "crowd as text": lambda a: a.update(iscrowd="0"),
}


def spoil(file: Path, change: Callable[[dict], Any]) -> None:
    spoilt = change(json.loads(file.read_text()))
    if not isinstance(spoilt, str | bytes):
        spoilt = json.dumps(spoilt)
    file.write_bytes(spoilt.encode() if isinstance(spoilt, str) else spoilt)


@pytest.mark.parametrize("case", BAD_JSON)
def test_f31_a_bad_json_costs_its_picture(sa1b_folder: Path, case: str):
    change, message = BAD_JSON[case]
    spoil(sa1b_folder / "sa_1.json", change)
    source = open_sa1b(sa1b_folder)
    with pytest.warns(UserWarning, match=rf"1 broken picture.*sa_1\.(jpg|json).*{message}"):
        found = nano.measured(nano.sam("sam_nano"), source, Protocol(images=3, masks_per_image=9))
    assert (found["images"], found["skipped"], found["masks"]) == (2, 1, 4)
    views, tally = used(source, 3)
    assert all(view["valid"].any() for view in views)
    assert list(tally.broken) == ["sa_1.jpg"] and "sa_1" in tally.broken["sa_1.jpg"]


@pytest.mark.parametrize("case", BAD_MASK)
def test_f31_a_bad_object_costs_itself(sa1b_folder: Path, case: str):
    change, message = BAD_MASK[case]
    spoil(sa1b_folder / "sa_1.json", lambda c: [change(c["annotations"][1]), c][1])
    source = open_sa1b(sa1b_folder)
    said = "sa_1.jpg: mask 1 (id 1)"
    with pytest.warns(UserWarning) as warned:
        found = nano.measured(nano.sam("sam_nano"), source, Protocol(images=3, masks_per_image=9))
    assert (found["images"], found["skipped"], found["masks"]) == (3, 0, 5)
    assert found["objects_left_out"] == 1
    (reason,) = found["reasons"]
    assert reason.startswith(said) and message in reason
    assert f"1 object left out, the first: {reason}" in str(warned[0].message)
    views, tally = used(source, 3)
    assert sorted(int(view["valid"].sum()) for view in views) == [1, 2, 3]
    assert tally.broken == {} and texts(tally.findings) == [f"objects_left_out: {reason}"]


@pytest.mark.parametrize("case", UNREAD)
def test_f31_what_nobody_reads_costs_nothing(sa1b_folder: Path, case: str):
    spoil(sa1b_folder / "sa_1.json", lambda c: [UNREAD[case](c["annotations"][1]), c][1])
    views, tally = used(open_sa1b(sa1b_folder), 3)
    assert sorted(int(view["valid"].sum()) for view in views) == [2, 2, 3]
    assert tally.broken == {} and texts(tally.findings) == []


def test_f31_an_object_that_is_there_twice_is_used_once(sa1b_folder: Path):
    spoil(sa1b_folder / "sa_1.json", lambda c: {**c, "annotations": c["annotations"] * 2})
    views, tally = used(open_sa1b(sa1b_folder), 3)
    assert sorted(int(view["valid"].sum()) for view in views) == [2, 2, 3]
    assert texts(tally.findings) == [
        f"objects_left_out: sa_1.jpg: mask {i} (id {i - 2}) repeats an earlier one of that id"
        for i in (2, 3)
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].update(segmentation=[[1, 1, 5, 5, 1e999, 3]]), "not finite"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 1, 5, 5, 1e9, 3]]), "leaves its"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 1, 5, 5]]), "three or more"),
        (lambda c: c["images"][0].update(width=31), r"a\.png is 20 x 30, but .* say 20 x 31"),
        (lambda c: c["annotations"].extend([c["annotations"][0]] * 10**4), "10002 masks"),
    ],
)
def test_f31_a_bad_coco_annotation_is_refused(coco_json: Path, change: Callable, message: str):
    content = json.loads(coco_json.read_text())
    change(content)
    coco_json.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        whole.masks(open_coco(coco_json).read(0), 0)


@pytest.mark.parametrize("name", ["a\0.png", "\ud800.png", "a" * 5000 + ".png"])
def test_f31_a_name_that_no_file_can_have_is_missing(coco_json: Path, name: str):
    content = json.loads(coco_json.read_text())
    content["images"][1]["file_name"] = name
    coco_json.write_text(json.dumps(content))
    with pytest.raises(MissingError, match="cannot be read"):
        open_coco(coco_json).read(1)
    views, tally = used(open_coco(coco_json), 2)
    assert all(view["valid"].any() for view in views) and list(tally.broken) == [name]
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
    with pytest.raises(DataError, match=rf"sa_1\.jpg: mask 1 \(id 1\): .*{message}"):
        whole.masks(open_sa1b(sa1b_folder).read(0), 0, 1)


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
