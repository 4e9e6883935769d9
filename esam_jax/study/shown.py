"""A study for people: its table in Markdown, its curves, its page."""

import html
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from esam_jax.report import charts, page
from esam_jax.report.charts import Series
from esam_jax.study import gathered
from esam_jax.study.arms import SAMI, named
from esam_jax.study.gathered import MEASURES, interval

Table = Mapping[str, Any]
_TERA = 1e12
_ALONG = {"prompted": "prompted steps", "labelled": "labelled pictures"}


def title(arm: str) -> str:
    """The name of an arm for people."""
    return named(arm).title


# -------------------------------------------------------------------------------------- tables


def markdown(table: Table) -> str:
    """The figures of a table.json as Markdown: costs, each kind of cell, and what does not hold."""
    return "\n\n".join(["# Study", costs(table), *_tables(table), *_sentences(table)]) + "\n"


def costs(table: Table) -> str:
    """A row for each arm: what its pretraining was."""
    found = [["arm", "pretraining updates", "batch", "peak rate", "TFLOP"]]
    for arm, title in table["arms"].items():
        cost = table["costs"].get(arm)
        if cost is None:
            found.append([title, "0", "", "", "0"])
        else:
            lr, flops = f"{cost['peak_lr']:g}", f"{cost['flops'] / _TERA:.2f}"
            found.append([title, f"{cost['steps']:,}", str(cost["batch"]), lr, flops])
    return _grid(found)


def _tables(table: Table) -> Iterator[str]:
    """One for each kind of cell and measure: a row for each arm, a column for each number."""
    for kind, measure in _present(table):
        numbers = sorted({row["number"] for row in _rows(table, kind, measure)})
        along = _ALONG.get(kind, "")
        head = [f"{MEASURES[measure]}, {along}" if along else f"{kind}, {MEASURES[measure]}"]
        found = [[*head, *(f"{number:,}" for number in numbers)]]
        for arm, title in table["arms"].items():
            curve = {row["number"]: row for row in gathered.curve(table, arm, kind, measure)}
            if curve:
                cells = [interval(curve[n]).words() if n in curve else "" for n in numbers]
                found.append([title, *cells])
                if arm != SAMI:
                    found.append([f"{title} - SAMI", *_differences(curve, numbers)])
        yield _grid(found)


def _differences(curve: Mapping[int, Mapping[str, Any]], numbers: Sequence[int]) -> list[str]:
    each = [curve[n]["difference"] if n in curve else None for n in numbers]
    return ["" if one is None else interval(one).words(signed=True) for one in each]


def _sentences(table: Table) -> Iterator[str]:
    seeds = len(table["design"]["seeds"])
    if seeds > 1:
        yield (
            f"Means over {seeds} seeds with 95 % intervals (Student's t); differences are paired "
            "by seed."
        )
    else:
        yield "One seed: nothing follows from it about others."
    if any("," in arm for arm in table["arms"]):
        yield "The best rates: " + "; ".join(map(title, gathered.best(table).values())) + "."
        return
    if reach := reached(table):
        yield "\n".join(f"- {line}" for line in reach)
    if seeds > 1 and any(row["difference"] is not None for row in table["rows"]):
        yield not_held(table)


def reached(table: Table) -> list[str]:
    """A line for each arm and measure: the steps that it needs to reach what SAMI reaches."""
    lines = []
    longest = max(table["design"]["budgets"], default=0)
    for (arm, measure), rows in itertools.groupby(
        table["reach"], key=lambda row: (row["arm"], row["measure"])
    ):
        each = [f"{row['sami_steps']}: {_steps(row, longest)}" for row in rows]
        lines.append(
            f"{MEASURES[measure]}: steps of {named(arm).title} that reach SAMI after "
            f"{', '.join(each)}"
        )
    return lines


def _steps(row: Mapping[str, Any], longest: int) -> str:
    if row["beyond"]:
        return f"more than {longest}"
    return f"{row['steps']:.0f} or fewer" if row["first"] else f"{row['steps']:.0f}"


def not_held(table: Table) -> str:
    """In words, where SAMI is not above another arm as far as these seeds can tell."""
    found = gathered.not_held(table)
    if not found:
        return (
            "SAMI is above every other arm in every cell, beyond the intervals of the differences."
        )
    above = [row for row in found if interval(row["difference"]).sign > 0]
    within = [row for row in found if row not in above]
    lines = []
    for title, rows in (("is above SAMI", above), ("cannot be told from SAMI", within)):
        if rows:
            cells = ", ".join(f"{named(row['arm']).title} in {_cell(row)}" for row in rows)
            lines.append(f"What {title}: {cells}.")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    along = _ALONG.get(row["kind"])
    where = f"{row['number']} {along}" if along else row["kind"]
    return f"{where} ({MEASURES[row['measure']]})"


