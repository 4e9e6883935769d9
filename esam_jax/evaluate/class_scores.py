"""`esam evaluate classify`: top-1 and top-5 of a classifier, or of anybody's predictions."""

import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from esam_jax import files, sharding
from esam_jax.config import (
    ClassifiedConfig,
    ComputeConfig,
    EvaluateConfig,
    MeshConfig,
    SourceConfig,
    TellsClasses,
)
from esam_jax.convert.model_folder import ModelFile
from esam_jax.data import records, sources
from esam_jax.data.labels import Label
from esam_jax.errors import CheckpointError, DataError, MissingError
from esam_jax.evaluate import accuracy, prompts
from esam_jax.models import kinds
from esam_jax.ops import images
from esam_jax.typing import Params

_MOST_BYTES = 2**30  # of predictions: ImageNet's 50,000 pictures with five names take 10 MB
_UNRANKED = 10**9  # behind all that was predicted
_NEEDS = frozenset({"label"})
_CENTRE = "the centre of each picture, short side resized to 256/224 of the input, bicubic"


def of_model(file: ModelFile, config: SourceConfig, count: int) -> dict[str, Any]:
    """`accuracy.measurement` of a model in a file, over all local devices, with the protocol.

    CheckpointError for a model that tells no classes apart, DataError where no picture can be used.
    """
    network = file.config
    if not isinstance(network, TellsClasses):
        raise CheckpointError(
            f"{file.source} has no head for classes: name a run of the task classify, or a "
            "classifier in timm's names"
        )
    begin, model = time.monotonic(), kinds.of(network).network.NETWORK(network, ComputeConfig())
    view = ClassifiedConfig(image_px=network.image_px, classes=network.classes)
    devices = jax.local_devices()
    mesh = sharding.make_mesh(MeshConfig(data=len(devices)), devices)

    def logits(params: Params, image: jax.Array) -> jax.Array:
        found = model.apply({"params": params}, images.normalise(image))
        assert isinstance(found, jax.Array)
        return found

    what = EvaluateConfig(source=config, images=count)
    measure = accuracy.measurement(logits, view, what, mesh, options="")
    found = measure(jax.device_put(file.params, sharding.replicated(mesh)), {})
    return _reported(found, config, count, _CENTRE, begin)


def of_predictions(path: Path, config: SourceConfig, count: int) -> dict[str, Any]:
    """top1, top5 of a JSON object from names of records to their classes, the likeliest first.

    A class is a name or a number of the data's; a single one needs no list. A record without a
    prediction counts as wrong and in `unanswered`. DataError for a file of another form, or one
    that names no record that is measured.
    """
    begin = time.monotonic()
    given = files.read_json(path, max_bytes=_MOST_BYTES, error=DataError)
    source = sources.open_source(config, "", _NEEDS)
    places = prompts.chosen(source, count, EvaluateConfig.seed)
    answered, broken = [], []
    for place in places:
        name = source.name(place)
        try:
            label = source.read(place).annotation("label")
        except (DataError, MissingError) as error:
            broken.append(str(error))
            continue
        answered.append((label, _classes(given[name], name, path) if name in given else None))
    unanswered = sum(classes is None for _, classes in answered)
    if unanswered == len(answered):
        raise DataError(
            f"{path} has no prediction for any of {len(places)} records, such as "
            f"{source.name(places[0])}: name records as `esam data show` does"
        )
    reasons = prompts.warn(prompts.of_source(source), broken, "")
    ranks = [_rank(label, classes or ()) for label, classes in answered]
    if min(ranks) == _UNRANKED:
        _warn_of_none_right(path, answered)
    found = {
        **{f"top{most}": round(sum(x < most for x in ranks) / len(ranks), 6) for most in (1, 5)},
        "images": len(ranks),
        "skipped": len(broken),
        "unanswered": unanswered,
        **({"reasons": reasons} if reasons else {}),
    }
    return _reported(found, config, count, "predictions as given", begin)


def _classes(value: Any, name: str, path: Path) -> Sequence[str | int]:
    found = value if isinstance(value, list) else [value]
    if not found or not all(isinstance(each, str) or type(each) is int for each in found):
        raise DataError(
            f"{path}: the prediction for {name[:80]} must be the name or number of a class, or a "
            "list of them, the likeliest first"
        )
    return found


def _rank(label: Label, classes: Sequence[str | int]) -> int:
    """Place of the right class among those that were predicted, from 0; else behind all."""
    wanted = (label.index, label.name)
    return next((i for i, each in enumerate(classes) if each in wanted), _UNRANKED)


def _warn_of_none_right(
    path: Path, answered: Sequence[tuple[Label, Sequence[str | int] | None]]
) -> None:
    """Other names for the same classes look like a classifier that is always wrong."""
    label, classes = next((each, found) for each, found in answered if found is not None)
    warnings.warn(
        f"evaluation: {path} has the class of no record right: it says {list(classes)[:3]} for one "
        f"of class {label.name!r}, number {label.index}; name classes as the data does",
        UserWarning,
        stacklevel=3,
    )


def _reported(
    found: Mapping[str, Any], config: SourceConfig, count: int, how: str, begin: float
) -> dict[str, Any]:
    source = sources.open_source(config, "", _NEEDS)
    if not found["images"]:
        raise DataError(f"none of {len(source)} pictures can be used: {found['reasons'][0]}")
    taken = f"{min(count, len(source))} of {len(source)} pictures"
    return {
        "task": "classify",
        **found,
        "data": records.summary(source),
        "protocol": f"{taken}; {how}; a class counts by its number",
        "seconds": round(time.monotonic() - begin, 1),
    }
