"""No command empties, replaces or extends what the user owns: each kind of output of each command.

A refusal is exit code 2 with one line, and every file is as it was.
"""

import hashlib
import re
import shutil
from pathlib import Path

import pytest
from helpers import nano
from PIL import Image

from esam_jax import cli, configs
from esam_jax.convert import model_folder
from esam_jax.models import named
from esam_jax.predict.everything import album
from esam_jax.runs import config_file

CONFIG = named.sam("efficientsam_nano")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a thesis, a model, pictures, and a run with a checkpoint."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    model_folder.write("models/ti", CONFIG, nano.params(CONFIG), source="a test")
    for name in ("thesis/notes.txt", "thesis/data/a.csv", "run/checkpoints/5/c", "run/notes"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    config_file.store(configs.load("quickstart_scratch"), Path("run"))
    Path("run/metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    Path("pics").mkdir()
    for i, name in enumerate(("overlay", "mask_00", "sa_1")):
        Image.fromarray(nano.picture(20, 30, i)).save(f"pics/{name}.png")
    return home


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def refused(capsys, *argv: str) -> str:
    """The one line of a refusal, which changed nothing."""
    before = digests(Path.cwd())
    code = cli.main([*argv])
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert digests(Path.cwd()) == before
    return err


def done(capsys, *argv: str) -> None:
    code = cli.main([*argv])
    assert code == 0, capsys.readouterr().err
    capsys.readouterr()


# -------------------------------------------------------------------------------------- convert


@pytest.mark.parametrize("more", [(), ("--overwrite",), ("--layout", "folder", "--overwrite")])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("thesis", "not empty and holds other files"),
        ("models", "not empty and holds other files|holds models/ti"),
        ("run", "not empty and holds other files"),
        (".", "current folder or one above"),
        ("..", "current folder or one above"),
        ("/", "current folder or one above"),
        ("pics/..", "current folder or one above"),
        ("thesis/notes.txt", "is a file|which is not written"),
    ],
)
def test_convert_replaces_no_folder_of_the_user(home, capsys, target, message, more):
    assert re.search(message, refused(capsys, "convert", "models/ti", target, *more))


@pytest.mark.parametrize("name", ["x.onnx", "x.gguf", "x.zip", "x.npz", "x.v2"])
def test_convert_makes_no_folder_for_an_ending_it_does_not_write(home, capsys, name):
    said = refused(capsys, "convert", "models/ti", name)
    assert "which is not written: end it in .pt, .pth, .bin, .ckpt, .safetensors" in said
    done(capsys, "convert", "models/ti", name, "--layout", "folder")
    assert model_folder.read(name).config == CONFIG


def test_convert_replaces_what_it_wrote_when_that_is_wanted(home, capsys):
    for target in ("new", "new.safetensors", "new.PT"):
        if target.endswith("PT"):
            pytest.importorskip("torch")
        done(capsys, "convert", "models/ti", target)
        assert "already" in refused(capsys, "convert", "models/ti", target)
        done(capsys, "convert", "models/ti", target, "--overwrite")
    Path("new/.DS_Store").write_text("mine")
    assert "other files" in refused(capsys, "convert", "models/ti", "new", "--overwrite")
    assert not list(home.rglob("*.new"))


def test_convert_replaces_a_folder_of_transformers_when_it_holds_nothing_else(home, capsys):
    hf = ("--layout", "transformers")
    done(capsys, "convert", "quickstart_teacher", "hf", *hf)
    assert "already" in refused(capsys, "convert", "quickstart_teacher", "hf", *hf)
    done(capsys, "convert", "quickstart_teacher", "hf", *hf, "--overwrite")
    assert sorted(p.name for p in Path("hf").iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json"
    ]  # fmt: skip
    Path("hf/tokenizer.json").write_text("{}")
    assert "other files" in refused(
        capsys, "convert", "quickstart_teacher", "hf", *hf, "--overwrite"
    )


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("models/ti", "models/ti"),
        ("models/ti", "models/ti/model.safetensors"),
        ("models/ti", "models/ti/deeper"),
        ("models/ti/model.safetensors", "models/ti"),
        ("models/ti", "link"),
        ("link", "models/ti"),
        ("run@5", "run/checkpoints"),
        ("run@5", "run/checkpoints/5"),
        ("run@5", "run/checkpoints/new"),
        ("run", "run/checkpoints/5"),
    ],
)
def test_an_input_of_convert_is_never_its_output(home, capsys, source, target):
    Path("link").symlink_to("models/ti")
    said = refused(capsys, "convert", source, target, "--overwrite")
    assert "an input is never replaced" in said


