"""The report of a run as one self-contained HTML page."""

import datetime
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from esam_jax.report import charts
from esam_jax.report.charts import Series

# Colours of the parts of wall time; all others are grey.
_COLOURS = {
    "steps": "#3c8a5b",
    "data": "#d9a441",
    "redone": "#c8553d",
    "skipped": "#b08a8a",
    "compile": "#7f8fd1",
    "save": "#4a8f9c",
    "evaluate": "#8a5aa8",
    "start": "#a5b4c4",
    "down": "#7a3b35",
}
_MEANING = {
    "steps": "updates that are part of the result",
    "data": "devices idle, waiting for a batch",
    "redone": "updates lost to a stop and done again",
    "skipped": "updates discarded because their loss or gradient was not finite",
    "compile": "compiling the update",
    "save": "saving, where training waited for it",
    "evaluate": "evaluation",
    "start": "from the start of a part to its first batch",
    "down": "between the last line of a part and the next start",
    "other": "everything else",
}
_MOST_FAULTS = 200
_STYLE = """
:root { --ink: #1d2733; --soft: #5d6b7a; --line: #dde3ea; --paper: #ffffff; --card: #f7f9fb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ef; --soft: #9aa7b5; --line: #33404d; --paper: #151b22; --card: #1c242d; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 32px 20px 64px; max-width: 1000px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 17px; margin: 36px 0 12px; }
h3 { font-size: 13px; font-weight: 600; margin: 0 0 4px; }
p.sub { margin: 2px 0 22px; color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(105px, 1fr)); gap: 12px; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px 14px; }
.tile b { display: block; font-size: 21px; font-weight: 600; }
.tile span, td.soft, .note { color: var(--soft); font-size: 13px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 14px; }
svg.chart { width: 100%; height: auto; display: block; }
svg.chart text { fill: var(--soft); font-size: 11px; }
svg.chart .grid { stroke: var(--line); } svg.chart .axis, svg.chart .tick { stroke: var(--soft); }
svg.chart polyline { stroke-width: 1.6; stroke-linejoin: round; }
.bar { display: flex; height: 22px; border-radius: 6px; overflow: hidden; margin-bottom: 12px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
td, th { text-align: left; padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 8px; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px;
  overflow-x: auto; font-size: 13px; }
summary { cursor: pointer; }
"""


def render(
    summary: Mapping[str, Any], curves: Mapping[str, Sequence[Series]], comparison: str = ""
) -> str:
    """The complete page; from `summary.summary`, `summary.curves` and `comparison.section`."""
    title = html.escape(str(summary["name"]))
    body = [
        f"<h1>{title}</h1>",
        f'<p class="sub">{html.escape(_state(summary))}</p>',
        f"<p>{html.escape(summary['model'])}</p>" if summary["model"] else "",
        _weights(summary["ema"]),
        _tiles(summary),
        comparison,
        "<h2>Curves</h2>",
        _charts(curves),
        "<h2>Where the time went</h2>",
        _time(summary),
        "<h2>Faults seen</h2>",
        _faults(summary["faults"]),
        "<h2>Versions and machine</h2>",
        _table(_flat(summary["environment"])),
        "<h2>Config</h2>",
        _config(summary["config"]),
    ]
    return document(title, "\n".join(body))


