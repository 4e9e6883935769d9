"""Stored features come back as they were, and those of anything else are refused."""

import concurrent.futures
import dataclasses
import json
import threading
import time

import ml_dtypes
import numpy as np
import pytest

from esam_jax import files
from esam_jax.config import CropConfig, FramedConfig
from esam_jax.data import stored_features, views
from esam_jax.data.pictures import Pixels
from esam_jax.data.records import Record
from esam_jax.data.stored_features import Header, Reader, Writer
from esam_jax.data.views import crop, framed
from esam_jax.errors import ConfigError, DataError, MissingError

HEADER = Header(
    teacher={"model": "sam_nano", "features": "neck"},
    weights="0123",
    view={"image_px": 64, "fit": "pad"},
    shape=(2, 3, 5),
    dtype="float16",
)


def features(seed):
    return np.random.default_rng(seed).normal(size=HEADER.shape).astype(np.float32)


def image(seed):
    return np.random.default_rng(seed).integers(0, 256, (12, 8, 3), np.uint8)


def written(folder, numbers, **changes):
    writer = Writer(folder, dataclasses.replace(HEADER, **changes), shard=3)
    for number in numbers:
        writer.add(f"picture/{number}", image(number), features(number))
    writer.close()
    return Reader(folder)


@pytest.mark.parametrize(
    ("dtype", "short"), [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)]
)
def test_each_view_gets_its_own_back(tmp_path, dtype, short):
    reader = written(tmp_path, range(7), dtype=dtype)
    assert len(reader) == 7 and len(list(tmp_path.glob("shard_*.array_record"))) == 3
    for number in (6, 0, 3):
        found = reader.features(f"picture/{number}", image(number))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, features(number).astype(short).astype(np.float32))
    assert reader.header == dataclasses.replace(HEADER, dtype=dtype)


def test_int8_has_a_scale_for_each_channel(tmp_path):
    """Off by half a step of the channel at most, whatever the others are; zeros stay zeros."""
    wide = features(0) * np.array([1, 1e4, 1e-4, 0, 7], np.float32)
    writer = Writer(tmp_path, dataclasses.replace(HEADER, dtype="int8"))
    writer.add("wide", image(0), wide)
    writer.close()
    found = Reader(tmp_path).features("wide", image(0))
    steps = np.abs(wide).max((0, 1)) / 127
    assert (np.abs(found - wide) <= 0.5001 * steps).all() and (found[..., 3] == 0).all()
    np.testing.assert_allclose(np.abs(found).max((0, 1)), np.abs(wide).max((0, 1)), rtol=1e-6)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.array_record"))
    packed = stored_features._packed("wide", wide, "int8")
    assert len(packed) == wide.size + 4 * 5 < size
    numbers = np.frombuffer(packed, np.int8, offset=4 * 5).reshape(wide.shape)
    assert np.abs(numbers.astype(int)).max((0, 1)).tolist() == [127, 127, 127, 0, 127]


def test_parts_fill_one_folder(tmp_path):
    for part, numbers in ((1, (0, 1, 2, 3)), (0, (4,)), (1, (5,))):
        writer = Writer(tmp_path, HEADER, part=part, shard=3)
        for number in numbers:
            writer.add(f"picture/{number}", image(number), features(number))
        writer.close()
    names = sorted(path.stem for path in tmp_path.glob("*.array_record"))
    assert names == ["shard_000_00000", "shard_001_00000", "shard_001_00001", "shard_001_00002"]
    reader = Reader(tmp_path)
    for number in range(6):
        found = reader.features(f"picture/{number}", image(number))
        np.testing.assert_allclose(found, features(number), rtol=1e-3)


