"""The error of an embedding is the mean over pictures, however they lie on the devices."""

import numpy as np
import pytest
from helpers import nano
from PIL import Image

from esam_jax import sharding
from esam_jax.config import (
    EvaluateConfig,
    FramedConfig,
    ImageFolderConfig,
    MeshConfig,
    ScenesConfig,
)
from esam_jax.data import sources, views
from esam_jax.data.views import draws
from esam_jax.evaluate import embeddings

VIEW = FramedConfig(image_px=64, fit="pad")
SCENES = ScenesConfig(split="heldout", scenes=40)


def error(params, frozen, image):
    """Something that is another number for each picture and each set of weights."""
    return (image.astype("float32") * params["a"] - frozen["b"]).mean((1, 2, 3)) ** 2


def by_hand(source, numbers):
    found = []
    for number in numbers:
        record = source.read(number)
        image = views.make(record, VIEW, draws.generator(0, 0, record.name))["image"]
        found.append((image.astype(np.float64) * 0.5 - 3).mean() ** 2)
    return np.mean(found)


def measured(config, data):
    mesh = sharding.make_mesh(MeshConfig(data=data))
    run = embeddings.measurement(error, VIEW, config, mesh)
    return run({"a": np.float32(0.5)}, {"b": np.float32(3)})


@pytest.mark.parametrize("data", [1, 8])
@pytest.mark.parametrize("images", [1, 11])
def test_it_is_the_mean_over_the_pictures_that_prompts_are_measured_on(data, images):
    config = EvaluateConfig(source=SCENES, images=images)
    numbers = np.random.default_rng(config.seed).permutation(40)[:images]
    wanted = by_hand(sources.open_source(SCENES), numbers.tolist())
    assert measured(config, data) == {"embedding_mse": pytest.approx(wanted, rel=1e-5)}


def test_broken_pictures_do_not_count(tmp_path):
    for number in range(3):
        Image.fromarray(nano.picture(30, 50, number)).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    source = ImageFolderConfig(path=str(tmp_path))
    config = EvaluateConfig(source=source, images=9)
    opened = sources.open_source(source)
    numbers = [i for i in range(len(opened)) if "broken" not in opened.name(i)]
    assert len(numbers) == 3
    assert measured(config, 8)["embedding_mse"] == pytest.approx(by_hand(opened, numbers), rel=1e-5)
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"nothing")
    assert measured(config, 8) == {}
