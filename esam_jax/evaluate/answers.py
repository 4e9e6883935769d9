"""A promptable model that answers over a mesh: each device for its own picture, no weight moved.

Three compiled programs: one encodes a picture on each device, one decodes a fixed number of prompts
about each, one enlarges the answers on the device of their picture and compares them with masks.
What a device computes for a picture has the same shapes whatever else is measured, in which order
and on how many devices, so that its numbers are the same too. Batch and parameters are split like
those of training. Sizes of pictures are rounded up to a few, so that few programs are compiled.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, UInt8

from esam_jax import sharding
from esam_jax.config import SamConfig
from esam_jax.data import order
from esam_jax.data.bitmaps import Bitmap
from esam_jax.evaluate.questions import Answer, Query, View, Want
from esam_jax.models.parts import stack
from esam_jax.models.sam import network
from esam_jax.ops import images
from esam_jax.predict import batches, frames
from esam_jax.predict.prompt import Prompt
from esam_jax.typing import NOTHING, Params

_FEW = 4  # the smallest number of masks, or side of a picture, with a program of its own
_SIDE = 64
_AHEAD = 3  # calls of the decoder whose answers lie on the device at a time


class Model:
    """A network on a mesh, a picture for each device at a time; `of` binds its weights.

    `queries` are decoded on each device at a time: fewer are filled up. By default as many as an
    accelerator needs to be busy, and few on a CPU, which computes what fills them up in vain.
    """

    def __init__(self, model: network.Sam, mesh: Mesh, queries: int | None = None) -> None:
        self.network, self.place = model, sharding.batch(mesh)
        on_cpu = mesh.devices.flat[0].platform == "cpu"
        self.queries = queries or (8 if on_cpu else 32)
        self.rows = mesh.shape["data"] * mesh.shape["fsdp"]
        self.read = order.local_rows(self.place, self.rows)
        self.shards = _first_copies(self.put(np.zeros(len(self.read), np.int32)))
        self.own = frozenset(row for shard in self.shards for row in self.range(shard))

    def of(self, params: Params) -> "Bound":
        return Bound(self, params)

    def range(self, shard: Any) -> range:
        """Rows of a piece of the batch."""
        return range(*shard.index[0].indices(self.rows))

    def put(self, rows: np.ndarray) -> Array:
        """The rows that this process reads, as part of the batch of all."""
        return jax.make_array_from_process_local_data(
            self.place, rows, (self.rows, *rows.shape[1:])
        )


@dataclasses.dataclass(frozen=True)
class Bound:
    """A `Model` with its weights: the `Answers` of a real network."""

    model: Model
    params: Params

    @property
    def rows(self) -> int:
        return self.model.rows

    @property
    def read(self) -> tuple[int, ...]:
        return self.model.read

    @property
    def own(self) -> frozenset[int]:
        return self.model.own

    def open(self, views: Mapping[int, View]) -> "Encoded":
        model = self.model
        config = model.network.config
        px = config.image_px
        pixels = np.zeros((len(model.read), px, px, 3), np.float32)
        for place, row in enumerate(model.read):
            if row in views:
                pixels[place] = frames.to_input(views[row].image, config)
        features = _encode(model.network, model.place, self.params, model.put(pixels))
        framed = {
            row: _Frame.of(views[row], config, shard.data.devices())
            for shard in model.shards
            for row in model.range(shard)
            if row in views and views[row].masks
        }
        sizes = {row: view.image.shape[:2] for row, view in views.items()}
        return Encoded(model, self.params, features, sizes, framed)


@dataclasses.dataclass(frozen=True)
class _Frame:
    """What answers for one picture are enlarged by and compared with, on its device."""

    rows: Float[Array, "H l"]
    columns: Float[Array, "W l"]
    packed: UInt8[Array, "Q H w"]
    size: Int[Array, "2"]

    @staticmethod
    def of(view: View, config: SamConfig, devices: set[jax.Device]) -> "_Frame":
        (device,) = devices
        height, width = view.image.shape[:2]
        tall, wide = (_at_least(side, _SIDE) for side in (height, width))
        axes = frames.enlarging(height, width, config)
        rows, columns = (taps.matrix(config.low_res_px) for taps in (axes.rows, axes.columns))
        packed = np.zeros((_at_least(len(view.masks), _FEW), tall, wide // 8), np.uint8)
        for slot, mask in zip(packed, view.masks, strict=False):
            mask.put(slot)
        put = functools.partial(jax.device_put, device=device)
        return _Frame(
            rows=put(np.pad(rows, ((0, tall - height), (0, 0)))),
            columns=put(np.pad(columns, ((0, wide - width), (0, 0)))),
            packed=put(packed),
            size=put(np.array([height, width], np.int32)),
        )


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A batch of pictures of a real network: a `Session`."""

    model: Model
    params: Params
    features: Float[Array, "B h w C"]
    sizes: Mapping[int, tuple[int, int]]  # of the pictures that this process reads
    frames: Mapping[int, _Frame]  # of those that it answers for

    def ask(self, queries: Mapping[int, Sequence[Query]], want: Want) -> dict[int, list[Answer]]:
        answers: dict[int, dict[int, Answer]] = {row: {} for row in queries if row in self.frames}
        waiting: collections.deque[Any] = collections.deque()
        for slots, masked, chosen in self._calls(queries):
            logits, scores = self._decode(queries, chosen, slots, masked, want.oracle)
            waiting.append((chosen, list(self._compared(queries, chosen, logits, scores, want))))
            # Every device is at work by now; only here is any of them waited for.
            if len(waiting) == _AHEAD:
                _collect(answers, self.sizes, *waiting.popleft())
        while waiting:
            _collect(answers, self.sizes, *waiting.popleft())
        return {row: [found[i] for i in sorted(found)] for row, found in answers.items()}

    def _calls(
        self, queries: Mapping[int, Sequence[Query]]
    ) -> Iterator[tuple[int, bool, dict[int, list[int]]]]:
        """(slots, whether there are masks, places of queries of each row) of each call.

        The same number and kinds on every process.
        """
        config = self.model.network.config
        kinds: dict[tuple[int, bool], dict[int, list[int]]] = {}
        for row, asked in queries.items():
            for i, query in enumerate(asked):
                kind = batches.kind(query.prompt, config)
                kinds.setdefault(kind, {}).setdefault(row, []).append(i)
        longest = {kind: max(map(len, rows.values())) for kind, rows in kinds.items()}
        for (slots, masked), count in _of_all(longest).items():
            rows = kinds.get((slots, masked), {})
            for first in range(0, count, self.model.queries):
                part = slice(first, first + self.model.queries)
                yield slots, masked, {row: places[part] for row, places in rows.items()}

    def _decode(
        self,
        queries: Mapping[int, Sequence[Query]],
        chosen: Mapping[int, list[int]],
        slots: int,
        masked: bool,
        every: bool,
    ) -> tuple[Float[Array, "B Q M l l"], Float[Array, "B Q M"]]:
        """Logits and predicted IoU of the candidates, or the most confident one, of each query."""
        model = self.model
        config, K = model.network.config, model.queries
        shape = (len(model.read), K)
        blank = batches.query(Prompt(points=[[0, 0]]), config, 1, 1)
        points, labels = (_filled(x, shape, slots, v) for x, v in zip(blank, (0, NOTHING)))
        tokens = np.arange(1, config.decoder.mask_tokens, dtype=np.int32)
        wanted = np.broadcast_to(tokens, (*shape, len(tokens))).copy()
        side = config.low_res_px
        masks = np.zeros((*shape, side, side), np.float32) if masked else None
        for place, row in enumerate(model.read):
            for k, i in enumerate(chosen.get(row, ())):
                query, size = queries[row][i], self.sizes[row]
                points[place, k], labels[place, k] = batches.query(query.prompt, config, *size)
                if query.single:
                    wanted[place, k] = 0
                if masks is not None:
                    masks[place, k] = batches.mask_logits(query.prompt.mask, config, *size)
        given = [model.put(x) for x in (points, labels, wanted)]
        prompts = (*given, None if masks is None else model.put(masks))
        return _decode(model.network, model.place, every, self.params, self.features, *prompts)

    def _compared(
        self,
        queries: Mapping[int, Sequence[Query]],
        chosen: Mapping[int, list[int]],
        logits: Float[Array, "B Q M l l"],
        scores: Float[Array, "B Q M"],
        want: Want,
    ) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """For each own row that has queries, arrays on its device."""
        pieces = zip(_first_copies(logits), _first_copies(scores), strict=True)
        for piece, score in pieces:
            for row, low, each in zip(self.model.range(piece), piece.data, score.data):
                if not chosen.get(row):
                    continue
                which = np.zeros(self.model.queries, np.int32)
                which[: len(chosen[row])] = [queries[row][i].mask for i in chosen[row]]
                frame = self.frames[row]
                found = _compare(
                    low,
                    each,
                    which,
                    frame.rows,
                    frame.columns,
                    frame.packed,
                    frame.size,
                    zero_is_inside=self.model.network.config.decoder.traits.zero_is_inside,
                    keep=want.found,
                )
                yield row, (*found, _most_confident(low, each) if want.logits else None)


