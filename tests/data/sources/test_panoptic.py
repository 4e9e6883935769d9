"""COCO panoptic: segments as masks, and the category of every pixel."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import drawn_sets, whole

from esam_jax.config import PanopticConfig, PromptedConfig
from esam_jax.data import sources
from esam_jax.data.examples import Examples, Tally
from esam_jax.data.mask_sets import describe
from esam_jax.data.records import AnnotatedSource
from esam_jax.errors import ConfigError, DataError, MissingError


def opened(path: Path, **fields: Any) -> sources.Source:
    return sources.open_source(PanopticConfig(path=str(path), **fields))


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def texts(found: Any) -> list[str]:
    return [f"{each.count} {each.kind}: {each.text}" for each in found]


@pytest.mark.parametrize("official", [True, False])
def test_segments_are_masks_and_pixels_have_categories(tmp_path: Path, official: bool):
    path = drawn_sets.panoptic(tmp_path, official)
    source = sources.open_source(sources.detect(str(path if official else tmp_path)))
    assert [source.name(i) for i in range(len(source))] == ["a.jpg", "b.jpg"]
    record = source.read(0)
    wanted = {number: np.zeros((12, 20), bool) for number in drawn_sets.SEGMENTS}
    for number, place in drawn_sets.SEGMENTS.items():
        wanted[number][place] = True
    masks = record.annotation("masks")
    assert [describe(masks, i).identity for i in range(2)] == [70_000, 300] and len(masks) == 2
    assert [describe(masks, i).category for i in range(2)] == [187, 1]
    assert describe(masks, 1).box == (0, 4, 9, 12)
    np.testing.assert_array_equal(whole.masks(record), [wanted[70_000], wanted[300]])
    semantic = record.annotation("semantic")
    # The crowd is no mask, and its pixels are persons all the same.
    np.testing.assert_array_equal(
        semantic.values, 187 * wanted[70_000] + (wanted[300] | wanted[7]).astype(int)
    )
    assert semantic.names == {1: "person", 3: "car", 187: "sky"} and semantic.void == {0}
    assert texts(record.findings) == [
        "1 crowds_left_out: a.jpg: segment 7 is a crowd and is left out"
    ]


def test_crowds_are_masks_by_choice(tmp_path: Path):
    record = opened(drawn_sets.panoptic(tmp_path), crowds="use").read(0)
    assert [describe(record.annotation("masks"), i).identity for i in range(3)] == [70_000, 300, 7]
    assert whole.masks(record, 2).sum() == 6 * 11
    assert [each.kind for each in record.findings] == ["crowds_used"]


def test_training_reads_them(tmp_path: Path):
    view = PromptedConfig(image_px=32, min_area_px=1, max_area=1.0, masks=4)
    tally = Tally(examples := Examples(opened(drawn_sets.panoptic(tmp_path)), view, seed=0), 0.1)
    valid = [int(tally.view_of(examples[i])["valid"].sum()) for i in range(2)]
    assert sorted(valid) == [1, 2] and not tally.broken


def test_instances_come_first_where_a_folder_has_both(tmp_path: Path, coco_json: Path):
    """COCO's own folder: what it was read as does not change, and a json says which is meant."""
    root = coco_json.parents[1]
    path = drawn_sets.panoptic(root)
    assert sources.detect(str(root)).kind == "coco"
    assert sources.detect(str(root / "val2017")).kind == "coco"
    assert sources.detect(str(path)).kind == "panoptic"
    coco_json.unlink()
    assert sources.detect(str(root)).kind == "panoptic"
    path.with_name("panoptic_train2017.json").write_text(path.read_text())
    with pytest.raises(ConfigError, match=r"2 panoptic jsons.*panoptic_train.*panoptic_val"):
        opened(root)


# What is done to the json, and what is said when it is opened; one of two pictures is left.
BAD_ENTRY: dict[str, tuple[Callable[[dict], object], str]] = {
    "an unknown picture": (lambda c: c["annotations"][0].update(image_id=9), "image 9, which is"),
    "no segments": (lambda c: c["annotations"][0].pop("segments_info"), "has no 'segments_info'"),
    "many segments": (
        lambda c: c["annotations"][0].update(segments_info=[{}] * 10_001),
        "has 10001 segments",
    ),
    "a map elsewhere": (
        lambda c: c["annotations"][0].update(file_name="../a.png"),
        "must name one below",
    ),
    "an absolute map": (lambda c: c["annotations"][0].update(file_name="/a.png"), "must name one"),
    "backslashes": (lambda c: c["annotations"][0].update(file_name="..\\a.png"), "must name one"),
    "a picture elsewhere": (
        lambda c: c["images"][0].update(file_name="../a.jpg"),
        "must be a name below",
    ),
    "an annotation that is none": (lambda c: c["annotations"].__setitem__(0, 7), "no 'image_id'"),
    "one picture twice": (
        lambda c: c["annotations"].__setitem__(0, c["annotations"][1]),
        "is of b.jpg, as an earlier one",
    ),
}


@pytest.mark.parametrize("case", BAD_ENTRY)
def test_a_bad_entry_costs_itself(tmp_path: Path, case: str):
    change, said = BAD_ENTRY[case]
    path = drawn_sets.panoptic(tmp_path)
    edit(path, change)
    source = opened(path)
    assert isinstance(source, AnnotatedSource) and len(source) == 1 and source.name(0) == "b.jpg"
    assert said in "\n".join(texts(source.findings))
    assert whole.masks(source.read(0)).all()


