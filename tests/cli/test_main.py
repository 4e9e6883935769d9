"""The `esam` command itself: help, exit codes, one line on stderr."""

import subprocess
import sys
import warnings

import pytest

import esam_jax
from esam_jax import cli
from esam_jax.cli import arguments, train
from esam_jax.errors import ConfigError


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
        (["segment"], "missing: PATH, --model STR, --out PATH"),
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
