"""How much there is to set: the fields of each concern are counted, so that one more is a choice.

A field that several classes inherit counts once.
"""

import dataclasses
import importlib
import inspect
import pathlib
import re

import pytest

from esam_jax.config.rules import Config

MOST = {
    "encoders": 13,
    "networks": 38,
    "saliency": 2,
    "reading": 11,
    "data": 18,
    "views": 26,
    "tasks": 66,
    "run": 55,
}


def declared(concern: str) -> list[str]:
    module = importlib.import_module(f"esam_jax.config.{concern}")
    classes = [
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, Config)
        and each.__module__ == module.__name__
    ]
    return [
        f"{each.__name__}.{field.name}"
        for each in classes
        for field in dataclasses.fields(each)
        if field.name in inspect.get_annotations(each)
    ]


@pytest.mark.parametrize("concern", MOST)
def test_fields_of_a_concern_are_few(concern):
    found = declared(concern)
    assert min(10, MOST[concern] - 1) < len(found) <= MOST[concern], sorted(found)


def test_all_fields_are_under_230():
    found = [field for concern in MOST for field in declared(concern)]
    assert len(found) == len(set(found)) < 230


@pytest.mark.parametrize("concern", MOST)
def test_a_comment_above_a_field_is_of_that_field_alone(concern):
    """The command line shows it for every field down to the next comment or empty line."""
    file = importlib.import_module(f"esam_jax.config.{concern}").__file__
    field, lines = re.compile(r"    \w+: .+"), pathlib.Path(file).read_text().splitlines()
    shared = []
    for above, here, below in zip(lines, lines[1:], lines[2:]):
        commented = above.startswith("    # ") and field.match(here) and "ClassVar" not in here
        if commented and field.match(below) and "  # " not in below and "ClassVar" not in below:
            shared.append(below.strip())
    assert not shared