def _collect(
    answers: dict[int, dict[int, Answer]],
    sizes: Mapping[int, tuple[int, int]],
    chosen: Mapping[int, list[int]],
    arrays: list[tuple[int, tuple[Any, ...]]],
) -> None:
    """Waits for the arrays of one call and adds their answers."""
    for row, (shared, union, best, bits, logits) in arrays:
        # What fills a call up may be compared with a mask of nothing.
        ious = np.asarray(shared, np.float64) / np.maximum(np.asarray(union), 1)
        most_confident = np.asarray(best)
        bits = None if bits is None else np.asarray(bits)
        logits = None if logits is None else np.asarray(logits)
        for k, i in enumerate(chosen[row]):
            answers[row][i] = Answer(
                float(ious[k, most_confident[k]]),
                float(ious[k].max()),
                None if bits is None else _bitmap(bits[k], *sizes[row]),
                None if logits is None else logits[k],
            )


def gather(values: Sequence[int | float]) -> list[list[float]]:
    """The same number of values of every process, in the order of the processes."""
    if jax.process_count() == 1:
        return [[float(x) for x in values]]
    # As bytes: JAX would round float64 to float32.
    mine = np.frombuffer(np.asarray(values, np.float64).tobytes(), np.uint8)
    everyone = np.asarray(multihost_utils.process_allgather(mine))
    return [np.frombuffer(each.tobytes(), np.float64).tolist() for each in everyone]


