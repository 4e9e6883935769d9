"""Rivals by name: which names are taken, what goes wrong, and that PyTorch's answer as ours."""

import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import nano

from esam_jax.bench import baselines, inputs, predict
from esam_jax.errors import ConfigError, EsamError
from esam_jax.evaluate import parity_sam

PLAIN = Path(__file__).parents[1] / "bench" / "plain_torch.py"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str) -> None:
        (tmp_path / "their_model.py").write_text(text)

    return write


@pytest.mark.parametrize("form", ["their_model:make", "their_model.py:make"])
def test_a_callable_is_the_whole_way(home, form: str):
    home("def make(sam):\n    return lambda *asked: (sam.config.image_px, *asked)\n")
    rival = baselines.load(form, nano.sam("sam_nano"))
    assert rival.masks is not None and rival.masks(1, 2, 3) == (64, 1, 2, 3)
    assert rival.encode is rival.decode is None and rival.put("same") == "same"


def test_parts_of_an_object(home):
    home(
        "class Parts:\n"
        "    def put(self, array): return ('put', array)\n"
        "    def encode(self, pictures): return 'embedding'\n"
        "    def decode(self, *asked): return asked\n"
        "def make(sam): return Parts()\n"
    )
    rival = baselines.load("their_model.py:make", nano.sam("sam_nano"))
    assert rival.masks is None and rival.put(1) == ("put", 1)
    assert rival.encode is not None and rival.encode(0) == "embedding"
    assert rival.decode is not None and rival.decode(1, 2, 3) == (1, 2, 3)


@pytest.mark.parametrize("name", ["", "nothing", ":make", "module:", "module:no name"])
def test_a_name_of_no_form(name: str):
    with pytest.raises(ConfigError, match="must be torch, MODULE:FUNCTION"):
        baselines.check(name)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "their_model.py:make", "has no function make"),
        ("1 / 0", "their_model.py:make", "cannot be imported: ZeroDivisionError"),
        ("", "no_such_module:make", "cannot be imported: ModuleNotFoundError"),
        ("", "no_such_file.py:make", "there is no file no_such_file.py"),
        ("def make(sam): return 1 / 0", "their_model.py:make", "failed: ZeroDivisionError"),
        (
            "def make(sam): return 5",
            "their_model.py:make",
            "returned a int, but must return a callable",
        ),
        (
            "class A:\n    def decode(self, *x): pass\ndef make(sam): return A()",
            "their_model.py:make",
            "has decode but no encode",
        ),
    ],
)
def test_what_is_wrong_is_said(home, text: str, name: str, message: str):
    home(text)
    with pytest.raises(EsamError, match=message):
        baselines.load(name, nano.sam("sam_nano"))


def test_its_own_errors_name_it(home):
    home("def make(sam):\n    def ask(*asked): raise ValueError('odd')\n    return ask\n")
    rival = baselines.load("their_model.py:make", nano.sam("sam_nano"))
    with pytest.raises(ConfigError, match=r"their_model.py:make failed: ValueError: odd"):
        list(predict.predict(nano.sam("sam_nano"), parts=("end-to-end",), runs=1, rival=rival))


def test_transformers_is_told_to_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EsamError, match="pip install torch"):
        baselines.load("torch", nano.sam("sam_nano"))


def test_transformers_has_no_efficientsam():
    with pytest.raises(ConfigError, match="SamModel, which this model is not"):
        baselines.load("torch", nano.sam("efficientsam_nano"))


@pytest.mark.parametrize(
    ("name", "model"),
    [("torch", "sam_nano"), (f"{PLAIN}:efficientsam", "efficientsam_nano")],
    ids=["transformers", "plain"],
)
def test_pytorch_answers_as_we_do(name: str, model: str):
    """So that the times are of the same work. Limits: float32 rounding."""
    if name == "torch" and not parity_sam.has_transformers():
        pytest.skip("needs torch and transformers")
    pytest.importorskip("torch", reason="compares with torch")
    sam = nano.sam(model)
    rival = baselines.load(name, sam)
    assert rival.encode is not None and rival.decode is not None and rival.masks is not None
    pictures, (points, labels) = inputs.pictures(2, sam.config), inputs.boxes(2, 3, sam.config)
    encoded = sam.encode(pictures)
    ours = np.asarray(encoded.features)
    embedding = rival.encode(rival.put(pictures))
    scale = np.abs(ours).max()
    np.testing.assert_allclose(
        embedding.numpy().transpose(0, 2, 3, 1), ours, rtol=0, atol=1e-4 * scale
    )
    answers = sam.decode(encoded, predict.prompts_of(points))
    low_res, iou = rival.decode(embedding, rival.put(points), rival.put(labels))
    for got, name in ((low_res, "low_res"), (iou, "scores")):
        wanted = np.stack([getattr(masks, name) for masks in answers])
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(got.numpy()[:, :, -3:], wanted, rtol=0, atol=1e-3 * scale)
    masks = np.stack([masks.binary() for masks in answers])
    assert np.mean(rival.masks(pictures, points, labels) == masks) > 0.999
