"""One legend of axis letters: each has one meaning, and every annotation uses nothing else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import source_tree as source

from esam_jax.typing import AXES

# ---- What is still to be fixed. The list holds exactly the present offenders, so it only shrinks.
OUTSIDE_THE_LEGEND = {
    "predict/draw.py height",
    "predict/draw.py width",
    "predict/everything/album.py height",
    "predict/everything/album.py width",
    "predict/frames.py p",
    "train/step.py b",
}

ARRAYS = re.compile(r"\b(Array|ndarray|ArrayLike)\b")  # Float[Array, "B N D"]


def test_a_letter_has_one_meaning():
    assert all(re.fullmatch(r"[A-Za-z]", letter) for letter in AXES)
    assert len(set(AXES.values())) == len(AXES)
    assert not [meaning for meaning in AXES.values() if re.search(r"\bor\b|;", meaning)]
    # Python keeps the last of two equal keys without a word.
    (table,) = (
        node.value
        for node in source.tree(source.PACKAGE / "typing.py").body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "AXES"
    )
    assert isinstance(table, ast.Dict) and len(table.keys) == len(AXES)


def test_annotations_use_the_legend_alone():
    found = {
        f"{source.name(path)} {letter}"
        for path in source.files()
        for axes in annotations(path)
        for letter in letters(axes)
        if letter not in AXES
    }
    assert found == OUTSIDE_THE_LEGEND


@pytest.mark.parametrize(
    ("axes", "wanted"),
    [
        ("B 2*K V+U 3", {"B", "K", "V", "U"}),
        ("*X {side**2} _ ...", {"X"}),
        ("height ?N #C", {"height", "N", "C"}),
        ("{h*w}*C", {"C"}),
    ],
)
def test_letters_of_an_axis_string(axes: str, wanted: set[str]):
    assert letters(axes) == wanted


def annotations(path: Path) -> Iterator[str]:
    for node in ast.walk(source.tree(path)):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
            of, *rest = node.slice.elts
            if len(rest) == 1 and ARRAYS.search(ast.unparse(of)):
                (axes,) = rest
                if isinstance(axes, ast.Constant) and isinstance(axes.value, str):
                    yield axes.value


def letters(axes: str) -> set[str]:
    """Names of an axis string; what is computed in braces is no letter."""
    return set(re.findall(r"[A-Za-z]\w*", re.sub(r"\{[^}]*\}", "", axes)))


def test_the_guard_sees_annotations():
    assert len(list(annotations(source.PACKAGE / "ops" / "attention.py"))) > 20
