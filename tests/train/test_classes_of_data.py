"""What a run takes from its data: the names of its classes, which it keeps."""

import dataclasses
from pathlib import Path

import pytest
from helpers import made_sets

from esam_jax import configs
from esam_jax.config import RunConfig
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.runs import config_file
from esam_jax.train import start
from esam_jax.train.checkpoint import manager


def on(data: Path, **view) -> RunConfig:
    cfg = configs.load("classify_nano")
    source = dataclasses.replace(cfg.data.source, path=str(data))
    changed = dataclasses.replace(cfg.data.view, **view)
    data_config = dataclasses.replace(cfg.data, source=source, view=changed)
    return dataclasses.replace(cfg, data=data_config, evaluate=None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return made_sets.image_folder(tmp_path / "data", 4)


@pytest.fixture
def begun(data: Path, tmp_path: Path, monkeypatch) -> Path:
    """A run of which seven updates are done."""
    cfg, _ = start.fitted(on(data), tmp_path / "run")
    (tmp_path / "run").mkdir()
    config_file.store(cfg, tmp_path / "run")
    monkeypatch.setattr(manager, "newest", lambda workdir: 7)
    return tmp_path / "run"


def test_a_new_run_takes_the_classes_of_its_data(data, tmp_path):
    cfg, source = start.fitted(on(data), tmp_path / "run")
    assert source is not None and len(source) == 4
    assert (cfg.data.view.classes, cfg.data.view.class_names) == (2, ("a", "b"))
    assert start.check(cfg, tmp_path / "run", 0, source).source is source


def test_a_run_that_resumes_has_them_from_its_config_and_opens_no_data(begun, data):
    made_sets.image_folder(data / "c", 2)
    cfg, source = start.fitted(on(data), begun)
    assert source is None and cfg.data.view.class_names == ("a", "b")
    config_file.require_same(cfg, begun, 7)


def test_a_run_whose_data_have_other_classes_is_refused(begun, data):
    cfg, _ = start.fitted(on(data), begun)
    (data / "a").rename(data / "aa")
    words = r"class_names are a, b, and the data has others: it lacks a; it also has aa\. A class"
    with pytest.raises(ConfigError, match=words):
        start.check(cfg, begun, 7)


@pytest.mark.parametrize("view", [{"classes": 3}, {"class_names": ("b", "a")}])
def test_a_run_may_not_change_its_classes(begun, data, view):
    cfg, _ = start.fitted(on(data, **view), begun)
    with pytest.raises(CheckpointError, match=r"another run: data\.view\.class"):
        config_file.require_same(cfg, begun, 7)


def test_a_run_of_an_earlier_release_resumes_by_number(data, tmp_path, monkeypatch):
    """Its config has no names."""
    (tmp_path / "run").mkdir()
    config_file.store(on(data, classes=2), tmp_path / "run")
    monkeypatch.setattr(manager, "newest", lambda workdir: 7)
    cfg, _ = start.fitted(on(data), tmp_path / "run")
    assert (cfg.data.view.classes, cfg.data.view.class_names) == (2, ())
    config_file.require_same(cfg, tmp_path / "run", 7)
    start.check(cfg, tmp_path / "run", 7)


def test_views_that_take_nothing_are_left_as_they_are(tmp_path):
    cfg = configs.load("quickstart_sami")
    assert start.fitted(cfg, tmp_path) == (cfg, None)
