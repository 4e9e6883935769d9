"""A promptable model that answers over a mesh: each device for its own pictures, no weight moved.

One compiled program encodes a batch of pictures, decodes a box and a click for each mask and keeps
the best candidate at the decoder's size; its batch is split like that of training, and parameters
stay in the pieces in which they lie. Then each device enlarges the answers for its own pictures
and compares them with the masks. Sizes are rounded up to a few, so that few programs are compiled.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Int, UInt8

from esam_jax import sharding
from esam_jax.config import SamConfig
from esam_jax.data import order
from esam_jax.models.parts import stack
from esam_jax.models.sam import network
from esam_jax.ops import images
from esam_jax.predict import batches, frames
from esam_jax.predict.prompt import Prompt
from esam_jax.typing import Params

_PICTURES = 4  # on each device at a time, and of fewer pixels together than so many:
_PIXELS = 4 * 1024 * 1024
_QUERIES = 32  # decoded on each device at a time
_FEW = 4  # the smallest number of masks, or side of a picture, with a program of its own
_SIDE = 64


@dataclasses.dataclass(frozen=True)
class Question:
    """One picture, the masks to be found, and a box and a click for each."""

    image: UInt8[np.ndarray, "H W 3"]
    masks: Bool[np.ndarray, "Q H W"]
    boxes: list[Prompt]
    clicks: list[Prompt]


class Model:
    """A network on a mesh, for up to `pictures` pictures; `of` binds its weights."""

    def __init__(self, model: network.Sam, mesh: Mesh, pictures: int) -> None:
        self.model, self._place = model, sharding.batch(mesh)
        devices = mesh.shape["data"] * mesh.shape["fsdp"]
        each = min(_PICTURES, _PIXELS // model.config.image_px**2, -(-pictures // devices))
        self.rows = devices * max(1, each)
        self.read = order.local_rows(self._place, self.rows)
        marks = self._put(np.zeros(len(self.read), np.int32))
        mine = [shard.index for shard in _first_copies(marks)]
        self.own = frozenset(row for index in mine for row in self._range(index))

    def of(self, params: Params) -> "Asked":
        return Asked(self, params)

    def best(
        self, params: Params, asked: Mapping[int, Question], masks: int
    ) -> list[tuple[int, Float[Array, "2 Q l l"]]]:
        """(row, logits of the best candidates for its boxes and its clicks) of each own row.

        `masks` is the number that every row is filled up to, on every process alike.
        """
        px, config = self.model.config.image_px, self.model.config
        pixels = np.zeros((len(self.read), px, px, 3), np.float32)
        blank = batches.query(Prompt(points=[[0, 0]]), config, px, px)
        shape = (len(self.read), 2, masks)
        points, labels = (np.broadcast_to(x, (*shape, *x.shape)).copy() for x in blank)
        for place, row in enumerate(self.read):
            question = asked.get(row)
            if question is None:
                continue
            pixels[place] = frames.to_input(question.image, config)
            for kind, prompts in enumerate((question.boxes, question.clicks)):
                for slot, prompt in enumerate(prompts):
                    points[place, kind, slot], labels[place, kind, slot] = batches.query(
                        prompt, config, *question.image.shape[:2]
                    )
        rows = [x.reshape(len(x), 2 * masks, *x.shape[3:]) for x in (points, labels)]
        chunk = max(1, _QUERIES * self._devices // self.rows)
        batch = [self._put(x) for x in (pixels, *rows)]
        logits = _best(self.model, self._place, chunk, params, *batch)
        found = []
        for shard in _first_copies(logits):
            each = zip(self._range(shard.index), shard.data, strict=True)
            found += [(row, x.reshape(2, masks, *x.shape[1:])) for row, x in each]
        return found

    @property
    def _devices(self) -> int:
        return self._place.mesh.shape["data"] * self._place.mesh.shape["fsdp"]

    def _range(self, index: tuple[slice, ...]) -> range:
        """Rows of a piece of the batch."""
        return range(*index[0].indices(self.rows))

    def _put(self, rows: np.ndarray) -> Array:
        """The rows that this process reads, as part of the batch of all."""
        return jax.make_array_from_process_local_data(
            self._place, rows, (self.rows, *rows.shape[1:])
        )


@dataclasses.dataclass(frozen=True)
class Asked:
    """A `Model` with its weights: the `prompts.Answers` of a real network."""

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

    def __call__(self, asked: Mapping[int, Question]) -> dict[int, np.ndarray]:
        most = max((len(question.masks) for question in asked.values()), default=0)
        most = max(int(each[0]) for each in gather([most]))
        if most == 0:  # no process has a question
            return {}
        masks, config = _at_least(most, _FEW), self.model.model.config
        overlaps = {
            row: _overlaps(logits, asked[row], config)
            for row, logits in self.model.best(self.params, asked, masks)
            if row in asked
        }
        # Every device is at work by now; only here is any of them waited for.
        found = {row: np.asarray(both, np.float64) for row, both in overlaps.items()}
        # Rows are filled up with masks of nothing, whose union may be nothing too.
        sizes = {row: len(asked[row].masks) for row in found}
        return {
            row: shared[:, : sizes[row]] / union[:, : sizes[row]]
            for row, (shared, union) in found.items()
        }


def gather(values: Sequence[int | float]) -> list[list[float]]:
    """The same number of values of every process, in the order of the processes."""
    if jax.process_count() == 1:
        return [[float(x) for x in values]]
    # As bytes: JAX would round float64 to float32.
    mine = np.frombuffer(np.asarray(values, np.float64).tobytes(), np.uint8)
    everyone = np.asarray(multihost_utils.process_allgather(mine))
    return [np.frombuffer(each.tobytes(), np.float64).tolist() for each in everyone]


@functools.partial(jax.jit, static_argnames=("model", "place", "chunk"))
def _best(
    model: network.Sam,
    place: NamedSharding,
    chunk: int,
    params: Params,
    pixels: Float[Array, "B H W 3"],
    points: Float[Array, "B Q P 2"],
    labels: Int[Array, "B Q P"],
) -> Float[Array, "B Q l l"]:
    """Logits of the candidate with the highest predicted IoU; `chunk` queries of each picture at a
    time."""
    with sharding.activations(place.mesh), stack.forward_only():
        embedding = model.apply({"params": params}, pixels, method="encode")

    def some(queries: tuple[Array, Array]) -> Array:
        with sharding.activations(place.mesh), stack.forward_only():
            both: Any = model.apply({"params": params}, embedding, *queries, method="decode")
        logits, scores = (x[:, :, 1:] for x in both)  # the first is the single mask
        best = jnp.argmax(scores, axis=-1)[..., None, None, None]
        return jnp.take_along_axis(logits, best, axis=2)[:, :, 0].astype(jnp.float32)

    B, Q = points.shape[:2]
    size = next(n for n in range(min(chunk, Q), 0, -1) if Q % n == 0)
    cut = [x.reshape(B, Q // size, size, *x.shape[2:]) for x in (points, labels)]
    found = lax.map(some, tuple(jnp.moveaxis(x, 1, 0) for x in cut))
    found = jnp.moveaxis(found, 0, 1).reshape(B, Q, *found.shape[3:])
    return lax.with_sharding_constraint(found, place)


def _overlaps(
    logits: Float[Array, "2 Q l l"], question: Question, config: SamConfig
) -> tuple[Int[Array, "2 Q"], Int[Array, "2 Q"]]:
    """Pixels in intersection and union of answer and mask, on the device of the answer."""
    masks, (height, width) = logits.shape[1], question.image.shape[:2]
    tall, wide = (_at_least(side, _SIDE) for side in (height, width))
    axes = frames.enlarging(height, width, config)
    rows, columns = (taps.matrix(config.low_res_px) for taps in (axes.rows, axes.columns))
    truth = np.zeros((masks, tall, wide), bool)
    truth[: len(question.masks), :height, :width] = question.masks
    return _compare(
        logits,
        np.pad(rows, ((0, tall - height), (0, 0))),
        np.pad(columns, ((0, wide - width), (0, 0))),
        np.packbits(truth, axis=-1),
        np.array([height, width], np.int32),
        zero_is_inside=config.decoder.traits.zero_is_inside,
    )


@functools.partial(jax.jit, static_argnames="zero_is_inside")
def _compare(
    logits: Float[Array, "2 Q l l"],
    rows: Float[Array, "H l"],
    columns: Float[Array, "W l"],
    packed: UInt8[Array, "Q H w"],
    size: Int[Array, "2"],
    *,
    zero_is_inside: bool,
) -> tuple[Int[Array, "2 Q"], Int[Array, "2 Q"]]:
    """One mask at a time: at the picture's size the logits of all would fill the device."""
    H, W = len(rows), len(columns)
    on_picture = (jnp.arange(H)[:, None] < size[0]) & (jnp.arange(W) < size[1])

    def one(pair: tuple[Array, Array]) -> tuple[Array, Array]:
        low_2ll, bits = pair
        highest = lax.Precision.HIGHEST
        large = jnp.einsum("Hh,khw,Ww->kHW", rows, low_2ll, columns, precision=highest)
        found = (large >= 0 if zero_is_inside else large > 0) & on_picture
        truth = images.unpack_bits(bits)
        return (found & truth).sum((1, 2)), (found | truth).sum((1, 2))

    shared, union = lax.map(one, (jnp.moveaxis(logits, 1, 0), packed))
    return shared.T, union.T


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
