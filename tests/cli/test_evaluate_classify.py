"""`esam evaluate classify` measures a classifier, and anybody's predictions."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from helpers import made_sets, nano

from esam_jax import cli
from esam_jax.config import ClassifierConfig, ImageFolderConfig
from esam_jax.convert import model_folder
from esam_jax.convert.families import timm_vit
from esam_jax.data import sources
from esam_jax.models import named

NETWORK = ClassifierConfig(
    encoder=timm_vit.pretrained(
        dataclasses.replace(named.sam("efficientsam_nano").encoder, depth=1)
    ),
    classes=2,
    pool="mean",
    class_names=("a", "b"),
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return made_sets.image_folder(tmp_path_factory.mktemp("pictures"), 9)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Of the first class whatever it sees."""
    params = nano.params(NETWORK)
    params["head"]["kernel"] *= 0
    params["head"]["bias"][:] = [1, 0]
    folder = tmp_path_factory.mktemp("model")
    model_folder.write(folder, NETWORK, params, source="a test")
    return folder


def run(capsys, *argv):
    assert cli.main(["evaluate", "classify", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *argv):
    assert cli.main(["evaluate", "classify", *map(str, argv)]) == 2
    return capsys.readouterr().err


def truth(pictures):
    source = sources.open_source(ImageFolderConfig(path=str(pictures)))
    return {source.name(i): source.read(i).annotation("label").name for i in range(len(source))}


def test_a_model_is_measured_with_its_protocol(model, pictures, capsys):
    found = run(capsys, "--model", model, "--data", pictures)
    assert (found["top1"], found["top5"], found["images"]) == (pytest.approx(5 / 9, abs=1e-6), 1, 9)
    assert found["protocol"].startswith("9 of 9 pictures; the centre of each picture")
    assert found["protocol"].endswith("64 x 64; a class counts by its name")
    assert found["classes"]["a"] == {"images": 5, "top1": 1, "top5": 1}
    assert found["classes"]["b"] == {"images": 4, "top1": 0, "top5": 1}
    assert found["class_mean_top1"] == 0.5
    assert found["confusions"] == [{"class": "b", "taken_for": "a", "images": 4}]
    assert "these are 9 pictures of 2 classes" in found["published"]["left_out"][0]
    assert found["data"].startswith("9 records") and found["of"] == str(model)
    argv = ["--model", str(model), "--data", str(pictures), "--images", "4"]
    assert cli.main(["evaluate", "classify", *argv]) == 0
    out = capsys.readouterr().out
    assert "top-5  1.0000\nby class: b 0.000 of" in out and "taken for another: b for a" in out
    assert "no published numbers: arXiv:2312.00863, Table 1: it is of the 50000 pictures" in out
    assert "\n4 pictures. 4 of 9 pictures;" in out


@pytest.mark.filterwarnings("default::UserWarning")
def test_classes_are_compared_by_name(model, pictures, tmp_path, capsys):
    """Folders that come before move the numbers; one that the model does not know is named."""
    others = shutil.copytree(pictures, tmp_path / "others")
    made_sets.image_folder(others / "more", 3)
    (others / "more").rename(others / "Aardvark")
    argv = ["evaluate", "classify", "--model", str(model), "--data", str(others)]
    found = run(capsys, *argv[2:])
    assert found["images"] == 9 and found["top1"] == pytest.approx(5 / 9, abs=1e-6)
    assert found["unknown_classes"] == {"Aardvark": 3} and found["skipped"] == 3
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    assert "3 pictures left out, of classes that the model does not have: Aardvark" in err
    assert "broken" not in err and "reasons" not in found
    assert "(3 pictures left out, of classes that the model does not have: Aardvark 3)" in out
    for old in ("a", "b"):
        (others / old).rename(others / f"{old}2")
    assert "knows none of the classes of this data: it tells a, b" in refused(capsys, *argv[2:])


def test_predictions_count_by_their_order(pictures, tmp_path, capsys):
    """By names and numbers, alone and in lists; what is not there is wrong."""
    names = truth(pictures)
    number = {"a": 0, "b": 1}
    other = {"a": "b", "b": "a"}
    first, second, third, fourth, _, *rest = names
    predictions = {
        first: names[first],
        second: number[names[second]],
        third: [other[names[third]], names[third]],
        fourth: ["x", "y", "z", 7, 8, names[fourth]],
        **{name: [number[names[name]]] for name in rest},
        "nowhere.png": "a",
    }
    file = tmp_path / "predictions.json"
    file.write_text(json.dumps(predictions))
    found = run(capsys, "--predictions", file, "--data", pictures)
    assert found["top1"] == pytest.approx(6 / 9, abs=1e-6)
    assert found["top5"] == pytest.approx(7 / 9, abs=1e-6)
    assert found["unanswered"] == 1 and found["images"] == 9 and found["unused"] == 1
    assert "at most 6 classes of a picture" in found["protocol"]
    assert sum(x["images"] for x in found["classes"].values()) == 9
    wrong = {(x["class"], x["taken_for"]): x["images"] for x in found["confusions"]}
    assert wrong[names[third], other[names[third]]] == 1 and wrong[names[fourth], "x"] == 1
    assert (
        cli.main(["evaluate", "classify", "--predictions", str(file), "--data", str(pictures)]) == 0
    )
    out = capsys.readouterr().out
    assert "(1 picture without a prediction: wrong, 1 prediction of other records)" in out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"x.png": "a"}', "no prediction for any of 9 records, such as"),
        ('{"NAME": []}', "must be the name or number of a class, or a list"),
        ('{"NAME": [1.5]}', "must be the name or number of a class, or a list"),
        ('{"NAME": true}', "must be the name or number of a class, or a list"),
        ("[1]", "predictions.json"),
        ("{", "predictions.json"),
    ],
)
def test_predictions_of_another_form_are_refused(pictures, tmp_path, capsys, content, words):
    file = tmp_path / "predictions.json"
    file.write_text(content.replace("NAME", next(iter(truth(pictures)))))
    assert words in refused(capsys, "--predictions", file, "--data", pictures)


