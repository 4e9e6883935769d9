"""The `esam` command itself: help, exit codes, one line on stderr."""

import errno
import glob
import io
import os
import signal
import subprocess
import sys
import warnings

import pytest
from PIL import Image

import esam_jax
from esam_jax import cli
from esam_jax.cli import arguments, train
from esam_jax.errors import ConfigError, MissingError


def line(capsys: pytest.CaptureFixture) -> str:
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("esam: ") and err.count("\n") == 1, (out, err)
    return err


def test_help_and_version(capsys):
    assert cli.main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert all(name in out for name in cli.COMMANDS) and err == ""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{esam_jax.__version__}\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name: str, capsys):
    assert cli.main([name, "--help"]) == 0
    assert f"usage: esam {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no command is given"),
        (["segmnt"], "did you mean segment?"),
        (["frobnicate"], "choose one of"),
        (["segment"], "missing: IMAGE, --model STR, --out PATH"),
        (["segment", "a.png", "--modle", "m"], "has no option --modle: did you mean --model?"),
        (["segment", "a.png", "b.png", "--model", "m", "--out", "o"], "b.png"),
        (["evaluate", "prompts", "--model", "m", "--data", "d", "--images", "many"], "'many'"),
        (["evaluate", "prompts", "--model", "m", "--data", "d", "--images", "0"], "at least 1"),
        (["evaluate", "everything", "--model", "m", "--data", "d"], "'everything'"),
    ],
)
def test_wrong_usage_is_two_and_one_line(argv: list[str], message: str, capsys):
    assert cli.main(argv) == 2
    assert message in line(capsys)


def test_a_defect_is_one_and_debug_shows_it(monkeypatch, capsys):
    def broken(argv):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(train, "main", broken)
    assert cli.main(["train"]) == 1
    text = line(capsys)
    assert "defect of esam_jax (ZeroDivisionError: division by zero)" in text and "--debug" in text
    with pytest.raises(ZeroDivisionError):
        cli.main(["train", "--debug"])


def test_debug_keeps_the_traceback_of_a_mistake():
    with pytest.raises(ConfigError, match="did you mean segment"):
        cli.main(["--debug", "segmnt"])


@pytest.mark.parametrize(("leave", "code"), [(SystemExit(143), 143), (KeyboardInterrupt(), 130)])
def test_being_told_to_end_keeps_its_code(leave: BaseException, code: int, monkeypatch, capsys):
    def told(argv):
        raise leave

    monkeypatch.setattr(train, "main", told)
    assert cli.main(["train"]) == code


