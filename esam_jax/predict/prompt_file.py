"""Prompts of many pictures from one file: COCO's instances or results as JSON, or points as CSV.

    instances   {"images": [{"id", "file_name"}], "annotations": [{"image_id", "bbox"}]}
    results     [{"image_id", "bbox", "score"}], as detectors write them: `image_id` is the name of
                the picture, or the number that its name ends with (7 for 000000000007.jpg)
    CSV         a line of names first: file,x,y[,label][,query] for points, or file,x0,y0,x1,y1 for
                boxes. Points of one `query` are one prompt; without that column each is its own

Boxes of JSON are x, y, width, height, in pixels. Crowds of instances (`iscrowd`) are left out or
used by choice, and counted either way. Files are hostile until parsed: an entry that does not read
is left out, with a reason.
"""

import csv
import dataclasses
import io
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from esam_jax import files
from esam_jax.data.findings import Finding, Findings
from esam_jax.data.sources.annotations import is_crowd
from esam_jax.errors import DataError, PromptError
from esam_jax.predict.prompt import Prompt

_MAX_BYTES = 2**31

Crowds = Literal["leave_out", "use"]


@dataclasses.dataclass(frozen=True)
class Asked:
    """Arguments of one `Prompt`, not checked yet, and what belongs to it in the file."""

    arguments: Mapping[str, Any]
    about: Mapping[str, Any]

    def prompt(self) -> Prompt:
        """PromptError says what is wrong with it."""
        return Prompt(**self.arguments)


@dataclasses.dataclass(frozen=True)
class Matched:
    """Prompts of each picture that has some, and the (height, width) that the file states of it.

    `unmatched` are names of the file that belong to no picture: how many prompts, and why.
    """

    asked: Mapping[str, list[Asked]]
    sizes: Mapping[str, tuple[int, int]]
    unmatched: Mapping[str | int, tuple[int, str]]


@dataclasses.dataclass(frozen=True)
class PromptFile:
    """Prompts by the picture's name (or number), and COCO's categories where there are some.

    `malformed` says of each entry that was left out which one it is and what is wrong with it,
    `noted` which are crowds.
    """

    asked: Mapping[str | int, list[Asked]]
    categories: Sequence[Any] = ()
    malformed: Sequence[str] = ()
    sizes: Mapping[str | int, tuple[int, int]] = dataclasses.field(default_factory=dict)
    noted: Sequence[Finding] = ()

    def of(self, names: Iterable[str]) -> Matched:
        """The prompts of these pictures; DataError where none has any.

        A name in the file is a path below the folder, or the last part of only one, with its
        accents as one letter or as two (Unicode NFC, NFD).
        """
        by_name = _by_name(names)
        asked: dict[str, list[Asked]] = {}
        sizes: dict[str, tuple[int, int]] = {}
        unmatched: dict[str | int, tuple[int, str]] = {}
        for key, prompts in self.asked.items():
            matching = by_name.get(_composed(key), [])
            exact = [name for name in matching if name == key]
            exact = exact or [x for x in matching if _composed(x) == _composed(key)] or matching
            if len(exact) == 1:
                asked.setdefault(exact[0], []).extend(prompts)
                if key in self.sizes:
                    sizes[exact[0]] = self.sizes[key]
            elif exact:
                reason = f"{exact[0]!r} and {exact[1]!r} both match: give the path below the folder"
                unmatched[key] = len(prompts), reason
            else:
                unmatched[key] = len(prompts), "no picture has this name"
        if not asked:
            shown = ", ".join(repr(key) for key in list(self.asked)[:3])
            why = next(iter(unmatched.values()))[1]
            raise DataError(
                f"no picture has prompts: the file names {shown}, ... ({why}): use names below the "
                "folder of pictures"
            )
        return Matched(asked, sizes, unmatched)


