"""How well salient objects are found: maps by themselves, and the masks for clicks in them.

No number is published for EfficientSAM (arXiv:2312.00863, section 4.3, shows pictures), so the
protocol is that of salient object detection, and the IoU of all masks of a picture together.
"""

import json
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from esam_jax import files
from esam_jax.data.findings import Finding, Findings
from esam_jax.errors import DataError, DiskError, MissingError, PromptError
from esam_jax.evaluate import kept, salient_scores
from esam_jax.evaluate.kept import Kept
from esam_jax.evaluate.salient_truth import Case, Cases
from esam_jax.machine import out_of_memory
from esam_jax.ops import regions
from esam_jax.predict import devices, draw, overlays
from esam_jax.predict.zero_shot.finder import Finder
from esam_jax.predict.zero_shot.salient import Salient
from esam_jax.words import counted

RESULT_FILE, PICTURES_FILE, WORST_FILE = "result.json", "pictures.csv", "worst.png"
_FILES = (RESULT_FILE, PICTURES_FILE, WORST_FILE)
_WORST = 8  # pictures on the sheet
_REASONS = 20  # at most, in a result


@out_of_memory.advice()
def evaluate(
    finder: Finder,
    cases: Cases,
    *,
    out: Path | None = None,
    model: str = "",
    places: Sequence[int] | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Scores of the maps and, where the finder has a model, of the masks.

    Result: `mae`, `max_f`, `mean_f`, `threshold` and `s_measure` (`salient_scores.summary`), `miou`
    with a model, `images`, `nothing` (pictures in whose map nothing is inside: their masks are
    empty), `without_truth` (left out), `skipped` (broken) with `reasons`, `data`, `saliency`,
    `model`, `model_hash`, `protocol`, `seconds`, `resumed`. With `out` a killed evaluation resumes
    there, and pictures.csv, worst.png and result.json are written. `places` are those of the cases,
    all without them. DataError where no picture is left.
    """
    begin = time.monotonic()
    places = range(len(cases.names)) if places is None else places
    about = finder.about()
    if out is not None:
        settings = {"task": "salient", "data": cases.digest, "truth": cases.words, **about}
        kept.settle(out, settings, _FILES)
    store = Kept(out, "0")
    waiting = [place for place in places if place not in store]

    def on(placed: Finder, place: int) -> dict[str, Any]:
        return _of_picture(placed, cases, place)

    shared = devices.share(waiting, finder, on, count=len(waiting), ahead=3)
    for place, content in _shown(shared, len(waiting), progress):
        store.put(place, content)
    contents = list(store.of(list(places)))
    scored = [each for each in contents if each["scores"]]
    result = {"task": "salient", **_summary(scored, with_masks=finder.sam is not None)}
    if not scored:
        first = next((f": {each['broken']}" for each in contents if each["broken"]), "")
        raise DataError(f"none of {counted(len(contents), 'picture')} has something salient{first}")
    result |= _left_out(contents)
    result |= {"data": cases.digest, "saliency": about["saliency"], "model": model}
    result |= {"model_hash": about.get("model"), "protocol": _words(finder, cases)}
    result |= {"seconds": round(time.monotonic() - begin, 1)}
    result["resumed"] = len(places) - len(waiting)
    if out is not None:
        files.write(out / PICTURES_FILE, _as_csv(scored))
        if (sheet := _worst(finder, cases, scored)) is not None:
            files.write(out / WORST_FILE, sheet)
        files.write(out / RESULT_FILE, json.dumps(result, indent=1) + "\n")
    return result


def _shown(found: Iterator[Any], count: int, progress: bool | None) -> Iterator[Any]:
    """With a bar on a terminal, or where it is forced."""
    hidden = not (sys.stderr.isatty() if progress is None else progress)
    yield from tqdm(found, total=count, desc="evaluate salient", unit="picture", disable=hidden)


def _of_picture(finder: Finder, cases: Cases, place: int) -> dict[str, Any]:
    """What is kept of a picture: its scores, or what is wrong with it."""
    name = cases.names[place]
    content: dict[str, Any] = {"place": place, "name": name, "broken": None, "scores": None}
    content |= {"iou": None, "nothing": False, "findings": []}
    try:
        case = cases.read(place)
        content["findings"] = [[each.kind, each.text, each.count] for each in case.findings]
        if not case.truth.any():
            return content
        found = _found(finder, name, case)
    except (DataError, DiskError, MissingError, PromptError) as error:
        return content | {"broken": f"{name}: {str(error).removeprefix(f'{name}: ')}"}
    content["scores"] = salient_scores.of_picture(found.map, case.truth)
    if finder.sam is not None:
        content["iou"] = regions.iou(found.union(), case.truth)
        content["nothing"] = not found.runs
    return content


def _found(finder: Finder, name: str, case: Case) -> Salient:
    """Where there are no pictures, the map is read as it is, in the size of the truth."""
    picture = case.picture
    if picture is None:
        picture = np.broadcast_to(np.uint8(0), (*case.truth.shape, 3))
    return finder(name, picture)


def _summary(scored: Sequence[Mapping[str, Any]], *, with_masks: bool) -> dict[str, Any]:
    """The means over pictures."""
    if not scored:
        return {}
    found = salient_scores.summary([each["scores"] for each in scored])
    if with_masks:
        found["miou"] = float(np.mean([each["iou"] for each in scored]))
    rounded = {name: round(value, 6) for name, value in found.items()}
    return {
        **rounded,
        "images": len(scored),
        "nothing": sum(each["nothing"] for each in scored),
    }


def _left_out(contents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts and reasons; a UserWarning where there is something."""
    broken = [each["broken"] for each in contents if each["broken"]]
    without = sum(not each["scores"] and not each["broken"] for each in contents)
    findings = Findings(Finding(*x) for each in contents for x in each["findings"])
    words = findings.in_words()
    if without:
        words.insert(0, f"{counted(without, 'picture')} without a salient object left out")
    if broken:
        words.insert(
            0, f"{counted(len(broken), 'broken picture')} left out, the first: {broken[0]}"
        )
    if words:
        warnings.warn(f"evaluation: {'; '.join(words)}", UserWarning, stacklevel=3)
    reasons = [*broken, *(each.text for each in findings.all)][:_REASONS]
    counts = {"without_truth": without, "skipped": len(broken), **findings.counts()}
    return {**counts, **({"reasons": reasons} if reasons else {})}


def _words(finder: Finder, cases: Cases) -> str:
    """The protocol in words."""
    parts = [
        f"maps of 8 bits as they are, beside the truth: {cases.words}",
        "MAE and S-measure (alpha 0.5) averaged over pictures; F with beta^2 = 0.3 of the mean "
        "precision and recall at 256 levels, its highest value and its mean",
    ]
    if finder.sam is not None:
        rules = finder.rules
        each = "each part of it that touches no other" if rules.instances else "it"
        parts.append(
            f"{counted(rules.points, 'click')} drawn uniformly where the map reaches "
            f"{rules.threshold:g}, one prompt for {each}, seed {rules.seed}; of three candidates "
            "the one with the highest predicted IoU; IoU of all masks together, 0 for none"
        )
    return f"{'; '.join(parts)}. Broken pictures and those without an object are left out."


def _as_csv(scored: Sequence[Mapping[str, Any]]) -> str:
    """A line for each picture, the worst first."""
    lines = ["picture,mae,s_measure,iou"]
    for each in sorted(scored, key=_badness):
        values = [each["scores"]["mae"], each["scores"]["s_measure"], each["iou"]]
        cells = ["" if value is None else f"{value:.6f}" for value in values]
        quoted = each["name"].replace('"', '""')
        lines.append(",".join([f'"{quoted}"', *cells]))
    return "\n".join(lines) + "\n"


def _badness(content: Mapping[str, Any]) -> tuple[float, float, str]:
    """Sorts by IoU, from low to high, then by MAE, from high to low."""
    iou = 0.0 if content["iou"] is None else content["iou"]
    return iou, -content["scores"]["mae"], content["name"]


def _worst(finder: Finder, cases: Cases, scored: Sequence[Mapping[str, Any]]) -> bytes | None:
    """A PNG of the worst pictures, found again: map, truth, masks; None without pictures."""
    cells, names = [], []
    for content in sorted(scored, key=_badness)[:_WORST]:
        try:
            case = cases.read(content["place"])
            if case.picture is None:
                return None
            found = finder(content["name"], case.picture)
        except (DataError, DiskError, MissingError, PromptError):
            continue  # it has been there when it was measured
        grey = np.repeat(np.rint(found.map * 255).astype(np.uint8)[..., None], 3, axis=2)
        cells += [
            overlays.drawn(case.picture, (), ()),
            overlays.drawn(grey, (), ()),
            overlays.drawn(case.picture, [regions.to_rle(case.truth)], ()),
            overlays.drawn(case.picture, found.runs, found.scores, found.prompts),
        ]
        iou = "" if content["iou"] is None else f"masks, IoU {content['iou']:.2f}"
        names += [content["name"], f"map, MAE {content['scores']['mae']:.2f}", "truth", iou]
    return draw.png(draw.gallery(cells, names, columns=4)) if cells else None
