"""Serialized records of tensorflow-datasets, each a `tf.train.Example`, to pictures and masks.

Only the features that are used are read, in the frame of the picture, and only when they are.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from esam_jax.config import TfdsConfig
from esam_jax.data import decode, pictures
from esam_jax.data.findings import Finding
from esam_jax.data.labels import Label, SemanticMap
from esam_jax.data.records import OnDemand, Record
from esam_jax.data.sources import tfds_masks
from esam_jax.data.sources.tfds_features import Classes, Features
from esam_jax.data.sources.tfds_values import Frame, Values, read_map
from esam_jax.errors import DataError


def read(data: bytes, name: str, features: Features, config: TfdsConfig) -> Record:
    """The record of this name; DataError where it is broken, or its picture is."""
    values = Values(data, name)
    own = values.own_name(features.own_name)
    noted: list[Finding] = []
    encoded = values.one(features.image, "bytes_list")
    with decode.named(own):
        header = decode.header(encoded)
        if header.turn != 1 and (features.masks or features.semantic):
            header = _in_frame(header, _stated_size(values, features), own, config, noted)
    picture = pictures.Encoded(own, encoded, header, config.sixteen_bit, noted)
    frame = Frame(own, header.height, header.width)
    makers: dict[str, Callable[[], Any]] = {}
    if features.label is not None:
        makers["label"] = functools.partial(_label, values, features.label, own)
    if features.semantic is not None:
        makers["semantic"] = functools.partial(_semantic, values, features.semantic, frame)
    if features.masks is not None:
        makers["masks"] = functools.partial(
            tfds_masks.read, values, features.masks, frame, config, noted
        )
    return Record(name, picture, OnDemand(makers), noted)


def _in_frame(
    upright: decode.Header,
    size: tuple[int, int] | None,
    name: str,
    config: TfdsConfig,
    noted: list[Finding],
) -> decode.Header:
    """The header of the picture turned as its annotations are, which state a size or None."""
    try:
        return pictures.frame(upright, size, name, config.ambiguous_exif, noted)
    except DataError as error:
        stated = " x ".join(map(str, size or ()))
        raise DataError(
            f"it {error}, but its annotations are {stated}: prepare the data set again"
        ) from error


def _label(values: Values, classes: Classes, name: str) -> Label:
    index = int(values.one(classes.key, "int64_list"))
    if index < 0 or (classes.count and index >= classes.count):
        of = f", of {classes.count} classes" if classes.count else ""
        raise DataError(f"{name}: its {classes.key} is {index}{of}: it has no class")
    return Label(index, classes.names[index] if index < len(classes.names) else str(index))


def _semantic(values: Values, classes: Classes, frame: Frame) -> SemanticMap:
    """Values beyond the named classes are void: none are known where classes are not named."""
    numbers = read_map(values, classes.key, frame)
    present = np.unique(numbers) if classes.count else ()
    void = frozenset(int(each) for each in present if not 0 <= each < classes.count)
    return SemanticMap(numbers, dict(enumerate(classes.names)), void)


def _stated_size(values: Values, features: Features) -> tuple[int, int] | None:
    """(height, width) of the annotations of a picture that may be turned; None for no object."""
    if features.masks is not None:
        return tfds_masks.stated_size(values, features.masks)
    assert features.semantic is not None
    head = decode.header(values.one(features.semantic.key, "bytes_list"))
    return head.height, head.width
