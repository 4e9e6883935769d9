"""A model before and after its training, on pictures held out: numbers, pictures, part of a page.

`RUN/validation/before` and `RUN/validation/after` are evaluations (`evaluate/runner.py`: a csv of
every object, the worst pictures); `RUN/validation/comparison.json` has what both say, and
`RUN/report.png` shows the worst and the best masks, before and after.
"""

import base64
import dataclasses
import html
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from esam_jax import files
from esam_jax.config import EvaluateConfig
from esam_jax.data import sources
from esam_jax.data.records import Source
from esam_jax.evaluate import kept, numbers, prompts, runner, sheets
from esam_jax.evaluate.kept import Kept
from esam_jax.evaluate.prompts import Found
from esam_jax.evaluate.protocol import SIZES, Protocol, Takes
from esam_jax.evaluate.talks import Rules
from esam_jax.predict import draw
from esam_jax.predict.everything import album
from esam_jax.predict.sam import Sam

FOLDER, FILE, SHEET = "validation", "comparison.json", "report.png"
BEFORE, AFTER = "before", "after"
_DATA = "validation"
_PICTURES = 5  # of the worst, and of the best
_COLUMNS = {"box": "box", "uniform_1": "one click"}
_LOST = 0.02  # of mIoU: a loss of more, in a size with some objects, is pointed out
_SOME = 5


