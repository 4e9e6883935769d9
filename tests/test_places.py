"""Paths of a config: local ones, and those of object stores; their content and their faults."""

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
from etils import epath
from helpers import fake_store
from helpers.fake_store import FakeStore, address
from hypothesis import given
from hypothesis import strategies as st

from esam_jax import files, places
from esam_jax.config import (
    CocoConfig,
    FramedConfig,
    ImageFolderConfig,
    ImageTarsConfig,
    TeacherConfig,
)
from esam_jax.errors import ConfigError, DiskError, MissingError

store = fake_store.store


def write(store: Path, name: str, content: bytes = b"x") -> Path:
    path = store / "bucket" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# ------------------------------------------------------------------------------------------- names


def test_a_local_path_is_a_plain_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert type(places.place("a/b")) is type(Path()) and places.place("a/b") == Path("a/b")
    assert places.place("~/x") == Path("/home/me/x")
    assert places.place(Path("/a:b/c")) == Path("/a:b/c")


def test_a_store_path_keeps_its_address():
    path = places.place("gs://bucket/a/b.tar")
    assert isinstance(path, epath.Path) and str(path) == os.fspath(path) == "gs://bucket/a/b.tar"
    assert places.place(Path("gs://bucket/a/b.tar")) == path  # which has one slash
    assert places.place("GS://bucket/a/b.tar/") == path and hash(places.place(path)) == hash(path)
    assert str(path.parent / "x") == "gs://bucket/a/x" and str(path.parent.parent) == "gs://bucket"
    assert str(path.with_suffix(".index")) == "gs://bucket/a/b.index"
    assert str(path.relative_to(path.parent.parent)) == "a/b.tar"
    assert str(path.parent / PurePosixPath("c/d")) == "gs://bucket/a/c/d"
    copied = pickle.loads(pickle.dumps(path))
    assert copied == path and str(copied) == str(path)
    assert path.resolve() is path.expanduser() is path
    assert repr(path) == "StorePath('gs://bucket/a/b.tar')"
    assert path < places.place("gs://bucket/a/c")


@pytest.mark.parametrize("name", ["https://h/x.tar", "file:///x", "nothing://b", "ftp://h/x"])
def test_other_addresses_are_refused(name: str):
    with pytest.raises(ConfigError, match="data is read from this machine or an object store"):
        places.place(name)
    with pytest.raises(ConfigError, match=r"source\.path|path is .*object store"):
        ImageFolderConfig(path=name)


def test_configs_take_addresses_for_data_alone():
    address = "gs://bucket/x"
    made = ImageTarsConfig(path=address, ids=address, labels=address, index=address)
    assert made.index == CocoConfig(path="s3://b/c").path.replace("s3://b/c", address)
    with pytest.raises(ConfigError, match="files and folders must be on this machine"):
        TeacherConfig(weights=address)
    with pytest.raises(ConfigError, match="files of ArrayRecord are read from a disk"):
        FramedConfig(features=address)


@pytest.mark.parametrize(("scheme", "extra"), [("gs", "gcs"), ("s3", "s3")])
def test_a_missing_client_is_named(scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, {"gs": "gcsfs", "s3": "s3fs"}[scheme], None)
    with pytest.raises(ConfigError, match=rf"{scheme}:// needs a client.*'esam_jax\[{extra}\]'"):
        places.place(f"{scheme}://bucket/x").is_dir()


_OF_TENSORFLOW = """
import sys
from esam_jax import places
import fsspec
path = places.place("memory://bucket/x")
path.write_bytes(b"abc")
assert path.open("rb").read() == b"abc" and path.is_file() and path.parent.is_dir()
assert [x.name for x in path.parent.iterdir()] == ["x"]
try:
    places.place("gs://bucket/x").is_dir()
except Exception as error:
    assert "tensorflow" not in str(error).lower(), error
assert "tensorflow" not in sys.modules
"""


def test_tensorflow_is_not_imported_where_it_is_installed(tmp_path: Path):
    """As epath would, for gs:// and s3://."""
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('tensorflow was imported')")
    (tmp_path / "gcsfs.py").write_text("raise ImportError('gcsfs is not installed')")
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", _OF_TENSORFLOW], env=environment, check=True)


# -------------------------------------------------------------------------------------- what it has


