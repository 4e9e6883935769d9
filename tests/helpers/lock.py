"""requirements.lock: the exact versions that the tests last passed with.

    python tests/helpers/lock.py > requirements.lock

Lists what is installed of everything that the package and its extra `dev` need, directly or not.
"""

import importlib.metadata
import runpy
from pathlib import Path
from typing import Any
from unittest import mock

import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[2]
LOCK_FILE = REPOSITORY / "requirements.lock"
HEADER = """\
# Versions that the tests passed with, on CPython 3.11 for Linux.
# To install them: make test LOCKED=1, or pip install --constraint requirements.lock .
# Made by: python tests/helpers/lock.py > requirements.lock
"""


def setup_arguments() -> dict[str, Any]:
    """The arguments of setup.py: the metadata of an editable install may be out of date."""
    with mock.patch.object(setuptools, "setup") as setup:
        runpy.run_path(str(REPOSITORY / "setup.py"))
    return setup.call_args.kwargs


def requirements() -> list[Requirement]:
    """What the package and its extra `dev` need."""
    found = setup_arguments()
    return [
        Requirement(text) for text in [*found["install_requires"], *found["extras_require"]["dev"]]
    ]


def locked() -> dict[str, str]:
    """Name -> version in requirements.lock."""
    lines = [line for line in LOCK_FILE.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def installed() -> dict[str, str]:
    """Name -> version of all that `requirements` lead to; a missing package is an error."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(each, extra) for each in requirements() for extra in ("", *each.extras)]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        versions[name] = importlib.metadata.version(name)
        for text in importlib.metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(needed, more) for more in ("", *needed.extras)]
    return dict(sorted(versions.items()))


if __name__ == "__main__":
    print(HEADER + "\n".join(f"{name}=={version}" for name, version in installed().items()))
