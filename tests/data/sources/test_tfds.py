"""Data sets of tensorflow-datasets: which records there are, and what may be wrong with them."""

import contextlib
import dataclasses
import io
import json
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import tfds_sets
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from esam_jax import configs, files, sharding
from esam_jax.config import CropConfig, DataConfig, MeshConfig, PromptedConfig, TfdsConfig
from esam_jax.data import loader, record_files, sources
from esam_jax.data.examples import Examples, Tally
from esam_jax.data.record_files import Readers
from esam_jax.data.records import Record, Source, summary
from esam_jax.data.sources import tfds_folder
from esam_jax.errors import ConfigError, DataError, DiskError, EsamError, MissingError
from esam_jax.train import loop

NAME = re.compile(r"(train|validation)/\d{8} \(n(\d+)\.png\)")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with `tfds_sets.classes` in three files a split."""
    data_dir = tmp_path_factory.mktemp("tfds")
    tfds_sets.classes(data_dir, shards=3)
    return data_dir


@pytest.fixture
def data_dir(made: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made, tmp_path / "tfds"))


def opened(data_dir: Path, split: str = "train", **fields) -> Source:
    config = TfdsConfig(path=str(data_dir), **{"name": "tiny", "split": split, **fields})
    return sources.open_source(config)


def shard(data_dir: Path, number: int) -> Path:
    return data_dir / f"tiny/1.0.0/tiny-train.array_record-{number:05d}-of-00003"


def drawn(record: Record) -> int:
    """Which of the drawn pictures it is, by what the data set calls it."""
    found = NAME.fullmatch(record.picture.name)  # type: ignore
    assert found
    return int(found[2])


def edit(file: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


# ------------------------------------------------------------------------------------ records


def test_records_are_what_was_prepared(made: Path):
    source = opened(made)
    assert len(source) == 12
    assert [source.name(i) for i in (0, 1, 11)] == [f"train/{i:08d}" for i in (0, 1, 11)]
    records = [source.read(i) for i in range(12)]
    assert sorted(drawn(record) for record in records) == list(range(12))
    for record, index in zip(records, range(12), strict=True):
        number = drawn(record)
        assert record.name == source.name(index)
        assert (record.picture.rgb() == tfds_sets.picture(number)).all()
        label = record.annotation("label")
        assert (label.index, label.name) == (number % 3, ("ant", "bee", "cat")[number % 3])
        assert set(record.annotations) == {"label"} and not record.findings


def test_the_order_is_that_of_tensorflow_datasets(made: Path):
    """Its own decoder agrees with ours, for each record by its number."""
    import tensorflow_datasets as tfds

    theirs = tfds.builder_from_directory(str(made / "tiny/1.0.0")).as_data_source("train")  # type: ignore
    ours = opened(made)
    assert len(theirs) == len(ours)
    for i in range(len(ours)):
        record = ours.read(i)
        assert (theirs[i]["image"] == record.picture.rgb()).all()
        assert theirs[i]["label"] == record.annotation("label").index


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train[2:5]", ["train/00000002", "train/00000003", "train/00000004"]),
        ("train[:25%]", ["train/00000000", "train/00000001", "train/00000002"]),
        ("train[11:]+validation[:1]", ["train/00000011", "validation/00000000"]),
        ("validation[-1:]+train[3:4]", ["validation/00000002", "train/00000003"]),
    ],
)
def test_a_record_has_one_name_in_every_part_of_its_split(made: Path, split: str, names: list[str]):
    part, full = opened(made, split), {name: opened(made, name) for name in ("train", "validation")}
    assert [part.name(i) for i in range(len(part))] == names
    for i, name in enumerate(names):
        base, number = name.split("/")
        same = full[base].read(int(number))
        assert same.name == name and (same.picture.rgb() == part.read(i).picture.rgb()).all()


def test_threads_and_processes_read_the_same(made: Path):
    source = opened(made)
    expected = [pixels(source, i) for i in range(12)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(pixels, [source] * 96, list(range(12)) * 8)) == expected * 8
    sent = pickle.dumps(source)  # after files were opened here
    assert [pixels(pickle.loads(sent), i) for i in range(12)] == expected


@pytest.mark.slow  # starts an interpreter
def test_another_process_opens_the_files_for_itself(made: Path):
    source = opened(made)
    expected = [pixels(source, i) for i in range(12)]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(pixels, [source] * 12, range(12))) == expected


@pytest.mark.slow  # starts interpreters
def test_worker_processes_make_the_same_batches(made: Path):
    mesh, source = sharding.make_mesh(MeshConfig(data=8)), opened(made)
    config = DataConfig(
        source=TfdsConfig(path=str(made), name="tiny"), view=CropConfig(image_px=8), threads=2
    )
    found = []
    for workers in (0, 2):
        each = dataclasses.replace(config, workers=workers)
        with loader.stream(source, each, seed=3, batch=8, mesh=mesh) as stream:
            found.append([np.asarray(next(stream)["image"]) for _ in range(4)])
    assert (np.stack(found[0]) == np.stack(found[1])).all()


@pytest.mark.slow  # compiles the network
def test_sami_trains_from_it(made: Path, tmp_path: Path):
    """As `esam train quickstart_sami` does; the loss falls on twelve pictures."""
    run = configs.load("quickstart_sami")
    data = dataclasses.replace(run.data, source=TfdsConfig(path=str(made), name="tiny"))
    run = dataclasses.replace(
        run,
        data=data,
        steps=10,
        batch=8,
        log_every_steps=1,
        optim=dataclasses.replace(run.optim, warmup_steps=2),
    )
    last = loop.run(run, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert last["step"] == 10 and np.isfinite(losses).all() and losses[-1] < losses[0] / 2
    (start,) = [line for line in lines if line.get("event") == "start"]
    assert start["records"] == summary(opened(made))


def pixels(source: Source, index: int) -> bytes:
    return source.read(index).picture.rgb().tobytes()


def test_a_part_is_held_out_by_name(made: Path):
    parts = [opened(made, part=part, heldout=4) for part in ("train", "heldout")]
    names = [{part.name(i) for i in range(len(part))} for part in parts]
    assert [len(each) for each in names] == [8, 4] and not names[0] & names[1]


def test_neither_tensorflow_nor_the_network_is_used(made: Path, tmp_path: Path):
    """A TensorFlow that can be imported is not."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow/__init__.py").write_text("raise SystemExit('TensorFlow is imported')")
    code = (
        "import socket, sys\n"
        "def refuse(*_): sys.exit('the network is used')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import esam_jax\n"
        "from esam_jax.data import records, sources\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"config = esam_jax.TfdsConfig(path={str(made)!r}, name='tiny')\n"
        "source = sources.open_source(config)\n"
        "records.summary(source)\n"
        "assert source.read(3).picture.rgb().shape == (20, 30, 3)\n"
        "assert source.read(3).annotation('label').name in ('ant', 'bee', 'cat')\n"
        "sys.exit('tensorflow' if 'tensorflow' in sys.modules else 0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------ opening


def test_the_latest_version_is_read_unless_one_is_named(tmp_path: Path):
    for version, count in (("1.9.0", 3), ("1.10.0", 4), ("1.2.0", 5)):
        tfds_sets.classes(tmp_path, count, name="coco", config="2017", version=version)
    sizes = {
        name: len(opened(tmp_path, name=name))
        for name in ("coco", "coco/2017", "coco/2017:1.2.0", "coco/2017:1.9.0")
    }
    assert sizes == {"coco": 4, "coco/2017": 4, "coco/2017:1.2.0": 5, "coco/2017:1.9.0": 3}
    assert len(opened(tmp_path / "coco/2017/1.9.0", name=None)) == 3
    with pytest.raises(MissingError, match=r"version 2\.0\.0: .*are 1\.2\.0, 1\.9\.0, 1\.10\.0$"):
        opened(tmp_path, name="coco/2017:2.0.0")
    shutil.copytree(tmp_path / "coco/2017", tmp_path / "coco/2014")
    with pytest.raises(ConfigError, match=r"\(2014, 2017\): .*--data.source.name coco/2014$"):
        opened(tmp_path, name="coco")


def test_a_data_set_in_two_formats_is_read_as_array_record(data_dir: Path):
    """As `tfds convert_format` leaves it, where TFRecord stays the first format."""
    names = [opened(data_dir).read(i).picture.name for i in range(12)]  # type: ignore
    edit(
        data_dir / "tiny/1.0.0/dataset_info.json",
        lambda c: c.update(fileFormat="tfrecord", alternativeFileFormats=["array_record"]),
    )
    source = opened(data_dir)
    assert [source.read(i).picture.name for i in range(12)] == names  # type: ignore


def test_the_folder_of_a_version_is_detected(data_dir: Path):
    folder = data_dir / "tiny/1.0.0"
    assert sources.detect(str(folder)) == TfdsConfig(path=str(folder))
    edit(folder / "dataset_info.json", lambda c: c["splits"].pop(0))
    found = sources.detect(str(folder))
    assert found == TfdsConfig(path=str(folder), split="validation")
    assert len(sources.open_source(found)) == 3


@pytest.mark.parametrize("place", ["outer/tiny", "outer", "."])
def test_a_folder_in_which_there_are_some_is_named_with_one_of_them(data_dir: Path, place: str):
    (data_dir / "outer").mkdir()
    (data_dir / "tiny").rename(data_dir / "outer/tiny")
    with pytest.raises(MissingError, match=r"tensorflow-datasets: .* such as .*/tiny/1\.0\.0, or"):
        sources.detect(str(data_dir / place))


def test_folders_of_pictures_are_not_searched_to_the_last_file(tmp_path: Path, monkeypatch):
    made, seen = tmp_path / "n01440764", []
    made.mkdir()
    for number in range(500):
        (made / f"{number}.JPEG").touch()
    entries = os.scandir

    def counted(path):
        with entries(path) as found:
            return contextlib.nullcontext(seen.append(x) or x for x in [*found])

    monkeypatch.setattr(tfds_folder.os, "scandir", counted)
    assert tfds_folder.below(tmp_path) is None
    assert len(seen) <= 1 + tfds_folder._LOOKED


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"name": "other"}, MissingError, r"other is not a folder: prepare .*; there are tiny$"),
        ({"name": "tiny/config"}, MissingError, r"config is not a folder.*; there are 1\.0\.0$"),
        ({"name": "tiny:9.0.0"}, MissingError, r"no prepared version 9\.0\.0: .* are 1\.0\.0$"),
        ({"name": None}, MissingError, r"no dataset_info.json .*--data.source.name; it holds tiny"),
        ({"split": "test"}, ConfigError, r"no split 'test' .*may be train, validation, or a part"),
        ({"split": "train[:x]"}, ConfigError, r"no split 'train\[:x\]'"),
        ({"split": ""}, ConfigError, "no split ''"),
        ({"split": "train[3:3]"}, DataError, "holds no record"),
        ({"split": "train[:5]+train[4:]"}, ConfigError, "00001-of-00003 twice"),
        ({"image": "label"}, ConfigError, "data.source.image is 'label', .* must be one of image"),
        ({"masks": "label"}, ConfigError, "data.source.masks is 'label', but it has none"),
    ],
)
def test_a_wrong_choice_is_refused_with_those_there_are(
    made: Path, fields: dict, error: type, message: str
):
    with pytest.raises(error, match=message):
        opened(made, **fields)


