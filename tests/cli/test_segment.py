"""`esam segment` writes what it says, and refuses bad input before any model is read."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers import nano
from PIL import Image

from esam_jax import cli
from esam_jax.cli import segment
from esam_jax.convert import model_folder
from esam_jax.models import named
from esam_jax.ops import regions

HEIGHT, WIDTH = 40, 56


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in nano.NAMES:
        config = named.sam(name)
        model_folder.write(folder / name, config, nano.params(config), source="a test")
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(nano.picture(HEIGHT, WIDTH)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_points_join_the_first_box_and_each_further_box_asks_alone(models, picture, capsys):
    out = picture.parent / "out" / "deep"
    asked = ["--point", "10,12", "--point", "20,15,0", "--box", "3,4,30,25", "--box", "5,5,50,36"]
    argv = ["segment", str(picture), "--model", str(models / "sam_nano"), "--out", str(out)]
    assert cli.main([*argv, *asked, "--json"]) == 0
    printed, err = capsys.readouterr()
    report = json.loads((out / "masks.json").read_text())
    assert json.loads(printed) == report and err == ""
    assert report["size"] == [HEIGHT, WIDTH] and report["model"].endswith("sam_nano")
    first, second = (entry["prompt"] for entry in report["masks"])
    assert first["points"] == [[10, 12], [20, 15]] and first["labels"] == [1, 0]
    assert (first["box"], second["box"]) == ([3, 4, 30, 25], [5, 5, 50, 36])
    assert second["points"] == []
    names = ["mask_00.png", "mask_01.png", "masks.json", "overlay.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    for entry in report["masks"]:
        mask = np.asarray(Image.open(out / entry["file"]))
        assert mask.shape == (HEIGHT, WIDTH) and set(np.unique(mask)) <= {0, 255}
        np.testing.assert_array_equal(regions.from_rle(entry["segmentation"]), mask > 0)
        assert entry["area"] == (mask > 0).sum()
        assert tuple(entry["bbox"]) == regions.mask_box(mask > 0)
        assert entry["score"] == max(entry["candidate_scores"])


def test_a_mask_file_is_a_prompt(models, picture, capsys):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[5:20, 5:30] = 255
    Image.fromarray(mask).save(picture.parent / "mask.png")
    argv = ["segment", str(picture), "--model", str(models / "sam_nano")]
    asked = ["--mask", str(picture.parent / "mask.png"), "--out", str(picture.parent / "out")]
    assert cli.main([*argv, *asked]) == 0
    assert "1 mask in" in capsys.readouterr().out


@pytest.mark.parametrize("archive", [False, True], ids=["a folder", "a tar archive"])
def test_an_album_needs_a_file_of_prompts(tmp_path, monkeypatch, capsys, archive: bool):
    jpeg(tmp_path / "a.jpg")
    album = tmp_path
    if archive:
        with tarfile.open(album := tmp_path / "album.tar", "w") as file:
            file.add(tmp_path / "a.jpg")
    argv = [str(album), "--model", "absent", "--out", str(tmp_path / "out"), "--point", "3,4"]
    said = refused(argv, monkeypatch, capsys)
    kind = "a tar archive" if archive else "a folder"
    assert f"{album} is {kind}, but --point, --box and --mask are for a single picture" in said
    assert "with --prompts FILE" in said


def jpeg(path: Path) -> bytes:
    Image.fromarray(nano.picture(HEIGHT, WIDTH)).save(path, "JPEG")
    return path.read_bytes()


def refused(argv: list[str], monkeypatch, capsys) -> str:
    def too_early(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights were read before the arguments were checked")

    monkeypatch.setattr(segment, "load", too_early)
    assert cli.main(["segment", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("esam: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"hello, this is no picture\n", "not a JPEG, PNG or WebP picture"),
        (b"", "the file is empty (0 bytes): fetch it again"),
        (b"<html></html>", "not a JPEG, PNG or WebP picture"),
        ("cut", "broken JPEG picture"),
    ],
    ids=["missing", "text", "empty", "html", "cut"],
)
def test_bad_pictures(content, message, models, tmp_path, monkeypatch, capsys):
    path = tmp_path / "a.jpg"
    if content is not None:
        whole = jpeg(path)
        path.write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
    argv = [str(path), "--model", str(models / "sam_nano"), "--point", "3,4"]
    text = refused([*argv, "--out", str(tmp_path / "out")], monkeypatch, capsys)
    assert message in text and "a.jpg" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([], "no prompt is given"),
        (["--point", "57,3"], "points has (57, 3), which lies outside; the picture is 56 wide"),
        (["--point", "-1,3"], "points has (-1, 3), which lies outside"),
        (["--point", "nan,3"], "points is [nan, 3.0], but must be finite"),
        (["--point", "3"], "--point is '3', but must be X,Y"),
        (["--point", "3;4"], "--point is '3;4', but must be X,Y"),
        (["--point", "3,4,7"], "labels is [7.0]"),
        (["--box", "30,4,3,25"], "box is [30.0, 4.0, 3.0, 25.0], but needs x0 < x1"),
        (["--box", "3,4,3,25"], "needs x0 < x1"),
        (["--box", "3,4,30"], "--box is '3,4,30', but must be X0,Y0,X1,Y1"),
        (["--box", "3,4,30,41"], "reaches outside"),
        (["--mask", "absent.png"], "absent.png cannot be read"),
    ],
)
def test_bad_prompts(asked, message, models, picture, monkeypatch, capsys):
    argv = [str(picture), "--model", str(models / "sam_nano"), "--out", str(picture.parent / "out")]
    assert message in refused([*argv, *asked], monkeypatch, capsys)


def test_bad_folders_and_models(models, picture, monkeypatch, capsys):
    good = [str(picture), "--point", "3,4"]
    below_a_file = ["--model", str(models / "sam_nano"), "--out", str(picture / "out")]
    assert "is a file" in refused([*good, *below_a_file], monkeypatch, capsys)
    absent = ["--model", str(models / "absent"), "--out", str(picture.parent / "out")]
    assert "no model at" in refused([*good, *absent], monkeypatch, capsys)
    no_model = ["--model", str(picture), "--out", str(picture.parent / "out")]
    assert "is not a model" in refused([*good, *no_model], monkeypatch, capsys)


def test_what_a_checkpoint_cannot_take_is_known_before_it_runs(
    models, picture, monkeypatch, capsys
):
    def too_early(*args: object) -> None:
        raise AssertionError("the encoder ran before the prompts were checked")

    monkeypatch.setattr("esam_jax.predict.sam.Sam.encode", too_early)
    argv = ["segment", str(picture), "--model", str(models / "efficientsam_nano")]
    argv += ["--out", str(picture.parent / "out")]
    assert cli.main([*argv, "--point", "3,4", "--point", "5,6,0"]) == 2
    assert "never learned" in capsys.readouterr().err
    many = [part for i in range(7) for part in ("--point", f"{i},4")]
    assert cli.main([*argv, *many]) == 2
    assert "takes 7 slots" in capsys.readouterr().err
