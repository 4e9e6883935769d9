"""What prompts cost: encoder, decoder and the whole way, run by run in turn with a rival's."""

import dataclasses
import functools
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from esam_jax.bench import roofline
from esam_jax.bench.baselines import Rival
from esam_jax.config import SamConfig
from esam_jax.convert import state_dict
from esam_jax.machine.accelerators import Accelerator
from esam_jax.models import expected_shapes, flops
from esam_jax.models.sam import network
from esam_jax.ops import images
from esam_jax.predict import frames
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.sam import Sam
from esam_jax.typing import BOTTOM_RIGHT, TOP_LEFT, Params

Part = Literal["encoder", "decoder", "device", "end-to-end"]
PARTS: tuple[Part, ...] = ("encoder", "decoder", "device", "end-to-end")
WARM_UP = 1  # calls after the one that compiles and before those that count


# ------------------------------------------------------------------------------------ timing


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one call: the first, each of those that count, and what of the first JAX took to
    lower and compile, by its own account (0 where it had nothing to compile, or takes no part)."""

    first: float
    seconds: tuple[float, ...]
    compile: float = 0.0

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def p90(self) -> float:
        """Nine of ten calls take no longer (linear between two runs)."""
        return float(np.percentile(self.seconds, 90))

    def as_json(self) -> dict[str, Any]:
        return {
            "median_seconds": self.median,
            "p90_seconds": self.p90,
            "compile_seconds": self.compile,
            "first_seconds": self.first,
            "seconds": list(self.seconds),
        }


def in_turn(
    calls: Sequence[Callable[[], Any]], runs: int, clock: Callable[[], float] = time.perf_counter
) -> list[Timing]:
    """Times every call `runs` times, A B A B ..., so that a busy machine is busy for all alike.

    A call counts until all that it gives back is there. Before that each is called once to compile
    and `WARM_UP` times more. `clock` is in seconds.
    """

    def timed(call: Callable[[], Any]) -> float:
        begin = clock()
        wait(call())
        return clock() - begin

    first, compiling = [], []
    for call in calls:
        before = compile_seconds()
        first.append(timed(call))
        compiling.append(compile_seconds() - before)
    for _ in range(WARM_UP):
        for call in calls:
            timed(call)
    rounds = [[timed(call) for call in calls] for _ in range(runs)]
    return [Timing(*each) for each in zip(first, zip(*rounds), compiling, strict=True)]


def wait(result: Any) -> None:
    """Returns when the result is computed, whoever computes it: JAX, or PyTorch on a GPU."""
    jax.block_until_ready(result)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


# Tracing is left out: programs within a program would count twice.
_COMPILING = (
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)
_spent = [0.0]


def compile_seconds() -> float:
    """What JAX has taken to lower and compile since this module was imported."""
    return _spent[0]


def _listen(event: str, duration_secs: float, **details: object) -> None:
    if event in _COMPILING:
        _spent[0] += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


# ------------------------------------------------------------------------------- measurements


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
        """Of the rate that the floor allows; 1 is what nothing reaches."""
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

    encoder: uint8 pictures on the device -> embeddings. decoder: one embedding, each of `prompts`
    boxes -> logits and scores. device: uint8 pictures and one box each -> masks of full size, in
    one program that never leaves the device. end-to-end: the same through `Sam.encode` and
    `Sam.decode`, from NumPy pictures to NumPy masks. `sheet` is the device's, for the floor.
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
        timings = in_turn(calls, self.runs)
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
        return pictures * roofline.whole(self.config, self.sheet, prompts)


def _encoder(setting: _Setting, batches: Sequence[int], prompts: Sequence[int]) -> Iterator[Row]:
    model, params, rival = setting.sam.model, setting.sam.params, setting.rival
    each = flops.encoder(setting.config.encoder, setting.config.image_px)
    for batch in batches:
        pictures = _pictures(batch, setting.config)
        ours = functools.partial(_encode, model, params, jnp.asarray(pictures))
        theirs = None
        if rival is not None and rival.encode is not None:
            theirs = functools.partial(rival.encode, rival.put(pictures))
        yield setting.row("encoder", batch, 0, ours, theirs, batch * each)


def _decoder(setting: _Setting, batches: Sequence[int], prompts: Sequence[int]) -> Iterator[Row]:
    model, params, rival = setting.sam.model, setting.sam.params, setting.rival
    pictures = _pictures(1, setting.config)
    features = _encode(model, params, jnp.asarray(pictures))
    embedding = None
    if rival is not None and rival.encode is not None and rival.decode is not None:
        embedding = rival.encode(rival.put(pictures))
    for count in prompts:
        points, labels = _boxes(1, count, setting.config)
        on_device = jnp.asarray(points), jnp.asarray(labels)
        ours = functools.partial(_decode, model, params, features, *on_device)
        theirs = None
        if embedding is not None and rival is not None and rival.decode is not None:
            asked = rival.put(points), rival.put(labels)
            theirs = functools.partial(rival.decode, embedding, *asked)
        operations = flops.mask_decoder(setting.config, count, points.shape[2])
        yield setting.row("decoder", 1, count, ours, theirs, operations)


def _device(setting: _Setting, batches: Sequence[int], prompts: Sequence[int]) -> Iterator[Row]:
    for batch in batches:
        pictures = jnp.asarray(_pictures(batch, setting.config))
        asked = (jnp.asarray(x) for x in _boxes(batch, 1, setting.config))
        model, params = setting.sam.model, setting.sam.params
        ours = functools.partial(_masks, model, params, pictures, *asked)
        yield setting.row("device", batch, 1, ours, None, batch * _whole_flops(setting.config))


def _end_to_end(setting: _Setting, batches: Sequence[int], prompts: Sequence[int]) -> Iterator[Row]:
    rival = setting.rival
    for batch in batches:
        pictures = _pictures(batch, setting.config)
        points, labels = _boxes(batch, 1, setting.config)
        asked = [[Prompt(box=box.reshape(4)) for box in boxes] for boxes in points]
        ours = functools.partial(_answer, setting.sam, list(pictures), asked)
        theirs = None
        if rival is not None and rival.ask is not None:
            theirs = functools.partial(rival.ask, pictures, points, labels)
        operations = batch * _whole_flops(setting.config)
        yield setting.row("end-to-end", batch, 1, ours, theirs, operations)


_MEASURE: dict[Part, Callable[..., Iterator[Row]]] = {
    "encoder": _encoder,
    "decoder": _decoder,
    "device": _device,
    "end-to-end": _end_to_end,
}


def _whole_flops(config: SamConfig) -> int:
    """Of one picture with one box; enlarging the masks is no matrix product worth counting."""
    return flops.encoder(config.encoder, config.image_px) + flops.mask_decoder(config, 1, 2)


# ---------------------------------------------------------------------------------- the calls


@functools.partial(jax.jit, static_argnames="model")
def _encode(
    model: network.Sam, params: Params, pictures: UInt8[Array, "B H W 3"]
) -> Float[Array, "B h w C"]:
    features: Any = model.apply({"params": params}, images.normalise(pictures), method="encode")
    return features


@functools.partial(jax.jit, static_argnames="model")
def _decode(
    model: network.Sam,
    params: Params,
    features: Float[Array, "B h w C"],
    points: Float[Array, "B Q P 2"],
    labels: Int[Array, "B Q P"],
) -> tuple[Float[Array, "B Q M l l"], Float[Array, "B Q M"]]:
    answer: Any = model.apply({"params": params}, features, points, labels, method="decode")
    return answer


@functools.partial(jax.jit, static_argnames="model")
def _masks(
    model: network.Sam,
    params: Params,
    pictures: UInt8[Array, "B H W 3"],
    points: Float[Array, "B Q P 2"],
    labels: Int[Array, "B Q P"],
) -> tuple[Bool[Array, "B Q M H W"], Float[Array, "B Q M"]]:
    """The candidates at full size, and their scores."""
    logits, scores = _decode(model, params, _encode(model, params, pictures), points, labels)
    candidates, px = model.config.decoder.mask_tokens - 1, model.config.image_px
    full = frames.to_original(logits[:, :, -candidates:], px, px, model.config)
    return full > 0, scores[:, :, -candidates:]


def _answer(sam: Sam, pictures: list[np.ndarray], prompts: list[list[Prompt]]) -> list[np.ndarray]:
    return [masks.binary() for masks in sam.decode(sam.encode(pictures), prompts)]


# --------------------------------------------------------------------------------- the inputs


def random_params(config: SamConfig) -> Params:
    """Parameters drawn by their names, small enough that nothing overflows.

    Quicker than `efficient_sam.init`, which takes half a minute to compile.
    """

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng(zlib.crc32(path.encode()))
        kind = path.rsplit("/", 1)[-1]
        if kind in ("scale", "bias"):
            return np.full(shape, kind == "scale", np.float32)
        fan_in = np.prod(shape[:-1]) if kind == "kernel" else 1
        return rng.standard_normal(shape, np.float32) / np.float32(fan_in**0.5)

    shapes = expected_shapes.of(config)
    return state_dict.nested({path: draw(path, shape) for path, shape in shapes.items()})


def _pictures(count: int, config: SamConfig) -> UInt8[np.ndarray, "B H W 3"]:
    px = config.image_px
    return np.random.default_rng(0).integers(0, 256, (count, px, px, 3), np.uint8)


def _boxes(
    pictures: int, count: int, config: SamConfig
) -> tuple[Float[np.ndarray, "B Q 2 2"], Int[np.ndarray, "B Q 2"]]:
    """Corners of boxes, in pixels of the picture, and the labels that say so."""
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 0.5, (pictures, count, 1, 2))
    size = rng.uniform(0.2, 0.45, (pictures, count, 1, 2))
    corners = np.concatenate([corner, corner + size], axis=2) * config.image_px
    labels = np.broadcast_to(np.array([TOP_LEFT, BOTTOM_RIGHT], np.int32), (pictures, count, 2))
    return corners.astype(np.float32), labels.copy()
