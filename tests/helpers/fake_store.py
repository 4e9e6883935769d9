"""An object store that is a local folder, counts what it is asked for, and fails on demand."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.spec import AbstractFileSystem

from esam_jax import places

SCHEME = "fake"
WORKERS_SCHEME = "dir"  # of fsspec itself, so that other processes know it


class FakeStore(AbstractFileSystem):
    """Objects alone, as in `gs://`: a folder is there as long as something is in it."""

    protocol = SCHEME
    root: ClassVar[Path]
    calls: ClassVar[list[tuple[str, str]]]  # what was asked, of which key
    bytes: ClassVar[int]  # that were sent
    fault: ClassVar[Callable[[str, str], None]]  # raises what a call is to raise

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return self._about(self._asked("info", path), path)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[dict[str, Any]]:
        folder = self._asked("ls", path)
        if not folder.exists():
            raise FileNotFoundError(path)
        names = sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []
        # Consoles make an object for a new folder, which is listed in it.
        placeholder = {"name": f"{path}/", "size": 0, "type": "file"}
        return [placeholder, *(self._about(folder / x, f"{path}/{x}") for x in names)]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any):
        file = self._asked("cat", path)
        if not file.is_file():
            raise FileNotFoundError(path)
        if (start or 0) >= file.stat().st_size:
            raise OSError("416: Requested range not satisfiable")
        content = file.read_bytes()[start:end]
        FakeStore.bytes += len(content)
        return content

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        file = self._asked("pipe", path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(value)

    def _asked(self, what: str, path: str) -> Path:
        FakeStore.calls.append((what, path))
        FakeStore.fault(what, path)
        return self.root / path

    def _about(self, file: Path, path: str) -> dict[str, Any]:
        if file.is_dir():
            return {"name": path, "size": 0, "type": "directory"}
        if not file.is_file():
            raise FileNotFoundError(path)
        stat = file.stat()
        version = f'"{stat.st_size}-{stat.st_mtime_ns}"'
        return {"name": path, "size": stat.st_size, "type": "file", "etag": version}


def counts() -> dict[str, int]:
    """How often each kind of call was made, since the last time."""
    found = Counter(what for what, _ in FakeStore.calls)
    FakeStore.calls.clear()
    FakeStore.bytes = 0
    return dict(found)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder whose "bucket" is fake://bucket, and dir://bucket in other processes, too."""
    fsspec.register_implementation(SCHEME, FakeStore, clobber=True)
    FakeStore.root, FakeStore.calls, FakeStore.bytes = tmp_path / "store", [], 0
    FakeStore.fault = lambda what, path: None
    known = {"path": str(FakeStore.root), "target_protocol": "file"}
    monkeypatch.setitem(fsspec.config.conf, WORKERS_SCHEME, known)
    monkeypatch.setenv("FSSPEC_DIR_PATH", known["path"])  # for the processes that are started
    monkeypatch.setenv("FSSPEC_DIR_TARGET_PROTOCOL", known["target_protocol"])
    monkeypatch.setattr(places, "_stores", {})
    (FakeStore.root / "bucket").mkdir(parents=True)
    yield FakeStore.root
    shutil.rmtree(FakeStore.root)


def address(path: Path, scheme: str = SCHEME) -> str:
    """Of a file or folder in the store's folder."""
    return f"{scheme}://{path.relative_to(FakeStore.root).as_posix()}"
