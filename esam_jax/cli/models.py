"""`esam models`: the names of models, their sizes, and where the weights of each come from."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from esam_jax import files
from esam_jax.cli import arguments
from esam_jax.convert import load, model_folder, releases
from esam_jax.models import expected_shapes, kinds, named


@dataclasses.dataclass(frozen=True)
class Models:
    """Lists the models that have a name: what `--model`, `esam convert` and configs take.

    A name with released weights downloads them when it is first used. A promptable network with
    random weights is random:NAME, which `esam bench` takes.
    """

    json: bool = False
    """Print the list as JSON."""


def main(argv: Sequence[str]) -> int:
    """Prints a table."""
    args = arguments.parse(Models, argv, prog="esam models")
    found = rows()
    print(json.dumps(found) if args.json else "\n".join([*_lines(found), "", _where()]))
    return 0


def rows() -> list[dict[str, Any]]:
    """One for each name; `weights` is "download", "shipped" or None."""
    return [_row(name) for name in (*load.SHIPPED, *named.names())]


def _row(name: str) -> dict[str, Any]:
    release = releases.RELEASES.get(name)
    shipped = name in load.SHIPPED
    config = model_folder.read(load.SHIPPED[name]).config if shipped else named.model(name)
    return {
        "name": name,
        "answers": kinds.of(config).answers,
        "parameters": sum(math.prod(shape) for shape in expected_shapes.of(config).values()),
        "image_px": config.encoder.image_px,
        "weights": "shipped" if shipped else "download" if release else None,
        "licence": release.licence if release else None,
        "address": release.address if release else None,
        "there": shipped or (release is not None and release.file.is_file()),
    }


def _lines(found: Sequence[dict[str, Any]]) -> list[str]:
    lines = [f"{'name':<20}{'parameters':>12}{'image':>8}  {'answers':<21}weights"]
    for row in found:
        weights = row["weights"] or _without_weights(row["answers"])
        if row["weights"] == "download":
            weights = f"download ({row['licence']})" + (", is there" if row["there"] else "")
        lines.append(
            f"{row['name']:<20}{millions(row['parameters']):>12}{row['image_px']:>5} px"
            f"  {row['answers']:<21}{weights}"
        )
    return lines


def _without_weights(answers: str) -> str:
    """How to come by some of a network that has none here."""
    if answers == "prompts":
        return "none: train it, or random:NAME for esam bench"
    return "none: name the file of its authors" if answers == "a saliency map" else "none"


def millions(count: int) -> str:
    """For people: 10.2 M."""
    return f"{count / 1e6:.3g} M"


def _where() -> str:
    return (
        f"Downloads are kept in {files.user_cache()}; a file of the release that is put there is "
        "used alike. --json has the addresses."
    )
