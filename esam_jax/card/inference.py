"""Encoder, decoder, both together and segment-everything; and the kernels of the first two."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from esam_jax.bench import everything, inputs, predict, timing
from esam_jax.card import profiled
from esam_jax.card.setting import MAY_STOP, Row, Setting
from esam_jax.config import ComputeConfig
from esam_jax.data.sources import scene_painter
from esam_jax.machine import accelerators
from esam_jax.models import named
from esam_jax.models.sam import network
from esam_jax.ops import images
from esam_jax.predict import programs
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.sam import Sam


def measure(setting: Setting) -> Iterator[Row]:
    """Rows of `esam bench predict`, of every model in every type."""
    sheet = accelerators.of(jax.devices()[0])
    for name in setting.predict:
        for dtype in setting.dtypes:
            sam = _sam(name, dtype)
            for part in predict.PARTS:
                yield MAY_STOP
                for row in predict.predict(
                    sam,
                    batches=setting.batches,
                    prompts=setting.prompts,
                    parts=(part,),
                    runs=setting.runs,
                    sheet=sheet,
                ):
                    yield {"table": "predict", "model": name, **row.as_json()}


def measure_everything(setting: Setting) -> Iterator[Row]:
    """One drawn picture. Every mask passes until suppression: the most that they can cost.

    Random weights find hardly a mask that suppression leaves, so run lengths cost next to nothing.
    """
    height, width = setting.picture
    picture, _ = scene_painter.draw(0, max(height, width))
    for dtype in setting.dtypes:
        yield MAY_STOP
        generator = AutomaticMaskGenerator(
            _sam(setting.everything, dtype),
            setting.points_per_side,
            output_mode="coco_rle",
            pred_iou_thresh=-1e9,
            stability_score_thresh=0.0,
        )
        result = everything.measure(generator, picture[:height, :width], runs=setting.updates)
        row = {"table": "everything", "model": setting.everything, "dtype": dtype}
        yield row | result.as_json()


def kernels(setting: Setting) -> Iterator[Row]:
    """Encoder and decoder of the first model in 16 bits, kernel by kernel."""
    name, dtype = setting.predict[0], "bfloat16"
    sam, sheet = _sam(name, dtype), accelerators.of(jax.devices()[0])

    def row(part: str, size: int, program: Any, *arrays: Any) -> Row:
        compiled = program.lower(sam.model, sam.ready, *arrays).compile()
        call = functools.partial(compiled, sam.ready, *arrays)
        (timed,) = timing.in_turn([call], setting.runs)
        about = {"table": "kernels", "program": f"{name} {part}", "dtype": dtype, "size": size}
        measured = profiled.measure(compiled, call, sheet)
        return {**about, "seconds": timed.median, **measured}

    def pixels(batch: int) -> jax.Array:
        return images.normalise(jnp.asarray(inputs.pictures(batch, sam.config)))

    for batch in setting.batches:
        yield MAY_STOP
        yield row("encoder", batch, programs.encode, pixels(batch))
    features = programs.encode(sam.model, sam.ready, pixels(1))
    for count in setting.prompts:
        yield MAY_STOP
        points, labels = (jnp.asarray(x) for x in inputs.boxes(1, count, sam.config))
        yield row("decoder", count, programs.decode, features, points, labels)


def _sam(name: str, dtype: str) -> Sam:
    config = named.sam(name)
    compute = ComputeConfig(dtype=dtype)  # pyright: ignore[reportArgumentType]
    return Sam(network.Sam(config, compute), inputs.random_params(config))
