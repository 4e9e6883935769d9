"""Segment-everything on paper: its programs for one square picture, compiled for a card.

Lengths of loops are data, so some are assumed: every click is drawn, and one mask of each click has
a predicted IoU that passes, and is measured. Fewer in a picture of few things, up to three in one
where every mask is good.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from esam_jax.config import SamConfig
from esam_jax.ops import selection
from esam_jax.plan import prediction
from esam_jax.plan.paper import Paper
from esam_jax.predict import full_size, tiles
from esam_jax.predict.everything import search

HEADS = ("part", "dtype", "derated", "roofline", "kernels", "read, written", "TFLOP")
SURVIVORS = 64  # masks whose turns are marked
_THRESHOLD = 0.7
_ROUNDS = 4  # until survivors of a block no longer change


@dataclasses.dataclass(frozen=True)
class Row:
    """One program."""

    part: str
    dtype: str
    paper: Paper

    @property
    def cells(self) -> tuple[str, ...]:
        """As text, under `HEADS`."""
        return (
            self.part,
            self.dtype,
            f"{1e3 * self.paper.seconds:.4g} ms",
            f"{1e3 * self.paper.roofline_seconds:.4g} ms",
            str(self.paper.runs),
            f"{self.paper.bytes / 1e9:.3g} GB",
            f"{self.paper.flops / 1e12:.3g}",
        )


def line(cells: Sequence[str]) -> str:
    """One line of the table."""
    return "  ".join([cells[0].ljust(11), *(cell.rjust(13) for cell in cells[1:])])


def rows(config: SamConfig, dtype: str, card: str, *, clicks: int, at_once: int) -> Iterator[Row]:
    """Encoder, clicks, measures, suppression, turns, of a picture of the model's own size."""
    topology, (model, params) = prediction.of_card(card), prediction.abstract(config, dtype)
    for encoder in prediction.rows(config, dtype, card, batches=(1,), parts=("encoder",)):
        yield Row("encoder", dtype, encoder.paper)

    chunk, drawn, capacity = search.sizes(model, at_once, on_cpu=False)
    chunks = -(-clicks // chunk)
    side = config.encoder.grid
    slots = config.decoder.point_slots
    features = _shape(1, side, side, config.encoder.neck_width, dtype=dtype)
    queries = _shape(chunks, chunk, slots, 2), _shape(chunks, chunk, slots, dtype="int32")
    rule = search.Rule(_shape(dtype="bool"), _shape(dtype="bool"), _shape())
    found = prediction.kernels(
        topology,
        lambda *arrays: search.search(model, *arrays, drawn=drawn, capacity=capacity),
        *(params, features, *queries, rule, _shape(dtype="int32"), _shape(dtype="int32")),
        trips={"clicks": chunks, "drawn": -(-chunk // drawn)},
    )
    yield Row("decoder", dtype, prediction.written(found, topology))

    low_res = _shape(clicks, config.low_res_px, config.low_res_px)
    tile, px = max(full_size.SIDES_OF_ACCELERATORS), config.image_px
    group, across = full_size.group(tile, clicks, on_cpu=False), -(-px // tile)
    taps = _shape(across * tile, 4, dtype="int32"), _shape(across * tile, 4)
    cover = tiles.Cover(taps, taps, _shape(2, dtype="int32"), _shape())
    trips = {"groups": -(-clicks // group), "tiles": across}
    found = prediction.kernels(
        topology,
        lambda *arrays: tiles.measured(
            *arrays, side=tile, group=group, offset=1.0, zero_is_inside=False
        ),
        *(low_res, _shape(clicks, dtype="int32"), _shape(dtype="int32"), cover),
        trips=trips,
    )
    yield Row("measures", "float32", prediction.written(found, topology))

    found = prediction.kernels(
        topology,
        lambda boxes, scores: selection.nms(boxes, scores, _THRESHOLD),
        *(_shape(clicks, 4), _shape(clicks)),
        trips={"survivors": _ROUNDS},
    )
    yield Row("suppression", "float32", prediction.written(found, topology))

    some = _shape(SURVIVORS, *low_res.shape[1:])
    found = prediction.kernels(
        topology,
        lambda *arrays: tiles.turned(*arrays, side=tile, tiles=across**2, zero_is_inside=False),
        *(some, cover),
        trips=trips,
    )
    yield Row("turns", "float32", prediction.written(found, topology))


def _shape(*sizes: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))
