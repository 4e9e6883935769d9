"""A config value that breaks a rule is refused where it is written, by its name."""

import dataclasses

import pytest

from esam_jax import configs
from esam_jax.config import DataConfig, EvaluateConfig, ImageFolderConfig, SaveConfig, ScenesConfig
from esam_jax.errors import ConfigError

SCENES = ScenesConfig()
RUN = dataclasses.replace(
    configs.load("quickstart_scratch"), evaluate=EvaluateConfig(source=SCENES)
)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("save", "keep", 1),
        ("data", "threads", 0),
        ("optim", "beta1", 1.0),
        ("optim", "beta2", -0.1),
        ("optim", "weight_decay", -0.1),
        ("optim", "final_lr", -1e-6),
        ("optim", "clip_norm", 0.0),
        ("evaluate", "every_steps", 0),
        ("evaluate", "images", 0),
        ("guard", "max_skipped", 0),
        ("guard", "spike", 1.0),
        ("guard", "hang_seconds", 0.0),
        ("profile", "steps", 0),
        ("evaluate", "masks_per_image", 0),
    ],
)
def test_a_number_out_of_its_range(part, field, value):
    with pytest.raises(ConfigError, match=f"^{field} is {value!r}, but must"):
        dataclasses.replace(getattr(RUN, part) if part else RUN, **{field: value})


def test_the_remedy_stands_beside_the_field():
    with pytest.raises(ConfigError, match=r"^keep is 1, but must .* 2: one may be damaged$"):
        SaveConfig(keep=1)
    with pytest.raises(ConfigError, match=r"must be above 0: None for no clipping$"):
        dataclasses.replace(RUN.optim, clip_norm=0.0)


@pytest.mark.parametrize("best", ["loss", "box_iou"])
def test_the_best_is_something_that_the_task_measures(best):
    save = dataclasses.replace(RUN.save, best=best)
    with pytest.raises(ConfigError, match="must be one of box_miou, point_miou"):
        dataclasses.replace(RUN, save=save)


def test_a_task_names_the_views_that_it_reads():
    with pytest.raises(ConfigError, match="'segment' reads 'prompted' views"):
        dataclasses.replace(RUN, data=configs.load("quickstart_sami").data)
    with pytest.raises(ConfigError, match=r"^evaluate .*'sami' has nothing to measure"):
        dataclasses.replace(configs.load("quickstart_sami"), evaluate=RUN.evaluate)


def test_none_switches_off():
    assert dataclasses.replace(RUN.optim, clip_norm=None).clip_norm is None
    assert dataclasses.replace(RUN.evaluate, every_steps=None).every_steps is None


def test_a_warm_up_as_long_as_the_run_names_the_remedy():
    with pytest.raises(ConfigError, match=r"steps=20: lower --optim\.warmup-steps$"):
        dataclasses.replace(RUN, steps=20)


def test_a_measurement_needs_masks():
    unlabelled = EvaluateConfig(source=ImageFolderConfig(path="x"))
    message = r"^evaluate\.source\.kind is 'image_folder', but a measurement needs masks: read"
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(RUN, evaluate=unlabelled)
    with pytest.raises(ConfigError, match="prompted views need masks: read scenes, tfds, sa1b, "):
        DataConfig(source=ImageFolderConfig(path="x"), view=RUN.data.view)


def test_the_best_needs_a_measurement():
    best = dataclasses.replace(RUN.save, best="box_miou")
    assert dataclasses.replace(RUN, save=best).save.best == "box_miou"
    with pytest.raises(ConfigError, match=r"^save.best is 'box_miou', but nothing is measured"):
        dataclasses.replace(RUN, save=best, evaluate=None)


@pytest.mark.parametrize(("measured", "saved"), [(4, 2), (2, 4), (3, 3), (None, 7)])
def test_the_best_is_measured_where_it_is_saved(measured, saved):
    save = dataclasses.replace(RUN.save, best="box_miou", every_steps=saved)
    evaluate = dataclasses.replace(RUN.evaluate, every_steps=measured)
    dataclasses.replace(RUN, save=save, evaluate=evaluate)
    apart = dataclasses.replace(save, every_steps=3)
    if measured is not None and measured != 3:
        with pytest.raises(ConfigError, match=f"every 3 steps .* measured every {measured} "):
            dataclasses.replace(RUN, save=apart, evaluate=evaluate)
