"""`esam segment --prompts`: every prompt of a file once, resumable, whatever some pictures hold."""

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import nano, pretend
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from esam_jax import cli, load
from esam_jax.convert import model_folder
from esam_jax.models import named
from esam_jax.ops import regions
from esam_jax.predict import draw, prompted_album
from esam_jax.predict.prompt import Prompt

SIZES = {
    "a/000000000007.png": (40, 56),
    "a/b.png": (64, 64),
    "c 2.png": (90, 33),
    "d.png": (50, 50),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "sam_nano"
    config = named.sam("sam_nano")
    model_folder.write(folder, config, nano.params(config), source="a test")
    return folder


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    for seed, (name, size) in enumerate(SIZES.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(nano.picture(*size, seed)).save(folder / name)
    return folder


INSTANCES = {
    "images": [{"id": i, "file_name": name} for i, name in enumerate(SIZES)],
    "annotations": [
        {"id": 11, "image_id": 0, "bbox": [3, 4, 27, 21], "category_id": 5},
        {"id": 12, "image_id": 1, "bbox": [5, 5, 45, 31], "category_id": 6},
        {"id": 13, "image_id": 0, "bbox": [-0.4, 2, 56.9, 30], "category_id": 6},
        {"id": 14, "image_id": 2, "bbox": [1, 1, 400, 30], "category_id": 5},
        {"id": 15, "image_id": 2, "bbox": [1, 1, 30, 30], "category_id": 5},
        {"id": 16, "image_id": 2, "bbox": [1, 1, 30, 30], "category_id": 5, "iscrowd": 1},
    ],
    "categories": [{"id": 5, "name": "cat"}, {"id": 6, "name": "dog"}],
}


def call(album: Path, model: Path, prompts: Any, *more: str) -> tuple[int, Path]:
    file = album.parent / "prompts.json"
    if isinstance(prompts, str):
        file = file.with_suffix(".csv")
    file.write_text(prompts if isinstance(prompts, str) else json.dumps(prompts))
    out = album.parent / "out"
    argv = ["segment", str(album), "--prompts", str(file), "--model", str(model), "--out", str(out)]
    return cli.main([*argv, *more]), out


def test_boxes_of_instances(album: Path, model: Path, capsys):
    code, out = call(album, model, INSTANCES, "--json")
    assert code == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["pictures"], report["masks"], report["refused"]) == (3, 4, 1)
    assert report["without_prompts"] == 1 and report["broken"] == {}
    assert report["crowds_left_out"] == 1
    found = COCO(out / "instances.json")
    assert {each["name"] for each in found.cats.values()} == {"cat", "dog"}
    assert [x["file_name"] for x in found.imgs.values()] == list(SIZES)[:3]
    assert [x["source_id"] for x in found.anns.values()] == [11, 13, 12, 15]
    sam = load(model)
    for each in found.anns.values():
        assert each["bbox"] == coco_mask.toBbox(found.annToRLE(each)).tolist()
        name = found.imgs[each["image_id"]]["file_name"]
        picture = np.asarray(Image.open(album / name))
        x, y, width, height = INSTANCES["annotations"][each["source_id"] - 11]["bbox"]
        masks = sam.decode(sam.encode(picture), Prompt(box=[x, y, x + width, y + height]))
        [index], [best] = masks.best()
        assert each["score"] == pytest.approx(float(masks.scores[0, index]), abs=1e-4)
        assert (regions.from_rle(each["segmentation"]) != best).sum() <= 2
        assert each["area"] == regions.from_rle(each["segmentation"]).sum()
    [refused] = json.loads((out / "masks" / "c 2.png.json").read_text())["refused"]
    assert refused["source_id"] == 14 and "reaches outside" in refused["reason"]


def test_boxes_of_crowds_are_prompts_by_choice(album: Path, model: Path, capsys):
    """Counted either way; other choices in the same folder are refused."""
    code, out = call(album, model, INSTANCES, "--json", "--crowds", "use")
    printed, warned = capsys.readouterr()
    report = json.loads(printed)
    assert code == 0 and report["masks"] == 5
    assert report["crowds_used"] == 1 and "crowds_left_out" not in report
    assert "1 crowd used, the first: entry 5 (id 16) is a crowd" in warned
    found = json.loads((out / "instances.json").read_text())["annotations"]
    assert [x["source_id"] for x in found] == [11, 13, 12, 15, 16]
    assert call(album, model, INSTANCES)[0] == 2
    assert "crowds was 'use', is None" in capsys.readouterr().err


def test_crowds_that_are_left_out_are_counted(album: Path, model: Path, capsys):
    strange = [{**INSTANCES["annotations"][0], "iscrowd": value} for value in ("0", 0.0, "no")]
    content = {**INSTANCES, "annotations": [*INSTANCES["annotations"], *strange]}
    code, _ = call(album, model, content, "--json")
    printed, warned = capsys.readouterr()
    report = json.loads(printed)
    assert code == 0 and (report["masks"], report["crowds_left_out"]) == (6, 1)
    said = "1 crowd left out, the first: entry 5 (id 16) is a crowd (--crowds use reads them)"
    assert warned.count(said) == 1
    assert report["malformed"]["reasons"] == ["entry 8: its 'iscrowd' is 'no', but must be 0 or 1"]
    alone = [{**each, "iscrowd": 1} for each in INSTANCES["annotations"]]
    assert call(album, model, {**INSTANCES, "annotations": alone})[0] == 2
    said = "it has no box and no point; 6 crowds left out, the first: entry 0 (id 11) is a crowd"
    assert f"{said} (--crowds use reads them)" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--crowds", "use"), ("--ambiguous-exif", "stored")])
def test_options_of_a_file_need_one(album: Path, model: Path, option: tuple, capsys):
    argv = ["segment", str(album / "d.png"), "--point", "3,4", "--model", str(model)]
    assert cli.main([*argv, "--out", str(album.parent / "out"), *option]) == 2
    assert f"{' '.join(option)} is given without --prompts" in capsys.readouterr().err


def test_results_of_a_detector_name_pictures_or_number_them(album: Path, model: Path):
    results = [
        {"image_id": 7, "bbox": [3, 4, 27, 21], "score": 0.9, "category_id": 3},
        {"image_id": "b.png", "bbox": [3, 4, 27, 21], "score": 0.5, "category_id": 3},
        {"image_id": "c 2", "bbox": [3, 4, 20, 21], "score": 0.4, "category_id": 1},
    ]
    code, out = call(album, model, results)
    assert code == 0
    content = json.loads((out / "instances.json").read_text())
    assert [x["file_name"] for x in content["images"]] == list(SIZES)[:3]
    assert [x["prompt_score"] for x in content["annotations"]] == [0.9, 0.5, 0.4]
    assert [x["id"] for x in content["categories"]] == [1, 3]


def test_points_of_a_table(album: Path, model: Path, capsys):
    rows = "file,x,y,label,query\nd.png,10,12,1,one\nd.png,40,3,0,one\nd.png,5,6,1,two\n"
    code, out = call(album, model, rows)
    assert code == 0 and "1 picture, 2 masks" in capsys.readouterr().out
    one, two = json.loads((out / "masks" / "d.png.json").read_text())["annotations"]
    assert one["prompt"] == {"points": [[10, 12], [40, 3]], "labels": [1, 0]}
    assert (one["query"], two["query"]) == ("one", "two")


def test_a_row_with_too_many_values_is_explained(album: Path, model: Path, capsys):
    (album / "d.png").rename(album / "d, e.png")
    rows = 'file,x,y\nd, e.png,10,12\n"d, e.png",10,12\n,1,2\n'
    code, _ = call(album, model, rows)
    said, warned = capsys.readouterr()
    assert code == 0 and "1 picture, 1 mask in" in said
    assert "; 2 malformed entries left out" in said
    assert "line 2: has 4 values for 3 columns: put a name that holds a comma in" in warned
    assert "line 4: names no file" in warned


@pytest.mark.parametrize("alone", [False, True], ids=["a folder", "one picture"])
def test_overlays_show_masks_and_prompts(album: Path, model: Path, alone: bool):
    """As those of `esam everything`: one alone always has its own, without a sheet."""
    large = np.full((1100, 2200, 3), 90, np.uint8)
    Image.fromarray(large).save(album / "d.png")
    rows = "file,x,y,label,query\nd.png,400,200,1,1\na/b.png,5,6,1,1\n"
    if alone:
        code, out = call(album / "d.png", model, "file,x,y\nd.png,400,200\n")
    else:
        code, out = call(album, model, rows, "--overlays")
    assert code == 0
    drawn = sorted(str(x.relative_to(out)) for x in (out / "overlays").rglob("*.png"))
    names = ["overlays/a/b.png.png", "overlays/d.png.png", "overlays/sheet.png"]
    assert drawn == (names[1:2] if alone else names)
    overlay = np.asarray(Image.open(out / "overlays/d.png.png"))
    assert overlay.shape == (512, 1024, 3)
    y, x = round(200.5 * 512 / 1100 - 0.5), round(400.5 * 1024 / 2200 - 0.5)
    assert (overlay[y, x] == draw.colour(0)).all()  # the click
    rim = np.argwhere((overlay == 255).all(axis=2))
    np.testing.assert_allclose(rim.mean(axis=0), (y, x), atol=0.5)
    [mask] = json.loads((out / "masks" / "d.png.json").read_text())["annotations"]
    inside = Image.fromarray(regions.from_rle(mask["segmentation"])).resize((1024, 512), 0)
    changed = (overlay != 90).any(axis=2)
    assert (changed | ~np.asarray(inside)).all() and not changed.all()


def test_without_the_option_there_are_no_overlays(album: Path, model: Path):
    code, out = call(album, model, "file,x,y\nd.png,10,12\n")
    assert code == 0 and not (out / "overlays").exists()


def test_boxes_of_a_table_and_points_without_queries(album: Path, model: Path):
    code, out = call(album, model, "File, X0, Y0, X1, Y1\nd.png, 1, 2, 30, 40\n")
    assert code == 0
    [box] = json.loads((out / "masks" / "d.png.json").read_text())["annotations"]
    assert box["prompt"] == {"box": [1, 2, 30, 40]}
    (album.parent / "out").rename(album.parent / "before")
    code, out = call(album, model, "file,x,y\nd.png,10,12\nd.png,5,6\n")
    assert len(json.loads((out / "masks" / "d.png.json").read_text())["annotations"]) == 2


def test_what_is_done_stays_and_a_broken_picture_ends_nothing(
    album: Path, model: Path, monkeypatch, capsys
):
    monkeypatch.setattr(prompted_album, "_TOGETHER", 1)
    whole = (album / "a/b.png").read_bytes()
    (album / "a/b.png").write_bytes(whole[:50])
    code, out = call(album, model, INSTANCES, "--json")
    printed, warned = capsys.readouterr()
    assert code == 0 and list(json.loads(printed)["broken"]) == ["a/b.png"]
    assert "warning: a/b.png: " in warned
    before = {file: file.stat().st_mtime_ns for file in (out / "masks").rglob("*.json")}
    assert len(before) == 2
    (album / "a/b.png").write_bytes(whole)
    code, out = call(album, model, INSTANCES, "--json")
    report = json.loads(capsys.readouterr().out)
    assert (report["pictures"], report["listed"]) == (1, 3)
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    code, _ = call(album, model, {**INSTANCES, "annotations": INSTANCES["annotations"][:1]})
    assert code == 2 and "prompts was" in capsys.readouterr().err


def test_other_weights_need_another_folder(album: Path, model: Path, tmp_path: Path, capsys):
    other = tmp_path / "renamed"
    model_folder.write(other, named.sam("sam_nano"), nano.params(named.sam("sam_nano")), source="x")
    _, out = call(album, model, INSTANCES)
    (out / "masks" / "c 2.png.json").unlink()
    assert call(album, other, INSTANCES)[0] == 0  # the same weights from elsewhere
    assert call(album, other, INSTANCES)[0] == 0  # all is done
    capsys.readouterr()
    assert call(album, Path("quickstart_teacher"), INSTANCES)[0] == 2
    assert "model was 'sha256:" in capsys.readouterr().err


@pytest.mark.slow
def test_two_devices_write_what_one_writes(tmp_path: Path, model: Path):
    album, rows, reports = tmp_path / "album", ["file,x,y"], []
    album.mkdir()
    for i in range(19):  # three groups, whose last is not full
        Image.fromarray(nano.picture(20 + i, 40 - i, i)).save(album / f"{i:02d}.png")
        rows.append(f"{i:02d}.png,{i},{19 - i}")
    (album / "03.png").write_bytes(b"no picture")
    (tmp_path / "points.csv").write_text("\n".join(rows) + "\n")
    argv = ["segment", str(album), "--prompts", str(tmp_path / "points.csv"), "--json"]
    for count in (1, 2):
        out = str(tmp_path / str(count))
        printed = pretend.command(count, *argv, "--model", str(model), "--out", out)
        reports.append({**json.loads(printed), "out": None})
    one, two = (pretend.contents(tmp_path / str(count)) for count in (1, 2))
    assert one == two and len(one) == 18 + 2
    assert reports[0] == reports[1] and reports[0]["pictures"] == 18


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("name,x\na,1\n", "its columns are name, x"),
        ("file,x,y\n", "no box and no point"),
        ("file,x,y\nd.png,here,2\n", "line 2: x is 'here', but must be a finite number"),
        ("file,x,y\nabsent.png,1,2\n", "the file names 'absent.png'"),
        ({"images": []}, "'annotations' is missing"),
        ([{"image_id": 1.5, "bbox": [1, 2, 3, 4]}], "image_id is 1.5"),
        (
            [{"image_id": 7, "bbox": [1, 2, 3]}],
            "entry 0: bbox is [1, 2, 3], but must be four numbers",
        ),
        ([], "no box and no point"),
        (3, "holds no prompts"),
    ],
)
def test_a_file_without_prompts_is_refused(
    prompts: Any, message: str, album: Path, model: Path, capsys
):
    code, out = call(album, model, prompts)
    assert code == 2 and message in capsys.readouterr().err
    assert not out.exists()


