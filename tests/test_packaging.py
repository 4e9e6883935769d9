"""What is installed: the package with its configs inside, within the bounds of setup.py."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import setuptools
from helpers import lock
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = lock.REPOSITORY
# A second interpreter without this one's packages, of which an editable install may be one.
ALONE = [sys.executable, "-I", "-S", "-c"]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy to build in, which leaves build/ behind."""
    if Version(setuptools.__version__) < Version("77"):
        pytest.skip(f"setuptools {setuptools.__version__} cannot build the package: install .[dev]")
    folder = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder)
    for name in ("esam_jax", "configs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignore)
    return folder


def build(source: Path, kind: str, target: Path) -> zipfile.ZipFile:
    """Builds a wheel as pip does without build isolation."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(target)!r}))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return zipfile.ZipFile(target / done.stdout.splitlines()[-1])


def test_a_wheel_holds_one_package_with_its_configs_and_assets(source: Path, tmp_path: Path):
    with build(source, "wheel", tmp_path) as wheel:
        names = set(wheel.namelist())
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"esam_jax"}
    for folder, inside in (("esam_jax", "esam_jax"), ("configs", "esam_jax/configs")):
        files = [file.relative_to(source / folder) for file in (source / folder).rglob("*.py")]
        assert {f"{inside}/{file.as_posix()}" for file in files} <= names
    assert "esam_jax/py.typed" in names
    assert {f"esam_jax/assets/clip/{name}" for name in ("bpe_merges.txt.gz", "LICENSE")} <= names
    assert {name for name in names if "/assets/quickstart_teacher/" in name} >= {
        f"esam_jax/assets/quickstart_teacher/{name}"
        for name in ("config.json", "model.safetensors")
    }


def test_an_editable_install_leaves_the_name_configs_to_others(source: Path, tmp_path: Path):
    with build(source, "editable", tmp_path) as wheel:
        wheel.extractall(tmp_path / "site")
    code = (
        "import importlib.util, site; "
        f"site.addsitedir({str(tmp_path / 'site')!r}); "
        "print(importlib.util.find_spec('configs')); "
        "import importlib.machinery; "
        "package = importlib.util.find_spec('esam_jax'); print(package.origin); "
        "import __editable___PROJECT_finder as finder; print(finder.MAPPING['esam_jax.configs'])"
    )
    (finder,) = (tmp_path / "site").glob("__editable___*_finder.py")
    code = code.replace("__editable___PROJECT_finder", finder.stem)
    done = subprocess.run([*ALONE, code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "None",
        str(source / "esam_jax" / "__init__.py"),
        str(source / "configs"),
    ]


# ------------------------------------------------------------------------------------- versions


def test_packages_that_any_release_may_break_are_bounded_above():
    bounded = {
        canonicalize_name(each.name)
        for each in lock.requirements()
        if any(specifier.operator in ("<", "==", "~=") for specifier in each.specifier)
    }
    assert {"jax", "orbax-checkpoint"} <= bounded


def test_locked_versions_are_within_the_bounds():
    versions = lock.locked()
    for each in lock.requirements():
        name = canonicalize_name(each.name)
        assert name in versions, f"requirements.lock has no {name}: run make lock"
        assert each.specifier.contains(versions[name]), f"{each} excludes {versions[name]}"


def test_the_lock_file_is_what_is_installed():
    """Complete, so that a constrained install is the one that was tested."""
    found, wanted = lock.installed(), lock.locked()
    other = [
        f"{name} {found[name]}"
        for name in found.keys() & wanted.keys()
        if found[name] != wanted[name]
    ]
    if other:
        pytest.skip(
            f"other versions are installed than requirements.lock has: {', '.join(sorted(other))}"
        )
    assert found == wanted


def test_the_makefile_can_install_the_locked_versions():
    made = subprocess.run(
        ["make", "--dry-run", "--always-make", "LOCKED=1", "test"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert made.returncode == 0, made.stderr
    installs = re.findall(r"pip install .*--editable.*", made.stdout)
    assert len(installs) == 2
    assert all("--constraint requirements.lock" in line for line in installs)


def test_compilers_for_other_machines_are_those_that_jax_itself_pins():
    """Each release of jax wants another one, and both ends of its bounds are installed."""
    extras = lock.setup_arguments()["extras_require"]
    wanted = {name: extras[name] for name in ("plan-gpu", "plan-tpu")}
    assert wanted == {"plan-gpu": ["jax[cuda13]"], "plan-tpu": ["jax[tpu]"]}
