"""One legend of axis letters: each has one meaning, and every annotation uses nothing else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import source_tree as source

from esam_jax.typing import AXES

ARRAYS = re.compile(r"\b(Array|ndarray|ArrayLike)\b")  # Float[Array, "B N D"]
SUFFIXED = re.compile(r"[a-z]\w*_([A-Za-z0-9]*[A-Z][A-Za-z0-9]*)")  # x_BND


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
    assert found == set()


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


def test_suffixes_of_names_use_the_legend_alone():
    found = {
        f"{source.name(path)} {name}"
        for path in source.files()
        for name, suffix in suffixed(path)
        if not set(suffix) <= {*AXES, *"0123456789"}
    }
    assert not found


def test_suffixes_of_arguments_are_those_of_their_annotations():
    found, seen = set(), 0
    for path in source.files():
        for node in ast.walk(source.tree(path)):
            if not isinstance(node, ast.arg) or node.annotation is None:
                continue
            suffix, axes = SUFFIXED.fullmatch(node.arg), list(axis_strings(node.annotation))
            if suffix and axes:
                seen += 1
                if not any(agree(suffix[1], each) for each in axes):
                    found.add(f"{source.name(path)} {node.arg}")
    assert seen > 100
    assert found == set()


@pytest.mark.parametrize(
    ("suffix", "axes", "same"),
    [
        ("BND", "B N D", True),
        ("BhwC", "B _ {side} C", True),
        ("BNE", "B N D", False),
        ("BN", "B N D", False),
        ("XY", "*X Y", True),
        ("HW3", "H W 3", True),
        ("HWC", "H W 3", True),
        ("HW4", "H W 3", False),
    ],
)
def test_a_suffix_agrees_with_an_axis_string(suffix: str, axes: str, same: bool):
    assert agree(suffix, axes) == same


def suffixed(path: Path) -> Iterator[tuple[str, str]]:
    """Variables and arguments whose names end in axes, with these."""
    for node in ast.walk(source.tree(path)):
        name = node.id if isinstance(node, ast.Name) else getattr(node, "arg", None)
        if match := SUFFIXED.fullmatch(name or ""):
            yield name, match[1]


def agree(suffix: str, axes: str) -> bool:
    """Whether a suffix names these axes; "_", what is computed, and a number under any letter."""
    each = axes.replace("*", "").split()
    return len(each) == len(suffix) and all(
        letter == axis or (letter.isalpha() if axis.isdigit() else not axis.isalpha())
        for axis, letter in zip(each, suffix, strict=True)
    )


def annotations(path: Path) -> Iterator[str]:
    yield from axis_strings(source.tree(path))


def axis_strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
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
