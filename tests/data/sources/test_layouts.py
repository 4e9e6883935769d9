"""Data sets as common tools lay them out, and names as they come from other systems."""

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from esam_jax.config import CocoConfig, Sa1bConfig
from esam_jax.data import sources
from esam_jax.errors import ConfigError, EsamError, MissingError


def pictures(coco_json: Path) -> Path:
    return coco_json.parents[1] / "val2017"


def moved(coco_json: Path, root: Path, json_name: str, picture_folder: str) -> Path:
    """The same data set, its json and its pictures at other places below `root`."""
    (root / json_name).parent.mkdir(parents=True, exist_ok=True)
    (root / picture_folder).mkdir(parents=True, exist_ok=True)
    for picture in pictures(coco_json).iterdir():
        shutil.copy(picture, root / picture_folder / picture.name)
    shutil.copy(coco_json, root / json_name)
    return root


def names(source: sources.Source) -> list[str]:
    """Of the records, each of which can be read."""
    for index in range(len(source)):
        assert source.read(index).picture.rgb().shape == (20, 30, 3)
    return [source.name(index) for index in range(len(source))]


@pytest.mark.parametrize(
    ("json_name", "picture_folder", "given"),
    [
        ("_annotations.coco.json", ".", "."),  # Roboflow, one part
        ("train/_annotations.coco.json", "train", "train"),
        ("train/_annotations.coco.json", "train", "."),  # the only part
        ("instances.json", ".", "."),
        ("instances.json", "images", "."),
        ("instances.json", "images", "images"),
        ("instances_val.json", "val", "val"),
        ("instances_val.json", "val", "."),
        ("annotations/instances_val.json", "val", "val"),
        ("annotations/instances_val.json", "images/val", "."),
        ("annotations/instances_default.json", "images/default", "."),  # CVAT
        ("annotations/instances_default.json", "images", "."),
        ("annotations/instances_default.json", "images", "annotations/instances_default.json"),
        ("result.json", "images", "."),  # Label Studio
        ("labels.json", "data", "labels.json"),
    ],
)
def test_a_folder_is_read_with_its_json(
    coco_json: Path, tmp_path: Path, json_name: str, picture_folder: str, given: str
):
    root = moved(coco_json, tmp_path / "set", json_name, picture_folder)
    if picture_folder == "data":  # a folder that nothing names: names may hold it
        content = json.loads((root / json_name).read_text())
        for image in content["images"]:
            image["file_name"] = f"data/{image['file_name']}"
        (root / json_name).write_text(json.dumps(content))
    config = sources.detect(str(root / given))
    assert config == CocoConfig(path=str(root / given))
    assert len(names(sources.open_source(config))) == 2


def test_of_several_jsons_none_is_taken_silently(coco_json: Path, tmp_path: Path):
    root = tmp_path / "set"
    for part in ("train", "valid", "test"):
        moved(coco_json, root, f"{part}/_annotations.coco.json", part)
    with pytest.raises(ConfigError, match=r"holds 3 COCO jsons.*test/_ann.*train/_ann.*valid/_ann"):
        sources.detect(str(root))
    assert sources.detect(str(root / "valid")).kind == "coco"


def test_coco_itself_has_other_jsons_beside_its_instances(coco_json: Path, tmp_path: Path):
    root = moved(coco_json, tmp_path / "set", "annotations/instances_val.json", "val")
    for name in ("captions_val.json", "person_keypoints_val.json"):
        shutil.copy(root / "annotations/instances_val.json", root / "annotations" / name)
    assert len(names(sources.open_source(sources.detect(str(root))))) == 2
    shutil.copy(root / "annotations/instances_val.json", root / "annotations/instances_train.json")
    with pytest.raises(ConfigError, match=r"holds 2 COCO jsons.*instances_train.*instances_val"):
        sources.detect(str(root))


def test_sa1b_at_any_depth(sa1b_folder: Path, tmp_path: Path):
    for depth in ("part/000", "a/b/c"):
        deep = tmp_path / depth
        deep.parent.mkdir(parents=True)
        shutil.copytree(sa1b_folder, deep)
        root = tmp_path / depth.split("/")[0]
        assert sources.detect(str(root)) == Sa1bConfig(path=str(root))
        assert len(sources.open_source(sources.detect(str(root)))) == 3


