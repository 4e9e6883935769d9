"""The tables of docs/plan.md: `python -m esam_jax.plan.cells FOLDER` plans what is not there yet.

`python -m esam_jax.plan.cells FOLDER h100:1x8` plans the cells of that topology alone. Every cell
is one `esam plan CONFIG --topology T --json`, kept as a file in FOLDER: an interrupted table
resumes where it stopped. The table of the plans in FOLDER is printed at the end.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from esam_jax import files

CONFIGS = ("sami_ti", "sami_s", "sami_b", "sami_all", "segment_ti")
TOPOLOGIES = ("a100:1x8", "a100:8x8", "h200:2x8", "v5e:8x8", "v5p:4x4x4", "v6e:8x8")
# Taken in this order, so that a table that is cut short has a bit of everything.
CELLS = tuple((config, topology) for config in CONFIGS for topology in TOPOLOGIES)
# Every config of the tables of arXiv:2312.00863, on one host.
PAPER = (
    *("sami_ti", "sami_s", "sami_b"),
    *("sami_ti_cosine", "sami_s_cosine", "sami_b_mask_50", "sami_b_mask_85"),
    *("sami_ti_all_tokens", "sami_ti_masked_loss", "sami_ti_clip"),
    *("mae_ti", "mae_s", "mae_b", "dmae_ti", "dmae_s", "dmae_b"),
    *("regress_ti", "regress_s", "regress_b"),
    *("deit_ti", "deit_s", "deit_b"),
    *("deit_ti_distilled", "deit_s_distilled", "deit_b_distilled"),
    *("classify_ti", "classify_s", "classify_b", "segment_ti", "segment_s"),
)
CELLS += tuple((config, "h100:1x8") for config in PAPER)

_ANSWERED = (0, 3, 4)  # it fits, a change makes it fit, none does
_GIB = 2**30


def plan(config: str, topology: str, folder: Path) -> None:
    """Writes the plan of one cell to the folder, atomically; faults go to stderr."""
    command = [sys.executable, "-c", "import sys; from esam_jax.cli import main; sys.exit(main())"]
    command += ["plan", config, "--topology", topology, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode in _ANSWERED:
        files.write(_file(config, topology, folder), done.stdout)


def markdown(folder: Path) -> Iterator[str]:
    """A row for each plan in the folder."""
    yield "| config | topology | fits | peak GiB | what makes it fit | floor s | hours | cost |"
    yield "|---|---|---|---|---|---|---|---|"
    for config, topology in CELLS:
        file = _file(config, topology, folder)
        if file.exists():
            yield _row(json.loads(file.read_text()))


def _row(found: dict[str, Any]) -> str:
    bill, compiled = found["bill"], found["compiled"]
    remedies = [
        f"`{change['options']}`: {change['peak'] / _GIB:.1f}"
        for change in found["changes"]
        if change["fits"]
    ]
    cells = (
        f"`{found['config']}`",
        f"`{found['topology']['name']}`",
        "yes" if compiled["fits"] else "no",
        f"{compiled['peak'] / _GIB:.1f}",
        "; ".join(remedies),
        f"{bill['floor_seconds']:.3f}",
        f"{bill['hours']:.1f}",
        f"${bill['dollars']:,.0f}",
    )
    return f"| {' | '.join(cells)} |"


def _file(config: str, topology: str, folder: Path) -> Path:
    return folder / f"{config}@{topology.replace(':', '_').replace('*', 'of')}.json"


def main(folder: Path, only: str | None = None) -> None:
    """Plans every cell that is not there yet, one at a time, and prints the table.

    only: the topology whose cells are planned; by default all are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for config, topology in CELLS:
        if only in (None, topology) and not _file(config, topology, folder).exists():
            plan(config, topology, folder)
    print("\n".join(markdown(folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
