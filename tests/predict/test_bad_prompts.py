"""What cannot be asked is refused through every door, under the name that the caller gave it."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import nano
from PIL import Image

import esam_jax
from esam_jax.convert import model_folder
from esam_jax.errors import DataError, PromptError
from esam_jax.models import named

HEIGHT, WIDTH = 40, 56
NAN, INF = float("nan"), float("inf")
POINT = [[9.0, 12.0]]


@pytest.fixture(scope="module", params=nano.NAMES)
def sam(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> esam_jax.Sam:
    config = named.sam(request.param)
    folder = tmp_path_factory.mktemp("models") / request.param
    model_folder.write(folder, config, nano.params(config), source="a test")
    return _load(folder)


@functools.cache
def _load(folder: Path) -> esam_jax.Sam:
    return esam_jax.load(folder)


class OnAnotherDevice:
    """PyTorch's answer to NumPy for an array on a GPU."""

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


# Arguments of Prompt, and how the error starts.
BAD = {
    "nothing": ({}, "prompt is empty"),
    "no points": ({"points": [], "labels": []}, "prompt is empty"),
    "no points either": ({"points": np.zeros((0, 2))}, "prompt is empty"),
    "point NaN": ({"points": [[NAN, 1]]}, "points is [nan, 1.0], but must be finite"),
    "point infinite": ({"points": [[1, -INF]]}, "points is [1.0, -inf], but must be finite"),
    "point None": ({"points": [[None, 1]]}, "points is [nan, 1.0], but must be finite"),
    "one pair": ({"points": [1, 2]}, "points has shape (2,)"),
    "triples": ({"points": [[1, 2, 3]]}, "points has shape (1, 3)"),
    "a number": ({"points": 3}, "points has shape ()"),
    "ragged points": ({"points": [[1, 2], [3]]}, "points is [[1, 2], [3]], but must be numbers"),
    "a batch of points": ({"points": [POINT]}, "points has shape (1, 1, 2)"),
    "text": ({"points": [["1", "2"]]}, "points is [['1', '2']], but must be numbers"),
    "dates": ({"points": np.zeros((1, 2), "M8[s]")}, "points is array"),
    "complex": ({"points": np.zeros((1, 2), complex)}, "points is array"),
    "huge": ({"points": [[10**400, 1]]}, "points is [[1000"),
    "elsewhere": ({"points": OnAnotherDevice()}, "points is <"),
    "right of it": ({"points": [[WIDTH + 1, 1]]}, "points has (57, 1), which lies outside"),
    "above it": ({"points": [[1, -1.5]]}, "points has (1, -1.5), which lies outside"),
    "far away": ({"points": [[1e300, 1]]}, "points has (1e+300, 1), which lies outside"),
    "label 2": ({"points": POINT, "labels": [2]}, "labels is [2.0]"),
    "label -1": ({"points": POINT, "labels": [-1]}, "labels is [-1.0]"),
    "label 0.5": ({"points": POINT, "labels": [0.5]}, "labels is [0.5]"),
    "label NaN": ({"points": POINT, "labels": [NAN]}, "labels is [nan], but must be finite"),
    "labels too many": ({"points": POINT, "labels": [1, 1]}, "labels has shape (2,) for 1 points"),
    "labels nested": ({"points": POINT, "labels": [[1]]}, "labels has shape (1, 1)"),
    "box of three": ({"box": [1, 2, 3]}, "box has shape (3,)"),
    "no box": ({"box": []}, "box has shape (0,)"),
    "two boxes": ({"box": [[1, 2, 3, 4], [1, 2, 3, 4]]}, "box has shape (2, 4)"),
    "ragged box": ({"box": [[1, 2], [3]]}, "box is [[1, 2], [3]], but must be numbers"),
    "box inverted": ({"box": [30, 2, 10, 20]}, "box is [30.0, 2.0, 10.0, 20.0], but needs"),
    "box upside down": ({"box": [1, 20, 10, 2]}, "box is [1.0, 20.0, 10.0, 2.0], but needs"),
    "box without width": ({"box": [5, 2, 5, 20]}, "box is [5.0, 2.0, 5.0, 20.0], but needs"),
    "box a point": ({"box": [5, 5, 5, 5]}, "box is [5.0, 5.0, 5.0, 5.0], but needs"),
    "box NaN": ({"box": [NAN, 2, 3, 4]}, "box is [nan, 2.0, 3.0, 4.0], but must be finite"),
    "box infinite": ({"box": [0, 0, INF, 4]}, "box is [0.0, 0.0, inf, 4.0], but must be finite"),
    "box outside": ({"box": [0, 0, 57, 40]}, "box is [0.0, 0.0, 57.0, 40.0], which reaches"),
    "mask of one axis": ({"mask": np.ones(4, bool)}, "mask has shape (4,)"),
    "two masks": ({"mask": np.ones((2, 9, 9), bool)}, "mask has shape (2, 9, 9)"),
    "mask of no size": ({"mask": np.ones((0, 9), bool)}, "mask has shape (0, 9)"),
    "ragged mask": ({"mask": [[1, 0], [1]]}, "mask must be one array"),
    "mask elsewhere": ({"mask": OnAnotherDevice()}, "mask must be one array"),
    "mask of 255": ({"mask": np.full((9, 9), 255, np.uint8)}, "mask has uint8 values"),
    "mask NaN": ({"mask": np.full((32, 32), NAN)}, "mask has NaN or infinity"),
    "mask infinite": ({"mask": np.full((32, 32), INF)}, "mask has NaN or infinity"),
    "mask too large for float32": ({"mask": np.full((32, 32), 1e300)}, "mask has NaN or infinity"),
    "mask of text": ({"mask": np.full((9, 9), "a")}, "mask has <U1 values"),
}