def test_what_is_there(store: Path):
    write(store, "a/x.txt", b"12345")
    write(store, "a/b/y.txt")
    root = places.place("fake://bucket")
    assert root.is_dir() and not root.is_file() and root.exists()
    assert (root / "a/x.txt").is_file() and not (root / "a/x.txt").is_dir()
    assert not (root / "a/z").exists() and not (root / "a/z").is_file()
    assert (root / "a").listed() == (["b"], ["x.txt"])
    assert [str(x) for x in (root / "a").iterdir()] == [
        "fake://bucket/a/b",
        "fake://bucket/a/x.txt",
    ]
    assert (root / "a/x.txt").listed() == ([], [])  # a store lists a file as itself
    first = (root / "a/x.txt").stat()
    assert first.st_size == 5 and (root / "a/x.txt").stat() == first
    write(store, "a/x.txt", b"54321")
    os.utime(store / "bucket/a/x.txt", ns=(1, 1))
    assert (root / "a/x.txt").stat().st_mtime_ns != first.st_mtime_ns
    missing = r"fake://bucket/q cannot be read \(no such object, folder or bucket\): check the path"
    for use in (places.StorePath.stat, places.StorePath.listed, lambda path: path.fetch(0, 1)):
        with pytest.raises(MissingError, match=missing):
            use(root / "q")


def test_walk_is_that_of_a_folder(store: Path):
    for name in ("x", "a/x", "a/y", "b/c/d/e", "b/.h/z", "b/c/f"):
        write(store, name)
    root = store / "bucket"

    def walked(place: places.Place) -> set[tuple[str, tuple[str, ...], tuple[str, ...]]]:
        found = set()
        for folder, subfolders, names in places.walk(place, pytest.fail):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            below = folder.relative_to(place).as_posix()
            found.add((below, tuple(sorted(subfolders)), tuple(sorted(names))))
        return found

    there = places.place("fake://bucket")
    assert walked(there) == walked(root)
    assert ("ls", "bucket/b/.h") not in FakeStore.calls
    names = sorted(x.relative_to(root).as_posix() for x in root.rglob("[ef]"))
    assert sorted(x.relative_to(there).as_posix() for x in there.rglob("[ef]")) == names
    assert list(places.place("fake://bucket/none").rglob("*")) == []


@pytest.mark.parametrize("pattern", ["*.json", "a/*.json", "*/z.json", "x.json", "q/*", "*"])
def test_glob_is_that_of_a_folder(pattern: str, store: Path):
    for name in ("x.json", "y.json", "a/z.json", "b/z.json", "b/x.json", "c/d/z.json"):
        write(store, name)
    root, there = store / "bucket", places.place("fake://bucket")
    wanted = sorted(x.relative_to(root).as_posix() for x in root.glob(pattern) if x.is_file())
    assert sorted(x.relative_to(there).as_posix() for x in there.glob(pattern)) == wanted


# ------------------------------------------------------------------------------------------ content

_steps = st.one_of(
    st.tuples(st.just("read"), st.integers(-1, 40_000)),
    st.tuples(st.just("seek"), st.integers(0, 50_000)),
    st.tuples(st.just("end"), st.integers(-30_000, 0)),
    st.tuples(st.just("on"), st.integers(0, 9_000)),
)


@given(
    size=st.sampled_from([0, 1, 8191, 8192, 8193, 40_000]),
    ahead=st.integers(1, 20_000),
    steps=st.lists(_steps, max_size=9),
)
def test_a_file_reads_as_one_in_memory(size: int, ahead: int, steps: list[tuple[str, int]]):
    content = bytes(i * 7 % 251 for i in range(size))
    path = places.place("memory://bucket/file")
    path.write_bytes(content)
    wanted, found = io.BytesIO(content), path.open("rb", ahead=ahead)
    whence = {"seek": os.SEEK_SET, "end": os.SEEK_END, "on": os.SEEK_CUR}
    for what, number in steps:
        if what == "read":
            assert found.read(number) == wanted.read(number)
        elif what != "end" or -number <= size:
            assert found.seek(number, whence[what]) == wanted.seek(number, whence[what])
        assert found.tell() == wanted.tell()


@pytest.mark.parametrize("size", [0, 8191, 8192, 8193])
def test_the_end_of_an_object_is_no_error(size: int, store: Path):
    """A store refuses a range that begins there."""
    write(store, "x", bytes(size))
    path = places.place("fake://bucket/x")
    assert len(path.open("rb").read(10_000)) == size
    assert path.fetch(size, 5) == b"" and path.fetch(size + 9, 5) == b""
    assert path.open("rb").readall() == bytes(size)


def test_reads_in_order_grow_and_a_seek_begins_again(store: Path):
    write(store, "x", bytes(2**20))
    with places.place("fake://bucket/x").open("rb") as file:
        while file.read(100):
            pass
        assert fake_store.counts()["cat"] < 12 and FakeStore.bytes == 0
        for place in range(0, 2**20, 2**16):
            file.seek(place)
            file.read(512)
        assert FakeStore.bytes == 16 * 2**13 and fake_store.counts() == {"cat": 16}
    with pytest.raises(ValueError, match="an object is only read, as bytes"):
        places.place("fake://bucket/x").open("wb")


