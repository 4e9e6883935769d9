"""Releases from a server of the test's own, and a hub that cannot be reached."""

import fnmatch
import functools
import hashlib
import http.server
import threading

import pytest

from esam_jax.convert import load, releases
from esam_jax.errors import CheckpointError, MissingError

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a folder with w.pt; the cache is elsewhere."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "w.pt").write_bytes(CONTENT)
    monkeypatch.setenv("ESAM_CACHE", str(tmp_path / "cache"))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    # One request at a time: its socket is closed when the next one, or the end, comes.
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_release_is_downloaded_once_and_checked(server, tmp_path):
    release = releases.Release(f"{server}/w.pt", SHA256, "Apache-2.0")
    path = releases.fetch(release)
    assert path == tmp_path / "cache" / "w.pt" and path.read_bytes() == CONTENT
    (tmp_path / "served" / "w.pt").unlink()
    assert releases.fetch(release) == path
    assert sorted(p.name for p in path.parent.iterdir()) == ["w.pt", "w.pt.sha256"]


def test_another_file_than_was_released_is_refused_every_time(server):
    release = releases.Release(f"{server}/w.pt", "0" * 64, "Apache-2.0")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=f"SHA-256 is {SHA256}, not 0000.*delete it"):
            releases.fetch(release)


def test_the_beginning_of_a_checksum_is_compared(server):
    releases.fetch(releases.Release(f"{server}/w.pt", SHA256[:8], "Apache-2.0"))
    with pytest.raises(CheckpointError, match=f"SHA-256 is {SHA256}, not 12345678"):
        releases.fetch(releases.Release(f"{server}/w.pt", "12345678", "Apache-2.0"))


def test_a_file_that_changes_is_checked_again(server):
    release = releases.Release(f"{server}/w.pt", SHA256, "Apache-2.0")
    releases.fetch(release).write_bytes(CONTENT[:-1])
    with pytest.raises(CheckpointError, match="is not the file released"):
        releases.fetch(release)


def test_without_a_network_the_place_for_the_file_is_told(server, tmp_path):
    release = releases.Release(f"{server}/absent.pt", None, "Apache-2.0")
    with pytest.raises(MissingError) as caught:
        releases.fetch(release)
    text = str(caught.value)
    assert release.address in text and str(tmp_path / "cache" / "absent.pt") in text
    assert not [p for p in (tmp_path / "cache").iterdir() if p.name.endswith(".part")]


def test_a_preset_that_somebody_put_there_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("ESAM_CACHE", str(tmp_path))
    file = tmp_path / "efficient_sam_vitt.pt"
    file.write_bytes(b"put there by hand")
    found = load.locate("efficientsam_ti")
    assert (found.path, found.licence) == (file, "Apache-2.0")
    assert found.address == releases.RELEASES["efficientsam_ti"].address


def test_a_hub_id_is_no_path_of_a_folder_that_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert releases.is_hub_id("facebook/sam-vit-base")
    (tmp_path / "runs").mkdir()
    assert not releases.is_hub_id("runs/misspelt")
    assert not any(releases.is_hub_id(x) for x in ("name", "a/b/c", "../x", "/a/b", "a b/c"))


def test_a_hub_that_cannot_be_reached_says_what_to_do(monkeypatch, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)

    def unreachable(*args, **options):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(
        MissingError, match=r"no route\); download .*huggingface\.co/some/model into .*some--model"
    ):
        load.model_file("some/model")


@pytest.mark.parametrize("modern", [True, False])
def test_the_pytorch_file_of_a_hub_repository_is_fetched_where_it_has_no_other(
    monkeypatch, tmp_path, modern
):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("ESAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    there = ["config.json", "pytorch_model.bin", *(["model.safetensors"] if modern else [])]

    def snapshot(name, *, local_dir, allow_patterns):
        local_dir.mkdir(parents=True, exist_ok=True)
        for file in there:
            if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns):
                (local_dir / file).write_text("")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    found = releases.fetch_repository("some/model")
    weights = "model.safetensors" if modern else "pytorch_model.bin"
    assert sorted(path.name for path in found.iterdir()) == ["config.json", weights]
