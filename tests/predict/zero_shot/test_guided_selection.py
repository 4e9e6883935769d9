"""FastSAM's prompts over masks, by the golden cases of its program and by hand for its paper."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.errors import DataError, PromptError
from esam_jax.ops import regions
from esam_jax.predict.zero_shot import crops, given_masks, guided_selection

GOLDEN = Path(__file__).parents[2] / "golden" / "fastsam_prompts.npz"
SIZES = {"same": None, "bigger": (100, 151)}


@pytest.fixture(scope="module")
def golden() -> dict:
    with np.load(GOLDEN) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(str(arrays.pop("meta")))
    masks = np.unpackbits(arrays["masks"], axis=-1).astype(bool)[..., : meta["shape"][2]]
    return {**arrays, "meta": meta, "bits": masks}


@pytest.mark.parametrize("case", "abcdefgh")
@pytest.mark.parametrize("size", SIZES)
def test_points_by_the_program(golden, size: str, case: str):
    name = f"point_{size}_{case}"
    found = guided_selection.by_points(
        golden["bits"], *golden["meta"][name], rules="code", size=SIZES[size]
    )
    wanted = np.unpackbits(golden[name], axis=-1)[:, : found.shape[1]]
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("case", "abcdef")
@pytest.mark.parametrize("size", SIZES)
def test_a_box_by_the_program(golden, size: str, case: str):
    name = f"box_{size}_{case}"
    box = golden["meta"][name]
    found = guided_selection.by_boxes(golden["bits"], [box], rules="code", size=SIZES[size])
    assert found == golden[name].tolist()


@pytest.mark.parametrize("size", SIZES)
def test_several_boxes_by_the_program_which_returns_each_mask_once(golden, size: str):
    boxes = golden["meta"][f"box_{size}_many"]
    found = guided_selection.by_boxes(golden["bits"], boxes, rules="code", size=SIZES[size])
    assert sorted(set(found)) == golden[f"box_{size}_many"].tolist()
    singly = [
        guided_selection.by_boxes(golden["bits"], [box], rules="code", size=SIZES[size])[0]
        for box in boxes
    ]
    assert found == singly and len(found) > len(set(found))


@pytest.mark.parametrize("winner", range(5))
def test_a_text_means_the_mask_that_fits_best_and_not_one_that_was_left_out(golden, winner: int):
    meta = golden["meta"]
    case = meta["text"][winner]

    def scorer(pictures, texts):
        assert list(texts) == ["a thing"] and len(pictures) == len(meta["text_kept"])
        return np.eye(len(pictures))[[winner]]

    found = guided_selection.by_text(
        golden["bits"], golden["clip_picture"], "a thing", scorer, rules="code"
    )
    assert found == case["intended"]
    # The program's own count goes wrong after the first mask that it has left out in between.
    assert (case["reference_picks"] != case["intended"]) == (winner >= 3)


def test_the_picture_that_clip_sees_is_fastsams_but_for_its_exchanged_colours(golden):
    last = golden["bits"][golden["meta"]["text_kept"][-1]]
    crop = crops.of_mask(golden["clip_picture"], last, "white_frame")
    np.testing.assert_array_equal(crop[..., ::-1], golden["clip_crop_of_last"])


# ---------------------------------------------------------------------------- the paper's rules


def rectangle(y0: int, x0: int, y1: int, x1: int) -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_points_by_the_paper_merge_masks_and_drop_those_of_the_background():
    left, right, both = rectangle(5, 2, 25, 20), rectangle(5, 30, 25, 50), rectangle(0, 0, 30, 60)
    masks = [left, right, both]
    points, labels = [[10, 10], [40, 10], [25, 28]], [1, 1, 0]
    found = guided_selection.by_points(masks, points, labels, rules="paper")
    np.testing.assert_array_equal(found, left | right)
    # The program's rule: the last point of the largest mask erases it, the smaller ones stay.
    code = guided_selection.by_points(masks, points, labels, rules="code")
    np.testing.assert_array_equal(code, left | right)
    only = guided_selection.by_points(masks, [[10, 10], [12, 12]], [0, 1])
    assert not only.any()  # background wins by the paper, whatever the order
    assert guided_selection.by_points(masks, [[10, 10], [12, 12]], [0, 1], rules="code").any()


def test_the_merged_mask_is_cleaned():
    mask = rectangle(10, 10, 30, 40)
    hole = mask.copy()
    hole[20, 20] = False
    speck = rectangle(2, 50, 4, 52)
    found = guided_selection.by_points([hole, speck], [[15, 15], [50, 2]])
    np.testing.assert_array_equal(found, mask)
    alone = guided_selection.by_points([speck], [[50, 2]])
    np.testing.assert_array_equal(alone, speck)  # opening would leave nothing


@given(st.integers(0, 2**32 - 1))
def test_opening_adds_nothing_and_edges_do_not_matter(seed: int):
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.random((4, 5)) < 0.5, np.ones((9, 11), bool)).astype(bool)
    opened = guided_selection.cleaned(mask, closed_px=1)
    np.testing.assert_array_equal(opened, mask)  # blocks of 9 x 11 hold a square of 8
    noisy = mask | (rng.random(mask.shape) < 0.02)
    assert not (guided_selection.cleaned(noisy, closed_px=1) & ~noisy).any()


def test_closing_is_of_3_pixels_and_opening_of_8():
    two, three = rectangle(5, 5, 25, 45), rectangle(5, 5, 25, 45)
    two[:, 20:22] = three[:, 20:23] = False
    np.testing.assert_array_equal(guided_selection.cleaned(two), rectangle(5, 5, 25, 45))
    np.testing.assert_array_equal(guided_selection.cleaned(three), three)
    block, seven, eight = (
        rectangle(5, 5, 25, 20),
        rectangle(5, 40, 25, 47),
        rectangle(5, 40, 25, 48),
    )
    np.testing.assert_array_equal(guided_selection.cleaned(block | seven), block)
    np.testing.assert_array_equal(guided_selection.cleaned(block | eight), block | eight)


@pytest.mark.parametrize(("pixels", "by_code"), [(100, None), (101, 0)])
def test_masks_of_few_pixels_are_left_out_by_the_program_alone(pixels: int, by_code):
    mask = np.arange(40 * 60).reshape(40, 60) < pixels
    picture = np.zeros((40, 60, 3), np.uint8)
    for rules, wanted in (("paper", 0), ("code", by_code)):
        found = guided_selection.by_text([mask], picture, "a", lambda *_: [[1.0]], rules=rules)
        assert found == wanted


@pytest.mark.parametrize("masks", [None, {"segmentation": rectangle(5, 5, 15, 15)}])
def test_what_is_no_list_of_masks_is_named(masks):
    with pytest.raises(DataError, match=r"masks is a \w+, but must be a list of masks"):
        given_masks.size(masks)


@pytest.mark.parametrize("size", [20, "ab", (1.5, 2)])
def test_a_size_that_is_none_is_named(size):
    with pytest.raises(PromptError, match=r"size is .*, but must be \(height, width\)"):
        guided_selection.by_points([rectangle(5, 5, 15, 15)], [[6, 6]], size=size)


def test_a_thin_diagonal_fits_its_box_by_the_paper_alone():
    diagonal = np.eye(40, 60, dtype=bool)
    block = rectangle(0, 0, 25, 25)
    assert guided_selection.by_boxes([block, diagonal], [[0, 0, 40, 40]], rules="paper") == [1]
    assert guided_selection.by_boxes([block, diagonal], [[0, 0, 40, 40]], rules="code") == [0]


def test_the_program_rounds_boxes_to_even_halves_and_truncates_those_of_other_sizes():
    low, high = rectangle(0, 0, 2, 2), rectangle(1, 1, 3, 3)
    assert guided_selection.by_boxes([high, low], [[0.5, 0.5, 2.5, 2.5]], rules="code") == [1]
    masks, options = [rectangle(2, 2, 4, 4), rectangle(1, 1, 4, 4)], {"rules": "code"}
    assert guided_selection.by_boxes(masks, [[3, 3, 9, 9]], size=(80, 120), **options) == [1]


def test_masks_of_equal_area_are_painted_in_their_order():
    masks = [rectangle(5, 5, 25, 25), rectangle(5, 15, 25, 35)] * 20
    found = guided_selection.by_points(masks, [[10, 10], [30, 10]], [1, 0], rules="code")
    np.testing.assert_array_equal(found, rectangle(5, 5, 25, 15))


def test_of_equal_masks_the_first_is_taken():
    mask = rectangle(5, 5, 15, 15)
    for rules in guided_selection.RULES:
        found = guided_selection.by_boxes([mask, mask], [[4, 4, 16, 16]], rules=rules)
        assert found == [0]


def test_records_run_lengths_and_arrays_are_all_masks():
    mask = rectangle(5, 5, 25, 30)
    forms = [
        mask,
        {"segmentation": mask, "bbox": [5, 5, 25, 20]},
        {"segmentation": regions.to_rle(mask)},
        regions.to_runs(mask),
    ]
    for each in forms:
        np.testing.assert_array_equal(guided_selection.by_points([each], [[6, 6]]), mask)


def test_no_masks_at_all():
    for empty in ([], np.zeros((0, 40, 60), bool)):
        found = guided_selection.by_points(empty, [[3, 4]], size=(40, 60))
        assert found.shape == (40, 60) and not found.any()
        assert guided_selection.by_boxes(empty, [[3, 4, 9, 9]], size=(40, 60)) == [None]
    with pytest.raises(PromptError, match="size is None"):
        guided_selection.by_points([], [[3, 4]])
    picture = np.zeros((40, 60, 3), np.uint8)
    assert guided_selection.by_text([], picture, "a thing", lambda *_: None) is None


def test_a_box_beside_every_mask():
    masks = [rectangle(5, 5, 15, 15)]
    assert guided_selection.by_boxes(masks, [[40, 20, 50, 30]], rules="paper") == [None]
    assert guided_selection.by_boxes(masks, [[40, 20, 50, 30]], rules="code") == [0]


@pytest.mark.parametrize(
    ("points", "labels", "message"),
    [
        ([[60, 3]], None, r"points has \(60, 3\), which lies outside"),
        ([[float("nan"), 3]], None, "points has .nan, 3., which lies outside"),
        ([3, 4], None, r"points has shape \(2,\)"),
        ([], None, r"points has shape \(0,\)"),
        (["a"], None, "points must be a list"),
        (
            [[3, 4]],
            [1, 0],
            r"labels has shape \(2,\), but must have one finite number for each of 1",
        ),
        ([[3, 4]], [float("nan")], "must have one finite number"),
        ([[3, 4]], ["a"], "labels must be one number for each point"),
    ],
)
def test_bad_points(points, labels, message: str):
    with pytest.raises(PromptError, match=message):
        guided_selection.by_points([rectangle(5, 5, 15, 15)], points, labels)


@pytest.mark.parametrize(
    ("boxes", "rules", "message"),
    [
        ([], "paper", r"boxes is \[\], but at least one is needed"),
        (None, "paper", "boxes is None, but at least one is needed"),
        ([[3, 4, 3, 9]], "paper", r"boxes\[0\] is .* needs x0 < x1"),
        ([[60, 4, 70, 9]], "paper", "a part in the picture"),
        ([[1, 2, 3, 4], [1, 2, 3]], "paper", r"boxes\[1\] is \[1, 2, 3\], but must be"),
        ([[3.6, 4.6, 4.4, 9]], "code", "has no pixel of the masks once it is rounded"),
        ([[1, 2, 3, 4]], "usual", "rules is 'usual', but must be one of"),
    ],
)
def test_bad_boxes(boxes, rules: str, message: str):
    with pytest.raises(PromptError, match=message):
        guided_selection.by_boxes([rectangle(5, 5, 15, 15)], boxes, rules=rules)


def test_masks_of_another_size_are_named():
    masks = [rectangle(5, 5, 15, 15), np.zeros((3, 4), bool)]
    with pytest.raises(DataError, match=r"masks\[1\] has shape \(3, 4\)"):
        guided_selection.by_points(masks, [[6, 6]])
    with pytest.raises(DataError, match=r"masks\[0\] is an array of uint8"):
        guided_selection.by_points([masks[0].astype(np.uint8)], [[6, 6]])
