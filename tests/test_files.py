"""Transient read errors are retried and told from permanent ones; writes are atomic."""

import errno
import os
import shutil
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

import esam_jax
from esam_jax import configs, files, outputs
from esam_jax.config import SegmentConfig, TeacherConfig
from esam_jax.data import decode
from esam_jax.errors import ConfigError, DataError, DiskError, MissingError
from esam_jax.train import loop


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
    with pytest.raises(DiskError, match=r"x\.jpg cannot be read \(Input.*: .*start") as caught:
        files.read("x.jpg", attempt, "check it")
    assert caught.value.exit_code == 75 and len(calls) == 3


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG])
def test_what_a_person_must_mend_is_told_at_once(code: int):
    attempt, calls = failing(9, code)
    with pytest.raises(MissingError, match=r"x\.jpg cannot be read \(.*\): check it") as caught:
        files.read("x.jpg", attempt, "check it")
    assert caught.value.exit_code == 2 and len(calls) == 1


def read_json(file: Path):
    return files.read_json(file, max_bytes=99, error=DataError)


@pytest.mark.parametrize("read", [decode.read_rgb, read_json])
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


# --------------------------------------------------------------------------------------- writing


def test_a_file_is_replaced_atomically_and_only_when_the_block_ends_well(tmp_path: Path):
    target = tmp_path / "a.txt"
    files.write(target, "first")
    with files.replacing(target) as file:
        file.write(b"second")
        assert target.read_text() == "first"
    with pytest.raises(KeyboardInterrupt), files.replacing(target) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert target.read_text() == "second" and os.listdir(tmp_path) == ["a.txt"]


def test_a_written_file_has_the_mode_of_any_new_file(tmp_path: Path):
    (tmp_path / "plain").write_text("")
    files.write(tmp_path / "a", b"\xff")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "a").read_bytes() == b"\xff"


def test_the_longest_names_can_be_written(tmp_path: Path):
    name = "ü" * 127
    files.write(tmp_path / name, "x")
    assert os.listdir(tmp_path) == [name]


def test_what_cannot_be_written_is_reported_with_the_remedy_if_there_is_one(tmp_path: Path):
    target = tmp_path / "none" / "a"
    with pytest.raises(MissingError, match=r"none/a cannot be written \(.*\); name another"):
        files.write(target, "x", remedy="name another")
    with pytest.raises(FileNotFoundError) as caught:
        files.write(target, "x")
    assert not isinstance(caught.value, MissingError)


def test_only_a_durable_file_waits_for_the_disk(tmp_path: Path, monkeypatch):
    waited = []
    monkeypatch.setattr(os, "fsync", waited.append)
    files.write(tmp_path / "a", "x")
    assert not waited
    with files.replacing(tmp_path / "a", durable=True) as file:
        file.write(b"y")
    assert len(waited) == 1


def test_a_folder_is_replaced_complete_or_not_at_all(tmp_path: Path, monkeypatch):
    target = tmp_path / "model"
    for number in range(2):
        with files.replacing_folder(target, remedy="name another") as fresh:
            (fresh / f"{number}.txt").write_text("x")
    assert os.listdir(tmp_path) == ["model"] and os.listdir(target) == ["1.txt"]

    with (
        pytest.raises(
            MissingError, match=r"model cannot be written \(.*No space.*\); name another"
        ),
        files.replacing_folder(target, remedy="name another") as fresh,
    ):
        (fresh / "2.txt").write_text("x")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert os.listdir(tmp_path) == ["model"] and os.listdir(target) == ["1.txt"]


