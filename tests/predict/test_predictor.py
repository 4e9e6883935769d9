"""The drop-in predictor: segment-anything's calls, and what `Sam.decode` answers to the same."""

import functools
from typing import Any

import numpy as np
import pytest
from helpers import nano

import esam_jax
from esam_jax.errors import DataError, PromptError
from esam_jax.predict.predictor import Predictor
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.sam import Sam

HEIGHT, WIDTH = 40, 56
PICTURE = nano.picture(HEIGHT, WIDTH)


@functools.cache
def predictor(name: str = "sam_nano") -> Predictor:
    made = Predictor(nano.sam(name))
    made.set_image(PICTURE)
    return made


def test_it_is_public():
    assert esam_jax.Predictor is Predictor


@pytest.mark.parametrize("name", nano.NAMES)
@pytest.mark.parametrize(
    ("call", "prompt"),
    [
        ({"point_coords": [[9, 12]], "point_labels": [1]}, Prompt(points=[[9, 12]])),
        ({"box": np.array([3, 4, 30, 25])}, Prompt(box=[3, 4, 30, 25])),
        ({"box": np.array([[3, 4, 30, 25]])}, Prompt(box=[3, 4, 30, 25])),
    ],
)
def test_answers_are_those_of_decode(name: str, call: dict[str, Any], prompt: Prompt):
    sam = nano.sam(name)
    wanted = sam.decode(sam.encode(PICTURE), [prompt])
    masks, scores, low_res = predictor(name).predict(**call)
    assert masks.shape == (3, HEIGHT, WIDTH) and masks.dtype == bool
    np.testing.assert_array_equal(masks, wanted.binary()[0])
    np.testing.assert_array_equal(scores, wanted.scores[0])
    np.testing.assert_array_equal(low_res, wanted.low_res[0])


def test_an_answer_can_be_asked_about_again():
    """The usual second click: the best low-resolution logits with their leading axis."""
    first = predictor()
    _, scores, low_res = first.predict([[9, 12]], [1])
    best = low_res[scores.argmax()][None]
    second, _, _ = first.predict([[9, 12], [30, 20]], [1, 0], mask_input=best)
    prompt = Prompt(points=[[9, 12], [30, 20]], labels=[1, 0], mask=best[0])
    sam = nano.sam("sam_nano")
    wanted = sam.decode(sam.encode(PICTURE), [prompt]).binary()[0]
    np.testing.assert_array_equal(second, wanted)


def test_one_mask_and_logits():
    masks, scores, low_res = predictor().predict(
        [[9, 12]], [1], multimask_output=False, return_logits=True
    )
    assert masks.shape == (1, HEIGHT, WIDTH) and masks.dtype == np.float32
    assert scores.shape == (1,) and low_res.shape == (1, 32, 32)
    inside, _, _ = predictor().predict([[9, 12]], [1], multimask_output=False)
    np.testing.assert_array_equal(masks > 0, inside)


def test_blue_first_pictures_are_turned():
    turned = Predictor(nano.sam("sam_nano"))
    turned.set_image(PICTURE[..., ::-1], image_format="BGR")
    for ours, theirs in zip(
        turned.predict([[9, 12]], [1]), predictor().predict([[9, 12]], [1]), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_the_picture_is_held_and_forgotten():
    asked = Predictor(nano.sam("sam_nano"))
    with pytest.raises(PromptError, match="set_image"):
        asked.predict([[9, 12]], [1])
    assert not asked.is_image_set
    asked.set_image(PICTURE)
    assert asked.is_image_set and asked.original_size == (HEIGHT, WIDTH)
    features = nano.sam("sam_nano").encode(PICTURE).features
    np.testing.assert_array_equal(asked.get_image_embedding()[0, :, 1, 2], features[0, 1, 2])
    asked.reset_image()
    assert not asked.is_image_set


def test_a_bad_picture_leaves_none():
    asked = Predictor(nano.sam("sam_nano"))
    asked.set_image(PICTURE)
    with pytest.raises(DataError, match=r"must have uint8"):
        asked.set_image(PICTURE.astype(np.float32))
    assert not asked.is_image_set


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "prompt is empty"),
        ({"point_coords": [[9, 12]]}, "point_labels is missing"),
        ({"point_labels": [1]}, "without point_coords"),
        ({"point_coords": [[np.nan, 1]], "point_labels": [1]}, "must be finite"),
        ({"point_coords": [[99, 1]], "point_labels": [1]}, "outside"),
        ({"box": [1, 2, 3]}, "must be one box"),
        ({"mask_input": np.zeros((2, 32, 32), np.float32)}, "must be one mask"),
    ],
)
def test_a_wrong_argument_is_named(call: dict[str, Any], message: str):
    with pytest.raises(PromptError, match=message):
        predictor().predict(**call)


def test_an_unknown_format_is_named():
    with pytest.raises(PromptError, match="image_format is 'HSV'"):
        Predictor(nano.sam("sam_nano")).set_image(PICTURE, image_format="HSV")


def test_an_error_names_the_predictors_arguments_and_keeps_the_original():
    with pytest.raises(PromptError, match=r"^point_coords has \(99, 1\)") as error:
        predictor().predict([[99, 1]], [1])
    assert error.value.argument == "point_coords"
    cause = error.value.__cause__
    assert isinstance(cause, PromptError) and cause.argument == "points"
    assert cause.problem == error.value.problem and str(cause) == f"points {cause.problem}"


def test_remedies_are_in_words_of_both_interfaces():
    """Single mask and logits of a wrong size: neither names a class or a method."""
    trained = nano.sam("sam_nano")
    asked = Predictor(Sam(trained.model, trained.params, ["decoder/single_mask"]))
    asked.set_image(PICTURE)
    with pytest.raises(PromptError, match=r"^multimask_output is False.* highest score$"):
        asked.predict([[3, 4]], [1], multimask_output=False)
    with pytest.raises(PromptError, match=r"^mask_input has .*: pass logits of an earlier answer"):
        asked.predict(mask_input=np.zeros((1, 9, 9), np.float32))
