"""How well one box or one click finds a labelled mask (arXiv:2312.00863, section 4.3).

The protocol (which pictures, masks and prompts, and what is summed) is one for a loaded model and
for a model in training. Both are measured over a mesh: every device answers for its own pictures,
every process compares those answers with the masks, and the sums are merged at the end.
"""

import dataclasses
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from esam_jax import sharding
from esam_jax.config import EvaluateConfig, MeshConfig, SamConfig
from esam_jax.data import prompts as drawing
from esam_jax.data import sources
from esam_jax.data.bitmaps import Bitmap, Grid
from esam_jax.data.findings import KINDS, Findings
from esam_jax.data.mask_sets import SoundMasks
from esam_jax.data.records import AnnotatedSource, Record, Source
from esam_jax.errors import DataError, MissingError
from esam_jax.evaluate import answers
from esam_jax.evaluate.answers import Question
from esam_jax.evaluate.metrics import Mean
from esam_jax.machine import out_of_memory
from esam_jax.models.sam import network
from esam_jax.ops import regions
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.sam import Sam
from esam_jax.typing import Params
from esam_jax.words import counted

_NOTHING = Mean()
MIN_AREA_PX = 16  # of the picture as given; smaller masks are left out
_REASONS = 20  # at most, in a result
_OPTIONS = "evaluate.source."  # of a run: what its data is read by

Click = Literal["uniform", "centre"]