def test_what_is_there_already_is_kept(tmp_path):
    written(tmp_path, range(4))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    reader = written(tmp_path, range(4, 6))
    assert len(reader) == 6
    assert all((tmp_path / name).read_bytes() == held for name, held in before.items())
    np.testing.assert_allclose(reader.features("picture/5", image(5)), features(5), rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "4567"}, "weights '0123' instead of '4567'"),
        ({"teacher": {"model": "sam_b", "features": "neck"}}, r"teacher\.model 'sam_nano' instead"),
        ({"view": {"image_px": 128, "fit": "pad"}}, r"view\.image_px 64 instead of 128"),
        ({"shape": (2, 3, 4)}, "shape"),
        ({"dtype": "bfloat16"}, "dtype 'float16' instead of 'bfloat16'"),
    ],
)
def test_features_of_something_else_are_not_mixed(tmp_path, changes, message):
    written(tmp_path, range(2))
    with pytest.raises(ConfigError, match=message):
        Writer(tmp_path, dataclasses.replace(HEADER, **changes))
    assert len(Reader(tmp_path)) == 2


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no features"):
        Writer(tmp_path, HEADER)
    with pytest.raises(MissingError, match="holds no features"):
        Reader(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_record_without_features_is_named(tmp_path):
    reader = written(tmp_path, range(2))
    with pytest.raises(ConfigError, match="has no features of picture/9"):
        reader.features("picture/9", image(9))


def test_a_picture_of_the_same_name_in_other_data_is_refused(tmp_path):
    """But not the same picture, which another decoder may have read a little differently."""
    reader = written(tmp_path, range(2))
    nearly = np.clip(image(1).astype(int) + np.random.default_rng(0).integers(-3, 4), 0, 255)
    reader.features("picture/1", nearly.astype(np.uint8))
    with pytest.raises(ConfigError, match="of another picture that is called picture/1"):
        reader.features("picture/1", image(0))


@pytest.mark.parametrize(("by", "is_other"), [(4, False), (5, True)])
def test_one_of_sixteen_blocks_of_green_tells_pictures_apart(tmp_path, by, is_other):
    held = np.full((12, 8, 3), 100, np.uint8)
    writer = Writer(tmp_path, HEADER)
    writer.add("a", held, features(0))
    writer.close()
    reader, seen = Reader(tmp_path), held.copy()
    seen[..., [0, 2]] = 200
    seen[9:12, 2:4, 1] += by  # the last row of blocks, the second of them
    if not is_other:
        reader.features("a", seen)
        return
    with pytest.raises(ConfigError, match="of another picture that is called a"):
        reader.features("a", seen)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "another"])
def test_damage_is_found_by_the_view(tmp_path, damage):
    reader = written(tmp_path, range(3))
    path = tmp_path / "shard_000_00000.array_record"
    held = bytearray(path.read_bytes())
    at = held.find(features(2).astype(np.float16).tobytes())
    if damage == "flip":
        held[at + 3] ^= 16
        path.write_bytes(held)
    elif damage == "cut":
        path.write_bytes(held[: at + 7])
    elif damage == "gone":
        path.unlink()
    else:  # a record of another size, intact
        writer = Writer(tmp_path / "other", dataclasses.replace(HEADER, shape=(2, 3, 4)), shard=3)
        for number in range(3):
            writer.add("x", image(0), features(number)[..., :4])
        path.write_bytes((tmp_path / "other" / path.name).read_bytes())
    with pytest.raises(DataError, match=r"shard_000_00000.* damaged at the features of picture/2"):
        reader.features("picture/2", image(2))
    assert path.exists() == (damage != "gone")
    if damage == "flip":
        np.testing.assert_allclose(reader.features("picture/1", image(1)), features(1), rtol=1e-3)


def test_a_shard_that_was_not_finished_is_not_read(tmp_path):
    written(tmp_path, range(5))
    (tmp_path / "shard_000_00001.json").unlink()
    assert len(Reader(tmp_path)) == 3
    assert len(written(tmp_path, (3, 4))) == 5
    reader = Reader(tmp_path)
    np.testing.assert_allclose(reader.features("picture/4", image(4)), features(4), rtol=1e-3)


