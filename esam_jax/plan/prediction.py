"""Inference on paper: the programs behind `esam bench predict`, compiled for a card.

What the host does, and what brings pictures to the size of the model input, is left out.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from esam_jax.bench import inputs, predict, roofline
from esam_jax.config import ComputeConfig, SamConfig
from esam_jax.errors import ConfigError
from esam_jax.models import rounding
from esam_jax.models.sam import network
from esam_jax.plan import compiled, paper, topologies
from esam_jax.plan.compiled_kernels import Kernel
from esam_jax.plan.paper import Paper
from esam_jax.plan.topologies import Topology
from esam_jax.predict import frames, full_size, programs, weights

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

    def row(part: predict.Part, pictures: int, count: int, floor: float, *parts: _Program) -> Row:
        found: list[Kernel] = []
        for program in parts:
            function = functools.partial(program.function, model)
            found += program.times * kernels(topology, function, *program.takes)
        return Row(part, dtype, pictures, count, written(found, topology), floor)

    def encode(batch: int) -> _Program:
        px = config.image_px
        pixels = jax.ShapeDtypeStruct((batch, px, px, 3), jnp.float32)
        return _Program(programs.encode, (params, pixels))

    def decode(batch: int, count: int) -> _Program:
        points, labels = inputs.boxes(batch, count, config)
        features = jax.eval_shape(lambda *each: programs.encode(model, *each), *encode(batch).takes)
        return _Program(programs.decode, (params, features, points, labels))

    if "encoder" in parts:
        each = roofline.encoder(config, sheet)
        for batch in batches:
            yield row("encoder", batch, 0, batch * each, encode(batch))
    if "decoder" in parts:
        for count in prompts:
            yield row("decoder", 1, count, roofline.decoder(config, sheet, count), decode(1, count))
    if "device" in parts:
        for batch in batches:
            floor = batch * roofline.end_to_end(config, sheet, 1)
            answer = decode(batch, 1)
            logits, _ = jax.eval_shape(lambda *each: programs.decode(model, *each), *answer.takes)
            masks = _full_size(config, logits)._replace(times=batch)
            yield row("device", batch, 1, floor, encode(batch), answer, masks)


def of_card(card: str) -> Topology:
    """One card of that name."""
    if card not in topologies.CARDS:
        known = ", ".join(topologies.CARDS)
        raise ConfigError(f"card is {card!r}, but must be one of {known}: only GPUs have a paper")
    return topologies.parse(f"{card}:1x1")


def require(card: str) -> None:
    """ConfigError for a card that is not known, MissingError where its compiler is not there."""
    topologies.devices(of_card(card))


def abstract(config: SamConfig, dtype: str) -> tuple[network.Sam, Any]:
    """A network, and its parameters as programs read them, without numbers."""
    model = network.Sam(config, ComputeConfig(dtype=dtype))  # pyright: ignore[reportArgumentType]
    params = jax.eval_shape(lambda: network.init(config, jax.random.key(0)))
    types = weights.dtypes(model, params)
    return model, jax.eval_shape(lambda params: rounding.rounded(params, types), params)


class _Program(NamedTuple):
    """What is called with the model, how often, and the arrays, perhaps abstract, that it takes."""

    function: Callable[..., Any]
    takes: tuple[Any, ...]
    times: int = 1


def _full_size(config: SamConfig, logits: jax.ShapeDtypeStruct) -> _Program:
    """The candidates of one query, from the answers of all, at the size of the model input."""
    px, candidates = config.image_px, config.decoder.mask_tokens - 1
    places, axes = np.zeros((1, candidates), np.int32), frames.enlarging(px, px, config)
    zero_is_inside = config.decoder.traits.zero_is_inside

    def masks(_: network.Sam, logits: jax.Array, places: Any) -> jax.Array:
        return full_size.on_device((logits,), places, axes, zero_is_inside)

    return _Program(masks, (logits, places))


def place(topology: Topology) -> NamedSharding:
    """Everything on the one device of a topology."""
    mesh = Mesh(np.array(topologies.devices(topology)), ("data",))
    return NamedSharding(mesh, PartitionSpec())


def written(found: Sequence[Kernel], topology: Topology) -> Paper:
    """These kernels on a card."""
    assert topology.accelerator is not None
    on_paper = paper.write(found, topology.accelerator)
    assert on_paper is not None  # every card has rates
    return on_paper


def kernels(
    topology: Topology,
    function: Callable[..., Any],
    *arrays: Any,
    trips: Mapping[str, int] = MappingProxyType({}),
) -> list[Kernel]:
    """Of a program of arrays on the one device; `trips` as in `compiled.kernels`."""
    device = place(topology)
    program = jax.jit(function, in_shardings=device, out_shardings=device)
    with compiled.choices_of(topology):
        lowered = program.lower(*arrays)
    return compiled.kernels(lowered, topology, trips)
