"""`esam evaluate prompts` prints its numbers with their protocol."""

import json
from pathlib import Path

import pytest
from helpers import nano
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
    argv += ["--masks-per-image", "2", "--seed", "4"]
    assert cli.main([*argv, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"box_miou", "point_miou", "fill_box", "masks", "images", "skipped", "protocol"} == set(
        result
    )
    assert "drawn with seed 4" in result["protocol"] and result["images"] == 3
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    assert f"box mIoU    {result['box_miou']:.4f}" in out and result["protocol"] in out
    assert err == ""


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
