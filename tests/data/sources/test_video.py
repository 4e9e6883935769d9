"""Folders of frames: DAVIS, YouTube-VOS, SA-V's val set."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import drawn_sets, whole
from PIL import Image

from esam_jax.config import PromptedConfig, VideoConfig
from esam_jax.data import sources
from esam_jax.data.examples import Examples, Tally
from esam_jax.data.mask_sets import describe
from esam_jax.data.records import AnnotatedSource, Record
from esam_jax.errors import ConfigError, DataError


def opened(folder: Path, **fields: Any) -> sources.Source:
    return sources.open_source(VideoConfig(path=str(folder), **fields))


def names(source: sources.Source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


def noted(source: sources.Source) -> list[str]:
    assert isinstance(source, AnnotatedSource)
    return [f"{each.count} {each.kind}: {each.text}" for each in source.findings]


def objects(record: Record) -> dict:
    """The mask of each object by its identity."""
    masks = record.annotation("masks")
    identities = [describe(masks, i).identity for i in range(len(masks))]
    return dict(zip(identities, whole.masks(record), strict=True))


ALL = ["ant/00000", "ant/00001", "bear/00000", "bear/00001", "bear/00002"]


@pytest.mark.parametrize("given", [".", "JPEGImages/480p"])
def test_davis(tmp_path: Path, given: str):
    config = sources.detect(str(drawn_sets.davis(tmp_path) / given))
    assert config == VideoConfig(path=str(tmp_path / given))
    source = sources.open_source(config)
    assert names(source) == ALL == sorted(ALL)
    assert noted(source) == ["1 pictures_left_out: ant/00002 has no map in 480p/"]
    for shift in range(3):
        found = objects(record := source.read(2 + shift))
        values = drawn_sets.frame(1, 2, shift)
        assert found.keys() == {1, 2}  # and not 255, which is void in a palette
        np.testing.assert_array_equal(found[1], values == 1)
        np.testing.assert_array_equal(found[2], values == 2)
        stored = Image.open(tmp_path / "JPEGImages/480p" / f"{record.name}.jpg")
        assert np.abs(record.picture.rgb() - np.asarray(stored, int)).mean() < 2


def test_youtube_vos_has_no_resolution(tmp_path: Path):
    drawn_sets.davis(tmp_path / "davis")
    for name in ("JPEGImages", "Annotations"):
        shutil.move(tmp_path / "davis" / name / "480p", tmp_path / "vos" / name)
    source = sources.open_source(sources.detect(str(tmp_path / "vos")))
    assert names(source) == ALL and objects(source.read(4)).keys() == {1, 2}


@pytest.mark.parametrize("values", [np.uint8(255), np.bool_(True)])
def test_a_grey_map_of_one_object(tmp_path: Path, values: Any):
    """DAVIS 2016: 0 and 255, which is an object there."""
    drawn_sets.davis(tmp_path)
    path = tmp_path / "Annotations" / "480p" / "ant" / "00000.png"
    shape = drawn_sets.frame(1, 1, 0) > 0
    Image.fromarray(shape * values).save(path)
    found = objects(opened(tmp_path).read(0))
    assert found.keys() == {int(values)}
    np.testing.assert_array_equal(found[int(values)], shape)
    Image.fromarray(np.repeat((shape * np.uint8(255))[..., None], 3, 2)).save(path)
    np.testing.assert_array_equal(objects(opened(tmp_path).read(0))[255], shape)


def test_a_split_is_a_list_of_videos(tmp_path: Path):
    drawn_sets.davis(tmp_path)
    assert names(opened(tmp_path, split="2017/val")) == ALL[2:]
    source = opened(tmp_path, split="2017/train")
    assert names(source) == ALL[:2]
    assert "1 pictures_left_out: absent is listed, but is no folder of frames" in noted(source)
    # DAVIS 2016 lists frames; a list that leads elsewhere leads nowhere.
    (tmp_path / "ImageSets" / "2016").mkdir()
    lines = "".join(
        f"/JPEGImages/480p/bear/0000{i}.jpg /Annotations/480p/bear/0000{i}.png\n" for i in range(3)
    )
    (tmp_path / "ImageSets" / "2016" / "val.txt").write_text(lines + "../../../etc/passwd\n\n")
    source = opened(tmp_path / "JPEGImages" / "480p", split="2016/val")
    assert names(source) == ALL[2:] and "etc is listed" in noted(source)[0]
    for split in ("val", "../2017/val", "/etc/passwd", ""):
        with pytest.raises(DataError, match="its lists are 2016/val, 2017/train, 2017/val"):
            opened(tmp_path, split=split)


def test_sa_v_has_a_map_for_each_object(tmp_path: Path):
    config = sources.detect(str(drawn_sets.sav_frames(tmp_path)))
    source = sources.open_source(dataclasses.replace(config, split="sav_val"))
    assert names(source) == ["sav_1/00000", "sav_1/00004", "sav_1/00008"]
    assert noted(source) == [
        "6 pictures_left_out: sav_1/00001 has no map in Annotations_6fps/ (the first of 6)"
    ]
    found = [objects(source.read(i)) for i in range(3)]
    assert [each.keys() for each in found] == [{0}, {0, 1}, {0}]
    for shift in range(3):
        np.testing.assert_array_equal(found[shift][0], drawn_sets.frame(1, 1, shift) > 0)
    np.testing.assert_array_equal(found[1][1], drawn_sets.frame(1, 0, 1) > 0)


def test_a_frame_in_which_nothing_is_visible_has_no_mask(tmp_path: Path):
    drawn_sets.sav_frames(tmp_path)
    drawn_sets.png(tmp_path / "Annotations_6fps/sav_1/000/00000.png", np.zeros((12, 20), np.uint8))
    assert len(opened(tmp_path).read(0).annotation("masks")) == 0


def test_training_reads_them(tmp_path: Path):
    view = PromptedConfig(image_px=32, min_area_px=1, max_area=1.0, masks=4)
    tally = Tally(examples := Examples(opened(drawn_sets.davis(tmp_path)), view, seed=0), 0.1)
    assert sum(int(tally.view_of(examples[i])["valid"].sum()) for i in range(5)) == 2 + 3 * 2
    assert not tally.broken


def test_of_several_resolutions_none_is_taken_silently(tmp_path: Path):
    drawn_sets.davis(tmp_path)
    for name in ("JPEGImages", "Annotations"):
        shutil.copytree(tmp_path / name / "480p", tmp_path / name / "Full-Resolution")
    for call in (lambda: sources.detect(str(tmp_path)), lambda: opened(tmp_path)):
        with pytest.raises(ConfigError, match=r"2 resolutions: name one of \S+480p, \S+Full-Res"):
            call()
    place = tmp_path / "JPEGImages" / "Full-Resolution"
    assert len(sources.open_source(sources.detect(str(place)))) == 5


def test_pascal_voc_is_not_taken_for_a_video(tmp_path: Path, write_picture: Callable):
    write_picture(tmp_path / "JPEGImages" / "a.jpg", 9, 9)
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text("<annotation/>")
    assert sources.detect(str(tmp_path)).kind == "image_folder"


COLOURS = np.arange(720, dtype=np.uint8).reshape(12, 20, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((12, 21), np.uint8), r"ant/00000: its map is 12 x 21, but the picture is 12 x 20"),
        (COLOURS, r"00000\.png: its pixels are colours, but a map of objects has one number"),
        (b"", r"00000\.png: the file is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), r"00000\.png: broken PNG"),
    ],
)
def test_a_bad_map_costs_its_frame(tmp_path: Path, values: Any, message: str):
    file = drawn_sets.davis(tmp_path) / "Annotations" / "480p" / "ant" / "00000.png"
    file.write_bytes(values) if isinstance(values, bytes) else drawn_sets.png(file, values)
    source = opened(tmp_path)
    with pytest.raises(DataError, match=message):
        source.read(0)
    assert objects(source.read(1)).keys() == {1}


def test_maps_of_all_and_of_single_objects_are_not_mixed(tmp_path: Path):
    maps = drawn_sets.sav_frames(tmp_path) / "Annotations_6fps" / "sav_1"
    drawn_sets.png(maps / "00000.png", drawn_sets.frame(1, 2, 0))
    with pytest.raises(DataError, match="sav_1/00000 has a map of all objects, and maps of single"):
        opened(tmp_path).read(0)


def test_too_many_objects_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    maps = drawn_sets.sav_frames(tmp_path) / "Annotations_6fps" / "sav_1"
    monkeypatch.setattr("esam_jax.data.sources.frame_folders._MAX_LAYER_BYTES", 12 * 20 * 2 - 1)
    with pytest.raises(DataError, match="sav_1/00004 has 2 maps, which are too many to read"):
        opened(tmp_path).read(1)
    for number in range(1001):
        (maps / f"more_{number}").mkdir()
    with pytest.raises(DataError, match=r"sav_1 has 1003 folders of objects, but at most 1000"):
        opened(tmp_path)


def test_nothing_to_read_is_said(tmp_path: Path):
    shutil.rmtree(drawn_sets.davis(tmp_path) / "Annotations" / "480p" / "bear")
    for file in (tmp_path / "Annotations" / "480p" / "ant").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="has no frame with a map in"):
        opened(tmp_path)
    with pytest.raises(DataError, match="has no video with masklets"):
        opened(tmp_path / "ImageSets")


def test_the_digest_follows_the_maps(tmp_path: Path):
    source = opened(drawn_sets.davis(tmp_path))
    assert isinstance(source, AnnotatedSource)
    before = source.digest()
    drawn_sets.png(
        tmp_path / "Annotations/480p/ant/00000.png", np.ones((12, 20), np.uint8), palette=True
    )
    assert before.startswith("maps of 5 ") and source.digest() != before
