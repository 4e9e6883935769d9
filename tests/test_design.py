"""Guards the design: import order, what `import esam_jax` loads, the size of the configuration."""

import ast
import dataclasses
import pathlib
import subprocess
import sys

import pytest

import esam_jax
from esam_jax import config, configs

PACKAGE = pathlib.Path(esam_jax.__file__).parent
ORDER = (
    "errors", "typing", "files", "config", "ops", "machine", "sharding", "processes", "data",
    "models", "convert", "tasks", "predict", "evaluate", "bench", "runs", "report", "train", "plan",
    "study", "cli",
)  # fmt: skip
CONFIG_FIELDS = 157
# To be moved: each imports something above it.
OUT_OF_ORDER = (
    "machine/compile_cache.py",
    "processes/watchdog.py",
    "report/plots.py",
    "runs/config_file.py",
)


def _rank(module: str) -> int:
    return ORDER.index(module.split(".")[1])


def _imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_go_one_way(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts == ("__init__",) or path.relative_to(PACKAGE).as_posix() in OUT_OF_ORDER:
        return  # the public names come from everywhere
    mine = _rank(".".join(("esam_jax", *parts)))
    for name in _imports(path):
        if name.startswith("esam_jax.") and name.split(".")[1] in ORDER:
            assert _rank(name) <= mine, f"{path.name} imports {name}, which stands above it"


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_no_tensorflow_and_torch_in_one_place(path):
    roots = {name.split(".")[0] for name in _imports(path)}
    assert "tensorflow" not in roots
    if "torch" in roots:
        # One reads and writes its files, the others run it beside our networks.
        assert path.relative_to(PACKAGE).as_posix() in (
            "convert/formats/torch_file.py",
            "evaluate/parity.py",
            "bench/transformers_sam.py",
        )
    if "orbax" in roots:
        # One writes and restores checkpoints, one reads them back to see that they are whole, and
        # two mend what Orbax leaves behind.
        assert path.relative_to(PACKAGE).as_posix() in (
            "train/checkpoint/manager.py",
            "train/checkpoint/leaks.py",
            "train/checkpoint/stragglers.py",
            "train/checkpoint/verify.py",
        )


def test_import_is_light():
    code = (
        "import sys, esam_jax; esam_jax.load; "
        "heavy = {'torch', 'tensorflow', 'grain', 'orbax', 'optax'}; "
        "bad = heavy & set(sys.modules); "
        "sys.exit(' '.join(bad) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_config_field_count():
    """A new knob is a decision: change the number with it."""
    classes = [
        value
        for value in vars(config).values()
        if isinstance(value, type) and dataclasses.is_dataclass(value)
    ]
    assert sum(len(dataclasses.fields(c)) for c in classes) == CONFIG_FIELDS


def test_every_config_builds_and_says_what_to_expect():
    found = configs.names()
    assert {
        "sami_ti", "sami_s", "sami_b", "sami_all", "segment_ti", "segment_s",
        "quickstart_teacher", "quickstart_sami", "quickstart_segment", "quickstart_scratch",
    } <= set(found)  # fmt: skip
    for name, function in found.items():
        assert function().name == name
        for heading in ("Command", "Hardware", "Expected"):
            assert heading in (function.__doc__ or ""), f"{name} does not say its {heading}"
        assert f"esam train {name}" in (function.__doc__ or "")
