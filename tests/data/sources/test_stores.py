"""Every source reads from an object store what it reads from the same folder on a disk."""

import dataclasses
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import drawn_sets, drawn_video, fake_store, made_sets, tar_files, whole
from helpers.fake_store import FakeStore, address
from helpers.label_maps import label_maps
from PIL import Image

from esam_jax.config import (
    ImageFolderConfig,
    ImageTarsConfig,
    PackConfig,
    Sa1bConfig,
    TfdsConfig,
    VideoConfig,
)
from esam_jax.config.rules import Config
from esam_jax.data import sources
from esam_jax.data.mask_sets import MaskSet, describe
from esam_jax.data.records import Record, summary
from esam_jax.errors import ConfigError, DataError, DiskError, MissingError

store = fake_store.store


def tars(root: Path) -> Path:
    for number in range(2):
        folder = made_sets.sa1b(root.parent / f"unpacked_{number}", 3 + number)
        tar_files.of_folder(folder, root / "part" / f"sa_00000{number}.tar", before=f"{number}/")
    return root


def class_tars(root: Path) -> Path:
    for number, name in enumerate(("cat", "dog")):
        folder = made_sets.image_folder(root.parent / "unpacked" / name, 3 + number)
        tar_files.of_folder(folder / "a", root / f"{name}.tar")
    return root


def sav(root: Path) -> Path:
    pytest.importorskip("av", reason="PyAV is not installed")
    frames = [drawn_video.frame(i) for i in range(10)]
    (drawn_sets.sav_jsons(root) / "sav_1.mp4").write_bytes(drawn_video.mp4(frames))
    return root


MADE: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "image_folder": ("image_folder", lambda root: made_sets.image_folder(root, 5)),
    "coco": ("coco", lambda root: made_sets.coco(root, 4).parent),
    "coco_json": ("coco", lambda root: made_sets.coco(root, 4)),
    "sa1b": ("sa1b", lambda root: made_sets.sa1b(root / "sa_000000", 4).parent),
    "sa1b_tars": ("sa1b", tars),
    "image_tars": ("image_tars", class_tars),
    "label_maps": ("label_maps", label_maps),
    "panoptic": ("panoptic", drawn_sets.panoptic),
    "semantic_maps": ("semantic_maps", drawn_sets.semantic_maps),
    "bsds": ("bsds", drawn_sets.bsds),
    "davis": ("video", drawn_sets.davis),
    "sav_frames": ("video", drawn_sets.sav_frames),
    "sav": ("video", sav),
}


def opened(config: Config) -> sources.Source:
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        return sources.open_source(config)  # pyright: ignore[reportArgumentType]


def plain(record: Record, value: Any) -> Any:
    """An annotation, as what can be compared."""
    if isinstance(value, MaskSet):
        numbers = range(len(value))
        return [describe(value, i) for i in numbers], whole.masks(record).tobytes()
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype, value.tobytes()
    if dataclasses.is_dataclass(value):
        return [plain(record, getattr(value, x.name)) for x in dataclasses.fields(value)]
    return value


def content(source: sources.Source, root: str) -> list[object]:
    """All that is read, with the place of the data taken out of texts."""
    noted = [each.text.replace(root, "") for each in getattr(source, "findings", ())]
    found: list[object] = [summary(source), noted]
    for index in range(len(source)):
        record = source.read(index)
        data = getattr(record.picture, "data", None) or record.picture.rgb().tobytes()
        kinds = {kind: plain(record, record.annotation(kind)) for kind in record.annotations}
        texts = [each.text.replace(root, "") for each in record.findings]
        found.append((record.name, data, kinds, texts))
    return found


