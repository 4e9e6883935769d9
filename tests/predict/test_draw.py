"""Pictures of results: the marks are where they should be, and nothing else changes."""

import numpy as np
import pytest

from esam_jax.predict import draw
from esam_jax.predict.prompt import Prompt

PHOTO = np.full((300, 400, 3), 128, np.uint8)


def box_mask(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((300, 400), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_colours_are_distinct():
    colours = np.array([draw.colour(i) for i in range(20)])
    distances = np.abs(colours[:, None] - colours[None]).sum(-1) + 999 * np.eye(20, dtype=int)
    assert distances.min() > 20


def test_a_mask_is_tinted_outlined_and_alone():
    drawn = draw.overlay(PHOTO, box_mask(50, 60, 150, 260)[None])
    assert drawn.shape == PHOTO.shape
    assert (drawn[50, 60] == draw.colour(0)).all()  # its rim
    assert (drawn[100, 160] != 128).any() and (drawn[100, 160] != draw.colour(0)).any()
    assert (drawn[~box_mask(50, 60, 150, 260)] == 128).all()


def test_small_masks_lie_above_large_ones():
    small, large = box_mask(100, 100, 120, 120), box_mask(50, 50, 200, 200)
    drawn = draw.overlay(PHOTO, np.stack([small, large]))
    assert (drawn[100, 100] == draw.colour(0)).all()


def test_points_and_boxes_are_drawn_where_they_are():
    prompts = [
        Prompt(points=[[200, 100], [50, 250]], labels=[1, 0]),
        Prompt(box=[100, 40, 300, 200]),
    ]
    drawn = draw.overlay(PHOTO, None, prompts)
    assert (drawn[100, 200] == draw.colour(0)).all()
    red, green, blue = drawn[250, 50].astype(int)
    assert red > green + 100 and red > blue + 100
    assert (drawn[100, 200 - 5] == 255).all()  # the rim of a dot
    assert (drawn[120, 100] == draw.colour(1)).all() and (drawn[40, 200] == draw.colour(1)).all()
    assert (drawn[150, 200] == 128).all()


@pytest.mark.parametrize(("x", "y"), [(0, 0), (399.5, 299.5), (0, 299)])
def test_marks_at_the_edge_stay_in_the_picture(x: float, y: float):
    prompts = [Prompt(points=[[x, y]]), Prompt(box=[0, 0, 400, 300])]
    assert draw.overlay(PHOTO, None, prompts).shape == PHOTO.shape


def test_small_pictures_are_enlarged_by_a_whole_factor():
    picture = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    drawn = draw.overlay(picture)
    assert drawn.shape == (240, 384, 3)
    np.testing.assert_array_equal(drawn[::6, ::6], picture)


def test_a_grey_ground_has_no_colour():
    picture = np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8)
    drawn = draw.overlay(picture, ground="grey")
    assert (drawn == drawn[..., :1]).all()


def test_a_contact_sheet_has_a_cell_for_every_column():
    masks = box_mask(50, 60, 150, 260)[None]
    row = draw.Row(
        picture=PHOTO,
        prompts=[Prompt(box=[60, 50, 259, 149])],
        masks=[masks, masks],
        captions=["truth", "mIoU 0.83"],
        name="one",
    )
    sheet = draw.contact_sheet([row, row], ["picture", "truth", "model"], cell_px=100)
    assert sheet.shape == (34 + 2 * (75 + 30), 12 + 3 * 112, 3) and sheet.dtype == np.uint8
    inside = sheet[34 : 34 + 75]
    assert (inside[20, 12 + 112 + 35] != inside[2, 12 + 112 + 2]).any()


def test_a_gallery_holds_every_picture_in_its_shape_with_its_name():
    tall = np.full((300, 100, 3), 90, np.uint8)
    names = ["a.jpg", "b.jpg", "a/name/that/is/far/too/long/for/its/cell.jpg"]
    page = draw.gallery([PHOTO, tall, PHOTO], names, columns=2, cell_px=100)
    assert page.shape == (12 + (100 + 30) + (75 + 30), 12 + 2 * 112, 3)
    assert (page[12 + 40, 12 + 50] == 128).all() and (page[12 + 50, 12 + 112 + 50] == 90).all()
    assert (page[12 + 50, 12 + 112 + 5] == 255).all()  # beside the narrow one
    assert (page[12 + 130 + 40, 12 + 50] == 128).all()
    assert (page[12 + 130 + 75 :, :12] == 255).all() and (page[12 + 130 + 80 :] < 255).any()


def test_a_gallery_is_as_wide_as_its_pictures():
    assert draw.gallery([PHOTO], ["a"], columns=5, cell_px=100).shape == (12 + 75 + 30, 124, 3)


def test_captions_stand_under_their_own_pictures():
    tall, flat = np.zeros((80, 40, 3), np.uint8), np.zeros((20, 40, 3), np.uint8)
    page = draw.gallery([tall, flat], ["tall", "fl\nat"], cell_px=80)
    # Cells of 80 x 40 and 40 x 80 pixels: below the flat one its name follows at once.
    second = page[:, 12 + 80 + 12 :]
    rows = np.flatnonzero((second < 200).any(axis=(1, 2)))
    assert rows[rows >= 12 + 40].min() >= 12 + 40 + 6 and rows.max() < 12 + 40 + 30


def test_scores_are_written_where_there_is_room_and_not_on_each_other():
    picture = np.full((400, 500, 3), 128, np.uint8)
    masks = np.zeros((3, 400, 500), bool)
    masks[0, 50:350, 50:450] = masks[1, 60:340, 60:440] = True
    masks[2, 5:9, 5:9] = True  # too small
    plain = draw.overlay(picture, masks)
    drawn = draw.overlay(picture, masks, captions=["1  0.97", "2  0.90", "3  0.80"])
    changed = (drawn != plain).any(axis=2)
    assert not changed[:20].any()
    for i in range(2):  # a label of each query's colour
        assert (drawn[changed] == draw.colour(i)).all(axis=1).sum() > 200
    middle = changed[190:210]
    assert middle.any() and changed[140:180].any()


@pytest.mark.parametrize("click", [(250, 200), (120, 200), *((252, y) for y in range(181, 192))])
def test_a_label_is_never_under_a_click(click: tuple[int, int]):
    """It is where it would be without the click, or beside that."""
    picture = np.full((400, 500, 3), 128, np.uint8)
    masks = np.zeros((1, 400, 500), bool)
    masks[0, 120:280, 80:420] = True
    prompt = Prompt(points=[click])
    labelled = draw.overlay(picture, masks, [prompt], captions=["0  0.97"])
    plain = draw.overlay(picture, masks, [prompt])
    label = (labelled != plain).any(axis=2)
    assert label.sum() > 300
    dot = (draw.overlay(picture, None, [prompt]) != 128).any(axis=2)
    assert not (label & dot).any()
    rows, columns = np.nonzero(label)
    box = np.zeros_like(dot)
    box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    assert not (box & dot).any() and masks[0][box].all()


def test_labels_grow_with_the_picture():
    heights = []
    for side in (400, 1040, 4000):
        masks = np.ones((1, side, side), bool)
        picture = np.full((side, side, 3), 128, np.uint8)
        drawn = draw.overlay(picture, masks, captions=["0  0.97"])
        label = (drawn != draw.overlay(picture, masks)).any(axis=2)
        heights.append(np.ptp(np.nonzero(label.any(axis=1))[0]))
    assert heights[0] == heights[1] and heights[2] > 3 * heights[1]


def test_a_long_caption_of_a_sheet_stays_in_its_cell():
    row = draw.Row(picture=PHOTO, prompts=[], masks=[], captions=[], name="x" * 90)
    sheet = draw.contact_sheet([row], ["a title that is longer than its cell is wide"], cell_px=100)
    assert (sheet[:, :12] == 255).all() and (sheet[:, 12 + 100 :] == 255).all()