def _by_name(names: Iterable[str]) -> dict[str | int, list[str]]:
    """Pictures by each key that may stand for them."""
    by_name: dict[str | int, list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        digits = re.search(r"(\d{1,18})$", path.stem)
        keys = {name, path.name, path.stem, *([int(digits[1])] if digits else [])}
        for key in {_composed(key) for key in keys}:
            by_name.setdefault(key, []).append(name)
    return by_name


def _composed(key: str | int) -> str | int:
    return unicodedata.normalize("NFC", key) if isinstance(key, str) else key


def read(path: Path, crowds: Crowds = "leave_out") -> PromptFile:
    """The prompts of a file; DataError says what is wrong with it, MissingError that it is not."""

    def attempt() -> bytes:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} has more than {_MAX_BYTES} bytes: split it")
        return path.read_bytes()

    data = files.read(path, attempt, "name a .json or .csv file of prompts")
    try:
        text = data.decode("utf-8-sig")
        is_csv = path.suffix.lower() == ".csv"
        found = _of_csv(text) if is_csv else _of_json(json.loads(text), crowds)
    except (ValueError, RecursionError, KeyError, TypeError, csv.Error) as error:
        if isinstance(error, PromptError):
            raise
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        reason = "it is no text" if isinstance(error, UnicodeDecodeError) else reason
        raise DataError(
            f"{path} holds no prompts ({reason}): give COCO's instances or results as .json, or a "
            ".csv that begins with file,x,y or file,x0,y0,x1,y1"
        ) from error
    if not found.asked:
        bad = [f"{len(found.malformed)} left out: {found.malformed[0]}"] if found.malformed else []
        reasons = "".join(f"; {each}" for each in (*bad, *Findings(found.noted).in_words()))
        raise DataError(f"{path} holds no prompts: it has no box and no point{reasons}")
    return found


def _of_json(content: Any, crowds: Crowds) -> PromptFile:
    asked: dict[str | int, list[Asked]] = {}
    malformed: list[str] = []
    noted: list[Finding] = []
    names: dict[str | int, str] = {}
    sizes: dict[str | int, tuple[int, int]] = {}
    categories: list[Any] = []
    entries = content
    if not isinstance(content, list):
        entries = _list(content, "annotations")
        names, sizes = _images(_list(content, "images"), malformed)
        categories = _categories(content.get("categories"), malformed)
    for number, each in enumerate(entries):
        try:
            if not isinstance(each, dict):
                raise ValueError(f"is {each!r:.40}, but must be an object with image_id and bbox")
            crowd = entries is not content and is_crowd(each)
            if crowd and crowds == "leave_out":
                noted.append(Finding("crowds_left_out", _crowd(number, each)))
                continue
            key = _key(each, "image_id")
            if entries is not content and key not in names:
                raise ValueError(f"image_id is {key!r:.40}, but no image has this id")
            prompt = _boxed(each)
            asked.setdefault(names.get(key, key), []).append(prompt)
            if crowd:
                noted.append(Finding("crowds_used", _crowd(number, each)))
        except ValueError as error:
            malformed.append(f"entry {number}: {error}")
    return PromptFile(asked, categories, malformed, sizes, noted)


def _crowd(number: int, entry: Mapping[str, Any]) -> str:
    identity = "" if entry.get("id") is None else f" (id {str(entry['id'])[:40]})"
    return f"entry {number}{identity} is a crowd"


def _list(content: Mapping[str, Any], name: str) -> list[Any]:
    if not isinstance(content[name], list):
        raise ValueError(f"{name!r} is {content[name]!r:.40}, but must be a list")
    return content[name]


def _images(
    images: list[Any], malformed: list[str]
) -> tuple[dict[str | int, str], dict[str | int, tuple[int, int]]]:
    """Names by id, and stated (height, width) by name."""
    names: dict[str | int, str] = {}
    sizes: dict[str | int, tuple[int, int]] = {}
    for number, each in enumerate(images):
        try:
            if not isinstance(each, dict):
                raise ValueError(f"is {each!r:.40}, but must be an object with id and file_name")
            key, name = _key(each, "id"), str(_key(each, "file_name")).replace("\\", "/")
        except ValueError as error:
            malformed.append(f"image {number}: {error}")
            continue
        names[key] = name
        height, width = each.get("height"), each.get("width")
        if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
            sizes[name] = height, width
    return names, sizes