@given(st.text("ab0./:~\\-", max_size=12))
def test_no_name_leaves_the_data_dir(name: str):
    try:
        config = TfdsConfig(path="x", name=name)
    except ConfigError:
        return
    folder = os.path.normpath(os.path.join("x", str(config.name).partition(":")[0]))
    assert folder.startswith(f"x{os.sep}") and "\\" not in folder


@pytest.mark.parametrize(
    ("file", "change", "error", "message"),
    [
        (
            "dataset_info.json",
            lambda c: c.update(fileFormat="tfrecord"),
            ConfigError,
            "is prepared as tfrecord, but only array_record .* tfds convert_format --dataset_v",
        ),
        ("dataset_info.json", lambda c: c.pop("fileFormat"), ConfigError, "prepared as tfrecord"),
        ("dataset_info.json", lambda c: c.update(splits=7), DataError, "cannot be opened by tens"),
        ("dataset_info.json", lambda c: c.update(name=7), DataError, "cannot be opened by tensorf"),
        (
            "dataset_info.json",
            lambda c: c["splits"][0].update(filepathTemplate="../{SPLIT}.{FILEFORMAT}"),
            EsamError,
            "tiny/1.0.0",
        ),
        (
            "dataset_info.json",
            lambda c: c["splits"][0].update(filepathTemplate="/etc/hosts"),
            EsamError,
            "tiny/1.0.0",
        ),
        (
            "dataset_info.json",
            lambda c: c["splits"][0].update(name="../../x"),
            EsamError,
            "tiny/1.0.0",
        ),
        (
            "dataset_info.json",
            lambda c: c["splits"][0].update(shardLengths=["4", "4", "-4"]),
            DataError,
            "dataset_info.json: the split 'train' has a file of -4 records",
        ),
        (
            "dataset_info.json",
            lambda c: c["splits"][0].update(shardLengths=["4", "4", "1000000000000"]),
            DataError,
            "00002-of-00003 cannot hold 1000000000000 records, it has 131072 bytes",
        ),
        (
            "features.json",
            lambda c: c["featuresDict"]["features"]["label"].update(pythonClassName="this.Zen"),
            DataError,
            "features of the class 'this.Zen', but only those of tensorflow-datasets",
        ),
        (
            "features.json",
            lambda c: c["featuresDict"]["features"]["label"].update(
                pythonClassName="tensorflow_datasets.core.features.video_feature.Video"
            ),
            DataError,
            "features.video_feature.Video', which need TensorFlow: prepare",
        ),
        (
            "features.json",
            lambda c: c["featuresDict"]["features"]["label"].update(
                pythonClassName="tensorflow_datasets.none.None"
            ),
            DataError,
            "cannot be opened by tensorflow-datasets",
        ),
        ("features.json", lambda c: c.clear(), DataError, "cannot be opened by tensorflow-data"),
    ],
)
def test_a_description_that_is_wrong_is_refused(
    data_dir: Path, file: str, change: Callable, error: type, message: str
):
    edit(data_dir / "tiny/1.0.0" / file, change)
    with pytest.raises(error, match=message):
        opened(data_dir)
    assert "this" not in sys.modules


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\xff"])
@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_what_is_no_json_object_is_refused(data_dir: Path, file: str, text: str):
    (data_dir / "tiny/1.0.0" / file).write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=rf"{file}"):
        opened(data_dir)


