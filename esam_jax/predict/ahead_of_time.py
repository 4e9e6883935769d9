"""Everything that the calls of a server need, compiled before the first of them.

Programs are compiled where they are called: by calls of every shape that the requests of a server
can have, with pictures and prompts that mean nothing.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from esam_jax.errors import ConfigError
from esam_jax.machine import compilation
from esam_jax.predict import batches, frames, full_size, room
from esam_jax.predict.masks import Masks
from esam_jax.predict.prompt import Prompt
from esam_jax.words import counted

_RESULTS = ("low_res", "logits", "binary", "best", "rle", "best_rle")
_RUNS = ("rle", "best_rle")
_OF_ALL = ("low_res", "logits", "binary", "rle")  # of every candidate, not of the best


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes:
    """The requests of a server: at most so many `pictures` in one call and `prompts` of each.

    points: of a prompt; the corners of a box count as two. masks: whether a prompt may have one.
    pixels: height times width of the largest picture. results: what is read of the `Masks`, by the
    names of its methods and attributes. ConfigError names a value that is none of these.
    """

    pictures: int = 1
    prompts: int = 1
    points: int = 2
    masks: bool = False
    pixels: int = 4096 * 4096
    results: Sequence[str] = ("best",)

    def __post_init__(self) -> None:
        for name in ("pictures", "prompts", "points", "pixels"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} is {value!r:.80}, but must be an integer from 1")
        if isinstance(self.results, str):
            problem = f"results is {self.results!r:.80}, but must be a tuple or list of names"
            raise ConfigError(f"{problem}: write [{self.results!r:.80}] for one")
        for result in self.results:
            if result not in _RESULTS:
                known = ", ".join(_RESULTS)
                raise ConfigError(f"results has {result!r:.80}, but must be of {known}")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What was made ready: how many programs, and how long it took with a first call of each."""

    what: str
    programs: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.what}: {counted(self.programs, 'program')}, {self.seconds:.1f} s"


def run(sam: Any, shapes: Shapes) -> Iterator[Compiled]:
    """Calls everything that requests within `shapes` can need, step by step.

    PromptError where the model takes no such prompts.
    """
    kinds = _kinds(sam, shapes)
    yield _timed(f"pictures of up to {shapes.pixels:,} pixels", _inputs, sam, shapes.pixels)
    black = _black(full_size.sizes_of_each_tile())
    # Each alone: together they would be another shape.
    yield _timed("encoder, 1 picture", lambda: [sam.encode(each) for each in black])
    for kind in kinds:
        many = batches.is_plain(batches.kind(kind, sam.config), sam.config)
        for queries in batches.sizes(shapes.prompts, room.most_prompts() if many else batches.FEW):
            what = f"decoder and masks, {counted(queries, 'prompt')} of {_about(kind)}"
            yield _timed(what, _alone, sam, black, [kind] * queries, shapes)
    runs = dataclasses.replace(shapes, results=tuple(x for x in shapes.results if x in _RUNS))
    if runs.results:
        long = _black(full_size.sizes_of_more_tiles(shapes.pixels))
        queries = max(batches.sizes(shapes.prompts, room.most_prompts()))
        yield _timed("run lengths", _alone, sam, long, [kinds[0]] * queries, runs)
    for count in range(2, shapes.pictures + 1):
        what = f"encoder, decoder and masks, {count} pictures"
        yield _timed(what, _together, sam, (black * count)[:count], kinds[0], shapes)


def _black(sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    return [np.zeros((*size, 3), np.uint8) for size in sizes]


def _kinds(sam: Any, shapes: Shapes) -> list[Prompt]:
    """A prompt of each kind; PromptError where the model takes none of them."""
    # The fewest of each number of tokens that is decoded.
    counts = [4**k for k in range(16) if 4**k <= shapes.points]
    prompts = [Prompt(points=[[0, 0]] * count) for count in counts]
    if shapes.masks:
        prompts += [dataclasses.replace(each, mask=[[True]]) for each in prompts]
    sam.checked([Prompt(points=[[0, 0]] * shapes.points), *prompts], 1, 1)
    return list({batches.kind(each, sam.config): each for each in reversed(prompts)}.values())[::-1]


def _timed(what: str, call: Callable[..., Any], *arguments: Any) -> Compiled:
    before, begin = compilation.counts().programs, time.perf_counter()
    jax.block_until_ready(call(*arguments))
    return Compiled(what, compilation.counts().programs - before, time.perf_counter() - begin)


def _about(prompt: Prompt) -> str:
    return counted(len(prompt.points), "point") + (" and a mask" if prompt.mask is not None else "")


def _inputs(sam: Any, pixels: int) -> list[jax.Array]:
    sizes = frames.sizes_up_to(pixels, sam.config)
    return [frames.to_input(np.zeros((*size, 3), np.uint8), sam.config) for size in sizes]


def _alone(sam: Any, pictures: list[np.ndarray], prompts: list[Prompt], shapes: Shapes) -> None:
    """All prompts about one picture, for each tile of masks at full size."""
    for picture in pictures:
        masks = sam.segment(picture, prompts)
        _read(masks, min(len(prompts), shapes.prompts), shapes.results)


def _together(sam: Any, pictures: list[np.ndarray], prompt: Prompt, shapes: Shapes) -> None:
    """One picture of several, and as many as share a call, which its size makes of any number."""
    embedding, count = sam.encode(pictures), len(pictures)
    sam.decode(embedding, [[prompt], *[[]] * (count - 1)])
    for lists in batches.shared(count, shapes.prompts, prompt):
        for masks in sam.decode(embedding, lists)[:2]:
            _read(masks, min(shapes.prompts, batches.MOST_SHARED), shapes.results)


def _read(masks: Masks, queries: int, results: Sequence[str]) -> None:
    """Reads results of so many queries of one call, and of all fewer."""
    candidates = masks.scores.shape[1]
    for result in results:
        each = candidates if result in _OF_ALL else 1
        for size in masks.sizes_up_to(queries * each):
            some = masks[np.zeros(-(-size // each), int)]
            found = getattr(some, result)
            if callable(found):
                found()