def document(title: str, body: str) -> str:
    """A page of this content, in the style of all reports; `title` is HTML, as `body` is."""
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def duration(seconds: charts.Number) -> str:
    """For people: 45.2 s, 12 min, 3 h 05 min, 2 d 4 h."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 10:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def _state(summary: Mapping[str, Any]) -> str:
    steps = summary["steps"]
    progress = f"step {summary['step']:,}" + (f" of {steps:,}" if steps else "")
    if summary["finished"]:
        state = "finished"
    elif summary["stopped_early"]:
        state = "finished early, as evaluations no longer improved"
    elif summary["faults"] and summary["faults"][-1]["event"] == "stop":
        state = "stopped"
    else:
        state = "not finished"
    return f"{state}, {progress}, {summary['run']}"


def _weights(ema: float | None) -> str:
    """Which weights the numbers are of, where a run has two sets."""
    if ema is None:
        return ""
    words = f"averaged weights (optim.ema {ema:g}); losses are those of the weights in training"
    return f"<p>Evaluations and model/ are of {words}.</p>"


def _tiles(summary: Mapping[str, Any]) -> str:
    metrics = summary["metrics"]
    shown = {
        "goodput": f"{summary['goodput']:.1%}",
        "wall time": duration(summary["seconds"]),
        "restarts": str(summary["restarts"]),
    }
    labels = {name: name.replace("_", " ").replace("miou", "mIoU") for name in summary["measured"]}
    for name, label in (("loss", "loss"), *labels.items(), ("mfu", "MFU")):
        if isinstance(metrics.get(name), int | float):
            shown[label] = f"{metrics[name]:.4g}" if name != "mfu" else f"{metrics[name]:.1%}"
    if isinstance(metrics.get("examples_per_second"), int | float):
        shown["examples/s"] = charts.short(round(metrics["examples_per_second"], 1))
    tiles = [
        f'<div class="tile"><b>{html.escape(value)}</b><span>{name}</span></div>'
        for name, value in shown.items()
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _charts(curves: Mapping[str, Sequence[Series]]) -> str:
    cards = []
    for title, series in curves.items():
        log = title in ("Loss", "Gradient norm") and charts.is_skewed(series)
        drawn = charts.line_chart(series, log=log)
        if drawn:
            cards.append(f'<div class="card"><h3>{html.escape(title)}</h3>{drawn}</div>')
    if not cards:
        return '<p class="note">No update has been done yet.</p>'
    note = '<p class="note">Over the number of updates done.</p>'
    return f'<div class="charts">{"".join(cards)}</div>{note}'


def _time(summary: Mapping[str, Any]) -> str:
    spent, total = summary["spent"], summary["seconds"] or 1.0
    parts = {name: seconds for name, seconds in spent.items() if seconds > 0}
    blocks, rows = [], []
    for name, seconds in parts.items():
        colour, share = _COLOURS.get(name, "#b9c2cc"), seconds / total
        tip = html.escape(f"{name} {share:.1%}")
        style = f"width:{100 * share:.3f}%;background:{colour}"
        blocks.append(f'<div title="{tip}" style="{style}"></div>')
        dot = f'<span class="dot" style="background:{colour}"></span>'
        rows.append(
            f"<tr><td>{dot}{html.escape(name)}</td>"
            f'<td class="number">{duration(seconds)}</td><td class="number">{share:.1%}</td>'
            f'<td class="soft">{html.escape(_MEANING.get(name, ""))}</td></tr>'
        )
    return f'<div class="bar">{"".join(blocks)}</div><table>{"".join(rows)}</table>'


def _faults(faults: Sequence[Mapping[str, Any]]) -> str:
    if not faults:
        return '<p class="note">None.</p>'
    rows = []
    for fault in faults[-_MOST_FAULTS:]:
        details = {k: v for k, v in fault.items() if k not in ("step", "at", "event")}
        text = ", ".join(f"{name} {_plain(value)}" for name, value in details.items())
        rows.append(
            f'<tr><td class="number">{fault["step"]:,}</td><td>{_clock(fault["at"])}</td>'
            f"<td>{html.escape(str(fault['event']))}</td><td>{html.escape(text[:600])}</td></tr>"
        )
    left_out = len(faults) - len(rows)
    note = f'<p class="note">{left_out} earlier ones are not shown.</p>' if left_out else ""
    head = '<tr><th class="number">step</th><th>time (UTC)</th><th>what</th><th></th></tr>'
    return f"<table>{head}{''.join(rows)}</table>{note}"


def _clock(at: charts.Number | None) -> str:
    if at is None:
        return ""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def _config(config: Mapping[str, Any]) -> str:
    if not config:
        return '<p class="note">config.json is missing or damaged.</p>'
    text = html.escape(json.dumps(config, indent=2))
    return f"<details><summary>config.json</summary><pre>{text}</pre></details>"


def _table(rows: Mapping[str, Any]) -> str:
    cells = [
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(_plain(value))}</td></tr>"
        for name, value in rows.items()
    ]
    return f"<table>{''.join(cells)}</table>"


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Each version as a row of its own, everything else by its name."""
    versions = tree.get("versions", {})
    return {k.replace("_", " "): v for k, v in tree.items() if k != "versions"} | versions


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
