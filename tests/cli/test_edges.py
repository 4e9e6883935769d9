"""`esam edges`: a map of every picture once, complete, which `esam evaluate edges` reads."""

import io
import itertools
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers import pretend
from PIL import Image

import esam_jax as esam
from esam_jax import cli, files
from esam_jax.data import decode
from esam_jax.data.sources import scene_painter
from esam_jax.evaluate import edge_scores
from esam_jax.predict.zero_shot import edge_album

FEW = ["--points-per-side", "3"]


def call(path: Path, out: Path, *more: str) -> int:
    argv = [str(path), "--model", "quickstart_teacher", "--out", str(out), *FEW, *more]
    return cli.main(["edges", *argv])


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Three scenes, one of them in a folder."""
    folder = tmp_path / "album"
    (folder / "more").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.png", "more/c.png")):
        pixels = scene_painter.draw(i, 64, split="heldout")[0]
        Image.fromarray(pixels[: 64 - 4 * i]).save(folder / name)
    return folder


def contents(out: Path) -> dict[str, bytes]:
    found = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def test_a_folder_has_the_maps_of_the_library(album: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert call(album, out, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(contents(out)) == {"edges.json", "a.png", "b.png", "more/c.png"}
    assert report["pictures"] == 3 and report["broken"] == {} and report["empty"] == []
    sam, pixels = esam.load("quickstart_teacher"), 0
    for name in ("a.png", "b.png", "more/c.png"):
        assert decode.header((out / name).read_bytes()).mode.startswith("I")  # 16 bits
        found = edge_scores.read_map(out / name)
        expected = esam.edges(sam, decode.read_rgb(album / name), points_per_side=3)
        np.testing.assert_allclose(found, expected, atol=1 / 65535)
        assert found.max() == 1 and ((found > 0) == (expected > 0)).all()
        pixels += int((expected > 0).sum())
    assert report["edge_pixels"] == pixels > 100


def test_what_is_done_stays_and_the_rest_is_done(album: Path, tmp_path: Path, capsys, monkeypatch):
    whole, out, write = tmp_path / "whole", tmp_path / "out", files.write
    assert call(album, whole) == 0
    written = itertools.count()

    def killed(file: Path, content: str | bytes) -> None:
        if file.suffix == ".png" and next(written) >= 1:
            raise KeyboardInterrupt
        write(file, content)

    monkeypatch.setattr(files, "write", killed)
    assert call(album, out) == 130
    before = contents(out)
    assert len(before) == 2
    monkeypatch.setattr(files, "write", write)
    left = out / f".b.png.0000.{files.HOST}-{2**22 + 1}.new"  # of a process that was killed
    left.write_bytes(b"half")
    capsys.readouterr()
    assert call(album, out) == 0
    assert capsys.readouterr().out == f"2 edge maps in {out}; 1 done before\n"
    assert contents(out) == contents(whole)


def test_what_a_dead_call_left_unfinished_is_removed(album: Path, tmp_path: Path):
    out, dead = tmp_path / "out", f"{files.HOST}-{os.getpid()}.new"  # of an earlier process
    for name in (f".a.png.0.{dead}", f"more/.c.png.1.{dead}", f"overlays/more/.c.png.2.{dead}"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"half")
    assert call(album, out) == 0
    assert set(contents(out)) == {"edges.json", "a.png", "b.png", "more/c.png"}


def test_hosts_share_a_folder(album: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert call(album, out, "--part", "1/2") == 0
    assert set(contents(out)) == {"edges.json", "b.png"}
    assert call(album, out, "--part", "0/2") == 0
    assert set(contents(out)) == {"edges.json", "a.png", "b.png", "more/c.png"}
    assert call(album, out, "--part", "2/2") == 2
    assert "--part is '2/2'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--box-nms-thresh", "0.8"], "box_nms_thresh was 0.7, is 0.8"),
        (["--thick"], "thin was True, is False"),
        (["--sixteen-bit", "stretch"], "sixteen_bit was 'upper_byte', is 'stretch'"),
        (["--model", "quickstart_clicks"], "model was 'sha256:"),
    ],
)
def test_other_settings_need_another_folder(album: Path, tmp_path: Path, more, named, capsys):
    out = tmp_path / "out"
    assert call(album / "a.png", out) == 0
    before = contents(out)
    assert call(album / "a.png", out, *more) == 2
    assert named in capsys.readouterr().err
    assert contents(out) == before


def test_files_of_others_are_never_taken_for_maps(album: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    (out / "more").mkdir(parents=True)
    (out / "more" / "c.png").write_bytes(b"mine")
    assert call(album, out) == 2
    assert "c.png was not written by this command" in capsys.readouterr().err
    assert contents(out) == {"more/c.png": b"mine"}
    assert call(album, album) == 2 and call(album, album / "out") == 2


def test_a_broken_picture_is_left_out_and_named(album: Path, tmp_path: Path, capsys):
    (album / "b.png").write_bytes((album / "b.png").read_bytes()[:300])
    out = tmp_path / "out"
    assert call(album, out, "--json") == 0
    printed = capsys.readouterr()
    assert set(json.loads(printed.out)["broken"]) == {"b.png"}
    assert "warning: b.png: " in printed.err
    assert set(contents(out)) == {"edges.json", "a.png", "more/c.png"}
    assert call(album / "b.png", tmp_path / "other") == 2
    assert "no picture of" in capsys.readouterr().err


def test_no_edge_at_all_is_a_black_map_and_said(tmp_path: Path, capsys):
    picture = tmp_path / "one.png"
    Image.new("RGB", (1, 1), (9, 80, 200)).save(picture)
    assert call(picture, tmp_path / "out", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["empty"] == ["one.png"]
    assert "warning: one.png: no edge at all" in printed.err
    assert edge_scores.read_map(tmp_path / "out" / "one.png").tolist() == [[0.0]]


def test_an_archive_is_read_and_two_pictures_never_share_a_map(album, tmp_path, capsys):
    archive = tmp_path / "album.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(album, ".")
    assert call(archive, tmp_path / "out") == 0
    assert {"a.png", "more/c.png"} <= set(contents(tmp_path / "out"))
    Image.new("RGB", (8, 8)).save(album / "a.jpg")
    assert call(album, tmp_path / "other") == 2
    assert (
        "maps of a.png and a.jpg would be one file: rename one of them" in capsys.readouterr().err
    )
    (album / "a.jpg").unlink()
    (album / "overlays").mkdir()
    Image.new("RGB", (8, 8)).save(album / "overlays" / "a.png")
    assert call(album, tmp_path / "other") == 2
    assert "overlays/a.png would lie among the overlays" in capsys.readouterr().err


def test_a_name_too_long_for_a_map_costs_its_picture_alone(album, tmp_path, capsys):
    archive, long = tmp_path / "album.tar", f"{'b' * 300}.png"
    with tarfile.open(archive, "w") as tar:
        tar.add(album / "a.png", "a.png")
        tar.add(album / "b.png", long)
        tar.add(album / "b.png", f"{'d' * 300}/c.png")
    assert call(archive, tmp_path / "out", "--overlays", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pictures"] == 1 and set(report["broken"]) == {long, f"{'d' * 300}/c.png"}
    assert report["broken"][long] == "its name is too long for NAME.png: rename the picture"


def test_overlays_show_the_picture_beside_its_map(album: Path, tmp_path: Path):
    one, many = tmp_path / "one", tmp_path / "many"
    assert call(album / "a.png", one) == 0  # a single picture always has it
    assert call(album, many, "--overlays") == 0
    drawn = decode.read_rgb(many / "overlays" / "a.png")
    assert (drawn == decode.read_rgb(one / "overlays" / "a.png")).all()
    picture, found = decode.read_rgb(album / "a.png"), edge_scores.read_map(many / "a.png")
    assert (drawn[:, :64] == picture).all()
    np.testing.assert_array_equal(drawn[:, -64:, 0] == 255, np.rint(255 * found) == 0)
    assert {"overlays/sheet.png", "overlays/more/c.png"} <= set(contents(many))


def test_a_small_overlay_keeps_lines_of_one_pixel():
    found = np.zeros((9, 5000), np.float32)
    found[4, ::2], found[:, 3001] = 0.5, 1
    drawn = edge_album.beside(np.zeros((9, 5000, 3), np.uint8), found)
    assert drawn.shape == (2, 2 * 1024 + 8, 3)
    shown = 255 - drawn[:, -1024:, 0]
    assert set(np.unique(shown)) == {0, 128, 255}
    assert (shown == 255).any() and (shown == 128).any(0).sum() == 1023


def test_a_map_of_16_bits_holds_every_edge():
    found = np.array([[0, 1e-9, 0.25, 1]], np.float32)
    levels = np.asarray(Image.open(io.BytesIO(edge_album.png(found))))
    assert levels.tolist() == [[0, 1, 16384, 65535]]


@pytest.mark.slow
def test_every_device_takes_pictures(album: Path, tmp_path: Path):
    argv = ["edges", str(album), "--model", "quickstart_teacher", *FEW]
    for count in (1, 2):
        pretend.command(count, *argv, "--out", str(tmp_path / str(count)))
    one, two = (pretend.contents(tmp_path / str(count)) for count in (1, 2))
    assert one == two and len(one) == 4
