"""Every fault of data in the forms that can have it: skipped and counted, or refused by name.

A row of `FAULTS` says how a small data set is damaged, and what `esam data check` and a run make of
it. Worker processes that die: `test_workers.py`; reads that never return: `test_hanging_reads.py`.
"""

import dataclasses
import itertools
import json
import os
import re
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from chaos import supervisor
from helpers import damaged_sets as sets
from helpers import memory, tar_files
from helpers.damaged_sets import annotation, file, flipped

from esam_jax import cli, sharding
from esam_jax.config import CropConfig, DataConfig, MeshConfig, PromptedConfig
from esam_jax.data import loader, sources
from esam_jax.errors import EsamError, TrainingError
from esam_jax.train.telemetry.data_news import DataNews

MOST_BYTES = 2**25  # that a set of kilobytes may take to be read
POSITIONS = 3 * sets.RECORDS  # that a run reads, and a few more


@dataclasses.dataclass(frozen=True)
class Broken:
    """So many records, with this said of each; `damaged` is a file that `check` names, too."""

    said: str
    count: int = 1
    damaged: str | None = None


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """`count` of a kind of finding; `gone` records are not in the data for it."""

    kind: str
    said: str
    count: int = 1
    gone: int = 0


@dataclasses.dataclass(frozen=True)
class Refused:
    """Nothing is read; the error says this."""

    said: str


HARMLESS = LeftOut("", "", 0)
Expected = Broken | LeftOut | Refused
Row = tuple[str, sets.Damage, Expected]


def dropped(said: str) -> LeftOut:
    """By `esam data pack`, which decodes what it packs."""
    return LeftOut("pictures_left_out", rf"was dropped when it was packed: .*{said}", gone=1)


def of_pictures(change: Callable[[bytes], bytes], said: str) -> list[Row]:
    """Rows of a picture that is damaged before it is put into an archive or a pack."""
    damage = file(f"sa_{sets.PICTURE}.jpg", change)
    return [
        ("folder", damage, Broken(rf"sa1b/sa_3\.jpg: .*{said}")),
        ("tar", damage, Broken(rf"a\.tar, byte \d+: sa_3\.jpg: .*{said}")),
        ("pack", damage, dropped(said)),
        ("image folder", damage, Broken(rf"sa1b/sa_3\.jpg: .*{said}")),
        ("image tar", damage, Broken(rf"a\.tar, byte \d+: sa_3\.jpg: .*{said}")),
    ]


def of_objects(change: Callable[[dict], Any], said: str, kind: str = "objects_left_out") -> list:
    """Rows of an object that is left out of its picture, which the other objects stay in."""
    damage = annotation(change)
    name = {True: r"sa_3\.jpg: mask 1 \(id 1\)", False: r"0{11}3\.png: mask 1 \(id 31\)"}
    return [
        (form, damage, LeftOut(kind, f"{name['coco' not in form]}.*{said}"))
        for form in ("folder", "tar", "pack", "coco", "coco pack")
    ]


def with_counts(counts: Any) -> Callable[[dict], Any]:
    return lambda entry: entry.update(segmentation={"size": sets.size(), "counts": counts})


def with_polygon(*points: float) -> Callable[[dict], Any]:
    return lambda entry: entry.update(segmentation=[[*points]])


