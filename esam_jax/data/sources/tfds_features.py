"""What the features of a data set mean to us, by their kinds: classes of tensorflow-datasets.

Keys are those of serialized records: the names of nested features, joined by "/".
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from esam_jax.config import TfdsConfig
from esam_jax.errors import ConfigError, DataError

# Text or numbers that data sets have for one picture, for messages.
_OWN_NAMES = ("image/filename", "image/file_name", "file_name", "filename", "image/id", "image_id")
_OWN_NAMES = (*_OWN_NAMES, "image/image_id", "id")


_Form = Literal["pictures", "runs", "numbers", "arrays"]


@dataclasses.dataclass(frozen=True)
class Masks:
    """Where the masks of objects are, and what is known of each object beside its mask.

    "pictures": a list of encoded pictures. "runs": texts `key/counts` and sizes `key/size`, COCO's
    compressed run lengths. "numbers": one map of object numbers. "arrays": booleans of `shape`
    (objects, rows, columns), None for a size that is not fixed, in an `encoding` of
    `tfds.features.Tensor`; each object has its own where they are `listed`.
    """

    key: str
    form: _Form
    identity: str | None = None
    crowd: str | None = None
    box: str | None = None
    encoding: Literal["none", "bytes", "zlib"] = "none"
    shape: tuple[int | None, ...] = ()
    listed: bool = False


@dataclasses.dataclass(frozen=True)
class Classes:
    """A feature of class numbers: a label, or a map of them; `count` 0 where it is not stated."""

    key: str
    names: tuple[str, ...] = ()
    count: int = 0


@dataclasses.dataclass(frozen=True)
class Features:
    """The features that are used, and why others are not."""

    image: str
    own_name: str | None
    label: Classes | None
    semantic: Classes | None
    masks: Masks | None
    lacks: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class _Found:
    """A feature: `rank` lists deep, in the features of one object where it has a `group`."""

    key: str
    feature: Any
    rank: int
    group: Mapping[str, Any]


def find(info: Any, config: TfdsConfig, options: str) -> Features:
    """What tensorflow-datasets' information of a data set has for us.

    DataError where it has no picture; ConfigError where a choice is left open, or names something
    else. Both list the features.
    """
    found = sorted(_walk(info.features, "", 0, {}), key=lambda each: each.key)
    # The (input, target) that the data set declares; they may be nested.
    keys = [key if isinstance(key, str) else "" for key in info.supervised_keys or ()]
    image = _image(found, config, options, keys)
    maps = [x for x in found if _is_map(x) and x.key != image]
    masks, no_masks = _masks(found, maps, config, options)
    maps = [x for x in maps if masks is None or x.key != masks.key]
    classes = [x for x in found if x.rank == 0 and _is(x, "ClassLabel")]
    label, no_label = _one_of(classes, "ClassLabel", keys)
    named = [x for x in maps if _is(x, "LabeledImage")]
    semantic, no_semantic = _one_of(named or maps, "map of one channel", keys)
    reasons = {"label": no_label, "masks": no_masks, "semantic": no_semantic}
    return Features(
        image=image,
        own_name=next((key for key in _OWN_NAMES if _is_name(found, key)), None),
        label=label,
        semantic=semantic,
        masks=masks,
        lacks={
            kind: f"{reason}; the features are {in_words(found)}"
            for kind, reason in reasons.items()
            if reason
        },
    )


def in_words(found: Sequence[_Found]) -> str:
    """All features with their classes."""
    return ", ".join(f"{x.key} ({'list of ' * x.rank}{type(x.feature).__name__})" for x in found)


def _walk(feature: Any, key: str, rank: int, group: Mapping[str, Any]) -> Iterator[_Found]:
    from tensorflow_datasets import features as kinds

    if isinstance(feature, kinds.Dataset):  # records in a record, which no other is like
        yield _Found(key, feature, rank, group)
    elif isinstance(feature, kinds.Sequence):
        inner = feature.feature
        group = dict(inner) if isinstance(inner, kinds.FeaturesDict) else {}
        yield from _walk(inner, key, rank + 1, group)
    elif isinstance(feature, kinds.FeaturesDict):
        if rank and _are_runs(feature):
            yield _Found(key, feature, rank, group)
            return
        for name, each in feature.items():
            yield from _walk(each, f"{key}/{name}" if key else name, rank, group)
    else:
        yield _Found(key, feature, rank, group)


def _is(found: _Found, name: str) -> bool:
    from tensorflow_datasets import features as kinds

    return isinstance(found.feature, getattr(kinds, name))


def _is_picture(found: _Found) -> bool:
    """Whether it is one picture with a colour or grey values; those of float32 hold distances."""
    return found.rank == 0 and _is(found, "Image") and found.feature.np_dtype != np.float32


def _is_map(found: _Found) -> bool:
    return _is_picture(found) and found.feature.shape[-1] == 1


def _are_runs(feature: Any) -> bool:
    """Whether it is a dict of COCO's compressed run lengths, as segment_anything has them."""
    if set(feature) != {"counts", "size"}:
        return False
    counts, size = feature["counts"], feature["size"]
    return counts.np_dtype in (np.object_, np.str_) and size.shape == (2,)


