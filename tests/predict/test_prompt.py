"""A prompt is checked when it is made, and against picture and model before anything runs."""

import dataclasses

import numpy as np
import pytest

from esam_jax.errors import PromptError
from esam_jax.models import named
from esam_jax.predict.prompt import Prompt
from esam_jax.typing import BOTTOM_RIGHT, FOREGROUND, PADDING, TOP_LEFT

EFFICIENTSAM, SAM = named.sam("efficientsam_nano"), named.sam("sam_nano")


def test_points_are_foreground_unless_told():
    prompt = Prompt(points=[[1, 2], (3, 4)])
    assert prompt.labels.tolist() == [FOREGROUND, FOREGROUND]
    assert prompt.points.dtype == np.float64 and prompt.labels.dtype == np.int32


def test_padded_holds_points_then_corners_then_padding():
    points, labels = Prompt(points=[[1, 2]], labels=[0], box=[3, 4, 5, 6]).padded(5)
    assert points[:3].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert labels.tolist() == [0, TOP_LEFT, BOTTOM_RIGHT, PADDING, PADDING]


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        (Prompt(points=[[1, 2]]), 2),
        (Prompt(points=[[1, 2], [3, 4]]), 3),
        (Prompt(box=[1, 2, 3, 4]), 2),
        (Prompt(points=[[1, 2]], box=[1, 2, 3, 4]), 3),
        (Prompt(mask=np.zeros((3, 4), bool)), 0),
        (Prompt(points=[[1, 2]], padding=2), 4),
        (Prompt(box=[1, 2, 3, 4], padding=1), 3),
        (Prompt(padding=1), 2),
        (Prompt(padding=0), 0),
    ],
)
def test_tokens_are_those_of_the_original_sam(prompt: Prompt, tokens: int):
    """A point set without a box is followed by one "not a point"."""
    assert prompt.tokens == tokens


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "prompt is empty"),
        ({"points": []}, "prompt is empty"),
        ({"padding": -1}, "padding is -1, but must be an integer from 0"),
        ({"padding": 1.0}, "padding is 1.0, but must be an integer from 0"),
        ({"padding": True}, "padding is True, but must be an integer from 0"),
        ({"points": [[NAN, 1]]}, "points is .* must be finite"),
        ({"points": [[INF, 1]]}, "points is .* must be finite"),
        ({"points": [1, 2]}, r"points has shape \(2,\)"),
        ({"points": [[1, 2, 3]]}, r"points has shape \(1, 3\)"),
        ({"points": [[1, 2], [3]]}, "points is .* must be numbers"),
        ({"points": "here"}, "points is 'here'"),
        ({"points": [[1, 2]], "labels": [1, 0]}, r"labels has shape \(2,\) for 1 points"),
        ({"points": [[1, 2]], "labels": 1}, r"labels has shape \(\)"),
        ({"points": [[1, 2]], "labels": [2]}, "labels is .* must be 1"),
        ({"points": [[1, 2]], "labels": [-1]}, "labels is .* must be 1"),
        ({"points": [[1, 2]], "labels": [0.5]}, "labels is .* must be 1"),
        ({"points": [[1, 2]], "labels": [NAN]}, "labels is .* must be finite"),
        ({"labels": [1], "box": [1, 2, 3, 4]}, "labels has shape .* for 0 points"),
        ({"box": [1, 2, 3]}, r"box has shape \(3,\)"),
        ({"box": [[1, 2, 3, 4]]}, r"box has shape \(1, 4\)"),
        ({"box": [3, 2, 1, 4]}, "box is .* needs x0 < x1"),
        ({"box": [1, 4, 3, 2]}, "box is .* needs x0 < x1"),
        ({"box": [1, 2, 1, 4]}, "box is .* needs x0 < x1"),
        ({"box": [NAN, 2, 3, 4]}, "box is .* must be finite"),
        ({"mask": np.zeros(4, bool)}, r"mask has shape \(4,\)"),
        ({"mask": np.zeros((0, 4), bool)}, r"mask has shape \(0, 4\)"),
        ({"mask": np.full((2, 3), 255, np.uint8)}, "mask has uint8 values other"),
        ({"mask": np.full((2, 3), NAN)}, "mask has NaN"),
        ({"mask": np.full((2, 3), "a")}, "mask has <U1"),
        ({"mask": [[1, 0], [1]]}, "mask must be one array"),
    ],
)
def test_what_breaks_a_rule_is_named(given: dict, message: str):
    with pytest.raises(PromptError, match=message):
        Prompt(**given)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"points": [[0, 0]]}, [0, 0]),
        ({"points": [[9.9, 4.9]]}, [9.9, 4.9]),
        ({"points": [[-0.9, 2]]}, [0, 2]),
        ({"points": [[10, 5]]}, [10, 5]),  # just below
        ({"points": [[10.9, 3]]}, [10, 3]),
        ({"box": [0, 0, 10, 5]}, [0, 0, 10, 5]),
        ({"box": [-0.3, -0.9, 10.5, 5.9]}, [0, 0, 10, 5]),
        ({"points": [[11, 3]]}, "points has (11, 3), which lies"),
        ({"points": [[1, 1], [-1, 3]]}, "points has (-1, 3), which lies"),
        ({"points": [[3, 6]]}, "points has (3, 6), which lies"),
        ({"box": [0, 0, 11, 5]}, "box is [0.0, 0.0, 11.0, 5.0], which reaches"),
        ({"box": [-1, 0, 10, 5]}, "box is [-1.0, 0.0, 10.0, 5.0], which reaches"),
        ({"box": [10.2, 0, 10.8, 5]}, "box is [10.2, 0.0, 10.8, 5.0], which reaches"),
    ],
)
def test_less_than_a_pixel_outside_is_clipped(given: dict, wanted: list | str):
    """Of a picture that is ten wide and five high."""
    prompt = Prompt(**given)
    if isinstance(wanted, str):
        with pytest.raises(PromptError) as error:
            prompt.clipped(5, 10)
        assert str(error.value).startswith(wanted)
        assert "outside; the picture is 10 wide and 5 high" in str(error.value)
        return
    clipped = prompt.clipped(5, 10)
    found = clipped.points[0] if "points" in given else clipped.box
    np.testing.assert_allclose(found, wanted)
    assert (clipped.points < [10, 5]).all()
    given_so = given.get("box", given.get("points", [None])[0])
    assert (clipped is prompt) == (found.tolist() == given_so)
    assert clipped.clipped(5, 10) is clipped


