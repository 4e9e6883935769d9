"""`esam evaluate edges` scores maps of a model, and a folder of anybody's."""

import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from esam_jax import cli
from esam_jax.data.sources import scene_painter
from esam_jax.evaluate import edge_scores, published_edges
from esam_jax.predict.zero_shot import edges

DATA = Path(os.environ.get("ESAM_TEST_DATA", "absent"))
real = pytest.mark.skipif(
    not DATA.is_dir(), reason="ESAM_TEST_DATA names no folder with test pictures"
)


@pytest.fixture
def data(tmp_path):
    """Two pictures; everybody drew one line, and the maps have it, and another one."""
    for name in ("images", "gt", "maps"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        drawn = np.zeros((3, 40, 50), bool)
        drawn[:, 20, 5:45] = True
        Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / f"images/{name}.png")
        regions = np.ones(drawn.shape, np.uint16)
        np.savez(tmp_path / f"gt/{name}.npz", boundaries=drawn, segmentation=regions)
        edges = np.zeros((40, 50), np.uint8)
        edges[20, 5:45], edges[5, 5:45] = 200, 100
        Image.fromarray(edges).save(tmp_path / f"maps/{name}.png")
    return tmp_path


def run(data, *more):
    argv = ["evaluate", "edges", "--edges", data / "maps", "--truth", data, "--workers", 1, *more]
    return cli.main([*map(str, argv)])


def test_numbers_as_json(data, capsys):
    assert run(data, "--thresholds", 3, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ODS"] == found["OIS"] == 1.0 and found["threshold"] == 0.5
    assert found["pictures"]["a.png"]["F"] == 1.0
    # At 0.25 both lines are edges, at 0.5 one of them is, at 0.75 both maps are full of it.
    assert found["recall"] == found["precision"] == 1.0


def test_numbers_for_people(data, capsys):
    assert run(data, "--thresholds", 1) == 0
    text = capsys.readouterr().out
    assert text.startswith("ODS  1.0000  (recall 1.0000, precision 1.0000, threshold 0.5000)")
    assert "2 pictures: 1 threshold, thinned, one to one within 0.0075 of the diagonal" in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--thresholds", "0"], "--thresholds is 0, but must be 1 to 999"),
        (["--max-distance", "1"], "--max-distance is 1.0, but must be between 0 and 1"),
        (["--workers", "0"], "--workers is 0, but must be at least 1"),
        (["--split", "val"], "val"),
    ],
)
def test_wrong_values_are_refused_by_name(data, more, message, capsys):
    assert run(data, *more) == 2
    assert message in capsys.readouterr().err


def test_data_without_boundaries_is_refused(data, capsys):
    argv = ["evaluate", "edges", "--edges", str(data / "maps"), "--truth", str(data / "maps")]
    assert cli.main(argv) == 2
    assert "is image_folder data, which has no boundaries" in capsys.readouterr().err


def test_a_folder_keeps_counts_and_shows_pictures(data, tmp_path_factory, capsys):
    out = tmp_path_factory.mktemp("out")
    assert run(data, "--thresholds", 3, "--out", out, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert set(names(out)) == {
        "best.png",
        "curve.svg",
        "evaluate.json",
        "pictures/0/00000000.json",
        "pictures/0/00000001.json",
        "result.json",
        "worst.png",
    }
    assert json.loads((out / "result.json").read_text()) == first
    assert [row["threshold"] for row in first["curve"]] == [0.25, 0.5, 0.75]
    assert first["curve"][0]["precision"] == 0.5 and first["curve"][0]["recall"] == 1.0
    # One map gets better: it alone is counted again.
    edges = np.zeros((40, 50), np.uint8)
    edges[20, 5:45] = 200
    Image.fromarray(edges).save(data / "maps/b.png")
    assert run(data, "--thresholds", 3, "--out", out, "--json") == 0
    second = json.loads(capsys.readouterr().out)
    assert (first["resumed"], second["resumed"]) == (0, 1)
    assert second["curve"][0]["precision"] == pytest.approx(2 / 3)
    assert run(data, "--thresholds", 5, "--out", out) == 2
    assert "thresholds was 3, is 5" in capsys.readouterr().err


def test_no_edges_at_all_score_zero(data, capsys):
    for name in ("a", "b"):
        Image.fromarray(np.zeros((40, 50), np.uint8)).save(data / f"maps/{name}.png")
    assert run(data, "--thresholds", 3, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[name] for name in ("ODS", "OIS", "AP", "R50")] == [0, 0, 0, 0]


@pytest.mark.filterwarnings("default:evaluation")
def test_drawings_that_cannot_be_read_are_left_out(data, capsys):
    (data / "gt/a.npz").write_bytes(b"PK broken")
    assert run(data, "--thresholds", 1) == 0
    assert "\n1 picture (1 broken picture left out): 1 threshold" in capsys.readouterr().out
    (data / "gt/b.npz").write_bytes(b"PK broken")
    assert run(data, "--thresholds", 1) == 2
    assert "no picture could be read" in capsys.readouterr().err


def test_a_map_of_another_size_ends_the_command(data, capsys):
    Image.fromarray(np.zeros((50, 40), np.uint8)).save(data / "maps/b.png")
    assert run(data) == 2
    assert "b.png is 50 x 40, but its picture 40 x 50" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give --edges FOLDER or --model M: exactly one of them"),
        (["--edges", "maps", "--model", "m"], "exactly one of them"),
        (["--model", "quickstart_teacher"], "--model needs --out"),
        (["--edges", "maps", "--points-per-side", "3"], "--points-per-side is for the maps of a"),
        (["--model", "quickstart_teacher", "--out", "images/out"], "lies in"),
        (["--model", "nothing", "--out", "../out"], "nothing"),
    ],
)
def test_options_that_do_not_go_together_are_refused(data, argv, message, monkeypatch, capsys):
    monkeypatch.chdir(data)
    assert cli.main(["evaluate", "edges", "--truth", ".", *argv]) == 2
    assert message in capsys.readouterr().err


