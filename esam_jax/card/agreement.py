"""Whether the device computes what PyTorch's originals computed, and what bfloat16 changes."""

from collections.abc import Iterator

import numpy as np

from esam_jax.bench import inputs
from esam_jax.card.setting import MAY_STOP, Row, Setting
from esam_jax.config import ComputeConfig
from esam_jax.evaluate import parity
from esam_jax.models import named
from esam_jax.models.sam import network
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.sam import Sam

_PROMPTS = 4


def measure(setting: Setting) -> Iterator[Row]:
    """Golden cases at their limits, in exact float32; then both types on one picture.

    Of the latter only numbers that are not finite are a fault: how far they may differ depends on
    the weights, which are random here.
    """
    for name in setting.parity:
        yield MAY_STOP
        report = parity.against_golden(named.model(name))
        for stage in report.stages:
            yield {
                "table": "parity",
                "case": parity.case_for(named.model(name)),
                "stage": stage.name,
                "error": stage.error,
                "limit": stage.limit,
                "holds": stage.holds,
            }
    for name in setting.predict:
        yield MAY_STOP
        yield _types(name)


def _types(name: str) -> Row:
    """Embedding: the largest difference over the root mean square. Masks: pixels that differ."""
    config = named.sam(name)
    params = inputs.random_params(config)
    (picture,), (boxes, _) = inputs.pictures(1, config), inputs.boxes(1, _PROMPTS, config)
    prompts = [Prompt(box=box.reshape(4)) for box in boxes[0]]
    found = []
    for compute in (ComputeConfig(precision="highest"), ComputeConfig(dtype="bfloat16")):
        sam = Sam(network.Sam(config, compute), params)
        embedding = sam.encode(picture)
        logits = sam.decode(embedding, prompts).low_res
        found.append([np.asarray(x, np.float32) for x in (embedding.features, logits)])
    (exact, exact_logits), (half, half_logits) = found
    spread = float(np.sqrt(np.square(exact).mean()))
    return {
        "table": "types",
        "model": name,
        "embedding_error": float(np.abs(half - exact).max()) / max(spread, 1e-30),
        "mask_pixels": float(((half_logits > 0) != (exact_logits > 0)).mean()),
        "holds": bool(np.isfinite(half).all() and np.isfinite(half_logits).all()),
    }
