"""`esam features`: what it writes, what it says, and what it refuses before any work."""

import json

import pytest
from helpers import nano
from PIL import Image

from esam_jax.cli import main
from esam_jax.data.stored_features import Reader

KEYS = ["--task.student", "sam_nano", "--data.view.flip", "none", "--batch", "8"]


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(5):
        Image.fromarray(nano.picture(40, 60, number)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return ["--data.source.kind", "image_folder", "--data.source.path", str(folder), *KEYS]


def test_every_picture_has_features_and_broken_ones_are_named(pictures, tmp_path, capsys):
    out = tmp_path / "features"
    arguments = ["features", "quickstart_distill", "--out", str(out), *pictures]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["stored"], found["added"], len(found["broken"])) == (5, 5, 1)
    assert "broken.png" in found["broken"][0]
    reader = Reader(out)
    assert len(reader) == 5 and "3.png#0" in reader
    # Again: nothing is computed twice.
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "features of 5 views, 0 of them new" in shown.out
    assert "left out: broken.png" in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["features"], "no config is named"),
        (["features", "quickstart_distill", *KEYS], "missing: --out"),
        (["features", "quickstart_distill", "--out", "x", "--data.view.flap", "none"], "flap"),
        (["features", "quickstart_distill", "--out", "x"], "views that are the same"),
        (["features", "quickstart_sami", "--out", "x"], "write --data.view.crops N"),
        (["features", "quickstart_sami", "--out", "x", "--part", "3/2"], "--part is '3/2'"),
        (["features", "quickstart_sami", "--out", "x", "--part", "two"], "the second of eight"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_features_are_not_written_among_the_pictures(pictures, capsys):
    folder = pictures[3]
    arguments = ["features", "quickstart_distill", "--out", f"{folder}/features", *pictures]
    assert main(arguments) == 2
    assert "which is read" in capsys.readouterr().err