def test_numbers_beyond_16_bits_are_refused(tmp_path):
    writer = Writer(tmp_path / "a", HEADER)
    with pytest.raises(DataError, match="not finite in float16: write --dtype bfloat16"):
        writer.add("large", image(0), np.full(HEADER.shape, 1e6, np.float32))
    for dtype in ("bfloat16", "int8"):
        writer = Writer(tmp_path / dtype, dataclasses.replace(HEADER, dtype=dtype))
        with pytest.raises(DataError, match=f"the features of nan are not finite in {dtype}"):
            writer.add("nan", image(0), np.full(HEADER.shape, np.nan, np.float32))
    other = Writer(tmp_path / "b", dataclasses.replace(HEADER, dtype="bfloat16"))
    other.add("large", image(0), np.full(HEADER.shape, 1e6, np.float32))


def test_another_format_is_refused(tmp_path):
    written(tmp_path, range(1))
    path = tmp_path / stored_features.HEADER
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1}))
    with pytest.raises(DataError, match="another format than 3"):
        Reader(tmp_path)


def test_a_view_brings_them_along(tmp_path):
    record = Record("picture/1", Pixels(np.zeros((30, 40, 3), np.uint8)))
    made = framed.view(record, FramedConfig(image_px=64), np.random.default_rng(0))
    writer = Writer(tmp_path, HEADER)
    writer.add("picture/1#0", made["image"], features(1))
    writer.close()
    config = FramedConfig(image_px=64, features=str(tmp_path))
    made = framed.view(record, config, np.random.default_rng(0))
    np.testing.assert_allclose(made["target"], features(1), rtol=1e-3)
    with pytest.raises(ConfigError, match="no features of picture/7#0"):
        framed.view(dataclasses.replace(record, name="picture/7"), config, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="stored features are those of pictures as they are"):
        dataclasses.replace(config, flip="horizontal")


def test_crops_that_are_stored_are_those_of_every_run(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    record = Record("picture/1", Pixels(pixels))
    config = CropConfig(image_px=32, crops=3)
    assert views.fixed(config) == 3 and views.fixed(CropConfig(image_px=32)) is None
    made = [views.make_fixed(record, config, k)["image"] for k in range(3)]
    assert len(np.unique(made, axis=0)) == 3
    writer = Writer(tmp_path, HEADER)
    for k in range(3):
        writer.add(f"picture/1#{k}", made[k], features(k))
    writer.close()
    config = dataclasses.replace(config, features=str(tmp_path))
    seen = set()
    for seed in range(40):  # any seed and epoch gives one of them, with its own features
        view = views.make(record, config, np.random.default_rng(seed))
        assert view is not None
        (k,) = [k for k in range(3) if (made[k] == view["image"]).all()]
        np.testing.assert_allclose(view["target"], features(k), rtol=1e-3)
        seen.add(k)
    assert seen == {0, 1, 2}
    other = dataclasses.replace(record, name="picture/2")
    assert not (views.make_fixed(other, config, 0)["image"] == made[0]).all()
    with pytest.raises(ConfigError, match=r"write --data\.view\.crops N"):
        CropConfig(image_px=32, features=str(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"shape": None},
        {"shape": "abc"},
        {"shape": [2, 3]},
        {"shape": [2, 3, 0]},
        {"shape": [2, 3, True]},
        {"dtype": "int4"},
        {"dtype": []},
        {"teacher": 3},
        {"view": None},
    ],
)
def test_a_damaged_header_is_refused_by_name(tmp_path, change):
    written(tmp_path, range(1))
    path = tmp_path / stored_features.HEADER
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=r"features\.json is damaged"):
        Reader(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"names": None},
        {"names": [3, 4]},
        {"names": ["picture/0"]},
        {"seen": None},
        {"seen": []},
        {"seen": ["zz", "zz"]},
        {"seen": [3, 4]},
        {"seen": ["00", "00"]},
        {"seen": ["00" * 15, "00" * 16]},
    ],
)
def test_a_damaged_list_of_a_shard_is_refused_by_name(tmp_path, change):
    written(tmp_path, range(2))
    path = tmp_path / "shard_000_00000.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=r"shard_000_00000\.json is damaged"):
        Reader(tmp_path)


