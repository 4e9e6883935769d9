"""Edge maps beside the boundaries that several people drew: BSDS500's ODS, OIS, AP, and R50.

Arbelaez, Maire, Fowlkes and Malik, PAMI 2011; `boundaryBench` of the benchmark's code. A map is cut
at each threshold and thinned; its pixels are matched with those of every person in turn, within
0.0075 of the picture's diagonal. R50 is the recall at a precision of one half, as in P. Dollar's
toolbox.
"""

import functools
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from tqdm import tqdm

from esam_jax.config import BsdsConfig
from esam_jax.data import decode, parallel, records, sources
from esam_jax.data.records import Source
from esam_jax.errors import DataError, MissingError
from esam_jax.evaluate import boundaries
from esam_jax.evaluate.kept import Kept
from esam_jax.evaluate.thinning import thin
from esam_jax.words import counted

MAX_DISTANCE = 0.0075  # of the diagonal of a picture
_STEPS = 100  # between two thresholds, at which the best F is looked for
_RECALLS = np.arange(101) / 100
_PRECISION = 0.5  # of R50
_REASONS = 20  # at most, in a result
_NEEDS = frozenset({"boundaries"})


def thresholds(count: int) -> Float64[np.ndarray, "{count}"]:
    """Spread evenly between 0 and 1, both of which are left out: 0.01 to 0.99 for 99."""
    return np.linspace(1 / (count + 1), 1 - 1 / (count + 1), count)


def counts(
    edges: Float[np.ndarray, "H W"],
    people: Bool[np.ndarray, "A H W"],
    levels: Float64[np.ndarray, " T"],
    max_distance: float = MAX_DISTANCE,
) -> Int64[np.ndarray, "T 4"]:
    """Pixels of a map from 0 to 1, for each threshold: of the truth matched, of the truth, of the
    map matched, of the map. The truth is that of all people together."""
    height, width = edges.shape
    most_px = max_distance * float(np.hypot(height, width))
    found = np.zeros((len(levels), 4), np.int64)
    for row, level in zip(found, levels, strict=True):
        thinned = thin(edges >= level)
        hit = np.zeros_like(thinned)
        for person in people:
            matched = boundaries.match(thinned, person, most_px=most_px)
            hit |= matched.first  # once, however many people drew it
            row[0] += matched.pairs
            row[1] += int(person.sum())
        row[2:] = int(hit.sum()), int(thinned.sum())
    return found


def summary(found: Int64[np.ndarray, "B T 4"], levels: Float64[np.ndarray, " T"]) -> dict[str, Any]:
    """{"ODS", "OIS", "AP", "R50"} of the counts of all pictures, with threshold, recall and
    precision of ODS, and recall and precision of OIS."""
    recall, precision = _shares(found.sum(0))
    threshold, ods_recall, ods_precision, ods = _best(levels, recall, precision)
    of_each = np.stack([row[_f(*_shares(row)).argmax()] for row in found])
    ois_recall, ois_precision = (x[0] for x in _shares(of_each.sum(0, keepdims=True)))
    return {
        "ODS": ods,
        "OIS": float(_f(ois_recall, ois_precision)),
        "AP": _average_precision(recall, precision),
        "R50": _recall_at_half(recall, precision),
        "threshold": threshold,
        "recall": ods_recall,
        "precision": ods_precision,
        "OIS_recall": float(ois_recall),
        "OIS_precision": float(ois_precision),
    }


