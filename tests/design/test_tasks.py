"""A task brings all of itself: no other code knows it by name."""

import ast
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import source_tree as source

from esam_jax import config
from esam_jax.config import RunConfig

KNOWS_TASKS = ("config/", "configs/", "tasks/", "__init__.py")


def task_classes() -> list[Any]:
    union = typing.get_type_hints(RunConfig)["task"]
    return list(typing.get_args(union))


def kinds() -> set[str]:
    """The `kind` of each task: "sami", "segment"."""
    return {each.kind for each in task_classes()}


def test_kinds_are_found():
    assert {"sami", "segment"} <= kinds()


def test_nothing_else_compares_kind_with_a_tasks_name():
    found = {source.name(path) for path in others() if any(comparisons(source.tree(path)))}
    assert found == set()


def test_nothing_else_names_the_config_of_a_task():
    """An isinstance in place of a comparison would be no better."""
    names = {each.__name__ for each in task_classes()}
    assert all(hasattr(config, name) for name in names)
    found = {
        source.name(path)
        for path in others()
        if any(each.split(".")[-1] in names for each in source.imports(path))
    }
    assert found == set()


def others() -> Iterator[Path]:
    """All files but the public names, and a run's config, which is one task's."""
    return (path for path in source.files() if not source.name(path).startswith(KNOWS_TASKS))


def comparisons(tree: ast.AST) -> Iterator[ast.AST]:
    """x.kind == "sami", kind in ("sami", ...), match x.kind: case "sami"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Match):
            sides = [node.subject, *(case.pattern for case in node.cases)]
        else:
            continue
        known = {each.value for side in sides for each in ast.walk(side) if is_text(each)}
        if any(source.dotted(side).split(".")[-1] == "kind" for side in sides) and known & kinds():
            yield node


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@pytest.mark.parametrize(
    ("code", "caught"),
    [
        ('cfg.task.kind == "sami"', True),
        ('"segment" != kind', True),
        ('task.kind in ("sami", "mae")', True),
        ('match task.kind:\n  case "sami" | "mae": pass', True),
        ('source.kind == "coco"', False),
        ('name == "sami"', False),
    ],
)
def test_the_guard_sees_comparisons(code: str, caught: bool):
    assert any(comparisons(ast.parse(code))) == caught
