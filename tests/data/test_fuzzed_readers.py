"""Readers of files from outside, given any bytes: what they read, or an error of the package.

In bounded memory and time. ESAM_FUZZ_CASES sets the number of cases of each reader; a failure
names its case, which is the same at every run.
"""

import contextlib
import hashlib
import json
import os
import random
import signal
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from helpers import damaged_sets, made_sets, memory, tar_files
from helpers.fuzzing import altered, damaged, read_all

from esam_jax.config import CocoConfig, PackConfig, Sa1bConfig
from esam_jax.data import packed_records, packs, sources, tar_index, tars
from esam_jax.data.bitmaps import Grid
from esam_jax.data.records import Record
from esam_jax.errors import EsamError
from esam_jax.ops import regions

FEW, MANY = 60, 300
MOST_BYTES = 2**27  # at the peak, of readers of some kilobytes
MOST_SECONDS = 20

Read = Callable[[random.Random], Any]


def sa1b_json(root: Path) -> Read:
    """Bytes of it, or values in it."""
    folder = made_sets.sa1b(root, 5)
    path = folder / "sa_4.json"
    good, source = path.read_bytes(), sources.open_source(Sa1bConfig(path=str(folder)))

    def read(rng: random.Random) -> None:
        path.write_bytes(tree_or_bytes(good, rng))
        record = source.read(4)
        assert decoded(record) <= len(made_sets.masks(4)) + 3  # which damage may repeat

    return read


def decoded(record: Record) -> int:
    """The masks of a record that can be decoded."""
    picture, count = record.picture, 0
    for index in range(len(masks := record.annotations.get("masks", ()))):
        with contextlib.suppress(EsamError):
            grid = Grid.whole(picture.height, picture.width)
            assert masks.sample(index, grid).dense().shape == (picture.height, picture.width)
            count += 1
    return count


def coco_json(root: Path) -> Read:
    path = made_sets.coco(root / "coco", 3, {"categories": [{"id": 1, "name": "thing"}]})
    good = path.read_bytes()

    def read(rng: random.Random) -> None:
        path.write_bytes(tree_or_bytes(good, rng))
        read_all(CocoConfig(path=str(path)))

    return read


