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
    ("prompt", "inside"),
    [
        (Prompt(points=[[0, 0]]), True),
        (Prompt(points=[[9.9, 4.9]]), True),
        (Prompt(points=[[10, 3]]), False),
        (Prompt(points=[[3, 5]]), False),
        (Prompt(points=[[1, 1], [-0.1, 3]]), False),
        (Prompt(box=[0, 0, 10, 5]), True),
        (Prompt(box=[0, 0, 10.5, 5]), False),
        (Prompt(box=[-1, 0, 10, 5]), False),
    ],
)
def test_the_picture_is_ten_wide_and_five_high(prompt: Prompt, inside: bool):
    if inside:
        prompt.check_inside(5, 10)
    else:
        with pytest.raises(PromptError, match="outside; the picture is 10 wide and 5 high"):
            prompt.check_inside(5, 10)


def test_a_checkpoint_may_lack_what_is_asked():
    with pytest.raises(PromptError, match="labels has a 0"):
        Prompt(points=[[1, 2]], labels=[0]).check(EFFICIENTSAM, 9, 9)
    with pytest.raises(PromptError, match="takes no mask prompts"):
        Prompt(mask=np.ones((3, 4), bool)).check(EFFICIENTSAM, 9, 9)
    decoder = dataclasses.replace(
        EFFICIENTSAM.decoder, background="learned", mask_prompts="learned"
    )
    extended = dataclasses.replace(EFFICIENTSAM, decoder=decoder)
    Prompt(points=[[1, 2]], labels=[0], mask=np.ones((3, 4), bool)).check(extended, 9, 9)


def test_slots_are_counted_with_the_box():
    points = [[1, 2]] * 5
    Prompt(points=points).check(EFFICIENTSAM, 9, 9)
    with pytest.raises(PromptError, match=r"takes 7 slots .* has 6"):
        Prompt(points=points, box=[1, 2, 3, 4]).check(EFFICIENTSAM, 9, 9)
    Prompt(points=points * 4, box=[1, 2, 3, 4]).check(SAM, 9, 9)


def test_float_masks_are_logits_of_the_decoder():
    Prompt(mask=np.zeros((32, 32))).check(SAM, 9, 9)
    with pytest.raises(PromptError, match=r"float logits of shape \(9, 9\)"):
        Prompt(mask=np.zeros((9, 9))).check(SAM, 9, 9)
