"""What prompts cost: encoder, decoder and both together, run by run in turn with a rival's."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float

from esam_jax.bench import inputs, roofline, timing
from esam_jax.bench.baselines import Rival
from esam_jax.bench.timing import Timing
from esam_jax.config import SamConfig
from esam_jax.machine.accelerators import Accelerator
from esam_jax.models import flops
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.sam import Sam

Part = Literal["encoder", "decoder", "device", "end-to-end"]
PARTS: tuple[Part, ...] = ("encoder", "decoder", "device", "end-to-end")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One part of the work, and what it took. `prompts` are those of each picture, 0 for none."""

    part: Part
    dtype: str
    pictures: int
    prompts: int
    ours: Timing
    flops: int  # of one call, by formula: products alone
    floor_seconds: float | None  # None where the device has no data sheet
    theirs: Timing | None = None

    @property
    def per_second(self) -> float:
        """Pictures; of the decoder, prompts."""
        return (self.prompts if self.part == "decoder" else self.pictures) / self.ours.median

    @property
    def floor_share(self) -> float | None:
        """Share of the rate that the floor allows; 1 is an upper bound."""
        return None if self.floor_seconds is None else self.floor_seconds / self.ours.median

    @property
    def ratio(self) -> float | None:
        """Our median over the rival's: below 1 ours is faster."""
        return None if self.theirs is None else self.ours.median / self.theirs.median

    def as_json(self) -> dict[str, Any]:
        return {
            "part": self.part,
            "dtype": self.dtype,
            "pictures": self.pictures,
            "prompts": self.prompts,
            **self.ours.as_json(),
            "per_second": self.per_second,
            "flops": self.flops,
            "floor_seconds": self.floor_seconds,
            "floor_share": self.floor_share,
            "against": None if self.theirs is None else self.theirs.as_json(),
            "ratio": self.ratio,
        }


def predict(
    sam: Sam,
    *,
    batches: Sequence[int] = (1,),
    prompts: Sequence[int] = (1,),
    parts: Sequence[Part] = PARTS,
    runs: int = 5,
    rival: Rival | None = None,
    sheet: Accelerator | None = None,
) -> Iterator[Row]:
    """Rows as they are measured, on square pictures of the model's own size and with boxes.

    All are calls that users make, from arrays of the host. encoder: `Sam.encode` of uint8 pictures.
    decoder: `Sam.decode` of one embedding and each of `prompts` boxes. device: `Sam.segment` of
    pictures and one box each, and `binary_on_device` of its masks. end-to-end: the same, with
    `binary`, to arrays of the host. `sheet` is the device's, for the floor.
    """
    for part in PARTS:
        if part in parts:
            yield from _MEASURE[part](_Setting(sam, runs, rival, sheet), batches, prompts)


@dataclasses.dataclass(frozen=True)
class _Setting:
    sam: Sam
    runs: int
    rival: Rival | None
    sheet: Accelerator | None

    @property
    def config(self) -> SamConfig:
        return self.sam.config

    def row(
        self,
        part: Part,
        pictures: int,
        prompts: int,
        ours: Callable[[], Any],
        theirs: Callable[[], Any] | None,
        operations: int,
    ) -> Row:
        calls = [ours] if theirs is None else [ours, theirs]
        timings = timing.in_turn(calls, self.runs)
        return Row(
            part=part,
            dtype=self.sam.model.compute.dtype,
            pictures=pictures,
            prompts=prompts,
            ours=timings[0],
            theirs=timings[1] if len(timings) > 1 else None,
            flops=operations,
            floor_seconds=self._floor(part, pictures, prompts),
        )

    def _floor(self, part: Part, pictures: int, prompts: int) -> float | None:
        if self.sheet is None:
            return None
        if part == "encoder":
            return pictures * roofline.encoder(self.config, self.sheet)
        if part == "decoder":
            return roofline.decoder(self.config, self.sheet, prompts)
        return pictures * roofline.end_to_end(self.config, self.sheet, prompts)