@runtime_checkable  # for the shape checks in the tests
class Answers(Protocol):
    """A model that is measured on a batch of pictures at a time.

    `rows` is the size of a batch over all processes, `read` are the rows whose pictures this
    process reads, `own` those that it answers for: together the processes own each row once.
    """

    @property
    def rows(self) -> int: ...

    @property
    def read(self) -> tuple[int, ...]: ...

    @property
    def own(self) -> frozenset[int]: ...

    def __call__(self, asked: Mapping[int, Question]) -> Mapping[int, np.ndarray]:
        """IoU [2, masks] of the answers to box and click with each mask, for each own row.

        Every process must call it equally often, whatever it has to ask.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """Which pictures, masks and prompts are drawn; anybody who draws them gets the same."""

    images: int
    masks_per_image: int
    seed: int
    click: Click = "uniform"

    def pictures(self, source: Source) -> list[int]:
        """Places in the source."""
        order = np.random.default_rng(self.seed).permutation(len(source))
        return order[: self.images].tolist()

    def words(self, config: SamConfig, total: int) -> str:
        """The protocol in words, for a source of `total` pictures."""
        centre = self.click == "centre"
        where = "the pixel farthest from its outside" if centre else "uniform inside it"
        sign = ">=" if config.decoder.traits.zero_is_inside else ">"
        return (
            f"{min(self.images, total)} of {counted(total, 'picture')} and up to "
            f"{counted(self.masks_per_image, 'mask')} of each, drawn with seed {self.seed}; "
            f"masks under {MIN_AREA_PX} pixels left out. One "
            f"tight box (box_miou), or one foreground point, {where} (point_miou), per mask; of "
            "three candidates the one with the highest predicted IoU, logits "
            f"{sign} 0 at the picture's own size. IoU averaged over masks. "
            "fill_box: IoU of the filled tight box with the mask. Broken pictures and masks are "
            "left out and counted."
        )


@dataclasses.dataclass(frozen=True)
class Sums:
    """What one process has measured; `merge` adds up those of several.

    `skipped` pictures are broken; `noted` counts the findings about the others, one number for each
    of `KINDS`.
    """

    box_miou: Mean = _NOTHING
    point_miou: Mean = _NOTHING
    fill_box: Mean = _NOTHING
    skipped: int = 0
    noted: tuple[int, ...] = (0,) * len(KINDS)

    def merge(self, other: "Sums") -> "Sums":
        return Sums(
            self.box_miou.merge(other.box_miou),
            self.point_miou.merge(other.point_miou),
            self.fill_box.merge(other.fill_box),
            self.skipped + other.skipped,
            tuple(a + b for a, b in zip(self.noted, other.noted, strict=True)),
        )

    def means(self) -> dict[str, float]:
        """By name, without those of nothing."""
        each = {name: getattr(self, name) for name in ("box_miou", "point_miou", "fill_box")}
        return {name: round(mean.value, 6) for name, mean in each.items() if mean.count}


@out_of_memory.advice()
def evaluate(
    sam: Sam,
    source: Source,
    *,
    images: int,
    masks_per_image: int,
    seed: int,
    click: Click = "uniform",
    progress: bool | None = None,
) -> dict[str, Any]:
    """box_miou, point_miou, fill_box, masks, images, and the protocol in words.

    What is broken is left out and counted: `skipped` pictures, objects by the names of `KINDS`, and
    the `reasons`; a UserWarning says so. DataError when no mask that is large enough remains.
    `progress` forces the bar on stderr on or off.
    """
    chosen = Selection(images=images, masks_per_image=masks_per_image, seed=seed, click=click)
    mesh = sharding.make_mesh(MeshConfig(data=1))  # of the device that holds the parameters
    model = answers.Model(sam.model, mesh, min(images, len(source)))
    found, reasons = measure(model.of(sam.ready), source, chosen, progress=progress)
    if not found.fill_box.count:
        raise DataError(
            f"none of {min(images, len(source))} pictures has a usable mask of {MIN_AREA_PX} "
            f"pixels or more: name data with masks{''.join(f'; {each}' for each in reasons[:1])}"
        )
    return _named(found, reasons, sam.config, source, chosen)


def measurement(
    model: network.Sam, config: EvaluateConfig, mesh: Mesh
) -> Callable[[Params], dict[str, Any]]:
    """Parameters, placed on the mesh -> what `evaluate` gives.

    For a run in training, which must not end here: the means are left out where nothing could be
    measured. Opens the data now; every process must call the result, and all find the same.
    """
    source = sources.open_source(config.source, _OPTIONS)
    chosen = Selection(
        images=config.images, masks_per_image=config.masks_per_image, seed=config.seed
    )
    placed = answers.Model(model, mesh, min(config.images, len(source)))

    def run(params: Params) -> dict[str, Any]:
        found, reasons = measure(
            placed.of(params), source, chosen, progress=False, options=_OPTIONS
        )
        return _named(found, reasons, model.config, source, chosen)

    return run


def measure(
    model: Answers,
    source: Source,
    chosen: Selection,
    *,
    progress: bool | None = None,
    options: str = "",
) -> tuple[Sums, list[str]]:
    """The sums of all processes together, and why this process left something out.

    A UserWarning reports that, too, with `options` as for `sources.open_source`.
    """
    pictures = chosen.pictures(source)
    hidden = not (sys.stderr.isatty() if progress is None else progress)
    sums, findings, broken = Sums(), Findings(), []
    with tqdm(total=len(pictures), desc="evaluate prompts", unit="picture", disable=hidden) as bar:
        for first in range(0, len(pictures), model.rows):
            batch = pictures[first : first + model.rows]
            asked: dict[int, Question] = {}
            for row in (row for row in model.read if row < len(batch)):
                key, mine = (chosen.seed, batch[row]), row in model.own
                try:
                    record = source.read(batch[row])
                    asked[row] = ask(record, chosen.masks_per_image, key, chosen.click)
                    findings.add(record.findings if mine else ())
                except (DataError, MissingError) as error:
                    broken += [str(error)] * mine
            found = model({row: question for row, question in asked.items() if question.boxes})
            for row, ious in found.items():
                sums = sums.merge(_sums(asked[row], ious))
            bar.update(len(batch))
    counts = findings.counts()
    noted = tuple(counts.get(kind, 0) for kind in KINDS)
    sums = dataclasses.replace(sums, skipped=len(broken), noted=noted)
    total = Sums()
    for each in answers.gather(_plain(sums)):
        total = total.merge(_from_plain(each))
    return _with_what_is_known(source, total, findings, broken, options)


def _with_what_is_known(
    source: Source, total: Sums, findings: Findings, broken: list[str], options: str
) -> tuple[Sums, list[str]]:
    """The findings about the source as a whole added, which all processes have."""
    whole = Findings(source.findings if isinstance(source, AnnotatedSource) else ())
    counts = whole.counts()
    total = total.merge(Sums(noted=tuple(counts.get(kind, 0) for kind in KINDS)))
    findings.add(whole.all)
    words = findings.in_words(options)
    if broken:
        words.insert(
            0, f"{counted(len(broken), 'broken picture')} left out, the first: {broken[0]}"
        )
    if words:
        warnings.warn(f"evaluation: {'; '.join(words)}", UserWarning, stacklevel=4)
    return total, [*broken, *(each.text for each in findings.all)]


def ask(record: Record, most: int, key: tuple[int, int], click: Click) -> Question:
    """Up to `most` masks of a record, drawn by `key` alone, with their prompts.

    DataError when it has masks and all are broken.
    """
    masks, picture = SoundMasks(record), record.picture
    rng = np.random.default_rng(key)
    order = rng.permutation(len(masks)).tolist()
    grid = Grid.whole(picture.height, picture.width)
    kept: list[Bitmap] = []
    for i in order:
        if len(kept) == most:
            break
        mask = masks.sample(i, grid)
        if mask is not None and mask.area() >= MIN_AREA_PX:
            kept.append(mask)
    masks.require_some()
    points = [
        drawing.centre_point(mask) if click == "centre" else drawing.uniform_point(rng, mask)
        for mask in kept
    ]
    dense = [mask.dense() for mask in kept]
    return Question(
        image=picture.rgb(),
        masks=np.stack(dense) if kept else np.zeros((0, picture.height, picture.width), bool),
        boxes=[Prompt(box=_box(mask)) for mask in kept],
        clicks=[Prompt(points=[point]) for point in points],
    )


def _sums(question: Question, ious_2Q: np.ndarray) -> Sums:
    """Of one picture: the answers to its boxes and clicks, and its boxes filled."""
    filled = []
    for mask in question.masks:
        _, _, width, height = regions.mask_box(mask)
        filled.append(float(mask.sum()) / (width * height))
    box, click = (Mean().add(row.tolist()) for row in ious_2Q)
    return Sums(box, click, Mean().add(filled))


def _plain(sums: Sums) -> list[int | float]:
    means = (sums.box_miou, sums.point_miou, sums.fill_box)
    return [*(x for mean in means for x in (mean.total, mean.count)), sums.skipped, *sums.noted]


def _from_plain(values: list[float]) -> Sums:
    pairs = zip(values[:6:2], values[1:6:2], strict=True)
    means = (Mean(total, int(count)) for total, count in pairs)
    return Sums(*means, skipped=int(values[6]), noted=tuple(int(x) for x in values[7:]))


def _named(
    sums: Sums, reasons: list[str], config: SamConfig, source: Source, chosen: Selection
) -> dict[str, Any]:
    noted = {kind: count for kind, count in zip(KINDS, sums.noted, strict=True) if count}
    return {
        **sums.means(),
        "masks": sums.fill_box.count,
        "images": len(chosen.pictures(source)) - sums.skipped,
        "skipped": sums.skipped,
        **noted,
        **({"reasons": reasons[:_REASONS]} if reasons else {}),
        "protocol": chosen.words(config, len(source)),
    }


def _box(mask: Bitmap) -> np.ndarray:
    """The tight box; a mask of one row or column gets a box one pixel thick, as a box needs."""
    x0, y0, x1, y1 = drawing.tight_box(mask).tolist()
    return np.array([x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)])
