"""`esam segment --text` and `--select` choose among the masks of everything."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import nano
from PIL import Image

import esam_jax as esam
from esam_jax import cli
from esam_jax.cli import segment_among
from esam_jax.convert import model_folder
from esam_jax.data import sources
from esam_jax.models import named
from esam_jax.ops import regions
from esam_jax.predict import tokenizer
from esam_jax.predict.zero_shot import guided_selection

HEIGHT, WIDTH = 40, 56
MODEL = "quickstart_clicks"
COARSE = ["--points-per-side", "4", "--pred-iou-thresh", "0.5", "--stability-score-thresh", "0.5"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    config = named.model("clip_nano")
    model_folder.write(folder / "clip_nano", config, nano.params(config), source="a test")
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    scene = sources.open_source(sources.detect("scenes")).read(0).picture.rgb()
    Image.fromarray(scene[:HEIGHT, :WIDTH]).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def command(picture: Path, *options: str) -> list[str]:
    given = ["--model", MODEL, "--out", str(picture.parent / "out")]
    return ["segment", str(picture), *given, *options]


def clip(models: Path) -> list[str]:
    return ["--clip", str(models / "clip_nano")]


def everything(picture: Path) -> tuple[esam.Sam, np.ndarray, list[dict]]:
    sam, pixels = esam.load(MODEL), np.asarray(Image.open(picture))
    options = {"points_per_side": 4, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.5}
    return sam, pixels, esam.AutomaticMaskGenerator(sam, **options).generate(pixels)


def test_the_best_masks_for_each_text_are_written(models, picture, capsys):
    argv = command(picture, *clip(models), *COARSE, "--top", "2", "--min-area", "9")
    asked = ["--text", "a dog", "--text", "a cat", "--crop-style", "cut_out", "--enlarge", "1.2"]
    templates = ["--template", "a photo of {}", "--template", "{}"]
    assert cli.main([*argv, *asked, *templates, "--json"]) == 0
    printed, err = capsys.readouterr()
    out = picture.parent / "out"
    report = json.loads((out / "masks.json").read_text())
    assert json.loads(printed) == report and err == ""
    sam, pixels, records = everything(picture)
    found = sam.text(
        pixels,
        ["a dog", "a cat"],
        clip=esam.load_clip(models / "clip_nano"),
        masks=records,
        crop_style="cut_out",
        enlarge=1.2,
        templates=["a photo of {}", "{}"],
        min_area=9,
    )
    assert (report["everything"], report["scored"]) == (len(records), len(found.scored))
    wanted = [
        (i, rank, int(place)) for i in (0, 1) for rank, place in enumerate(found.ranked(i)[:2])
    ]
    assert len(wanted) > 2
    for entry, (number, rank, place) in zip(report["masks"], wanted, strict=True):
        assert (entry["text"], entry["rank"]) == (found.texts[number], rank)
        assert entry["mask_of_everything"] == place
        column = found.order(number)[rank]
        assert entry["similarity"] == pytest.approx(float(found.similarities[number, column]))
        assert entry["probability"] == pytest.approx(float(found.probabilities[number, column]))
        mask = np.asarray(Image.open(out / entry["file"])) > 0
        np.testing.assert_array_equal(mask, records[place]["segmentation"])
        np.testing.assert_array_equal(regions.from_rle(entry["segmentation"]), mask)
        assert entry["predicted_iou"] == pytest.approx(records[place]["predicted_iou"])
    assert (out / "overlay.png").is_file()
    # Results are replaced only when that is asked for.
    assert cli.main([*argv, *asked, *templates]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("rules", guided_selection.RULES)
def test_points_and_boxes_choose_by_either_rules(models, picture, rules: str, capsys):
    _, _, records = everything(picture)
    points = ["--point", "20,15", "--point", "5,30,0"]
    argv = command(picture, *COARSE, "--select", rules, "--json", "--overwrite")
    assert cli.main([*argv, *points]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["masks"]
    wanted = guided_selection.by_points(records, [[20, 15], [5, 30]], [1, 0], rules=rules)
    np.testing.assert_array_equal(regions.from_rle(entry["segmentation"]), wanted)
    assert entry["labels"] == [1, 0]
    boxes = [[3.0, 4.0, 30.0, 25.0], [0.0, 0.0, 56.0, 40.0]]
    options = [part for box in boxes for part in ("--box", ",".join(map(str, box)))]
    assert cli.main([*argv, *options]) == 0
    report = json.loads(capsys.readouterr().out)
    places = guided_selection.by_boxes(records, boxes, rules=rules)
    assert [each["mask_of_everything"] for each in report["masks"]] == places
    assert [each["box"] for each in report["masks"]] == boxes


@pytest.mark.parametrize("size", [(1, 1), (HEIGHT, WIDTH)], ids=["1x1", "constant"])
def test_no_mask_is_a_result_that_says_what_to_try(models, picture, size, capsys):
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(picture)
    strict = ["--points-per-side", "2", "--stability-score-thresh", "1"]
    argv = command(picture, *strict, "--pred-iou-thresh", "1", "--json", "--overwrite")
    for asked in (["--text", "a dog", *clip(models)], ["--select", "paper", "--box", "0,0,1,1"]):
        assert cli.main([*argv, *asked]) == 0
        printed, err = capsys.readouterr()
        report = json.loads(printed)
        assert report["masks"] == [] and report["everything"] == 0
        assert err.startswith("esam: warning: no mask was found: of ") and "try " in err
        assert report["hint"] in err
        assert sorted(path.name for path in (picture.parent / "out").iterdir()) == [
            "masks.json",
            "overlay.png",
        ]


def test_masks_of_few_pixels_are_no_candidates(models, picture, capsys):
    argv = command(picture, *clip(models), *COARSE, "--text", "a dog")
    assert cli.main([*argv, "--min-area", str(HEIGHT * WIDTH)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("0 masks in ")
    assert f"has more than {HEIGHT * WIDTH} pixels: try --min-area" in err


TEXT = ["--text", "a dog"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (TEXT, "--text is given without --clip, the model that compares"),
        (["--text", ""], "--text is '', which has no words: describe an object"),
        (["--text", "a dog", "--text", " "], "--text is ' ', which has no words"),
        (["--text", "cat " * 76], "which has 78 tokens, start and end included, but may have 77"),
        ([*TEXT, "--template", "a photo"], "--template is 'a photo', but must have one {}"),
        (
            [*TEXT, "--text-mode", "prompt", "--top", "2"],
            "--top 2 is given with --text-mode prompt",
        ),
        (["--point", "3,4", "--text-mode", "prompt"], "--text-mode prompt is given without --text"),
        ([*TEXT, "--top", "0"], "--top is 0, but must be from 1 to 1000"),
        ([*TEXT, "--top", "1000000000"], "--top is 1000000000, but must be from 1 to 1000"),
        ([*TEXT, "--min-area", "-1"], "--min-area is -1, but must be an integer from 0"),
        ([*TEXT, "--crop-style", "tight", "--enlarge", "3"], "--enlarge is 3.0, but must be from"),
        ([*TEXT, "--background", "black"], "--background is 'black', but the crop style white"),
        ([*TEXT, "--clip", "absent.pt"], "no model at 'absent.pt'"),
        ([*TEXT, "--point", "3,4"], "--text is given, so leave --point out"),
        ([*TEXT, "--box", "1,2,3,4", "--mask", "a.png"], "so leave --box and --mask out"),
        ([*TEXT, "--select", "paper"], "--text is given with --select, but each is a way of its"),
        ([*TEXT, "--prompts", "a.json"], "--prompts is given with --text"),
        (["--point", "3,4", "--top", "3"], "--top 3 is given without --text, which it is for"),
        (["--point", "3,4", "--clip", "x"], "--clip x is given without --text"),
        (
            ["--point", "3,4", "--points-per-side", "8"],
            "--points-per-side 8 is given without --text or --select",
        ),
        (["--select", "code"], "--select is given with neither"),
        (["--select", "code", "--point", "3,4", "--box", "1,2,3,4"], "with points and boxes"),
        (["--select", "code", "--point", "56,4"], "--point has (56, 4), which lies outside"),
        (["--select", "code", "--box", "9,4,3,8"], "--box is [9.0, 4.0, 3.0, 8.0], but needs"),
        (["--select", "code", "--mask", "a.png"], "--select is given, so leave --mask out"),
        (["--select", "usual", "--point", "3,4"], "--select"),
    ],
)
def test_bad_arguments_are_named_before_weights_are_read(
    asked, message, models, picture, monkeypatch, capsys
):
    def too_early(*args: object) -> None:
        raise AssertionError("weights were read before the arguments were checked")

    monkeypatch.setattr(segment_among, "load", too_early)
    assert cli.main(command(picture, *asked)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err, err
    assert not (picture.parent / "out").exists()


def test_a_folder_a_sam_for_clip_and_a_missing_tokenizer_are_refused(
    models, picture, monkeypatch, capsys, tmp_path
):
    argv = command(picture, *TEXT)
    argv[1] = str(tmp_path)
    assert cli.main([*argv, *clip(models)]) == 2
    assert "is a folder, but --text is for a single picture" in capsys.readouterr().err
    argv[1] = str(picture)
    assert cli.main([*argv, "--clip", MODEL]) == 2
    assert "holds a promptable model, which answers no texts" in capsys.readouterr().err
    assert cli.main([*argv, *clip(models), "--text-mode", "prompt"]) == 2
    assert "--text cannot be prompts of this model, which never" in capsys.readouterr().err
    monkeypatch.setattr(tokenizer, "MERGES", tmp_path / "absent.gz")
    for each in (tokenizer._ranks, tokenizer._vocabulary, tokenizer._parts):
        each.cache_clear()
    assert cli.main([*argv, *clip(models)]) == 2
    assert "tokenizer needs" in (said := capsys.readouterr().err) and "absent.gz" in said