@pytest.mark.parametrize("fault", [OSError(errno.EIO, os.strerror(errno.EIO)), KeyboardInterrupt()])
def test_the_old_folder_returns_when_the_new_one_cannot_take_its_place(
    tmp_path, monkeypatch, fault
):
    """Where the two cannot be exchanged in one step."""
    target, rename = tmp_path / "model", Path.rename
    target.mkdir()
    (target / "old.txt").write_text("x")

    def fails_for_the_new_one(self: Path, to: Path) -> Path:
        if to == target and (self / "new.txt").exists():
            raise fault
        return rename(self, to)

    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", fails_for_the_new_one)
    with (
        pytest.raises((MissingError, KeyboardInterrupt)),
        files.replacing_folder(target, remedy="start again") as fresh,
    ):
        (fresh / "new.txt").write_text("x")
    assert os.listdir(tmp_path) == ["model"] and os.listdir(target) == ["old.txt"]


def test_a_folder_is_replaced_where_two_cannot_be_exchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    for number in range(2):
        with files.replacing_folder(tmp_path / "model", remedy="name another") as fresh:
            (fresh / f"{number}.txt").write_text("x")
    assert os.listdir(tmp_path) == ["model"] and os.listdir(tmp_path / "model") == ["1.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="takes renameat2")
def test_there_is_a_complete_folder_at_every_instant(tmp_path, monkeypatch):
    """A process that is killed at any rename or removal leaves the old folder or the new one."""
    target = tmp_path / "model"
    target.mkdir()
    (target / "old.txt").write_text("x")
    seen = []

    def look(call):
        def looked(*arguments, **options):
            seen.append(os.listdir(target))
            return call(*arguments, **options)

        return looked

    monkeypatch.setattr(Path, "rename", look(Path.rename))
    monkeypatch.setattr(files.shutil, "rmtree", look(shutil.rmtree))
    with files.replacing_folder(target, remedy="name another") as fresh:
        (fresh / "new.txt").write_text("x")
        seen.append(os.listdir(target))
    assert seen[0] == ["old.txt"] and seen[-1] == ["new.txt"]
    assert all(each in (["old.txt"], ["new.txt"]) for each in seen)
    assert os.listdir(tmp_path) == ["model"]


# ------------------------------------------------------------------------------------------ JSON


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "holds a list, but must hold an object"),
        ("{", "is not valid JSON"),
        ("[" * 99, "is not valid JSON"),
        ('{"a": NaN}', "is not valid JSON.*NaN is not a number"),
        ('{"a": "%s"}' % ("x" * 99), "has 108 bytes, but at most 99 are read"),
    ],
)
def test_json_from_outside_is_an_object_of_bounded_size(tmp_path: Path, text: str, message: str):
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_json(file)


def test_json_written_by_python_may_hold_nan_where_that_is_allowed(tmp_path: Path):
    file = tmp_path / "a.json"
    file.write_text('{"a": Infinity}')
    found = files.read_json(file, max_bytes=99, error=DataError, finite=False)
    assert found == {"a": float("inf")}


def save_embedding(path):
    esam_jax.Embedding(jnp.zeros((1, 2, 2, 4)), ((8, 8),), True).save(path)


ADDRESSES = (
    "gs://bucket/run",
    "s3://bucket/run",
    "https://host/a.pt",
    "hdfs://a",
    "az://b",
    "GS://B",
)


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "use",
    [
        files.require_local,
        lambda address: files.require_local(Path(address)),  # which has one slash
        esam_jax.load,
        esam_jax.Embedding.load,
        save_embedding,
        lambda address: SegmentConfig(init_from=address),
        lambda address: SegmentConfig(decoder_from=address),
        lambda address: TeacherConfig(weights=address),
        lambda address: outputs.require_folder(Path(address)),
        lambda address: outputs.require_file(Path(address), overwrite=True),
        lambda address: outputs.require_new_folder(
            Path(address), overwrite=True, is_own=lambda _: True
        ),
    ],
)
def test_a_bucket_is_refused_with_what_to_do(address, use):
    with pytest.raises(ConfigError, match=r"mount the bucket \(gcsfuse for gs://, mount-s3 for"):
        use(address)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_run_on_a_bucket_has_its_own_remedy(address):
    with pytest.raises(ConfigError, match="a local disk or a shared file system") as refused:
        loop.run(configs.load("quickstart_sami"), address)
    assert f"workdir is {address!r}" in str(refused.value)
    assert "mount the bucket" not in str(refused.value)