def test_a_warning_is_a_line_too(monkeypatch, capsys):
    def warns(argv):
        warnings.simplefilter("always")
        warnings.warn("two\nlines", UserWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(train, "main", warns)
    assert cli.main(["train"]) == 0
    assert capsys.readouterr().err == "esam: warning: two lines\n"


def test_help_does_not_wait_for_jax():
    code = (
        "import sys; from esam_jax import cli; cli.main(['--help']); "
        "sys.exit(' '.join({'jax', 'tyro', 'numpy'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_require_writable_makes_nothing(tmp_path):
    arguments.require_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["link", "nowhere/x"])
@pytest.mark.parametrize("name", ["link", "link/run"])
def test_require_writable_refuses_a_broken_link(target, name, tmp_path):
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(MissingError, match="link is a broken link; remove it"):
        arguments.require_writable(tmp_path / name)


@pytest.mark.parametrize("name", cli.COMMANDS)
@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://b/x", "https://host/m.pt"])
def test_no_command_takes_a_bucket_for_a_folder(name, address, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for argv in ([address], ["--data", address], [f"--out={address}"]):
        assert cli.main([name, *argv]) == 2
        text = line(capsys)
        assert repr(address) in text and "mount the bucket (gcsfuse" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_reader_that_leaves_is_no_defect(name, monkeypatch, capsys):
    """As `esam inspect MODEL | head -1` does it."""
    there, here = os.pipe()
    os.close(there)
    with monkeypatch.context() as patch, os.fdopen(here, "w") as pipe:
        patch.setattr(sys, "stdout", pipe)
        assert cli.main([name, "--help"]) == 128 + signal.SIGPIPE
    assert capsys.readouterr() == ("", "")


def test_a_pipe_that_breaks_elsewhere_is_a_defect(monkeypatch, capfd):
    def broken(argv):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(train, "main", broken)
    assert cli.main(["train"]) == 1
    assert "defect" in capfd.readouterr().err


def test_complaints_that_nobody_reads_change_no_exit_code(monkeypatch):
    there, here = os.pipe()
    os.close(there)
    pipe = os.fdopen(here, "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", pipe)
    assert cli.main(["segmnt"]) == 2
    monkeypatch.undo()
    with pytest.raises(BrokenPipeError):
        pipe.close()


_MODEL = ["--model", "quickstart_teacher"]
_POINT = [*_MODEL, "--point", "3,3"]
_TRAIN = ["train", "quickstart_sami", "--workdir"]


@pytest.fixture(params=["too long", "link to itself", "no permission"])
def unusable(request, tmp_path, monkeypatch):
    """A name of which no file can be opened, in the current folder, beside p.png and pictures/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for name in ("p.png", "pictures/q.png"):
        Image.new("RGB", (64, 64)).save(name)
    if request.param == "too long":
        return "n" * 300
    if request.param == "link to itself":
        os.symlink("loop", "loop")
        return "loop/x"

    def locked(look):  # the permission cannot be lacked by root, who may run this
        def patched(path, *args, **options):
            if not isinstance(path, int) and "locked" in os.fsdecode(path):
                raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
            return look(path, *args, **options)

        return patched

    for module, name in ((os, "stat"), (os, "lstat"), (os, "open"), (io, "open")):
        monkeypatch.setattr(module, name, locked(getattr(module, name)))
    return "locked/x"


@pytest.mark.parametrize(
    "argv",
    [
        ["inspect", "X"],
        ["convert", "X", "m.pt"],
        ["convert", "quickstart_teacher", "X"],
        ["convert", "quickstart_teacher", "X.pt"],
        ["segment", "X", *_POINT, "--out", "o"],
        ["segment", "p.png", *_POINT, "--out", "X"],
        ["segment", "p.png", *_MODEL, "--mask", "X.png", "--out", "o"],
        ["segment", "p.png", "--model", "X", "--point", "3,3", "--out", "o"],
        ["segment", "pictures", *_MODEL, "--prompts", "X.csv", "--out", "o"],
        ["everything", "X", *_MODEL, "--out", "o"],
        ["everything", "p.png", *_MODEL, "--out", "X"],
        ["report", "X"],
        ["evaluate", "prompts", *_MODEL, "--data", "X"],
        ["bench", "predict", "X"],
        ["bench", "predict", "quickstart_teacher", "--json", "X.json"],
        [*_TRAIN, "X"],
        [*_TRAIN, "X", "--preflight"],
        ["train", "X.py", "--workdir", "run"],
        ["train", "sami_ti", "--workdir", "run", "--data.source.path", "X"],
        ["train", "quickstart_segment", "--workdir", "run", "--task.init-from", "X"],
        ["quickstart", "--workdir", "X"],
    ],
    ids=" ".join,
)
def test_a_path_that_cannot_be_used_is_for_the_user_to_mend(unusable, argv, capsys):
    there = sorted(glob.glob("**", recursive=True))
    assert cli.main([word.replace("X", unusable) for word in argv]) == 2
    text = line(capsys)
    assert unusable.split("/")[0] in text and "defect" not in text
    assert sorted(glob.glob("**", recursive=True)) == there


def test_a_permission_that_concerns_no_file_is_a_defect(monkeypatch, capsys):
    def broken(argv):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(train, "main", broken)
    assert cli.main(["train"]) == 1
    assert "defect of esam_jax (PermissionError" in line(capsys)


@pytest.mark.parametrize("command", ["train", "quickstart"])
@pytest.mark.parametrize("words", [["--workdir", "gs://b/r"], ["--workdir=gs://b/r"]])
def test_a_run_on_a_bucket_is_not_advised_to_mount_it(command, words, capsys):
    assert cli.main([command, *words]) == 2
    text = line(capsys)
    assert "--workdir is 'gs://b/r'" in text and "a local disk or a shared file system" in text
    assert "mount the bucket" not in text


_ALL_COMMANDS = """
import os, sys
import numpy as np
from PIL import Image
from esam_jax import cli

os.chdir(sys.argv[1])
Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save("p.png")
model = "quickstart_teacher"
for argv in (
    ["train", "quickstart_sami", "--workdir", "run"],
    ["segment", "p.png", "--model", model, "--point", "10,10", "--out", "masks"],
    ["everything", "p.png", "--model", model, "--out", "album"],
    ["evaluate", "prompts", "--model", model, "--data", "scenes"],
    ["bench", "predict", model],
    ["convert", model, "model.pt", "--verify"],
    ["quickstart", "--workdir", "quick"],
):
    print(argv[0], cli.main(argv))
"""


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_machine_without_the_named_device_is_for_the_user_to_fix(platform, tmp_path):
    if platform == "cuda" and glob.glob("/dev/nvidia*"):
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [sys.executable, "-c", _ALL_COMMANDS, str(tmp_path)],
        env=os.environ | {"JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
    )
    codes = dict(each.split() for each in done.stdout.splitlines())
    assert len(codes) == 7 and set(codes.values()) == {"2"}, (codes, done.stderr)
    complaints = done.stderr.splitlines()
    assert len(complaints) == 7, done.stderr
    for each in complaints:
        assert each.startswith(f"esam: JAX_PLATFORMS is {platform!r}, but JAX finds no such device")
        assert "set it to cpu" in each and "(AssertionError)" not in each