def _of_all(longest: Mapping[tuple[int, bool], int]) -> dict[tuple[int, bool], int]:
    """The largest count of each kind over all processes, in one order on all of them."""
    if jax.process_count() == 1:
        return dict(sorted(longest.items()))
    # How many kinds each process has, then the kinds themselves, filled up to the same number.
    most = max(int(each[0]) for each in gather([len(longest)]))
    flat = [float(x) for (slots, masked), n in longest.items() for x in (slots, masked, n)]
    counts: dict[tuple[int, bool], int] = {}
    for each in gather(flat + [0.0] * (3 * most - len(flat))):
        for slots, masked, n in zip(each[::3], each[1::3], each[2::3], strict=True):
            if n:
                kind = (int(slots), bool(masked))
                counts[kind] = max(counts.get(kind, 0), int(n))
    return dict(sorted(counts.items()))


def _filled(blank: np.ndarray, shape: tuple[int, int], slots: int, value: int) -> np.ndarray:
    """A prompt in every place, with `slots` slots."""
    spare = [(0, slots - len(blank))] + [(0, 0)] * (blank.ndim - 1)
    one = np.pad(blank, spare, constant_values=value)
    return np.broadcast_to(one, (*shape, *one.shape)).copy()


def _bitmap(packed: UInt8[np.ndarray, "H w"], height: int, width: int) -> Bitmap:
    return Bitmap.of(np.unpackbits(packed[:height], axis=1, count=width).view(bool))


