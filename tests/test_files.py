"""A disk that does not answer at once is asked again, and told from a file that is not there."""

import errno
import os
from pathlib import Path

import pytest

from esam_jax import files
from esam_jax.data import decode
from esam_jax.data.sources import annotations
from esam_jax.errors import DataError, DiskError, MissingError


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "_PAUSES", (0.0, 0.0))


def failing(times: int, code: int):
    """An attempt that fails so often first, and how often it was called."""
    calls = []

    def attempt() -> str:
        calls.append(code)
        if len(calls) <= times:
            raise OSError(code, os.strerror(code))
        return "content"

    return attempt, calls


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_what_passes_is_waited_for(code: int):
    attempt, calls = failing(2, code)
    assert files.read("x.jpg", attempt, "check it") == "content" and len(calls) == 3


def test_what_does_not_pass_in_time_is_for_another_start():
    attempt, calls = failing(9, errno.EIO)
    with pytest.raises(DiskError, match=r"x\.jpg cannot be read \(Input.*: start") as caught:
        files.read("x.jpg", attempt, "check it")
    assert caught.value.exit_code == 75 and len(calls) == 3


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG])
def test_what_a_person_must_mend_is_told_at_once(code: int):
    attempt, calls = failing(9, code)
    with pytest.raises(MissingError, match=r"x\.jpg cannot be read \(.*\): check it") as caught:
        files.read("x.jpg", attempt, "check it")
    assert caught.value.exit_code == 2 and len(calls) == 1


@pytest.mark.parametrize("read", [decode.read_rgb, lambda file: annotations.read_json(file, 9)])
def test_readers_go_through_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read):
    """What they say of the content is their own, and said at once."""
    file, opened = tmp_path / "file", []
    file.write_bytes(b"no picture, no json")
    with pytest.raises(DataError, match=str(file)):
        read(file)

    def refuse(*args, **kwargs):
        opened.append(args)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(DiskError):
        read(file)
    assert len(opened) == 3
