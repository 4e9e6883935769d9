"""How well boxes and clicks find labelled masks (arXiv:2304.02643, 7.1; arXiv:2312.00863, 4.3).

The protocol (which pictures, masks and prompts, and what is averaged) is one for a loaded model and
for a model in training. Both are measured over a mesh: every device answers for its own pictures,
every process compares those answers with the masks, and what was found is merged at the end.
"""

import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from esam_jax.config import EvaluateConfig
from esam_jax.data import sources
from esam_jax.data.findings import KINDS, Finding, Findings
from esam_jax.data.records import AnnotatedSource, Source
from esam_jax.errors import DataError, MissingError
from esam_jax.evaluate import answers, talks, targets
from esam_jax.evaluate.metrics import Mean
from esam_jax.evaluate.protocol import Protocol, Takes
from esam_jax.evaluate.questions import Answers, View
from esam_jax.evaluate.talks import Rules, Scores
from esam_jax.evaluate.targets import Scene
from esam_jax.models.sam import network
from esam_jax.typing import Params
from esam_jax.words import counted

_REASONS = 20  # at most, in a result
_OPTIONS = "evaluate.source."  # of a run: what its data is read by
_NEEDS = frozenset({"masks"})  # annotations
_READERS = 4
_NOTHING = Mean()
_IN_TRAINING = {"box_miou": "box", "point_miou": "uniform_1"}


@dataclasses.dataclass(frozen=True)
class Found:
    """What was measured of the picture at a place of its source: scores of each of its objects.

    `broken` says why there are none.
    """

    place: int
    name: str
    scene: Scene | None = None
    scores: Sequence[Scores] = ()
    findings: Sequence[Finding] = ()
    broken: str | None = None


def chosen(source: Source, images: int | None, seed: int) -> list[int]:
    """Places of the pictures of a protocol in its source; anybody who draws them gets the same."""
    return drawn(len(source), images, seed)


def drawn(count: int, images: int | None, seed: int) -> list[int]:
    """`images` of so many places, or all of them; the same for everybody who draws them."""
    if images is None or images >= count:
        return list(range(count))
    return np.random.default_rng(seed).permutation(count)[:images].tolist()


def measure(
    model: Answers,
    source: Source,
    places: Sequence[int],
    rules: Rules,
    *,
    progress: bool | None = None,
) -> Iterator[Found]:
    """What this process finds in these pictures, in their order; broken ones are among them.

    Every process must go through it to the end. `progress` forces the bar on stderr on or off.
    """
    protocol = rules.protocol

    def read(place: int) -> Found:
        name = source.name(place)
        try:
            record = source.read(place)
            scene = targets.of(
                record,
                most=protocol.masks_per_image,
                seed=protocol.seeds[0],
                min_area_px=protocol.min_area_px,
                given=protocol.boxes == "given",
            )
        except (DataError, MissingError) as error:
            return Found(place, name, broken=str(error))
        return Found(place, name, scene, findings=tuple(record.findings))

    hidden = not (sys.stderr.isatty() if progress is None else progress)
    batches = [places[i : i + model.rows] for i in range(0, len(places), model.rows)]
    with (
        ThreadPoolExecutor(_READERS) as pool,
        tqdm(total=len(places), desc="evaluate prompts", unit="picture", disable=hidden) as bar,
    ):

        def begin(batch: Sequence[int]) -> dict[int, Any]:
            rows = (row for row in model.read if row < len(batch))
            return {row: pool.submit(read, batch[row]) for row in rows}

        ahead = begin(batches[0]) if batches else {}
        for i, batch in enumerate(batches):
            found = {row: future.result() for row, future in ahead.items()}
            ahead = begin(batches[i + 1]) if i + 1 < len(batches) else {}
            scores = _answered(model, found, rules)
            for row in sorted(model.own & found.keys()):
                yield dataclasses.replace(found[row], scores=scores.get(row, ()))
            bar.update(len(batch))


def _answered(model: Answers, found: dict[int, Found], rules: Rules) -> dict[int, list[Scores]]:
    scenes = {row: each.scene for row, each in found.items() if each.scene is not None}
    views = {
        row: View(scene.image, [target.mask for target in scene.targets])
        for row, scene in scenes.items()
    }
    return talks.hold(model.open(views), scenes, model.own, rules)