@pytest.mark.parametrize("weights", ["0123", "4567"])
def test_hosts_that_begin_at_the_same_time(tmp_path, monkeypatch, weights):
    """One writes the header while the other looks at the folder; both must be of one teacher."""
    write, other = files.write, dataclasses.replace(HEADER, weights=weights)

    def at_once(path, content):
        unfinished = path.with_name(f".{path.name}.0123.another_host-1.new")
        unfinished.write_text("")  # what the first host sees of the second, and the reverse
        monkeypatch.setattr(files, "write", write)
        Writer(tmp_path, HEADER)
        write(path, content)
        write(path, other.to_json())

    monkeypatch.setattr(files, "write", at_once)
    if weights == HEADER.weights:
        Writer(tmp_path, HEADER, part=1)
        return
    with pytest.raises(ConfigError, match="weights '4567' instead of '0123'"):
        Writer(tmp_path, HEADER, part=1)


def test_fixed_crops_are_those_that_were_stored_before(monkeypatch):
    """Of every release: features of 257 GB are of these."""
    boxes = []

    def noted(*args):
        boxes.append(random_box(*args))
        return boxes[-1]

    random_box = crop._random_box
    monkeypatch.setattr(crop, "_random_box", noted)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    for number in range(3):
        views.make_fixed(Record("picture/1", Pixels(pixels)), CropConfig(crops=3), number)
    assert boxes == [(22, 0, 64, 49), (8, 5, 46, 36), (3, 4, 48, 44)]


def test_two_writers_of_one_part_do_not_mix_their_records(tmp_path):
    """The same command, started twice; each has its own names in the order of its records."""
    first, second = (Writer(tmp_path, HEADER, shard=3) for _ in range(2))
    for writer, numbers in ((first, (0, 1, 2)), (second, (2, 1, 0)), (first, (3,))):
        for number in numbers:
            writer.add(f"picture/{number}", image(number), features(number))
    first.close()
    names = sorted(path.stem for path in tmp_path.glob("shard_*.json"))
    assert names == ["shard_000_00000", "shard_000_00001", "shard_000_00002"]
    reader = Reader(tmp_path)
    for number in range(4):
        found = reader.features(f"picture/{number}", image(number))
        np.testing.assert_allclose(found, features(number), rtol=1e-3)


def test_what_a_killed_process_left_is_removed(tmp_path):
    written(tmp_path, range(3))
    left = tmp_path / f".shard_000_00001.array.0123.{files.HOST}-99999999.new"
    left.write_bytes(b"half of it")
    (tmp_path / "shard_000_00001.array_record").touch()
    assert len(written(tmp_path, (3, 4))) == 5 and not left.exists()


def test_threads_share_one_reader_of_a_folder(tmp_path, monkeypatch):
    """An index of millions of views takes a minute, and a gigabyte."""
    written(tmp_path, range(2))
    made, together = [], threading.Barrier(4)

    class Slow(Reader):
        def __init__(self, folder):
            made.append(folder)
            time.sleep(0.05)
            super().__init__(folder)

    def get(_):
        together.wait(timeout=10)
        return stored_features.reader(str(tmp_path))

    monkeypatch.setattr(stored_features, "Reader", Slow)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(get, range(4)))
    assert len(made) == 1 and len(set(map(id, found))) == 1


def test_a_full_disk_is_named_and_what_is_written_is_kept(tmp_path, monkeypatch):
    """The library reports it in words alone."""
    written(tmp_path, range(3))
    make = stored_features.array_record_module.ArrayRecordWriter
    with monkeypatch.context() as patch:
        patch.setattr(
            stored_features.array_record_module,
            "ArrayRecordWriter",
            lambda path, options: make("/dev/full", options),
        )
        with pytest.raises(MissingError, match=r"shard_000_00001\S+ cannot be written .*No space"):
            written(tmp_path, (3, 4, 5))
    assert len(Reader(tmp_path)) == 3 and not list(tmp_path.glob(".*.new"))
    assert len(written(tmp_path, (3, 4, 5))) == 6
