"""Packs: the same records and batches as their source, the same bytes however they were made."""

import concurrent.futures
import contextlib
import csv
import dataclasses
import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import label_maps, made_sets

from esam_jax import sharding
from esam_jax.config import (
    DataConfig,
    ImageFolderConfig,
    LabelMapsConfig,
    MeshConfig,
    PackConfig,
    PromptedConfig,
    ScenesConfig,
)
from esam_jax.data import loader, packs, parts, record_files, records, sources
from esam_jax.data.bitmaps import Grid
from esam_jax.data.mask_sets import describe
from esam_jax.datasets import check, packing
from esam_jax.errors import ConfigError, DataError, ExistsError, MissingError

DATA = Path(os.environ.get("ESAM_TEST_DATA", "absent"))
real = pytest.mark.skipif(
    not DATA.is_dir(), reason="ESAM_TEST_DATA names no folder with test pictures"
)


def pack(config, folder, *, workers=1, **options):
    """The source, and the pack of it."""
    source = sources.open_source(config)
    packing.write(source, folder, packing.plan(source, config, **options), workers=workers)
    return source, sources.open_source(PackConfig(path=str(folder)))


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def require_same(source, packed):
    assert [packed.name(i) for i in range(len(packed))] == [
        source.name(i) for i in range(len(source))
    ]
    for i in range(len(source)):
        one, other = source.read(i), packed.read(i)
        assert other.name == one.name and other.findings == one.findings
        np.testing.assert_array_equal(other.picture.rgb(), one.picture.rgb())
        assert other.annotations.keys() == one.annotations.keys()
        masks, others = one.annotations.get("masks", ()), other.annotations.get("masks", ())
        assert len(others) == len(masks)
        grid = Grid.whole(one.picture.height, one.picture.width)
        for k in range(len(masks)):
            assert describe(others, k) == describe(masks, k)
            np.testing.assert_array_equal(
                others.sample(k, grid).dense(), masks.sample(k, grid).dense()
            )


def scenes(folder):
    return ScenesConfig(scenes=9, scene_px=32)


def sa1b(folder):
    return sources.detect(str(made_sets.sa1b(folder, 9)))


def coco(folder):
    return sources.detect(str(made_sets.coco(folder, 9)))


def image_folder(folder):
    return sources.detect(str(made_sets.image_folder(folder, 9)))


def of_label_maps(folder):
    return LabelMapsConfig(path=str(label_maps.label_maps(folder)))


DRAWN = [scenes, sa1b, coco, image_folder, of_label_maps]


@pytest.mark.parametrize("make", DRAWN)
def test_records_are_those_of_the_source(make, tmp_path):
    require_same(*pack(make(tmp_path / "data"), tmp_path / "pack", shards=3))


@real
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("sa1b_layout", marks=pytest.mark.slow),
        "coco_instances/val",
        "nuclei_dsb2018",
        "classification_ants_bees/val",
    ],
)
def test_records_of_shared_sets_are_those_of_the_source(name, tmp_path):
    config = sources.detect(str(DATA / name))
    names = [sources.open_source(config).name(i) for i in range(4)]
    (tmp_path / "ids.txt").write_text("\n".join(names))
    config = dataclasses.replace(config, ids=str(tmp_path / "ids.txt"))
    require_same(*pack(config, tmp_path / "pack", shards=2))


