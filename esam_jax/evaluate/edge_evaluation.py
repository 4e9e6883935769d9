"""Edges on BSDS500 (arXiv:2304.02643, 7.2): maps of a model or of anybody, their scores, pictures.

With a folder, the counts of each picture are kept there, and the maps of a model: a killed
evaluation resumes. Maps are made on all local devices, scored on all processors.
"""

import dataclasses
import errno
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from esam_jax import files, places
from esam_jax.config import BsdsConfig
from esam_jax.data import records, sources
from esam_jax.data.records import Source
from esam_jax.errors import DataError, MissingError
from esam_jax.evaluate import edge_scores, kept, published_edges
from esam_jax.evaluate.kept import Kept
from esam_jax.predict import devices, draw
from esam_jax.predict.everything import album
from esam_jax.predict.sam import Sam
from esam_jax.predict.zero_shot import edge_album, edges
from esam_jax.predict.zero_shot.edge_album import Settings
from esam_jax.words import counted

RESULT_FILE, BEST_FILE, WORST_FILE, MAPS_FOLDER = "result.json", "best.png", "worst.png", "maps"
CURVE_FILE = "curve.svg"  # which the command draws
_FILES = (RESULT_FILE, BEST_FILE, WORST_FILE, CURVE_FILE, f"{MAPS_FOLDER}/**/*.png")
_ON_SHEET = 5  # pictures of either sheet
_SHEET_PX = (480, 1200)  # width of a sheet: room for its captions, and at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scoring:
    """How maps are compared with what people drew; `edge_scores` says more."""

    thresholds: int = 99
    max_distance: float = edge_scores.MAX_DISTANCE


def of_model(
    sam: Sam,
    truth: BsdsConfig,
    out: Path,
    *,
    settings: Settings | None = None,
    scoring: Scoring | None = None,
    workers: int = 1,
    model: str = "",
    progress: bool | None = None,
) -> dict[str, Any]:
    """The numbers of `of_folder` of a model's maps, with `model`, `model_hash` and its protocol.

    Maps are in OUT/maps. `progress` forces the bars on stderr on or off.
    """
    settings = settings or Settings()
    about = {"model": model, "model_hash": album.digest(sam)}
    asked = {"maps": dataclasses.asdict(settings), "model_hash": about["model_hash"]}
    scoring = scoring or Scoring()
    _settle(out, truth, scoring, asked)
    shown = _is_shown(progress)
    broken = _mapped(sam, sources.open_source(truth, ""), out / MAPS_FOLDER, settings, shown)
    result = _scored(out / MAPS_FOLDER, truth, scoring, workers, out, broken, shown)
    result["protocol"] = f"{settings.words()}; {result['protocol']}"
    result = {"task": "edges", **about, **result}
    _write(result, out / MAPS_FOLDER, truth, out)
    return result


