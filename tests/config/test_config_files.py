"""A configuration file of one's own, however its annotations are written."""

from pathlib import Path

import pytest

from esam_jax import configs
from esam_jax.errors import ConfigError

WANTED = configs.load("quickstart_scratch")
BODY = "    return configs.load('quickstart_scratch')\n"
FUTURE = "from __future__ import annotations\n"
PLAIN = "from esam_jax import configs\nfrom esam_jax.config import RunConfig\n\n\n"
LATE = (
    "from typing import TYPE_CHECKING\n\nfrom esam_jax import configs\n\n"
    "if TYPE_CHECKING:\n    from esam_jax.config import RunConfig\n\n\n"
)
RENAMED = "import esam_jax\nfrom esam_jax import configs\nRun = esam_jax.RunConfig\n\n\n"


def load(folder: Path, text: str):
    (folder / "mine.py").write_text(text)
    return configs.load(str(folder / "mine.py"))


@pytest.mark.parametrize(
    "text",
    [
        PLAIN + "def mine() -> RunConfig:\n" + BODY,
        PLAIN + "def mine() -> 'RunConfig':\n" + BODY,
        FUTURE + PLAIN + "def mine() -> RunConfig:\n" + BODY,
        FUTURE + LATE + "def mine() -> RunConfig:\n" + BODY,
        FUTURE + RENAMED + "def mine() -> Run:\n" + BODY,
        FUTURE + RENAMED + "def mine() -> esam_jax.RunConfig:\n" + BODY,
        FUTURE
        + PLAIN
        + "def _helper() -> RunConfig:\n"
        + BODY
        + "def mine() -> RunConfig:\n"
        + BODY,
        FUTURE + PLAIN + "def steps() -> int:\n    return 3\n\n\ndef mine() -> RunConfig:\n" + BODY,
    ],
    ids=["plain", "quoted", "future", "type checkers", "renamed", "dotted", "helper", "other"],
)
def test_the_function_of_a_file_is_found(tmp_path, text):
    assert load(tmp_path, text) == WANTED


@pytest.mark.parametrize("head", [PLAIN, FUTURE + PLAIN])
@pytest.mark.parametrize(
    "returns", ["", " -> None", " -> int", " -> list[RunConfig]", " -> Unknown"]
)
def test_a_function_of_another_type_is_not_taken(tmp_path, head, returns):
    if returns == " -> Unknown":
        head = FUTURE + PLAIN
    with pytest.raises(ConfigError, match="0 functions that return a RunConfig"):
        load(tmp_path, head + f"def mine(){returns}:\n" + BODY)


@pytest.mark.parametrize("head", [PLAIN, FUTURE + PLAIN])
def test_two_functions_are_ambiguous(tmp_path, head):
    text = head + "def one() -> RunConfig:\n" + BODY + "def two() -> RunConfig:\n" + BODY
    with pytest.raises(ConfigError, match="2 functions that return a RunConfig"):
        load(tmp_path, text)
