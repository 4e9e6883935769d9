"""Prompts of many pictures from one file: COCO's instances or results as JSON, or points as CSV.

    instances   {"images": [{"id", "file_name"}], "annotations": [{"image_id", "bbox"}]}
    results     [{"image_id", "bbox", "score"}], as detectors write them: `image_id` is the name of
                the picture, or the number that its name ends with (7 for 000000000007.jpg)
    CSV         a line of names first: file,x,y[,label][,query] for points, or file,x0,y0,x1,y1 for
                boxes. Points of one `query` are one prompt; without that column each is its own

Boxes of JSON are x, y, width, height, in pixels. Files are hostile until parsed.
"""

import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from esam_jax import files
from esam_jax.errors import DataError, PromptError
from esam_jax.predict.prompt import Prompt

_MAX_BYTES = 2**31
_KEPT = ("category_id", "score")  # of an object of JSON; `score` is the detector's


@dataclasses.dataclass(frozen=True)
class Asked:
    """Arguments of one `Prompt`, not checked yet, and what belongs to it in the file."""

    arguments: Mapping[str, Any]
    about: Mapping[str, Any]

    def prompt(self) -> Prompt:
        """PromptError says what is wrong with it."""
        return Prompt(**self.arguments)


@dataclasses.dataclass(frozen=True)
class PromptFile:
    """Prompts by the picture's name (or number), and COCO's categories where there are some."""

    asked: Mapping[str | int, list[Asked]]
    categories: list[Any]

    def of(self, names: Iterable[str]) -> dict[str, list[Asked]]:
        """Prompts of each of these pictures that has some.

        A name in the file is a path below the folder, or the last part of only one; DataError
        where none is found.
        """
        found: dict[str, list[Asked]] = {}
        by_name: dict[str | int, list[str]] = {}
        for name in names:
            path = PurePosixPath(name)
            digits = re.search(r"(\d{1,18})$", path.stem)
            keys = {name, path.name, path.stem, *([int(digits[1])] if digits else [])}
            for key in keys:
                by_name.setdefault(key, []).append(name)
        for key, asked in self.asked.items():
            matching = by_name.get(key, [])
            exact = [name for name in matching if name == key] or matching
            if len(exact) == 1:
                found.setdefault(exact[0], []).extend(asked)
        if not found:
            shown = ", ".join(repr(key) for key in list(self.asked)[:3])
            raise DataError(
                f"no picture has prompts: the file names {shown}, ...: use names below the folder "
                "of pictures"
            )
        return found


def read(path: Path) -> PromptFile:
    """The prompts of a file; DataError says what is wrong with it, MissingError that it is not."""

    def attempt() -> bytes:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} has more than {_MAX_BYTES} bytes: split it")
        return path.read_bytes()

    data = files.read(path, attempt, "name a .json or .csv file of prompts")
    try:
        text = data.decode("utf-8-sig")
        found = _of_csv(text) if path.suffix.lower() == ".csv" else _of_json(json.loads(text))
    except (ValueError, RecursionError, KeyError, TypeError, csv.Error) as error:
        if isinstance(error, PromptError):
            raise
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise DataError(
            f"{path} holds no prompts ({reason}): give COCO's instances or results as .json, or a "
            ".csv that begins with file,x,y or file,x0,y0,x1,y1"
        ) from error
    if not found.asked:
        raise DataError(f"{path} holds no prompts: it has no box and no point")
    return found


def _of_json(content: Any) -> PromptFile:
    asked: dict[str | int, list[Asked]] = {}
    if isinstance(content, list):
        for each in content:
            asked.setdefault(_key(each["image_id"]), []).append(_boxed(each))
        return PromptFile(asked, [])
    names = {image["id"]: str(image["file_name"]).replace("\\", "/") for image in content["images"]}
    for each in content["annotations"]:
        if not each.get("iscrowd"):
            asked.setdefault(names[each["image_id"]], []).append(_boxed(each))
    return PromptFile(asked, list(content.get("categories", [])))


def _key(value: Any) -> str | int:
    if not isinstance(value, str | int):
        raise ValueError(f"image_id is {value!r:.40}, but must be a name or a number")
    return value


def _boxed(each: Mapping[str, Any]) -> Asked:
    x, y, width, height = (float(side) for side in each["bbox"])
    about = {name: each[name] for name in _KEPT if name in each}
    about |= {"source_id": each["id"]} if "id" in each else {}
    return Asked({"box": [x, y, x + width, y + height]}, about)


def _of_csv(text: str) -> PromptFile:
    rows = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    columns = [name.strip().lower() for name in rows.fieldnames or ()]
    rows.fieldnames = columns
    boxes = {"file", "x0", "y0", "x1", "y1"} <= set(columns)
    if not boxes and not {"file", "x", "y"} <= set(columns):
        raise ValueError(f"its columns are {', '.join(columns)[:80]}")
    asked: dict[str | int, list[Asked]] = {}
    points: dict[tuple[str, str], tuple[list[Any], list[Any]]] = {}
    for number, row in enumerate(rows):
        name = (row["file"] or "").strip().replace("\\", "/")
        query = row.get("query") or ("" if boxes else f"row {number}")
        about = {"query": row["query"]} if row.get("query") else {}
        if boxes:
            box = [float(row[side]) for side in ("x0", "y0", "x1", "y1")]
            asked.setdefault(name, []).append(Asked({"box": box}, about))
            continue
        if (name, query) not in points:
            points[name, query] = ([], [])
            places, labels = points[name, query]
            arguments = {"points": places, "labels": labels}
            asked.setdefault(name, []).append(Asked(arguments, about))
        places, labels = points[name, query]
        places.append([float(row["x"]), float(row["y"])])
        labels.append(float(row.get("label") or 1))
    return PromptFile(asked, [])
