"""`esam proposals`: every picture once, as results that `esam evaluate proposals` reads."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from esam_jax import cli, files
from esam_jax.data import decode
from esam_jax.data.sources import scene_painter
from esam_jax.ops import regions
from esam_jax.predict import load, overlays
from esam_jax.predict.zero_shot import proposals
from esam_jax.predict.zero_shot.proposals import ProposalSettings

SMALL = ["--points-per-side", "4", "--most", "12"]


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each device compiles its own programs."""
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: jax.devices()[:1])


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for i, name in enumerate(("000000000017", "sa_4", "dog")):
        Image.fromarray(scene_painter.draw(i, 64, split="heldout")[0]).save(folder / f"{name}.png")
    return folder


def call(path: Path, out: Path, *more: str, model: str = "quickstart_clicks") -> int:
    return cli.main(["proposals", str(path), "--model", model, "--out", str(out), *SMALL, *more])


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def listed(folder: Path, ids: dict[str, int | str]) -> Path:
    """A json of COCO with the pictures of an album and an object that fills each."""
    size = {"height": 64, "width": 64}
    full = regions.to_rle(np.ones((64, 64), bool))
    content = {
        "images": [{"id": x, "file_name": f"val/{name}", **size} for name, x in ids.items()],
        "annotations": [
            {"id": i, "image_id": x, "category_id": 1, "segmentation": full, "iscrowd": 0}
            for i, x in enumerate(ids.values(), 1)
        ],
        "categories": [{"id": 1, "name": "it"}],
    }
    (folder / "truth.json").write_text(json.dumps(content))
    return folder / "truth.json"


