"""Decoding a grid of clicks: one device program that keeps the masks with a high predicted IoU.

It loops over some clicks at a time. Their predicted IoU is known before a mask is drawn, so clicks
without a candidate that passes are never drawn. Logits of those that pass fill an array of fixed
length on the device. When the masks of some more clicks may not fit, the program ends, and the
next call continues there: nothing is lost, however many pass.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from esam_jax.models.parts import stack
from esam_jax.models.sam import network
from esam_jax.predict.everything.presets import Choice
from esam_jax.predict.sam import Sam
from esam_jax.typing import Params

_CLICKS = 1024  # of one call, so that the number of clicks compiles nothing
# On a CPU a few clicks fill its cores, and more of them only need memory.
_AT_ONCE, _DRAWN_AT_ONCE, _PASSING = 8, 1, 512
_ON_ACCELERATOR = (64, 32, 1024)


class Passing(NamedTuple):
    """Masks whose predicted IoU passes, and the scores of all candidates they were chosen from."""

    logits: Float[Array, "X l l"]  # on the device; what is beyond `which` has no meaning
    which: Int[np.ndarray, " _"]  # candidate `i % M` of click `i // M`; of single masks M is 1
    scores: Float[np.ndarray, "_ M"]  # of the clicks from `first`
    first: int


def passing(
    sam: Sam,
    features: Float[Array, "1 h w C"],
    points: Float[np.ndarray, "X P 2"],
    labels: Int[np.ndarray, "X P"],
    *,
    at_once: int,
    candidates: Choice,
    threshold: float | None,
) -> Iterator[Passing]:
    """What passes of the candidates of all queries, in their order, as often as the device is full.

    at_once: the most clicks that are decoded together. candidates: `presets.Rules.candidates`; of
    equals the first is the best. threshold: None lets every candidate pass.
    """
    single, on_cpu = candidates == "single", jax.default_backend() == "cpu"
    chunk, drawn, capacity = sizes(sam.model, at_once, on_cpu=on_cpu, single=single)
    limit = np.float32(-np.inf if threshold is None else threshold)
    rule = Rule(np.bool_(candidates == "best"), np.bool_(threshold is None), limit)
    for first in range(0, len(points), _CLICKS):
        queries = [_cut(part[first : first + _CLICKS], chunk) for part in (points, labels)]
        queries = jax.device_put(queries)
        clicks, done = min(_CLICKS, len(points) - first), 0
        while done < clicks:
            found = search(
                *(sam.model, sam.ready, features, *queries, rule),
                *(np.int32(clicks), np.int32(done // chunk)),
                drawn=drawn,
                capacity=capacity,
                single=single,
            )
            numbers = jax.device_get(found._replace(logits=None))
            begin, done = done, min(int(numbers.chunk) * chunk, clicks)
            scores = numbers.scores.reshape(-1, numbers.scores.shape[-1])[begin:done]
            which = first * scores.shape[-1] + numbers.which[: numbers.count]
            yield Passing(found.logits, which, scores, first + begin)


def sizes(
    model: network.Sam, at_once: int, *, on_cpu: bool, single: bool = False
) -> tuple[int, int, int]:
    """Clicks decoded together, clicks drawn together, and masks that an array holds."""
    sizes_of_cpu = (_AT_ONCE, _DRAWN_AT_ONCE, _PASSING)
    most, drawn, capacity = sizes_of_cpu if on_cpu else _ON_ACCELERATOR
    chunk = min(at_once, most)
    masks = 1 if single else model.config.decoder.mask_tokens - 1
    return chunk, min(drawn, chunk), max(capacity, chunk * masks)


def _cut(queries: np.ndarray, chunk: int) -> np.ndarray:
    """[chunks, queries of each, ...]; the last ones are zeros, which no call reads."""
    cut = np.zeros((-(-_CLICKS // chunk) * chunk, *queries.shape[1:]), queries.dtype)
    cut[: len(queries)] = queries
    return cut.reshape(-1, chunk, *queries.shape[1:])


class Rule(NamedTuple):
    """Which candidates pass."""

    best: Any
    everything: Any
    threshold: Any

    def __call__(self, scores_QM: Float[Array, "Q M"]) -> Bool[Array, "Q M"]:
        kept = self.everything | (scores_QM > self.threshold)
        best = jnp.argmax(scores_QM, axis=1)[:, None] == jnp.arange(scores_QM.shape[1])
        return kept & (~self.best | best)


class _State(NamedTuple):
    """Of the loop over chunks of clicks: the next one, and what passed of those before."""

    chunk: Any
    count: Any  # masks that passed
    logits: Any
    which: Any
    scores: Any


@functools.partial(jax.jit, static_argnames=("model", "drawn", "capacity", "single"))
def search(
    model: network.Sam,
    params: Params,
    features: Float[Array, "1 h w C"],
    points: Float[Array, "X Q P 2"],
    labels: Int[Array, "X Q P"],
    rule: Rule,
    clicks: Int[Array, ""],
    first: Int[Array, ""],
    *,
    drawn: int,
    capacity: int,
    single: bool = False,
) -> _State:
    """Decodes chunks from `first` on, until `clicks` are done or the masks of one may not fit.

    With `single` the single mask of each click, mask token 0, is its only candidate. Logits of the
    masks that pass, the number of each candidate, the scores of all candidates, how many passed,
    and the chunk to continue with.
    """
    chunks, Q = points.shape[:2]
    side, tokens_of = model.config.low_res_px, slice(0, 1) if single else slice(1, None)
    M = 1 if single else model.config.decoder.mask_tokens - 1

    def apply(*arrays: Array, method: str) -> Any:
        with stack.forward_only():
            return model.apply({"params": params}, *arrays, method=method)

    def room(state: _State) -> Array:
        return (state.chunk * Q < clicks) & (state.count + Q * M <= capacity)

    def decode(state: _State) -> _State:
        chunk, count = state.chunk, state.count
        tokens, image = apply(features, points[chunk][None], labels[chunk][None], method="look")
        scores_QM = apply(tokens, method="iou")[0, :, tokens_of]
        kept_QM = rule(scores_QM) & (chunk * Q + jnp.arange(Q) < clicks)[:, None]
        # Beyond the end, where nothing is written, lie those that are not kept.
        place_QM = jnp.where(kept_QM, count + jnp.cumsum(kept_QM).reshape(Q, M) - 1, capacity)
        draw = functools.partial(apply, method="draw")
        logits = _drawn(draw, tokens, image, place_QM, state.logits, drawn, tokens_of)
        numbers = chunk * Q * M + jnp.arange(Q * M).reshape(Q, M)
        which = state.which.at[place_QM].set(numbers, mode="drop")
        scores = state.scores.at[chunk].set(scores_QM)
        return _State(chunk + 1, count + kept_QM.sum(), logits, which, scores)

    logits = jnp.zeros((capacity, side, side))
    which, scores = jnp.zeros(capacity, jnp.int32), jnp.zeros((chunks, Q, M))
    with jax.named_scope("clicks"):
        return lax.while_loop(room, decode, _State(first, jnp.int32(0), logits, which, scores))


def _drawn(
    draw_all: Callable[..., Array],
    tokens: Float[Array, "1 Q Z C"],
    image: Float[Array, "1 Q N C"],
    place_QM: Int[Array, "Q M"],
    logits: Float[Array, "X l l"],
    at_once: int,
    tokens_of: slice,
) -> Float[Array, "X l l"]:
    """The logits with those of all candidates that have a place; no other click is drawn.

    `tokens_of` says which of the mask tokens are candidates.
    """
    some = (place_QM < len(logits)).any(1)
    order = jnp.argsort(~some, stable=True)
    order = jnp.pad(order, (0, -len(order) % at_once), mode="edge")

    def draw(i: Array, logits: Array) -> Array:
        rows = lax.dynamic_slice_in_dim(order, i * at_once, at_once)
        found = draw_all(tokens[:, rows], image[:, rows])[0, :, tokens_of]
        return logits.at[place_QM[rows]].set(found.astype(logits.dtype), mode="drop")

    with jax.named_scope("drawn"):
        return lax.fori_loop(0, (some.sum() + at_once - 1) // at_once, draw, logits)