def test_an_object_is_written_as_one(store: Path, tmp_path: Path):
    places.write(places.place("fake://bucket/a/x"), b"one", remedy="r")
    places.write(tmp_path / "x", b"two", remedy="r")
    assert (store / "bucket/a/x").read_bytes() == b"one" and (tmp_path / "x").read_bytes() == b"two"

    def denied(what: str, path: str) -> None:
        raise PermissionError("no storage.objects.create access")

    FakeStore.fault = denied
    with pytest.raises(MissingError, match=r"cannot be written \(access denied: no storage"):
        places.write(places.place("fake://bucket/a/x"), b"three", remedy="r")


# ------------------------------------------------------------------------------------------- faults


class HttpError(Exception):
    """As gcsfs has it."""

    def __init__(self, code: int | str) -> None:
        super().__init__(f"Bad answer, {code}")
        self.code = code


class ClientConnectionError(Exception):
    """As aiohttp has it."""


class ServerDisconnectedError(ClientConnectionError):
    """Likewise."""


class NoCredentialsError(Exception):
    """As botocore has it."""


class RefreshError(Exception):
    """As google.auth has it."""

    def __init__(self, retryable: bool) -> None:
        super().__init__("the token was refused")
        self.retryable = retryable


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: PermissionError("Access Denied"), MissingError, "log in .gcloud auth appl"),
        (lambda: OSError("Forbidden: https://x"), MissingError, "access denied: Forbidden.*log in"),
        (lambda: HttpError(401), MissingError, "access denied.*aws sso login"),
        (lambda: HttpError("403"), MissingError, "access denied"),
        (lambda: NoCredentialsError("Unable to locate"), MissingError, "log in"),
        (lambda: RefreshError(False), MissingError, "log in"),
        (lambda: RefreshError(True), DiskError, "a transient I/O error; start again"),
        (lambda: HttpError(503), DiskError, "a transient I/O error"),
        (lambda: HttpError(500), DiskError, "a transient I/O error"),
        (lambda: HttpError(429), DiskError, "a transient I/O error"),
        (lambda: HttpError(408), DiskError, "a transient I/O error"),
        (lambda: TimeoutError(), DiskError, r"\(TimeoutError\): a transient I/O error"),
        (lambda: ConnectionResetError("gone"), DiskError, "gone.*a transient I/O error"),
        (lambda: ServerDisconnectedError("gone"), DiskError, "a transient I/O error"),
        (lambda: OSError(16, "Please reduce your request rate"), DiskError, "reduce your request"),
        (lambda: OSError(5, "Input/output error"), DiskError, "a transient I/O error"),
        (lambda: HttpError(400), MissingError, r"\(Bad answer, 400\): check the path"),
        (lambda: ValueError("Bad Request"), MissingError, r"\(Bad Request\): check the path"),
    ],
)
@pytest.mark.parametrize("use", [places.StorePath.is_dir, lambda path: path.fetch(0, 9)])
def test_faults_of_stores(
    make: Callable[[], Exception],
    kind: type,
    words: str,
    use: Callable[[places.StorePath], object],
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(files, "_PAUSES", (0, 0))
    write(store, "x")
    path = places.place("fake://bucket/x")

    def fault(what: str, key: str) -> None:
        raise make()

    FakeStore.fault = fault
    with pytest.raises(kind, match=f"fake://bucket/x cannot be read .*{words}"):
        use(path)
    tries = len(FakeStore.calls)
    assert tries >= 3 if kind is DiskError else tries <= 2


def test_a_fault_that_passes_is_survived(store: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "_PAUSES", (0, 0))
    write(store, "x", b"abc")
    faults = iter([HttpError(503), TimeoutError()])

    def fault(what: str, key: str) -> None:
        if (error := next(faults, None)) is not None:
            raise error

    FakeStore.fault = fault
    assert places.place("fake://bucket/x").fetch(0, 9) == b"abc"


def test_a_client_that_tried_for_long_is_not_called_again(
    store: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(places, "_PATIENCE_SECONDS", -1)

    def fault(what: str, key: str) -> None:
        raise TimeoutError("no answer")

    FakeStore.fault = fault
    with pytest.raises(DiskError, match="no answer"):
        places.place("fake://bucket/x").fetch(0, 9)
    assert len(FakeStore.calls) == 1


def test_one_file_system_serves_all_threads(store: Path):
    from concurrent.futures import ThreadPoolExecutor

    for number in range(20):
        write(store, f"{number}", bytes([number]))
    root = places.place("fake://bucket")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: (root / str(n)).fetch(0, 1)[0], range(20)))
    assert found == list(range(20)) and len(places._stores) == 1
    assert address(store / "bucket") == str(root)