@pytest.mark.parametrize("case", BAD)
def test_f34_a_prompt_that_breaks_a_rule_is_refused_by_name(sam: esam_jax.Sam, case: str):
    given, message = BAD[case]
    embedding = sam.encode(nano.picture(HEIGHT, WIDTH))
    with pytest.raises(PromptError) as told:
        sam.decode(embedding, [esam_jax.Prompt(points=POINT), esam_jax.Prompt(**given)])
    assert str(told.value).startswith(message) and "\n" not in str(told.value)


THEIRS = {"points": "point_coords", "labels": "point_labels", "mask": "mask_input", "box": "box"}


@pytest.mark.parametrize("case", BAD)
def test_f34_the_predictor_says_its_own_names(case: str):
    given, message = BAD[case]
    predictor = esam_jax.Predictor(nano.sam("sam_nano"))
    predictor.set_image(nano.picture(HEIGHT, WIDTH))
    call = {THEIRS[name]: value for name, value in given.items()}
    if "point_coords" in call:
        call.setdefault("point_labels", [] if message == "prompt is empty" else [1])
    name, _, rest = message.partition(" ")
    with pytest.raises(PromptError) as told:
        predictor.predict(**call)
    assert str(told.value).startswith(f"{THEIRS.get(name, name)} {rest}")


def test_f34_what_is_refused_changes_nothing(sam: esam_jax.Sam):
    picture = nano.picture(HEIGHT, WIDTH)
    embedding, asked = sam.encode(picture), [esam_jax.Prompt(points=POINT)]
    before = sam.decode(embedding, asked)
    with pytest.raises(PromptError, match="outside"):
        sam.decode(embedding, [esam_jax.Prompt(points=[[WIDTH + 1, 1]])])
    after = sam.decode(embedding, asked)
    np.testing.assert_array_equal(before.low_res, after.low_res)


def test_f34_a_prompt_stays_what_was_checked():
    points, box, logits = np.array(POINT), np.array([3.0, 4, 30, 25]), np.zeros((32, 32))
    prompt = esam_jax.Prompt(points=points, box=box, mask=logits)
    for array in (points, box, logits):
        array[:] = NAN
    assert prompt.points.tolist() == POINT and prompt.box.tolist() == [3, 4, 30, 25]
    assert np.isfinite(prompt.mask).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "images is empty"),
        (np.zeros((0, 8, 8, 3), np.uint8), "images is empty"),
        (np.zeros((2, 0, 8, 3), np.uint8), "images[0] has shape (0, 8, 3)"),
        (np.zeros((1, 1, 8, 8, 3), np.uint8), "images[0] has shape (1, 8, 8, 3)"),
        (np.zeros((8, 8, 4), np.uint8), "images has shape (8, 8, 4)"),
        (np.zeros((8, 8, 3), np.uint16), "images has uint16 pixels"),
        (np.full((8, 8, 3), NAN), "images has float64 pixels"),
        (
            np.full((8, 8, 3), 0.5, np.float32),
            "images has float32 pixels from 0 to 1, but must have uint8",
        ),
        (np.zeros((3, 8, 9), np.uint8), "images has shape (3, 8, 9), but must be RGB"),
        ([nano.picture(8, 8), None], "images[1] is a NoneType"),
        (None, "images is None"),
        (np.zeros((8, 9), np.uint8), "images has shape (8, 9), but must be RGB [height, width, 3]"),
        (np.array(3), "images has shape (), but must be RGB"),
        (np.zeros((0, 8, 3), np.uint8), "images has shape (0, 8, 3), but must be RGB [height, "),
        ("a.jpg", "images is 'a.jpg', but must be pixels: read the file with Pillow, or name it"),
        (Path("a.jpg"), "images is 'a.jpg', but must be pixels"),
        ([nano.picture(8, 8), b"jpeg"], "images[1] is a bytes, but must be a numpy array or a "),
    ],
)
def test_f34_pictures_of_the_wrong_kind_are_refused_by_name(images: Any, message: str):
    with pytest.raises(DataError) as told:
        nano.sam("sam_nano").encode(images)
    assert str(told.value).startswith(message)


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((8, 9), "np.stack([grey] * 3, axis=-1)"),
        ((8, 9, 1), "np.concatenate([grey] * 3, axis=-1)"),
        ((8, 9, 4), "image[..., :3]"),
        ((3, 8, 9), "image.transpose(1, 2, 0)"),
        ((3, 8, 1), "np.concatenate([grey] * 3, axis=-1)"),
    ],
)
def test_f34_the_remedy_for_a_shape_makes_a_picture(shape: tuple[int, ...], remedy: str):
    given = np.zeros(shape, np.uint8)
    with pytest.raises(DataError) as told:
        nano.sam("sam_nano").encode(given)
    advice = str(told.value).split(": ", 1)[1].split(" leaves")[0].split(" brings")[0]
    assert advice == remedy
    made = eval(advice, {"np": np, "grey": given, "image": given})
    nano.sam("sam_nano").encode(made)


