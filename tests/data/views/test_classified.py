"""Views for classification: their parts, their seeds, and the picture that is measured."""

import dataclasses
import math
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from esam_jax.config import ClassifiedConfig, CropConfig, RandAugmentConfig
from esam_jax.data import views
from esam_jax.data.labels import Label
from esam_jax.data.pictures import Pixels
from esam_jax.data.records import Record
from esam_jax.data.views import classified, draws, rand_augment
from esam_jax.errors import ConfigError, DataError

GOLDEN = np.load(pathlib.Path(__file__).parents[2] / "golden" / "classification_a.npz")
CONFIG = ClassifiedConfig(image_px=32, classes=5)
PLAIN = dataclasses.replace(CONFIG, rand_augment=RandAugmentConfig(operations=0), erasing=0.0)


def record(height=40, width=52, label=3):
    rng = np.random.default_rng(height * width)
    small = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    return Record("x", Pixels(pixels), {"label": Label(label, f"class {label}")})


def made(config, epoch=0):
    view = views.make(record(), config, draws.generator(0, epoch, "x"))
    shapes = views.shapes(config)
    assert {name: (x.shape, x.dtype) for name, x in view.items()} == shapes
    return view


def test_it_is_the_crop_of_pretraining_augmented():
    crop = views.make(record(), CropConfig(image_px=32, min_scale=0.08), draws.generator(0, 0, "x"))
    plain = made(PLAIN)
    assert np.array_equal(plain["image"], crop["image"])
    assert plain["label"] == 3 and not plain["erased"].any()
    epochs = range(20)
    changed = [
        not np.array_equal(made(CONFIG, each)["image"], made(PLAIN, each)["image"])
        for each in epochs
    ]
    assert 8 < sum(changed) < 20  # three quarters have an operation


def test_augmentation_follows_on_the_crop(monkeypatch):
    """Of the crop that is seen: a picture moved before it would show other edges."""
    seen = []

    def augmented(rng, picture, config):
        seen.append(np.asarray(picture))
        return picture

    monkeypatch.setattr(rand_augment, "augmented", augmented)
    assert np.array_equal(made(CONFIG)["image"], seen[0])


def test_views_are_those_of_their_seed_and_epoch():
    one, again, other = made(CONFIG), made(CONFIG), made(CONFIG, 1)
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["image"], other["image"])
    assert not np.array_equal(one["noise"], other["noise"])


def test_sizes_of_what_is_erased_are_timms():
    for (area, log_ratio), size in zip(
        GOLDEN["erase/area_and_log_aspect"], GOLDEN["erase/height_width"].tolist(), strict=True
    ):
        assert classified.rectangle(area, log_ratio, 224) == tuple(size)


@given(seed=st.integers(0, 2**32 - 1), px=st.integers(8, 64))
def test_what_is_erased_lies_in_the_picture(seed, px):
    box = classified.draw_rectangle(np.random.default_rng(seed), px)
    top, left, bottom, right = box.tolist()
    assert 0 <= top <= bottom <= px and 0 <= left <= right <= px


def test_what_is_erased_is_of_every_size_and_place():
    rng = np.random.default_rng(0)
    boxes = np.array([classified.draw_rectangle(rng, 100) for _ in range(2000)])
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = height * width / 100**2, height / width
    assert 0.018 < area.min() < 0.03 and 0.32 < area.max() < 0.34
    assert 0.27 < ratio.min() < 0.35 and 2.9 < ratio.max() < 3.7
    assert boxes[:, :2].min() == 0 and boxes[:, 2:].max() == 100  # up to all four edges


def test_as_many_pictures_are_erased_as_the_config_says():
    erases = [bool(made(CONFIG, each)["erased"].any()) for each in range(400)]
    assert 0.18 < np.mean(erases) < 0.32
    always = dataclasses.replace(CONFIG, erasing=1.0)
    assert all(made(always, each)["erased"].any() for each in range(20))


def slow_centre(pixels, px):
    """torchvision's Resize(256 / 224 * px) and CenterCrop(px), as their documentation says."""
    height, width = pixels.shape[:2]
    side = int(px / (224 / 256))
    if width <= height:
        size = side, int(side * height / width)
    else:
        size = int(side * width / height), side
    resized = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    top = round((resized.shape[0] - px) / 2.0)
    left = round((resized.shape[1] - px) / 2.0)
    return resized[top : top + px, left : left + px]


@pytest.mark.parametrize("size", [(40, 52), (52, 40), (33, 33), (300, 223), (9, 60)])
@pytest.mark.parametrize("px", [32, 224])
def test_the_centre_is_torchvisions(size, px):
    given = record(*size)
    assert np.array_equal(classified.centred(given, px), slow_centre(given.picture.rgb(), px))