def test_prompts_without_a_picture_are_counted(album: Path, model: Path, capsys):
    (album / "c").mkdir()
    (album / "c/b.png").write_bytes((album / "a/b.png").read_bytes())
    rows = "file,x,y\nd.png,1,2\nb.png,1,2\nb.png,3,4\nabsent.png,1,2\n"
    code, _ = call(album, model, rows, "--json")
    printed, warned = capsys.readouterr()
    report = json.loads(printed)
    assert code == 0 and (report["masks"], report["with_prompts"]) == (1, 1)
    reason = "'a/b.png' and 'c/b.png' both match: give the path below the folder"
    assert report["unmatched"] == {"prompts": 3, "first": "b.png", "reason": reason}
    assert f"3 prompts without a matching picture, the first of 'b.png': {reason}" in warned


@pytest.mark.parametrize(("on_disk", "in_file"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_accents_match_in_both_spellings(
    on_disk: Any, in_file: Any, album: Path, model: Path, capsys
):
    (album / "d.png").rename(album / f"{unicodedata.normalize(on_disk, 'Küche')}.png")
    rows = f"file,x,y\n{unicodedata.normalize(in_file, 'Küche')}.png,1,2\n"
    code, _ = call(album, model, rows, "--json")
    report = json.loads(capsys.readouterr().out)
    assert code == 0 and (report["masks"], report["unmatched"]["prompts"]) == (1, 0)


GOOD = {"image_id": 7, "bbox": [3, 4, 27, 21], "score": 0.9, "category_id": 3}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, "entry 1: is 3, but must be an object"),
        ({**GOOD, "score": float("nan")}, "entry 1: score is nan"),
        ({**GOOD, "score": [1]}, "entry 1: score is [1]"),
        ({**GOOD, "category_id": "cat"}, "entry 1: category_id is 'cat'"),
        ({**GOOD, "id": [1]}, "entry 1: id is [1]"),
        ({**GOOD, "image_id": None}, "entry 1: image_id is None"),
        ({**GOOD, "bbox": [1, 2, 3, 10**400]}, "entry 1: bbox is 1000"),
        ({"image_id": 7}, "entry 1: bbox is None"),
    ],
)
@pytest.mark.parametrize("kind", ["results", "instances"])
def test_a_malformed_entry_is_left_out_and_counted(
    kind: str, entry: Any, message: str, album: Path, model: Path, capsys
):
    prompts: Any = [GOOD, entry]
    if kind == "instances":
        images = [{"id": 7, "file_name": "d.png"}, [3]]
        prompts = {"images": images, "annotations": prompts, "categories": [{"id": 3}, 4]}
    code, out = call(album, model, prompts, "--json")
    printed, warned = capsys.readouterr()
    report = json.loads(printed)
    assert code == 0 and report["masks"] == 1
    assert report["refused"] == report["malformed"]["entries"] == (3 if kind == "instances" else 1)
    assert message in report["malformed"]["reasons"][-1] and message in warned
    assert len(json.loads((out / "instances.json").read_text())["annotations"]) == 1


