"""What the features of tensorflow-datasets become: masks, maps and labels, by their kinds."""

import functools
import tracemalloc
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tfds_sets, whole
from helpers.tfds_sets import HEIGHT, WIDTH, encoded

from esam_jax.config import PromptedConfig, TfdsConfig
from esam_jax.data import sources
from esam_jax.data.examples import Examples, Tally
from esam_jax.data.mask_sets import describe
from esam_jax.data.records import Source
from esam_jax.errors import ConfigError, DataError
from esam_jax.ops import regions

COUNTS = (2, 0, 3)  # objects of the pictures
IDS = (90, 7, 41)


@functools.cache
def truth(picture: int) -> np.ndarray:
    """[objects, rows, columns]: boxes at random, which may overlap; none is empty."""
    rng = np.random.default_rng(picture)
    masks = np.zeros((COUNTS[picture], HEIGHT, WIDTH), bool)
    for mask in masks:
        y, x = rng.integers(0, HEIGHT - 6), rng.integers(0, WIDTH - 8)
        mask[y : y + rng.integers(2, 6), x : x + rng.integers(2, 8)] = True
    return masks


def edges(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) from edge to edge of the outermost pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def box(mask: np.ndarray) -> Any:
    import tensorflow_datasets as tfds

    x0, y0, x1, y1 = edges(mask)
    return tfds.features.BBox(y0 / HEIGHT, x0 / WIDTH, y1 / HEIGHT, x1 / WIDTH)


def grey(mask: np.ndarray) -> bytes:
    return encoded(mask.astype(np.uint8) * 255)


def coloured(mask: np.ndarray) -> bytes:
    """Red is enough."""
    return encoded(mask[..., None] * np.array([200, 0, 0], np.uint8))


def runs(mask: np.ndarray) -> dict[str, Any]:
    found = regions.to_rle(mask)
    return {"counts": found["counts"], "size": np.array(found["size"], np.uint64)}


def tensor(*shape: int | None, **options: Any) -> Any:
    import tensorflow_datasets as tfds

    return tfds.features.Tensor(shape=shape, dtype=np.bool_, **options)


def feature(form: str) -> Any:
    """What holds one mask, or where the name says so all of a picture."""
    import tensorflow_datasets as tfds

    f = tfds.features
    return {
        "grey": lambda: f.Image(shape=(None, None, 1)),
        "coloured": lambda: f.Image(shape=(None, None, 3)),
        "runs": lambda: {"counts": np.str_, "size": f.Tensor(shape=(2,), dtype=np.uint64)},
        "array": lambda: tensor(HEIGHT, WIDTH),
        "array bytes": lambda: tensor(HEIGHT, WIDTH, encoding="bytes"),
        "array zlib": lambda: tensor(HEIGHT, WIDTH, encoding="zlib"),
        "all": lambda: tensor(None, HEIGHT, WIDTH),
        "all bytes": lambda: tensor(None, HEIGHT, WIDTH, encoding="bytes"),
        "all any zlib": lambda: tensor(None, None, None, encoding="zlib"),
    }[form]()


FORMS: Mapping[str, Callable[[np.ndarray], Any]] = {
    "grey": grey,
    "coloured": coloured,
    "runs": runs,
    **dict.fromkeys(("array", "array bytes", "array zlib"), lambda mask: mask),
    **dict.fromkeys(("all", "all bytes", "all any zlib"), lambda masks: masks),
}


def prepare(folder: Path, features: dict[str, Any], values: Callable[[int], dict]) -> Path:
    import tensorflow_datasets as tfds

    features = {"image": tfds.features.Image(), "id": np.int64, **features}
    records = [
        {"image": encoded(tfds_sets.picture(i)), "id": i, **values(i)} for i in range(len(COUNTS))
    ]
    tfds_sets.prepare(folder, features, {"train": records})
    return folder


def opened(folder: Path, **fields: Any) -> Source:
    return sources.open_source(TfdsConfig(path=str(folder), name="tiny", **fields))


