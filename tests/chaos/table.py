"""What the faults cost, as a table and as plain values."""

import dataclasses
import statistics

COLUMNS = ("count", "lost median", "lost max", "seconds median", "seconds max")


def summary(outcomes):
    """{kind of fault: {column: value}}, and "all"."""
    kinds = {name: [each for each in outcomes if each.fault == name] for name in _names(outcomes)}
    kinds["all"] = outcomes
    return {name: _row(each) for name, each in kinds.items() if each}


def _names(outcomes):
    return sorted({outcome.fault for outcome in outcomes})


def _row(outcomes):
    lost = [outcome.lost_steps for outcome in outcomes]
    seconds = [outcome.seconds for outcome in outcomes]
    values = (
        len(outcomes), statistics.median(lost), max(lost), statistics.median(seconds), max(seconds)
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def text(outcomes):
    """The summary for people; seconds are those from a fault until training went on."""
    lines = [f"{'fault':<18}" + "".join(f"{name:>16}" for name in COLUMNS)]
    for kind, row in summary(outcomes).items():
        lines.append(f"{kind:<18}" + "".join(f"{value:>16.6g}" for value in row.values()))
    return "\n".join(lines)


def plain(outcomes):
    """Every outcome, for JSON."""
    return [dataclasses.asdict(outcome) for outcome in outcomes]
