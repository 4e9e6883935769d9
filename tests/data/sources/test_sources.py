import errno
import json
import os
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from helpers import drawn_sets, tfds_sets, whole
from helpers.label_maps import label_maps
from helpers.tar_files import of_folder

from esam_jax.config import (
    BsdsConfig,
    CocoConfig,
    ImageFolderConfig,
    MixtureConfig,
    Sa1bConfig,
    ScenesConfig,
    SemanticMapsConfig,
    SourceConfig,
    TfdsConfig,
    VideoConfig,
)
from esam_jax.config.data import lacking
from esam_jax.data import packed_records, pictures, sources
from esam_jax.data.records import AnnotatedSource, PartlyAnnotatedSource, summary
from esam_jax.data.sources import scene_painter
from esam_jax.datasets import packing
from esam_jax.errors import ConfigError, DataError, DiskError, MissingError
from esam_jax.ops import regions


def open_coco(path: Path) -> sources.Source:
    return sources.open_source(CocoConfig(path=str(path)))


def open_sa1b(path: Path) -> sources.Source:
    return sources.open_source(Sa1bConfig(path=str(path)))


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# -------------------------------------------------------------------------------------- scenes


def test_scenes_come_with_their_visible_masks():
    source = sources.open_source(ScenesConfig(split="heldout", scenes=5, scene_px=40))
    record = source.read(4)
    image, labels = scene_painter.draw(4, 40, split="heldout")
    assert len(source) == 5 and record.name == "heldout/4"
    assert (record.picture.rgb() == image).all()
    assert len(record.annotation("masks")) == labels.max()
    assert (whole.masks(record, 1, 0) == [labels == 2, labels == 1]).all()


# -------------------------------------------------------------------------------- image folder