# -------------------------------------------------------------------------------- in training


def measurement(
    model: network.Sam, config: EvaluateConfig, mesh: Mesh
) -> Callable[[Params], dict[str, Any]]:
    """Parameters, placed on the mesh -> box_miou, point_miou, fill_box, masks, images, protocol.

    For a run in training, which must not end here: the means are left out where nothing could be
    measured. What is broken is left out and counted: `skipped` pictures, objects by the names of
    `KINDS`, and the `reasons`; a UserWarning says so. Opens the data now; every process must call
    the result, and all find the same.
    """
    source = sources.open_source(config.source, _OPTIONS, _NEEDS)
    protocol = Protocol(
        images=config.images, masks_per_image=config.masks_per_image, seeds=(config.seed,)
    )
    rules = Rules(protocol, Takes.of(model.config, ()), oracle=False)
    places = chosen(source, config.images, config.seed)
    placed = answers.Model(model, mesh)

    def run(params: Params) -> dict[str, Any]:
        sums, findings, broken = Sums(), Findings(), []
        for found in measure(placed.of(params), source, places, rules, progress=False):
            findings.add(found.findings)
            broken += [found.broken] if found.broken else []
            sums = sums.merge(_sums(found))
        counts = findings.counts()
        noted = tuple(counts.get(kind, 0) for kind in KINDS)
        sums = dataclasses.replace(sums, skipped=len(broken), noted=noted)
        total = Sums()
        for each in answers.gather(_plain(sums)):
            total = total.merge(_from_plain(each))
        known = of_source(source)
        total = total.merge(Sums(noted=tuple(known.counts().get(kind, 0) for kind in KINDS)))
        findings.add(known.all)
        reasons = warn(findings, broken, _OPTIONS)
        return {
            **total.means(),
            "masks": total.fill_box.count,
            "images": len(places) - total.skipped,
            "skipped": total.skipped,
            **{kind: n for kind, n in zip(KINDS, total.noted, strict=True) if n},
            **({"reasons": reasons} if reasons else {}),
            "protocol": protocol.words(rules.takes, pictures_in_words(source, protocol)),
        }

    return run


def of_source(source: Source) -> Findings:
    """What is known of it before any record is read."""
    return Findings(source.findings if isinstance(source, AnnotatedSource) else ())


def warn(findings: Findings, broken: Sequence[str], options: str) -> list[str]:
    """A UserWarning where something was left out or assumed; the first reasons, in words.

    `options` as for `sources.open_source`.
    """
    words = findings.in_words(options)
    if broken:
        picture = counted(len(broken), "broken picture")
        words.insert(0, f"{picture} left out, the first: {broken[0]}")
    if words:
        warnings.warn(f"evaluation: {'; '.join(words)}", UserWarning, stacklevel=3)
    return [*broken, *(each.text for each in findings.all)][:_REASONS]


def pictures_in_words(source: Source, protocol: Protocol) -> str:
    """Which pictures of a source are measured."""
    total = counted(len(source), "picture")
    taken = len(source) if protocol.images is None else min(protocol.images, len(source))
    return f"{taken} of {total}"


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
        each = {name: getattr(self, name) for name in (*_IN_TRAINING, "fill_box")}
        return {name: round(mean.value, 6) for name, mean in each.items() if mean.count}


def _sums(found: Found) -> Sums:
    """Of one picture: the answers to its boxes and clicks, and its boxes filled."""
    means = {
        name: Mean().add(each[column][0].iou for each in found.scores)
        for name, column in _IN_TRAINING.items()
    }
    filled = [] if found.scene is None else [target.fill for target in found.scene.targets]
    return Sums(means["box_miou"], means["point_miou"], Mean().add(filled))


def _plain(sums: Sums) -> list[int | float]:
    means = (sums.box_miou, sums.point_miou, sums.fill_box)
    return [*(x for mean in means for x in (mean.total, mean.count)), sums.skipped, *sums.noted]


def _from_plain(values: list[float]) -> Sums:
    pairs = zip(values[:6:2], values[1:6:2], strict=True)
    means = (Mean(total, int(count)) for total, count in pairs)
    return Sums(*means, skipped=int(values[6]), noted=tuple(int(x) for x in values[7:]))
