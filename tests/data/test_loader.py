"""From records to sharded batches, with broken and empty records among them."""

import json
import re
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from esam_jax import sharding
from esam_jax.config import (
    CropConfig,
    DataConfig,
    ImageFolderConfig,
    MeshConfig,
    PromptedConfig,
    Sa1bConfig,
    ScenesConfig,
    SourceConfig,
)
from esam_jax.data import decode, loader, sources
from esam_jax.errors import DiskError, TrainingError

SCENES = ScenesConfig(scenes=11, scene_px=32)


VIEW = PromptedConfig(image_px=32, masks=3, min_area_px=4)


def config(source: SourceConfig = SCENES, view=VIEW, **options: object) -> DataConfig:
    return DataConfig(source=source, view=view, threads=2, **options)


def stream(
    data: DataConfig, mesh: jax.sharding.Mesh, first_batch: int = 0, seed: int = 0
) -> loader.Stream:
    source = sources.open_source(data.source)
    return loader.stream(source, data, seed=seed, batch=8, mesh=mesh, first_batch=first_batch)


def mesh(data: int = 4, fsdp: int = 2) -> jax.sharding.Mesh:
    return sharding.make_mesh(MeshConfig(data=data, fsdp=fsdp))


def equal(first: dict, second: dict) -> bool:
    return all((np.asarray(first[key]) == np.asarray(second[key])).all() for key in first)