@pytest.mark.parametrize("name", ["run", "a/b", "/a/gs:/b", "C:/run", "a:b", "RUN@3", "1:/2", ""])
def test_a_local_name_is_no_bucket(name):
    files.require_local(name)
    assert not files.is_address(Path(name))


def test_the_cache_folder_is_no_bucket(monkeypatch):
    monkeypatch.setenv("ESAM_CACHE", "gs://bucket/cache")
    with pytest.raises(ConfigError, match="ESAM_CACHE is 'gs://bucket/cache', but files and"):
        files.user_cache()


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EACCES, "allow this user to open it"),
        (errno.EPERM, "allow this user to change it"),
        (errno.EROFS, "where this user may write"),
        (errno.ENAMETOOLONG, "a shorter path"),
        (errno.ELOOP, "remove the link"),
        (errno.ENOTDIR, "a part of the path is a file"),
        (errno.EISDIR, "name a file, not a folder"),
    ],
)
@pytest.mark.parametrize("path", ["a/b", b"a/b", Path("a/b")])
def test_what_only_the_user_can_mend_names_the_path_and_the_remedy(code, remedy, path):
    refused = files.refusal(OSError(code, os.strerror(code), path))
    assert isinstance(refused, MissingError)
    assert str(refused).startswith(f"a/b cannot be used ({os.strerror(code)}): ")
    assert remedy in str(refused)


@pytest.mark.parametrize(
    "fault",
    [
        PermissionError(errno.EACCES, "Permission denied"),  # of a socket, say
        PermissionError(errno.EACCES, "Permission denied", 3),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a"),
        OSError(errno.EIO, "Input/output error", "a"),
        OSError(errno.ENOSPC, "No space left on device", "a"),
        MissingError(errno.EACCES, "Permission denied", "a"),
        RuntimeError("another"),
        ValueError("another"),
    ],
)
def test_other_errors_stay_as_they_are(fault):
    assert files.refusal(fault) is None
    with pytest.raises(type(fault)) as caught, files.refusing():
        raise fault
    assert caught.value is fault


def test_a_loop_that_resolve_reports_is_for_the_user_to_mend(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with (
        pytest.raises(MissingError, match=r"loop cannot be used .*remove the link"),
        files.refusing(),
    ):
        (tmp_path / "loop").resolve(strict=True)


@pytest.mark.parametrize("use", [esam_jax.load, esam_jax.Embedding.load, save_embedding])
@pytest.mark.parametrize("name", ["n" * 300, "loop/x", "file/x"])
@pytest.mark.parametrize("ending", ["", ".pt", ".safetensors", "/x", "@3"])
def test_python_gets_the_error_of_this_package(use, name, ending, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(MissingError, match=name[:4]):
        use(name + ending)


@pytest.mark.parametrize("use", [esam_jax.load, esam_jax.Embedding.load])
@pytest.mark.parametrize("name", ["m.pt", "m.safetensors", "m.zip"])
def test_a_weight_file_without_permission_is_not_called_damaged(use, name, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(b"PK")

    def locked(self, *_args, **_options):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", locked)
    with pytest.raises(MissingError, match=r"cannot be used.*allow this user to open it"):
        use(tmp_path / name)


def test_a_file_that_a_library_opens_itself_is_replaced_whole(tmp_path):
    path = tmp_path / "shard"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.replacing_by_path(path) as fresh:
        fresh.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with files.replacing_by_path(path) as fresh:
        assert fresh.parent == tmp_path and fresh.name.startswith(".")
        fresh.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]
    with (
        pytest.raises(MissingError, match=r"shard cannot be written .*; free some space"),
        files.replacing_by_path(path, remedy="free some space"),
    ):
        pass  # nothing was written
    assert path.read_text() == "new"
