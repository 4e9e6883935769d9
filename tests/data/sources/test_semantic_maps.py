"""Pictures with maps of class numbers: ADE20K's layout, and folders like it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import drawn_sets
from PIL import Image

from esam_jax.config import SemanticMapsConfig
from esam_jax.data import sources
from esam_jax.data.records import AnnotatedSource
from esam_jax.errors import ConfigError, DataError


def opened(folder: Path, **fields: Any) -> sources.Source:
    return sources.open_source(SemanticMapsConfig(path=str(folder), **fields))


def plain(folder: Path, maps: str = "labels", top: int = 3) -> Path:
    """Two pictures with maps of the values 0 to `top`, and no names."""
    values = np.arange(240, dtype=np.uint8).reshape(12, 20) % (top + 1)
    for name in ("a", "sub/b"):
        drawn_sets.picture(folder / "images" / f"{name}.jpg")
        drawn_sets.png(folder / maps / f"{name}.png", values)
    return folder


def test_ade20k(tmp_path: Path):
    config = sources.detect(str(drawn_sets.semantic_maps(tmp_path)))
    assert config.kind == "semantic_maps"
    source = sources.open_source(config)
    names = [source.name(i) for i in range(len(source))]
    assert names == ["training/a.jpg", "training/b.jpg", "validation/c.jpg"]
    for i, name in enumerate(names):
        record = source.read(i)
        stored = np.asarray(Image.open(tmp_path / "annotations" / f"{name[:-4]}.png"))
        found = record.annotation("semantic")
        np.testing.assert_array_equal(found.values, stored)
        assert found.names == {1: "wall", 2: "building", 3: "sky"} and found.void == {0}
        assert record.picture.rgb().shape == (12, 20, 3)
        with pytest.raises(ConfigError, match="without masks"):
            record.annotation("masks")


def test_a_split_is_a_folder_of_pictures(tmp_path: Path):
    drawn_sets.semantic_maps(tmp_path)
    source = opened(tmp_path, split="validation")
    assert [source.name(i) for i in range(len(source))] == ["validation/c.jpg"]
    for split in ("val", "../images/training", "/tmp", ""):
        with pytest.raises(DataError, match="no such folder: its splits are training, validation"):
            opened(tmp_path, split=split)


@pytest.mark.parametrize("maps", ["annotations", "labels", "semantic"])
def test_maps_in_folders_of_three_names(tmp_path: Path, maps: str):
    source = sources.open_source(sources.detect(str(plain(tmp_path, maps))))
    assert [source.name(i) for i in range(2)] == ["a.jpg", "sub/b.jpg"]
    found = source.read(1).annotation("semantic")
    assert found.values.max() == 3 and found.names == {} and found.void == {255}


@pytest.mark.parametrize(
    ("classes", "names", "void"),
    [
        ({"classes": ["x", "y", "z", "v"], "ignore_index": 3}, {0: "x", 1: "y", 2: "z"}, {3}),
        ({"classes": ["x", "y", "z", "v"]}, {0: "x", 1: "y", 2: "z", 3: "v"}, set()),
        ({"classes": ["a", "b", "c", "d"], "ignore_index": 255}, dict(enumerate("abcd")), {255}),
        ({"0": "Unlabeled", "1": "x", "2": "y", "3": "z"}, {1: "x", 2: "y", 3: "z"}, {0}),
        ({"0": "x", "1": "y", "2": "z", "3": "void"}, {0: "x", 1: "y", 2: "z"}, {3}),
    ],
)
def test_names_of_classes(tmp_path: Path, classes: dict, names: dict, void: set):
    (plain(tmp_path) / "classes.json").write_text(json.dumps(classes))
    found = opened(tmp_path).read(0).annotation("semantic")
    assert found.names == names and found.void == void


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("", "not valid JSON"),
        ("[]", "must hold an object"),
        ('{"classes": {}}', "classes must be a list of names"),
        ('{"classes": [1]}', "classes must be a list of names"),
        ('{"classes": ["x"], "ignore_index": "3"}', "ignore_index is 3, but"),
        ('{"classes": ["x"], "ignore_index": -1}', "ignore_index is -1, but"),
        ('{"x": "1"}', "holds 'x': '1', but must give"),
        ('{"-1": "x"}', "holds '-1': 'x', but must give"),
        ('{"1": 2}', "holds '1': '2', but must give"),
        ('{"99999999999": "x"}', "holds '99999999999': 'x', but must give"),
    ],
)
def test_names_that_are_none_are_refused(tmp_path: Path, classes: str, message: str):
    (plain(tmp_path) / "classes.json").write_text(classes)
    with pytest.raises(DataError, match=rf"classes\.json.*{message}"):
        opened(tmp_path)


@pytest.mark.parametrize("line", ["", "x\twall", "1", "-1\twall", "99999999\twall"])
def test_a_list_of_ade20k_that_is_none_is_refused(tmp_path: Path, line: str):
    drawn_sets.semantic_maps(tmp_path)
    with (tmp_path / "objectInfo150.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"objectInfo150\.txt, line 5: .* not a number and a name"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((12, 21), np.uint8), r"^a\.jpg: its map is 12 x 21, but the picture is 12 x 20"),
        (np.full((12, 20), 9, np.uint8), r"^a\.jpg: its map holds the value 9, which is neither"),
        (np.ones((12, 20, 3), np.uint8), r"a\.png: its pixels are RGB"),
        (b"", r"a\.png: the file is empty"),
    ],
)
def test_a_map_that_does_not_fit_costs_its_picture(tmp_path: Path, values: Any, message: str):
    (plain(tmp_path) / "classes.json").write_text('{"classes": ["x", "y", "z", "v"]}')
    file = tmp_path / "labels" / "a.png"
    file.write_bytes(values) if isinstance(values, bytes) else drawn_sets.png(file, values)
    source = opened(tmp_path)
    with pytest.raises(DataError, match=message):
        source.read(0)
    assert source.read(1).annotation("semantic").values.shape == (12, 20)


def test_pictures_without_a_map_are_counted(tmp_path: Path):
    (plain(tmp_path) / "labels" / "a.png").unlink()
    source = opened(tmp_path)
    assert isinstance(source, AnnotatedSource) and len(source) == 1
    (finding,) = source.findings
    assert finding.text == "images/a.jpg has no map a.png in labels/" and finding.count == 1
    before = source.digest()
    drawn_sets.png(tmp_path / "labels" / "sub" / "b.png", np.zeros((12, 20), np.uint8))
    assert before.startswith("maps of 1 ") and source.digest() != before


@pytest.mark.parametrize(
    ("folder", "file"), [("labels", "a.txt"), ("annotations", "instances.json"), ("labels", None)]
)
def test_folders_of_other_tools_are_not_taken_for_maps(tmp_path: Path, folder: str, file: str):
    """YOLO has labels/*.txt; many have annotations/*.json beside images/."""
    drawn_sets.picture(tmp_path / "images" / "a.jpg")
    (tmp_path / folder).mkdir()
    if file:
        (tmp_path / folder / file).write_text("{}")
    drawn_sets.picture(tmp_path / folder / "other.png")
    with pytest.warns(UserWarning) if file == "instances.json" else pytest.MonkeyPatch.context():
        assert sources.detect(str(tmp_path)).kind == "image_folder"