def test_a_json_that_is_none_of_ours_is_named(tmp_path: Path, write_picture: Callable):
    """Else masks in another form would be pictures without masks, silently."""
    write_picture(tmp_path / "p" / "a.png", 9, 9)
    (tmp_path / "p" / "a.json").write_text(json.dumps({"version": "5.0", "shapes": []}))
    with pytest.warns(UserWarning, match=r"read as pictures without masks: a\.json is neither a C"):
        assert sources.detect(str(tmp_path / "p")).kind == "image_folder"


def renamed(coco_json: Path, name: str) -> CocoConfig:
    """Picture a is `name` in the json."""
    content = json.loads(coco_json.read_text())
    content["images"][0]["file_name"] = name
    coco_json.write_text(json.dumps(content))
    return CocoConfig(path=str(coco_json))


def test_backslashes_are_separators_where_no_file_has_them(coco_json: Path):
    (pictures(coco_json) / "part").mkdir()
    (pictures(coco_json) / "a.png").rename(pictures(coco_json) / "part" / "a.png")
    source = sources.open_source(renamed(coco_json, "part\\a.png"))
    record = source.read(0)
    assert record.picture.rgb().shape == (20, 30, 3)
    (finding,) = (each for each in record.findings if each.kind == "names_corrected")
    assert "file_name has backslashes, as Windows writes them; read as" in finding.text
    # A genuine backslash is a character of the name.
    shutil.copy(pictures(coco_json) / "part" / "a.png", pictures(coco_json) / "part\\a.png")
    assert not [x for x in source.read(0).findings if x.kind == "names_corrected"]


@pytest.mark.parametrize(("written", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_may_be_composed_differently(coco_json: Path, written: str, on_disk: str):
    there = unicodedata.normalize(on_disk, "zellkern_ä.png")
    (pictures(coco_json) / "a.png").rename(pictures(coco_json) / there)
    name = unicodedata.normalize(written, there)
    source = sources.open_source(renamed(coco_json, name))
    record = source.read(0)
    assert record.name == name and record.picture.rgb().shape == (20, 30, 3)
    assert "composes its accents differently" in record.findings[-1].text


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("A.PNG", r"; .*val2017 has 'a\.png': file_name must have the same capitals"),
        ("part\\a.png", r"; nor is 'part/a\.png': file_name has backslashes, as Windows writes"),
        ("b/../c.png", None),
    ],
)
def test_a_picture_that_is_not_there_comes_with_a_likely_cause(
    coco_json: Path, name: str, hint: str | None
):
    source = sources.open_source(renamed(coco_json, name))
    if hint is None:  # not a name below the folder at all
        assert len(source) == 1
        return
    with pytest.raises(MissingError, match=f"cannot be read.*{hint}"):
        source.read(0)
    content = json.loads(coco_json.read_text())
    del content["images"][1]
    coco_json.write_text(json.dumps(content))
    with pytest.raises(EsamError, match=f"is in none of .*{hint}"):
        sources.open_source(CocoConfig(path=str(coco_json)))


def test_lvis_names_its_pictures_by_their_addresses(coco_json: Path):
    """As its json of v1 does, in which no picture has a file_name and no object an iscrowd."""
    content = json.loads(coco_json.read_text())
    wanted = names(sources.open_source(CocoConfig(path=str(coco_json))))
    for image in content["images"]:
        address = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"
        image |= {"coco_url": address, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    for each in content["annotations"]:
        each.pop("iscrowd", None)
    lvis = coco_json.parent / "lvis_v1_val.json"
    lvis.write_text(json.dumps(content))
    source = sources.open_source(CocoConfig(path=str(lvis)))
    found = names(source)
    assert [name.removeprefix("val2017/") for name in found][: len(wanted)] == wanted
    assert all(name.startswith("val2017/") for name in found)
    content["images"][0]["coco_url"] = "http://images.cocodataset.org/../a.png"
    lvis.write_text(json.dumps(content))
    assert (
        "must be a name below" in sources.open_source(CocoConfig(path=str(lvis))).findings[0].text
    )
