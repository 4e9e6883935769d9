"""Albums: every picture of a file, a folder or an archive, and nothing that only looks like one."""

import concurrent.futures
import io
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from esam_jax.data import archives, decode
from esam_jax.errors import DataError, EsamError, MissingError


def png(seed: int = 0, height: int = 9) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, 7, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def pack(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_an_archive_is_what_it_was_made_of(tmp_path: Path, mode: str):
    members = [(entry(f"./{name}"), png(i)) for i, name in enumerate(("b/2.png", "a.PNG"))]
    path = pack(tmp_path / "album.tar", *members, (entry("notes.txt"), b"no picture"), mode=mode)
    with pytest.warns(UserWarning, match=r"album\.tar: not read: \.txt \(1\); pictures are"):
        album = archives.open_album(path)
    assert album.names == ("b/2.png", "a.PNG") and album.left_out == {".txt": 1}  # as they lie
    assert [album.read(name) for name in reversed(album.names)] == [png(1), png(0)]


def test_what_macos_adds_to_an_archive_is_hidden_as_in_a_folder(tmp_path: Path):
    names = ("a.png", "._a.png", ".cache/b.png", "__MACOSX/._a.png", "./c.png")
    members = [(entry(name), png(i)) for i, name in enumerate(names)]
    album = archives.open_album(pack(tmp_path / "album.tar", *members))
    assert album.names == ("a.png", "c.png") and album.left_out == {}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_may_be_read_by_many_threads(tmp_path: Path, mode: str):
    members = [(entry(f"{i:02}.png"), png(i, 200)) for i in range(12)]
    album = archives.open_album(pack(tmp_path / "album.tar", *members, mode=mode))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        read = list(pool.map(album.read, album.names * 8))
    assert read == [content for _, content in members] * 8


def test_f33_only_plain_members_are_read_and_the_others_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(7))
    path = pack(
        folder / "album.tar",
        (entry("twice.png"), png(1)),
        (entry("good.png"), png(2)),
        (entry("../outside.png"), png(3)),
        (entry(str(tmp_path / "absolute.png")), png(3)),
        (entry("symbolic.png", tarfile.SYMTYPE, "../secret.png"), b""),
        (entry("hard.png", tarfile.LNKTYPE, "../secret.png"), b""),
        (entry("device.png", tarfile.CHRTYPE), b""),
        (entry("pipe.png", tarfile.FIFOTYPE), b""),
        (entry("folder.png", tarfile.DIRTYPE), b""),
        (entry("\x1b[2Jgone.png"), png(3)),
        (entry("caf\udce9.png"), png(3)),
        (entry("twice.png"), png(4)),
        (entry("../evil.txt"), b"no picture"),
    )
    before = sorted(tmp_path.rglob("*"))
    with pytest.warns(UserWarning, match=r"album\.tar: not read: links \(2\), names that cannot"):
        album = archives.open_album(path)
    assert album.names == ("good.png", "twice.png")
    assert [album.read(name) for name in album.names] == [png(2), png(4)]
    assert album.left_out == {
        "links": 2,
        "special files": 2,
        "names that lead out of the archive": 2,
        "names that cannot be shown": 2,
        "older files of the same name": 1,
        ".txt": 1,
    }
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.filterwarnings("ignore:.*not read")
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_f33_a_damaged_archive_gives_all_its_pictures_or_an_error(tmp_path: Path, mode: str):
    whole = pack(tmp_path / "whole", *((entry(f"{i}.png"), png(i)) for i in range(3)), mode=mode)
    content, rng, path = whole.read_bytes(), random.Random(5), tmp_path / "album.tar"
    refused = 0
    for cut in range(60):
        broken = bytearray(content)
        if cut % 2:
            del broken[rng.randrange(len(broken)) :]
        else:
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        try:
            album = archives.open_album(path)
            for name in album.names:
                decode.decode_rgb(album.read(name))
        except EsamError:
            refused += 1
        else:
            assert len(album.names) == 3
    assert refused > 10


def patched(size: bytes) -> Callable[[bytes], bytes]:
    """Another size in the header of the first member, with the checksum that goes with it."""

    def change(archive: bytes) -> bytes:
        header = bytearray(archive[:512])
        header[124:136] = size
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return bytes(header) + archive[512:]

    return change


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (tarfile.REGTYPE, b"\xff" * 10 + b"\xfe\x00"),  # -512, which tarfile followed for ever
        (tarfile.GNUTYPE_LONGNAME, b"%011o\0" % 2**31),
        (tarfile.XHDTYPE, b"%011o\0" % 2**31),
    ],
    ids=["negative", "long name", "long header"],
)
def test_a_header_that_would_never_end_is_refused(tmp_path: Path, kind: bytes, size: bytes):
    path = pack(tmp_path / "album.tar", (entry("a.png", kind), b""), (entry("b.png"), png()))
    path.write_bytes(patched(size)(path.read_bytes()))
    with pytest.raises(DataError, match=r"album\.tar: the archive has a header of"):
        archives.open_album(path)


def test_the_end_must_be_there(tmp_path: Path):
    """A bad header in the middle ends Python's `tarfile` without a word."""
    members = [(entry(f"{i}.png"), png(i)) for i in range(3)]
    path = pack(tmp_path / "album.tar", *members)
    content = bytearray(path.read_bytes())
    second = 512 + -(-len(png(0)) // 512) * 512
    content[second + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="cut short"):
        archives.open_album(path)


def test_what_is_no_picture_is_told_before_it_is_read(tmp_path: Path):
    path = pack(tmp_path / "album.tar", (entry("a.png"), bytes(2**20)), (entry("b.png"), png()))
    album = archives.open_album(path)
    with pytest.raises(DataError, match="not a JPEG, PNG or WebP"):
        album.read("a.png")
    assert album.read("b.png") == png()


def test_what_is_no_file_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="not a regular file"):
        archives.open_album(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="not a regular file"):
        archives.open_album(tmp_path).read("pipe.png")
    with pytest.raises(MissingError, match="does not exist"):
        archives.open_album(tmp_path / "absent")
