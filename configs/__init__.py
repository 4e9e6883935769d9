"""Run configurations: every public function of a file here returns one complete `RunConfig`.

`esam train NAME` finds it by the function's name; `esam train path/to/file.py` takes your own file
with one such function. The docstring of each gives its command, hardware, hours and expectation.
"""

import difflib
import importlib
import importlib.util
import inspect
import pathlib
import pkgutil
import types
from collections.abc import Callable

from esam_jax.config import RunConfig
from esam_jax.errors import ConfigError, MissingError


def names() -> dict[str, Callable[[], RunConfig]]:
    """Every shipped configuration: name -> function."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        found |= _functions(importlib.import_module(f"{__name__}.{module.name}"))
    return dict(sorted(found.items()))


def load(name_or_path: str) -> RunConfig:
    """The configuration of that name, or the only one of that .py file.

    A file is Python and is executed: name only files that you trust.
    """
    if name_or_path.endswith(".py"):
        return _load_file(pathlib.Path(name_or_path))
    known = names()
    if name_or_path in known:
        return known[name_or_path]()
    close = difflib.get_close_matches(name_or_path, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(known)}"
    raise ConfigError(f"no configuration is called {name_or_path!r}: {hint}")


def about(name: str) -> str:
    """The first line of a shipped configuration's docstring."""
    return (inspect.getdoc(names()[name]) or "").partition("\n")[0]


def _load_file(path: pathlib.Path) -> RunConfig:
    if not path.is_file():
        raise MissingError(f"configuration file {path} does not exist: check the path")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    functions = _functions(module)
    if len(functions) != 1:
        raise ConfigError(
            f"{path} has {len(functions)} functions that return a RunConfig, but one is needed: "
            "mark it with `-> RunConfig` and start the names of helpers with an underscore"
        )
    return next(iter(functions.values()))()


def _functions(module: types.ModuleType) -> dict[str, Callable[[], RunConfig]]:
    return {
        name: function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_")
        and function.__module__ == module.__name__
        and _returns_config(function)
    }


def _returns_config(function: types.FunctionType) -> bool:
    """Whether it is marked with `-> RunConfig`, which Python may keep as text."""
    marked = inspect.signature(function).return_annotation
    if not isinstance(marked, str):
        return marked is RunConfig
    try:  # as PEP 563 says that it is to be read
        return eval(marked, function.__globals__) is RunConfig
    except Exception:  # a name that only type checkers import
        return marked.rpartition(".")[2] == RunConfig.__name__
