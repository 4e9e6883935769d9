"""Inference on paper: the programs that `esam bench predict` times, compiled for a card."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from esam_jax.bench import inputs, predict, roofline
from esam_jax.config import ComputeConfig, SamConfig
from esam_jax.errors import ConfigError
from esam_jax.models import rounding
from esam_jax.models.sam import network
from esam_jax.plan import compiled, topologies
from esam_jax.plan.paper import Paper
from esam_jax.plan.topologies import Topology
from esam_jax.predict import weights

HEADS = (
    "part", "dtype", "pictures", "prompts", "derated", "roofline", "rate", "kernels", "floor",
    "read, written", "TFLOP",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
    """One program on one device; `prompts` are those of each picture, 0 for none."""

    part: predict.Part
    dtype: str
    pictures: int
    prompts: int
    paper: Paper
    floor_seconds: float  # of the network, whatever program computes it (`bench/roofline.py`)

    @property
    def per_second(self) -> float:
        """Pictures; of the decoder, prompts."""
        count = self.prompts if self.part == "decoder" else self.pictures
        return count / self.paper.seconds

    @property
    def cells(self) -> tuple[str, ...]:
        """As text, under `HEADS`; `floor` is the share of the derated time that nothing spares."""
        unit = "prompts/s" if self.part == "decoder" else "images/s"
        return (
            self.part,
            self.dtype,
            str(self.pictures),
            str(self.prompts) if self.prompts else "-",
            f"{1e3 * self.paper.seconds:.5g} ms",
            f"{1e3 * self.paper.roofline_seconds:.5g} ms",
            f"{self.per_second:.4g} {unit}",
            str(self.paper.runs),
            f"{self.floor_seconds / self.paper.seconds:.0%}",
            f"{self.paper.bytes / 1e9:.3g} GB",
            f"{self.paper.flops / 1e12:.3g}",
        )


def rows(
    config: SamConfig,
    dtype: str,
    card: str,
    *,
    batches: Sequence[int] = (1, 8),
    prompts: Sequence[int] = (1, 64),
    parts: Sequence[predict.Part] = predict.PARTS,
) -> Iterator[Row]:
    """As they are compiled; ConfigError for a card that is not known, MissingError without CUDA."""
    topology = of_card(card)
    model, params = abstract(config, dtype)
    sheet = topology.accelerator
    assert sheet is not None

    def row(part: predict.Part, pictures: int, count: int, floor: float, *call: Any) -> Row:
        function, first, *rest = call
        written = on_paper(topology, lambda *arrays: function(first, *arrays), *rest)
        return Row(part, dtype, pictures, count, written, floor)

    def pixels(batch: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, config.image_px, config.image_px, 3), jnp.uint8)

    if "encoder" in parts:
        each = roofline.encoder(config, sheet)
        for batch in batches:
            arguments = (model, params, pixels(batch))
            yield row("encoder", batch, 0, batch * each, predict.encode, *arguments)
    if "decoder" in parts:
        features = jax.eval_shape(lambda p, x: predict.encode(model, p, x), params, pixels(1))
        for count in prompts:
            floor = roofline.decoder(config, sheet, count)
            arguments = (model, params, features, *_boxes(1, count, config))
            yield row("decoder", 1, count, floor, predict.decode, *arguments)
    if "device" in parts:
        for batch in batches:
            floor = batch * roofline.end_to_end(config, sheet, 1)
            arguments = (model, params, pixels(batch), *_boxes(batch, 1, config))
            yield row("device", batch, 1, floor, predict.masks, *arguments)


def of_card(card: str) -> Topology:
    """One card of that name."""
    if card not in topologies.CARDS:
        known = ", ".join(topologies.CARDS)
        raise ConfigError(f"card is {card!r}, but must be one of {known}: only GPUs have a paper")
    return topologies.parse(f"{card}:1x1")


def abstract(config: SamConfig, dtype: str) -> tuple[network.Sam, Any]:
    """A network, and its parameters as programs read them, without numbers."""
    model = network.Sam(config, ComputeConfig(dtype=dtype))  # pyright: ignore[reportArgumentType]
    params = jax.eval_shape(lambda: network.init(config, jax.random.key(0)))
    types = weights.dtypes(model, params)
    return model, jax.eval_shape(lambda params: rounding.rounded(params, types), params)


def _boxes(pictures: int, prompts: int, config: SamConfig) -> Iterator[jax.ShapeDtypeStruct]:
    for array in inputs.boxes(pictures, prompts, config):
        yield jax.ShapeDtypeStruct(array.shape, array.dtype)


def place(topology: Topology) -> NamedSharding:
    """Everything on the one device of a topology."""
    mesh = Mesh(np.array(topologies.devices(topology)), ("data",))
    return NamedSharding(mesh, PartitionSpec())


def on_paper(
    topology: Topology,
    function: Callable[..., Any],
    *arrays: Any,
    trips: Mapping[str, int] = MappingProxyType({}),
) -> Paper:
    """A program of arrays that are all on the one device; `trips` as `compiled.on_paper` has it."""
    device = place(topology)
    program = jax.jit(function, in_shardings=device, out_shardings=device)
    with compiled.choices_of(topology):
        lowered = program.lower(*arrays)
    written = compiled.on_paper(lowered, topology, trips)
    assert written is not None  # every card has rates
    return written