def png(width: int, height: int) -> bytes:
    """The header of a PNG of this size, with a little data."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10**6))
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def repacked(change: Callable[[dict], Any]) -> sets.Damage:
    """The first record of a pack with other values, and the right checksums."""

    def of_record(record: bytes) -> bytes:
        content = msgpack.unpackb(record[4:])
        change(content)
        packed = msgpack.packb(content)
        return zlib.crc32(packed).to_bytes(4, "little") + packed

    return sets.first_record(of_record)


def missing(name: str) -> sets.Damage:
    return lambda folder: (folder / name).unlink()


def large_json(folder: Path) -> None:
    """More bytes than are read, without any on the disk."""
    with (folder / f"sa_{sets.PICTURE}.json").open("wb") as large:
        large.truncate(2**26 + 1)


SHARD, TFDS = "shard-00000-of-00002.array_record", "tiny-train.array_record-00000-of-00002"
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG"
HEIGHT, WIDTH = sets.size()
IN_SHARD = r"shard-00000-of-00002\.array_record: record 0 \(sa_0\.jpg\)"
LED_OUT = LeftOut(
    "members_left_out",
    r"a\.tar: links \(2\), names that cannot be shown \(1\), names that lead out of the archive "
    r"\(3\), special files \(1\)$",
    7,
)

FAULTS: dict[str, list[Row]] = {
    "a JPEG that is cut short": [
        *of_pictures(sets.half, "broken JPEG picture"),
        (
            "pack itself",
            repacked(lambda record: record.update(picture=sets.half(record["picture"]))),
            Broken(f"{IN_SHARD}: broken JPEG picture", damaged=None),
        ),
    ],
    "a corrupt JPEG": of_pictures(sets.without_tables, "broken JPEG picture"),
    "an empty picture": of_pictures(lambda data: b"", "the file is empty"),
    "a picture that is none": of_pictures(lambda data: b"<html>", "not a JPEG, PNG or WebP"),
    "a flipped bit in a shard": [
        (
            "pack itself",
            file(SHARD, flipped(JPEG, 60)),
            Broken(f"{IN_SHARD} cannot be read", damaged=r"shard-00000\S+: its checksum is wrong"),
        ),
        (
            "tfds",
            file(TFDS, flipped(PNG, 60)),
            Broken(r"train/0{7}\d: record \d of .*00000-of-00002 is broken .*hash mismatch"),
        ),
        ("tar itself", file("", flipped(b"sa_11.jpg", 1)), Refused(r"a\.tar.* cut short")),
        ("pack itself", file("ids.txt", flipped(b"sa_3", 3)), Refused(r"ids\.txt is damaged")),
    ],
    "a shard that is missing": [
        ("pack itself", missing(SHARD), Refused(r"shard-00000-of-00002\S* cannot be read")),
        ("tfds", missing(TFDS), Refused("00000-of-00002 cannot be read")),
        ("tar itself", lambda path: path.unlink(), Refused(r"a\.tar cannot be read")),
    ],
    "a shard that is cut short": [
        ("pack itself", file(SHARD, sets.half), Refused(r"shard-00000\S+ has \d+ bytes, but was")),
        (
            "tfds",
            file(TFDS, sets.half),
            Broken(r"record \d of .*00000-of-00002 cannot be read, the file is damaged", 8),
        ),
        ("tar itself", file("", sets.half), Refused(r"a\.tar.* cut short|a\.tar is not an intact")),
        ("image tar itself", file("", sets.half), Refused(r"a\.tar")),
    ],
    "runs that do not sum to the picture": [
        *of_objects(with_counts([5, 9]), "run lengths sum to 14"),
        *of_objects(with_counts([HEIGHT * WIDTH, 1]), f"sum to {HEIGHT * WIDTH + 1}"),
        *of_objects(with_counts("00"), "sum to 0"),
    ],
    "a polygon of two points": of_objects(with_polygon(1, 1, 9, 9), "needs three or more"),
    "a polygon outside": [
        *of_objects(with_polygon(1, 1, 9, 9, 1e9, 3), "leaves its .* picture"),
        *of_objects(with_polygon(1, 1, 9, 9, float("nan"), 3), "not finite"),
    ],
    "a polygon that is partly outside": [
        (form, annotation(with_polygon(-4, -4, 20, -4, 20, 20)), HARMLESS)
        for form in ("folder", "tar", "pack", "coco", "coco pack")
    ],
    "a box of no area": [  # nothing is made of it: the mask has the object's
        (form, annotation(lambda entry: entry.update(bbox=[3, 3, 0, 0])), HARMLESS)
        for form in ("folder", "tar", "pack", "coco", "coco pack")
    ],
    "a mask of no area": [
        *of_objects(with_polygon(3, 3, 3, 3, 3, 3), "covers no pixel"),
        *of_objects(with_counts([HEIGHT * WIDTH]), "covers no pixel"),
    ],
    "ids of several objects": [
        (form, annotation(lambda entry: entry.update(id=30)), LeftOut("ids_repeated", "the id 30"))
        for form in ("coco", "coco pack")
    ]
    + [
        (form, annotation(lambda e: e.update(id=0)), HARMLESS) for form in ("folder", "tar", "pack")
    ],
    "gaps between categories": [
        (form, sets.categories(1, 90, used=90), HARMLESS) for form in ("coco", "coco pack")
    ]
    + [
        (
            form,
            sets.categories(1, 90, used=5),
            LeftOut("categories_unknown", "category '5', which is not", 3 * sets.RECORDS),
        )
        for form in ("coco", "coco pack")
    ],
    "a json that is none": [
        (form, file("sa_3.json", sets.half), Broken(rf"{where}sa_3\.jpg is not valid JSON"))
        for form, where in (("folder", ""), ("tar", r"a\.tar, byte \d+: "))
    ]
    + [
        ("pack", file("sa_3.json", sets.half), dropped("is not valid JSON")),
        ("coco", file("instances.json", sets.half), Refused(r"instances\.json is not valid JSON")),
        ("pack itself", file("pack.json", sets.half), Refused(r"pack\.json is not valid JSON")),
        ("tfds", file("features.json", sets.half), Refused(r"features\.json")),
        ("tfds", file("dataset_info.json", sets.half), Refused(r"dataset_info\.json")),
    ],
    "a json of something else": [
        ("folder", file("sa_3.json", lambda data: b"[7]"), Broken("holds a list")),
        ("tar", file("sa_3.json", lambda data: b"[7]"), Broken(r"a\.tar.* holds a list")),
        ("pack", file("sa_3.json", lambda data: b"{}"), dropped("has no 'annotations'")),
        ("coco", file("instances.json", lambda data: b"{}"), Refused("has no 'images'")),
        ("pack itself", file("pack.json", lambda data: b"{}"), Refused("has the format None")),
        ("pack itself", sets.first_record(lambda data: data + b"x"), Broken(f"{IN_SHARD}: .*sum")),
        ("tfds", file("features.json", lambda data: b"{}"), Refused(r"1\.0\.0 cannot be opened")),
    ],
    "members of archives with hostile names": [
        ("tar itself", sets.hostile_members, LED_OUT),
        ("image tar itself", sets.hostile_members, LED_OUT),
    ],
    "a bomb": [
        *of_pictures(lambda data: png(30_000, 30_000), "30000 x 30000, but at most"),
        *of_pictures(lambda data: png(16_385, 1), "16385 x 1, but at most"),
        ("folder", large_json, Broken("67108865 bytes, but at most 67108864 are read")),
        (
            "tar itself",
            file("", tar_files.with_size(b"%011o\0" % 2**32)),
            Refused(r"a\.tar: the archive is cut short"),
        ),
        (
            "pack itself",
            repacked(lambda content: content.update(picture=png(30_000, 30_000))),
            Broken(rf"{IN_SHARD}: .*30000 x 30000, but at most"),
        ),
        (
            "pack itself",
            repacked(
                lambda content: content.update(
                    semantic=["uint8", zlib.compress(bytes(2**26)), [], []]
                )
            ),
            Broken(rf"{IN_SHARD}: .*an annotation has not the \d+ bytes"),
        ),
    ],
}
# In the fast tier the first row of a fault, and those of files that have several records.
ROWS = [
    pytest.param(
        *row,
        id=f"{fault}, {row[0]} {number}",
        marks=[pytest.mark.slow] if number and "itself" not in row[0] else [],
    )
    for fault, rows in FAULTS.items()
    for number, row in enumerate(rows)
]


def checked(config: Any, capsys: pytest.CaptureFixture) -> tuple[int, dict[str, Any], str]:
    """What `esam data check` says: exit code, report, stderr."""
    capsys.readouterr()  # of what prepared it
    argv = ["data", "check", config.path, "--data.source.kind", config.kind, "--json"]
    code = cli.main([*argv, "--workers", "1", "--max-broken-share", "0.5"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


def stream(config: Any, most: float = 0.5) -> loader.Stream:
    has_masks = "masks" in config.annotations and config.kind != "tfds"
    prompted = PromptedConfig(image_px=32, masks=8, min_area_px=1)
    view = prompted if has_masks else CropConfig(image_px=16)
    data = DataConfig(source=config, view=view, threads=2, max_broken_share=most)
    mesh = sharding.make_mesh(MeshConfig(data=1))
    return loader.stream(sources.open_source(config), data, seed=3, batch=8, mesh=mesh)


def logged(config: Any) -> dict[str, Any]:
    """What a run writes to metrics.jsonl of its data."""
    with stream(config) as batches, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*data so far: ")
        for _ in itertools.repeat(None, POSITIONS // 8):
            next(batches)
        return DataNews(batches).values()


@pytest.mark.parametrize(("form", "damage", "expected"), ROWS)
def test_f26_a_fault_is_counted_or_refused(
    form: str, damage: sets.Damage, expected: Expected, tmp_path: Path, capsys
):
    config = sets.FORMS[form](tmp_path, damage)
    before = {path for path in tmp_path.rglob("*") if path.suffix != ".index"}
    with memory.at_most(MOST_BYTES):
        code, report, said = checked(config, capsys)
    if isinstance(expected, Refused):
        assert (code, report) == (2, {}) and re.search(expected.said, said), said
        with pytest.raises(EsamError, match=expected.said) as caught:
            sources.open_source(config)
        assert caught.value.exit_code == 2
        return
    with memory.at_most(MOST_BYTES):
        values = logged(config)
    broken = expected.count if isinstance(expected, Broken) else 0
    gone = 0 if isinstance(expected, Broken) else expected.gone
    assert (report["records"], report["bad"]) == (sets.RECORDS - gone, broken), report
    assert values.get("broken", 0) == broken
    if isinstance(expected, Broken):
        for text in (*(each["text"] for each in report["reasons"]), *values["broken_reasons"]):
            assert re.search(expected.said, text), text
        assert len(report["damaged"]) == (expected.damaged is not None)
        assert all(re.search(expected.damaged or "", text) for text in report["damaged"])
        assert code == (2 if expected.damaged else 0)
    else:
        require_findings(expected, report, values)
        assert code == 0
    written = {path for path in tmp_path.rglob("*") if path.suffix != ".index"}
    assert written == before  # nothing is unpacked


def require_findings(expected: LeftOut, report: dict[str, Any], values: dict[str, Any]) -> None:
    """What is left out stands in the report and in metrics.jsonl, with its reason."""
    assert report["findings"] == ({expected.kind: expected.count} if expected.kind else {})
    reasons = values.get("left_out_reasons", {})
    assert {*reasons} == ({expected.kind} if expected.kind else set())
    if expected.kind:
        assert values[expected.kind] == expected.count
        assert all(re.search(expected.said, text) for text in reasons[expected.kind]), reasons


@pytest.mark.slow
def test_f26_metrics_of_a_run_count_what_its_worker_processes_could_not_read(tmp_path: Path):
    config = sets.FORMS["tar"](tmp_path, file(f"sa_{sets.PICTURE}.jpg", sets.half))
    argv = [
        supervisor.HERE / "task.py",
        "--workdir",
        tmp_path / "run",
        "--steps",
        4,
        "--data.workers",
        1,
        "--optim.warmup-steps",
        1,
    ]
    argv += ["--data.source.kind", "sa1b", "--data.source.path", config.path]
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", supervisor.COMMAND, "train", *map(str, argv)],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join((str(tests.parent), str(tests))),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    (line,) = [line for line in lines if "broken" in line]
    assert (line["broken"], line["broken_names"]) == (1, ["sa_3.jpg"])
    assert re.search(r"a\.tar, byte \d+: sa_3\.jpg: broken JPEG", line["broken_reasons"][0])
    assert done.stderr.count("1 record cannot be used, the first: sa_3.jpg") == 1


MANY = sets.RECORDS * 3 // 4
FEW_GOOD: dict[str, tuple[str, sets.Damage]] = {
    "folder": ("folder", sets.pictures_of(MANY, sets.half)),
    "tar": ("tar", sets.pictures_of(MANY, sets.half)),
    "image tar": ("image tar", sets.pictures_of(MANY, sets.half)),
    "pack": (
        "pack itself",
        lambda folder: [
            file(f"shard-0000{i}-of-00002.array_record", flipped(JPEG, 60, 6))(folder)
            for i in (0, 1)
        ],
    ),
    "tfds": (
        "tfds",
        lambda folder: [
            file(f"tiny-train.array_record-0000{i}-of-00002", flipped(PNG, 60, 6))(folder)
            for i in (0, 1)
        ],
    ),
}


@pytest.mark.parametrize("kind", FEW_GOOD)
def test_f26_more_than_a_share_of_broken_records_stops_the_run(kind: str, tmp_path: Path, capsys):
    form, damage = FEW_GOOD[kind]
    config = sets.FORMS[form](tmp_path, damage)
    with (
        stream(config, most=0.7) as batches,
        pytest.raises(TrainingError, match=r"are broken, but at most max_broken_share=70\.0%"),
    ):
        for _ in range(8):
            next(batches)
    with stream(config, most=1.0) as batches:
        for _ in range(8):
            next(batches)
        assert len(batches.broken) == MANY
    assert checked(config, capsys)[0] == 2