def test_convert_run_at_step_keeps_the_run(home, capsys):
    """It deleted the run: whatever is said first, the run is as it was."""
    refused(capsys, "convert", "run@5", "run")
    refused(capsys, "convert", "run@5", "run", "--overwrite")


def test_a_weight_file_is_not_converted_onto_itself(home, capsys):
    done(capsys, "convert", "models/ti", "a.safetensors")
    Path("soft.safetensors").symlink_to("a.safetensors")
    Path("hard.safetensors").hardlink_to("a.safetensors")
    for target in ("a.safetensors", "soft.safetensors", "hard.safetensors"):
        said = refused(capsys, "convert", "a.safetensors", target, "--overwrite")
        assert "is what is read" in said


# -------------------------------------------------------------------------------------- segment


def segment(picture: str, out: str, *more: str) -> list[str]:
    argv = ["segment", picture, "--model", "models/ti", "--point", "3,4", "--out", out]
    return [*argv, *more]


def test_segment_writes_over_neither_its_picture_nor_another(home, capsys):
    said = refused(capsys, *segment("pics/overlay.png", "pics"))
    assert "pics/overlay.png' is what is read" in said
    said = refused(capsys, *segment("pics/sa_1.png", "pics"))
    assert "pics/overlay.png exists already: name another file, or add --overwrite" in said
    said = refused(capsys, *segment("pics/overlay.png", "pics", "--overwrite"))
    assert "is what is read" in said
    Path("there").mkdir()
    Path("there/mask_00.png").symlink_to("../pics/sa_1.png")
    said = refused(capsys, *segment("pics/sa_1.png", "there", "--overwrite"))
    assert "is what is read" in said


def test_segment_names_a_file_where_it_needs_a_folder(home, capsys):
    assert "like a file" in refused(capsys, *segment("pics/sa_1.png", "masks.png"))
    assert "is a file" in refused(capsys, *segment("pics/sa_1.png", "thesis/notes.txt"))


def test_segment_replaces_its_results_when_that_is_wanted(home, capsys):
    done(capsys, *segment("pics/sa_1.png", "thesis"))
    assert Path("thesis/notes.txt").read_text() == "thesis/notes.txt"
    assert "exists already" in refused(capsys, *segment("pics/sa_1.png", "thesis"))
    done(capsys, *segment("pics/sa_1.png", "thesis", "--overwrite"))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("pics", "is what is read"),
        ("pics/out", "lies in pics, which is read"),
        ("link", "is what is read"),
        ("thesis/notes.txt", "is a file"),
        ("p.csv", "is what is read"),
        ("out.json", "like a file"),
    ],
)
def test_segment_with_prompts_writes_among_no_input(home, capsys, out, message):
    Path("link").symlink_to("pics")
    Path("p.csv").write_text("file,x,y\nsa_1.png,3,4\n")
    argv = ["segment", "pics", "--prompts", "p.csv", "--model", "models/ti", "--out", out]
    assert message in refused(capsys, *argv)


def test_segment_with_prompts_takes_no_overwrite_and_no_folder_of_somebody_else(home, capsys):
    Path("p.csv").write_text("file,x,y\nsa_1.png,3,4\n")
    argv = ["segment", "pics", "--prompts", "p.csv", "--model", "models/ti", "--out"]
    assert "leave it out" in refused(capsys, *argv, "thesis", "--overwrite")
    Path("thesis/instances.json").write_text("mine")
    assert "was not written by this command" in refused(capsys, *argv, "thesis")


# ----------------------------------------------------------------------------------- everything


def everything(path: str, out: str) -> list[str]:
    return ["everything", path, "--model", "models/ti", "--out", out, "--points-per-side", "1"]