def test_f34_a_pillow_picture_of_a_file_cut_short_is_refused(tmp_path: Path):
    Image.fromarray(nano.picture(64, 64)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with (
        Image.open(tmp_path / "a.png") as picture,
        pytest.raises(DataError, match=r"images is a Pillow picture that cannot be decoded \("),
    ):
        nano.sam("sam_nano").encode(picture)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "image is a NoneType"),
        ("a.jpg", "image is a str"),
        (np.zeros((8, 8), np.uint8), "image has shape (8, 8)"),
        (np.zeros((1, 8, 8, 3), np.uint8), "image has shape (1, 8, 8, 3)"),
        (np.zeros((8, 0, 3), np.uint8), "image has shape (8, 0, 3)"),
        (np.zeros((8, 8, 3)), "image has float64 pixels"),
    ],
)
def test_f34_one_picture_of_the_wrong_kind_is_refused_by_name(image: Any, message: str):
    sam = nano.sam("sam_nano")
    for call in (
        esam_jax.Predictor(sam).set_image,
        functools.partial(esam_jax.Predictor(sam).set_image, image_format="BGR"),
        esam_jax.AutomaticMaskGenerator(sam, 4).generate,
    ):
        with pytest.raises(DataError) as told:
            call(image)
        assert str(told.value).startswith(message)


@pytest.mark.parametrize("prompts", [None, 3, "points", [], [None], [POINT], {}, np.zeros((1, 2))])
def test_f34_prompts_that_are_none_are_refused(sam: esam_jax.Sam, prompts: Any):
    picture = nano.picture(HEIGHT, WIDTH)
    with pytest.raises(PromptError, match=r"^prompts "):
        sam.decode(sam.encode(picture), prompts)
    if isinstance(prompts, list) and not prompts:  # which a picture of several may have
        return
    with pytest.raises(PromptError, match=r"^prompts "):
        sam.decode(sam.encode([picture, picture]), [[esam_jax.Prompt(points=POINT)], prompts])


def test_f34_more_points_than_a_checkpoint_has_are_refused():
    sam = nano.sam("efficientsam_nano")
    embedding = sam.encode(nano.picture(HEIGHT, WIDTH))
    with pytest.raises(PromptError, match=r"^points takes 7 slots"):
        sam.decode(embedding, [esam_jax.Prompt(points=POINT * 7)])


def test_f34_the_embedding_of_another_model_is_refused():
    other = nano.sam("efficientsam_nano").encode(nano.picture(HEIGHT, WIDTH))
    other = other.replace(features=other.features[:, :4])
    with pytest.raises(PromptError, match=r"^embedding has features of shape .* with this model"):
        nano.sam("efficientsam_nano").decode(other, [esam_jax.Prompt(points=POINT)])


@pytest.mark.parametrize("embedding", [None, np.zeros((1, 8, 8, 64), np.float32), "features"])
def test_f34_what_is_no_embedding_is_refused_by_name(sam: esam_jax.Sam, embedding: Any):
    with pytest.raises(PromptError, match=r"^embedding is a "):
        sam.decode(embedding, [esam_jax.Prompt(points=POINT)])