def _categories(content: Any, malformed: list[str]) -> list[Any]:
    """Those that can be written as they are."""
    categories: list[Any] = []
    for number, each in enumerate(content if isinstance(content, list) else ()):
        try:
            if not isinstance(each, dict):
                raise ValueError(f"is {each!r:.40}, but must be an object with id and name")
            json.dumps(each, allow_nan=False)
            categories.append(each)
        except ValueError as error:
            malformed.append(f"category {number}: {error}")
    return categories


def _key(each: Mapping[str, Any], field: str) -> str | int:
    value = each.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{field} is {value!r:.40}, but must be a name or a number")
    return value


def _boxed(each: Mapping[str, Any]) -> Asked:
    sides = each.get("bbox")
    if not isinstance(sides, list) or len(sides) != 4:
        raise ValueError(f"bbox is {sides!r:.80}, but must be four numbers: x, y, width, height")
    x, y, width, height = (_number(side, "bbox") for side in sides)
    about: dict[str, Any] = {}
    if each.get("category_id") is not None:
        category = each["category_id"]
        if isinstance(category, bool) or not isinstance(category, int):
            raise ValueError(f"category_id is {category!r:.40}, but must be an integer")
        about["category_id"] = category
    if each.get("score") is not None:  # the detector's
        about["score"] = _number(each["score"], "score")
    if each.get("id") is not None:
        about["source_id"] = _key(each, "id")
    return Asked({"box": [x, y, x + width, y + height]}, about)


def _number(value: Any, name: str) -> float:
    """The value of JSON, or the text of CSV, as a finite number."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (ValueError, TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} is {value!r:.40}, but must be a finite number")
    return number


def _of_csv(text: str) -> PromptFile:
    rows = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    columns = [name.strip().lower() for name in rows.fieldnames or ()]
    rows.fieldnames = columns
    boxes = {"file", "x0", "y0", "x1", "y1"} <= set(columns)
    if not boxes and not {"file", "x", "y"} <= set(columns):
        raise ValueError(f"its columns are {', '.join(columns)[:80]}")
    asked: dict[str | int, list[Asked]] = {}
    queries: dict[tuple[str, str], Asked] = {}
    malformed: list[str] = []
    refused: set[tuple[str, str]] = set()
    for number, row in enumerate(rows):
        name = (row["file"] or "").strip().replace("\\", "/")
        query = row.get("query") or f"row {number}"
        about = {"query": row["query"]} if row.get("query") else {}
        try:
            if None in row:
                raise ValueError(
                    f"has {len(columns) + len(row[None])} values for {len(columns)} columns: put a "
                    'name that holds a comma in "..."'
                )
            if not name:
                raise ValueError("names no file")
            sides = ("x0", "y0", "x1", "y1") if boxes else ("x", "y")
            place = [_number(row[side], side) for side in sides]
            label = _number(row.get("label") or 1, "label")
        except ValueError as error:
            malformed.append(f"line {rows.line_num}: {error}")
            refused.add((name, query))
            continue
        if boxes:
            asked.setdefault(name, []).append(Asked({"box": place}, about))
            continue
        if (name, query) not in queries:
            queries[name, query] = Asked({"points": [], "labels": []}, about)
            asked.setdefault(name, []).append(queries[name, query])
        queries[name, query].arguments["points"].append(place)
        queries[name, query].arguments["labels"].append(label)
    # Without one of its points a query would be about something else.
    dropped = {id(queries[key]) for key in refused & queries.keys()}
    kept = {name: [x for x in found if id(x) not in dropped] for name, found in asked.items()}
    return PromptFile({name: found for name, found in kept.items() if found}, malformed=malformed)
