"""`esam salient`: a map, clicks in it and masks for them, for each picture once."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers import small_u2net
from PIL import Image

from esam_jax import cli, files
from esam_jax.config import CocoConfig, U2NetConfig
from esam_jax.convert import model_folder
from esam_jax.data import sources
from esam_jax.data.sources import scene_painter
from esam_jax.ops import regions
from esam_jax.predict import load
from esam_jax.predict.zero_shot.salient import salient

NAMES = ("000.png", "001.png", "deep/002.png")


def call(path: Path, out: Path, *more: object) -> int:
    argv = [path, "--model", "quickstart_clicks", "--out", out, *more]
    return cli.main(["salient", *map(str, argv)])


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Three pictures, and maps in which a square is inside: none in the last."""
    for i, name in enumerate(NAMES):
        picture, grey = tmp_path / "album" / name, np.zeros((64, 64), np.uint8)
        grey[20:30, 30:44] = 200 if i < 2 else 100
        for file, pixels in (
            (picture, scene_painter.draw(i, 64, split="heldout")[0]),
            (tmp_path / "maps" / name, grey),
        ):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    return tmp_path / "album"


@pytest.fixture
def maps(album: Path) -> tuple[str, Path]:
    return "--map", album.parent / "maps"


def contents(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def test_writes_what_the_library_finds(album, maps, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(album, out, *maps, "--json") == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert (report["pictures"], report["masks"], report["listed"]) == (3, 2, 3)
    assert report["nothing"] == ["deep/002.png"] and report["broken"] == {}
    assert "nothing is salient in 1 picture, the first deep/002.png: no value" in printed.err
    sam = load("quickstart_clicks")
    for name in NAMES:
        picture = np.asarray(Image.open(album / name))
        grey = np.asarray(Image.open(tmp_path / "maps" / name))
        wanted = salient(sam, picture, grey)
        np.testing.assert_array_equal(np.asarray(Image.open(out / f"maps/{name}.png")), grey)
        white = np.asarray(Image.open(out / f"masks/{name}.png"))
        np.testing.assert_array_equal(white, 255 * wanted.union())
        content = json.loads((out / f"masks/{name}.json").read_text())
        assert content["image"] == {"file_name": name, "width": 64, "height": 64}
        found = [regions.from_rle(each["segmentation"]) for each in content["annotations"]]
        np.testing.assert_array_equal(np.reshape(found, wanted.masks.shape), wanted.masks)
        points = [each["points"] for each in content["annotations"]]
        assert points == [prompt.points.tolist() for prompt in wanted.prompts]


def test_masks_of_all_pictures_are_a_coco_file(album, maps, tmp_path):
    assert call(album, album.parent / "out", *maps) == 0
    listed = json.loads((tmp_path / "out/masks.json").read_text())
    assert [each["file_name"] for each in listed["images"]] == list(NAMES)
    assert [each["image_id"] for each in listed["annotations"]] == [1, 2]
    (tmp_path / "album/masks.json").write_text(json.dumps(listed))
    source = sources.open_source(CocoConfig(path=str(tmp_path / "album/masks.json")))
    assert len(source.read(0).annotation("masks")) == 1


def test_killed_and_resumed_it_writes_the_same(album, maps, tmp_path, monkeypatch, capsys):
    write, out = files.write, tmp_path / "out"

    def killed(file: Path, content: str | bytes) -> None:
        if file.match("masks/001.png.json"):
            raise KeyboardInterrupt  # its pictures lie there, its json does not
        write(file, content)

    monkeypatch.setattr(files, "write", killed)
    assert call(album, out, *maps) == 130
    before = contents(out)
    assert "masks/000.png.json" in before and "masks/001.png.json" not in before
    monkeypatch.setattr(files, "write", write)
    capsys.readouterr()
    assert call(album, out, *maps) == 0
    assert "; 0 done before; " not in capsys.readouterr().out
    assert call(album, tmp_path / "alone", *maps) == 0
    assert contents(out) == contents(tmp_path / "alone")
    assert call(album, out, *maps) == 0
    assert capsys.readouterr().out.endswith("3 done before; masks.json lists 3 of 3\n")


def test_hosts_share_the_work_and_tars_are_read(album, maps, tmp_path):
    for host in ("0/2", "1/2"):
        assert call(album, tmp_path / "shared", *maps, "--part", host) == 0
    with tarfile.open(tmp_path / "album.tar", "w") as archive:
        for name in NAMES:
            archive.add(album / name, name)
    assert call(tmp_path / "album.tar", tmp_path / "tar", *maps) == 0
    assert contents(tmp_path / "shared") == contents(tmp_path / "tar")


def test_other_settings_need_another_folder(album, maps, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(album, out, *maps) == 0
    assert call(album, out, *maps, "--seed", 1) == 2
    assert "made with other settings (seed was 0, is 1)" in capsys.readouterr().err
    assert call(album, out, "--saliency", "centre") == 2
    assert "saliency was 'files', is 'centre'" in capsys.readouterr().err
    (tmp_path / "own").mkdir()
    (tmp_path / "own/masks.json").write_text("mine")
    assert call(album, tmp_path / "own", *maps) == 2
    assert (tmp_path / "own/masks.json").read_text() == "mine"


def test_maps_that_change_and_more_pictures_are_done_by_the_same_command(
    album, maps, tmp_path, capsys
):
    out, changed = tmp_path / "out", tmp_path / "maps/001.png"
    good = changed.read_bytes()
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(changed)
    assert call(album, out, *maps) == 0
    assert "1 could not be read" in capsys.readouterr().out
    changed.write_bytes(good)  # as the warning advises
    (album / "004.png").write_bytes((album / "000.png").read_bytes())
    (tmp_path / "maps/004.png").write_bytes(good)
    first = tmp_path / "maps/000.png"
    first.write_bytes(first.read_bytes()[:-1] + b"~")  # of the same size; the checksum of its end
    assert call(album, out, *maps) == 0
    assert "3 pictures, 3 masks in" in (text := capsys.readouterr().out) and "1 done" in text
    assert call(album, tmp_path / "alone", *maps) == 0
    assert contents(out) == contents(tmp_path / "alone")


def test_one_picture_gets_an_overlay_and_instances_a_mask_each(album, tmp_path, capsys):
    grey = np.zeros((64, 64), np.uint8)
    grey[5:15, 5:15] = grey[40:60, 40:60] = 255
    Image.fromarray(grey).save(tmp_path / "one.png")
    argv = ("--map", tmp_path / "one.png", "--instances", "--points", 2, "--json")
    assert call(album / "000.png", tmp_path / "out", *argv) == 0
    assert json.loads(capsys.readouterr().out)["masks"] == 2
    content = json.loads((tmp_path / "out/masks/000.png.json").read_text())
    first, second = (np.array(each["points"]) for each in content["annotations"])
    assert first.shape == (2, 2) and (first >= 40).all() and (second < 15).all()
    drawn = np.asarray(Image.open(tmp_path / "out/overlays/000.png.png"))
    assert drawn.shape == (384, 2 * 384, 3)


def test_overlays_come_with_a_sheet(album, maps, tmp_path):
    assert call(album, tmp_path / "out", *maps, "--overlays") == 0
    assert (tmp_path / "out/overlays/sheet.png").is_file()


@pytest.mark.parametrize("saliency", ["centre", pytest.param("network", marks=pytest.mark.slow)])
def test_maps_are_made_by_a_prior_or_a_network(album, tmp_path, saliency, monkeypatch):
    monkeypatch.setattr(U2NetConfig, "image_px", 32)
    config, params = small_u2net.CONFIG, small_u2net.params()
    model_folder.write(tmp_path / "network", config, params, source="test")
    given = "centre" if saliency == "centre" else tmp_path / "network"
    assert call(album / "000.png", tmp_path / "out", "--saliency", given) == 0
    found = np.asarray(Image.open(tmp_path / "out/maps/000.png.png"))
    assert found.shape == (64, 64) and found.max() > 240 and len(np.unique(found)) > 20
    kept = json.loads((tmp_path / "out/salient.json").read_text())
    assert kept["saliency"].startswith("centre" if saliency == "centre" else "sha256:")


@pytest.mark.slow
def test_without_anything_else_the_masks_of_everything_make_the_map(album, tmp_path):
    assert call(album, tmp_path / "out") == 0
    for name in NAMES:
        found = np.asarray(Image.open(tmp_path / f"out/maps/{name}.png"))
        assert found.max() == 255 and (found == 0).any()
        content = json.loads((tmp_path / f"out/masks/{name}.json").read_text())
        (mask,) = content["annotations"]
        assert all(found[int(y), int(x)] >= 127 for x, y in mask["points"])


def test_a_map_of_another_size_and_a_broken_picture_are_named(album, maps, tmp_path, capsys):
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(tmp_path / "maps/001.png")
    (album / "deep/002.png").write_bytes(b"no picture")
    assert call(album, tmp_path / "out", *maps, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pictures"] == 1 and report["listed"] == 1
    assert "001.png: it is 6 x 5, but its picture 64 x 64" in report["broken"]["001.png"]
    assert "not a JPEG" in report["broken"]["deep/002.png"]
    assert call(album / "001.png", tmp_path / "one", "--map", tmp_path / "maps/001.png") == 2
    assert "no picture of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--points", "0"], "--points is 0, but must be an integer from 1"),
        (["--threshold", "0"], "--threshold is 0.0, but must be above 0"),
        (["--min-region", "2"], "--min-region is 2.0, but must be a share"),
        (["--part", "2/2"], "--part is '2/2'"),
        (["--map", "MAPS/000.png"], "but there are 3 pictures: name a folder"),
        (["--map", "nowhere"], "--map is nowhere, which does not exist: name a grey picture"),
        (["--map", "ALBUM/deep"], "deep has no 000.png, nor that of 1 other picture"),
        (["--map", "MAPS", "--saliency", "centre"], "the maps are given already: leave it out"),
        (["--saliency", "u2net.pth"], "no model at 'u2net.pth'"),
        (["--saliency", "quickstart_clicks"], "but a saliency network is needed"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(album, tmp_path, more, message, capsys):
    places = {"MAPS": str(tmp_path / "maps"), "ALBUM": str(album)}
    for name, path in places.items():
        more = [each.replace(name, path) for each in more]
    assert call(album, tmp_path / "out", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