def test_a_narrow_picture_takes_no_more_memory_than_others(monkeypatch):
    given, sizes = record(2, 4000), []
    resize = Image.Image.resize

    def watched(image, size, *rest):
        sizes.append(math.prod(size))
        return resize(image, size, *rest)

    monkeypatch.setattr(Image.Image, "resize", watched)
    assert classified.centred(given, 32).shape == (32, 32, 3)
    assert max(sizes) <= 16 * 36**2


@pytest.mark.parametrize("label", [-1, 5, 700])
def test_a_class_that_the_model_does_not_know_costs_its_record(label):
    with pytest.raises(DataError, match=rf"x has class {label} .*but there are 5, from 0: correct"):
        views.make(record(label=label), CONFIG, draws.generator(0, 0, "x"))


def test_a_record_without_a_class_is_refused():
    bare = dataclasses.replace(record(), annotations={})
    with pytest.raises(ConfigError, match="from a source without label"):
        views.make(bare, CONFIG, draws.generator(0, 0, "x"))


def test_a_rectangle_is_never_as_long_as_a_side():
    """timm's rule, which leaves some out in a picture of 8 pixels."""
    rng = np.random.default_rng(0)
    boxes = np.array([classified.draw_rectangle(rng, 8) for _ in range(500)])
    assert (boxes[:, 2:] - boxes[:, :2]).max() == 7


# ------------------------------------------------------------------------------- its classes


class Named:
    """A source that says its classes, and nothing else."""

    def __init__(self, *classes: str) -> None:
        self.classes = classes

    def __len__(self) -> int:
        return 0

    def name(self, index: int) -> str:
        raise IndexError

    read = name


def test_a_label_is_found_by_its_name_where_there_are_names():
    named = dataclasses.replace(CONFIG, classes=None, class_names=("x", "class 3", "y"))
    assert classified.number(record(label=3), named) == 1
    assert classified.count(named) == 3
    with pytest.raises(DataError, match="x is of class 'class 2', which is none of the model's"):
        classified.number(record(label=2), named)


def test_number_and_names_of_classes_are_those_of_the_data():
    for classes in (None, 2):
        config = dataclasses.replace(CONFIG, classes=classes)
        found = classified.adapted(config, Named("ants", "bees"))
        assert (found.classes, found.class_names) == (2, ("ants", "bees"))
        assert views.takes_from_data(config)
    assert classified.adapted(CONFIG, Named()) == CONFIG  # data whose classes have no names
    assert not views.takes_from_data(CropConfig())


def test_names_that_are_given_decide_on_the_order_alone():
    config = dataclasses.replace(CONFIG, classes=None, class_names=("bees", "ants"))
    assert classified.adapted(config, Named("ants", "bees")).class_names == ("bees", "ants")
    for there in (("ants", "wasps"), ("ants",), ("ants", "bees", "wasps")):
        with pytest.raises(ConfigError):
            classified.adapted(config, Named(*there))


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (("ants",), "the data has one class alone, ants, and nothing can be told apart"),
        (("a", "b"), r"classes is 5, but the data has 2 \(a, b\): write --data.view.classes 2"),
    ],
)
def test_data_of_another_number_of_classes_are_refused(there, words):
    with pytest.raises(ConfigError, match=words):
        classified.adapted(CONFIG, Named(*there))


def test_a_run_that_resumes_keeps_its_classes():
    before = dataclasses.replace(CONFIG, classes=2, class_names=("ants", "bees"))
    for classes in (None, 2):
        assert classified.resumed(dataclasses.replace(CONFIG, classes=classes), before) == before
    assert classified.resumed(CONFIG, before) == CONFIG  # five: the run is refused for it
    views.require(before, Named("bees", "ants"))
    views.require(before, Named())
    with pytest.raises(
        ConfigError, match=r"it lacks bees; it also has wasps. A class without pict"
    ):
        views.require(before, Named("ants", "wasps"))


def test_a_number_that_is_left_to_the_data_is_unknown_without_them():
    config = dataclasses.replace(CONFIG, classes=None)
    with pytest.raises(
        ConfigError, match=r"counted when a run starts.*write --data.view.classes N"
    ):
        classified.count(config)
    with pytest.raises(ConfigError, match="classes is 3, but class_names has 2"):
        dataclasses.replace(CONFIG, classes=3, class_names=("a", "b"))
    with pytest.raises(ConfigError, match=r"class_names is .*must not repeat itself"):
        dataclasses.replace(CONFIG, classes=None, class_names=("a", "a"))