def numbered(source: Source) -> list[tuple[int, Any]]:
    """Which of the drawn pictures each record is, and the record."""
    records = [source.read(i) for i in range(len(source))]
    return [(int(x.picture.name.split("(")[1][:-1]), x) for x in records]  # type: ignore


def objects(form: str, crowds: bool = False) -> tuple[dict, Callable[[int], dict]]:
    """The feature of a list of objects, and its value for a picture."""
    import tensorflow_datasets as tfds

    kinds = {"bbox": tfds.features.BBoxFeature(), "id": np.int64, "mask": feature(form)}
    if crowds:
        kinds["is_crowd"] = np.bool_

    def values(picture: int) -> dict:
        found = [
            {"bbox": box(mask), "id": IDS[i], "mask": FORMS[form](mask)}
            | ({"is_crowd": i == 1} if crowds else {})
            for i, mask in enumerate(truth(picture))
        ]
        return {"objects": found}

    return {"objects": tfds.features.Sequence(kinds)}, values


# -------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("form", [each for each in FORMS if "all" not in each])
def test_masks_of_listed_objects(tmp_path: Path, form: str):
    source = opened(prepare(tmp_path, *objects(form)), masks=None)
    assert isinstance(source.read(0).picture.height, int)
    for number, record in numbered(source):
        masks, expected = record.annotation("masks"), truth(number)
        assert len(masks) == len(expected) and not record.findings
        assert (whole.masks(record) == expected).all()
        for i, mask in enumerate(expected):
            about = describe(masks, i)
            assert about.identity == IDS[i]
            assert about.box is not None and np.allclose(about.box, edges(mask), atol=1e-4)


@pytest.mark.parametrize("form", [each for each in FORMS if "all" in each])
def test_masks_in_one_array(tmp_path: Path, form: str):
    folder = prepare(tmp_path, {"masks": feature(form)}, lambda i: {"masks": truth(i)})
    for number, record in numbered(opened(folder)):
        assert (whole.masks(record) == truth(number)).all()
        masks = record.annotation("masks")
        assert [describe(masks, i).identity for i in range(len(masks))] == [*range(COUNTS[number])]


@pytest.mark.parametrize("form", ["grey", "runs", "array"])
def test_crowds_are_left_out_or_used(tmp_path: Path, form: str):
    folder = prepare(tmp_path, *objects(form, crowds=True))
    for crowds, kind in (("leave_out", "crowds_left_out"), ("use", "crowds_used")):
        for number, record in numbered(opened(folder, crowds=crowds)):
            kept = [i for i in range(COUNTS[number]) if i != 1 or crowds == "use"]
            masks = record.annotation("masks")
            assert [describe(masks, i).identity for i in range(len(masks))] == [
                IDS[i] for i in kept
            ]
            assert (whole.masks(record) == truth(number)[kept]).all()
            assert [each.kind for each in record.findings] == [kind] * (COUNTS[number] > 1)


def test_a_map_of_object_numbers_is_named(tmp_path: Path):
    import tensorflow_datasets as tfds

    numbers = np.zeros((3, HEIGHT, WIDTH), np.uint16)
    numbers[0, 2:9, 3:8], numbers[2, 1:4, 5:20], numbers[2, 8:, :4] = 700, 3, 9
    features = {"map": tfds.features.Image(shape=(None, None, 1), dtype=np.uint16)}
    prepare(tmp_path, features, lambda i: {"map": encoded(numbers[i])})
    with pytest.raises(ConfigError, match=r"if one of map has object numbers, .*--data.source.mas"):
        sources.open_source(TfdsConfig(path=str(tmp_path), name="tiny"), needs=frozenset({"masks"}))
    found = dict(numbered(opened(tmp_path, masks="map")))
    ids = {n: [describe(m, i).identity for i in range(len(m))] for n, m in masks_of(found)}
    assert ids == {0: [700], 1: [], 2: [3, 9]}
    for number, record in found.items():
        for i, identity in enumerate(ids[number]):
            assert (whole.masks(record, i)[0] == (numbers[number] == identity)).all()
        assert "semantic" not in record.annotations
    for number, record in numbered(opened(tmp_path)):
        assert (record.annotation("semantic").values == numbers[number]).all()