def test_the_digest_follows_labels_and_pictures(data_dir: Path, tmp_path: Path):
    before = summary(opened(data_dir))
    assert re.match(r"12 records, names \w{12}, tfds \w{12}$", before)
    assert summary(opened(data_dir)) == before
    changed = bytearray(shard(data_dir, 1).read_bytes())
    at = changed.index(b"\x89PNG") + 40
    changed[at] ^= 1
    shard(data_dir, 1).write_bytes(changed)
    assert summary(opened(data_dir)) != before  # a record that cannot be read
    assert summary(opened(data_dir, "validation")) not in (before, summary(opened(data_dir)))


# ------------------------------------------------------------------------------------- faults


def flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[data.index(b"\x89PNG") + 60] ^= 0x10
    return bytes(changed)


@pytest.mark.parametrize(
    ("damage", "broken", "message"),
    [
        (flipped, 1, r"record \d of .*00001-of-00003 is broken \(RuntimeError: .*hash mismatch"),
        (lambda data: data[:65_536], 4, "cannot be read, the file is damaged"),
        (lambda data: data[:70_000], 4, "cannot be read, the file is damaged"),
        (lambda data: data[:100], 4, "cannot be read, the file is damaged .*at least 64KB"),
        (lambda data: bytes(131_072), 4, "cannot be read, the file is damaged"),
        (lambda data: data + b"more", 4, "cannot be read, the file is damaged"),
    ],
)
def test_a_damaged_file_costs_its_records(
    data_dir: Path, damage: Callable[[bytes], bytes], broken: int, message: str
):
    intact = opened(data_dir)
    expected = [pixels(intact, i) for i in range(12)]
    file = shard(data_dir, 1)
    file.write_bytes(damage(file.read_bytes()))
    source, failed = opened(data_dir), []
    for i in range(12):
        try:
            assert pixels(source, i) == expected[i]
        except DataError as error:
            assert str(error).startswith(f"{source.name(i)}: record ")
            assert str(file) in str(error) and re.search(message, str(error))
            failed.append(i)
    assert len(failed) == broken and set(failed) <= {4, 5, 6, 7}
    tally = Tally(examples := Examples(source, CropConfig(image_px=8), seed=0), 1.0)
    for position in range(12):
        tally.view_of(examples[position])
    assert set(tally.broken) == {source.name(i) for i in failed} and not tally.empty


