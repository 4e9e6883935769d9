import numpy as np
import pytest

from esam_jax.data.sources import scene_painter


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
