"""The nightly run: all of its parts, whatever came of the one before, and no test skipped."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MODULE = """
import pytest

def test_that_passes(): pass

@pytest.mark.skipif(True, reason="no compiler")
def test_marked(): pass

def test_inside(): pytest.skip("no plug-in")

@pytest.fixture
def tool(): pytest.importorskip("a_package_that_is_not_there")

def test_fixture(tool): pass

@pytest.mark.xfail(reason="known")
def test_known(): assert False
"""


@pytest.mark.parametrize(
    ("wish", "code", "summary"),
    [
        ("fail", 1, "1 failed, 1 passed, 1 xfailed, 2 errors"),
        ("", 0, "1 passed, 3 skipped, 1 xfailed"),
    ],
)
def test_a_skip_is_a_failure_where_nothing_may_be_missing(tmp_path, wish, code, summary):
    (tmp_path / "test_some.py").write_text(MODULE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "helpers.skips", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(TESTS), "ESAM_TEST_SKIPS": wish},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout
    assert summary in done.stdout
    if wish:
        for reason in (
            "no compiler",
            "no plug-in",
            "could not import 'a_package_that_is_not_there'",
        ):
            assert f"Skipped: {reason}" in done.stdout


# Instead of Python: makes "environments" whose programs note what they are told; tests "fail" as
# FAILING says.
_PYTHON = """#!/bin/bash
echo "$(basename "$(dirname "$(dirname "$0")")") $ESAM_TEST_SKIPS: $*" >>"$NOTES"
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/pip"
fi
[[ -z $FAILING || "$*" != *$FAILING* ]] || exit "$CODE"
"""
_PARTS = ["-m nightly", "-m tools", "tests/plan/test_topologies.py"]


@pytest.mark.parametrize(
    ("failing", "code", "expected"),
    [
        ("", 0, 0),
        ("-m nightly", 1, 1),
        ("-m tools", 1, 1),
        ("test_topologies", 2, 1),
        ("-m tools", 5, 0),  # pytest's code for no tests
        ("plan-tpu", 1, 1),
    ],
)
def test_every_part_of_a_nightly_run_counts(tmp_path, failing, code, expected):
    (tmp_path / ".ci").mkdir()
    script, python = tmp_path / ".ci" / "nightly", tmp_path / "python9"
    shutil.copy(TESTS.parent / ".ci" / "nightly", script)
    python.write_text(_PYTHON)
    python.chmod(0o755)
    notes = tmp_path / "notes"
    environment = {"PYTHON": str(python), "NOTES": str(notes), "JOBSET_CRD": str(python)}
    environment |= {"FAILING": failing, "CODE": str(code), "ESAM_TEST_SKIPS": ""}
    done = subprocess.run([script], env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == expected, done.stderr
    lines = notes.read_text().splitlines()
    asked = [line.partition("-m pytest ")[2] for line in lines if "-m pytest " in line]
    assert asked == ([] if failing == "plan-tpu" else _PARTS)
    assert all(line.startswith("tests fail: ") for line in lines if "-m pytest" in line)
    assert any("--editable .[dev,plan-tpu,plan-gpu]" in line for line in lines)
    if expected and asked:
        assert f"failed: pytest '{next(part for part in _PARTS if failing in part)}'" in done.stderr