def masks_of(found: dict[int, Any]) -> list[tuple[int, Any]]:
    return [(number, record.annotation("masks")) for number, record in sorted(found.items())]


def test_training_reads_them(tmp_path: Path):
    source = opened(prepare(tmp_path, *objects("grey")))
    view = PromptedConfig(image_px=32, min_area_px=1, max_area=1.0, masks=4)
    tally = Tally(examples := Examples(source, view, seed=0), 0.1)
    valid = [int(tally.view_of(examples[i])["valid"].sum()) for i in range(3)]
    assert sorted(set(valid)) == [2, 3] and len(tally.empty) == 1 and not tally.broken


# ----------------------------------------------------------------------------- which are masks


def test_several_lists_of_masks_are_named(tmp_path: Path):
    import tensorflow_datasets as tfds

    listed, values = objects("grey")
    more = {**listed, "parts": tfds.features.Sequence(feature("runs"))}
    prepare(tmp_path, more, lambda i: {**values(i), "parts": [runs(m) for m in truth(i)[::-1]]})
    source = opened(tmp_path)
    with pytest.raises(ConfigError, match="comes from a source without masks"):
        source.read(0).annotation("masks")
    wanted = TfdsConfig(path=str(tmp_path), name="tiny")
    message = r"several lists of masks, objects/mask, parts: choose one with --data.source.masks;"
    with pytest.raises(ConfigError, match=message):
        sources.open_source(wanted, needs=frozenset({"masks"}))
    for number, record in numbered(opened(tmp_path, masks="parts")):
        assert (whole.masks(record) == truth(number)[::-1]).all()
    for number, record in numbered(opened(tmp_path, masks="objects/mask")):
        assert (whole.masks(record) == truth(number)).all()


@pytest.mark.parametrize("what", ["boxes", "frames", "distances", "numbers"])
def test_what_looks_like_masks_is_none(tmp_path: Path, what: str):
    """Boxes alone, pictures in colour of no object, arrays of numbers."""
    import tensorflow_datasets as tfds

    f = tfds.features
    features, value = {
        "boxes": (f.Sequence({"bbox": f.BBoxFeature()}), [{"bbox": box(truth(0)[0])}]),
        "frames": (f.Sequence(f.Image()), [encoded(tfds_sets.picture(9))]),
        "distances": (f.Tensor(shape=(1, HEIGHT, WIDTH), dtype=np.float32), None),
        "numbers": (f.Sequence(f.Tensor(shape=(HEIGHT, WIDTH), dtype=np.uint8)), None),
    }[what]
    if value is None:
        value = np.ones((1, HEIGHT, WIDTH), features.np_dtype)
    prepare(tmp_path, {"other": features}, lambda i: {"other": value})
    source = opened(tmp_path)
    assert set(source.read(0).annotations) == set()
    with pytest.raises(ConfigError, match=r"has no list of masks; the features are .*other"):
        sources.open_source(TfdsConfig(path=str(tmp_path), name="tiny"), needs=frozenset({"masks"}))


# ----------------------------------------------------------------- pictures, maps and classes


def test_a_map_of_classes_has_their_names(tmp_path: Path):
    import tensorflow_datasets as tfds

    values = np.random.default_rng(0).integers(0, 3, (3, HEIGHT, WIDTH)).astype(np.uint8)
    values[1, 0, 0] = 255
    features = {
        "segmentation": tfds.features.LabeledImage(labels=["sky", "road", "car"]),
        "distance": tfds.features.Image(shape=(None, None, 1)),
    }
    prepare(
        tmp_path,
        features,
        lambda i: {"segmentation": encoded(values[i]), "distance": encoded(values[i] + 1)},
    )
    for number, record in numbered(opened(tmp_path)):
        found = record.annotation("semantic")
        assert (found.values == values[number]).all()
        assert found.names == {0: "sky", 1: "road", 2: "car"}
        assert found.void == ({255} if number == 1 else set())


