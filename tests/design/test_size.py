"""A file is an idea, a function a name: neither grows past its limit. Names tell files apart."""

import ast
import collections

from helpers import source_tree as source

MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60

# The names that a file shares with another one, because the layout gives it to both.
SAME_NAME = {
    "clip": "the converter of the family, and the class of the public API",
    "mae": "the network, and the converter of its family",
    "sam": "the converter of the family, and the class of the public API",
    "sami": "the network, and the task that trains it",
    "start": "before the first update of a run, and the weights that a task starts from",
    "u2net": "the network, and the converter of its family",
    "prompts": "drawn from masks, and the protocol `esam evaluate prompts`",
}


def test_no_file_is_too_long():
    lines = {source.name(path): path.read_text().count("\n") for path in source.files()}
    assert {name for name, count in lines.items() if count > MOST_LINES} == set()


def test_no_function_is_too_long():
    """With its docstring, without its decorators."""
    found = {
        f"{source.name(path)}:{node.name}"
        for path in source.files()
        for node in ast.walk(source.tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    }
    assert found == set()


def test_no_two_files_have_one_name():
    """But for commands (cli/) and runs (configs/), which are named for their users."""
    names = collections.Counter(
        path.stem
        for path in source.files()
        if path.stem != "__init__" and path.parent.name not in ("cli", "configs")
    )
    twice = {name for name, count in names.items() if count > 1}
    assert twice == SAME_NAME.keys()