# What is done to the segments of the first picture; what is said; and which masks are left.
BAD_SEGMENT: dict[str, tuple[Callable[[list], object], str, list[int]]] = {
    "no id": (lambda s: s[0].pop("id"), "segment 0 has no 'id'", [300]),
    "a void id": (lambda s: s[0].update(id=0), "id that no map can hold", [300]),
    "an id beyond three bytes": (lambda s: s[0].update(id=2**24), "id that no map can", [300]),
    "an endless id": (lambda s: s[0].update(id=10**400), "id that no map can hold", [300]),
    "one id twice": (lambda s: s[1].update(id=70_000), "id of an earlier one", [70_000]),
    "an id that the map lacks": (lambda s: s[1].update(id=9), "segment 9 is nowhere", [70_000]),
    "neither crowd nor not": (lambda s: s[1].update(iscrowd="?"), "'iscrowd' is '?'", [70_000]),
    "an unlisted segment": (lambda s: s.pop(1), "the segment 300, which is not listed", [70_000]),
    "an unknown category": (
        lambda s: s[0].update(category_id=188),
        "categories_unknown: a.jpg: segment 0 (id 70000) has the category '188'",
        [70_000, 300],
    ),
    "no category": (lambda s: s[0].pop("category_id"), "crowds_left_out", [70_000, 300]),
    "a broken box": (lambda s: s[0].update(bbox=[1e999] * 4), "crowds_left_out", [70_000, 300]),
}


@pytest.mark.parametrize("case", BAD_SEGMENT)
def test_a_bad_segment_costs_itself(tmp_path: Path, case: str):
    change, said, left = BAD_SEGMENT[case]
    path = drawn_sets.panoptic(tmp_path)
    edit(path, lambda c: change(c["annotations"][0]["segments_info"]))
    record = opened(path).read(0)
    masks = record.annotation("masks")
    assert [describe(masks, i).identity for i in range(len(masks))] == left
    assert said in "\n".join(texts(record.findings))
    known = set(np.unique(record.annotation("semantic").values))
    assert known <= {0, 1, 187} and (187 in known) == (70_000 in left and "category" not in case)


def test_a_picture_without_a_usable_segment_is_refused(tmp_path: Path):
    path = drawn_sets.panoptic(tmp_path)
    edit(path, lambda c: c["annotations"][1].update(segments_info=[{"id": -1}]))
    with pytest.raises(DataError, match=r"b\.jpg: 1 of 1 object cannot be used.*no map can hold"):
        opened(path).read(1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((12, 21, 3), np.uint8), r"a\.jpg: its map a\.png is 12 x 21, .* say 12 x 20"),
        (np.ones((12, 20), np.uint8), r"a\.png: its pixels are L, but a panoptic map is RGB"),
        (np.ones((12, 20), np.uint16), r"a\.png: its pixels are I;16 of 16 bits, but a"),
        (b"", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "broken PNG"),
    ],
)
def test_a_bad_map_costs_its_picture(tmp_path: Path, values: Any, message: str):
    path = drawn_sets.panoptic(tmp_path)
    file = path.with_suffix("") / "a.png"
    file.write_bytes(values) if isinstance(values, bytes) else drawn_sets.png(file, values)
    source = opened(path)
    with pytest.raises(DataError, match=message):
        source.read(0)
    assert len(source.read(1).annotation("masks")) == 1


def test_a_map_is_never_a_jpeg(tmp_path: Path):
    path = drawn_sets.panoptic(tmp_path)
    drawn_sets.picture(path.with_suffix("") / "a.jpg")
    (path.with_suffix("") / "a.jpg").rename(path.with_suffix("") / "a.png")
    with pytest.raises(DataError, match=r"a\.png: it is a JPEG, which does not keep numbers"):
        opened(path).read(0)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"images": []}', "{}"])
def test_what_is_no_panoptic_json_is_refused(tmp_path: Path, text: str):
    path = drawn_sets.panoptic(tmp_path)
    path.write_text(text)
    with pytest.raises(DataError, match="panoptic_val2017"):
        opened(path)


def test_categories_that_are_none_cost_no_mask(tmp_path: Path):
    path = drawn_sets.panoptic(tmp_path)
    edit(path, lambda c: c["categories"].extend([7, {"id": -1}, {"id": 1, "name": "dog"}]))
    source = opened(path)
    assert isinstance(source, AnnotatedSource) and len(source.read(0).annotation("masks")) == 2
    assert [each.kind for each in source.findings] == [
        *["labels_left_out"] * 2,
        "ids_repeated",
    ]


def test_maps_that_are_not_unpacked_are_asked_for(tmp_path: Path):
    path = drawn_sets.panoptic(tmp_path)
    for file in path.with_suffix("").iterdir():
        file.unlink()
    with pytest.raises(MissingError, match=r"map 'a\.png' .* unpack the archive of PNGs"):
        opened(path)


def test_the_digest_follows_maps_and_json(tmp_path: Path):
    path = drawn_sets.panoptic(tmp_path)

    def digest() -> str:
        source = opened(path)
        assert isinstance(source, AnnotatedSource)
        return source.digest()

    first = digest()
    assert first == digest()
    drawn_sets.png(path.with_suffix("") / "a.png", np.ones((12, 20, 3), np.uint8))
    second = digest()
    path.write_text(path.read_text() + " ")
    assert len({first, second, digest()}) == 3


def test_parts_of_it_are_read(tmp_path: Path):
    config = PanopticConfig(path=str(drawn_sets.panoptic(tmp_path)), part="train", heldout=1)
    other = dataclasses.replace(config, part="heldout")
    names = [sources.open_source(each).name(0) for each in (config, other)]
    assert sorted(names) == ["a.jpg", "b.jpg"]