def of_maps(
    folder: Path,
    truth: BsdsConfig,
    *,
    levels: int = 99,
    max_distance: float = MAX_DISTANCE,
    workers: int = 1,
    kept: Kept | None = None,
    broken: Mapping[int, str] | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """`summary` of a folder with a grey picture for each record of the truth, by its name.

    The same with any number of processes. `curve` has recall and precision at each threshold,
    `pictures` the best F of each picture. The counts of each are `kept`, with a digest of its map:
    what is there already is not counted again. Records that are `broken`, or that turn out to be,
    are left out and counted (`skipped`, `reasons`). `progress` shows a bar on stderr. MissingError
    for a map that is not there, DataError for one of another size, or where nothing can be counted.
    """
    begin = time.monotonic()
    source = sources.open_source(truth, "", _NEEDS)
    broken, kept = dict(broken or {}), Kept(None, "0") if kept is None else kept
    maps = {
        index: map_of(folder, source.name(index))
        for index in range(len(source))
        if index not in broken
    }
    steps = thresholds(levels)
    digests = {index: _digest(path) for index, path in maps.items()}
    waiting = [index for index in maps if kept.get(index, {}).get("map") != digests[index]]
    work = functools.partial(_of_record, maps, steps, max_distance)
    rows = parallel.over(source, waiting, work, workers, at_once=1)
    bar = tqdm(
        rows, total=len(waiting), desc="evaluate edges", unit="picture", disable=not progress
    )
    for index, found in zip(waiting, bar, strict=True):
        if isinstance(found, str):
            broken[index] = found  # not kept: it is read again by the next call
        else:
            kept.put(index, {"map": digests[index], "counts": found.tolist()})
    used = {
        source.name(index): np.array(kept.get(index, {})["counts"], np.int64)
        for index in maps
        if index not in broken
    }
    if not used:
        raise DataError(f"no picture could be read: {next(iter(broken.values()), truth.path)}")
    return {
        **_numbers(used, steps),
        "images": len(used),
        "skipped": len(broken),
        **({"reasons": [broken[i] for i in sorted(broken)][:_REASONS]} if broken else {}),
        "protocol": f"{counted(levels, 'threshold')}, thinned, one to one within {max_distance:g} "
        "of the diagonal, every person's boundaries",
        "data": records.summary(source),
        "seconds": round(time.monotonic() - begin, 1),
        "resumed": len(maps) - len(waiting),
    }


def _numbers(
    found: Mapping[str, Int64[np.ndarray, "T 4"]], steps: Float64[np.ndarray, " T"]
) -> dict[str, Any]:
    """The numbers of all pictures, by the names of these; and the best of each."""
    rows = np.stack(list(found.values()))
    names = ("threshold", "recall", "precision", "F")
    pictures = {
        name: dict(zip(names, _best(steps, *_shares(row)), strict=True))
        for name, row in found.items()
    }
    return {**summary(rows, steps), "curve": _curve(rows, steps), "pictures": pictures}


def _curve(
    found: Int64[np.ndarray, "B T 4"], steps: Float64[np.ndarray, " T"]
) -> list[dict[str, float]]:
    """Recall and precision of all pictures together, at each threshold."""
    rows = np.stack([steps, *_shares(found.sum(0))], axis=1).tolist()
    return [dict(zip(("threshold", "recall", "precision"), row, strict=True)) for row in rows]


# ------------------------------------------------------------------------------------- the maps


def map_of(folder: Path, name: str) -> Path:
    """The map of a record, with or without the folders of its name."""
    stem = Path(name).with_suffix(".png")
    for place in (folder / stem, folder / stem.name):
        if place.is_file():
            return place
    raise MissingError(
        f"{folder} has no {stem.name}: write a grey PNG for each picture, of its name and size"
    )


def read_map(path: Path) -> Float64[np.ndarray, "H W"]:
    """A grey PNG of 1, 8 or 16 bits, from 0 to 1; errors as of `decode.read_numbers`."""
    with decode.named(path):
        data = decode.read_file(path)
        head = decode.header(data)
        if head.mode.startswith("I"):
            return decode.numbers(data, head) / (2**16 - 1)
        if head.mode not in ("1", "L") or head.kind == "JPEG":
            raise DataError(f"it is a {head.kind} of {head.mode}: write edges as a grey PNG")
        return decode.pixels(data, head)[..., 0] / (2**8 - 1)


def _digest(path: Path) -> str:
    return hashlib.sha256(decode.read_file(path)).hexdigest()[:32]


def _of_record(
    maps: Mapping[int, Path],
    levels: Float64[np.ndarray, " T"],
    max_distance: float,
    source: Source,
    index: int,
) -> Int64[np.ndarray, "T 4"] | str:
    """The counts of a picture, or what is wrong with it; DataError for what is with its map."""
    try:
        record = source.read(index)
        people = np.asarray(record.annotation("boundaries"), bool)
    except (DataError, MissingError) as error:
        return str(error)
    path = maps[index]
    edges = read_map(path)
    if edges.shape != people.shape[1:]:
        sizes = (" x ".join(map(str, shape)) for shape in (edges.shape, people.shape[1:]))
        raise DataError(f"{path} is {', but its picture '.join(sizes)}: write maps of that size")
    return counts(edges, people, levels, max_distance)


# ---------------------------------------------------------------------------------- the numbers


def _shares(
    found: Int64[np.ndarray, "T 4"],
) -> tuple[Float64[np.ndarray, " T"], Float64[np.ndarray, " T"]]:
    """Recall and precision; 0 of nothing."""
    matched, truth, hits, pixels = np.moveaxis(np.asarray(found, np.float64), -1, 0)
    return matched / np.maximum(truth, 1), hits / np.maximum(pixels, 1)


def _f(recall: Any, precision: Any) -> Any:
    total = recall + precision
    return 2 * recall * precision / np.where(total > 0, total, 1)


def _best(
    levels: Float64[np.ndarray, " T"],
    recall: Float64[np.ndarray, " T"],
    precision: Float64[np.ndarray, " T"],
) -> tuple[float, float, float, float]:
    """Threshold, recall, precision and F where F is highest, the first of several, on the straight
    lines between thresholds."""
    share = np.linspace(0, 1, _STEPS)
    rows = np.stack([levels, recall, precision])
    between = rows[:, 1:, None] * share + rows[:, :-1, None] * (1 - share)
    rows = np.concatenate([rows[:, :1], between.reshape(3, -1)], axis=1)
    place = int(_f(rows[1], rows[2]).argmax())
    threshold, at, of = rows[:, place].tolist()
    return threshold, at, of, float(_f(at, of))


def _average_precision(
    recall: Float64[np.ndarray, " T"], precision: Float64[np.ndarray, " T"]
) -> float:
    """The precision at recalls of 0, 0.01 and so on, 0 beyond those that there are."""
    known, place = np.unique(recall, return_index=True)
    found = np.interp(_RECALLS, known, precision[place], left=0.0, right=0.0)
    return float(found.sum() * 0.01)


def _recall_at_half(
    recall: Float64[np.ndarray, " T"], precision: Float64[np.ndarray, " T"]
) -> float:
    known, place = np.unique(precision, return_index=True)
    return float(np.interp(max(known[0], _PRECISION), known, recall[place]))