def test_what_is_clipped_keeps_the_rest():
    mask = np.ones((3, 4), bool)
    clipped = Prompt(points=[[10.5, 1], [2, 3]], labels=[0, 1], mask=mask).clipped(5, 10)
    assert clipped.labels.tolist() == [0, 1] and clipped.points[1].tolist() == [2, 3]
    np.testing.assert_array_equal(clipped.mask, mask)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"points": [[1, 1], [9, 9]], "labels": [2, 3]}, "go to box=[x0, y0, x1, y1]"),
        ({"points": [[1, 1], [0, 0]], "labels": [1, -1]}, "leave points that only fill up out"),
        ({"points": [[1, 1]], "labels": [7]}, "0 (background)"),
        ({"box": [60, 40, 30, 20]}, "[x, y, x + width, y + height])"),
    ],
)
def test_what_other_libraries_take_gets_a_hint(given: dict, hint: str):
    with pytest.raises(PromptError) as error:
        Prompt(**given)
    assert str(error.value).endswith(hint)


def test_a_prompt_shows_what_it_has():
    assert repr(Prompt(points=[[1, 2]])) == "Prompt(points=[[1.0, 2.0]], labels=[1])"
    assert repr(Prompt(box=[1, 2, 3, 4])) == "Prompt(box=[1.0, 2.0, 3.0, 4.0])"
    assert repr(Prompt(mask=np.ones((3, 4), bool))) == "Prompt(mask=bool [3, 4])"


def test_a_checkpoint_may_lack_what_is_asked():
    with pytest.raises(PromptError, match="labels has a 0"):
        Prompt(points=[[1, 2]], labels=[0]).checked(EFFICIENTSAM, 9, 9)
    with pytest.raises(PromptError, match="takes no mask prompts"):
        Prompt(mask=np.ones((3, 4), bool)).checked(EFFICIENTSAM, 9, 9)
    decoder = dataclasses.replace(
        EFFICIENTSAM.decoder, background="learned", mask_prompts="learned"
    )
    extended = dataclasses.replace(EFFICIENTSAM, decoder=decoder)
    Prompt(points=[[1, 2]], labels=[0], mask=np.ones((3, 4), bool)).checked(extended, 9, 9)


def test_slots_are_counted_with_the_box():
    points = [[1, 2]] * 5
    Prompt(points=points).checked(EFFICIENTSAM, 9, 9)
    with pytest.raises(PromptError, match=r"takes 7 slots .* has 6"):
        Prompt(points=points, box=[1, 2, 3, 4]).checked(EFFICIENTSAM, 9, 9)
    Prompt(points=points * 4, box=[1, 2, 3, 4]).checked(SAM, 9, 9)


def test_float_masks_are_logits_of_the_decoder():
    Prompt(mask=np.zeros((32, 32))).checked(SAM, 9, 9)
    with pytest.raises(PromptError, match=r"float logits of shape \(9, 9\)"):
        Prompt(mask=np.zeros((9, 9))).checked(SAM, 9, 9)
