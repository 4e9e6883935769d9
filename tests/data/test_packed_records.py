"""Records of packs: what is read is what was written, and nothing else is ever read."""

import dataclasses
import io
import random
import zlib

import msgpack
import numpy as np
import pytest
from helpers import made_sets
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from esam_jax.data import decode, packed_records
from esam_jax.data.bitmaps import Grid
from esam_jax.data.findings import Finding
from esam_jax.data.labels import Federated, Label, SemanticMap
from esam_jax.data.mask_sets import (
    CocoMasks,
    EmptyMaskError,
    LabelledMasks,
    NumberedMasks,
    Object,
    Outline,
    describe,
)
from esam_jax.data.pictures import Encoded, Pixels
from esam_jax.data.records import Record
from esam_jax.errors import ConfigError, DataError
from esam_jax.ops import regions


def encoded(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    data = buffer.getvalue()
    return Encoded("a file", data, decode.header(data))


def there_and_back(record, **options):
    return packed_records.decode_record(packed_records.encode(record), **options)


def altered(content, **changes):
    """The bytes of a record with other values, and the right checksum."""
    packed = msgpack.packb({**content, **changes})
    return zlib.crc32(packed).to_bytes(4, "little") + packed


def made():
    """A record with everything."""
    number = 5
    pixels = made_sets.picture(number)
    height, width = pixels.shape[:2]
    outlines = [
        Outline(f"mask {i}", regions.to_rle(mask), i, [1, 2.5, 3, 4])
        for i, mask in enumerate(made_sets.masks(number))
    ]
    rng = np.random.default_rng(0)
    return Record(
        "a/b.png",
        encoded(pixels),
        {
            "masks": CocoMasks("a/b.png", outlines, height, width),
            "label": Label(3, "bee"),
            "semantic": SemanticMap(
                rng.integers(0, 9, (height, width), np.uint16), {1: "a", 300: "ü"}, frozenset({0})
            ),
            "boundaries": rng.random((3, height, width)) < 0.1,
            "federated": Federated(frozenset({3, 1}), frozenset()),
        },
        [Finding("crowds_left_out", "a crowd", 2)],
    )


def require_equal(found, expected):
    assert found.name == expected.name and found.annotations.keys() == expected.annotations.keys()
    np.testing.assert_array_equal(found.picture.rgb(), expected.picture.rgb())
    assert (found.picture.height, found.picture.width) == expected.picture.rgb().shape[:2]
    for kind, value in expected.annotations.items():
        other = found.annotations[kind]
        if kind == "masks":
            require_equal_masks(other, value, found.picture.height, found.picture.width)
        elif kind == "semantic":
            np.testing.assert_array_equal(other.values, value.values)
            assert other.values.dtype == value.values.dtype
            assert (other.names, other.void) == (value.names, value.void)
        elif kind == "boundaries":
            np.testing.assert_array_equal(other, value)
            assert other.dtype == bool
        else:
            assert other == value


def require_equal_masks(found, expected, height, width):
    assert len(found) == len(expected)
    grids = [Grid.whole(height, width)]
    grids.append(Grid(height, width, np.arange(0, height, 3), np.arange(width)[::-2]))
    for index in range(len(expected)):
        assert describe(found, index) == describe(expected, index)
        for grid in grids:
            try:
                wanted = expected.sample(index, grid)
            except DataError as error:
                with pytest.raises(type(error)) as raised:
                    found.sample(index, grid)
                assert str(raised.value) == str(error) and raised.type is type(error)
                continue
            other = found.sample(index, grid)
            np.testing.assert_array_equal(other.dense(), wanted.dense())


def test_everything_comes_back():
    record = made()
    found = there_and_back(record)
    require_equal(found, record)
    assert found.findings == record.findings
    assert found.picture.data == record.picture.data  # the bytes of the file


NAMES = st.text(st.characters(), min_size=1, max_size=9)  # with lone surrogates, too


@given(
    NAMES,
    st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6), max_size=5),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_any_run_lengths_come_back_right_or_with_their_error(name, counts, height, width):
    """Most of them do not sum to the picture: these are broken before and after."""
    outlines = [
        Outline(f"mask {i}", {"size": [height, width], "counts": each}, f"{i}")
        for i, each in enumerate(counts)
    ]
    outlines.append(Outline("polygon", [[0, 0, 5, 0, 5, 7]], -1, [0, 0, float("nan"), 1]))
    pixels = np.zeros((height, width, 3), np.uint8)
    record = Record(name, Pixels(pixels), {"masks": CocoMasks(name, outlines, height, width)})
    require_equal(there_and_back(record), record)


def test_masks_of_label_maps_come_back():
    labels = np.zeros((5, 7), np.uint8)
    labels[1:3, 2:6], labels[4] = 1, 4  # 2 and 3 are nowhere
    numbers = labels.astype(np.int32) * 900
    for masks in (LabelledMasks(labels), NumberedMasks(numbers)):
        record = Record("r", Pixels(np.zeros((5, 7, 3), np.uint8)), {"masks": masks})
        require_equal(there_and_back(record), record)


@pytest.mark.parametrize("turn", [1, 3, 6])
@pytest.mark.parametrize("orientation", ["upright", "stored"])
def test_the_frame_of_the_annotations_is_kept(turn, orientation):
    exif = Image.Exif()
    exif[0x0112] = turn
    file = encoded(made_sets.picture(2), "JPEG", exif=exif)
    assert file.header.turn == turn
    header = decode.header(file.data, orientation)
    record = Record("r", dataclasses.replace(file, header=header))
    found = there_and_back(record)
    require_equal(found, record)
    assert found.picture.header == header