@pytest.mark.parametrize("make", [scenes, sa1b, coco])
def test_batches_are_those_of_the_source(make, tmp_path):
    source, packed = pack(make(tmp_path / "data"), tmp_path / "pack", shards=2)
    view = PromptedConfig(image_px=32, masks=3, min_area_px=4, flip="horizontal")
    mesh = sharding.make_mesh(MeshConfig(data=1))
    found = []
    for each in (source, packed):
        config = DataConfig(source=ScenesConfig(), view=view, threads=2)
        with loader.stream(each, config, seed=3, batch=4, mesh=mesh) as stream:
            found.append([{k: np.asarray(v) for k, v in next(stream).items()} for _ in range(5)])
    for one, other in zip(*found, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_bytes_do_not_depend_on_when_or_where(tmp_path):
    config = sa1b(tmp_path / "data")
    for name in ("a", "b"):
        pack(config, tmp_path / name, shards=4)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == 4 + 3


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    config = sa1b(tmp_path / "data")
    for workers in (1, 2, 3):
        pack(config, tmp_path / f"{workers}", shards=7, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "3")


def test_what_is_missing_is_made_and_what_is_there_is_kept(tmp_path):
    config = sa1b(tmp_path / "data")
    source = sources.open_source(config)
    planned = packing.plan(source, config, shards=4)
    packing.write(source, tmp_path / "whole", planned)

    class StopError(Exception):
        pass

    def until(count):
        def over(results):
            for number, each in enumerate(results):
                if number == count:
                    raise StopError
                yield each

        return over

    folder = tmp_path / "parts"
    for count in (0, 3, 5):
        with pytest.raises(StopError):
            packing.write(source, folder, planned, over=until(count))
        before = {name: (folder / name).stat().st_mtime_ns for name in contents(folder)}
        with pytest.raises(MissingError, match="is not finished: run the same"):
            sources.open_source(sources.detect(str(folder)))
    (folder / ".pack.json.abcd.other-1.new").write_bytes(b"of another host")
    done = {name for name in before if name.endswith(".array_record")}
    assert 0 < len(done) < 4
    packing.write(source, folder, planned)
    (folder / ".pack.json.abcd.other-1.new").unlink()
    assert contents(folder) == contents(tmp_path / "whole")
    assert all((folder / name).stat().st_mtime_ns == before[name] for name in done)
    packing.write(source, folder, planned)  # which is finished
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_json_beside_a_shard_that_is_damaged_is_named(tmp_path, monkeypatch):
    """It is written when the shard is complete, and read when all are."""
    config = ScenesConfig(scenes=4, scene_px=32)
    source = sources.open_source(config)
    planned = packing.plan(source, config, shards=2)
    with monkeypatch.context() as patched, pytest.raises(TypeError):
        patched.setattr(packing, "_finish", None)  # stopped after the last shard
        packing.write(source, tmp_path / "pack", planned)
    sidecar = (tmp_path / "pack" / packs.shard_name(1, 2)).with_suffix(".json")
    good = json.loads(sidecar.read_text())
    shard = good["shard"]
    for change, reason in (
        ({"shard": None}, "NoneType"),
        ({"shard": {**shard, "more": 1}}, "more"),
        ({"shard": {**shard, "file": "other"}}, "it is of other with 2 records"),
        ({"names": ["one"]}, "it is of shard-00001-of-00002.array_record with 2 records"),
        ({"names": [1, 2]}, "a name or reason is no text"),
        ({"annotations": [["masks"]]}, "a name or reason is no text"),
        ({"dropped": [["name"]]}, "what was dropped has no reason"),
        ({"dropped": 3}, "iterable"),
    ):
        sidecar.write_text(json.dumps({**good, **change}))
        with pytest.raises(DataError, match=rf"{sidecar} is damaged \(.*{reason}.*\): delete it"):
            packing.write(source, tmp_path / "pack", planned)
    for missing in good:
        sidecar.write_text(json.dumps({key: good[key] for key in good if key != missing}))
        with pytest.raises(DataError, match=rf"is damaged \('{missing}'\)"):
            packing.write(source, tmp_path / "pack", planned)
    sidecar.unlink()
    packing.write(source, tmp_path / "pack", planned)
    packing.write(source, tmp_path / "other", planned)
    assert contents(tmp_path / "pack").items() >= contents(tmp_path / "other").items()


@pytest.mark.parametrize("change", ["options", "data", "shards", "max_side"])
def test_a_folder_holds_one_pack(change, tmp_path):
    config = sa1b(tmp_path / "data")
    source = sources.open_source(config)
    for finished in (False, True):
        folder = tmp_path / f"pack{finished}"
        planned = packing.plan(source, config, shards=2)
        if finished:
            packing.write(source, folder, planned)
        else:
            packing._begin(folder, planned)
        other, options = config, {"shards": 2}
        if change == "options":
            other = dataclasses.replace(config, crowds="use")
        elif change == "data":
            other = coco(tmp_path / f"more{finished}")
        else:
            options |= {change: 20}
        opened = sources.open_source(other)
        with pytest.raises(ExistsError, match="holds a pack with"):
            packing.write(opened, folder, packing.plan(opened, other, **options))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ExistsError, match="holds no pack"):
        packing.write(source, tmp_path / "mine", planned)