@pytest.mark.parametrize("name", MADE)
def test_records_of_a_store_are_those_of_the_folder(name: str, store: Path):
    kind, make = MADE[name]
    local = make(store / "bucket" / "data")
    there = address(local)
    detected = sources.detect(there)
    assert (detected.kind, detected) == (kind, type(detected)(path=there))
    wanted = content(opened(sources.named(kind, str(local))), str(local))
    for index in (store / "bucket").rglob("*.index"):
        index.unlink()
    source = opened(detected)
    assert content(source, there) == wanted and len(wanted) > 2
    copied = pickle.loads(pickle.dumps(source))  # as a worker process gets it
    assert content(copied, there) == wanted


def test_a_splits_list_and_ids_and_labels_lie_in_a_store(store: Path):
    bucket = store / "bucket"
    davis = drawn_sets.davis(bucket / "davis")
    names = [opened(VideoConfig(path=str(davis))).name(i) for i in range(2)]
    (bucket / "davis" / "ImageSets").mkdir(exist_ok=True)
    (bucket / "davis" / "ImageSets" / "some.txt").write_text(names[0].split("/")[0])
    split = opened(VideoConfig(path=address(davis), split="some"))
    assert split.name(0) == names[0]
    with pytest.raises(DataError, match=r"no list of it: its lists are .*some"):
        opened(VideoConfig(path=address(davis), split="none"))
    (bucket / "ids.txt").write_text(names[1])
    listed = opened(VideoConfig(path=address(davis), ids=address(bucket / "ids.txt")))
    assert [listed.name(i) for i in range(len(listed))] == [names[1]]
    folder = made_sets.image_folder(bucket / "pictures", 3)
    tar = tar_files.of_folder(folder, bucket / "x.tar")
    (bucket / "labels.txt").write_text("first\nsecond\nfirst\n")
    made = opened(ImageTarsConfig(path=address(tar), labels=address(bucket / "labels.txt")))
    assert [made.read(i).annotation("label").name for i in range(3)] == ["first", "second", "first"]


@pytest.mark.parametrize("beside", [True, False])
def test_the_index_of_an_archive_is_built_once(beside: bool, store: Path, tmp_path: Path):
    tars(store / "bucket" / "sa1b")
    index = None if beside else str(tmp_path / "indexes")
    config = Sa1bConfig(path=address(store / "bucket" / "sa1b"), index=index)
    opened(config)
    made = fake_store.counts()
    assert made.get("pipe", 0) == (2 if beside else 0)
    found = list((store if beside else tmp_path / "indexes").rglob("*.tar.index"))
    assert len(found) == 2
    source = opened(config)
    again = fake_store.counts()
    assert "pipe" not in again
    # One call for each index, where those lie in the store, and none for the archives.
    assert again.get("cat", 0) == (2 if beside else 0)
    tar = next((store / "bucket" / "sa1b").rglob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-1024] + bytes(2048))  # as large an end, another object
    with pytest.raises(DataError, match=r"fake://.* was changed while it is read"):
        for number in range(len(source)):
            source.read(number)
    with pytest.warns(UserWarning, match="another version of its archive: built again"):
        sources.open_source(config)


# ----------------------------------------------------------------------------------- what it costs


def test_a_folder_is_listed_by_one_call(store: Path):
    for name in ("a/x", "a/y", "b", "c/.hidden"):
        made_sets.image_folder(store / "bucket" / "data" / name, 6)
    source = opened(ImageFolderConfig(path=address(store / "bucket" / "data")))
    assert len(source) == 18
    # The root and its three, those in a, and "a" and "b" of each of three sets.
    folders = {key for what, key in FakeStore.calls if what == "ls"}
    assert len(folders) == 1 + 3 + 2 + 3 * 2
    assert fake_store.counts() == {"info": 1, "ls": len(folders)}


def test_maps_are_listed_and_not_looked_up(store: Path):
    root = drawn_sets.semantic_maps(store / "bucket" / "maps")
    for number in range(30):
        drawn_sets.picture(root / "images" / f"more_{number}.png")
        drawn_sets.png(root / "annotations" / f"more_{number}.png", np.zeros((12, 20), np.uint8))
    opened(sources.named("semantic_maps", address(root)))
    found = fake_store.counts()
    assert found["ls"] < 12 and found["info"] < 20


