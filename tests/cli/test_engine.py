"""`esam engine`: what its commands write, what they leave alone, and what they refuse."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from esam_jax import cli
from esam_jax.data import sources
from esam_jax.data.sources import scene_painter
from esam_jax.engine import exchange

LOOSE = ["--points-per-side", "6"]
THRESHOLDS = ["--pred-iou-thresh", "0.7", "--stability-score-thresh", "0.7"]


def draw(folder: Path, *numbers: int) -> Path:
    folder.mkdir(exist_ok=True)
    for i in numbers:
        pixels = scene_painter.draw(i, 64, split="heldout")[0]
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture
def album(tmp_path: Path) -> Path:
    return draw(tmp_path / "album", 0, 1)


def engine(command: str, *argv: str | Path) -> int:
    return cli.main(["engine", command, *map(str, argv)])


def assist(album: Path, out: Path, *more: str) -> int:
    model = ["--model", "quickstart_teacher", "--out", out]
    return engine("assist", album, *model, *LOOSE, *(more or THRESHOLDS))


def read(file: Path) -> dict:
    return json.loads(file.read_text())


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


def test_proposals_are_made_once_and_come_back_as_data(album: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert assist(album, out) == 0
    assert "esam engine merge" in capsys.readouterr().out
    proposed = read(out / exchange.PROPOSED_FILE)
    assert {image["source"] for image in proposed["images"]} == {"000.png", "001.png"}
    assert len(proposed["annotations"]) > 2
    before = contents(out)
    assert assist(album, out) == 0
    assert contents(out) == before

    back = tmp_path / "back.json"
    back.write_text(json.dumps({**proposed, "annotations": proposed["annotations"][1:]}))
    capsys.readouterr()
    assert engine("merge", out, back, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    masks = len(proposed["annotations"])
    assert (report["accepted"], report["removed"]) == (masks - 1, 1)
    source = sources.open_source(sources.detect(str(out / exchange.INSTANCES_FILE)))
    counts = [len(source.read(i).annotation("masks")) for i in range(len(source))]
    assert sum(counts) == masks - 1

    # Pictures that are added wait; what was corrected stays as it is.
    draw(album, 2)
    data = read(out / exchange.INSTANCES_FILE)
    assert assist(album, out) == 0
    assert len(read(out / exchange.PROPOSED_FILE)["images"]) == 3
    assert read(out / exchange.INSTANCES_FILE) == data
    assert engine("merge", out, back, "--json") == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["again"], report["waiting"]) == (True, 1)


def test_no_mask_at_all_is_a_picture_to_annotate(album: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert assist(album, out, "--pred-iou-thresh", "1") == 0
    proposed = read(out / exchange.PROPOSED_FILE)
    assert len(proposed["images"]) == 2 and not proposed["annotations"]
    image = proposed["images"][0]
    drawn = {"id": 1, "image_id": image["id"], "segmentation": [[5, 5, 30, 5, 30, 40]]}
    (tmp_path / "back.json").write_text(json.dumps({**proposed, "annotations": [drawn]}))
    capsys.readouterr()
    assert engine("merge", out, tmp_path / "back.json") == 0
    text = capsys.readouterr().out
    assert "2 pictures: 0 accepted, 0 changed, 1 added" in text and "1 mask in 2 pictures" in text


def test_semi_gives_what_is_annotated_and_asks_for_the_rest(album: Path, tmp_path: Path, capsys):
    given = {"id": 3, "image_id": 9, "segmentation": [[2, 2, 20, 2, 20, 20, 2, 20]]}
    existing = {"images": [{"id": 9, "file_name": "000.png"}], "annotations": [given]}
    (tmp_path / "existing.json").write_text(json.dumps(existing))
    out = tmp_path / "out"
    argv = [album, "--model", "quickstart_teacher", "--out", out, *LOOSE, *THRESHOLDS]
    argv += ["--annotations", tmp_path / "existing.json", "--json"]
    assert engine("semi", *argv) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["given"] == 1 and report["automatic"] > 0
    every = read(out / exchange.KEPT / exchange.PROPOSED_FILE)
    states = [each["state"] for each in every["annotations"]]
    assert states.count("given") == 1 and states.count("automatic") == report["automatic"]
    assert states.count("asked") == report["low_confidence"] + report["uncovered"]
    # Other annotations would be another answer under the same name.
    (tmp_path / "existing.json").write_text(json.dumps({**existing, "annotations": []}))
    assert engine("semi", *argv) == 2
    assert "made with other settings" in capsys.readouterr().err


def test_auto_has_the_settings_of_sa1b_and_gives_coco(album: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    model = ["--model", "quickstart_teacher", "--out", out, "--format", "coco"]
    assert engine("auto", album, *model, *LOOSE, *THRESHOLDS, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    # 6 x 6 clicks, 4 crops with 3 x 3 and 16 with one: three masks each.
    assert report["candidates"] == 2 * 3 * (36 + 4 * 9 + 16)
    settings = read(out / "everything.json")
    assert (settings["rules"], settings["crop_n_layers"]) == ("sa1b", 2)
    assert len(read(out / "instances.json")["annotations"]) == report["masks"] > 0


REFUSED = {
    "no command": ([], "no command is named"),
    "unknown command": (["asist"], "must be one of assist, merge, semi, auto, loop"),
    "no such path": (["assist", "nowhere", "--out", "x"], "nowhere does not exist"),
    "empty folder": (["assist", "empty", "--out", "x"], "empty holds no"),
    "output in the input": (["assist", "album", "--out", "album/x"], "lies in"),
    "thresholds": (
        ["semi", "album", "--out", "x", "--asked-iou-thresh", "0.95"],
        "--asked-iou-thresh is 0.95, but must not be above --pred-iou-thresh 0.88",
    ),
    "no json": (["semi", "album", "--out", "x", "--annotations", "no.json"], "no.json cannot be"),
    "no proposals": (["merge", "album", "no.json"], "name a folder that esam engine assist"),
    "another task": (["loop", "quickstart_sami", "--workdir", "x"], "is a config of the task"),
    "few pictures": (
        ["loop", "quickstart_scratch", "--workdir", "x", "--pictures", "coco/instances.json"],
        "there are 2 pictures, but 175 are needed",
    ),
    "rounds": (["loop", "quickstart_scratch", "--workdir", "x", "--rounds", "0"], "rounds is 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_user_can_fix_is_said_and_nothing_is_written(
    case: str, album: Path, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    if case == "few pictures":
        from helpers import made_sets

        made_sets.coco(tmp_path / "coco", 2)
    argv, text = REFUSED[case]
    if argv and argv[0] in ("assist", "semi"):
        argv = [*argv, "--model", "quickstart_teacher"]
    assert cli.main(["engine", *argv]) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    assert sorted(album.iterdir()) == [album / "000.png", album / "001.png"]


def test_a_folder_of_something_else_is_left_alone(album: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    shutil.copytree(album, out / "images")
    before = contents(out)
    assert assist(album, out) == 2
    assert "was not written by this command" in capsys.readouterr().err
    assert contents(out) == before
