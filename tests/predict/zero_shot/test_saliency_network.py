"""A saliency network that is called with pictures: its input, its map, its files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nano, small_u2net, tiny

import esam_jax
from esam_jax.config import U2NetConfig
from esam_jax.convert import model_folder
from esam_jax.errors import CheckpointError, DataError, MissingError
from esam_jax.models.saliency.u2net import U2Net
from esam_jax.ops import images
from esam_jax.predict.zero_shot import saliency_network
from esam_jax.predict.zero_shot.saliency_network import Saliency, fitted, scaled, to_square

SMALL = small_u2net.CONFIG


@pytest.mark.parametrize("size", [(7, 11), (50, 33), (1, 1)])
def test_input_is_stretched_and_divided_by_its_maximum(size):
    picture = nano.picture(*size) // 2
    wanted = np.asarray(images.stretch(jnp.asarray(picture[None]), 20))[0]
    wanted = (wanted / wanted.max() - images.MEAN) / images.STD
    np.testing.assert_allclose(to_square(picture, 20), wanted, rtol=1e-4, atol=1e-5)


def test_black_pictures_stay_finite():
    found = to_square(np.zeros((4, 5, 3), np.uint8), 8)
    wanted = np.broadcast_to(-images.MEAN / images.STD, found.shape)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_scaled_from_smallest_to_largest():
    found = scaled(np.array([[0.2, 0.4], [0.3, 0.2]], np.float32))
    np.testing.assert_allclose(found, [[0, 1], [0.5, 0]], atol=1e-6)
    np.testing.assert_array_equal(scaled(np.full((2, 3), 0.7)), np.zeros((2, 3)))


def test_fitted_keeps_a_map_of_that_size_and_the_range():
    found = np.random.default_rng(0).uniform(size=(6, 8)).astype(np.float32)
    np.testing.assert_array_equal(fitted(found, 6, 8), found)
    large = fitted(found, 31, 57)
    assert large.shape == (31, 57) and (large >= 0).all() and (large <= 1).all()
    np.testing.assert_allclose(fitted(np.full((4, 4), 0.25), 9, 3), 0.25, atol=1e-6)


def test_fitted_is_bilinear():
    found = fitted(np.array([[0.0, 1.0]], np.float32), 1, 8)[0]
    np.testing.assert_allclose(found, [0, 0, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 1, 1], atol=1e-6)


def test_map_is_that_of_the_square_in_the_size_of_the_picture(monkeypatch):
    monkeypatch.setattr(U2NetConfig, "image_px", 32)
    picture, given = nano.picture(21, 45), []
    answer = np.random.default_rng(0).uniform(0.2, 0.4, (32, 32)).astype(np.float32)

    def first_map(model, params, square):
        given.append(square)
        return answer

    monkeypatch.setattr(saliency_network, "_first_map", first_map)
    network = Saliency(U2Net(SMALL), small_u2net.params())
    np.testing.assert_array_equal(network(picture), fitted(scaled(answer), 21, 45))
    np.testing.assert_array_equal(given, [to_square(picture, 32)])
    moved = jax.tree.leaves(network.on(jax.devices()[1]).params)
    assert all(leaf.devices() == {jax.devices()[1]} for leaf in moved)
    with pytest.raises(DataError, match="picture has shape"):
        network(picture[..., 0])


@pytest.mark.slow
def test_map_is_the_first_of_the_network(monkeypatch):
    monkeypatch.setattr(U2NetConfig, "image_px", 32)
    params, picture = small_u2net.params(), nano.picture(21, 45)
    found = Saliency(U2Net(SMALL), params)(picture)
    logits = tiny.jit(U2Net(SMALL).apply)({"params": params}, to_square(picture, 32)[None])
    wanted = fitted(scaled(np.asarray(jax.nn.sigmoid(logits[0, ..., 0]))), 21, 45)
    assert wanted.std() > 1e-2  # else anything would agree
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_loads_saliency_networks_alone(tmp_path):
    model_folder.write(tmp_path / "small", SMALL, small_u2net.params(), source="test")
    loaded = esam_jax.load_saliency(tmp_path / "small")
    assert loaded.config == SMALL and isinstance(loaded, saliency_network.Saliency)
    with pytest.raises(CheckpointError, match=r"holds a promptable model, but .*u2netp\.pth"):
        esam_jax.load_saliency("quickstart_clicks")
    with pytest.raises(MissingError, match="no model at 'u2net'"):
        esam_jax.load_saliency("u2net")
