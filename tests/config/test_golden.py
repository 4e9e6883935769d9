"""Every shipped config in resolved form, so that a changed constant is a reviewed diff.

`pytest --rewrite-golden tests/config/test_golden.py` writes the files again.
"""

import dataclasses
import importlib
import inspect
import pathlib

import pytest

from esam_jax import configs
from esam_jax.config import json
from esam_jax.config.rules import Config
from esam_jax.models import named

FOLDER = pathlib.Path(__file__).parents[1] / "golden" / "configs"
CONCERNS = ("encoders", "networks", "saliency", "reading", "data", "tasks", "run")


def constants():
    """Class -> what is the same in every config of it: values, not methods or properties."""
    found = {}
    for concern in CONCERNS:
        for name, each in vars(importlib.import_module(f"esam_jax.config.{concern}")).items():
            if isinstance(each, type) and issubclass(each, Config) and each is not Config:
                fields = {field.name for field in dataclasses.fields(each)}
                found[name] = {
                    key: sorted(value) if isinstance(value, tuple | frozenset) else value
                    for key in sorted(inspect.get_annotations(each).keys() - fields)
                    if (value := getattr(each, key, None)) is not None
                }
    return {name: values for name, values in sorted(found.items()) if values}


@pytest.mark.parametrize("name", configs.names())
def test_a_shipped_run_is_as_reviewed(name, golden_file):
    golden_file(f"configs/{name}.json", json.to_json(configs.load(name)))


def test_constants_are_as_reviewed(golden_file):
    golden_file("configs/constants.json", constants())


def test_named_models_are_as_reviewed(golden_file):
    names = named.names()
    golden_file("configs/models.json", {name: json.to_json(named.model(name)) for name in names})


def test_there_are_no_others():
    known = {*configs.names(), "constants", "models"}
    assert {file.stem for file in FOLDER.iterdir()} == known