# ---------------------------------------------------------------------------------- of a model


@pytest.fixture
def scenes(tmp_path):
    """Three scenes with the outlines of their objects, in BSDS500's layout without MATLAB."""
    root = tmp_path / "scenes"
    for name in ("images", "gt"):
        (root / name).mkdir(parents=True)
    for i in range(3):
        pixels, labels = scene_painter.draw(i, 64, split="heldout")
        Image.fromarray(pixels).save(root / f"images/{i}.png")
        drawn = np.zeros((1, 64, 64), bool)
        drawn[0, 1:] |= labels[1:] != labels[:-1]
        drawn[0, :, 1:] |= labels[:, 1:] != labels[:, :-1]
        regions = labels[None].astype(np.uint16)
        np.savez(root / f"gt/{i}.npz", boundaries=drawn, segmentation=regions)
    return root


def of_model(scenes, out, *more):
    argv = ["--model", "quickstart_teacher", "--truth", scenes, "--out", out, "--workers", 1]
    argv += ["--points-per-side", 6, "--thresholds", 9, "--max-distance", 0.03, *more]
    return cli.main(["evaluate", "edges", *map(str, argv)])


def names(out):
    return [path.relative_to(out).as_posix() for path in sorted(out.rglob("*")) if path.is_file()]


def test_a_model_finds_the_outlines_of_scenes(scenes, tmp_path, capsys):
    out = tmp_path / "out"
    assert of_model(scenes, out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ODS"] > 0.5 and found["OIS"] >= found["ODS"] - 1e-9 and found["R50"] > 0.5
    assert found["model"] == "quickstart_teacher" and found["images"] == 3
    assert found["protocol"].startswith("6 x 6 clicks, all candidates, none left out")
    assert not found["published"]["rows"] and "3 pictures of all splits" in str(found["published"])
    assert {"maps/0.png", "maps/1.png", "maps/2.png", "best.png", "worst.png"} <= set(names(out))
    # Anybody's maps are scored by the same code.
    argv = ["--edges", out / "maps", "--truth", scenes, "--workers", 1, "--json"]
    argv += ["--thresholds", 9, "--max-distance", 0.03]
    assert cli.main(["evaluate", "edges", *map(str, argv)]) == 0
    given = json.loads(capsys.readouterr().out)
    assert all(given[name] == found[name] for name in ("ODS", "OIS", "AP", "R50", "pictures"))


@pytest.mark.parametrize("where", ["map", "count"])
def test_a_killed_evaluation_resumes(scenes, tmp_path, where, monkeypatch, capsys):
    complete, out = tmp_path / "complete", tmp_path / "out"
    assert of_model(scenes, complete) == 0
    module, name = (edges, "edges") if where == "map" else (edge_scores, "counts")
    original, calls = getattr(module, name), itertools.count()

    def killed(*args, **options):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(module, name, killed)
    assert of_model(scenes, out) == 130
    kept = [each for each in names(out) if each.startswith(("maps", "pictures"))]
    assert len(kept) == (2 if where == "map" else 3 + 2)
    calls = itertools.count(3)  # no more
    capsys.readouterr()
    assert of_model(scenes, out) == 0
    found, expected = (json.loads((each / "result.json").read_text()) for each in (out, complete))
    assert found.pop("resumed") == (0 if where == "map" else 2) and expected.pop("resumed") == 0
    assert {**found, "seconds": 0} == {**expected, "seconds": 0}
    assert names(out) == names(complete)


@pytest.mark.filterwarnings("default:evaluation")
def test_a_broken_picture_is_left_out_of_all(scenes, tmp_path, capsys):
    file = scenes / "images/1.png"
    file.write_bytes(file.read_bytes()[:900])
    assert of_model(scenes, tmp_path / "out", "--json") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["images"] == 2 and found["skipped"] == 1 and "1.png" not in found["pictures"]
    assert "evaluation: 1 broken picture left out, the first: " in printed.err


def test_maps_of_another_model_or_data_are_refused(scenes, tmp_path, capsys):
    out = tmp_path / "out"
    assert of_model(scenes, out) == 0
    assert of_model(scenes, out, "--model", "quickstart_clicks") == 2
    assert "model_hash was" in capsys.readouterr().err
    (scenes / "images/2.png").unlink()
    assert of_model(scenes, out) == 2
    assert "data was '3 records" in capsys.readouterr().err
    theirs = tmp_path / "theirs"
    (theirs / "maps").mkdir(parents=True)
    (theirs / "maps/0.png").write_bytes(b"mine")
    assert of_model(scenes, theirs) == 2
    assert "0.png was not written by this command" in capsys.readouterr().err


@real
@pytest.mark.slow
def test_one_person_beside_the_others_is_as_consistent_as_documented(tmp_path, capsys):
    """docs/evaluation.md: of the 20 real pictures, F 0.766 (recall 0.670, precision 0.894)."""
    for name in ("images", "gt", "maps"):
        (tmp_path / name).mkdir()
    for file in sorted((DATA / "bsds500_val20/gt").iterdir()):
        picture = f"{file.stem}.jpg"
        shutil.copy(DATA / "bsds500_val20/images" / picture, tmp_path / "images" / picture)
        with np.load(file) as drawn:
            first, *others = drawn["boundaries"].astype(bool)
            regions = drawn["segmentation"][1:]
        np.savez(tmp_path / "gt" / file.name, boundaries=others, segmentation=regions)
        Image.fromarray(first).save(tmp_path / f"maps/{file.stem}.png")
    assert run(tmp_path, "--thresholds", 1, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    numbers = [found[name] for name in ("ODS", "recall", "precision")]
    assert numbers == pytest.approx([0.766, 0.670, 0.894], abs=1e-3) and found["images"] == 20


@real
@pytest.mark.slow
def test_sobel_edges_are_as_good_as_documented(tmp_path, capsys):
    """docs/evaluation.md: of the 20 real pictures, ODS 0.575 with nine thresholds."""
    data, maps = DATA / "bsds500_val20", tmp_path / "maps"
    maps.mkdir()
    for file in (data / "images").iterdir():
        grey = ndimage.gaussian_filter(np.asarray(Image.open(file).convert("L"), float), 2)
        found = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1))
        levels = np.rint(255 * found / found.max()).astype(np.uint8)
        Image.fromarray(levels).save(maps / f"{file.stem}.png")
    argv = ["--edges", maps, "--truth", data, "--thresholds", 9, "--json"]
    assert cli.main(["evaluate", "edges", *map(str, argv)]) == 0
    found = json.loads(capsys.readouterr().out)
    numbers = [found[name] for name in ("ODS", "OIS", "AP", "R50")]
    assert numbers == pytest.approx([0.575, 0.596, 0.527, 0.672], abs=1e-3)


# ------------------------------------------------------------------------------------ published


def test_published_numbers_stand_beside_the_test_split_alone():
    same = {"split": "test", "pictures": 200, "broken": 0, "thresholds": 99, "max_distance": 0.0075}
    rows = {row["model"]: row for row in published_edges.edges(**same)["rows"]}
    assert rows["SAM ViT-H"]["ODS"] == 0.768 and rows["FastSAM"]["R50"] == 0.903
    assert "OIS" not in rows["Sobel"] and all("EfficientSAM" not in name for name in rows)
    others = {"split": "val", "pictures": 100, "broken": 1, "thresholds": 25, "max_distance": 0.01}
    for name, value in others.items():
        beside = published_edges.edges(**{**same, name: value})
        assert not beside["rows"] and len(beside["left_out"]) == 1
