"""`esam evaluate salient` scores maps of anybody's, and a model's masks for them."""

import json

import numpy as np
import pytest
from PIL import Image

from esam_jax import cli, files

NAMES = ("a.png", "b.png")


@pytest.fixture
def data(tmp_path):
    """Two pictures with a square each: the map of the first is perfect, the other's is empty."""
    for i, name in enumerate(NAMES):
        square = np.zeros((40, 48), np.uint8)
        square[8:24, 10 + i : 30] = 255
        picture = np.full((40, 48, 3), 60, np.uint8)
        picture[square > 0] = (240, 200, 30)
        drawn = {"pictures": picture, "truth": square, "maps": square if i == 0 else 0 * square}
        for folder, pixels in drawn.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / name)
    return tmp_path


def run(data, *more):
    places = {name: str(data / name.lower()) for name in ("PICTURES", "TRUTH", "MAPS")}
    return cli.main(["evaluate", "salient", *(places.get(each, each) for each in more)])


def test_maps_beside_masks_need_neither_pictures_nor_a_model(data, capsys):
    assert run(data, "--maps", "MAPS", "--truth", "TRUTH", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    share = 16 * 19 / (40 * 48)
    assert found["mae"] == pytest.approx(share / 2, abs=1e-6) and "miou" not in found
    # Of the first everything is right at each level but 0, of the second nothing is found.
    f = 1.3 * 0.5 * 0.5 / (0.3 * 0.5 + 0.5)
    assert found["max_f"] == pytest.approx(f, abs=1e-6) and found["images"] == 2
    assert found["saliency"].startswith("files ") and found["data"].startswith("2 masks, ")


@pytest.mark.parametrize("folder", ["maps", "truth"])
def test_what_was_changed_is_not_taken_for_measured(data, capsys, folder):
    argv = ["--maps", "MAPS", "--truth", "TRUTH", "--out", str(data / "out")]
    flat = [np.full((40, 48), value, np.uint8) for value in (128, 255)]
    file = data / folder / "b.png"
    Image.fromarray(flat[0]).save(file)
    size = file.stat().st_size
    assert run(data, *argv) == 0
    Image.fromarray(flat[1]).save(file)
    assert file.stat().st_size == size
    assert run(data, *argv) == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.filterwarnings("always")
def test_a_mask_picture_is_white_from_half_on(data, capsys):
    Image.fromarray(np.full((40, 48), 127, np.uint8)).save(data / "truth" / "a.png")
    Image.fromarray(np.full((40, 48), 128, np.uint8)).save(data / "truth" / "b.png")
    assert run(data, "--maps", "MAPS", "--truth", "TRUTH", "--json") == 0
    out, err = capsys.readouterr()
    assert "1 picture without a salient object left out" in err
    found = json.loads(out)
    assert (found["images"], found["without_truth"], found["mae"]) == (1, 1, 1)


def test_clicks_in_maps_are_answered_by_a_model(data, capsys):
    argv = ["--data", "PICTURES", "--truth", "TRUTH", "--maps", "MAPS"]
    argv += ["--model", "quickstart_clicks", "--out", str(data / "out")]
    assert run(data, *argv, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["nothing"] == 1 and found["resumed"] == 0
    first, second = sorted((data / "out/pictures/0").glob("*.json"))
    iou = json.loads(first.read_text())["iou"]
    assert iou > 0.8 and json.loads(second.read_text())["iou"] == 0
    assert found["miou"] == pytest.approx(iou / 2, abs=1e-6)
    lines = (data / "out/pictures.csv").read_text().splitlines()
    assert lines[1].startswith('"b.png",') and lines[2].startswith('"a.png",0.000000,1.000000,')
    with Image.open(data / "out/worst.png") as sheet:
        assert sheet.size[0] == 12 + 4 * (288 + 12)
    assert json.loads((data / "out/result.json").read_text()) == found
    assert run(data, *argv) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"mIoU    {found['miou']:.4f}\nMAE     ")
    assert "2 pictures, 1 of them without anything salient" in text and "2 pictures before" in text
    assert run(data, *argv, "--seed", "1") == 2
    assert "seed was 0, is 1" in capsys.readouterr().err


def test_killed_it_measures_the_rest(data, monkeypatch, capsys):
    argv = ["--data", "PICTURES", "--truth", "TRUTH", "--saliency", "centre", "--json"]
    write, out = files.write, ["--out", str(data / "out")]

    def killed(file, content):
        if file.match("0/00000001.json"):
            raise KeyboardInterrupt
        write(file, content)

    monkeypatch.setattr(files, "write", killed)
    assert run(data, *argv, *out) == 130
    monkeypatch.setattr(files, "write", write)
    capsys.readouterr()
    assert run(data, *argv, *out) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert run(data, *argv) == 0
    alone = json.loads(capsys.readouterr().out)
    assert resumed["resumed"] == 1 and alone["resumed"] == 0
    for key in ("resumed", "seconds"):
        del resumed[key], alone[key]
    assert resumed == alone and alone["saliency"] == "centre"


@pytest.mark.parametrize("objects", ["all", "largest"])
def test_truth_of_annotated_data_is_its_objects(data, capsys, objects):
    argv = ["--data", "scenes", "--images", "3", "--saliency", "centre", "--objects", objects]
    assert run(data, *argv, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 3 and 0 < found["mae"] < 1
    assert f"the truth is {'all' if objects == 'all' else 'the largest'}" in found["protocol"]


@pytest.mark.filterwarnings("always::UserWarning")
def test_what_is_broken_or_empty_is_left_out_and_counted(data, capsys):
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(data / "truth/c.png")
    for folder in ("truth", "maps"):
        size = (40, 48) if folder == "truth" else (4, 5)
        Image.fromarray(np.full(size, 255, np.uint8)).save(data / folder / "d.png")
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(data / "maps/c.png")
    assert run(data, "--maps", "MAPS", "--truth", "TRUTH", "--json") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["images"], found["without_truth"], found["skipped"]) == (2, 1, 1)
    assert "d.png: it is 5 x 4, but its picture 48 x 40" in found["reasons"][0]
    assert "1 broken picture left out" in printed.err
    for name in NAMES:
        Image.fromarray(np.zeros((40, 48), np.uint8)).save(data / "truth" / name)
    assert run(data, "--maps", "MAPS", "--truth", "TRUTH") == 2
    assert "none of 4 pictures has something salient: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--maps", "MAPS"], "nothing says what is salient: name annotated data with --data"),
        (["--truth", "TRUTH"], "--truth is given without pictures"),
        (["--truth", "TRUTH", "--maps", "MAPS", "--model", "x"], "no --model"),
        (["--data", "scenes"], "no maps are named: give a folder with --maps"),
        (["--data", "scenes", "--maps", "MAPS"], "maps has no "),
        (["--data", "PICTURES", "--truth", "PICTURES", "--saliency", "centre"], "has colours"),
        (["--data", "PICTURES", "--truth", "TRUTH", "--split", "val"], "--split is 'val', but is"),
        (
            ["--data", "scenes", "--saliency", "centre", "--sixteen-bit", "stretch"],
            "no such choice",
        ),
        (["--data", "scenes", "--saliency", "centre", "--images", "0"], "--images is 0"),
        (["--maps", "MAPS", "--truth", "MAPS", "--saliency", "centre"], "leave it out"),
        (["--data", "scenes", "--model", "x"], "no model at 'x'"),
        (["--data", "scenes", "--points", "0"], "--points is 0"),
    ],
)
def test_what_is_wrong_is_refused_by_name(data, argv, message, capsys):
    assert run(data, *argv) == 2
    assert message in capsys.readouterr().err