def _grid(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    lines = [head, ["---"] * len(head), *rest]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# -------------------------------------------------------------------------------------- curves


def curves(table: Table) -> dict[str, str]:
    """SVG files by name: quality against prompted steps, labelled pictures, total arithmetic."""
    drawn = {}
    for kind, measure in _present(table):
        if kind not in _ALONG or len({row["number"] for row in _rows(table, kind, measure)}) < 2:
            continue
        short = measure.removesuffix("_miou")
        for group, arms in _groups(table):
            for suffix, along, of in (
                ("", _ALONG[kind], lambda row: row["number"]),
                ("_by_tflop", "TFLOP in all, pretraining included", _tera(table)),
            ):
                if suffix and kind != "prompted":
                    continue
                series = [_series(table, arm, kind, measure, of) for arm in arms]
                series += _teacher(table, measure, series)
                title = f"mIoU, {MEASURES[measure]}, held out"
                name = f"{kind}_{short}{suffix}{group}.svg"
                drawn[name] = charts.document(title, series, log_x=True, below=along)
    return drawn


def _groups(table: Table) -> Iterator[tuple[str, list[str]]]:
    """The frameworks on one chart, SAMI and its ablations on another."""
    frameworks = [arm for arm in table["arms"] if not named(arm).ablation]
    ablations = [arm for arm in table["arms"] if named(arm).ablation]
    yield "", frameworks
    if ablations:
        yield "_ablations", [arm for arm in frameworks if arm == SAMI] + ablations


def _tera(table: Table) -> Any:
    return lambda row: gathered.total(table, row) / _TERA


def _series(table: Table, arm: str, kind: str, measure: str, along: Any) -> Series:
    rows = gathered.curve(table, arm, kind, measure)
    return Series(
        named(arm).title,
        [(along(row), row["mean"]) for row in rows],
        band=[(along(row), row["low"], row["high"]) for row in rows if row["low"] is not None],
    )


def _teacher(table: Table, measure: str, series: Sequence[Series]) -> list[Series]:
    """What the teacher reaches, across the chart."""
    known = table["references"].get(measure)
    xs = [x for each in series for x, _ in each.points]
    if known is None or not xs:
        return []
    return charts.level("teacher", [(x, known["mean"]) for x in (min(xs), max(xs))])


def _present(table: Table) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["kind"], row["measure"]) for row in table["rows"]))


def _rows(table: Table, kind: str, measure: str) -> list[Mapping[str, Any]]:
    return [row for row in table["rows"] if (row["kind"], row["measure"]) == (kind, measure)]


# ---------------------------------------------------------------------------------------- page


def document(table: Table, drawn: Mapping[str, str]) -> str:
    """One page with everything; it needs no other file."""
    seeds = ", ".join(map(str, table["design"]["seeds"]))
    about = table["design"]["data"] or "procedural scenes"
    body = [
        "<h1>Ways to pretrain, compared</h1>",
        f'<p class="sub">{html.escape(str(about))}; seeds {seeds}; every arm pretrained with the '
        "same arithmetic, then fine-tuned alike</p>",
        "<h2>Pretraining</h2>",
        _as_html(costs(table)),
        "<h2>Curves</h2>",
        f'<div class="charts">{"".join(map(_card, drawn.values()))}</div>',
        "<h2>Table</h2>",
        *map(_as_html, _tables(table)),
        *(f"<p>{html.escape(each).replace(chr(10), '<br>')}</p>" for each in _sentences(table)),
    ]
    return page.document("Ways to pretrain, compared", "\n".join(body))


def _card(drawn: str) -> str:
    return f'<div class="card">{drawn.replace("<svg ", "<svg style=" + _WIDE, 1)}</div>'


_WIDE = '"width: 100%; height: auto" '


def _as_html(grid: str) -> str:
    head, _, *rest = (
        [html.escape(cell.strip()) for cell in line.strip("|").split("|")]
        for line in grid.splitlines()
    )
    rows = [f"<tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>"]
    for first, *cells in rest:
        figures = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        rows.append(f"<tr><td>{first}</td>{figures}</tr>")
    return f"<table>{''.join(rows)}</table>"
