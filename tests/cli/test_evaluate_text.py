"""`esam evaluate text` says what it measured, and what it cannot measure before it begins."""

import json
from pathlib import Path

import jax
import pytest
from helpers import nano
from PIL import Image

import esam_jax as esam
from esam_jax import cli
from esam_jax.convert import model_folder
from esam_jax.data.sources import scene_painter
from esam_jax.evaluate import ground_truth, text_scores, text_to_mask
from esam_jax.evaluate.text_protocol import TextSettings
from esam_jax.models import named
from esam_jax.ops import regions

MODEL = "quickstart_clicks"
COARSE = ["--points-per-side", "5", "--pred-iou-thresh", "0.5", "--stability-score-thresh", "0.5"]


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each device compiles its own programs."""
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: jax.devices()[:1])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "clip_nano"
    config = named.model("clip_nano")
    model_folder.write(folder, config, nano.params(config), source="a test")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two scenes; each object is of a category of its own, two of which have one name."""
    images, objects = [], []
    for i in range(2):
        pixels, labels = scene_painter.draw(i, 64, split="heldout")
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 64, "width": 64})
        for label in range(1, 1 + int(labels.max())):
            about = {"image_id": i, "category_id": len(objects), "id": len(objects) + 1}
            objects.append({**about, "segmentation": regions.to_rle(labels == label)})
    categories = [{"id": i, "name": f"thing_{max(i, 1)}"} for i in range(len(objects))]
    content = {"images": images, "annotations": objects, "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return tmp_path / "truth.json"


def command(data: Path, clip: Path | str, *options: str, model: str = MODEL) -> list[str]:
    given = ["--model", model, "--clip", str(clip), "--data", str(data)]
    return ["evaluate", "text", *given, *COARSE, *options]


def test_the_command_is_the_function(data, clip, tmp_path, capsys):
    out = tmp_path / "out"
    given = ["--crop-style", "cut_out", "--enlarge", "1.2", "--background", "white"]
    given += ["--template", "a photo of a {}.", "--template", "{}", "--min-area", "20"]
    assert cli.main([*command(data, clip, *given), "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert json.loads((out / "result.json").read_text()) == result
    wanted = text_to_mask.evaluate(
        esam.load(MODEL),
        esam.load_clip(clip),
        ground_truth.read(data),
        TextSettings(
            crop_style="cut_out",
            enlarge=1.2,
            background="white",
            templates=("a photo of a {}.", "{}"),
            min_area=20,
            points_per_side=5,
            pred_iou_thresh=0.5,
            stability_score_thresh=0.5,
        ),
    )
    for name in (*text_scores.NUMBERS, "per_category", "protocol", "data", "clip_hash", "masks"):
        assert result[name] == wanted[name], name
    assert (result["model"], result["clip"]) == (MODEL, str(clip))
    assert {path.name for path in out.iterdir()} == {
        *("evaluate.json", "pictures", "result.json", "masks.json", "pairs.csv"),
        *("best.png", "worst.png"),
    }
    assert cli.main([*command(data, clip, *given), "--out", str(out)]) == 0
    shown, said = capsys.readouterr()
    assert "2 pictures done before" in shown and said == ""
    assert "no published numbers: qualitative only" in shown
    assert f"{result['miou']:.4f}" in shown and f"{result['by_category']['oracle']:.4f}" in shown
    assert shown.count("thing 1 (1)") == 2  # two categories of one name
    for key in ("protocol", "data", "model_hash", "clip_hash"):
        assert result[key] in shown
    assert cli.main([*command(data, clip), "--out", str(out)]) == 2
    assert "made with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--template", "a photo"], "--template is 'a photo', but must have one {}"),
        (["--template", ""], "--template is ''"),
        (["--enlarge", "1.2"], "--enlarge is 1.2, but the crop style white_frame"),
        (["--min-area", "-1"], "--min-area is -1"),
        (["--images", "0"], "--images is 0, but at least 1 is needed"),
        (["--out", "truth.json"], "is what is read"),
        (["--points-per-side", "0"], "--points-per-side"),
        (["--model", "absent.pt"], "absent.pt"),
        (["--out", "other.json"], "ends in '.json' like a file"),
    ],
)
def test_what_cannot_be_measured(data, clip, options, message, capsys, monkeypatch):
    monkeypatch.chdir(data.parent)
    assert cli.main(command(data, clip, *options)) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1


def test_models_of_another_kind(data, clip, capsys):
    assert cli.main(command(data, MODEL)) == 2
    assert "which answers no texts" in capsys.readouterr().err
    assert cli.main(command(data, clip, model=str(clip))) == 2
    assert "load it with esam_jax.load_clip" in capsys.readouterr().err


def test_data_without_an_object_is_refused_before_weights_are_read(data, capsys):
    content = json.loads(data.read_text())
    data.write_text(json.dumps({**content, "annotations": []}))
    assert cli.main(command(data, "absent")) == 2
    assert "has an object" in capsys.readouterr().err
    content["categories"][0]["name"] = ""
    data.write_text(json.dumps(content))
    assert cli.main(command(data, "absent")) == 2
    assert "category 0: its name is '', which has no words" in capsys.readouterr().err
