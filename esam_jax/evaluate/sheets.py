"""Sheets of measured pictures: prompts, truth, and what one model answered, or several did."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from esam_jax.data.bitmaps import Bitmap
from esam_jax.data.records import Source
from esam_jax.evaluate import numbers, prompts
from esam_jax.evaluate.prompts import Found
from esam_jax.evaluate.questions import Answer, Answers
from esam_jax.evaluate.talks import Rules
from esam_jax.predict import draw, overlays
from esam_jax.predict.draw import Row
from esam_jax.predict.prompt import Prompt
from esam_jax.words import counted

_PICTURES = 12
_COLUMNS = 4  # of answers
_OBJECTS = 12  # of a picture, the worst ones: more cannot be told apart in a cell
_LONG_PX = 512


def worst(
    model: Answers,
    data: Mapping[str, Source],
    contents: Mapping[str, Sequence[Mapping[str, Any]]],
    rules: Rules,
) -> bytes:
    """A PNG of the pictures with the lowest mean IoU over objects and prompts, which are measured
    again for their masks.

    `contents` are those of `numbers.content` for each data set. Four prompts are drawn at most.
    """
    ranked = sorted(
        (numbers.mean(numbers.confident(picture)), name, picture["name"])
        for name, pictures in contents.items()
        for picture in pictures
        if picture["objects"]
    )[:_PICTURES]
    columns = rules.protocol.columns
    if len(columns) > _COLUMNS:  # the first and the last of the others, spread evenly
        columns = [
            columns[i] for i in np.linspace(0, len(columns) - 1, _COLUMNS).round().astype(int)
        ]
    keeping = dataclasses.replace(rules, keep=True)
    drawn: dict[tuple[str, str], Row] = {}
    for name, source in data.items():
        wanted = {picture for _, of, picture in ranked if of == name}
        places = [i for i in _places(source, rules) if source.name(i) in wanted]
        for found in prompts.measure(model, source, places, keeping, progress=False):
            if found.scene is not None and found.scene.targets:
                drawn[name, found.name] = row([(found, column) for column in columns])
    rows = [drawn[name, picture] for _, name, picture in ranked if (name, picture) in drawn]
    titles = ("prompts", "truth", *(column.replace("_", " ") for column in columns))
    return draw.png(draw.contact_sheet(rows, titles))


def _places(source: Source, rules: Rules) -> list[int]:
    return prompts.chosen(source, rules.protocol.images, rules.protocol.seeds[0])


def row(answers: Sequence[tuple[Found, str]]) -> Row:
    """A picture, the objects that were found worst, and the answers of the first seed to a prompt:
    a column for each (what a model found of the picture, prompt).

    What they found is of the same objects, with their masks and prompts kept (`Rules.keep`).
    """
    first, _ = answers[0]
    assert first.scene is not None
    image, targets = first.scene.image, first.scene.targets
    badness = [
        numbers.mean(found.scores[i][column][0].iou for found, column in answers)
        for i in range(len(targets))
    ]
    order = np.argsort(badness, kind="stable")[:_OBJECTS].tolist()
    scale = min(1.0, _LONG_PX / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    chosen = [[found.scores[i][column][0] for i in order] for found, column in answers]
    means = [numbers.mean(answer.iou for answer in each) for each in chosen]
    masks = [[answer.found for answer in each] for each in chosen]
    shown = [[targets[i].mask for i in order], *masks]
    shares = size[0] / image.shape[1], size[1] / image.shape[0]
    return Row(
        picture=np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)),
        prompts=[overlays.scaled(_given(each), *shares) for each in zip(*chosen, strict=True)],
        masks=[np.stack([_small(mask, size) for mask in each]) for each in shown],
        captions=[_shown(len(order), len(targets)), *(f"IoU {value:.3f}" for value in means)],
        name=first.name,
    )


def _shown(count: int, of: int) -> str:
    return counted(of, "object") if count == of else f"the worst {count} of {of}"


def _small(mask: Bitmap | None, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    assert mask is not None
    dense = Image.fromarray(np.ascontiguousarray(mask.dense()))
    return np.asarray(dense.resize(size, Image.Resampling.NEAREST))


def _given(answers: Sequence[Answer]) -> Prompt:
    """The box and the clicks that an object was found by: the first of either."""
    prompts = [answer.prompt for answer in answers if answer.prompt is not None]
    box = next((prompt.box for prompt in prompts if prompt.box is not None), None)
    clicks = next((prompt for prompt in prompts if len(prompt.points)), prompts[0])
    return Prompt(points=clicks.points, labels=clicks.labels, box=box)
