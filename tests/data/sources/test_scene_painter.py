import dataclasses
import hashlib

import numpy as np
import pytest

from esam_jax.config import ScenesConfig
from esam_jax.data import sources
from esam_jax.data.labels import Label
from esam_jax.data.sources import scene_painter
from esam_jax.data.sources.scene_painter import OUTLINES


def test_a_scene_depends_on_its_index_seed_and_split_alone():
    image, labels = scene_painter.draw(7, 48)
    again = scene_painter.draw(7, 48)
    assert image.shape == (48, 48, 3) and labels.shape == (48, 48)
    assert (again[0] == image).all() and (again[1] == labels).all()
    for other in (
        scene_painter.draw(8, 48),
        scene_painter.draw(7, 48, seed=1),
        scene_painter.draw(7, 48, split="heldout"),
    ):
        assert (other[0] != image).mean() > 0.5


def test_labels_count_on_and_every_object_can_be_seen():
    for index in range(150):
        _, labels = scene_painter.draw(index, 64)
        areas = np.bincount(labels.ravel())
        assert 1 <= labels.max() <= 6
        assert (areas[1:] >= 24).all()


@pytest.mark.parametrize("px", [32, 96, 256])
def test_the_same_scene_at_every_resolution(px: int):
    for index in range(10):
        coarse, fine = (scene_painter.draw(index, size)[1] for size in (64, px))
        centres = (2 * np.arange(64) + 1) * px // 128
        same = (fine[np.ix_(centres, centres)] > 0) == (coarse > 0)
        assert same.mean() > 0.9  # outlines move by up to a pixel, and few are that small


def test_an_object_stands_out_from_the_ground_in_colour_or_texture():
    """Not a matter of taste: a scene in which nothing shows would be noise for training."""
    apart = []
    for index in range(50):
        image, labels = scene_painter.draw(index, 64)
        ground = image[labels == 0].astype(float)
        for label in range(1, labels.max() + 1):
            inside = image[labels == label].astype(float)
            apart.append(
                max(
                    np.abs(inside.mean(0) - ground.mean(0)).max(),
                    np.abs(inside.std(0) - ground.std(0)).max(),
                )
            )
    assert np.mean(np.array(apart) > 15) > 0.9


def test_outlines_change_no_pixel():
    """Golden files and the shipped models are of these very scenes."""
    digest = hashlib.sha256()
    for index in range(20):
        for array in (*scene_painter.draw(index, 64), *scene_painter.draw(index, 40, seed=3)):
            digest.update(array.tobytes())
    assert digest.hexdigest()[:16] == "2caae044dc03579f"


@pytest.mark.parametrize("number", range(len(OUTLINES)))
def test_an_object_has_the_outline_that_was_drawn(monkeypatch, number: int):
    drawn = list(scene_painter._NUMBERS)[number]
    monkeypatch.setattr(scene_painter, "_DRAWN", (drawn,))
    scenes = [scene_painter.scene(index, 64) for index in range(10)]
    assert {outline for each in scenes for outline in each.outlines} == {number}
    assert drawn.__name__ == f"_{OUTLINES[number]}"


def test_the_class_is_the_outline_of_the_object_of_which_most_is_seen():
    seen = set()
    for index in range(80):
        scene = scene_painter.scene(index, 64)
        assert len(scene.outlines) == scene.labels.max()
        areas = [(scene.labels == label).sum() for label in range(1, scene.labels.max() + 1)]
        main = max(range(len(areas)), key=areas.__getitem__)
        assert scene.main_outline() == scene.outlines[main]
        seen.add(scene.main_outline())
    assert seen == {*range(len(OUTLINES))}  # every class occurs
    empty = dataclasses.replace(scene, labels=np.zeros_like(scene.labels), outlines=())
    assert empty.main_outline() is None


def test_a_source_of_scenes_says_their_class_and_begins_anywhere():
    source = sources.open_source(ScenesConfig(first=5, scenes=3))
    record = source.read(2)
    label = record.annotation("label")
    assert (record.name, len(source)) == ("train/7", 3)
    assert label == Label(scene_painter.scene(7, 64).main_outline(), OUTLINES[label.index])
    assert (record.picture.rgb() == scene_painter.draw(7, 64)[0]).all()
    assert len(record.annotation("masks")) == scene_painter.draw(7, 64)[1].max()
