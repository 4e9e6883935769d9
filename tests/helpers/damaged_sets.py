"""Small data sets in every form of data, damaged on purpose.

A form makes a set in a folder and returns its config; `damage` gets the pictures, before they are
packed, or, of a form "itself", what was made.
"""

import dataclasses
import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from array_record.python import array_record_module
from PIL import Image

from esam_jax.config import (
    CocoConfig,
    ImageFolderConfig,
    ImageTarsConfig,
    PackConfig,
    Sa1bConfig,
    TfdsConfig,
)
from esam_jax.data import packs, sources
from esam_jax.datasets import packing
from helpers import made_sets, tar_files, tfds_sets

RECORDS = 16
PICTURE = 3  # that is damaged where one is
OUTSIDE = "sa_outside.jpg"  # that nobody may write
Damage = Callable[[Path], Any]

# -------------------------------------------------------------------------------------- forms


def pictures(root: Path) -> Path:
    """SA-1B's layout: JPEGs, each with its json."""
    folder = made_sets.sa1b(root / "sa1b", RECORDS)
    for path in folder.glob("*.jpg"):
        Image.open(path).save(path, "JPEG", quality=95)
    return folder


def sa1b_folder(root: Path, damage: Damage) -> Sa1bConfig:
    damage(folder := pictures(root))
    return Sa1bConfig(path=str(folder))


def sa1b_tar(root: Path, damage: Damage) -> Sa1bConfig:
    folder = str(sa1b_folder(root, damage).path)
    return Sa1bConfig(path=str(tar_files.of_folder(Path(folder), root / "tars" / "a.tar")))


def coco(root: Path, damage: Damage) -> CocoConfig:
    path = made_sets.coco(root / "coco", RECORDS, {"categories": [{"id": 1, "name": "thing"}]})
    damage(path.parent)
    return CocoConfig(path=str(path))


def image_folder(root: Path, damage: Damage) -> ImageFolderConfig:
    damage(folder := pictures(root))
    for path in folder.glob("*.json"):
        path.unlink()
    return ImageFolderConfig(path=str(folder))


def image_tar(root: Path, damage: Damage) -> ImageTarsConfig:
    folder = str(image_folder(root, damage).path)
    return ImageTarsConfig(path=str(tar_files.of_folder(Path(folder), root / "tars" / "a.tar")))


def tfds(root: Path, damage: Damage) -> TfdsConfig:
    """Prepared in two files; `damage` gets the folder of the version."""
    damage(folder := tfds_sets.classes(root / "tfds", RECORDS, shards=2))
    return TfdsConfig(path=str(folder))


def packed(make: Callable[[Path, Damage], Any]) -> Callable[[Path, Damage], PackConfig]:
    """What `esam data pack` makes of it, in two shards."""

    def form(root: Path, damage: Damage) -> PackConfig:
        config = make(root, damage)
        source = sources.open_source(config)
        packing.write(source, root / "pack", packing.plan(source, config, shards=2))
        return PackConfig(path=str(root / "pack"))

    return form


def itself(make: Callable[[Path, Damage], Any]) -> Callable[[Path, Damage], Any]:
    """The same, intact until it was made."""

    def form(root: Path, damage: Damage) -> Any:
        config = make(root, lambda folder: None)
        damage(Path(config.path))
        return config

    return form


FORMS: dict[str, Callable[[Path, Damage], Any]] = {
    "folder": sa1b_folder,
    "tar": sa1b_tar,
    "pack": packed(sa1b_folder),
    "coco": coco,
    "coco pack": packed(coco),
    "image folder": image_folder,
    "image tar": image_tar,
    "tfds": tfds,
    "tar itself": itself(sa1b_tar),
    "image tar itself": itself(image_tar),
    "pack itself": itself(packed(sa1b_folder)),
}

# ------------------------------------------------------------------------------------- damage


def file(name: str, change: Callable[[bytes], bytes]) -> Damage:
    """Other bytes of a file in the folder, or of what is no folder."""

    def damage(folder: Path) -> None:
        path = folder / name if folder.is_dir() else folder
        path.write_bytes(change(path.read_bytes()))

    return damage


def pictures_of(count: int, change: Callable[[bytes], bytes]) -> Damage:
    """Other bytes of so many pictures."""

    def damage(folder: Path) -> None:
        for number in range(count):
            file(f"sa_{number}.jpg", change)(folder)

    return damage


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def without_tables(data: bytes) -> bytes:
    """A JPEG whose first Huffman table is zeros."""
    at = data.index(b"\xff\xc4") + 4
    return data[:at] + bytes(20) + data[at + 20 :]


def flipped(marker: bytes, after: int, times: int = 1) -> Callable[[bytes], bytes]:
    """One bit, so many bytes after a marker; the same after the next ones."""

    def change(data: bytes) -> bytes:
        broken, at = bytearray(data), -1
        for _ in range(times):
            at = data.index(marker, at + 1)
            broken[at + after] ^= 0x10
        return bytes(broken)

    return change


def annotation(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Changes the second object of the picture, in SA-1B's json or in COCO's."""

    def damage(folder: Path) -> None:
        is_coco = (folder / "instances.json").exists()
        path = folder / ("instances.json" if is_coco else f"sa_{PICTURE}.json")
        content = json.loads(path.read_text())
        entries = [
            entry
            for entry in content["annotations"]
            if not is_coco or entry["image_id"] == 50 - PICTURE
        ]
        change(entries[1])
        path.write_text(json.dumps(content))

    return damage


def categories(*ids: int, used: int) -> Damage:
    """A list of categories with these ids, and the one that all objects have."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / "instances.json").read_text())
        content["categories"] = [{"id": each, "name": f"thing {each}"} for each in ids]
        for entry in content["annotations"]:
            entry["category_id"] = used
        (folder / "instances.json").write_text(json.dumps(content))

    return damage


def size() -> list[int]:
    """Height and width of the picture that is damaged."""
    return [*made_sets.picture(PICTURE).shape[:2]]


def hostile_members(path: Path) -> None:
    """Puts names that lead out of a folder, links and the like before what an archive holds."""
    with tarfile.open(path) as archive:
        kept = [(each.name, archive.extractfile(each).read()) for each in archive]
    hostile = [
        (f"../{OUTSIDE}", b"x"),
        (f"{path.parent}/{OUTSIDE}", b"x"),
        (f"a/../../{OUTSIDE}", b"x"),
        (tar_files.entry("sa_90.jpg", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (tar_files.entry("sa_91.jpg", tarfile.LNKTYPE, "sa_1.jpg"), b""),
        (tar_files.entry("sa_92.jpg", tarfile.FIFOTYPE), b""),
        ("sa_\x1b[2J.jpg", b"x"),
    ]
    path.write_bytes(tar_files.packed(*hostile, *kept))


def first_record(change: Callable[[bytes], bytes]) -> Damage:
    """A pack that another program has written: other bytes of its first record, and sums to it."""

    def damage(folder: Path) -> None:
        manifest = packs.read_manifest(folder)
        shard = manifest.shards[0]
        path = folder / shard.file
        records = array_record_module.ArrayRecordReader(str(path), "").read_all()
        writer = array_record_module.ArrayRecordWriter(str(path), packs.OPTIONS)
        for record in (change(records[0]), *records[1:]):
            writer.write(record)
        writer.close()
        data = path.read_bytes()
        found = dataclasses.replace(shard, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        changed = dataclasses.replace(manifest, shards=(found, *manifest.shards[1:]))
        (folder / packs.MANIFEST).write_text(json.dumps(changed.to_json()))

    return damage