@pytest.mark.parametrize(
    ("code", "kind", "leaves"),
    [(errno.EIO, DiskError, 75), (errno.EACCES, MissingError, 2), (errno.ESTALE, DiskError, 75)],
)
def test_a_folder_that_cannot_be_listed_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type, leaves: int
):
    for name in ("a/x.png", "b/y.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert pictures.list_pictures(tmp_path).names == ("a/x.png", "b/y.png")
    listed = os.scandir

    def scandir(path):
        if Path(path).name == "a":
            raise OSError(code, os.strerror(code), str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(kind, match=rf"/a cannot be read \({os.strerror(code)}\)") as caught:
        pictures.list_pictures(tmp_path)
    assert caught.value.exit_code == leaves


def test_what_a_disk_keeps_for_itself_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Only its owner may list it."""
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "x.png").touch()
    listed = os.scandir

    def scandir(path):
        assert Path(path).name != "lost+found"
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert pictures.list_pictures(tmp_path).names == ("x.png",)


def test_an_empty_path_is_not_this_folder():
    """As a shell makes it of a variable that is not set."""
    with pytest.raises(MissingError, match=r"a path to data is empty: name a folder or file"):
        sources.detect("")
    with pytest.raises(ConfigError, match=r"source\.path is '', but the source 'coco' reads one"):
        sources.open_source(CocoConfig(path=""))


def test_image_folder_finds_pictures_at_any_depth(tmp_path: Path, write_picture: Callable):
    for name in ("images/n02/b.JPEG", "images/n01/a.png", "top.webp", ".hidden/c.png"):
        write_picture(tmp_path / name, 7, 9)
    (tmp_path / "images" / "notes.txt").write_text("no picture")
    with pytest.warns(UserWarning, match=r"not read: \.txt \(1\); pictures are \.jpg"):
        source = sources.open_source(ImageFolderConfig(path=str(tmp_path)))
    names = [source.name(i) for i in range(len(source))]
    assert names == ["images/n01/a.png", "images/n02/b.JPEG", "top.webp"]
    record = source.read(0)
    assert record.name == names[0] and record.picture.rgb().shape == (7, 9, 3)
    (tmp_path / "images" / "notes.txt").unlink()
    with pytest.raises(
        ConfigError, match=r"no label here: top\.webp lies in no folder below .*: give"
    ):
        sources.open_source(ImageFolderConfig(path=str(tmp_path)), needs=frozenset({"label"}))
    assert not record.annotations
    (tmp_path / "top.webp").unlink()
    labelled = sources.open_source(ImageFolderConfig(path=str(tmp_path)))
    assert [labelled.read(i).annotation("label").name for i in range(2)] == ["images"] * 2


def test_classes_of_an_image_folder_are_those_of_tensorflow_datasets(
    tmp_path: Path, write_picture: Callable
):
    """Numbered by the order of their names, wherever a picture lies below its class."""
    import tensorflow_datasets as tfds

    names = ["n02/b.png", "n01/deep/a.png", "n10/c.png", "n02/a.png"]
    for seed, name in enumerate(names):
        write_picture(tmp_path / "folder" / name, 7, 9, seed)
    folders = sources.open_source(ImageFolderConfig(path=str(tmp_path / "folder")))
    records = [folders.read(i) for i in range(4)]
    labels = {record.name: record.annotation("label") for record in records}
    assert {name: (label.index, label.name) for name, label in labels.items()} == {
        "n01/deep/a.png": (0, "n01"),
        "n02/a.png": (1, "n02"),
        "n02/b.png": (1, "n02"),
        "n10/c.png": (2, "n10"),
    }
    features = {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(names=["n01", "n02", "n10"]),
        "file_name": tfds.features.Text(),
    }
    prepared = [
        {"image": str(tmp_path / "folder" / name), "label": name[:3], "file_name": name}
        for name in names
    ]
    tfds_sets.prepare(tmp_path, features, {"train": prepared})
    prepared = sources.open_source(TfdsConfig(path=str(tmp_path), name="tiny"))
    for record in (prepared.read(i) for i in range(4)):
        name = record.picture.name.split("(")[1][:-1]  # type: ignore
        same = next(each for each in records if each.name == name)
        assert record.annotation("label") == labels[name]
        assert (record.picture.rgb() == same.picture.rgb()).all()


def test_one_record_is_said_as_one(tmp_path: Path, write_picture: Callable):
    write_picture(tmp_path / "a.png", 7, 9)
    config = ImageFolderConfig(path=str(tmp_path))
    assert summary(sources.open_source(config)).startswith("1 record, names ")


def test_nothing_to_read_is_said_at_once(tmp_path: Path):
    for kind in (ImageFolderConfig, Sa1bConfig):
        with pytest.raises(DataError, match="holds no"):
            sources.open_source(kind(path=str(tmp_path)))
        with pytest.raises(MissingError, match="absent"):
            sources.open_source(kind(path=str(tmp_path / "absent")))
        with pytest.raises(ConfigError, match="path is None"):
            sources.open_source(kind())


# ---------------------------------------------------------------------------------------- coco


def test_coco_gives_objects_and_leaves_crowds_out(coco_json: Path):
    source = open_coco(coco_json)
    assert [source.name(i) for i in range(len(source))] == ["a.png", "b.png"]
    first, second = source.read(0), source.read(1)
    (polygon,) = whole.masks(first, 0)
    assert (
        len(first.annotation("masks")) == 1
        and regions.mask_box(polygon) == (2, 3, 20, 10)
        and polygon.all(0).sum() == 0
    )
    (packed,) = whole.masks(second, 0)
    assert packed[9, 11] and packed.sum() == 81


def test_coco_pictures_are_found_from_either_side(coco_json: Path):
    assert len(open_coco(coco_json.parents[1] / "val2017")) == 2
    (coco_json.parents[1] / "val2017" / "a.png").unlink()
    source = open_coco(coco_json)  # one picture that is missing costs itself
    with pytest.raises(MissingError, match=r"a\.png"):
        source.read(0)
    assert source.read(1).picture.rgb().shape == (20, 30, 3)
    (coco_json.parents[1] / "val2017" / "b.png").unlink()
    with pytest.raises(MissingError, match=r"'a\.png' of .* is in none of"):
        open_coco(coco_json)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("images"), "no 'images'"),
        (lambda c: c.update(annotations={}), "'annotations' of type dict"),
        (lambda c: c["annotations"].clear(), "no picture with an object that can be used: name"),
        (
            lambda c: [a.update(image_id=1) for a in c["annotations"]],
            "name data with masks; 4 objects left out, the first: .*image 1",
        ),
        (
            lambda c: [a.update(iscrowd=1) for a in c["annotations"]],
            r"; 4 crowds left out, .* \(--data\.source\.crowds use reads them\)$",
        ),
    ],
)
def test_a_coco_file_of_which_nothing_can_be_used_is_refused(
    coco_json: Path, change: Callable, reason: str
):
    edit(coco_json, change)
    with pytest.raises(DataError, match=reason):
        open_coco(coco_json)


def noted(source: sources.Source) -> list[str]:
    assert isinstance(source, AnnotatedSource)
    return [f"{each.count} {each.kind}: {each.text}" for each in source.findings]


ALWAYS = [
    r"\d pictures_left_out: [bd].png has no object",
    "1 pictures_of_crowds_left_out: c.png has crowds alone",
    "1 crowds_left_out: c.png has crowds",
]


@pytest.mark.parametrize(
    ("change", "names", "found"),
    [
        (lambda c: None, "ab", []),
        (lambda c: c["images"].append(c["images"][0]), "ab", []),
        (
            lambda c: c["images"].append({**c["images"][1], "id": 7}),
            "b",
            [
                "1 pictures_left_out: .*image 4 has the id 7 of another picture",
                "2 objects_left_out",
            ],
        ),
        (
            lambda c: c["images"][0].update(file_name="../secret.png"),
            "b",
            [
                "1 pictures_left_out: .* must be a name below the picture folder",
                "2 objects_left_out",
            ],
        ),
        (
            lambda c: c["images"][0].update(file_name="..\\secret.png"),
            "b",
            [
                "1 pictures_left_out: .* must be a name below the picture folder",
                "2 objects_left_out",
            ],
        ),
        (
            lambda c: c["images"][0].update(file_name="/etc/x.png"),
            "b",
            [
                "1 pictures_left_out: .* must be a name below the picture folder",
                "2 objects_left_out",
            ],
        ),
        (
            lambda c: c["images"][1].update(id="3"),
            "a",
            ["1 objects_left_out: .*annotation 2 belongs to image 3, which is not listed"],
        ),
        (
            lambda c: [c["images"][1].update(id="3"), c["annotations"][2].update(image_id="3")],
            "ab",
            [],
        ),
        (
            lambda c: c["images"][1].pop("id"),
            "a",
            [
                "1 pictures_left_out: .*image 1 has no 'id'",
                "1 objects_left_out: .*annotation 2 bel",
            ],
        ),
        (lambda c: c["images"].append(7), "ab", ["1 pictures_left_out: .*image 4 has no 'id'"]),
        (
            lambda c: c["annotations"][2].pop("image_id"),
            "a",
            ["1 objects_left_out: .*annotation 2 has no 'image_id'"],
        ),
        (
            lambda c: c["annotations"].extend([[], 7, None]),
            "ab",
            [r"3 objects_left_out: .*annotation 4 has no 'image_id' \(the first of 3\)"],
        ),
        (lambda c: c["annotations"][0].update(bbox=[float("nan")] * 4), "ab", []),
    ],
)
def test_a_bad_entry_of_a_coco_file_costs_itself(
    coco_json: Path, change: Callable, names: str, found: list[str]
):
    edit(coco_json, change)
    source = open_coco(coco_json)
    assert [source.name(i) for i in range(len(source))] == [f"{name}.png" for name in names]
    texts, expected = noted(source), [*found, *ALWAYS]
    assert len(texts) == len(expected)
    for text in texts:
        assert sum(bool(re.match(pattern, text)) for pattern in expected) == 1, text


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\xff"])
def test_what_is_no_json_object_is_refused(coco_json: Path, text: str):
    coco_json.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match="json"):
        open_coco(coco_json)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c["images"][0].update(height=21), r"a\.png is 20 x 30"),
        (lambda c: c["annotations"][0].pop("segmentation"), "1 of 1 .* no 'segmentation'"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2]]), "mask 0.*polygon"),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [9, 9], "counts": [81]}),
            "mask 0.*size",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [20, 30], "counts": [81]}),
            "mask 0.*sum to 81",
        ),
    ],
)
def test_a_broken_annotation_breaks_its_own_picture_only(
    coco_json: Path, change: Callable, reason: str
):
    edit(coco_json, change)
    source = open_coco(coco_json)
    with pytest.raises(DataError, match=reason):
        whole.masks(source.read(0), 0)
    assert whole.masks(source.read(1), 0).any()


# ---------------------------------------------------------------------------------------- sa1b


def test_sa1b_reads_pairs(sa1b_folder: Path):
    source = open_sa1b(sa1b_folder)
    assert [source.name(i) for i in range(len(source))] == ["sa_1.jpg", "sa_10.jpg", "sa_2.jpg"]
    record = source.read(1)
    assert record.picture.rgb().shape == (40, 60, 3) and len(record.annotation("masks")) == 3
    areas = whole.masks(record, 2, 0).sum((1, 2))
    assert areas.tolist() == [5, 253]


def test_sa1b_unpacked_into_folders(sa1b_folder: Path):
    assert len(open_sa1b(sa1b_folder.parent)) == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("annotations"), "no 'annotations'"),
        (lambda c: c.update(annotations=[{}] * 10_001), "10001 masks"),
        (lambda c: [a.update(segmentation="x") for a in c["annotations"]], "2 of 2 objects cannot"),
        (lambda c: c["annotations"][1]["segmentation"].update(size=[60, 40]), "mask 1.*size"),
        (lambda c: c["annotations"][1]["segmentation"].update(counts="00"), "mask 1.*sum"),
    ],
)
def test_a_broken_sa1b_json_names_its_picture(sa1b_folder: Path, change: Callable, reason: str):
    edit(sa1b_folder / "sa_1.json", change)
    with pytest.raises(DataError, match=reason):
        whole.masks(open_sa1b(sa1b_folder).read(0), 0, 1)


def test_a_picture_without_its_json(sa1b_folder: Path):
    (sa1b_folder / "sa_2.json").unlink()
    with pytest.raises(MissingError, match=r"sa_2\.json"):
        open_sa1b(sa1b_folder).read(2)


# -------------------------------------------------------------------------------------- detect


def test_detect_tells_layouts_apart(
    tmp_path: Path, coco_json: Path, sa1b_folder: Path, write_picture: Callable
):
    write_picture(tmp_path / "classes" / "ant" / "1.png", 5, 5)
    assert sources.detect("scenes") == ScenesConfig(split="heldout")
    for path, kind in (
        (coco_json, "coco"),
        (coco_json.parents[1] / "val2017", "coco"),
        (sa1b_folder, "sa1b"),
        (tmp_path / "classes", "image_folder"),
    ):
        config = sources.detect(str(path))
        assert config.kind == kind and len(sources.open_source(config)) > 0
    with pytest.raises(MissingError, match="scenes"):
        sources.detect(str(tmp_path / "absent"))


def test_what_is_not_meant_says_what_to_name(tmp_path: Path, coco_json: Path):
    config = CocoConfig(path=str(coco_json))
    source = sources.open_source(config)
    packing.write(source, tmp_path / "pack", packing.plan(source, config))
    with pytest.raises(
        ConfigError, match=r"pack\.json belongs to a pack: name its folder, .*pack$"
    ):
        sources.detect(str(tmp_path / "pack" / "pack.json"))
    (tmp_path / "pack.json").write_bytes(coco_json.read_bytes())  # no pack lies here
    assert sources.detect(str(tmp_path / "pack.json")).kind == "coco"
    archive = tmp_path / "x.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(coco_json, "a.json")
    for name in ("x.tar.gz", "x.tgz"):
        archive = archive.rename(tmp_path / name)
        with pytest.raises(DataError, match=rf"{name} is compressed, .*: gunzip it"):
            sources.open_source(sources.detect(str(archive)))


@pytest.mark.parametrize("refuses", ["scandir", "stat"])
def test_a_folder_that_may_not_be_read_is_named(refuses, sa1b_folder, monkeypatch):
    """Not a file that one of the kinds of data looks for in it."""
    call, inside = getattr(os, refuses), refuses == "stat"

    def refused(path, *args, **options):
        text = os.fspath(path) if not isinstance(path, int) else ""
        if text.startswith(f"{sa1b_folder}/") if inside else text == str(sa1b_folder):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return call(path, *args, **options)

    monkeypatch.setattr(os, refuses, refused)
    with pytest.raises(MissingError) as caught:
        sources.detect(str(sa1b_folder))
    assert str(caught.value) == (
        f"{sa1b_folder} cannot be read (Permission denied): make it readable, or name another"
    )


# ----------------------------------------------------------------------------- each by its kind


# A mixture has tests of its own.
ONE_PATH = [config for config in get_args(SourceConfig) if config is not MixtureConfig]


@pytest.fixture(params=ONE_PATH, ids=lambda config: config.kind)
def place(
    request, tmp_path: Path, sa1b_folder: Path, coco_json: Path, write_picture: Callable
) -> tuple[type, str]:
    """The config class of each source, with some data of it."""
    config = request.param
    write_picture(tmp_path / "pictures" / "class" / "a.png", 7, 9)
    if config is TfdsConfig:
        tfds_sets.classes(tmp_path)
    path = {
        "scenes": "scenes",
        "sa1b": str(sa1b_folder),
        "coco": str(coco_json),
        "image_folder": str(tmp_path / "pictures"),
        "tfds": str(tmp_path / "tiny/1.0.0"),
        "label_maps": str(label_maps(tmp_path / "maps")),
        "image_tars": str(of_folder(tmp_path / "pictures", tmp_path / "x.tar", before="class/")),
        "panoptic": str(drawn_sets.panoptic(tmp_path / "panoptic")),
        "bsds": str(drawn_sets.bsds(tmp_path / "bsds")),
        "semantic_maps": str(drawn_sets.semantic_maps(tmp_path / "semantic")),
        "video": str(drawn_sets.davis(tmp_path / "davis")),
        "pack": str(tmp_path / "pack"),
    }[config.kind]
    if config.kind == "pack":
        packed = CocoConfig(path=str(coco_json))
        of = sources.open_source(packed)
        packing.write(of, tmp_path / "pack", packing.plan(of, packed))
    return config, path


def test_a_source_brings_all_of_itself(place: tuple[type, str]):
    config, path = place
    found = sources.detect(path)
    assert type(found) is config
    source = sources.open_source(found)
    assert isinstance(source, sources.Source) and len(source) > 0
    # What its config promises is what its records carry, but for what it says that it lacks.
    lacks = source.lacks if isinstance(source, PartlyAnnotatedSource) else {}
    assert config.annotations - lacks.keys() <= set(source.read(0).annotations)
    assert not lacks.keys() & set(source.read(0).annotations)


def test_a_copy_in_another_process_reads_the_same(place: tuple[type, str]):
    """What `data.workers` are sent, after files were opened here."""
    source = sources.open_source(sources.detect(place[1]))
    numbers = range(min(len(source), 4))
    names = [source.name(i) for i in numbers]
    content = [packed_records.encode(source.read(i)) for i in numbers]
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == len(source) and [copy.name(i) for i in numbers] == names
    assert [packed_records.encode(copy.read(i)) for i in numbers] == content
    assert [packed_records.encode(source.read(i)) for i in numbers] == content


@pytest.mark.parametrize("config", [BsdsConfig, SemanticMapsConfig, VideoConfig])
@pytest.mark.parametrize("split", [None, "val"])
def test_a_folder_that_is_not_there_is_named(config: type, split: str | None, tmp_path: Path):
    with pytest.raises(MissingError, match=r"absent\S* is not a folder"):
        sources.open_source(config(path=str(tmp_path / "absent"), split=split))


def test_a_source_without_what_a_view_needs_is_named_with_those_that_would_do():
    masks = frozenset({"masks"})
    for config in (ScenesConfig(), Sa1bConfig(path="x"), CocoConfig(path="x")):
        assert list(lacking(config, masks, "a view needs")) == []
    folder = ImageFolderConfig(path="x")
    wanted = (
        "a view needs masks: read scenes, tfds, sa1b, label_maps, pack, panoptic, bsds, video, "
        "coco, mixture"
    )
    assert list(lacking(folder, masks, "a view needs")) == [("source.kind", wanted)]
    assert list(lacking(folder, frozenset(), "a view needs")) == []
    wanted = "a view needs text: no source has them"
    assert list(lacking(ScenesConfig(), frozenset({"text"}), "a view needs")) == [
        ("source.kind", wanted)
    ]
