"""One vector for each picture by an encoder that is not trained further: what probes look at.

The class token, or the mean of the patches, of a plain ViT; of SAM's encoders and TinyViT the mean
of the feature map. A last norm is applied where the model has one of the same tokens.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from esam_jax.config import ClassifierConfig, ComputeConfig, MaeConfig, SamConfig, VitConfig
from esam_jax.convert.families import timm_vit
from esam_jax.convert.model_folder import ModelFile
from esam_jax.data.labels import Label
from esam_jax.data.records import Source
from esam_jax.data.views import View, classified
from esam_jax.errors import CheckpointError
from esam_jax.evaluate import picture_rows
from esam_jax.models.encoders.vit import VitEncoder
from esam_jax.models.parts.layers import LayerNorm
from esam_jax.models.sam.network import Sam
from esam_jax.ops import images
from esam_jax.typing import Batch, Params

Feature = Literal["mean", "class_token"]

_PIXELS = 32 * 224**2  # of the pictures that a device computes at once
_EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class Extractor:
    """`compute` makes float32 features of uint8 pictures [B, px, px, 3]; `words` say which."""

    compute: Callable[[Params, Array], Float[Array, "B _"]]
    params: Params
    px: int
    words: str


@dataclasses.dataclass(frozen=True)
class Features:
    """Those of the pictures that can be used, and the numbers of their classes; `broken` says why
    others cannot."""

    values: Float[np.ndarray, "X _"]
    labels: Integer[np.ndarray, " X"]
    broken: list[str]


def extractor(file: ModelFile, feature: Feature) -> Extractor:
    """That of a model; CheckpointError for one without such a feature."""
    config = file.config
    if isinstance(config, SamConfig) and not isinstance(config.encoder, VitConfig):
        return _of_map(file, config, feature)
    if not isinstance(config, SamConfig | MaeConfig | ClassifierConfig):
        raise CheckpointError(
            f"{file.source} has no encoder that a probe reads: name a plain ViT (a run of SAMI, "
            "MAE or classification, EfficientSAM) or a SAM"
        )
    assert isinstance(config.encoder, VitConfig)
    encoder = timm_vit.pretrained(config.encoder)
    # A SAMI run keeps class token and norm beside the model.
    found = {**timm_vit.beside(file.unused), **file.params}
    if feature == "class_token" and "class_token" not in found:
        raise CheckpointError(f"{file.source} has no class token: write --feature mean")
    names = ("encoder", "class_token", "norm")
    params = {name: found[name] for name in names if name in found}
    pooled_first = isinstance(config, ClassifierConfig) and config.pool == "mean"
    if pooled_first and feature == "class_token":
        params.pop("norm")  # it is one of means
    network = VitEncoder(encoder)

    def norm(params: Params, x: Array) -> Array:
        if "norm" not in params:
            return x.astype(jnp.float32)
        found = LayerNorm(_EPS, ComputeConfig()).apply({"params": params["norm"]}, x)
        assert isinstance(found, jax.Array)
        return found

    def compute(params: Params, pixels: Array) -> Array:
        token, inside = params.get("class_token"), {"params": params["encoder"]}
        x_BND = network.apply(inside, images.normalise(pixels), None, token, method="trunk")
        assert isinstance(x_BND, jax.Array)
        if feature == "class_token":
            return norm(params, x_BND[:, 0])
        x_BND = x_BND if token is None else x_BND[:, 1:]
        if pooled_first:
            return norm(params, x_BND.mean(1))
        return norm(params, x_BND).mean(1)

    what = {"mean": "the mean of the patches", "class_token": "the class token"}[feature]
    last = "behind the last norm" if "norm" in params else "without a last norm"
    words = f"features are {what}, {last}"
    return Extractor(compute, params, encoder.pretrain_px, words)


def _of_map(file: ModelFile, config: SamConfig, feature: Feature) -> Extractor:
    if feature == "class_token":
        raise CheckpointError(f"{file.source} has no class token: write --feature mean")
    network = Sam(config)

    def compute(params: Params, pixels: Array) -> Array:
        found = network.apply({"params": params}, images.normalise(pixels), method="encode")
        assert isinstance(found, jax.Array)
        return found.astype(jnp.float32).mean((1, 2))

    params = {"encoder": file.params["encoder"]}
    words = "features are the mean of the feature map"
    return Extractor(compute, params, config.image_px, words)


def of(
    made: Extractor,
    source: Source,
    places: Sequence[int],
    number: Callable[[Label, str], int],
    *,
    what: str,
    progress: bool | None = None,
) -> Features:
    """Features of the pictures at these places, over all devices of this host.

    `number` gives that of a class, for the name of its record; what it or a picture raises as
    DataError leaves the picture out. `what` names the work at the bar on stderr.
    """

    def read(place: int) -> View:
        record = source.read(place)
        label = np.asarray(number(record.annotation("label"), record.name), np.int32)
        return {"image": classified.centred(record, made.px), "label": label}

    def compute(params: Params, batch: Batch) -> dict[str, Array]:
        return {"feature": made.compute(params, batch["image"]), "label": batch["label"]}

    shapes: dict[str, Any] = {
        "image": ((made.px, made.px, 3), np.dtype(np.uint8)),
        "label": ((), np.dtype(np.int32)),
    }
    values, labels = np.zeros((0, 0), np.float32), np.zeros(len(places), np.int32)
    known, broken = 0, []
    for rows in picture_rows.of(
        compute,
        made.params,
        read,
        shapes,
        places,
        per_device=max(1, _PIXELS // made.px**2),
        what=what,
        progress=progress,
    ):
        found, end = rows.values["feature"], known + len(rows.places)
        if not values.size:  # all at once: ImageNet's have gigabytes
            values = np.zeros((len(places), found.shape[1]), np.float32)
        values[known:end], labels[known:end] = found, rows.values["label"]
        known = end
        broken += rows.broken
    return Features(values[:known], labels[:known], broken)
