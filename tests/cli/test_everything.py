"""`esam everything`: every picture once, whole, and in a form that training reads."""

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import pretend, whole
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from esam_jax import cli, files
from esam_jax.cli import everything, progress
from esam_jax.config import CocoConfig
from esam_jax.convert import model_folder
from esam_jax.data import archives, decode, sources
from esam_jax.data.sources import scene_painter
from esam_jax.ops import regions
from esam_jax.predict import load
from esam_jax.predict.everything import album as albums
from esam_jax.predict.everything.generator import AutomaticMaskGenerator

LOOSE = ["--points-per-side", "8", "--pred-iou-thresh", "0.7", "--stability-score-thresh", "0.7"]


def call(path: Path, out: Path, *more: str) -> int:
    argv = [str(path), "--model", "quickstart_teacher", "--out", str(out), *LOOSE, *more]
    return cli.main(["everything", *argv])


def draw(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        pixels = scene_painter.draw(i, 64, split="heldout")[0]
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture
def album(tmp_path: Path) -> Path:
    return draw(tmp_path / "album", 4)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file()}


@pytest.mark.slow
def test_sa1b_is_what_training_reads(album: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert call(album, out, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pictures"] == 4 and report["masks"] >= 8 and report["broken"] == {}
    source = sources.open_source(sources.detect(str(out)))
    assert len(source) == 4
    total = 0
    for i in range(4):
        record = source.read(i)
        content = json.loads((out / source.name(i)).with_suffix(".json").read_text())
        given = decode.read_rgb(album / content["image"]["source"])
        assert np.abs(record.picture.rgb().astype(int) - given).mean() < 4  # a JPEG of a PNG
        masks = whole.masks(record)
        for mask, annotation in zip(masks, content["annotations"], strict=True):
            assert mask.sum() == annotation["area"] > 0
            x, y, wide, high = regions.mask_box(mask)
            assert annotation["bbox"] == [x, y, wide - 1, high - 1]
        total += len(masks)
    assert total == report["masks"]


def test_coco_lists_every_picture(album: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert call(album, out, "--format", "coco") == 0
    source = sources.open_source(CocoConfig(path=str(out / "instances.json")))
    assert len(source) == 4
    for i in range(4):
        record = source.read(i)
        assert record.picture.rgb().shape == (64, 64, 3)
        assert whole.masks(record).any((1, 2)).all()


def test_what_is_done_stays_and_the_rest_is_done(album: Path, tmp_path: Path, capsys, monkeypatch):
    out, write = tmp_path / "out", files.write
    written = itertools.count()  # by several threads at once

    def killed(file: Path, content: str | bytes) -> None:
        if file.match("sa_*.json") and next(written) >= 2:
            raise KeyboardInterrupt  # the picture lies there, its json does not
        write(file, content)

    monkeypatch.setattr(files, "write", killed)
    assert call(album, out) == 130
    before = contents(out)
    assert len(before) > 2 * 2 + 1
    monkeypatch.setattr(files, "write", write)
    capsys.readouterr()
    assert call(album, out) == 0
    assert capsys.readouterr().out.startswith("2 pictures, ")
    after = contents(out)
    assert len(after) == 4 * 2 + 1
    assert {name: after[name] for name in before} == before
    assert call(album, out) == 0 and contents(out) == after
    assert capsys.readouterr().out.startswith("0 pictures, 0 masks")


def test_what_a_dead_call_left_unfinished_is_removed(album: Path, tmp_path: Path):
    out, host = tmp_path / "out", files.HOST
    (out / "overlays").mkdir(parents=True)
    dead = subprocess.Popen(["true"])
    dead.wait()
    gone = [
        out / f".sa_1.json.{host}-{dead.pid}.new",
        out / "overlays" / f".sa_1.png.{host}-{os.getpid()}.new",  # of an earlier process
        out / ".sa_1.jpg.elsewhere-7.new",
    ]
    stay = [
        out / f".sa_2.json.{host}-{os.getppid()}.new",
        out / ".sa_2.jpg.elsewhere-7.new",
        out / ".notes.new",
    ]
    for file in gone + stay:
        file.write_bytes(b"half")
    os.utime(gone[2], (0, 0))
    assert call(album, out) == 0
    assert not any(file.exists() for file in gone) and all(file.exists() for file in stay)


@pytest.mark.slow
def test_two_devices_write_what_one_writes(album: Path, tmp_path: Path):
    (album / "002.png").write_bytes(b"no picture")
    argv = ["everything", str(album), "--model", "quickstart_teacher", "--overlays", "--json"]
    reports = []
    for count in (1, 2):
        printed = pretend.command(count, *argv, *LOOSE, "--out", str(tmp_path / str(count)))
        reports.append({**json.loads(printed), "out": None})
    one, two = (pretend.contents(tmp_path / str(count)) for count in (1, 2))
    assert one == two and len(one) == 1 + 3 * 3 + 1
    assert reports[0] == reports[1] and reports[0]["pictures"] == 3


def test_the_preset_of_efficientsam_has_its_own_settings(album: Path, tmp_path: Path, capsys):
    out, preset = tmp_path / "out", ["--preset", "efficientsam"]
    argv = [str(album), "--model", "quickstart_teacher", "--out", str(out), *preset]
    assert cli.main(["everything", *argv, "--points-per-side", "4"]) == 0
    stored = json.loads((out / "everything.json").read_text())
    wanted = {"pred_iou_thresh": 0.7, "stability_score_thresh": 0.9, "min_mask_region_area": 100}
    assert stored.items() >= {**wanted, "rules": "efficientsam"}.items()
    assert call(album, out, "--points-per-side", "4") == 2
    assert "rules was 'efficientsam', is 'segment_anything'" in capsys.readouterr().err


def test_hosts_share_the_work(album: Path, tmp_path: Path):
    for host in ("0/3", "1/3", "2/3"):
        assert call(album, tmp_path / "shared", "--part", host) == 0
    assert call(album, tmp_path / "alone") == 0
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")


@pytest.mark.filterwarnings("ignore:.*not read")
def test_a_tar_is_read_where_it_lies(album: Path, tmp_path: Path):
    with tarfile.open(tmp_path / "album.tar.gz", "w:gz") as archive:
        for path in sorted(album.iterdir()):
            archive.add(path, path.name)
        archive.addfile(tarfile.TarInfo("../outside.txt"))
    assert call(tmp_path / "album.tar.gz", tmp_path / "out") == 0
    assert call(album, tmp_path / "alone") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    assert not (tmp_path / "outside.txt").exists()


@pytest.mark.filterwarnings("always::UserWarning")
def test_files_that_are_not_read_are_counted_in_one_line(album: Path, tmp_path: Path, capsys):
    for name in ("a.gif", "b.GIF", "c.tiff", "d", "e.\x1b[2J", ".hidden.gif"):
        (album / name).write_bytes(b"")
    report, said = (
        [],
        "not read: .gif (2), .tiff (1), no ending (1), others (1); pictures are .jpg,",
    )
    for command in (["everything"], ["segment", "--prompts", str(tmp_path / "points.csv")]):
        (tmp_path / "points.csv").write_text("file,x,y\n000.png,3,4\n")
        out = tmp_path / command[0]
        argv = [*command, str(album), "--model", "quickstart_teacher", "--out", str(out), "--json"]
        assert cli.main([*argv, *(("--points-per-side", "1") if len(command) == 1 else ())]) == 0
        out, err = capsys.readouterr()
        assert err.count("not read") == 1 and f"esam: warning: {album}: {said}" in err
        report.append(json.loads(out)["left_out"])
    assert report[0] == report[1] == {".gif": 2, ".tiff": 1, "no ending": 1, "others": 1}
    only = tmp_path / "only"
    only.mkdir()
    (only / "a.tif").write_bytes(b"II*\0")
    assert call(only, tmp_path / "none") == 2
    assert "it holds .tif (1): convert what are pictures" in capsys.readouterr().err


def test_hosts_that_share_an_album_are_listed_by_one_more_call(album: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert call(album, out, "--format", "coco", "--part", "0/2") == 0
    assert "instances.json lists 2 of 4" in capsys.readouterr().out
    assert call(album, out, "--part", "1/2") == 0
    assert call(album, out, "--format", "coco") == 0
    assert "instances.json lists 4 of 4" in capsys.readouterr().out
    assert len(json.loads((out / "instances.json").read_text())["images"]) == 4


def test_overlays_come_with_a_sheet(album: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert call(album, out, "--overlays") == 0
    assert len(list((out / "overlays").glob("sa_*.png"))) == 4
    sheet = np.asarray(Image.open(out / "overlays" / "sheet.png"))
    assert sheet.shape == (12 + 288 + 30, 12 + 4 * (288 + 12), 3)


def test_one_picture_gets_an_overlay(album: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert call(album / "000.png", out) == 0
    (drawn,) = (out / "overlays").iterdir()
    assert np.asarray(Image.open(drawn)).shape == (384, 384, 3)
    assert drawn.stem == f"sa_{albums.number('000.png')}"


def test_a_broken_picture_is_named_and_left_out(album: Path, tmp_path: Path, capsys):
    whole = (album / "001.png").read_bytes()
    (album / "001.png").write_bytes(whole[: len(whole) // 2])
    assert call(album, tmp_path / "out", "--json") == 0
    printed, warned = capsys.readouterr()
    report = json.loads(printed)
    assert report["pictures"] == 3 and list(report["broken"]) == ["001.png"]
    assert "001.png" in warned
    (album / "001.png").write_bytes(whole)  # mended, it is done by the same command
    assert call(album, tmp_path / "out", "--json") == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == 1


def test_a_turned_picture_is_stored_upright(tmp_path: Path):
    """Training reads SA-1B in the frame of the stored pixels; the masks are in the upright one."""
    image = Image.fromarray(scene_painter.draw(0, 64)[0]).resize((96, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "album").mkdir()
    image.save(tmp_path / "album" / "turned.jpg", exif=exif)
    assert call(tmp_path / "album", tmp_path / "out") == 0
    record = sources.open_source(sources.detect(str(tmp_path / "out"))).read(0)
    assert record.picture.rgb().shape == (96, 48, 3)


def test_a_plain_jpeg_is_kept_to_the_byte(tmp_path: Path):
    (tmp_path / "album").mkdir()
    given = tmp_path / "album" / "sa_77.jpg"
    Image.fromarray(scene_painter.draw(0, 64)[0]).save(given)
    assert call(tmp_path / "album", tmp_path / "out") == 0
    assert (tmp_path / "out" / "sa_77.jpg").read_bytes() == given.read_bytes()


def test_other_settings_need_another_folder(album: Path, tmp_path: Path, capsys, monkeypatch):
    assert call(album, tmp_path / "out") == 0
    assert call(album, tmp_path / "out", "--box-nms-thresh", "0.5") == 2
    assert "box_nms_thresh was 0.7, is 0.5" in capsys.readouterr().err
    monkeypatch.setattr(everything, "load", None)  # known before weights are read
    assert call(album, tmp_path / "out", "--box-nms-thresh", "0.5") == 2


def test_settings_that_are_refused_are_not_kept(album: Path, tmp_path: Path):
    assert call(album, tmp_path / "out", "--box-nms-thresh", "2") == 2
    assert call(album, tmp_path / "out", "--crop-n-layers", "5") == 2
    assert call(album, tmp_path / "out") == 0


def test_boxes_of_coco_are_those_of_pycocotools(album: Path, tmp_path: Path):
    """SA-1B counts from pixel to pixel, COCO from edge to edge."""
    out = tmp_path / "out"
    assert call(album, out, "--format", "coco") == 0
    found = COCO(out / "instances.json")
    assert found.anns
    for each in found.anns.values():
        assert each["bbox"] == coco_mask.toBbox(found.annToRLE(each)).tolist()


@pytest.mark.slow
def test_a_name_with_a_line_break(album: Path, tmp_path: Path, capsys):
    (album / "000.png").rename(album / "scan\n2.png")
    (album / "bad\n3.png").write_bytes(b"no picture")
    assert call(album, tmp_path / "out", "--overlays", "--format", "coco") == 0
    out, err = capsys.readouterr()
    assert "instances.json lists 4 of 5" in out
    [line] = (each for each in err.splitlines() if each.startswith("esam: warning"))
    assert line.startswith("esam: warning: bad 3.png: ")
    assert (tmp_path / "out" / "overlays" / "sheet.png").exists()


def test_the_list_does_not_depend_on_overlays(album: Path, tmp_path: Path, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("nothing can be drawn")

    monkeypatch.setattr(albums, "sheet", broken)
    assert call(album, tmp_path / "out", "--overlays", "--format", "coco") == 1
    assert len(json.loads((tmp_path / "out" / "instances.json").read_text())["images"]) == 4


def test_the_same_weights_from_elsewhere_are_the_same_model(album: Path, tmp_path: Path, capsys):
    copied, other = tmp_path / "copied", tmp_path / "other"
    assert cli.main(["convert", "quickstart_teacher", str(copied)]) == 0
    assert call(album, tmp_path / "out") == 0
    next((tmp_path / "out").glob("sa_*.json")).unlink()
    argv = [str(album), "--out", str(tmp_path / "out"), *LOOSE]
    assert cli.main(["everything", *argv, "--model", str(copied)]) == 0
    assert cli.main(["everything", *argv, "--model", str(copied)]) == 0  # all is done
    file = model_folder.read(copied)
    weights = jax.tree.map(lambda x: 2 * x, file.params)
    model_folder.write(other, file.config, weights, source="a test")
    shutil.rmtree(copied)
    other.rename(copied)  # other weights under the same name
    capsys.readouterr()
    assert cli.main(["everything", *argv, "--model", str(copied)]) == 2
    assert "model was 'sha256:" in capsys.readouterr().err


def test_a_model_has_thresholds_of_its_own(album: Path, tmp_path: Path, capsys):
    """They hold where nothing else is asked for, and are in the settings of the folder."""
    argv = ["everything", str(album), "--model", "quickstart_teacher", "--points-per-side", "4"]

    def thresholds(name, *more):
        assert cli.main([*argv, "--out", str(tmp_path / name), *more]) == 0
        settings = json.loads((tmp_path / name / albums.SETTINGS_FILE).read_text())
        return settings["pred_iou_thresh"], settings["stability_score_thresh"]

    assert thresholds("own") == (0.7, 0.7)
    assert thresholds("own", "--pred-iou-thresh", "0.7") == (0.7, 0.7)  # the same settings
    assert thresholds("given", "--pred-iou-thresh", "0.5") == (0.5, 0.7)
    assert thresholds("sam", "--preset", "segment_anything") == (0.88, 0.95)


def test_nothing_found_says_why_and_what_to_try(album: Path, tmp_path: Path, capsys):
    strict = ["--points-per-side", "4", "--stability-score-thresh", "0.999", "--json"]
    argv = [str(album), "--model", "quickstart_teacher", "--pred-iou-thresh", "0.8", *strict]
    assert cli.main(["everything", *argv, "--out", str(tmp_path / "out")]) == 0
    printed, warned = capsys.readouterr()
    report = json.loads(printed)
    assert report["masks"] == 0 and report["candidates"] == 4 * 16 * 3
    assert sum(report["dropped"].values()) == report["candidates"]
    assert report["dropped"].keys() == {"pred_iou_thresh", "stability_score_thresh"}
    for part in ("had a predicted IoU of 0.8 or less", "had a stability below 0.999", "try "):
        assert part in report["hint"]
    # A slow machine has lines of progress before it.
    assert warned.splitlines()[-1] == f"esam: warning: {report['hint']}"
    tried = report["hint"].split("try ")[1].split(",")[0].split()
    assert tried[::2] == ["--stability-score-thresh"]
    argv = [str(album), "--model", "quickstart_teacher", "--pred-iou-thresh", "0.8", *tried]
    argv += ["--points-per-side", "4", "--json", "--out", str(tmp_path / "again")]
    assert cli.main(["everything", *argv]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["masks"] > 0 and report["hint"] is None


def test_progress_where_stderr_is_no_terminal(album: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_EVERY_SECONDS", 0.0)
    assert call(album, tmp_path / "out") == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"esam: {i} of 4 pictures" for i in (1, 2, 3)]
    assert all("masks" in line and "pictures/s" in line and "left" in line for line in lines)


@pytest.mark.parametrize("part", ["1", "2/2", "-1/2", "a/b", "0/0"])
def test_a_part_that_is_none_is_refused(album: Path, tmp_path: Path, part: str, capsys):
    assert call(album, tmp_path / "out", f"--part={part}") == 2
    assert "--part" in capsys.readouterr().err


def test_nothing_to_read_is_said(tmp_path: Path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    for path in ("empty", "text.png", "missing"):
        assert call(tmp_path / path, tmp_path / "out") == 2
        assert path in capsys.readouterr().err


@pytest.mark.nightly
def test_killed_ten_times_over_a_hundred_pictures(tmp_path: Path):
    """None twice, none missing, every file whole; and `esam train` takes 20 steps on them."""
    album, out, rng = draw(tmp_path / "album", 100), tmp_path / "out", random.Random(5)
    command = [sys.executable, "-c", "import sys; from esam_jax.cli import main; sys.exit(main())"]
    argv = [*command, "everything", str(album), "--model", "quickstart_teacher", *LOOSE]
    # With more devices, a hundred pictures would be done before the tenth kill.
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    kills = 0
    while kills < 10:
        done, count = len(list(out.glob("sa_*.json"))), rng.randint(1, 8)
        running = subprocess.Popen([*argv, "--out", str(out)], env=env)
        while len(list(out.glob("sa_*.json"))) < done + count and running.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        assert running.poll() is None
        running.kill()
        running.wait()
        kills += 1
    assert len(list(out.glob("sa_*.json"))) < 100
    subprocess.run([*argv, "--out", str(out)], check=True, env=env)
    assert not list(out.glob(".*.new"))
    names = [json.loads(path.read_text())["image"]["source"] for path in out.glob("sa_*.json")]
    assert sorted(names) == sorted(path.name for path in album.iterdir())
    source = sources.open_source(sources.detect(str(out)))
    assert len(source) == 100
    for i in range(100):
        record = source.read(i)
        assert whole.masks(record).shape[1:] == (64, 64)
    train = ["train", "quickstart_scratch", "--workdir", str(tmp_path / "run"), "--steps", "20"]
    train += ["--data.source.kind", "sa1b", "--data.source.path", str(out), "--batch", "8"]
    train += ["--optim.warmup-steps", "2"]
    subprocess.run([*command, *train], check=True, env=os.environ)


def test_a_file_that_cannot_be_read_is_left_out(album: Path, tmp_path: Path, capsys):
    (album / "004.png").symlink_to(tmp_path / "nowhere.png")
    assert call(album, tmp_path / "out", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pictures"] == 4 and list(report["broken"]) == ["004.png"]


def test_an_empty_mask_is_not_written(album: Path, tmp_path: Path, monkeypatch):
    """Its stability is 0 / 0, which json cannot hold."""
    mask = {"area": 0, "stability_score": float("nan")}
    generator = AutomaticMaskGenerator(load("quickstart_teacher"), output_mode="coco_rle")
    monkeypatch.setattr(generator, "generate", lambda picture: [mask])
    work = albums._Work(archives.open_album(album), tmp_path / "out", False)
    (tmp_path / "out").mkdir()
    assert work.on(generator, "000.png") == 0


def test_a_refusal_of_names_leaves_no_settings(tmp_path, capsys):
    """The folder would be locked to settings that made nothing."""
    album, out = tmp_path / "album", tmp_path / "out"
    for folder in (album, album / "deep"):
        folder.mkdir()
        Image.new("RGB", (8, 8)).save(folder / "sa_7.jpg")
    assert call(album, out) == 2
    assert "would be one file: rename one of them" in capsys.readouterr().err
    assert not out.exists()