@pytest.mark.parametrize("wrong", ["wasp", "0", 7, ["x", "y"]])
@pytest.mark.filterwarnings("default::UserWarning")
def test_predictions_by_names_of_other_classes_are_warned_of(pictures, tmp_path, capsys, wrong):
    file = tmp_path / "predictions.json"
    file.write_text(json.dumps(dict.fromkeys(truth(pictures), wrong)))
    argv = ["evaluate", "classify", "--predictions", str(file), "--data", str(pictures)]
    assert cli.main(argv) == 0
    said = wrong if isinstance(wrong, list) else [wrong]
    words = f"the class of no record right: it says {said} for one of class 'a', number 0"
    assert words in capsys.readouterr().err


def test_what_cannot_be_measured_is_refused(model, pictures, tmp_path, capsys):
    both = ["--model", model, "--predictions", "x.json", "--data", pictures]
    assert "write one of them" in refused(capsys, *both)
    assert "write one of them" in refused(capsys, "--data", pictures)
    some = ["--model", model, "--data", pictures]
    assert "--images is 0" in refused(capsys, *some, "--images", "0")
    assert "--split is 'val', but image_folder" in refused(capsys, *some, "--split", "val")
    params = nano.params(named.sam("efficientsam_nano"))
    model_folder.write(tmp_path / "sam", named.sam("efficientsam_nano"), params, source="a test")
    text = refused(capsys, "--model", tmp_path / "sam", "--data", pictures)
    assert "has no head for classes: name a run of the task classify" in text


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--probe", "knn"], "--probe knn learns from pictures: name them with --train"),
        (["--train", "x"], "--train is of a probe: add --probe knn or --probe linear"),
        (["--train-images", "3"], "--train-images is of a probe"),
        (["--probe", "knn", "--train", "x", "--train-images", "0"], "--train-images is 0"),
        (["--probe", "knn", "--train", "x", "--neighbours", "0"], "--neighbours has 0"),
        (["--probe", "linear", "--train", "x", "--neighbours", "3"], "--neighbours is of --probe"),
        (["--probe", "knn", "--train", "nowhere"], "nowhere does not exist"),
    ],
)
def test_options_of_probes_that_do_not_fit_are_refused(model, pictures, capsys, more, words):
    assert words in refused(capsys, "--model", model, "--data", pictures, *more)


def test_predictions_have_no_features(pictures, capsys):
    some = ["--data", pictures, "--train", pictures, "--probe", "knn"]
    assert "reads the features of a model" in refused(capsys, "--predictions", "x.json", *some)


@pytest.mark.parametrize("probe", ["knn", "linear"])
def test_a_probe_learns_from_other_pictures(model, pictures, capsys, probe):
    """The same ones, whose own features are the nearest, and a line separates nine points."""
    argv = ["--model", model, "--probe", probe, "--train", pictures, "--data", pictures]
    argv += ["--neighbours", "1", "7"] if probe == "knn" else []
    found = run(capsys, *argv)
    assert found["probe"] == probe and found["train"] == found["data"]
    assert "learned from 9 of 9 pictures" in found["protocol"]
    assert "the mean of the patches, behind the last norm" in found["protocol"]
    assert cli.main(["evaluate", "classify", *map(str, argv)]) == 0
    out = capsys.readouterr().out
    assert "learned from: 9 records" in out
    if probe == "knn":
        assert found["top1"] == 1 and [x["neighbours"] for x in found["neighbours"]] == [1, 7]
        assert "7 neighbours: top-1 " in out
    else:
        assert found["top1"] > 0.6 and found["strength"] in {x["strength"] for x in found["tried"]}


@pytest.mark.filterwarnings("default::UserWarning")
def test_a_data_set_of_broken_pictures_is_refused(model, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"nothing")
    text = refused(capsys, "--model", model, "--data", tmp_path)
    assert "1 broken picture left out" in text and "none of 1 pictures can be used" in text


@pytest.mark.slow
def test_a_probe_reads_random_weights(pictures, capsys):
    argv = ["--model", "random:efficientsam_nano", "--probe", "linear", "--train", pictures]
    argv += ["--data", pictures, "--images", "6", "--train-images", "8"]
    found = run(capsys, *argv)
    assert "the mean of the patches, without a last norm" in found["protocol"]
    assert (found["images"], found["train_images"]) == (6, 8)
    assert found["of"] == "random:efficientsam_nano" and 0 <= found["top1"] <= 1