def write(
    run: Path,
    before: Callable[[], Sam],
    after: Callable[[], Sam],
    measured: EvaluateConfig,
    *,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Measures both models on what the run was measured on, and writes the files of the page.

    The result is the content of comparison.json: `rows` (prompt, size, masks, mIoU before and
    after), `lost` (sizes that have become worse), `worst` and `best` (names of pictures), and the
    `protocol`. What was measured before is not measured again. Errors as of `runner.evaluate`.
    """
    source = sources.open_source(measured.source, "evaluate.source.")
    protocol = Protocol(images=measured.images, masks_per_image=measured.masks_per_image)
    loaded, results, contents = {}, {}, {}
    for name, load in ((BEFORE, before), (AFTER, after)):
        sam, out = load(), run / FOLDER / name
        _make_room(out, sam)
        results[name] = runner.evaluate(
            sam, {_DATA: source}, protocol, out=out, model=name, progress=progress
        )
        loaded[name] = sam
        contents[name] = _pictures(out)
    rows = _rows(results)
    ranked = sorted(contents[AFTER], key=lambda name: (contents[AFTER][name], name))
    found = {
        "rows": rows,
        "lost": [row["size"] for row in rows if row["prompt"] == "box" and _is_lost(row)],
        "worst": ranked[: min(_PICTURES, math.ceil(len(ranked) / 2))],
        "best": ranked[::-1][: min(_PICTURES, len(ranked) // 2)],
        "protocol": results[AFTER]["protocol"],
    }
    files.write(run / SHEET, draw.png(_sheet(loaded, source, protocol, found)))
    files.write(run / FOLDER / FILE, json.dumps(found, indent=1) + "\n")
    return found


def section(run: Path) -> str:
    """The part of a run's page about it, as HTML; "" where there is none."""
    file, sheet = run / FOLDER / FILE, run / SHEET
    if not (file.is_file() and sheet.is_file()):
        return ""
    found = json.loads(file.read_text())
    picture = base64.b64encode(sheet.read_bytes()).decode()
    return "\n".join(
        [
            "<h2>Before and after, on pictures held out</h2>",
            _table(found["rows"]),
            f'<p class="note">{html.escape(_verdict(found))}</p>',
            "<h2>The worst and the best masks</h2>",
            f'<img style="width: 100%" alt="masks" src="data:image/png;base64,{picture}">',
            f'<p class="note">{html.escape(found["protocol"])}</p>',
        ]
    )


def in_words(found: Mapping[str, Any]) -> str:
    """One line: mIoU before and after."""
    rows = [row for row in found["rows"] if row["size"] == "all"]
    each = [f"{row['prompt']} {row['before']:.3f} -> {row['after']:.3f}" for row in rows]
    return f"mIoU on pictures held out: {', '.join(each)}; {_verdict(found)}"


def _make_room(out: Path, sam: Sam) -> None:
    """Removes what was measured of another model: of this run before it was continued."""
    try:
        settings = json.loads((out / kept.SETTINGS_FILE).read_text())
    except (OSError, ValueError):
        return
    if settings.get("model") != album.digest(sam):
        shutil.rmtree(out)


def _pictures(out: Path) -> dict[str, float]:
    """Mean IoU of the prompts of each picture, by its name."""
    store = Kept(out, "0")
    means = {}
    for content in store.of(store.places):
        if ious := numbers.confident(content):
            means[content["name"]] = numbers.mean(ious)
    return means


def _rows(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Those of the most confident mask, by prompt and size."""
    rows = []
    for column, words in _COLUMNS.items():
        prompt, points = ("box", 0) if column == "box" else ("uniform", 1)
        for size in SIZES:
            wanted = {"prompt": prompt, "points": points, "mask": "confident", "size": size}
            both = [
                [row for row in results[name]["numbers"] if wanted.items() <= row.items()]
                for name in (BEFORE, AFTER)
            ]
            if all(both):
                before, after = (each[0] for each in both)
                rows.append(
                    {
                        "prompt": words,
                        "size": size,
                        "masks": after["masks"],
                        "before": before["miou"],
                        "after": after["miou"],
                    }
                )
    return rows


def _is_lost(row: Mapping[str, Any]) -> bool:
    return row["masks"] >= _SOME and row["after"] < row["before"] - _LOST


def _verdict(found: Mapping[str, Any]) -> str:
    if not found["lost"]:
        return "no size of objects has lost"
    sizes = ", ".join(found["lost"])
    return (
        f"worse than before: {sizes}. More pictures, fewer steps, a lower --optim.peak-lr or "
        "another --task.train may do better"
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = ("prompt", "objects", "masks", "before", "after", "change")
    cells = [f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"]
    for row in rows:
        change = row["after"] - row["before"]
        values = (f"{row['before']:.3f}", f"{row['after']:.3f}", f"{change:+.3f}")
        figures = "".join(f'<td class="number">{value}</td>' for value in values)
        cells.append(
            f"<tr><td>{row['prompt']}</td><td>{row['size']}</td><td>{row['masks']:,}</td>"
            f"{figures}</tr>"
        )
    return f"<table>{''.join(cells)}</table>"


def _sheet(
    models: Mapping[str, Sam], source: Source, protocol: Protocol, found: Mapping[str, Any]
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The worst pictures, then the best: prompts, truth, and both answers to each prompt."""
    names = [*found["worst"], *found["best"]]
    seen = {name: _again(sam, source, protocol, frozenset(names)) for name, sam in models.items()}
    pairs = [(name, column) for column in _COLUMNS for name in (BEFORE, AFTER)]
    rows = [sheets.row([(seen[model][name], column) for model, column in pairs]) for name in names]
    places = [(kind, i) for kind in ("worst", "best") for i in range(1, 1 + len(found[kind]))]
    rows = [
        dataclasses.replace(row, name=f"{row.name} ({kind} {place})")
        for row, (kind, place) in zip(rows, places, strict=True)
    ]
    titles = ("prompts", "truth", *(f"{_COLUMNS[column]}, {model}" for model, column in pairs))
    return draw.contact_sheet(rows, titles)


def _again(sam: Sam, source: Source, protocol: Protocol, names: frozenset[str]) -> dict[str, Found]:
    """What a model finds in some pictures, with its masks."""
    places = prompts.chosen(source, protocol.images, protocol.seeds[0])
    places = [place for place in places if source.name(place) in names]
    rules = Rules(protocol, Takes.of(sam.config, sam.untrained), oracle=False, keep=True)
    bound = runner.on_local_devices(sam, len(places))
    measured = prompts.measure(bound, source, places, rules, progress=False)
    return {each.name: each for each in measured}
