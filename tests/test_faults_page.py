"""docs/faults.md names tests that are there, and leaves no fault out."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "faults.md").read_text()


def test_every_fault_has_a_row_that_says_how_it_is_tested():
    rows = re.findall(r"^\| (F\d\d) \|.*\| ([^|]+) \|$", PAGE, re.MULTILINE)
    assert {fault for fault, _ in rows} == {f"F{number:02}" for number in range(1, 37)}
    without = {fault for fault, test in rows if "::" not in test}
    assert without == {"F25"}  # and its row says why


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(tests/[\w/.]+::\w+)`", PAGE))))
def test_every_test_on_the_page_is_there(named):
    file, name = named.split("::")
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
