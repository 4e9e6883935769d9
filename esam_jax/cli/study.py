"""`esam study`: ways to pretrain, compared in miniature, as a table, curves and a page."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from esam_jax import outputs
from esam_jax.cli import arguments
from esam_jax.errors import ConfigError
from esam_jax.study.design import PRESETS, Design


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """SAMI, MAE and others with the same arithmetic, then prompts: means and intervals over seeds.

    On procedural scenes, or on your pictures with --data. The same command resumes where it was
    stopped, and one with more arms, seeds or budgets does what is missing.
    """

    workdir: Path = Path("runs/study")
    """Where runs, table.json, table.md, curves and page.html go; finished trials are kept."""
    preset: Literal["first", "quick", "full", "choose"] = "quick"
    """What is compared unless the other options say: the quickstart; half an hour on two cores; all
    that docs/study.md shows; or other rates, with seeds that are not reported."""
    arms: tuple[str, ...] | None = None
    """Ways to pretrain, such as sami mae scratch."""
    seeds: tuple[int, ...] | None = None
    """Each has scenes, starts and draws of its own."""
    budgets: tuple[int, ...] | None = None
    """Numbers of prompted steps, each a run with its own schedule."""
    labelled: tuple[int, ...] | None = None
    """Numbers of labelled pictures to fine-tune on."""
    pretraining_steps: int | None = None
    """SAMI's updates; the other arms get as many as cost the same arithmetic."""
    images: int | None = None
    """Held-out pictures that each model is measured on, of each seed."""
    data: str | None = None
    """Pictures with masks, in any form that `esam data check` reads, in place of scenes; without
    the arms and cells of a preset that take classes."""
    unlabelled: str | None = None
    """Pictures to pretrain on, in place of those of --data."""
    teacher: str | None = None
    """A model of the size of quickstart_teacher, which is the default."""
    processes: int | None = None
    """Trials at once, each on one processor: as many as there are, 8 at most; 1 on accelerators."""
    json: bool = False
    """Print table.json."""


def main(argv: Sequence[str]) -> int:
    """Trains and measures what is missing, and prints the table."""
    args = arguments.parse(Study, argv, prog="esam study")
    named = [args.data, args.unlabelled]
    outputs.require_folder(args.workdir, inputs=[Path(each) for each in named if each])
    arguments.require_writable(args.workdir)
    if args.processes is not None and args.processes < 1:
        raise ConfigError(f"--processes is {args.processes}, but must be at least 1")
    with _by_options():
        preset = PRESETS[args.preset]
        preset = preset if args.data is None else preset.without_classes()
        design = dataclasses.replace(preset, **_given(args))
    from esam_jax.study import comparing, shown  # JAX, which a typing error need not wait for

    table = comparing.run(args.workdir, design, processes=args.processes)
    if args.json:
        print(json.dumps(table))
    else:
        print(shown.markdown(table))
        print(f"look at {args.workdir / comparing.PAGE_FILE}")
    return 0


_OTHERS = ("workdir", "preset", "processes", "json")


@contextlib.contextmanager
def _by_options() -> Iterator[None]:
    """A ConfigError that begins with a field of the design begins with its option instead."""
    try:
        yield
    except ConfigError as fault:
        first, _, rest = str(fault).partition(" ")
        if first not in (field.name for field in dataclasses.fields(Design)):
            raise
        raise ConfigError(f"--{first.replace('_', '-')} {rest}") from None


def _given(args: Study) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(args) if field.name not in _OTHERS]
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