def several(folder: Path, kinds: dict[str, Any], declared: tuple[str, str] | None) -> Path:
    """One record; each feature has the same value."""
    import tensorflow_datasets as tfds

    f = tfds.features
    made = {
        "colour": (f.Image(), encoded(tfds_sets.picture(1))),
        "grey": (f.Image(shape=(None, None, 1)), encoded(tfds_sets.picture(2)[..., 0])),
        "map": (
            f.Image(shape=(None, None, 1), use_colormap=True),
            encoded(tfds_sets.picture(3)[..., 0]),
        ),
        "class": (f.ClassLabel(names=["ant", "bee"]), 1),
        "text": (f.Text(), "words"),
        "video": (f.Sequence(f.Image()), [encoded(tfds_sets.picture(1))]),
    }
    features = {key: made[kind][0] for key, kind in kinds.items()}
    record = {key: made[kind][1] for key, kind in kinds.items()}
    tfds_sets.prepare(folder, features, {"train": [record]}, declared=declared)
    return folder


@pytest.mark.parametrize(
    ("kinds", "declared", "seed", "annotations"),
    [
        ({"x": "colour"}, None, 1, set()),
        ({"x": "grey"}, None, 2, set()),  # as mnist
        ({"x": "grey", "m": "map"}, None, 2, {"semantic"}),
        ({"x": "colour", "g": "grey"}, None, 1, {"semantic"}),
        ({"x": "colour", "g": "grey", "m": "map"}, None, 1, set()),  # which of both
        ({"x": "colour", "g": "grey", "m": "map"}, ("x", "m"), 1, {"semantic"}),
        ({"x": "colour", "c": "class"}, None, 1, {"label"}),
        ({"x": "colour", "c": "class", "d": "class"}, None, 1, set()),
        ({"x": "colour", "c": "class", "d": "class"}, ("x", "d"), 1, {"label"}),
        ({"x": "colour", "y": "colour"}, ("y", "x"), 1, set()),  # as scene_parse150
        ({"x": {"y": "colour"}, "t": "text"}, None, 1, set()),
    ],
)
def test_features_are_found_by_kind(
    tmp_path: Path, kinds: dict, declared: tuple, seed: int, annotations: set
):
    if isinstance(kinds["x"], dict):  # as segment_anything
        import tensorflow_datasets as tfds

        features = {"x": {"y": tfds.features.Image(), "file_name": tfds.features.Text()}}
        record = {"x": {"y": encoded(tfds_sets.picture(1)), "file_name": "a"}}
        tfds_sets.prepare(tmp_path, features, {"train": [record]})
    else:
        several(tmp_path, kinds, declared)
    record = opened(tmp_path).read(0)
    expected = tfds_sets.picture(seed)
    if seed > 1:
        expected = np.repeat(expected[..., :1], 3, 2)
    assert (record.picture.rgb() == expected).all()
    assert set(record.annotations) == annotations
    if "label" in annotations:
        assert record.annotation("label").name == "bee"
    if "semantic" in annotations:
        key = 3 if "m" in kinds else 2
        assert (record.annotation("semantic").values == tfds_sets.picture(key)[..., 0]).all()


def test_several_pictures_are_named(tmp_path: Path):
    several(tmp_path, {"left": "colour", "right": "colour", "depth": "grey"}, None)
    with pytest.raises(ConfigError, match=r"choose one of left, right with --data.source.image$"):
        opened(tmp_path)
    assert set(opened(tmp_path, image="left").read(0).annotations) == {"semantic"}
    assert (opened(tmp_path, image="depth").read(0).picture.rgb()[..., 0] == grey_2()).all()
    with pytest.raises(ConfigError, match=r"is 'up', but must be one of depth, left, right$"):
        opened(tmp_path, image="up")


