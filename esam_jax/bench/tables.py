"""Measurements as lines of text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esam_jax.bench import everything, predict
from esam_jax.words import counted

HEADS = (
    "part", "dtype", "pictures", "prompts", "median", "p90", "rate", "compile", "floor",
    "against", "ratio",
)  # fmt: skip
_WIDTHS = (10, 8, 8, 7, 11, 11, 18, 9, 6, 11, 6)


def columns(cells: Sequence[str]) -> str:
    """One line of the table: two names, then numbers."""
    left = [cell.ljust(width) for cell, width in zip(cells[:2], _WIDTHS[:2], strict=True)]
    right = [cell.rjust(width) for cell, width in zip(cells[2:], _WIDTHS[2:], strict=True)]
    return "  ".join(left + right)


def cells(row: predict.Row) -> tuple[str, ...]:
    """A row of measurements as text, under `HEADS`."""
    unit = "prompts/s" if row.part == "decoder" else "images/s"
    share, theirs, ratio = row.floor_share, row.theirs, row.ratio
    return (
        row.part,
        row.dtype,
        str(row.pictures),
        str(row.prompts) if row.prompts else "-",
        _milliseconds(row.ours.median),
        _milliseconds(row.ours.p90),
        f"{row.per_second:.4g} {unit}",
        f"{row.ours.compile:.2f} s",
        "-" if share is None else f"{share:.1%}",
        "-" if theirs is None else _milliseconds(theirs.median),
        "-" if ratio is None else f"{ratio:.3f}",
    )


def heading(about: dict[str, Any]) -> str:
    """What was measured, on what, and how to read the table."""
    sheet = about["data_sheet"]
    floor = f"floor: of {sheet} in bfloat16, kernel by kernel" if sheet else "floor: none is known"
    ratio = f"; ratio: our median over that of {about['against']}" if about["against"] else ""
    return (
        f"{about['model']} on {about['device']} ({about['cores']} cores of the host, load "
        f"{about['load']:.1f}); {versions(about)}\n"
        f"{about['runs']} runs in turn after {1 + about['warm_up']} that do not count; "
        f"{floor}{ratio}"
    )


def versions(about: dict[str, Any]) -> str:
    """ "jax 0.10.2, flax 0.12.8, ..."."""
    return ", ".join(f"{name} {version}" for name, version in about["versions"].items())


def picture(path: Path, result: everything.Result) -> str:
    """What one picture took, by part."""
    total = result.total
    parts = ", ".join(f"{part} {seconds:.3f}" for part, seconds in result.parts.items())
    return (
        f"{path.name} {result.width}x{result.height}: "
        f"{counted(result.masks, 'mask')} of {counted(result.clicks, 'click')} in "
        f"{total.median:.3f} s (p90 {total.p90:.3f}, {1 / total.median:.4g} pictures/s; "
        f"compilation {total.compile:.3f}): {parts}"
    )


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.5g} ms"