def test_what_cannot_be_used_is_dropped_and_said(tmp_path):
    folder = made_sets.sa1b(tmp_path / "data", 6)
    (folder / "sa_1.jpg").write_bytes((folder / "sa_1.jpg").read_bytes()[:150])
    (folder / "sa_2.json").write_text("{")
    (folder / "sa_9\n.jpg").write_bytes((folder / "sa_3.jpg").read_bytes())
    (folder / "sa_9\n.json").write_bytes((folder / "sa_3.json").read_bytes())
    content = json.loads((folder / "sa_4.json").read_text())
    for annotation in content["annotations"]:
        annotation["segmentation"]["counts"] = "!"
    (folder / "sa_4.json").write_text(json.dumps(content))
    content = json.loads((folder / "sa_3.json").read_text())
    content["annotations"][1]["segmentation"]["counts"] = "!"
    (folder / "sa_3.json").write_text(json.dumps(content))
    config = sources.detect(str(folder))
    _, packed = pack(config, tmp_path / "pack", shards=2)
    assert [packed.name(i) for i in range(len(packed))] == ["sa_0.jpg", "sa_3.jpg", "sa_5.jpg"]
    rows = list(csv.reader(io.StringIO((tmp_path / "pack" / "dropped.csv").read_text())))
    assert [name for name, _ in rows] == ["name", "sa_1.jpg", "sa_2.jpg", "sa_4.jpg", "sa_9\n.jpg"]
    assert "sa_2.jpg is not valid JSON" in rows[2][1] and "masks are broken" in rows[3][1]
    (finding,) = packed.findings
    assert finding.kind == "pictures_left_out" and finding.count == 4
    # One mask of sa_3 is broken in both, so that views draw the same.
    assert len(packed.read(1).annotations["masks"]) == len(made_sets.masks(3)) == 4
    masks = check.run(packed)["masks"]
    assert (masks["count"], masks["broken"]) == (1 + 3 + 1, 1)


def test_nothing_to_pack(tmp_path):
    folder = made_sets.image_folder(tmp_path / "data", 2)
    for path in folder.rglob("*.*"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="pack without records"):
        pack(sources.detect(str(folder)), tmp_path / "pack")


@pytest.mark.parametrize("make", [image_folder, sa1b, of_label_maps])
def test_reduced_pictures(make, tmp_path):
    source, packed = pack(make(tmp_path / "data"), tmp_path / "pack", max_side=30)
    reduced = 0
    for i in range(len(source)):
        one, other = source.read(i), packed.read(i)
        height, width = one.picture.height, one.picture.width
        if max(height, width) <= 30:
            assert other.picture.data == one.picture.data
            continue
        reduced += 1
        size = other.picture.height, other.picture.width
        assert max(size) == 30 and other.picture.header.kind == "JPEG"
        assert abs(size[0] * width - size[1] * height) <= max(height, width)
        rows = (2 * np.arange(size[0]) + 1) * height // (2 * size[0])
        columns = (2 * np.arange(size[1]) + 1) * width // (2 * size[1])
        for k in range(len(one.annotations.get("masks", ()))):
            dense = one.annotations["masks"].sample(k, Grid.whole(height, width)).dense()
            small = other.annotations["masks"].sample(k, Grid.whole(*size)).dense()
            np.testing.assert_array_equal(small, dense[rows][:, columns])
    assert reduced > 1 or make is of_label_maps


def test_more_or_larger_shards(tmp_path):
    config = image_folder(tmp_path / "data")
    source = sources.open_source(config)
    assert packing.plan(source, config, shards=50).shards == 9
    few = packing.plan(source, config, shard_mib=1.0)
    many = packing.plan(source, config, shard_mib=1e-3)
    total = sum(path.stat().st_size for path in (tmp_path / "data").rglob("*.*"))
    assert few.shards == 1 and abs(many.shards - total / 1049) < 0.3 * many.shards + 2
    for planned in (few, many):
        numbers = [i for k in range(planned.shards) for i in planned.numbers(k)]
        assert numbers == list(range(9))


