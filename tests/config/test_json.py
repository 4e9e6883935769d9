"""Every shipped config comes back from its JSON; anything else is refused by name."""

import pytest

from esam_jax import configs
from esam_jax.config import RunConfig, SaveConfig, json
from esam_jax.errors import ConfigError
from esam_jax.runs import config_file


@pytest.mark.parametrize("name", configs.names())
def test_config_comes_back(name):
    cfg = configs.load(name)
    assert json.parse(RunConfig, config_file.to_json(cfg), "run") == cfg


def test_a_field_that_an_earlier_release_did_not_have_gets_its_default():
    whole = config_file.to_json(configs.load("sami_ti"))
    del whole["task"]["init_from"], whole["save"]
    read = json.parse(RunConfig, whole, "run")
    assert read.task.init_from is None and read.save == SaveConfig()
    del whole["steps"]
    with pytest.raises(ConfigError, match="run is no RunConfig of this release: steps"):
        json.parse(RunConfig, whole, "run")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("steps",), "many", "run.steps is 'many'"),
        (("optim", "peak_lr"), True, "run.optim.peak_lr is True"),
        (("task", "kind"), "other", "run.task is .*does not know"),
        (("optim", "unheard"), 1, "run.optim is no OptimConfig of this release: unheard"),
        (("data",), None, "run.data is no DataConfig"),
    ],
)
def test_what_this_release_does_not_write_is_refused(path, value, message):
    whole = config_file.to_json(configs.load("segment_ti"))
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ConfigError, match=message):
        json.parse(RunConfig, whole, "run")