def grey_2() -> np.ndarray:
    return tfds_sets.picture(2)[..., 0]


@pytest.mark.parametrize("kind", ["text", "video", "class"])
def test_data_without_pictures_is_refused_with_its_features(tmp_path: Path, kind: str):
    several(tmp_path, {"x": kind, "t": "text"}, None)
    shown = {"text": "Text", "video": "list of Image", "class": "ClassLabel"}[kind]
    with pytest.raises(DataError, match=rf"its features are t \(Text\), x \({shown}\)$"):
        opened(tmp_path)


# ------------------------------------------------------------------------------------ hostile


def wrong_size(form: str) -> Any:
    mask = np.ones((HEIGHT + 1, WIDTH), bool)
    return FORMS[form](mask)


@pytest.mark.parametrize(
    ("form", "value", "message"),
    [
        ("grey", wrong_size("grey"), "mask 0 is 21 x 30, but the picture is 20 x 30"),
        ("grey", b"\x89PNG\r\n\x1a\n" + bytes(40), "mask 0: "),
        ("grey", b"", "mask 0: the file is empty"),
        ("grey", grey(np.zeros((HEIGHT, WIDTH), bool)), "mask 0: it covers no pixel"),
        ("runs", wrong_size("runs"), r"mask 0: its size is \[21, 30\], but the picture is \[20, "),
        ("runs", {"counts": "0", "size": np.array([20, 30], np.uint64)}, "mask 0"),
    ],
)
def test_a_mask_that_is_wrong_costs_itself(tmp_path: Path, form: str, value: Any, message: str):
    import tensorflow_datasets as tfds

    good = FORMS[form](truth(0)[0])
    features = {"masks": tfds.features.Sequence(feature(form))}
    prepare(tmp_path, features, lambda i: {"masks": [value, good]})
    record = opened(tmp_path).read(0)
    with pytest.raises(DataError, match=message) as caught:
        whole.masks(record, 0)
    assert str(caught.value).startswith("train/00000000 (")
    assert (whole.masks(record, 1)[0] == truth(0)[0]).all()


def bomb() -> bytes:
    """A gigabyte of zeros."""
    packer, block = zlib.compressobj(1), bytes(2**20)
    return b"".join([*(packer.compress(block) for _ in range(1024)), packer.flush()])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (zlib.compress(bytes(HEIGHT * WIDTH - 1)), "has 599 values, which is no number of masks"),
        (zlib.compress(bytes(HEIGHT * WIDTH))[:-6], "masks is cut short"),
        (b"none", "masks is broken"),
        (b"", "masks is cut short"),
    ],
)
def test_an_array_that_is_wrong_costs_its_record(tmp_path: Path, value: bytes, message: str):
    written(tmp_path, value)
    with pytest.raises(DataError, match=message) as caught:
        opened(tmp_path).read(0).annotation("masks")
    assert str(caught.value).startswith("train/00000000 (0)")


@pytest.mark.slow  # seconds of compression
def test_what_unpacks_to_gigabytes_is_refused(tmp_path: Path):
    written(tmp_path, bomb())
    record = opened(tmp_path).read(0)
    tracemalloc.start()
    with pytest.raises(DataError, match="masks have more than 268435456 values"):
        record.annotation("masks")
    assert tracemalloc.get_traced_memory()[1] < 2**30
    tracemalloc.stop()