def test_a_malformed_row_costs_its_query(album: Path, model: Path, capsys):
    rows = "file,x,y,label,query\nd.png,10,12,1,one\nd.png,40\nd.png,5,6,1,two\nd.png,7,,0,one\n"
    code, out = call(album, model, rows, "--json")
    printed, warned = capsys.readouterr()
    assert code == 0 and json.loads(printed)["refused"] == 2
    assert "line 3: y is None" in warned and "line 5: y is ''" in warned
    [left] = json.loads((out / "masks" / "d.png.json").read_text())["annotations"]
    assert left["query"] == "two"


def test_a_name_too_long_for_its_json_costs_its_picture(album: Path, model: Path, capsys):
    name = "x" * 250 + ".png"
    (album / "d.png").rename(album / name)
    for masks in (1, 0):  # and again when the rest is done
        code, _ = call(album, model, f"file,x,y\n{name},1,2\nb.png,3,4\n", "--json")
        report = json.loads(capsys.readouterr().out)
        assert code == 0 and (report["masks"], report["listed"]) == (masks, 1)
        assert "too long" in report["broken"][name]


def test_the_stated_size_decides_between_upright_and_stored(album: Path, model: Path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    for name in ("e.jpg", "f.jpg", "g.jpg"):
        Image.fromarray(nano.picture(40, 56, 1)).save(album / name, exif=exif)
    sizes = {"e.jpg": (40, 56), "f.jpg": (56, 40), "g.jpg": (41, 56)}
    images = [
        {"id": i, "file_name": name, "height": sizes[name][0], "width": sizes[name][1]}
        for i, name in enumerate(sizes)
    ]
    boxes = [{"image_id": i, "bbox": [2, 3, 30, 30]} for i in range(3)]
    code, out = call(album, model, {"images": images, "annotations": boxes}, "--json")
    report = json.loads(capsys.readouterr().out)
    assert code == 0 and list(report["broken"]) == ["g.jpg"]
    assert (
        "it is 56 x 40 or, as stored, 40 x 56, but the prompts are for 41 x 56"
        in (report["broken"]["g.jpg"])
    )
    found = json.loads((out / "instances.json").read_text())["images"]
    assert [(x["height"], x["width"]) for x in found] == [(40, 56), (56, 40)]
    assert "ambiguous_exif" not in report


def test_where_both_readings_of_an_exif_tag_fit_an_option_decides(album: Path, model: Path, capsys):
    """They are counted, as in training and evaluation, and so are those of no stated size."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = nano.picture(40, 40, 1)
    for name in ("e.png", "f.png"):
        Image.fromarray(pixels).save(album / name, exif=exif)
    images = [{"id": 1, "file_name": "e.png", "height": 40, "width": 40}]
    images.append({"id": 2, "file_name": "f.png"})
    boxes = [{"image_id": i, "bbox": [2, 3, 30, 20]} for i in (1, 2)]
    sam, prompt = load(model), Prompt(box=[2, 3, 32, 23])
    for choice, seen in (("upright", np.rot90(pixels, -1).copy()), ("stored", pixels)):
        more = ("--json", "--ambiguous-exif", choice)
        code, out = call(album, model, {"images": images, "annotations": boxes}, *more)
        printed, warned = capsys.readouterr()
        assert code == 0 and json.loads(printed)["ambiguous_exif"] == 2
        said = f"e.png: EXIF orientation 6 and no size that decides; read {choice}"
        assert f"2 ambiguous EXIF orientations, the first: {said}" in warned
        assert "(--ambiguous-exif decides)" in warned
        masks = sam.decode(sam.encode(seen), prompt)
        [index], _ = masks.best()
        for each in json.loads((out / "instances.json").read_text())["annotations"]:
            assert each["score"] == pytest.approx(float(masks.scores[0, index]), abs=1e-4)
        out.rename(out.with_name(choice))


def test_prompts_of_both_kinds_are_refused(album: Path, model: Path, capsys):
    assert call(album, model, INSTANCES, "--point", "1,2")[0] == 2
    assert "leave --point" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif("ESAM_TEST_DATA" not in os.environ, reason="ESAM_TEST_DATA names no folder")
def test_photographs_with_the_boxes_of_their_annotations(tmp_path: Path, capsys):
    data = Path(os.environ["ESAM_TEST_DATA"]) / "coco_instances"
    argv = ["segment", str(data / "val"), "--prompts", str(data / "instances_val.json"), "--json"]
    argv += ["--model", "quickstart_teacher", "--out", str(tmp_path / "out")]
    assert cli.main(argv) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pictures"] == 71 and report["masks"] + report["refused"] == 672
    found, truth = COCO(tmp_path / "out" / "instances.json"), COCO(data / "instances_val.json")
    overlaps = []
    for each in found.anns.values():
        wanted, image = truth.anns[each["source_id"]], found.imgs[each["image_id"]]
        pair = [found.annToRLE(each)], [truth.annToRLE(wanted)]
        # Smaller ones are but a few pixels of a model of 64, which knows procedural scenes alone.
        if np.prod(wanted["bbox"][2:]) >= 0.05 * image["width"] * image["height"]:
            overlaps.append(coco_mask.iou(*pair, [0])[0, 0])
    assert len(overlaps) > 150 and np.mean(overlaps) > 0.3
