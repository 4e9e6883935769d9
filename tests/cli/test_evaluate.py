"""`esam evaluate prompts` prints its numbers with their protocol."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers import drawn_sets, made_sets, nano
from PIL import Image

from esam_jax import cli
from esam_jax.convert import model_folder
from esam_jax.models import named


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    config = named.sam("efficientsam_nano")
    model_folder.write(folder, config, nano.params(config), source="a test")
    return folder


def test_numbers_and_protocol(model, capsys):
    argv = ["evaluate", "prompts", "--model", str(model), "--data", "scenes", "--images", "3"]
    argv += ["--masks-per-image", "2", "--seeds", "4", "7", "--points", "1", "3"]
    argv += ["--clicks", "uniform", "centre"]
    assert cli.main([*argv, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert "drawn with seed 4" in result["protocol"] and result["images"] == 3
    assert result["model_hash"].startswith("sha256:") and result["resumed"] == 0
    assert result["data"][0]["hash"].startswith("20000 records")
    rows = {
        (row["prompt"], row["points"]): row
        for row in result["numbers"]
        if (row["mask"], row["size"]) == ("confident", "all")
    }
    assert list(rows) == [("box", 0), *((way, n) for way in ("uniform", "centre") for n in (1, 3))]
    drawn = rows["uniform", 3]
    assert len(drawn["by_seed"]) == 2 and "std" not in rows["centre", 3]
    assert drawn["min"] <= drawn["miou"] <= drawn["max"]
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    assert f"box                {rows['box', 0]['miou']:.4f} " in out
    assert f"3 points, uniform  {drawn['miou']:.4f} ± {drawn['std']:.4f} " in out
    for text in (result["protocol"], result["model_hash"], result["data"][0]["hash"], "seconds"):
        assert text in out
    assert "no published numbers:" in out and err == ""


def test_files_and_a_second_call(model, tmp_path, capsys):
    out = tmp_path / "found"
    argv = ["evaluate", "prompts", "--model", str(model), "--data", "scenes", "--images", "3"]
    argv += ["--points", "1", "2", "--out", str(out), "--json"]
    assert cli.main(argv) == 0
    first = json.loads(capsys.readouterr().out)
    assert json.loads((out / "result.json").read_text()) == first
    lines = (out / "objects.csv").read_text().splitlines()
    assert lines[0].startswith("data,picture,object,area,size,fill_box,box,box:oracle,uniform_1,")
    assert len(lines) == 1 + first["masks"]
    assert all(b"<svg" in (out / name).read_bytes() for name in ("clicks.svg", "ious.svg"))
    with Image.open(out / "worst.png") as sheet:
        assert sheet.size[1] > 3 * 200
    assert cli.main(argv) == 0
    again = json.loads(capsys.readouterr().out)
    assert again.pop("resumed") == 3 and first.pop("resumed") == 0
    assert again.pop("seconds") >= 0 and first.pop("seconds") >= 0 and again == first
    assert cli.main([*argv, "--masks-per-image", "1"]) == 2
    assert "made with other settings (protocol was" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("always::UserWarning")
def test_the_pictures_that_a_training_held_out(model, odd_data, capsys):
    argv = ["evaluate", "prompts", "--model", str(model), "--data", str(odd_data), "--json"]
    masks = []
    for part in ("heldout", "train"):
        assert cli.main([*argv, "--part", part, "--heldout", "1"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert f"{part} part, 1 held out" in result["data"][0]["hash"]
        masks.append(result["masks"] + result["skipped"])
    assert sum(masks) == 3  # of three pictures, one of them absent
    assert cli.main([*argv, "--heldout", "1"]) == 2
    assert "set both" in capsys.readouterr().err


def test_a_second_call_reads_the_data_alike(model, odd_data, tmp_path_factory, capsys):
    out = str(tmp_path_factory.mktemp("found"))
    argv = ["evaluate", "prompts", "--model", str(model), "--data", str(odd_data), "--out", out]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert cli.main(argv) == 0
        assert cli.main([*argv, "--crowds", "use"]) == 2
    assert "made with other settings (read_by was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--points", "7"], "--points has 7, but this checkpoint takes 6 at most"),
        (["--data", "scenes", "scenes"], "--data is scenes scenes, but each data set counts once"),
        (["--images", "0"], "--images is 0, but at least 1 is needed"),
        (["--feed-back", "--clicks", "centre"], "--feed-back is set, but this checkpoint never"),
        (["--out", "scenes.json"], "ends in '.json' like a file"),
    ],
)
def test_what_cannot_be_measured(model, argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ["evaluate", "prompts", "--model", str(model), "--data", "scenes"]
    common += ["--images", "3"] if "--images" not in argv else []
    assert cli.main([*common, *argv]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["--model", "m"], ["boxes"], ["prompt", "--model", "m"]])
def test_the_task_comes_first(argv, capsys):
    assert cli.main(["evaluate", *argv]) == 2
    assert "prompts" in capsys.readouterr().err


def test_help_lists_the_tasks(capsys):
    assert cli.main(["evaluate", "--help"]) == 0
    out = capsys.readouterr().out
    assert "prompts" in out and "instances" in out


@pytest.mark.parametrize("data", ["absent", "no masks", "empty"])
def test_bad_data(data, model, tmp_path, capsys):
    folder = tmp_path / data
    if data != "absent":
        folder.mkdir()
    if data == "no masks":
        Image.fromarray(nano.picture(20, 30)).save(folder / "a.png")
    assert cli.main(["evaluate", "prompts", "--model", str(model), "--data", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("esam: ") and err.count("\n") == 1


def test_an_absent_model(tmp_path, capsys):
    absent = str(tmp_path / "absent")
    assert cli.main(["evaluate", "prompts", "--model", absent, "--data", "scenes"]) == 2
    assert "no model at" in capsys.readouterr().err


@pytest.fixture
def odd_data(tmp_path):
    """Two square pictures: one turned by EXIF, of a good, a bad and a crowd; one of 12 bits."""
    exif = Image.Exif()
    exif[0x0112] = 3
    pixels = Image.fromarray(nano.picture(40, 40))
    pixels.save(tmp_path / "a.png", exif=exif)
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40)).save(tmp_path / "b.png")
    square = [[2, 2, 20, 2, 20, 20, 2, 20]]
    objects = [
        {"image_id": 1, "id": 1, "segmentation": square},
        {"image_id": 1, "id": 2, "segmentation": [[2, 2, 9, 9]]},
        {"image_id": 1, "id": 3, "segmentation": square, "iscrowd": 1},
        {"image_id": 2, "id": 4, "segmentation": square},
    ]
    images = [
        {"id": i, "file_name": name, "width": 40, "height": 40}
        for i, name in enumerate(("a.png", "b.png", "absent.png"), 1)
    ]
    objects.append({"image_id": 3, "id": 5, "segmentation": square})
    content = {"images": images, "annotations": objects}
    (tmp_path / "_annotations.coco.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.filterwarnings("always::UserWarning")
def test_what_is_left_out_is_counted_and_named(model, odd_data, capsys):
    argv = ["evaluate", "prompts", "--model", str(model), "--data", str(odd_data)]
    assert cli.main([*argv, "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert (result["masks"], result["images"], result["skipped"]) == (2, 2, 1)
    noted = ("objects_left_out", "crowds_left_out", "ambiguous_exif", "narrow_16_bit")
    assert [result["data"][0][kind] for kind in noted] == [1, 1, 1, 1]
    assert err.count("\n") == 1 and err.startswith("esam: warning: evaluation: 1 broken picture")
    for text in ("a.png: mask 1 (id 2): a polygon has", "mask 2 (id 3) is a crowd", "absent.png"):
        assert text in err and any(text in reason for reason in result["data"][0]["reasons"])
    assert cli.main(argv) == 0
    out, _ = capsys.readouterr()
    counts = (
        "1 broken picture left out, 1 object left out, 1 crowd left out, "
        "1 ambiguous EXIF orientation, 1 narrow 16-bit picture"
    )
    assert f"2 masks in 2 pictures ({counts}). 3 of 3 pictures and" in out


@pytest.mark.filterwarnings("always::UserWarning")
def test_pictures_of_crowds_alone_are_counted_and_the_option_is_named(model, odd_data, capsys):
    file = odd_data / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["annotations"][3]["iscrowd"] = 1  # that of b.png
    content["images"].append({"id": 9, "file_name": "c.png", "width": 40, "height": 40})
    file.write_text(json.dumps(content))
    argv = ["evaluate", "prompts", "--model", str(model), "--data", str(odd_data)]
    assert cli.main(argv) == 0
    printed, warned = capsys.readouterr()
    counts = "2 crowds left out, 1 picture of crowds left out, 1 picture left out"
    assert counts in printed and ". 2 of 2 pictures and" in printed
    assert "1 picture left out, the first: c.png has no object" in warned
    assert "(--crowds use reads them)" in warned and "data.source" not in warned
    for each in content["annotations"]:
        each["iscrowd"] = 1
    file.write_text(json.dumps(content))
    assert cli.main(argv) == 2
    assert "(--crowds use reads them)" in (said := capsys.readouterr().err)
    assert "3 pictures of crowds left out" in said and "data.source" not in said


@pytest.mark.filterwarnings("always::UserWarning")
def test_how_data_is_read_is_an_option(model, odd_data, capsys):
    argv = ["evaluate", "prompts", "--model", str(model), "--data", str(odd_data), "--json"]
    chosen = ["--crowds", "use", "--ambiguous-exif", "stored", "--sixteen-bit", "stretch"]
    assert cli.main([*argv, *chosen]) == 0
    result = json.loads(capsys.readouterr().out)
    (of_set,) = result["data"]
    assert result["masks"] == 3 and of_set["crowds_used"] == 1
    assert "narrow_16_bit" not in of_set
    assert any("decides; read stored" in reason for reason in of_set["reasons"])
    scenes = ["evaluate", "prompts", "--model", str(model), "--data", "scenes"]
    assert cli.main([*scenes, "--crowds", "use"]) == 2
    assert "--crowds is 'use', but scenes has no such choice" in capsys.readouterr().err


def test_a_split_of_a_data_set_is_an_option(model, tmp_path, capsys):
    data = str(drawn_sets.bsds(tmp_path))
    argv = ["evaluate", "prompts", "--model", str(model), "--data", data, "--json"]
    assert cli.main([*argv, "--split", "val", "--min-area-px", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2
    assert cli.main([*argv, "--split", "test"]) == 2
    assert "has no such folder: its splits are train, val" in capsys.readouterr().err


def test_a_list_of_pictures_is_an_option(model, tmp_path, capsys):
    data, ids = made_sets.coco(tmp_path / "coco", 4), tmp_path / "ids.txt"
    argv = ["evaluate", "prompts", "--model", str(model), "--data", str(data), "--json"]
    argv += ["--ids", str(ids), "--min-area-px", "1"]
    ids.write_text("3\n000000000001.png\n")
    assert cli.main(argv) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 2 and "listed ids" in result["data"][0]["hash"]
    ids.write_text("77\n")
    assert cli.main(argv) == 2
    assert "names a picture of this data" in capsys.readouterr().err
    assert cli.main([*argv, "--out", str(ids)]) == 2
    assert str(ids) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (drawn_sets.semantic_maps, "semantic_maps"),
        (lambda folder: made_sets.image_folder(folder, 1), "image_folder"),
    ],
)
def test_data_without_masks_is_refused_before_it_is_read(make, kind, model, tmp_path, capsys):
    data = make(tmp_path / "data")
    for picture in tmp_path.rglob("*.png"):
        picture.write_bytes(b"")
    assert cli.main(["evaluate", "prompts", "--model", str(model), "--data", str(data)]) == 2
    said = f"esam: {data} is {kind} data, but this needs masks: read scenes, tfds, sa1b, "
    assert capsys.readouterr().err.startswith(said)