def test_sixteen_bits_are_read_as_asked():
    buffer = io.BytesIO()
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)).save(buffer, "PNG")
    data = buffer.getvalue()
    for way in ("upper_byte", "stretch"):
        picture = Encoded("r", data, decode.header(data), way)
        found = there_and_back(Record("r", picture), sixteen_bit=way)
        np.testing.assert_array_equal(found.picture.rgb(), picture.rgb())
    narrow = there_and_back(Record("r", picture))
    narrow.picture.rgb()
    assert [each.kind for each in narrow.findings] == ["narrow_16_bit"]


def test_a_kind_that_packs_do_not_hold_is_refused():
    record = dataclasses.replace(made(), annotations={"depth": 3})
    with pytest.raises(ConfigError, match="has depth, which packs do not hold"):
        packed_records.encode(record)


def test_every_flipped_bit_is_noticed():
    data = packed_records.encode(made())
    rng = random.Random(0)
    for _ in range(300):
        at = rng.randrange(8 * len(data))
        broken = bytearray(data)
        broken[at // 8] ^= 1 << at % 8
        with pytest.raises(DataError, match="checksum"):
            packed_records.decode_record(bytes(broken))
    for length in (0, 3, 4, 100, len(data) - 1):
        with pytest.raises(DataError, match="checksum"):
            packed_records.decode_record(data[:length])


ABOUT = {"identity": 1, "box": None}
HOSTILE = {
    "no map": [],
    "another format": {"format": 2},
    "name": {"name": 3},
    "name is bytes": {"name": b"x"},
    "no picture": {"picture": b""},
    "a program": {"picture": b"MZ...."},
    "picture is text": {"picture": "x"},
    "another size": {"size": [1, 2]},
    "no size": {"size": None},
    "upright": {"upright": 1},
    "finding": {"findings": [["unheard_of", "x", 1]]},
    "short finding": {"findings": [["animations"]]},
    "masks": {"masks": {"a": 1}},
    "mask": {"masks": [3]},
    "mask without object": {"masks": [[]]},
    "mask of bytes": {"masks": [[ABOUT, b"x"]]},
    "broken mask without reason": {"masks": [[ABOUT, None]]},
    "object of other fields": {"masks": [[{"identity": 1, "code": "x"}, "0"]]},
    "object without identity": {"masks": [[{"box": None}, "0"]]},
    "box": {"masks": [[{"identity": 1, "box": [1, 2, 3]}, "0"]]},
    "box of text": {"masks": [[{"identity": 1, "box": ["a"] * 4}, "0"]]},
    "endless box": {"masks": [[{"identity": 1, "box": [0, 0, float("inf"), 1]}, "0"]]},
    "identity": {"masks": [[{"identity": [1]}, "0"]]},
    "identity of nothing": {"masks": [[{"identity": None}, "0"]]},
    "category of text": {"masks": [[{"identity": 1, "category": "bee"}, "0"]]},
    "label": {"label": ["bee", 3]},
    "semantic of objects": {"semantic": ["object", b"", [], []]},
    "semantic bomb": {"semantic": ["uint8", zlib.compress(bytes(10**7)), [], []]},
    "short semantic": {"semantic": ["uint8", zlib.compress(b"abc"), [], []]},
    "semantic of no zlib": {"semantic": ["uint8", b"abc", [], []]},
    "void": {"semantic": ["uint8", None, [], ["x"]]},
    "boundaries without end": {"boundaries": [10**12, zlib.compress(b"abc")]},
    "negative boundaries": {"boundaries": [-1, zlib.compress(b"")]},
    "federated": {"federated": [[1], "x"]},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_records_that_no_writer_makes_are_refused(case):
    content = msgpack.unpackb(packed_records.encode(made())[4:])
    change = HOSTILE[case]
    if isinstance(change, list):
        packed = msgpack.packb(change)
        data = zlib.crc32(packed).to_bytes(4, "little") + packed
    else:
        data = altered(content, **change)
    with pytest.raises(DataError):
        packed_records.decode_record(data)
    assert packed_records.decode_record(altered(content)).name == "a/b.png"


@pytest.mark.parametrize(("more", "said"), [(0, "has not the"), (1, "annotators, more than are")])
def test_the_most_boundaries_of_a_picture(more, said):
    """2**30 bits: how many there must be is known before any is decompressed."""
    content = msgpack.unpackb(packed_records.encode(made())[4:])
    height, width = content["size"]
    annotators = 2**30 // (height * width) + more
    few = zlib.compress(b"abc")
    with pytest.raises(DataError, match=said):
        packed_records.decode_record(altered(content, boundaries=[annotators, few]))


def test_run_lengths_of_another_picture_are_an_error_of_their_mask():
    content = msgpack.unpackb(packed_records.encode(made())[4:])
    found = packed_records.decode_record(altered(content, masks=[[ABOUT, "0"], [ABOUT, "!"]]))
    for index in range(2):
        with pytest.raises(DataError, match=rf"a/b\.png: mask {index}: "):
            found.annotations["masks"].sample(index, Grid.whole(2, 2))


def test_an_empty_mask_stays_one():
    masks = CocoMasks("r", [Outline("mask 0", {"size": [2, 2], "counts": [4]})], 2, 2)
    record = Record("r", Pixels(np.zeros((2, 2, 3), np.uint8)), {"masks": masks})
    with pytest.raises(EmptyMaskError):
        there_and_back(record).annotations["masks"].sample(0, Grid.whole(2, 2))


def test_objects_are_packed_with_all_of_their_fields():
    """A field that is added to what is said of objects is packed, too, or this fails."""
    about = {field.name for field in dataclasses.fields(Object)}
    content = msgpack.unpackb(packed_records.encode(made())[4:])
    assert {*content["masks"][0][0]} == about