def test_results_are_those_of_the_function(album, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(album, out, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["pictures"], report["listed"], report["broken"]) == (3, 3, {})
    found = json.loads((out / "results.json").read_text())
    assert len(found) == report["masks"] == 3 * 12
    sam, seen = load("quickstart_clicks"), set()
    for name in ("000000000017", "sa_4", "dog"):
        picture = decode.read_rgb(album / f"{name}.png")
        records = proposals.proposals(sam, picture, ProposalSettings(points_per_side=4, most=12))
        known = {"000000000017": 17, "sa_4": 4}.get(name)
        ids = {each["image_id"] for each in found}
        identity = known or next(iter(ids - {17, 4}))
        wanted = proposals.as_results(records, identity)
        assert [each for each in found if each["image_id"] == identity] == wanted
        assert json.loads((out / f"masks/{identity}.json").read_text()) == wanted
        seen.add(identity)
    assert seen == {each["image_id"] for each in found}


def test_ids_of_a_json_are_those_of_its_results(album, tmp_path, capsys):
    ids = {"000000000017.png": 1, "sa_4.png": 2, "dog.png": 3, "cat.png": 4}
    truth, out = listed(tmp_path, ids), tmp_path / "out"
    assert call(album, out, "--ids", str(truth)) == 0
    assert capsys.readouterr().out.startswith("3 pictures, 36 masks in ")
    found = json.loads((out / "results.json").read_text())
    assert {each["image_id"] for each in found} == {1, 2, 3}
    argv = ["evaluate", "proposals", "--results", str(out / "results.json"), "--data", str(truth)]
    assert cli.main([*argv, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["unanswered"] == 1 and result["proposals"] == 36
    assert call(album, out) == 2
    assert "made with other settings (ids was '4 pictures" in capsys.readouterr().err
    for wrong, message in (
        ({"dog.png": 3}, "000000000017.png is not listed in"),
        ({**ids, "more/dog.png": 5}, "dog.png may be any of 2 pictures of"),
        ({**ids, "dog.png": "three"}, "has the id 'three', but ids must be integers here"),
    ):
        file = listed(tmp_path, wrong)
        assert call(album, tmp_path / "other", "--ids", str(file)) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_what_is_done_stays_and_the_rest_is_done(album, tmp_path, capsys, monkeypatch):
    out, write, written = tmp_path / "out", files.write, []

    def killed(file: Path, content: str | bytes) -> None:
        if file.parent.name == "masks":
            if len(written) == 1:
                raise KeyboardInterrupt
            written.append(file)
        write(file, content)

    monkeypatch.setattr(files, "write", killed)
    assert call(album, out) == 130
    before = contents(out)
    assert len(before) == 2  # the settings, and one picture
    monkeypatch.setattr(files, "write", write)
    capsys.readouterr()
    assert call(album, out) == 0
    assert "2 pictures, 24 masks in" in capsys.readouterr().out
    after = contents(out)
    assert len(after) == 3 + 2 and {name: after[name] for name in before} == before
    assert call(album, out) == 0 and contents(out) == after
    assert "0 pictures, 0 masks" in capsys.readouterr().out
    assert call(album, out, "--most", "11") == 2
    assert "most was 12, is 11" in capsys.readouterr().err and contents(out) == after


def test_what_a_dead_call_left_unfinished_is_removed(album, tmp_path):
    out = tmp_path / "out"
    (out / "masks").mkdir(parents=True)
    dead = f"{files.HOST}-{os.getpid()}.new"  # of an earlier process
    for name in (f".results.json.0a.{dead}", f"masks/.4.json.0b.{dead}"):
        (out / name).write_bytes(b"half")
    assert call(album, out) == 0
    assert not [each for each in out.rglob(".*") if each.is_file()]


def test_hosts_share_an_album(album, tmp_path, capsys):
    for host in ("0/2", "1/2"):
        assert call(album, tmp_path / "out", "--part", host) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "results.json lists 2 of 3 pictures" in shown[0] and "lists 3 of 3" in shown[1]
    assert call(album, tmp_path / "alone") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    assert call(album, tmp_path / "out", "--part", "2/2") == 2


def test_a_broken_picture_is_named_and_left_out(album, tmp_path, capsys):
    (album / "bad.png").write_bytes(b"broken")
    assert call(album, tmp_path / "out", "--json") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert list(report["broken"]) == ["bad.png"] and report["listed"] == 3
    assert "warning: bad.png" in err
    for name in ("000000000017", "sa_4", "dog"):
        (album / f"{name}.png").unlink()
    assert call(album, tmp_path / "none") == 2
    assert "no picture of" in capsys.readouterr().err


def test_overlays(album, tmp_path, monkeypatch):
    shown, write = [], overlays.write
    monkeypatch.setattr(overlays, "write", lambda *x: shown.append(x[2:]) or write(*x))
    assert call(album / "sa_4.png", tmp_path / "one", "--most", "30") == 0
    [(runs, scores)] = shown
    found = json.loads((tmp_path / "one/results.json").read_text())
    assert len(found) == 30 and runs == [each["segmentation"] for each in found[:20]]
    assert scores == [each["score"] for each in found[:20]]
    assert [each.name for each in (tmp_path / "one/overlays").iterdir()] == ["4.png"]
    assert call(album, tmp_path / "all", "--overlays") == 0
    names = {each.name for each in (tmp_path / "all/overlays").iterdir()}
    assert {"4.png", "17.png", "sheet.png"} < names and len(names) == 4


def test_what_is_wrong_is_refused_before_anything_is_written(album, tmp_path, capsys):
    out = tmp_path / "out"
    (album / "17.png").write_bytes((album / "dog.png").read_bytes())
    assert call(album, out) == 2
    assert "would have one id, 17: rename one of them" in capsys.readouterr().err
    (album / "17.png").unlink()
    assert call(album, out, "--output", "single", model="quickstart_teacher") == 2
    assert "never learned the single mask" in capsys.readouterr().err
    assert call(album, out, "--box-nms-thresh", "2") == 2
    assert "box_nms_thresh is 2.0, but must be from 0 to 1" in capsys.readouterr().err
    assert call(album, album / "inside") == 2
    assert "lies in" in capsys.readouterr().err and not out.exists()
    out.mkdir()
    (out / "results.json").write_text("mine")
    assert call(album, out) == 2
    assert "was not written by this command" in capsys.readouterr().err
    assert (out / "results.json").read_text() == "mine"


@pytest.mark.slow
def test_the_ablation(album, tmp_path, capsys):
    """Single masks of the finer grid, ranked by the picture's name."""
    argv = ["--output", "single", "--json"]
    assert call(album / "dog.png", tmp_path / "out", *argv) == 0
    assert json.loads(capsys.readouterr().out)["masks"] <= 12
    settings = json.loads((tmp_path / "out/proposals.json").read_text())
    assert (settings["ranking"], settings["box_nms_thresh"]) == ("random", 0.95)
    picture = decode.read_rgb(album / "dog.png")
    how = ProposalSettings(
        output="single", points_per_side=4, most=12, box_nms_thresh=0.95, ranking="random"
    )
    wanted = proposals.proposals(load("quickstart_clicks"), picture, how, name="dog.png")
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert [each["score"] for each in found] == [record["score"] for record in wanted]