def tree_or_bytes(good: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return altered(good, rng)
    return json.dumps(tree(json.loads(good), rng)).encode()


def tree(content: Any, rng: random.Random) -> Any:
    return damaged(content, np.random.default_rng(rng.getrandbits(32)))


def run_lengths(root: Path) -> Read:
    """Text and lists of counts, and sizes, of masks of any form."""

    def read(rng: random.Random) -> None:
        shape = rng.randint(1, 40), rng.randint(1, 40)
        mask = np.random.default_rng(rng.getrandbits(32)).random(shape) < rng.random()
        rle, what = regions.to_rle(mask), rng.randrange(3)
        if what == 0:
            rle["counts"] = altered(rle["counts"].encode(), rng)
        elif what == 1:
            rle = tree(rle if rng.random() < 0.5 else regions.to_runs(mask), rng)
        else:  # the sum stays what it is
            counts, moved = regions.to_runs(mask)["counts"], rng.randint(-3, 9)
            counts[rng.randrange(len(counts))] += moved
            counts[rng.randrange(len(counts))] -= moved
            rle = {"size": rle["size"], "counts": counts}
        found = regions.from_rle(rle)
        assert found.dtype == bool and [*found.shape] == [int(side) for side in rle["size"]]
        assert regions.from_rle(regions.to_rle(found)).tobytes() == found.tobytes()

    return read


def index_of_tar(root: Path) -> Read:
    """Of which half have the right checksum again: bytes, values of its JSON, or its rows."""
    tar = root / "x.tar"
    tar.write_bytes(tar_files.packed(*((f"d/sa_{i}.jpg", bytes(700 + i)) for i in range(9))))
    built, file = tar_index.build(tar), tars.index_file(tar, tar, None)
    tar_index.write(built, file)
    good = file.read_bytes()
    end = 48 + int.from_bytes(good[40:48], "little")

    def read(rng: random.Random) -> None:
        if rng.random() < 0.5:
            file.write_bytes(altered(good, rng))
        else:
            about, rows = good[48:end], good[end:]
            if rng.random() < 0.5:
                about = tree_or_bytes(about, rng)
            if rng.random() < 0.5:
                rows = altered(rows, rng)
            rest = len(about).to_bytes(8, "little") + about + rows
            file.write_bytes(good[:8] + hashlib.sha256(rest).digest() + rest)
        index, opened = tar_index.read(file, built.stamp), tars.OpenFiles()
        endings, known = index.endings()
        assert len(endings) == len(index) and all(known[i].isprintable() for i in endings.tolist())
        for row, (_, _, _, block, size) in enumerate(index.rows.tolist()):
            assert len(opened.read(tar, index.stamp, block * 512, size)) == size
            assert index.name(row).isprintable()

    return read


def headers_of_tar(root: Path) -> Read:
    """Of a tar with a tar in it, most with the checksum that goes with it."""
    inner = tar_files.packed(("b1.jpg", b"b" * 700), ("é" * 80 + ".jpg", b"z"), form=2)
    good = tar_files.packed(("a.jpg", b"a" * 700), ("n.tar", inner), ("l" * 150 + "9.jpg", b"l"))
    heads = [at for at in range(0, len(good), 512) if good[at + 257 : at + 262] == b"ustar"]
    path = root / "x.tar"

    def read(rng: random.Random) -> None:
        broken = bytearray(altered(good, rng) if rng.random() < 0.5 else good)
        for head in rng.choices(heads, k=rng.randint(0, 2)):
            broken[head : head + 512] = altered(bytes(broken[head : head + 512]), rng)[:512]
            broken[head + 148 : head + 156] = b" " * 8
            broken[head + 148 : head + 156] = b"%06o\0 " % sum(broken[head : head + 512])
        path.write_bytes(broken)
        index = tar_index.build(path)
        for row, (_, _, _, block, size) in enumerate(index.rows.tolist()):
            name = index.name(row)
            assert block * 512 + size <= len(broken)
            assert not name.startswith("/") and ".." not in name.split("/")

    return read


def shard_of_pack(root: Path) -> Read:
    """What has a checksum is as it was, or an error."""
    config = damaged_sets.FORMS["pack"](root, lambda folder: None)
    folder = Path(str(config.path))
    manifest = packs.read_manifest(folder)
    path = folder / manifest.shards[0].file
    good = path.read_bytes()
    count = manifest.shards[0].records
    source = sources.open_source(config)
    expected = [source.read(index).picture.rgb().tobytes() for index in range(count)]

    def read(rng: random.Random) -> None:
        broken = altered(good, rng)
        if rng.random() < 0.5:  # of the right length, which is what is compared at the start
            broken = broken[: len(good)].ljust(len(good), b"\0")
        path.write_bytes(broken)
        opened, wrong = sources.open_source(PackConfig(path=str(folder))), []
        for index in range(count):
            try:
                assert opened.read(index).picture.rgb().tobytes() == expected[index]
            except EsamError as error:
                wrong.append(error)
        if wrong:
            raise wrong[0]

    return read


def record_of_pack(root: Path) -> Read:
    """With the right checksum: bytes of its MessagePack, or values in it."""
    config = damaged_sets.FORMS["pack"](root, lambda folder: None)
    record = sources.open_source(config).read(3)
    good, pixels = packed_records.encode(record)[4:], record.picture.height * record.picture.width
    more = {
        "semantic": ["uint8", zlib.compress(bytes(pixels)), [[0, "a"]], [1]],
        "boundaries": [1, zlib.compress(bytes(-(-pixels // 8)))],
        "federated": [[1, 2], []],
        "label": [1, "bee"],
    }

    def read(rng: random.Random) -> None:
        content = {**msgpack.unpackb(good), **more}
        if rng.random() < 0.5:
            content = tree(content, rng)
        try:
            packed = msgpack.packb(content, unicode_errors="surrogatepass")
        except (OverflowError, ValueError):  # numbers that MessagePack does not have
            return
        if rng.random() < 0.5:
            packed = altered(packed, rng)
        record = packed_records.decode_record(zlib.crc32(packed).to_bytes(4, "little") + packed)
        assert record.picture.rgb().shape[:2] == (record.picture.height, record.picture.width)
        decoded(record)

    return read


def manifest_of_pack(root: Path) -> Read:
    """Its jsons and lists; what is opened is read."""
    config = damaged_sets.FORMS["pack"](root, lambda folder: None)
    folder = Path(str(config.path))
    good = {name: (folder / name).read_bytes() for name in (packs.MANIFEST, packs.IDS)}

    def read(rng: random.Random) -> None:
        for name, content in good.items():
            (folder / name).write_bytes(content)
        manifest = tree_or_bytes(good[packs.MANIFEST], rng)
        if rng.random() < 0.3:
            ids = altered(good[packs.IDS], rng)
            (folder / packs.IDS).write_bytes(ids)
            about = json.loads(good[packs.MANIFEST])
            manifest = json.dumps(about | {"ids_sha256": hashlib.sha256(ids).hexdigest()}).encode()
        (folder / packs.MANIFEST).write_bytes(manifest)
        read_all(PackConfig(path=str(folder)))
        opened = sources.open_source(PackConfig(path=str(folder)))
        assert len(opened) and opened.digest()
        assert all(text.startswith(str(folder)) for text in opened.damage())

    return read


READERS = {
    each.__name__: each
    for each in (
        sa1b_json,
        coco_json,
        run_lengths,
        index_of_tar,
        headers_of_tar,
        shard_of_pack,
        record_of_pack,
        manifest_of_pack,
    )
}


@contextlib.contextmanager
def little_time() -> Iterator[None]:
    """Interrupts what takes too long."""

    def interrupt(*_: object) -> None:
        raise AssertionError(f"it has not ended after {MOST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("cases", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("reader", READERS)
def test_f31_any_bytes_are_read_or_refused(tmp_path: Path, reader: str, cases: int):
    cases = int(os.environ.get("ESAM_FUZZ_CASES", cases))
    read = READERS[reader](tmp_path)
    outcomes = {"read": 0, "refused": 0}
    begin = time.monotonic()
    for case in range(cases):
        with memory.at_most(MOST_BYTES), little_time():
            try:
                read(random.Random(f"{reader} {case}"))
                outcomes["read"] += 1
            except EsamError:
                outcomes["refused"] += 1
            except BaseException as error:
                error.add_note(f"case {case} of {reader}")
                raise
    print(f"{reader}: {cases} cases in {time.monotonic() - begin:.0f} s, {outcomes}")
    # Damage that is never, or always, refused tests nothing.
    assert min(outcomes.values()) > cases / 30