def written(folder: Path, value: bytes) -> None:
    """A record with these bytes where compressed masks should be."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    form = {"masks": tensor(None, HEIGHT, WIDTH, encoding="zlib")}
    prepare(folder, form, lambda i: {"masks": truth(i)})
    (file,) = (folder / "tiny/1.0.0").glob("*array_record*")
    example = tf_example_pb2.Example()  # type: ignore
    held = example.features.feature
    held["image"].bytes_list.value.append(encoded(tfds_sets.picture(0)))
    held["id"].int64_list.value.append(0)
    held["masks"].bytes_list.value.append(value)
    writer = ArrayRecordWriter(str(file), "group_size:1")
    for _ in COUNTS:
        writer.write(example.SerializeToString())
    writer.close()


@pytest.mark.parametrize("key", ["objects/id", "objects/bbox", "objects/is_crowd", "objects/mask"])
@pytest.mark.parametrize("form", ["grey", "runs"])
def test_lists_of_other_lengths_cost_their_record(tmp_path: Path, form: str, key: str):
    """Of one feature of the objects more values than of the others."""
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    prepare(tmp_path, *objects(form, crowds=True))
    (file,) = (tmp_path / "tiny/1.0.0").glob("*array_record*")
    reader = ArrayRecordReader(str(file))
    records = reader.read_all()
    reader.close()
    writer = ArrayRecordWriter(str(file), "group_size:1")
    for data in records:
        example = tf_example_pb2.Example.FromString(data)  # type: ignore
        held = example.features.feature
        held = held[f"{key}/counts" if f"{key}/counts" in held else key]
        listed = getattr(held, held.WhichOneof("kind")).value
        listed.extend(
            [
                *listed,
                *({"bytes_list": [b"x"], "float_list": [0.5]}.get(held.WhichOneof("kind"), [1])),
            ]
        )
        writer.write(example.SerializeToString())
    writer.close()
    for _, record in numbered(opened(tmp_path)):
        with pytest.raises(
            DataError, match=r"train/\d{8} \(\d\): objects/\w+.* has \d+ values for"
        ):
            record.annotation("masks")


def test_a_map_of_another_size_costs_its_record(tmp_path: Path):
    import tensorflow_datasets as tfds

    features = {"map": tfds.features.LabeledImage(labels=["a", "b"])}
    wrong = encoded(np.zeros((HEIGHT, WIDTH + 2), np.uint8))
    prepare(tmp_path, features, lambda i: {"map": wrong})
    record = opened(tmp_path).read(0)
    assert record.picture.rgb().shape == (HEIGHT, WIDTH, 3)  # which needs no map
    with pytest.raises(DataError, match="map is 20 x 32, but the picture is 20 x 30"):
        record.annotation("semantic")


@pytest.mark.parametrize("form", ["grey", "runs", "all any zlib", "map"])
@pytest.mark.parametrize("turn", [6, 3, 1])
def test_a_turned_picture_is_read_as_its_annotations_are(tmp_path: Path, form: str, turn: int):
    """Those of a stored picture of 20 x 30, which EXIF turns; a half turn may be either."""
    import tensorflow_datasets as tfds
    from PIL import Image

    exif = Image.Exif()
    exif[0x112] = turn
    stored = encoded(tfds_sets.picture(5), "JPEG", exif=exif.tobytes(), quality=95)
    plain = encoded(tfds_sets.picture(5), "JPEG", quality=95)
    features = {"image": tfds.features.Image(), "id": np.int64}
    if form == "map":
        features["m"] = tfds.features.LabeledImage(labels=["a", "b"])
        value = encoded(truth(0)[0].astype(np.uint8))
    elif form == "all any zlib":
        features["m"], value = feature(form), truth(0)
    else:
        features["m"] = tfds.features.Sequence(feature(form))
        value = [FORMS[form](mask) for mask in truth(0)]
    records = [{"image": each, "id": i, "m": value} for i, each in enumerate((stored, plain))]
    tfds_sets.prepare(tmp_path, features, {"train": records})
    kind = "semantic" if form == "map" else "masks"
    for ambiguous in ("upright", "stored"):
        found = dict(numbered(opened(tmp_path, ambiguous_exif=ambiguous)))
        pixels = {number: record.picture.rgb() for number, record in found.items()}
        upright = np.rot90(pixels[1], 2) if turn == 3 and ambiguous == "upright" else pixels[1]
        assert (pixels[0] == upright).all()
        assert all(each.annotation(kind) is not None for each in found.values())
        noted = [each.kind for each in found[0].findings]
        assert noted == ["ambiguous_exif"] * (turn == 3)
