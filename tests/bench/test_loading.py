"""What `esam bench data` adds up: each stage once, of the examples that a run begins with."""

import itertools
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from esam_jax.bench import loading
from esam_jax.config import CropConfig, DataConfig, ImageFolderConfig, PromptedConfig, ScenesConfig
from esam_jax.data import sources
from esam_jax.data.examples import Examples
from esam_jax.errors import ConfigError

SCENES = DataConfig(
    source=ScenesConfig(scenes=9, scene_px=32),
    view=PromptedConfig(image_px=32, masks=3, min_area_px=4),
)


@pytest.fixture
def ticking(monkeypatch):
    """Clocks that advance with each look at them, and by what a stage adds."""
    now = itertools.count()
    extra = [0]

    def clock() -> float:
        return next(now) * 0.001 + extra[0]

    monkeypatch.setattr(time, "thread_time", clock)
    monkeypatch.setattr(time, "perf_counter", clock)
    return extra


def folder(root: Path) -> DataConfig:
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.jpg")
    source = ImageFolderConfig(path=str(root))
    return DataConfig(source=source, view=CropConfig(image_px=16))


def test_what_is_timed_within_a_stage_counts_for_the_inner_one(ticking):
    clock = loading._Clock()
    with clock.within("view"):
        ticking[0] += 5
        with clock.within("decode"):
            ticking[0] += 40
        with clock.within("masks"):
            ticking[0] += 300
            with clock.within("decode"):
                ticking[0] += 2000
    spent = {name: round(stage.cpu) for name, stage in clock.spent.items() if stage.cpu}
    assert spent == {"view": 5, "decode": 2040, "masks": 300}
    assert {name: round(stage.wall) for name, stage in clock.spent.items() if stage.wall} == spent


def test_stages_are_those_of_the_examples_of_a_run(tmp_path: Path):
    run = folder(tmp_path)
    source = sources.open_source(run.source)
    found = loading.stages(source, run, examples=5, seed=3)
    names = [Examples(source, run.view, 3)[p].attempts[0].name for p in range(1, 6)]
    assert found.bytes == np.mean([(tmp_path / name).stat().st_size for name in names])
    assert found.stages["decode"].pixels == 40 * 50  # crops are decoded in full
    assert set(found.bare) == set(loading.BARE)
    assert all(stage.pixels == 40 * 50 and stage.cpu > 0 for stage in found.bare.values())
    assert found.stages["masks"].cpu == 0 < found.stages["read"].cpu
    assert found.cpu == pytest.approx(sum(stage.cpu for stage in found.stages.values()))
    assert loading.cores(found, 100.0) == pytest.approx(100 * found.cpu)
    assert found.stages["decode"].pixels_per_second == pytest.approx(
        2000 * found.stages["decode"].per_second
    )


def test_masks_have_a_stage_of_their_own_and_scenes_no_files():
    found = loading.stages(sources.open_source(SCENES.source), SCENES, examples=4)
    assert found.stages["masks"].cpu > 0 and found.bytes == 0 and found.bare == {}


def test_the_loader_is_timed_after_its_first_batches(ticking):
    source = sources.open_source(SCENES.source)
    found = loading.rate(source, SCENES, batch=4, seconds=0.0)
    assert (found.examples, found.workers, found.threads) == (4, 0, 8)
    assert found.per_second == pytest.approx(4 / found.seconds)


def test_every_worker_has_a_thread():
    more = loading.of_workers(SCENES, 12)
    assert (more.workers, more.threads) == (12, 12)
    assert loading.of_workers(SCENES, 2).threads == SCENES.threads


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((0, 1.0, [0]), "--examples is 0"),
        ((1, 0.0, [0]), "--seconds is 0.0"),
        ((1, float("nan"), [0]), "--seconds is nan"),
        ((1, 1.0, [0, -2]), "--workers names -2"),
    ],
)
def test_numbers_that_measure_nothing_are_refused(numbers, said):
    with pytest.raises(ConfigError, match=said):
        loading.require(*numbers)
