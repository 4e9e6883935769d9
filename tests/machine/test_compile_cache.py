"""The compilation cache is code: nobody but its owner may write it."""

import os
import subprocess
import sys

import jax
import pytest

from esam_jax.cli import main
from esam_jax.errors import ConfigError
from esam_jax.machine import compile_cache


@pytest.fixture
def settings(monkeypatch):
    """What is handed to JAX, without handing it over."""
    found = {}
    monkeypatch.setattr(jax.config, "update", found.__setitem__)
    return found


def test_default_is_made_private(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("ESAM_CACHE", str(tmp_path / "cache"))
    old = os.umask(0o002)
    try:
        folder = compile_cache.enable({})
    finally:
        os.umask(old)
    assert folder == tmp_path / "cache" / "compiled"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert settings["jax_compilation_cache_dir"] == str(folder)


def test_who_names_the_folder(settings, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert compile_cache.enable({"ESAM_COMPILE_CACHE": str(ours)}) == ours
    both = {"ESAM_COMPILE_CACHE": str(ours), "JAX_COMPILATION_CACHE_DIR": str(theirs)}
    assert compile_cache.enable(both) == theirs
    settings.clear()
    off = {"ESAM_COMPILE_CACHE": "off", "JAX_COMPILATION_CACHE_DIR": str(theirs)}
    assert compile_cache.enable(off) is None
    assert settings == {"jax_compilation_cache_dir": None}  # JAX has read its own variable


@pytest.mark.parametrize("variable", ["ESAM_COMPILE_CACHE", "JAX_COMPILATION_CACHE_DIR"])
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o1777])
def test_f40_cache_that_others_may_write_is_refused(settings, tmp_path, mode, variable):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:04o}, and .* runs code as you: delete it"):
        compile_cache.enable({variable: str(folder)})
    assert settings == {}
    folder.chmod(0o750)  # reading is no danger
    assert compile_cache.enable({variable: str(folder)}) == folder


def test_f40_link_to_such_a_folder_is_refused(settings, tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    with pytest.raises(ConfigError, match="mode 0777"):
        compile_cache.enable({"ESAM_COMPILE_CACHE": str(tmp_path / "link")})


def test_f40_somebody_elses_cache_is_refused(settings, tmp_path, monkeypatch):
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(ConfigError, match=f"belongs to user {uid}, who would run code as you"):
        compile_cache.enable({"ESAM_COMPILE_CACHE": str(tmp_path)})


def test_f40_cache_that_others_may_replace_is_refused(settings, tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ConfigError, match="everybody could replace it"):
        compile_cache.enable({"ESAM_COMPILE_CACHE": str(tmp_path / "open" / "cache")})
    (tmp_path / "open").chmod(0o1777)  # as /tmp is
    assert compile_cache.enable({"ESAM_COMPILE_CACHE": str(tmp_path / "open" / "cache")})


def test_f40_commands_end_with_2(tmp_path, monkeypatch, capsys):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    monkeypatch.setenv("ESAM_COMPILE_CACHE", str(tmp_path / "cache"))
    for arguments in (["quickstart"], ["train", "quickstart_sami"]):
        assert main([*arguments, "--workdir", str(tmp_path / "run")]) == 2
        assert "whoever can write it runs code as you" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    monkeypatch.delenv("ESAM_COMPILE_CACHE")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    assert main(["bench", "predict", "random:efficientsam_nano"]) == 2  # keeps none by itself
    assert "whoever can write it runs code as you" in capsys.readouterr().err


def test_f40_off_is_a_remedy_for_jaxs_own_folder(settings, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    named = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    with pytest.raises(ConfigError, match="set ESAM_COMPILE_CACHE to off"):
        compile_cache.check(named)
    assert settings == {}
    compile_cache.check({**named, "ESAM_COMPILE_CACHE": "off"})
    assert settings == {"jax_compilation_cache_dir": None}


def test_folder_that_cannot_be_made(settings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be made \(.*set ESAM_COMPILE_CACHE"):
        compile_cache.enable({"ESAM_COMPILE_CACHE": str(tmp_path / "file" / "cache")})


PROGRAM = """
import sys
from esam_jax.machine import compile_cache
compile_cache.enable()
import jax, jax.numpy as jnp
from esam_jax.machine import compilation
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
x = jnp.arange(3.0)

def of(function):
    before = compilation.counts()
    jax.jit(function)(x)
    return compilation.counts().since(before)

found = [of(lambda x: jnp.sin(x) * 2)]
with compile_cache.unused():
    found.append(of(lambda x: jnp.cos(x) * 3))
print(*found, of(lambda x: jnp.tan(x) * 4))
"""


@pytest.mark.slow
def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    """But for what was compiled for a machine that is not there."""

    def run(folder):
        environment = os.environ | {"ESAM_COMPILE_CACHE": str(folder)}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    found = [run(tmp_path / "cache"), run(tmp_path / "cache"), run("off")]
    assert found == ["miss off miss", "hit off hit", "off off off"]
