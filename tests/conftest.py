"""Test set-up: CPU, eight pretend devices, few threads, shape checks at run time."""

import gc
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
# As images for containers set it: each command that tests start would compile the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Most of the time of these tests goes into compiling tiny programs, few of which run for long.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Workers, the commands that tests start and the next run of the suite find what one has compiled;
# the programs of the user who runs the tests stay out of it.
os.environ["ESAM_COMPILE_CACHE"] = str(pathlib.Path(__file__).parents[1] / ".test_programs")

import hypothesis
import pytest
from jaxtyping import install_import_hook

sys.dont_write_bytecode = False
install_import_hook("esam_jax", "beartype.beartype")

hypothesis.settings.register_profile("esam", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("esam")

# Of kept programs; JAX's own limit would read all of them for every new one.
_MOST_BYTES = 2**30

# JAX keeps millions of objects of the programs that it has traced, none of them garbage. Looking
# through them is a tenth of the time of the suite at Python's own thresholds.
gc.set_threshold(20_000, 20, 100)


def pytest_configure(config: pytest.Config) -> None:
    from esam_jax.machine import compile_cache  # after the shape checks are installed

    programs = pathlib.Path(os.environ["ESAM_COMPILE_CACHE"])
    kept = sum(file.stat().st_size for file in programs.glob("*"))
    if kept > _MOST_BYTES and not hasattr(config, "workerinput"):  # before workers start
        shutil.rmtree(programs)
    compile_cache.enable()


def pytest_sessionfinish() -> None:
    gc.freeze()  # else pytest looks through gigabytes of JAX's objects five times before it ends


pytest_plugins = ("helpers.quick", "helpers.skips")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-golden",
        action="store_true",
        help="write the golden files that are compared with what is computed; review the diff",
    )


@pytest.fixture
def golden_file(request: pytest.FixtureRequest) -> Callable[[str, Any], None]:
    """Compares a JSON value with `tests/golden/NAME`, or writes it there with --rewrite-golden."""

    def compare(name: str, value: Any) -> None:
        file = pathlib.Path(__file__).parent / "golden" / name
        text = json.dumps(value, indent=2) + "\n"
        if request.config.getoption("--rewrite-golden"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        assert file.exists(), f"{file} does not exist: write it with pytest --rewrite-golden"
        assert json.loads(text) == json.loads(file.read_text()), (
            f"{file} holds other values: if that is meant, pytest --rewrite-golden and review"
        )

    return compare
