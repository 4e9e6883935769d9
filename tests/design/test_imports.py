"""Imports go one way, between folders and inside them, and foreign packages stay in their files."""

import ast
import builtins
import functools
import graphlib
import re
import subprocess
import symtable
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import source_tree as source

# Who may import what, or use a private name of JAX or Orbax: one file a concern.
FOREIGN = {
    "torch": {
        "convert/formats/torch_file.py",  # reads and writes its files
        "evaluate/originals.py",  # runs it beside our networks
        "evaluate/parity_sam.py",
        "bench/transformers_sam.py",
    },
    "orbax": {
        "train/checkpoint/manager.py",  # writes checkpoints
        "train/checkpoint/reader.py",  # restores them
        "train/checkpoint/retention.py",  # chooses which of them stay
    },
    "av": {"data/video_file.py"},  # decodes frames
    "hotcoco": {"evaluate/average_precision.py"},
    "fsspec": {
        "files.py",  # knows the schemes of its stores
        "places.py",  # reads them
    },
    "ftfy": {"predict/clean_text.py"},  # repairs texts where it is installed
    "gcsfs": set(),  # fsspec imports it
    "s3fs": set(),
    "tensorflow": set(),
    "tensorflow_datasets": {
        "data/sources/tfds.py",  # opens a data set
        "data/sources/tfds_features.py",  # compares the classes of its features
        "data/sources/tfds_shards.py",  # reads its files
        "data/sources/tfds_values.py",  # parses its records
    },
    "jax._src": {"plan/pretended.py", "processes/coordinator.py"},
    "orbax.checkpoint._src": set(),
    "tyro._errors": {"cli/arguments.py"},
}


def order() -> list[str]:
    """Folders and files at the top of the package, as CONTRIBUTING.md lists them."""
    text = (source.REPOSITORY / "CONTRIBUTING.md").read_text()
    block = re.search(r"<!-- import order -->\n```\n(.*?)```", text, re.DOTALL)
    assert block, "CONTRIBUTING.md has no block of the import order"
    return re.findall(r"\w+", block[1])


def test_contributing_lists_every_part_of_the_package_once():
    parts = {source.name(path).split("/")[0].removesuffix(".py") for path in source.files()}
    assert sorted(order()) == sorted(parts - {"__init__"})


def test_imports_go_one_way_between_folders():
    """The public names in __init__.py alone come from everywhere."""
    rank = {name: i for i, name in enumerate(order())}
    found = {
        f"{source.name(path)} imports {name}"
        for module, path in source.modules().items()
        if module != "esam_jax"
        for name in source.imported_modules(path)
        if rank[name.split(".")[1]] > rank[module.split(".")[1]]
    }
    assert not found


def test_no_modules_import_each_other():
    """Not even in a roundabout way, or within functions."""
    graph = {name: source.imported_modules(path) for name, path in source.modules().items()}
    del graph["esam_jax"]
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("package", FOREIGN)
def test_a_foreign_package_is_used_in_the_files_named_for_it(package: str):
    found = {source.name(path) for path in source.files() if package in _used(path)}
    assert found == FOREIGN[package]


@functools.cache
def _used(path: Path) -> frozenset[str]:
    """What a file imports, and private names that it reaches as attributes, with their parents."""
    attributes = (source.dotted(node) for node in ast.walk(source.tree(path)))
    names = [*source.imports(path), *(each for each in attributes if "._src" in each)]
    parts = [name.split(".") for name in names]
    return frozenset(".".join(each[: i + 1]) for each in parts for i in range(len(each)))


def test_import_is_light():
    code = (
        "import sys, esam_jax; esam_jax.load; "
        "heavy = {'torch', 'tensorflow', 'tensorflow_datasets', 'grain', 'orbax', 'optax'}; "
        "bad = heavy & set(sys.modules); "
        "sys.exit(' '.join(bad) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["esam_jax", "configs", "tests"])
def test_every_name_is_defined(folder: str):
    """Linters cannot tell a name that is missing from an axis letter in an annotation."""
    for path in source.files(source.REPOSITORY / folder):
        scopes = list(_scopes(symtable.symtable(path.read_text(), str(path), "exec")))
        missing = _loaded(scopes) - _stored(scopes) - vars(builtins).keys() - MODULE_NAMES
        assert not missing, f"{path}: {', '.join(sorted(missing))}"


MODULE_NAMES = {"__name__", "__file__", "__doc__", "__path__", "__module__", "__qualname__"} | {
    "__annotations__"
}


def _stored(scopes: list[symtable.SymbolTable]) -> set[str]:
    """Names that the module or, by `global`, one of its functions assigns or imports."""
    return {
        symbol.get_name()
        for scope in scopes
        for symbol in scope.get_symbols()
        if (scope is scopes[0] or symbol.is_declared_global())
        and (symbol.is_assigned() or symbol.is_imported())
    }


def _loaded(scopes: list[symtable.SymbolTable]) -> set[str]:
    """Names that are looked up in the module."""
    return {
        symbol.get_name()
        for scope in scopes
        for symbol in scope.get_symbols()
        if symbol.is_referenced() and (scope is scopes[0] or symbol.is_global())
    }


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    """The module's, then those within it."""
    yield table
    for inner in table.get_children():
        yield from _scopes(inner)
