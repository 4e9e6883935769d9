"""The pictures of a json, in the frame of its annotations, and what is said of those left out."""

import dataclasses
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from esam_jax.data import pictures
from esam_jax.data.findings import Finding, Findings
from esam_jax.data.sources import coco_files
from esam_jax.errors import ConfigError, DataError
from esam_jax.evaluate.ground_truth import Id, Listed, Truth
from esam_jax.words import counted

_T = TypeVar("_T")
_REASONS = 20  # at most, in a result


def with_objects(truth: Truth, images: int | None) -> list[Id]:
    """The pictures that have an object which is no crowd, in the order of the json.

    So many of them, drawn with seed 0, or all for None; ConfigError for fewer than one.
    """
    owners = {each["image_id"] for each in truth.dataset["annotations"] if not each["iscrowd"]}
    found = [each for each, listed in truth.pictures.items() if listed.number in owners]
    if images is None:
        return found
    if images < 1:
        raise ConfigError(f"images is {images}, but at least 1 is needed (None for all)")
    drawn = np.random.default_rng(0).permutation(len(found))[:images]
    return [found[i] for i in np.sort(drawn)]


def read(
    truth: Truth,
    listed: Listed,
    sixteen_bit: Literal["upper_byte", "stretch"],
    noted: list[Finding],
) -> UInt8[np.ndarray, "H W 3"]:
    """A picture; DataError or MissingError where it cannot be read, or has another size."""
    path = coco_files.locate(truth.root, listed.name) or truth.root / listed.name
    upright = pictures.read(path, "upright", sixteen_bit, noted)
    size = (listed.height, listed.width)
    try:
        header = pictures.frame(upright.header, size, listed.name, "upright", noted)
    except DataError as error:
        raise DataError(f"{listed.name} {error}, but its annotations say {size}") from error
    return dataclasses.replace(upright, header=header).rgb()


def shown(pictures: Iterator[_T], count: int, what: str, progress: bool | None) -> Iterator[_T]:
    """The same with a bar on a terminal, or where it is forced."""
    hidden = not (sys.stderr.isatty() if progress is None else progress)
    yield from tqdm(pictures, total=count, desc=f"evaluate {what}", unit="picture", disable=hidden)


def left_out(findings: Findings, broken: Sequence[str]) -> dict[str, Any]:
    """Counts and reasons of a result; a UserWarning where there is something."""
    words = findings.in_words()
    if broken:
        picture = counted(len(broken), "broken picture")
        words.insert(0, f"{picture} left out, the first: {broken[0]}")
    if words:
        warnings.warn(f"evaluation: {'; '.join(words)}", UserWarning, stacklevel=3)
    reasons = [*broken, *(each.text for each in findings.all)][:_REASONS]
    return {**findings.counts(), **({"reasons": reasons} if reasons else {})}