def noise(side: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("side", "calls"), [(360, 1), (800, 2)])
def test_a_picture_is_read_by_one_call_up_to_a_mebibyte(side: int, calls: int, store: Path):
    path = store / "bucket" / "data" / "a" / "x.png"
    path.parent.mkdir(parents=True)
    noise(side).save(path)
    source = opened(ImageFolderConfig(path=address(store / "bucket" / "data")))
    fake_store.counts()
    assert (source.read(0).picture.rgb() == np.asarray(noise(side))).all()
    assert FakeStore.bytes == path.stat().st_size
    assert (path.stat().st_size > 2**20) == (calls == 2)
    assert fake_store.counts() == {"cat": calls}


def test_a_picture_of_an_archive_costs_its_own_bytes(store: Path):
    folder = made_sets.sa1b(store.parent / "unpacked", 6)
    for number in range(6):
        noise(360).save(folder / f"sa_{number}.jpg", "PNG")  # 390 kB
        height = {"height": 360, "width": 360}
        about = {"image": height, "annotations": []}
        (folder / f"sa_{number}.json").write_text(json.dumps(about))
    tar = tar_files.of_folder(folder, store / "bucket" / "sa.tar")
    source = opened(Sa1bConfig(path=address(tar)))
    # For the index, headers alone are read: 8 kB for each of 12 files, and the end.
    assert FakeStore.bytes < 14 * 2**13 < tar.stat().st_size / 10
    source.read(0)  # looks the archive up, once a minute
    fake_store.counts()
    for number in range(1, 6):
        source.read(number).picture.rgb()
    sizes = [
        (folder / f"sa_{n}.{kind}").stat().st_size for n in range(1, 6) for kind in ("jpg", "json")
    ]
    assert FakeStore.bytes == sum(sizes)
    assert fake_store.counts() == {"cat": 10}


def test_a_record_of_sa1b_is_read_by_two_calls(store: Path):
    made_sets.sa1b(store / "bucket" / "sa1b" / "sa_000000", 4)
    source = opened(Sa1bConfig(path=address(store / "bucket" / "sa1b")))
    fake_store.counts()
    source.read(2)
    assert fake_store.counts() == {"cat": 2}


# -------------------------------------------------------------------------------- what is not read


@pytest.mark.parametrize("config", [PackConfig, TfdsConfig])
@pytest.mark.parametrize("scheme", ["gs", "s3", "fake"])
def test_files_of_array_record_are_local(config: type, scheme: str, store: Path):
    with pytest.raises(ConfigError, match=r"from a disk: copy .*gcloud storage cp -r.*gcsfuse"):
        config(path=f"{scheme}://bucket/pack")


@pytest.mark.parametrize("kind", ["image_folder", "coco", "sa1b", "image_tars", "label_maps"])
@pytest.mark.parametrize("path", ["fake://nobody", "fake://bucket/nothing"])
def test_a_bucket_or_folder_that_is_missing(kind: str, path: str, store: Path):
    with pytest.raises((MissingError, DataError), match=path):
        sources.open_source(sources.named(kind, path))


def test_a_fault_while_folders_are_listed_leaves_nothing_out(
    store: Path, monkeypatch: pytest.MonkeyPatch
):
    made_sets.image_folder(store / "bucket" / "data", 4)
    monkeypatch.setattr("esam_jax.files._PAUSES", ())
    config = ImageFolderConfig(path=address(store / "bucket" / "data"))

    def fault(what: str, path: str) -> None:
        if path.endswith("/b"):
            raise TimeoutError("no answer")

    FakeStore.fault = fault
    with pytest.raises(DiskError, match=r"fake://bucket/data/b cannot be read \(no answer\)"):
        sources.open_source(config)
    FakeStore.fault = lambda what, path: None
    assert len(opened(dataclasses.replace(config))) == 4