def test_a_file_of_other_records_is_noticed(data_dir: Path):
    """As one that an earlier preparation has left, or a copy of a longer data set."""
    shutil.copy(shard(data_dir, 1), data_dir / "kept")
    other = tfds_sets.classes(data_dir / "other", 30, shards=3)
    shutil.copy(other / shard(data_dir, 1).name, shard(data_dir, 1))
    with pytest.raises(DataError, match=r"record 1 of .* the file has 10 records instead of 4: "):
        opened(data_dir).read(5)


def test_a_file_that_is_missing(data_dir: Path):
    source = opened(data_dir)
    shard(data_dir, 2).unlink()
    with pytest.raises(MissingError, match="00002-of-00003"):
        source.read(8)
    assert source.read(0).name == "train/00000000"
    with pytest.raises(MissingError, match="00002-of-00003"):
        opened(data_dir)
    assert len(opened(data_dir, "validation")) == 3
    shard(data_dir, 2).touch()
    with pytest.raises(DataError, match="00002-of-00003 cannot hold 4 records, it has 0 bytes"):
        opened(data_dir)


@pytest.mark.parametrize("method", ["read", "__len__"])
@pytest.mark.parametrize(("failures", "fails"), [(2, False), (3, True)])
def test_a_disk_that_does_not_answer_is_tried_again(
    made: Path, monkeypatch: pytest.MonkeyPatch, method: str, failures: int, fails: bool
):
    """And is no broken record: the same command may succeed later."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    monkeypatch.setattr(files, "_PAUSES", (0, 0))
    kind = Readers if method == "read" else ArrayRecordDataSource
    read, calls = getattr(kind, method), []

    def fail(self, *key):
        calls.append(key)
        if len(calls) <= failures:
            raise RuntimeError(f"pread() failed: {os.strerror(5)}; reading a file")
        return read(self, *key)

    source = opened(made)
    monkeypatch.setattr(kind, method, fail)
    if not fails:
        assert source.read(0).picture.rgb().shape == (20, 30, 3) and len(calls) == failures + 1
        return
    with pytest.raises(
        DiskError, match=r"^train/00000000: record 0 of .* cannot be read \(Runtime"
    ):
        source.read(0)


def test_few_files_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """ImageNet is prepared in 1024, as many as a process may open by default."""
    monkeypatch.setattr(record_files, "_OPEN", 3)
    tfds_sets.classes(tmp_path, count=12, shards=3)
    expected = [pixels(opened(tmp_path), i) for i in range(12)]
    monkeypatch.setattr(record_files, "_OPEN", 1)
    source, before = opened(tmp_path), len(os.listdir("/proc/self/fd"))
    for i in (0, 11, 5, *range(12)):
        assert pixels(source, i) == expected[i]
        assert len(os.listdir("/proc/self/fd")) <= before + 1


@pytest.mark.parametrize("flips", [1, 40])
def test_no_damage_gives_other_pixels_or_another_error(made: Path, tmp_path: Path, flips: int):
    """Bits of a file and its ends, at random: the record as it was, or an error of this package."""
    rng, tried = np.random.default_rng(flips), 0
    folder = Path(shutil.copytree(made, tmp_path / "tfds"))
    good, file = shard(made, 0).read_bytes(), shard(folder, 0)
    used = np.flatnonzero(np.frombuffer(good, np.uint8))
    expected = [pixels(opened(made), i) for i in range(4)]
    source = opened(folder)
    for _ in range(60):
        changed = bytearray(good)
        for at in rng.choice(used, flips):
            changed[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(changed[: int(rng.integers(len(good)))] if rng.random() < 0.3 else changed)
        fresh = pickle.loads(pickle.dumps(source))  # which opens the files again
        for i in range(4):
            try:
                assert pixels(fresh, i) == expected[i]
            except DataError:
                tried += 1
    assert tried > 20


RECORDS = {
    "picture": ({"image": b"\xff\xd8\xff" + bytes(40)}, "broken JPEG"),
    "gif": ({"image": b"GIF89a" + bytes(40)}, "not a JPEG, PNG or WebP picture"),
    "nothing": ({"image": b""}, "the file is empty"),
    "bomb": (
        {"image": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\x01\0\0\0\x01\0\0" + bytes(20)},
        "the picture is 65536 x 65536, but",
    ),
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(names=["ant", "bee"]),
        "file_name": tfds.features.Text(),
    }
    sound = {"image": tfds_sets.encoded(tfds_sets.picture(0)), "label": -1}
    records = [{**sound, **each, "file_name": kind} for kind, (each, _) in RECORDS.items()]
    named = {**sound, "file_name": "a\x1b[2Jb\n" + "c" * 500}
    folder = tmp_path_factory.mktemp("hostile")
    tfds_sets.prepare(folder, features, {"train": [*records, named]})
    return folder


def test_a_broken_picture_costs_its_record(hostile: Path):
    source, found = opened(hostile), set()
    for i in range(len(source)):
        try:
            source.read(i).picture.rgb()
        except DataError as error:
            kind = next(kind for kind in RECORDS if f"{source.name(i)} ({kind}): " in str(error))
            assert RECORDS[kind][1] in str(error)
            found.add(kind)
        else:
            name = source.read(i).picture.name  # type: ignore
            assert name == f"{source.name(i)} (a?[2Jb?{'c' * 93})"
    assert found == set(RECORDS)


def test_a_picture_without_a_class_can_be_read(hostile: Path):
    """As the test split of ImageNet has them."""
    source = opened(hostile)
    (record,) = [source.read(i) for i in range(5) if "2J" in named(source, i)]
    assert "label" in record.annotations and record.picture.rgb().shape == (20, 30, 3)
    with pytest.raises(DataError, match="its label is -1, of 2 classes: it has no class"):
        record.annotation("label")


def named(source: Source, index: int) -> str:
    try:
        return source.read(index).picture.name  # type: ignore
    except DataError as error:
        return str(error)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (b"no example", "train/00000000 is no tf.train.Example"),
        (b"", "train/00000000: image has no value instead of a bytes_list"),
        ({"image": [7]}, "train/00000000: image has a int64_list instead of a bytes_list"),
        ({"image": [b"a", b"b"]}, "train/00000000: image has 2 values instead of one"),
    ],
)
def test_a_record_that_is_none_is_broken(data_dir: Path, written, message: str):
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    if isinstance(written, dict):
        example = tf_example_pb2.Example()  # type: ignore
        for key, values in written.items():
            kind = "bytes_list" if isinstance(values[0], bytes) else "int64_list"
            getattr(example.features.feature[key], kind).value.extend(values)
        written = example.SerializeToString()
    writer = ArrayRecordWriter(str(shard(data_dir, 0)), "group_size:1")
    for _ in range(4):
        writer.write(written)
    writer.close()
    with pytest.raises(DataError, match=message):
        opened(data_dir).read(0)


def test_a_view_that_needs_more_is_refused_when_the_data_is_opened(made: Path):
    config = TfdsConfig(path=str(made), name="tiny")
    with pytest.raises(ConfigError) as caught:
        sources.open_source(config, needs=PromptedConfig(image_px=32).needs)
    assert str(caught.value) == (
        "the source 'tfds' has no masks here: it has no list of masks; the features are file_name "
        "(Text), image (Image), label (ClassLabel)"
    )
    assert dataclasses.replace(config, part="train", heldout=2).annotations >= {"masks", "label"}
    assert len(sources.open_source(config, needs=frozenset({"label"}))) == 12


def test_a_jpeg_is_decoded_at_a_scale(tmp_path: Path):
    """The bytes reach the decoder of this package, which may decode a part of the resolution."""
    import tensorflow_datasets as tfds

    large = tfds_sets.encoded(tfds_sets.picture(1, 400, 600), "JPEG")
    tfds_sets.prepare(tmp_path, {"image": tfds.features.Image()}, {"train": [{"image": large}]})
    record = opened(tmp_path).read(0)
    assert (record.picture.height, record.picture.width) == (400, 600)
    assert record.picture.rgb((50, 50)).shape == (50, 75, 3)
    assert (record.picture.rgb() == np.asarray(Image.open(io.BytesIO(large)))).mean() > 0.9
