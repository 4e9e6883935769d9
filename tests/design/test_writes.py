"""Files are written through esam_jax/files.py, so that no reader sees half of one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import source_tree as source

WRITES = {
    "files.py": "the one place",
    "card/recovery.py": "what a run prints, as it prints it",
    "cli/__init__.py": "to os.devnull, in place of a closed pipe",
    "convert/model_folder.py": "a file of a new folder, which is renamed when it is complete",
    "places.py": "an object of a store, of which nobody sees a part",
    "processes/watchdog.py": "the stacks of a process, as they are dumped",
    "runs/metrics_file.py": "appends a line",
    "train/checkpoint/manager.py": "a probe for room and permission, which is deleted",
}


def writes(tree: ast.AST) -> Iterator[ast.Call]:
    """path.write_text(...), open(..., "w"), path.open("ab"), os.open(...), os.replace(...)."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = source.dotted(node.func) or getattr(node.func, "attr", "")
        method = name.split(".")[-1]
        modes = [
            each.value
            for each in (*node.args, *(keyword.value for keyword in node.keywords))
            if isinstance(each, ast.Constant) and isinstance(each.value, str)
        ]
        to_write = any(set(m) <= set("wxabt+") and set(m) & set("wxa+") for m in modes)
        if (
            method in ("write_text", "write_bytes")
            or name == "os.replace"
            or (name == "os.open" and "O_RDONLY" not in ast.unparse(node))
            or (method == "open" and to_write)
        ):
            yield node


def test_nothing_else_writes_files():
    found = {source.name(path) for path in source.files() if any(writes(source.tree(path)))}
    assert found == WRITES.keys()


@pytest.mark.parametrize(
    ("code", "caught"),
    [
        ("path.write_text('x')", True),
        ("(folder / 'a').write_bytes(b'')", True),
        ("open(path, 'w')", True),
        ("path.open(mode='xb')", True),
        ("os.open(path, os.O_CREAT)", True),
        ("path.open('rb')", False),
        ("open(path)", False),
        ("files.write(path, 'x')", False),
    ],
)
def test_the_guard_sees_writes(code: str, caught: bool):
    assert any(writes(ast.parse(code))) == caught


def test_the_exceptions_are_files():
    assert all((source.PACKAGE / Path(name)).is_file() for name in WRITES)
