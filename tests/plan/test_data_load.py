"""The CPU time of one example is measured, on the user's records or on drawn ones."""

import dataclasses
import time

import pytest

from esam_jax import configs
from esam_jax.config import (
    ClassifiedConfig,
    CocoConfig,
    CropConfig,
    DataConfig,
    ImageFolderConfig,
    PromptedConfig,
    Sa1bConfig,
    ScenesConfig,
)
from esam_jax.plan import data_load, report

SECONDS = 0.004
PROMPTED = PromptedConfig(image_px=64, masks=3)


@pytest.fixture
def busy(monkeypatch):
    """Every view costs a known time of the processor."""
    make = data_load.views.make

    def slow(*args):
        end = time.thread_time() + SECONDS
        while time.thread_time() < end:
            pass
        return make(*args)

    monkeypatch.setattr(data_load.views, "make", slow)


def test_cores_follow_from_the_rate_and_the_time_of_an_example(busy):
    data = DataConfig(source=ScenesConfig(scenes=5), view=CropConfig(image_px=16))
    load = data_load.measure(data, hosts=4, examples_per_second=1000.0)
    assert SECONDS < load.seconds < 10 * SECONDS
    assert load.timed == "16 records of scenes" and load.threads == data.threads
    assert load.examples_per_second == 250
    assert load.cores == pytest.approx(250 * load.seconds)
    assert data_load.measure(data, 4, None).cores is None


def test_drawn_pictures_have_a_class():
    data = DataConfig(source=ImageFolderConfig(), view=ClassifiedConfig(image_px=32))
    load = data_load.measure(data, 1, 10.0)
    assert load.timed.startswith("drawn pictures of 500 x 375") and load.seconds > 0


@pytest.mark.parametrize("source", [ImageFolderConfig, CocoConfig, Sa1bConfig])
def test_a_source_that_is_not_here_is_drawn(tmp_path, monkeypatch, source):
    monkeypatch.setattr(source, "usual", (60, 90, 5))
    view = PROMPTED if "masks" in source.annotations else CropConfig(image_px=16)
    for path in (None, str(tmp_path / "gone"), str(tmp_path)):  # the last has no picture
        load = data_load.measure(DataConfig(source=source(path=path), view=view), 1, 10.0)
        assert load.timed == "drawn pictures of 90 x 60 with 5 masks"
        assert load.cores == 10 * load.seconds > 0


def test_every_source_of_files_says_what_is_usual():
    for name in configs.names():
        source = configs.load(name).data.source
        if not isinstance(source, ScenesConfig):
            height, width, masks = source.usual
            assert height > 100 < width
            assert bool(masks) == ("masks" in source.annotations)


def test_a_plan_prints_them():
    load = data_load.DataLoad(0.1, "2 records of here", 2, 5, 50.0, 5.0)
    first, second = report._data(load)
    assert "100 ms of one core an example (2 records of here)" in first
    assert "50 examples/s on each of 2 hosts need 5.0 cores" in second
    assert len(report._data(dataclasses.replace(load, cores=None))) == 1
    *_, advice = report._data(dataclasses.replace(load, cores=5.2))
    assert "has 5 threads: set --data.threads 6" in advice