def of_folder(
    folder: Path,
    truth: BsdsConfig,
    *,
    scoring: Scoring | None = None,
    workers: int = 1,
    out: Path | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """ODS, OIS, AP and R50 of anybody's maps, and what else `edge_scores.of_maps` gives.

    `published` numbers stand beside them where data and protocol match. With `out`: result.json,
    the best and the worst pictures, and the counts of each picture. What cannot be read is left out
    and counted (`skipped`), and a UserWarning says so; errors as of `of_maps`.
    """
    scoring = scoring or Scoring()
    if out is not None:
        _settle(out, truth, scoring, {"maps": "given"})
    result = _scored(folder, truth, scoring, workers, out, {}, _is_shown(progress))
    result = {"task": "edges", **result}
    if out is not None:
        _write(result, folder, truth, out)
    return result


def _settle(out: Path, truth: BsdsConfig, scoring: Scoring, asked: Mapping[str, Any]) -> None:
    about = {"task": "edges", "data": records.summary(sources.open_source(truth, ""))}
    kept.settle(out, {**about, **dataclasses.asdict(scoring), **asked}, _FILES)


def _is_shown(progress: bool | None) -> bool:
    return sys.stderr.isatty() if progress is None else progress


# ------------------------------------------------------------------------------------- the maps


def _mapped(
    sam: Sam, source: Source, folder: Path, settings: Settings, shown: bool
) -> dict[int, str]:
    """Writes the maps that are not there yet; what is wrong with the pictures that have none."""
    edge_album.require_distinct([source.name(index) for index in range(len(source))])
    where = {index: edge_album.file(folder, source.name(index)) for index in range(len(source))}
    waiting = [index for index, file in where.items() if not places.is_there(file)]
    for parent in {where[index].parent for index in waiting}:
        files.remove_unfinished(parent)

    def on(sam: Sam, index: int) -> str | None:
        try:
            picture = source.read(index).picture.rgb()
        except (DataError, MissingError) as error:
            return str(error)
        found = edges.edges(sam, picture, **dataclasses.asdict(settings))
        try:
            edge_album.write(where[index], edge_album.png(found))
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return f"{source.name(index)}: its name is too long for NAME.png"
            raise MissingError(
                f"{folder} cannot be written ({error}): make room, then run the same command"
            ) from error
        return None

    done = devices.share(waiting, sam, on, count=len(waiting), ahead=3)
    bar = tqdm(done, total=len(waiting), desc="edge maps", unit="picture", disable=not shown)
    return {index: fault for index, fault in bar if fault}


# ---------------------------------------------------------------------------------- the numbers


def _scored(
    folder: Path,
    truth: BsdsConfig,
    scoring: Scoring,
    workers: int,
    out: Path | None,
    broken: Mapping[int, str],
    shown: bool,
) -> dict[str, Any]:
    result = edge_scores.of_maps(
        folder,
        truth,
        levels=scoring.thresholds,
        max_distance=scoring.max_distance,
        workers=workers,
        kept=Kept(out, "0"),
        broken=broken,
        progress=shown,
    )
    if result["skipped"]:
        picture, first = counted(result["skipped"], "broken picture"), result["reasons"][0]
        warnings.warn(
            f"evaluation: {picture} left out, the first: {first}", UserWarning, stacklevel=3
        )
    result["published"] = published_edges.edges(
        split=truth.split,
        pictures=result["images"] + result["skipped"],
        broken=result["skipped"],
        thresholds=scoring.thresholds,
        max_distance=scoring.max_distance,
    )
    return result


# ------------------------------------------------------------------------------------- pictures


def _write(result: Mapping[str, Any], maps: Path, truth: BsdsConfig, out: Path) -> None:
    """The two sheets, then the result: where that is, everything is."""
    names = sorted(result["pictures"], key=lambda name: result["pictures"][name]["F"])
    best = names[::-1][:_ON_SHEET]
    for file, some in ((WORST_FILE, names[:_ON_SHEET]), (BEST_FILE, best)):
        files.write(out / file, _sheet(some, result["pictures"], maps, truth))
    files.write(out / RESULT_FILE, json.dumps(result, indent=1) + "\n")


def _sheet(
    names: Sequence[str],
    pictures: Mapping[str, Mapping[str, float]],
    maps: Path,
    truth: BsdsConfig,
) -> bytes:
    """Each picture, what people drew (the darker, the more of them), and its map."""
    source = sources.open_source(truth, "")
    places = {source.name(index): index for index in range(len(source))}
    rows, captions = [], []
    for name in names:
        record = source.read(places[name])
        try:
            picture = record.picture.rgb()
        except (DataError, MissingError):  # a folder of maps is scored without its pictures
            continue
        people = np.asarray(record.annotation("boundaries"), np.float32).mean(0)
        found = edge_scores.read_map(edge_scores.map_of(maps, name))
        rows.append(edge_album.beside(picture, people, found))
        about = pictures[name]
        captions.append(
            f"{name}: F {about['F']:.3f} at {about['threshold']:.2f} (recall "
            f"{about['recall']:.3f}, precision {about['precision']:.3f})"
        )
    if not rows:
        rows, captions = [np.full((8, 8, 3), 255, np.uint8)], ["no picture could be read"]
    least, most = _SHEET_PX
    width = min(most, max(least, *(row.shape[1] for row in rows)))
    return draw.png(draw.gallery(rows, captions, columns=1, cell_px=width))
