"""The words by which a run recognises its data change with the annotations, not only with names."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from esam_jax.config import CocoConfig, ImageFolderConfig, Sa1bConfig, ScenesConfig
from esam_jax.data import records, sources
from esam_jax.ops import regions


def summary(config) -> str:
    return records.summary(sources.open_source(config))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["annotations"].pop(),
        lambda c: c["annotations"][0]["segmentation"][0].__setitem__(0, 3),
        lambda c: c["images"][0].update(file_name="b.png"),
    ],
)
def test_coco(coco_json: Path, change: Callable):
    config = CocoConfig(path=str(coco_json))
    before = summary(config)
    assert before == summary(config) and before.startswith("2 records, names ")
    content = json.loads(coco_json.read_text())
    change(content)
    coco_json.write_text(json.dumps(content))
    assert summary(config) != before


def test_sa1b(sa1b_folder: Path):
    config, file = Sa1bConfig(path=str(sa1b_folder)), sa1b_folder / "sa_2.json"
    before, content = summary(config), json.loads(file.read_text())
    assert ", annotations of 3 " in before
    # As many objects, of the same areas, under the same names and in as many bytes.
    other = regions.from_rle(content["annotations"][0]["segmentation"])[:, ::-1]
    content["annotations"][0]["segmentation"] = regions.to_rle(np.ascontiguousarray(other))
    file.write_text(json.dumps(content))
    changed = summary(config)
    assert (
        changed != before and changed.split(", annotations")[0] == before.split(", annotations")[0]
    )
    file.unlink()
    assert summary(config) not in (before, changed)


def test_of_many_records_a_thousand_are_read(sa1b_folder: Path, monkeypatch: pytest.MonkeyPatch):
    source = sources.open_source(Sa1bConfig(path=str(sa1b_folder)))
    monkeypatch.setattr(records, "SAMPLED", 2)
    assert list(records.sampled(source)) == [0, 1, 2]
    monkeypatch.setattr(records, "SAMPLED", 1)
    assert ", annotations of 1 " in records.summary(source)


def test_pictures_without_annotations_have_names_alone(tmp_path: Path, write_picture: Callable):
    write_picture(tmp_path / "a.png", 5, 5)
    for config in (ImageFolderConfig(path=str(tmp_path)), ScenesConfig(scenes=3)):
        assert "annotations" not in summary(config)
