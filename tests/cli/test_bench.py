"""`esam bench`: what it prints and writes, and what it refuses; no assertion is about time."""

import json
from pathlib import Path

import jax
import pytest
from helpers import nano
from PIL import Image

from esam_jax import cli
from esam_jax.bench import everything
from esam_jax.evaluate import parity_sam
from esam_jax.plan import prediction, topologies

ROW_KEYS = {
    "part", "dtype", "pictures", "prompts", "median_seconds", "p90_seconds", "compile_seconds",
    "first_seconds", "seconds", "per_second", "flops", "floor_seconds", "floor_share", "against",
    "ratio",
}  # fmt: skip


@pytest.fixture
def toy(tmp_path: Path) -> str:
    path = tmp_path / "toy.py"
    path.write_text("def make(sam):\n    return lambda pictures, points, labels: points.sum()\n")
    return f"{path}:make"


def test_predict_writes_all_that_it_measures(tmp_path: Path, toy: str, capsys):
    file = tmp_path / "new" / "bench.json"
    argv = ["bench", "predict", "random:efficientsam_nano", "--runs", "2", "--prompts", "1", "3"]
    argv += ["--parts", "decoder", "end-to-end", "--batch", "2", "--dtype", "float32", "bfloat16"]
    assert cli.main([*argv, "--against", toy, "--json", str(file)]) == 0
    report, printed = json.loads(file.read_text()), capsys.readouterr().out
    assert {
        "command", "model", "against", "runs", "warm_up", "device", "platform", "devices",
        "data_sheet", "cores", "load", "load_after", "torch_threads", "versions", "rows",
    } == set(report)  # fmt: skip
    assert {"python", "esam_jax", "jax", "jaxlib", "numpy"} <= set(report["versions"])
    assert (report["platform"], report["data_sheet"], report["runs"]) == ("cpu", None, 2)
    rows = report["rows"]
    assert all(set(row) == ROW_KEYS and len(row["seconds"]) == 2 for row in rows)
    assert [row["part"] for row in rows] == ["decoder", "decoder", "end-to-end"] * 2
    assert [row["dtype"] for row in rows] == ["float32"] * 3 + ["bfloat16"] * 3
    for row in rows:
        assert (row["against"] is not None) == (row["part"] == "end-to-end")
        if row["against"]:
            wanted = row["median_seconds"] / row["against"]["median_seconds"]
            assert row["ratio"] == pytest.approx(wanted)
    for word in ("median", "p90", "compile", "ratio", "prompts/s", "images/s", "end-to-end"):
        assert word in printed


def test_predict_of_a_model_that_is_shipped(capsys):
    argv = ["bench", "predict", "quickstart_teacher", "--parts", "encoder", "--runs", "1"]
    assert cli.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("quickstart_teacher on cpu") and len(lines) == 4


def test_predict_against_transformers(capsys):
    if not parity_sam.has_transformers():
        pytest.skip("needs torch and transformers")
    argv = ["bench", "predict", "random:sam_nano", "--against", "torch", "--runs", "1"]
    assert cli.main([*argv, "--parts", "encoder", "decoder", "--prompts", "2"]) == 0
    printed = capsys.readouterr().out
    assert "torch " in printed and "transformers " in printed