@functools.partial(jax.jit, static_argnames=("model", "place"))
def _encode(
    model: network.Sam, place: NamedSharding, params: Params, pixels: Float[Array, "B H W 3"]
) -> Float[Array, "B h w C"]:
    with sharding.activations(place.mesh), stack.forward_only():
        features: Any = model.apply({"params": params}, pixels, method="encode")
    return lax.with_sharding_constraint(features, place)


@functools.partial(jax.jit, static_argnames=("model", "place", "every"))
def _decode(
    model: network.Sam,
    place: NamedSharding,
    every: bool,
    params: Params,
    features: Float[Array, "B h w C"],
    points: Float[Array, "B Q P 2"],
    labels: Int[Array, "B Q P"],
    tokens: Int[Array, "B Q M"],
    masks: Float[Array, "B Q l l"] | None,
) -> tuple[Float[Array, "B Q _ l l"], Float[Array, "B Q _"]]:
    """Of the mask tokens that are wanted, `every` one or the one with the highest score."""
    with sharding.activations(place.mesh), stack.forward_only():
        both: Any = model.apply(
            {"params": params}, features, points, labels, masks, method="decode"
        )
    logits, scores = (x.astype(jnp.float32) for x in both)
    chosen = jnp.take_along_axis(scores, tokens, axis=2)
    if not every:
        best = jnp.argmax(chosen, axis=2, keepdims=True)
        tokens = jnp.take_along_axis(tokens, best, axis=2)
        chosen = jnp.take_along_axis(chosen, best, axis=2)
    logits = jnp.take_along_axis(logits, tokens[..., None, None], axis=2)
    return tuple(lax.with_sharding_constraint(x, place) for x in (logits, chosen))


@functools.partial(jax.jit, static_argnames=("zero_is_inside", "keep"))
def _compare(
    logits: Float[Array, "Q M l l"],
    scores: Float[Array, "Q M"],
    which: Int[Array, " Q"],
    rows: Float[Array, "H l"],
    columns: Float[Array, "W l"],
    packed: UInt8[Array, "_ H w"],
    size: Int[Array, "2"],
    *,
    zero_is_inside: bool,
    keep: bool,
) -> tuple[Int[Array, "Q M"], Int[Array, "Q M"], Int[Array, " Q"], UInt8[Array, "Q H w"] | None]:
    """Pixels in intersection and union of each candidate with its mask, and the most confident one.

    One query at a time: at the picture's size the logits of all would fill the device.
    """
    H, W = len(rows), len(columns)
    on_picture = (jnp.arange(H)[:, None] < size[0]) & (jnp.arange(W) < size[1])

    def one(query: tuple[Array, Array, Array]) -> tuple[Array, Array, Array | None]:
        low_Mll, best, mask = query
        highest = lax.Precision.HIGHEST
        large = jnp.einsum("Hh,khw,Ww->kHW", rows, low_Mll, columns, precision=highest)
        found = (large >= 0 if zero_is_inside else large > 0) & on_picture
        truth = images.unpack_bits(packed[mask])
        kept = jnp.packbits(found[best], axis=-1) if keep else None
        return (found & truth).sum((1, 2)), (found | truth).sum((1, 2)), kept

    best = jnp.argmax(scores, axis=1)
    shared, union, kept = lax.map(one, (logits, best, which))
    return shared, union, best, kept


@jax.jit
def _most_confident(
    logits: Float[Array, "Q M l l"], scores: Float[Array, "Q M"]
) -> Float[Array, "Q l l"]:
    best = jnp.argmax(scores, axis=1)[:, None, None, None]
    return jnp.take_along_axis(logits, best, axis=1)[:, 0]


def _at_least(size: int, least: int) -> int:
    """`size` rounded up to one of few: `least` times a power of two, or one and a half times."""
    step = least
    while step < size:
        if 2 * step >= size and 3 * step // 2 >= size and step % 2 == 0:
            return 3 * step // 2
        step *= 2
    return step


def _first_copies(array: Array) -> list[Any]:
    return [shard for shard in array.addressable_shards if shard.replica_id == 0]