def _is_name(found: Sequence[_Found], key: str) -> bool:
    return any(
        x.key == key and x.rank == 0 and x.feature.shape == () and not _is(x, "ClassLabel")
        for x in found
    )


def _image(
    found: Sequence[_Found], config: TfdsConfig, options: str, declared: Sequence[str]
) -> str:
    pictures = [x for x in found if _is_picture(x)]
    keys = [x.key for x in pictures]
    if not pictures:
        raise DataError(
            f"{config.name or config.path} has no feature with one picture for each record: its "
            f"features are {in_words(found)}"
        )
    if config.image is not None:
        if config.image not in keys:
            raise ConfigError(
                f"{options}image is {config.image!r}, but must be one of {', '.join(keys)}"
            )
        return config.image
    coloured = [x.key for x in pictures if x.feature.shape[-1] != 1]
    grey = [x.key for x in pictures if not x.feature.use_colormap]
    choices = coloured or grey or keys
    chosen = [key for key in choices if len(choices) == 1 or key in declared[:1]]
    if not chosen:
        raise ConfigError(
            f"{config.name or config.path} has several pictures for each record: choose one of "
            f"{', '.join(choices)} with --{options}image"
        )
    return chosen[0]


def _one_of(
    found: Sequence[_Found], kind: str, declared: Sequence[str]
) -> tuple[Classes | None, str]:
    """The only one, or the one that the data set declares as its target; else the reason."""
    chosen = [x for x in found if len(found) == 1 or x.key in declared[1:]]
    if not chosen:
        several = f"several ({', '.join(x.key for x in found)}) and declares none as its target"
        return None, f"it has {several if found else f'no {kind} for the picture'}"
    feature = chosen[0].feature
    names = tuple(feature.names or ()) if hasattr(feature, "names") else ()
    return Classes(chosen[0].key, names, int(getattr(feature, "num_classes", 0) or 0)), ""


def _masks(
    found: Sequence[_Found], maps: Sequence[_Found], config: TfdsConfig, options: str
) -> tuple[Masks | None, str]:
    """Where masks are, or the reason why they are not."""
    forms: dict[str, _Form] = {x.key: form for x in found if (form := _form(x)) is not None}
    option = f"--{options}masks"
    if config.masks is not None:
        forms |= {x.key: "numbers" for x in maps}
        if config.masks not in forms:
            choice = f"must be one of {', '.join(forms)}" if forms else "it has none"
            raise ConfigError(f"{options}masks is {config.masks!r}, but {choice}")
        forms = {config.masks: forms[config.masks]}
    if not forms:
        can = f"; if one of {', '.join(x.key for x in maps)} has object numbers, name it with "
        return None, f"it has no list of masks{f'{can}{option}' if maps else ''}"
    if len(forms) > 1:
        return None, f"it has several lists of masks, {', '.join(forms)}: choose one with {option}"
    ((key, form),) = forms.items()
    return _described(next(x for x in found if x.key == key), form), ""


def _form(found: _Found) -> _Form | None:
    from tensorflow_datasets import features as kinds

    feature = found.feature
    if isinstance(feature, kinds.FeaturesDict):
        return "runs" if found.rank == 1 else None
    shape = found.feature.shape
    if isinstance(feature, kinds.Image):
        in_colour = any(isinstance(x, kinds.BBoxFeature) for x in found.group.values())
        listed = found.rank == 1 and feature.np_dtype != np.float32
        return "pictures" if listed and (shape[-1] == 1 or in_colour) else None
    is_array = type(feature) is kinds.Tensor and feature.np_dtype == np.bool_
    return "arrays" if is_array and len(shape) + found.rank == 3 and found.rank < 2 else None


def _described(found: _Found, form: _Form) -> Masks:
    from tensorflow_datasets import features as kinds

    above = found.key.rsplit("/", 1)[0]

    def beside(*names: str, kind: type = np.integer) -> str | None:
        """The first feature of an object that has one of the names, and is one number."""
        group = {name: found.group[name] for name in names if name in found.group}
        fitting = [
            name for name, x in group.items() if x.shape == () and np.issubdtype(x.np_dtype, kind)
        ]
        return f"{above}/{fitting[0]}" if fitting else None

    boxes = [name for name, x in found.group.items() if isinstance(x, kinds.BBoxFeature)]
    box = "bbox" if "bbox" in boxes else next(iter(boxes), None)
    array = form == "arrays"
    return Masks(
        key=found.key,
        form=form,
        identity=beside("id"),
        crowd=beside("is_crowd", "iscrowd", kind=np.bool_) or beside("is_crowd", "iscrowd"),
        box=f"{above}/{box}" if box is not None else None,
        encoding=(found.feature.to_json_content().encoding or "none") if array else "none",
        shape=((None,) * found.rank + tuple(found.feature.shape)) if array else (),
        listed=found.rank == 1,
    )