@pytest.mark.parametrize("name", ["sa_1.jpg", "sa_7.json", "instances.json", "overlays/a.png"])
def test_everything_takes_no_folder_of_somebody_else(home, capsys, name):
    """It would replace the picture, or take the json for its own and the picture for done."""
    Path("data", name).parent.mkdir(parents=True)
    Path("data", name).write_text("mine")
    said = refused(capsys, *everything("pics/sa_1.png", "data"))
    assert "was not written by this command" in said


@pytest.mark.parametrize("out", ["pics", "pics/out", "link"])
def test_everything_writes_not_among_its_pictures(home, capsys, out):
    Path("link").symlink_to("pics")
    assert "which is read" in refused(capsys, *everything("pics", out)).replace(
        "is what is read", "which is read"
    )


def test_everything_names_a_folder_and_resumes_in_its_own(home, capsys):
    assert "like a file" in refused(capsys, *everything("pics/sa_1.png", "out.json"))
    done(capsys, *everything("pics/sa_1.png", "thesis"))
    done(capsys, *everything("pics/sa_1.png", "thesis"))
    assert (Path("thesis") / album.SETTINGS_FILE).exists() and Path("thesis/notes.txt").exists()


# --------------------------------------------------------------------------- train and quickstart


def train(workdir: str) -> list[str]:
    return ["train", "quickstart_scratch", "--workdir", workdir]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", '{"compilerOptions": {}}'),
        ("config.json", "not json"),
        ("metrics.jsonl", "{}\n"),
        ("model/weights.bin", "mine"),
        ("checkpoints/last.ckpt", "mine"),
    ],
)
def test_train_takes_no_folder_of_another_program(home, capsys, name, content):
    Path("job", name).parent.mkdir(parents=True)
    Path("job", name).write_text(content)
    said = refused(capsys, *train("job"))
    assert "was not written by a run" in said and "--workdir" in said


def test_the_log_of_a_job_may_lie_in_its_folder(tmp_path):
    (tmp_path / "job.log").write_text("")
    (tmp_path / "checkpoints").mkdir()
    config_file.require_own(tmp_path)
    config_file.store(configs.load("quickstart_scratch"), tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    config_file.require_own(tmp_path)


@pytest.mark.parametrize("name", ["summary.json", "contact_sheet.png", "segment"])
def test_quickstart_takes_no_folder_of_somebody_else(home, capsys, name):
    Path("thesis", name).write_text("mine")
    assert "exists already" in refused(capsys, "quickstart", "--workdir", "thesis")


# -------------------------------------------------------------------------- report, bench, others


def test_report_replaces_its_page_but_no_other_file(home, capsys):
    for out, message in (
        ("run/metrics.jsonl", "must end in .html"),
        ("page.pdf", "must end in .html"),
        ("run", "must end in .html"),
    ):
        assert message in refused(capsys, "report", "run", "--out", out)
    done(capsys, "report", "run")
    done(capsys, "report", "run")  # of a run that continues
    Path("mine.html").write_text("mine")
    assert "exists already" in refused(capsys, "report", "run", "--out", "mine.html")
    done(capsys, "report", "run", "--out", "mine.html", "--overwrite")


@pytest.mark.parametrize("what", ["predict", "everything"])
def test_bench_replaces_no_file(home, capsys, what):
    Path("old.json").write_text("mine")
    pictures = ("pics/sa_1.png",) if what == "everything" else ()
    for file, message in (("old.json", "exists already"), ("x.csv", "must end in .json")):
        assert message in refused(capsys, "bench", what, "models/ti", *pictures, "--json", file)
    if what == "everything":
        shutil.copy("pics/sa_1.png", "picture.json")
        argv = ["bench", what, "models/ti", "picture.json", "--json", "picture.json"]
        assert "is what is read" in refused(capsys, *argv, "--overwrite")


def test_inspect_and_evaluate_write_nothing(home, capsys):
    before = digests(home)
    done(capsys, "inspect", "models/ti")
    done(capsys, "evaluate", "prompts", "--model", "models/ti", "--data", "scenes", "--images", "1")
    assert digests(home) == before
