"""Pictures with maps of object numbers, as microscopy data comes."""

from pathlib import Path

import numpy as np
import pytest
from helpers import whole
from helpers.label_maps import label_maps
from PIL import Image

from esam_jax.config import LabelMapsConfig, PromptedConfig
from esam_jax.data import sources
from esam_jax.data.examples import Examples, Tally
from esam_jax.data.mask_sets import describe
from esam_jax.data.records import AnnotatedSource
from esam_jax.errors import DataError


def opened(folder: Path) -> sources.Source:
    return sources.open_source(LabelMapsConfig(path=str(folder)))


def write(folder: Path, name: str, values: np.ndarray) -> None:
    Image.fromarray(values).save(folder / "instances" / name)


def test_objects_are_the_numbers_that_occur(tmp_path: Path):
    source = opened(label_maps(tmp_path))
    assert [source.name(i) for i in range(3)] == ["a.png", "c.png", "sub/b.png"]
    records = [source.read(i) for i in range(3)]
    masks = [record.annotation("masks") for record in records]
    assert [len(each) for each in masks] == [2, 1, 0]
    assert [describe(masks[0], i).identity for i in range(2)] == [2, 700]
    (first, second) = whole.masks(records[0], 0, 1)
    assert first.sum() == 8 * 6 and second.sum() == 6 * 9
    assert first[1:9, 2:8].all() and second[5:11, 10:19].all()


def test_training_reads_them(tmp_path: Path):
    view = PromptedConfig(image_px=32, min_area_px=1, max_area=1.0, masks=4)
    examples = Examples(opened(label_maps(tmp_path)), view, seed=0)
    tally = Tally(examples, 0.1)
    valid = [int(tally.view_of(examples[i])["valid"].sum()) for i in range(3)]
    assert sorted(valid)[-1] == 2 and set(tally.empty) == {"sub/b.png"} and not tally.broken


def test_pictures_without_a_map_are_counted_and_named(tmp_path: Path):
    (label_maps(tmp_path) / "instances" / "c.png").unlink()
    source = opened(tmp_path)
    assert isinstance(source, AnnotatedSource) and len(source) == 2
    (finding,) = source.findings
    assert (finding.kind, finding.count) == ("pictures_left_out", 1)
    assert finding.text == "images/c.png has no map c.png in instances/"
    for file in (tmp_path / "instances").rglob("*.png"):
        file.unlink()
    with pytest.raises(DataError, match="has no picture in images/ with a map in instances/"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((12, 21), np.uint8), "a.png: its map is 12 x 21, but the picture is 12 x 20"),
        (np.ones((12, 20, 3), np.uint8), "its pixels are RGB, but a map of objects is grey"),
        (b"", "the file is empty"),
    ],
)
def test_a_map_that_does_not_fit_costs_its_picture(tmp_path: Path, values, message: str):
    label_maps(tmp_path)
    if isinstance(values, bytes):
        (tmp_path / "instances" / "a.png").write_bytes(values)
    else:
        write(tmp_path, "a.png", values)
    source = opened(tmp_path)
    with pytest.raises(DataError, match=message):
        source.read(0)
    assert len(source.read(1).annotation("masks")) == 1


def test_the_digest_follows_the_maps(tmp_path: Path):
    source = opened(label_maps(tmp_path))
    assert isinstance(source, AnnotatedSource)
    before = source.digest()
    assert before == opened(tmp_path).digest() and before.startswith("maps of 3 ")  # type: ignore
    write(tmp_path, "a.png", np.ones((12, 20), np.uint16))
    assert source.digest() != before