def _encoder(setting: _Setting, batches: Sequence[int], prompts: Sequence[int]) -> Iterator[Row]:
    sam, rival = setting.sam, setting.rival
    each = flops.encoder(setting.config.encoder, setting.config.image_px)
    for batch in batches:
        pictures = inputs.pictures(batch, setting.config)
        theirs = None
        if rival is not None and rival.encode is not None:
            theirs = functools.partial(_rivals_encoder, rival, pictures)
        ours = functools.partial(sam.encode, pictures)
        yield setting.row("encoder", batch, 0, ours, theirs, batch * each)


def _rivals_encoder(rival: Rival, pictures: np.ndarray) -> Any:
    assert rival.encode is not None
    return rival.encode(rival.put(pictures))


def _decoder(setting: _Setting, batches: Sequence[int], prompts: Sequence[int]) -> Iterator[Row]:
    sam, rival = setting.sam, setting.rival
    pictures = inputs.pictures(1, setting.config)
    ours_of, theirs_of = sam.encode(pictures[0]), None
    if rival is not None and rival.encode is not None and rival.decode is not None:
        theirs_of = _rivals_encoder(rival, pictures)
    for count in prompts:
        points, labels = inputs.boxes(1, count, setting.config)
        theirs = None
        if theirs_of is not None and rival is not None:
            theirs = functools.partial(_rivals_decoder, rival, theirs_of, points, labels)
        ours = functools.partial(sam.decode, ours_of, prompts_of(points)[0])
        operations = flops.mask_decoder(setting.config, count, points.shape[2])
        yield setting.row("decoder", 1, count, ours, theirs, operations)


def _rivals_decoder(rival: Rival, embedding: Any, points: np.ndarray, labels: np.ndarray) -> Any:
    assert rival.decode is not None
    return rival.decode(embedding, rival.put(points), rival.put(labels))


def _device(setting: _Setting, batches: Sequence[int], prompts: Sequence[int]) -> Iterator[Row]:
    for batch in batches:
        pictures = inputs.pictures(batch, setting.config)
        points, _ = inputs.boxes(batch, 1, setting.config)
        ours = functools.partial(_on_device, setting.sam, pictures, prompts_of(points))
        yield setting.row("device", batch, 1, ours, None, batch * _whole_flops(setting.config))


def _on_device(sam: Sam, pictures: np.ndarray, prompts: list[list[Prompt]]) -> list[jax.Array]:
    return [each.binary_on_device() for each in sam.segment(pictures, prompts)]


def _end_to_end(setting: _Setting, batches: Sequence[int], prompts: Sequence[int]) -> Iterator[Row]:
    rival = setting.rival
    for batch in batches:
        pictures = inputs.pictures(batch, setting.config)
        points, labels = inputs.boxes(batch, 1, setting.config)
        ours = functools.partial(_on_host, setting.sam, pictures, prompts_of(points))
        theirs = None
        if rival is not None and rival.masks is not None:
            theirs = functools.partial(rival.masks, pictures, points, labels)
        operations = batch * _whole_flops(setting.config)
        yield setting.row("end-to-end", batch, 1, ours, theirs, operations)


def _on_host(sam: Sam, pictures: np.ndarray, prompts: list[list[Prompt]]) -> list[np.ndarray]:
    return [each.binary() for each in sam.segment(pictures, prompts)]


def prompts_of(points: Float[np.ndarray, "B Q 2 2"]) -> list[list[Prompt]]:
    """Boxes of each picture, by their corners."""
    return [[Prompt(box=box.reshape(4)) for box in boxes] for boxes in points]


_MEASURE: dict[Part, Callable[..., Iterator[Row]]] = {
    "encoder": _encoder,
    "decoder": _decoder,
    "device": _device,
    "end-to-end": _end_to_end,
}


def _whole_flops(config: SamConfig) -> int:
    """Of one picture with one box; enlarging the masks is negligible."""
    return flops.encoder(config.encoder, config.image_px) + flops.mask_decoder(config, 1, 2)
