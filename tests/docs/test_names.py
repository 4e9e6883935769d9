"""docs/models.md lists every model and every config that has a name, as the code has them."""

import json
import re

import pytest
from helpers import source_tree

from esam_jax import cli, configs
from esam_jax.cli import models
from esam_jax.models import named

PAGE = source_tree.REPOSITORY / "docs" / "models.md"
WEIGHTS = {"download": "`esam` downloads them", "shipped": "in the package", None: "none"}


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def of_models():
    head = ["name", "parameters", "image side", "answers", "weights", "their licence"]
    rows = [
        [
            f"`{row['name']}`",
            models.millions(row["parameters"]),
            f"{row['image_px']} px",
            row["answers"],
            WEIGHTS[row["weights"]],
            row["licence"] or "",
        ]
        for row in models.rows()
    ]
    return table(head, rows)


def of_configs():
    rows = [
        [f"`{name}`", build().task.kind, configs.about(name)]
        for name, build in configs.names().items()
    ]
    return table(["name", "task", "what it trains"], rows)


@pytest.mark.parametrize("name, made", [("models", of_models), ("configs", of_configs)])
def test_the_page_lists_what_there_is(name, made, request):
    mark = f"<!-- {name} -->\n"
    text = PAGE.read_text()
    before, _, rest = text.partition(mark)
    listed = re.match(r"(?:\|.*\n)*", rest)[0]
    if request.config.getoption("--rewrite-golden"):
        PAGE.write_text(before + mark + made() + rest[len(listed) :])
        listed = made()
    assert listed == made(), f"{PAGE.name} is out of date: pytest --rewrite-golden tests/docs"


def test_the_commands_list_them_too(capsys):
    assert cli.main(["models", "--json"]) == 0
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert found.keys() == {"quickstart_teacher", "quickstart_clicks", *named.names()}
    assert found["efficientsam_b"]["weights"] is None
    assert found["sam_h"]["address"].startswith("https://")
    assert cli.main(["models"]) == 0
    words = capsys.readouterr().out.split()
    assert found.keys() <= set(words)
    for command in ("train", "plan"):
        assert cli.main([command, "--help"]) == 0
        out = " ".join(capsys.readouterr().out.split())
        for name in configs.names():
            assert f"- {name}: {configs.about(name)}" in out
