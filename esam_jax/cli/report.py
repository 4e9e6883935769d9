"""`esam report RUN`: one page about a run, running or finished."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import tyro

from esam_jax import files, outputs
from esam_jax.cli import arguments
from esam_jax.errors import MissingError
from esam_jax.words import counted


@dataclasses.dataclass(frozen=True)
class Report:
    """Curves, goodput, faults, versions and config of a run, as one self-contained HTML page."""

    run: tyro.conf.Positional[Path]
    """The --workdir of a run."""
    out: Path | None = None
    """The page; default: report.html in the run's folder."""
    overwrite: bool = False
    """Replace the page that --out names; the run's own report.html is always drawn again."""
    json: bool = False
    """Print the numbers as JSON instead; a page is written only where --out names one."""


def main(argv: Sequence[str]) -> int:
    """Writes the page, or prints the summary."""
    args = arguments.parse(Report, argv, prog="esam report")
    if args.out is not None:
        outputs.require_file(args.out, overwrite=args.overwrite, endings=(".html", ".htm"))
    from esam_jax.report import (
        comparison,
        page,
        summary,
    )  # import JAX only once the arguments are right

    found = summary.summary(args.run)
    out = args.out or (None if args.json else args.run / "report.html")
    if out is not None:
        _write(out, page.render(found, summary.curves(args.run), comparison.section(args.run)))
    print(json.dumps(found) if args.json else _for_people(found, out))
    return 0


def _for_people(summary: dict, out: Path | None) -> str:
    done = "finished" if summary["finished"] else "not finished"
    restarts = counted(summary["restarts"], "restart")
    return (
        f"{summary['name']}: {done}, step {summary['step']} of {summary['steps']}, "
        f"goodput {summary['goodput']:.1%}, {restarts}; look at {out}"
    )


def _write(file: Path, text: str) -> None:
    """Makes the page's folder, too."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write(file, text)
    except OSError as error:
        raise MissingError(
            f"{file} cannot be written ({error.strerror}): name another with --out"
        ) from error
