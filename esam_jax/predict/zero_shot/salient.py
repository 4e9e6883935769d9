"""Salient objects without a person's prompt, as EfficientSAM finds them (arXiv:2312.00863, 4.3).

"3 points drawn uniformly in the saliency map" are one prompt of three clicks. What counts as in the
map is not published; here it is at least half of the highest value that a map may have, 1. Nor is
it said whether several objects are one query: here they are, unless `instances` are wanted, where
every connected part of the map that is large enough is a query of its own.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from esam_jax.errors import PromptError
from esam_jax.ops import regions
from esam_jax.predict import picture_array
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.sam import Sam
from esam_jax.predict.zero_shot.contrast import Contrast
from esam_jax.words import counted

_MOST_PARTS = 64  # of a map, the largest ones: a noisy map falls into thousands


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """How clicks are drawn in a map; PromptError names what is no such rule.

    points: of each prompt. threshold: from here on a value of the map is inside. instances: a
    prompt for each part whose pixels touch, also at a corner, from `min_region` on, a share of the
    picture's pixels; where all are smaller, for the largest. seed: with the pixels of the picture
    it decides on the clicks, so that neither its name nor the order matters.
    """

    points: int = 3
    threshold: float = 0.5
    instances: bool = False
    min_region: float = 0.005
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("points", 1), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise PromptError.of(name, f"is {value!r:.80}, but must be an integer from {least}")
        if not 0 < self.threshold <= 1:
            raise PromptError.of(
                "threshold", f"is {self.threshold!r:.80}, but must be above 0 and at most 1"
            )
        if not 0 <= self.min_region <= 1:
            raise PromptError.of(
                "min_region", f"is {self.min_region!r:.80}, but must be a share from 0 to 1"
            )

    def require(self, sam: Sam) -> None:
        """PromptError where the model does not take so many points."""
        Prompt(points=[[0, 0]] * self.points).checked(sam.config, 1, 1, sam.untrained)


@dataclasses.dataclass(frozen=True, eq=False)
class Salient:
    """What is salient in a picture: the map, and a prompt and a mask for each query.

    `runs` are COCO's run lengths of the masks, `scores` their predicted IoU. No query at all is the
    answer where nothing in the map is inside.
    """

    map: Float32[np.ndarray, "H W"]
    prompts: Sequence[Prompt]
    runs: Sequence[dict[str, Any]]
    scores: Sequence[float]

    @property
    def masks(self) -> Bool[np.ndarray, "Q H W"]:
        found = np.zeros((len(self.runs), *self.map.shape), bool)
        for slot, each in zip(found, self.runs, strict=True):
            slot[:] = regions.from_rle(each)
        return found

    def union(self) -> Bool[np.ndarray, "H W"]:
        """All masks together."""
        found = np.zeros(self.map.shape, bool)
        for each in self.runs:
            found |= regions.from_rle(each)
        return found


def salient(
    sam: Sam,
    picture: Any,
    saliency: Any = None,
    *,
    points: int = 3,
    threshold: float = 0.5,
    instances: bool = False,
    min_region: float = 0.005,
    seed: int = 0,
) -> Salient:
    """The salient objects of a picture.

    picture: as for `Sam.encode`, a single one. saliency: a map of its size (from 0 to 1, or 8
    bits); or what makes one of a picture, such as `load_saliency("u2netp.pth")`; without it, the
    contrast of everything that the model finds (`Contrast`). The other arguments are those of
    `Rules`. DataError or PromptError names the argument that cannot be used.
    """
    rules = Rules(
        points=points,
        threshold=threshold,
        instances=instances,
        min_region=min_region,
        seed=seed,
    )
    rules.require(sam)
    image = picture_array.of(picture, "picture")
    given = Contrast(sam) if saliency is None else saliency
    found = given(image) if callable(given) else given
    return of_map(sam, image, checked_map(found, *image.shape[:2]), rules)


def of_map(
    sam: Sam,
    picture: UInt8[np.ndarray, "H W 3"],
    found: Float32[np.ndarray, "H W"],
    rules: Rules,
) -> Salient:
    """The masks for clicks in a map: of each query the candidate with the highest predicted IoU."""
    prompts = clicks(picture, found, rules)
    if not prompts:
        return Salient(found, (), (), ())
    masks = sam.decode(sam.encode(picture), prompts)
    indices, runs = masks.best_rle()
    scores = masks.scores[np.arange(len(indices)), indices].tolist()
    return Salient(found, prompts, runs, scores)


def clicks(
    picture: UInt8[np.ndarray, "H W 3"], found: Float32[np.ndarray, "H W"], rules: Rules
) -> list[Prompt]:
    """A prompt for each part of the map, the largest first; none where nothing is inside.

    Points are drawn without repetition, unless there are fewer pixels than points.
    """
    key = hashlib.sha256(f"{rules.seed} {picture.shape}".encode())
    key.update(np.ascontiguousarray(picture).data)
    rng = np.random.default_rng(int.from_bytes(key.digest()[:16], "big"))
    prompts = []
    for part in parts(found, rules):
        pixels = np.flatnonzero(part)
        chosen = rng.choice(pixels, rules.points, replace=len(pixels) < rules.points)
        rows, columns = np.divmod(chosen, found.shape[1])
        prompts.append(Prompt(points=np.stack([columns, rows], axis=1)))
    return prompts


def parts(found: Float32[np.ndarray, "H W"], rules: Rules) -> Iterator[Bool[np.ndarray, "H W"]]:
    """What is inside the map, together or in parts that do not touch, the largest first."""
    inside = found >= rules.threshold
    if not inside.any():
        return
    if not rules.instances:
        yield inside
        return
    from scipy import ndimage  # here, since few need it and it is slow to import

    found_parts: Any = ndimage.label(inside, np.ones((3, 3), int))
    labels, count = found_parts
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")[:_MOST_PARTS].tolist()
    large = [i for i in order if sizes[i] >= rules.min_region * found.size]
    for i in large or order[:1]:
        yield labels == i + 1


def checked_map(value: Any, height: int, width: int) -> Float32[np.ndarray, "{height} {width}"]:
    """A map from 0 to 1; PromptError unless it is one of that size."""
    found = np.asarray(value)
    if found.shape != (height, width):
        wrong = " x ".join(map(str, found.shape)) or "a number"
        raise PromptError.of(
            "saliency",
            f"is {wrong}, but the picture {height} x {width} (height x width): resize the map",
        )
    if found.dtype == bool:
        return found.astype(np.float32)
    if found.dtype == np.uint8:
        return found.astype(np.float32) / 255
    if found.dtype.kind != "f":
        raise PromptError.of(
            "saliency", f"holds {found.dtype}, but must hold floats from 0 to 1, or uint8"
        )
    outside = int((~((found >= 0) & (found <= 1))).sum())
    if outside:
        raise PromptError.of(
            "saliency",
            f"has {counted(outside, 'value')} outside of 0 to 1: scale it by its smallest and "
            "largest",
        )
    return found.astype(np.float32)