def test_options_of_the_data_hold_for_packs(tmp_path):
    _, packed = pack(sa1b(tmp_path / "data"), tmp_path / "pack")
    (tmp_path / "ids.txt").write_text("sa_3\nsa_5\n")
    some = PackConfig(path=str(tmp_path / "pack"), ids=str(tmp_path / "ids.txt"))
    assert len(sources.open_source(some)) == 2
    held = [
        dataclasses.replace(config, part="heldout", heldout=3)
        for config in (
            sources.detect(str(tmp_path / "data")),
            sources.detect(str(tmp_path / "pack")),
        )
    ]
    one, other = ([s.name(i) for i in range(3)] for s in map(sources.open_source, held))
    assert one == other
    assert records.summary(packed).startswith("9 records, names ")
    assert isinstance(packed, records.ChecksummedSource) and not list(packed.damage())
    # A pack of a pack is the same pack.
    pack(sources.detect(str(tmp_path / "pack")), tmp_path / "again")
    for name in ("ids.txt", packs.shard_name(0, 1)):
        assert contents(tmp_path / "again")[name] == contents(tmp_path / "pack")[name]


def test_names_of_categories_come_along(tmp_path):
    config = sa1b(tmp_path / "data")
    source = sources.open_source(config)
    source.categories = {3: "bee", 90: "Ü"}
    part = parts.of(source, "train", 2)
    for name, each in (("all", source), ("some", part)):
        packing.write(each, tmp_path / name, packing.plan(each, config))
        packed = sources.open_source(PackConfig(path=str(tmp_path / name)))
        assert packed.categories == source.categories
    assert len(packed) == 7


def test_a_source_without_masks_says_so(tmp_path):
    _, packed = pack(image_folder(tmp_path / "data"), tmp_path / "pack")
    config = DataConfig(source=PackConfig(path="x"), view=PromptedConfig(image_px=32))
    mesh = sharding.make_mesh(MeshConfig(data=1))
    assert packed.lacks["masks"] == f"{tmp_path / 'pack'} is a pack of pictures with label"
    with (
        loader.stream(packed, config, seed=0, batch=1, mesh=mesh) as stream,
        pytest.raises(ConfigError, match="comes from a source without masks"),
    ):
        next(stream)


def test_sixteen_bits_stay_as_they_were_read(tmp_path):
    folder = label_maps.label_maps(tmp_path / "data")
    images = folder / "instances"
    config = sources.named("image_folder", str(images))
    config = dataclasses.replace(config, sixteen_bit="stretch")
    require_same(*pack(config, tmp_path / "pack"))


# ------------------------------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    pack(sa1b(folder / "data"), folder / "pack", shards=2)
    return folder / "pack"


@pytest.fixture
def folder(good, tmp_path):
    """A pack that may be damaged."""
    for name, data in contents(good).items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def opened(folder):
    return sources.open_source(PackConfig(path=str(folder)))


def test_flipped_bits_are_found_and_name_file_and_record(folder, good):
    """In a record, or in what is around it: never other content, never a crash."""
    path = folder / packs.shard_name(1, 2)
    data, rng = path.read_bytes(), random.Random(1)
    source = opened(good)
    expected = [source.read(i).picture.data for i in range(len(source))]
    named = 0
    for number in range(60):
        broken = bytearray(data)
        at = rng.randrange(len(data))
        if number % 2:  # in a picture
            file = expected[4 + number % 5]
            at = data.index(file) + rng.randrange(len(file))
        broken[at] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        damaged = opened(folder)
        assert [str(path) in text for text in damaged.damage()] == [True]
        for i in range(len(damaged)):
            try:
                assert damaged.read(i).picture.data == expected[i]
            except DataError as error:
                assert f"{path}: record {i - 4} ({source.name(i)})" in str(error)
                named += 1
    assert named >= 30


def test_a_check_finds_damage_and_broken_records(folder):
    path = folder / packs.shard_name(0, 2)
    data = bytearray(path.read_bytes())
    data[data.index(b"PNG") + 40] ^= 1
    path.write_bytes(data)
    found = check.run(opened(folder))
    assert found["bad"] == 1 and str(path) in found["reasons"][0]["text"]
    assert len(found["damaged"]) == 1 and str(path) in found["damaged"][0]