@pytest.mark.parametrize("preset", ["segment_anything", "efficientsam"])
def test_everything_of_several_pictures(preset, tmp_path: Path, capsys):
    for name, seed in (("a.png", 0), ("b.png", 1)):
        Image.fromarray(nano.picture(40, 56, seed)).save(tmp_path / name)
    file = tmp_path / "bench.json"
    argv = ["bench", "everything", "random:efficientsam_nano"]
    argv += [str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--all", "--points-per-side", "4"]
    assert cli.main([*argv, "--preset", preset, "--json", str(file)]) == 0
    report, printed = json.loads(file.read_text()), capsys.readouterr().out
    assert report["peak_bytes"]["host"] > 0 and report["runs"] == 1
    assert report["preset"] == preset
    assert [Path(each["picture"]).name for each in report["pictures"]] == ["a.png", "b.png"]
    for each in report["pictures"]:
        assert (each["height"], each["width"], each["clicks"]) == (40, 56, 16)
        # EfficientSAM's preset drops islands of less than 100 pixels, as are all of this network.
        assert (each["masks"] > 0) == (preset == "segment_anything")
        assert len(each["seconds"]) == 1
        assert set(each["parts_seconds"]) == set(everything.PARTS)
    for word in ("a.png 56x40", "b.png", "peak memory: host", *everything.PARTS):
        assert word in printed


@pytest.fixture
def own_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler of this machine in the place of NVIDIA's: other kernels, the same pages."""
    monkeypatch.setattr(topologies, "_cuda", lambda topology: jax.devices("cpu")[:1])


@pytest.mark.slow
def test_predict_on_paper(
    own_compiler: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    compiled, compile_one = [], prediction.kernels

    def kernels(*given):
        found = compile_one(*given)
        compiled.append(sum(each.runs for each in found))
        return found

    monkeypatch.setattr(prediction, "kernels", kernels)
    file = tmp_path / "paper.json"
    argv = ["bench", "predict", "random:efficientsam_nano", "--on-paper", "h200", "--kernels"]
    argv += ["--dtype", "float32", "--batch", "1", "2", "--prompts", "1", "--json", str(file)]
    assert cli.main(argv) == 0
    report, printed = json.loads(file.read_text()), capsys.readouterr().out
    assert (report["command"], report["on_paper"]) == ("esam bench predict", "h200")
    rows = {(row["part"], row["pictures"]): row for row in report["rows"]}
    assert list(rows) == [
        ("encoder", 1), ("encoder", 2), ("decoder", 1), ("device", 1), ("device", 2)
    ]  # fmt: skip
    for (_, pictures), row in rows.items():
        groups = row["paper"]["groups"]
        assert row["paper"]["seconds"] == pytest.approx(sum(each["seconds"] for each in groups))
        assert row["per_second"] == pytest.approx(pictures / row["paper"]["seconds"])
        assert f"{1e3 * row['paper']['seconds']:.5g} ms" in printed
        assert groups[0]["where"] in printed  # what takes longest
    # Encoder, decoder, and masks of full size picture by picture.
    one, two, prompt, *first, encoder, decoder, masks = compiled
    wanted = [one, two, prompt, sum(first), encoder + decoder + 2 * masks]
    assert [row["paper"]["runs"] for row in rows.values()] == wanted
    assert len(first) == 3 and min(compiled) > 0
    for part in ("encoder", "device"):
        assert rows[part, 2]["floor_seconds"] == pytest.approx(2 * rows[part, 1]["floor_seconds"])


@pytest.mark.slow
def test_everything_on_paper(
    own_compiler: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "paper.json"
    argv = ["bench", "everything", "random:efficientsam_nano", "--on-paper", "a100", "--kernels"]
    assert cli.main([*argv, "--points-per-side", "4", "--json", str(file)]) == 0
    report, printed = json.loads(file.read_text()), capsys.readouterr().out
    assert (report["on_paper"], report["clicks"]) == ("a100", 16)
    rows = {row["part"]: row["paper"] for row in report["rows"]}
    assert list(rows) == ["encoder", "decoder", "measures", "suppression", "turns"]
    together = 1e3 * sum(each["seconds"] for each in rows.values())
    assert printed.splitlines()[-1] == f"together {together:.4g} ms"
    assert all(each["groups"][0]["where"] in printed for each in rows.values())
    # Lengths that are data are assumed, and named in the programs.
    assert not any(each["loops_unknown"] for each in rows.values())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no measurement is named"),
        (["train"], "cannot measure 'train'"),
        (["predict"], "missing: MODEL"),
        (["predict", "random:efficientsam_nan"], "did you mean 'efficientsam_nano'?"),
        (["predict", "no/such/model"], "no model at"),
        (["predict", "random:sam_nano", "--runs", "0"], "--runs is 0"),
        (["predict", "random:sam_nano", "--batch", "1", "-1"], "--batch is -1"),
        (["predict", "random:sam_nano", "--prompts", "0"], "--prompts is 0"),
        (["predict", "random:sam_nano", "--dtype", "float16"], "float16"),
        (["predict", "random:sam_nano", "--parts", "middle"], "middle"),
        (["predict", "random:sam_nano", "--against", "nothing"], "--against is 'nothing'"),
        (
            ["predict", "random:sam_nano", "--against", "no_such:f"],
            "No module named 'no_such'; install it",
        ),
        (["predict", "random:efficientsam_nano", "--against", "torch"], "name a SAM model"),
        (["predict", "random:sam_nano", "--json", __file__ + "/a.json"], "cannot be made"),
        (["everything", "random:sam_nano"], "no picture is named"),
        (["everything", "random:sam_nano", "none.png"], "none.png"),
        (["everything", "random:sam_nano", "a.png", "--on-paper", "h200"], "reads no picture"),
        (["everything", "random:sam_nano", "--on-paper", "h999"], "card is 'h999'"),
        (["everything", "random:sam_nano", __file__], "test_bench.py"),
        (["predict", "random:sam_nano", "--on-paper", "h999"], "card is 'h999'"),
        (["predict", "random:sam_nano", "--on-paper"], "write --on-paper STR"),
        (["predict", "random:sam_nano", "--kernels"], "add --on-paper h200"),
        (["everything", "random:sam_nano", __file__, "--kernels"], "add --on-paper h200"),
    ],
)
def test_what_cannot_be_measured_is_two_and_one_line(argv: list[str], message: str, capsys):
    assert cli.main(["bench", *argv]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and out == ""


def test_data_prints_stages_and_the_loader_and_writes_both(tmp_path: Path, capsys):
    file = tmp_path / "new" / "data.json"
    argv = ["bench", "data", "quickstart_segment", "--examples", "3", "--workers", "0"]
    argv += ["--seconds", "0.01", "--loader-batch", "4", "--rate", "1e6", "--json", str(file)]
    assert cli.main([*argv, "--data.source.scenes", "20"]) == 0
    printed, report = capsys.readouterr().out, json.loads(file.read_text())
    for word in ("read", "decode", "masks", "view", "to device", "examples/s take", "loader, no w"):
        assert word in printed
    assert report["records"] == 20 and report["examples"] == 3 and len(report["rates"]) == 1
    stages = {name: stage["cpu"] for name, stage in report["stages"].items()}
    assert report["cpu_seconds"] == pytest.approx(sum(stages.values()))
    assert f"{1e6 * report['cpu_seconds']:.1f} cores" in printed
    assert cli.main([*argv]) == 2  # the file is there
    assert cli.main(["bench", "data", "quickstart_segment", "--workers", "-1"]) == 2