def picture_folder(root: Path, write_picture, good: int, broken: int) -> SourceConfig:
    root.mkdir(exist_ok=True)
    for i in range(good):
        write_picture(root / f"good_{i:03d}.png", 20, 24, seed=i)
    for i in range(broken):
        (root / f"bad_{i:03d}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(i))
    return ImageFolderConfig(path=str(root))


# ------------------------------------------------------------------------------------- batches


def test_batches_are_sharded_and_shaped_as_the_tasks_expect():
    with jax.transfer_guard("disallow"), stream(config(), mesh()) as batches:
        batch = next(batches)
        next(batches)
    assert {key: (x.shape, x.dtype.name) for key, x in batch.items()} == {
        "image": ((8, 32, 32, 3), "uint8"),
        "masks": ((8, 3, 32, 4), "uint8"),
        "points": ((8, 3, 2, 2), "float32"),
        "labels": ((8, 3, 2), "int32"),
        "valid": ((8, 3), "float32"),
    }
    for x in batch.values():
        assert x.sharding == sharding.batch(mesh())
        assert x.addressable_shards[0].data.shape[0] == 1


def test_the_next_batch_is_on_the_devices_while_one_is_used():
    with stream(config(), mesh()) as batches:
        next(batches)
        ahead = batches._ahead
        assert ahead is not None and ahead["image"].sharding == sharding.batch(mesh())
        assert next(batches) is ahead


def test_crop_views_hold_pictures_only():
    view = CropConfig(image_px=16)
    with stream(config(view=view), mesh(data=2, fsdp=1)) as batches:
        batch = next(batches)
    assert {key: x.shape for key, x in batch.items()} == {"image": (8, 16, 16, 3)}


def test_resuming_gives_the_batches_of_an_undisturbed_run():
    with stream(config(), mesh()) as batches:
        undisturbed = [next(batches) for _ in range(5)]
    for first_batch in (1, 4):
        with stream(config(), mesh(), first_batch=first_batch) as batches:
            for step in range(first_batch, 5):
                assert equal(next(batches), undisturbed[step])


def test_batches_depend_neither_on_the_mesh_nor_on_the_threads():
    with (
        stream(config(), mesh(data=4, fsdp=2)) as first,
        stream(config(), mesh(data=1, fsdp=1)) as second,
    ):
        assert equal(next(first), next(second))


def test_batches_differ_from_each_other_and_between_seeds():
    with stream(config(), mesh()) as batches:
        first, second = next(batches), next(batches)
    assert not equal(first, second)
    with stream(config(), mesh(), seed=1) as batches:
        assert not equal(first, next(batches))


def test_pictures_are_repeated_in_a_batch_and_augmented_anew():
    view = CropConfig(image_px=16)
    with stream(config(view=view, repeats=3), mesh()) as repeated:
        images = np.asarray(next(repeated)["image"])
    with stream(config(view=view), mesh()) as single:
        once = np.asarray(next(single)["image"])
    # Rows 0 to 2 are of the record of row 0, rows 3 to 5 of that of row 1.
    assert np.array_equal(images[[0, 3, 6]], once[:3])
    assert len({image.tobytes() for image in images}) == 8
    with stream(config(view=view, repeats=3), mesh(data=1, fsdp=1), first_batch=1) as resumed:
        second = np.asarray(next(resumed)["image"])
    with stream(config(view=view, repeats=3), mesh()) as repeated:
        next(repeated)
        assert np.array_equal(np.asarray(next(repeated)["image"]), second)


def test_a_set_smaller_than_the_batch_wraps_within_it():
    source = ScenesConfig(scenes=3, scene_px=32)
    with stream(config(source), mesh()) as batches:
        images = np.asarray(next(batches)["image"])
    assert len(np.unique(images, axis=0)) == 3


def test_an_augmentation_is_new_in_every_epoch(tmp_path: Path, write_picture):
    source = picture_folder(tmp_path, write_picture, good=1, broken=0)
    with stream(config(source, view=CropConfig(image_px=16)), mesh()) as batches:
        images = np.asarray(next(batches)["image"])
    assert len(np.unique(images, axis=0)) > 4


def test_closing_ends_the_threads():
    before = threading.active_count()
    with stream(config(), mesh()) as batches:
        next(batches)
    for thread in threading.enumerate():
        if thread.name.startswith("grain-prefetch"):
            thread.join(timeout=5)
    assert threading.active_count() <= before
    with pytest.raises(ValueError, match="closed"):
        next(batches)


# ---------------------------------------------------------------------------- broken and empty


def test_broken_pictures_are_replaced_and_named(tmp_path: Path, write_picture):
    source = picture_folder(tmp_path, write_picture, good=9, broken=2)
    run = config(source, view=CropConfig(image_px=16))
    with stream(run, mesh()) as batches:
        first = [next(batches) for _ in range(3)]
        assert set(batches.broken) == {"bad_000.png", "bad_001.png"}
        assert "PNG" in batches.broken["bad_000.png"] and batches.empty == ()
    with stream(run, mesh(), first_batch=2) as batches:
        assert equal(next(batches), first[2])


def test_a_record_without_an_intact_annotation_is_a_broken_one(sa1b_folder: Path):
    path = sa1b_folder / "sa_2.json"
    content = json.loads(path.read_text())
    for each in content["annotations"]:
        each["segmentation"]["counts"] = "00"
    path.write_text(json.dumps(content))
    run = config(Sa1bConfig(path=str(sa1b_folder)))
    with stream(run, mesh()) as batches:
        next(batches)
        assert list(batches.broken) == ["sa_2.jpg"]
        assert "2 of 2 objects cannot be used" in batches.broken["sa_2.jpg"]


def test_records_without_a_usable_mask_are_replaced_and_counted_apart(sa1b_folder: Path):
    path = sa1b_folder / "sa_1.json"
    path.write_text(json.dumps({"annotations": []}))
    run = config(Sa1bConfig(path=str(sa1b_folder)))
    with stream(run, mesh()) as batches:
        batch = next(batches)
        assert batches.empty == ("sa_1.jpg",) and batches.broken == {}
    assert (np.asarray(batch["valid"]).sum(1) >= 2).all()


def test_too_many_broken_records_stop_the_run(tmp_path: Path, write_picture):
    source = picture_folder(tmp_path, write_picture, good=20, broken=20)
    with (
        stream(config(source, view=CropConfig(image_px=16)), mesh()) as batches,
        pytest.raises(TrainingError, match=r"max_broken_share=10.0%.*bad_"),
    ):
        for _ in range(10):
            next(batches)


@pytest.mark.parametrize(
    ("good", "which", "said"),
    # The second has fewer records than it takes to be sure of a share.
    [
        (20, "", "in a row cannot be read: the disk no longer answers"),
        (
            3,
            "",
            "in a row cannot be read: the disk no longer answers",
        ),
        (40, "[02468].png", r"max_broken_share=10\.0%"),
    ],
)
def test_too_many_for_the_disk_leave_the_run_to_another_start(
    tmp_path: Path,
    write_picture,
    monkeypatch: pytest.MonkeyPatch,
    good: int,
    which: str,
    said: str,
):
    source = picture_folder(tmp_path, write_picture, good=good, broken=0)
    read = decode.read_file

    def refuse(path):
        if re.search(which, str(path)):
            raise DiskError(f"{path} cannot be read (Input/output error): start again")
        return read(path)

    monkeypatch.setattr(decode, "read_file", refuse)
    with (
        stream(config(source, view=CropConfig(image_px=16)), mesh()) as batches,
        pytest.raises(DiskError, match=rf"{said}.*Input/output error") as caught,
    ):
        for _ in range(10):
            next(batches)
    assert caught.value.exit_code == 75


def test_a_small_share_of_broken_records_is_allowed(tmp_path: Path, write_picture):
    source = picture_folder(tmp_path, write_picture, good=20, broken=20)
    run = config(source, view=CropConfig(image_px=16), max_broken_share=0.8)
    with stream(run, mesh()) as batches:
        for _ in range(10):
            next(batches)
        assert len(batches.broken) == 20


def test_nothing_usable_at_all_stops_the_run(tmp_path: Path, write_picture, sa1b_folder: Path):
    source = picture_folder(tmp_path / "pictures", write_picture, good=0, broken=3)
    with (
        stream(config(source, view=CropConfig(image_px=16)), mesh()) as batches,
        pytest.raises(TrainingError, match="no record of 3 can be used: 3 are broken"),
    ):
        next(batches)
    run = config(
        Sa1bConfig(path=str(sa1b_folder)),
        view=PromptedConfig(image_px=32, min_area_px=1024),
    )
    with (
        stream(run, mesh()) as batches,
        pytest.raises(TrainingError, match="3 have no usable mask"),
    ):
        next(batches)