@pytest.mark.parametrize("name", [packs.shard_name(1, 2), "ids.txt"])
def test_a_file_that_is_missing_or_cut_short_is_named(name, folder):
    data = (folder / name).read_bytes()
    for broken in (data[:-1], data[: len(data) // 2], b"", data + b"x"):
        (folder / name).write_bytes(broken)
        with pytest.raises(DataError, match=name):
            opened(folder)
    (folder / name).unlink()
    with pytest.raises(MissingError, match=name):
        opened(folder)


def test_a_shard_that_vanishes_later_is_named(folder):
    source = opened(folder)
    (folder / packs.shard_name(1, 2)).unlink()
    assert source.read(0).name == "sa_0.jpg"
    with pytest.raises(MissingError, match=packs.shard_name(1, 2)):
        source.read(8)


@pytest.mark.parametrize("seed", range(12))
def test_other_bytes_of_the_same_length_are_no_shard(seed, folder):
    path = folder / packs.shard_name(0, 2)
    data, rng = bytearray(path.read_bytes()), random.Random(seed)
    if seed % 3 == 0:
        data = rng.randbytes(len(data))
    elif seed % 3 == 1:
        data[: len(data) // 2] = bytes(len(data) // 2)
    else:
        first = rng.randrange(len(data))
        data[first:] = rng.randbytes(len(data) - first)
    path.write_bytes(data)
    source = opened(folder)
    for i in range(4):
        try:
            assert source.read(i).name == source.name(i)
        except DataError as error:
            assert str(path) in str(error)


MANIFESTS = {
    "no json": "{",
    "a list": "[]",
    "another format": {"format": 2},
    "no shards": {"shards": None},
    "a shard elsewhere": {"file": "../../etc/passwd"},
    "a shard of text": {"records": "4"},
    "fewer records": {"records": 3},
    "negative bytes": {"bytes": -1},
    "an unknown field": {"code": "x"},
    "categories": {"categories": {"x": "bee"}},
    "names of categories": {"categories": {"3": 4}},
    "findings": {"findings": [{"kind": "unheard_of", "text": "", "count": 1}]},
    "a finding of numbers": {"findings": [{"kind": "animations", "text": 3, "count": 1}]},
    "a finding of text": {"findings": [{"kind": "animations", "text": "", "count": "1"}]},
    "a checksum of numbers": {"sha256": 3},
    "annotations": {"annotations": [["masks"]]},
    "a source of numbers": {"source": 3},
    "checksum of the list": {"ids_sha256": "0" * 64},
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifests_that_no_writer_makes_are_refused(case, folder):
    path, change = folder / packs.MANIFEST, MANIFESTS[case]
    content = json.loads(path.read_text())
    if isinstance(change, dict):
        held = {"file", "records", "bytes", "sha256", "code"} & change.keys()
        content["shards"][0].update(change) if held else content.update(change)
        change = json.dumps(content)
    path.write_text(change)
    with pytest.raises(DataError, match=r"pack\.json|ids\.txt"):
        opened(folder)


def test_a_list_of_another_pack_is_noticed(folder):
    content = json.loads((folder / packs.MANIFEST).read_text())
    names = (folder / "ids.txt").read_text().splitlines()
    names[2], names[3] = names[3], names[2]
    text = "".join(f"{name}\n" for name in names).encode()
    (folder / "ids.txt").write_bytes(text)
    content["ids_sha256"] = packing.hashlib.sha256(text).hexdigest()
    (folder / packs.MANIFEST).write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"is of 'sa_2.jpg': ids\.txt is of another pack"):
        opened(folder).read(2)


def test_a_folder_without_pack(tmp_path):
    with pytest.raises(MissingError, match=r"is no pack \(pack\.json is not there\)"):
        opened(tmp_path)


def test_a_pack_that_is_read_as_pictures_is_named(folder, tmp_path):
    for options in ("data.source.", "evaluate.source."):
        with pytest.raises(DataError, match=rf"write --{options}kind pack, which reads it"):
            sources.open_source(ImageFolderConfig(path=str(folder)), options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no .* file at any depth$"):
        sources.open_source(ImageFolderConfig(path=str(tmp_path / "empty")))


# ------------------------------------------------------------------------------------- reading


def test_readers_may_be_used_by_threads_and_sent_to_processes(good, monkeypatch):
    monkeypatch.setattr(record_files, "_OPEN", 1)  # shards are closed and opened all the time
    source = opened(good)
    expected = [source.read(i).picture.data for i in range(9)]
    again = pickle.loads(pickle.dumps(source))
    rng = np.random.default_rng(0)
    order = rng.integers(0, 9, 800).tolist()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda i: again.read(i).picture.data, order))
    assert all(data == expected[i] for i, data in zip(order, found, strict=True))


def test_tensorflow_is_not_imported(good):
    code = (
        "import sys; from esam_jax.config import PackConfig; from esam_jax.data import sources; "
        f"sources.open_source(PackConfig(path={str(good)!r})).read(0); "
        "sys.exit(' '.join({'tensorflow', 'jax', 'torch'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------- kills


CHILD = """
import sys
from pathlib import Path
from esam_jax.data import sources
from esam_jax.datasets import packing
path, folder, shards, workers = sys.argv[1:]
config = sources.detect(path)
source = sources.open_source(config)
planned = packing.plan(source, config, shards=int(shards))
packing.write(source, Path(folder), planned, workers=int(workers))
"""


def start(config, folder, shards, workers):
    argv = [sys.executable, "-c", CHILD, config.path, str(folder), str(shards), str(workers)]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def killed_and_resumed(config, tmp_path, kills, shards, workers, seed):
    """Kills at random moments, then an undisturbed call: all bytes are those of the first pack."""
    source = sources.open_source(config)
    packing.write(source, tmp_path / "whole", packing.plan(source, config, shards=shards))
    rng, done, folder = random.Random(seed), 0, tmp_path / "killed"
    begin = time.monotonic()
    assert start(config, tmp_path / "timed", shards, workers).wait() == 0
    seconds = time.monotonic() - begin
    assert contents(tmp_path / "timed") == contents(tmp_path / "whole")
    for _ in range(kills):
        process = start(config, folder, shards, workers)
        # Most of the time is for imports; a kill may come before, within and after the writing.
        time.sleep(seconds * rng.uniform(0.3, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        done += process.returncode == -signal.SIGKILL
        if (folder / packs.MANIFEST).is_file():
            found = contents(folder)
            assert {name: found[name] for name in contents(tmp_path / "whole")} == contents(
                tmp_path / "whole"
            )
            folder.rename(tmp_path / f"done{rng.random()}")  # it begins again
    assert done > 0
    assert start(config, folder, shards, workers).wait() == 0
    for name, data in contents(tmp_path / "whole").items():
        assert contents(folder)[name] == data, name
    left = contents(folder).keys() - contents(tmp_path / "whole").keys()
    assert all(name.endswith(".new") for name in left)  # of a process that died a moment ago


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_kills_at_random_moments_change_nothing(workers, tmp_path):
    killed_and_resumed(sa1b(tmp_path / "data"), tmp_path, 10, 9, workers, random.randrange(2**32))


@real
@pytest.mark.slow
@pytest.mark.parametrize("name", ["sa1b_layout", "coco_instances/val", "imagenet100/images"])
def test_kills_at_random_moments_change_nothing_of_shared_sets(name, tmp_path):
    config = sources.detect(str(DATA / name))
    killed_and_resumed(config, tmp_path, 7, 6, 2, random.randrange(2**32))


def test_a_kill_between_any_two_files_changes_nothing(tmp_path, monkeypatch):
    """After each file that is written, in order, everything stops; the last call ends it."""
    config = sa1b(tmp_path / "data")
    source = sources.open_source(config)
    planned = packing.plan(source, config, shards=3)
    packing.write(source, tmp_path / "whole", planned)
    expected = contents(tmp_path / "whole")

    class Killed(BaseException):
        """Which nothing catches."""

    def dying(count, function):
        left = [count]

        def call(*arguments, **options):
            if not left[0]:
                raise Killed
            left[0] -= 1
            return function(*arguments, **options)

        return call

    write, calls = packing.files.write, 0
    for count in range(8):
        folder = tmp_path / f"after{count}"
        monkeypatch.setattr(packing.files, "write", dying(count, write))
        try:
            packing.write(source, folder, planned)
        except Killed:
            calls += 1
        monkeypatch.setattr(packing.files, "write", write)
        packing.write(source, folder, planned)
        assert contents(folder) == expected
    assert calls == 1 + 3 + 3  # the plan, each shard, and the three files at the end
    unlink = Path.unlink
    for count in range(3):
        folder = tmp_path / f"clean{count}"
        with monkeypatch.context() as patched:
            patched.setattr(packing.Path, "unlink", dying(2 * count + 6, unlink))
            with contextlib.suppress(Killed):
                packing.write(source, folder, planned)
        packing.write(source, folder, planned)
        assert contents(folder) == expected
