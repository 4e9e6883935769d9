"""Archives that are read by an index: the same files and bytes as `tarfile`, or an error."""

import bz2
import concurrent.futures
import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from helpers.tar_files import entry, packed, with_size
from hypothesis import example, given
from hypothesis import strategies as st

from esam_jax.data import tar_files, tar_index, tars
from esam_jax.data.tar_index import Index
from esam_jax.errors import DataError, EsamError, MissingError

A = b"a" * 700


def files_of(path: Path) -> dict[str, bytes]:
    """Name -> content, by the index."""
    index = tar_index.build(path)
    opened = tars.OpenFiles()
    return {
        index.name(i): opened.read(path, index.stamp, int(row["block"]) * 512, int(row["size"]))
        for i, row in enumerate(index.rows)
    }


# --------------------------------------------------------------------------------- as by tarfile

PARTS = ["a", "Z", "0", "7", "12", "900", "é", "日", " ", "_", "-", "/", ".", ".jpg", "long" * 30]
NAMES = st.lists(st.sampled_from(PARTS), min_size=1, max_size=8).map("".join)
FORMS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def is_plain(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") and part != ".." for part in path.parts)
    return bool(path.parts) and not (hidden or path.is_absolute() or ".." in path.parts)


@given(st.lists(st.tuples(NAMES, st.integers(0, 1500), st.sampled_from(FORMS)), max_size=12))
def test_names_places_and_bytes_are_those_of_tarfile(tmp_path_factory, members):
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    with tarfile.open(path, "w") as archive:
        for seed, (name, size, form) in enumerate(members):
            archive.format = form
            member = tarfile.TarInfo(name)
            member.size = size
            try:
                archive.addfile(member, io.BytesIO(random.Random(seed).randbytes(size)))
            except ValueError:  # a name too long for this form
                continue
    wanted, places = {}, {}
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and is_plain(member.name):
                name = str(PurePosixPath(member.name))
                wanted[name] = archive.extractfile(member).read()
                places[name] = member.offset_data
    index = tar_index.build(path)
    assert files_of(path) == wanted
    found = {index.name(i): int(row["block"]) * 512 for i, row in enumerate(index.rows)}
    assert found == places
    tar_index.write(index, path.with_suffix(".index"))
    same(tar_index.read(path.with_suffix(".index"), index.stamp), index)


@example("00")
@example("sa_000.jpg")
@given(st.text(st.sampled_from("0019a._/é"), max_size=24))
def test_a_name_is_what_it_was_split_into(name: str):
    head, number, tail = tar_index.split(name)
    assert tar_index.joined(head, number, tail) == name
    assert (number == tar_index.NO_NUMBER) == (not any(letter.isdigit() for letter in name))
    assert number < 10**9 or number == tar_index.NO_NUMBER


def test_a_long_name_is_split_at_once():
    assert tar_index.split("1" * 9 + "x" * 60_000) == ("", 111_111_111, "x" * 60_000)
    assert tar_index.split("x" * 60_000) == ("x" * 60_000, tar_index.NO_NUMBER, "")
    assert tar_index.split("sa_1234567890.jpg") == ("sa_1", 234_567_890, ".jpg")
    assert tar_index.split("sa_0001.jpg") == ("sa_000", 1, ".jpg")


def test_the_end_of_a_name_is_found_without_making_it(tmp_path: Path):
    names = ("sa_1.jpg", "a.b1/c", "v2.5", "x.mp4", "12", "dir1.d/y.JSON", "no", "q.tar.gz")
    index = built(tmp_path, packed(*((name, b"") for name in names)))
    endings, known = index.endings()
    found = {index.name(i): known[ending] for i, ending in enumerate(endings.tolist())}
    assert found == {name: PurePosixPath(name).suffix for name in names}


def test_far_offsets_and_large_files(tmp_path: Path):
    """Beyond 4 GiB: a sparse file, of which nothing but headers is read."""
    path, size = tmp_path / "x.tar", 5 * 2**30
    large = entry("large.bin")
    large.size = size
    with path.open("wb") as file:
        file.write(large.tobuf(tarfile.GNU_FORMAT))
        file.seek(size, 1)
        file.write(packed(("b.jpg", A)))
    index = tar_index.build(path)
    assert [index.name(i) for i in range(len(index))] == ["b.jpg"]
    assert index.left_out == {"files above 4294967295 bytes": 1}
    assert int(index.rows["block"][0]) * 512 == size + 1024
    assert files_of(path) == {"b.jpg": A}
    with path.open("r+b") as file:
        file.truncate(2**41 + 512)
    with pytest.raises(DataError, match="larger than 2199023255552 bytes: split it"):
        tar_index.build(path)


# ---------------------------------------------------------------------------------------- hostile


def built(folder: Path, content: bytes) -> Index:
    (folder / "x.tar").write_bytes(content)
    return tar_index.build(folder / "x.tar")


PLAIN = packed(("a.jpg", A), ("b.jpg", A))
CHAIN = b"".join(
    packed((entry("././@LongLink", tarfile.GNUTYPE_LONGNAME), b"x\0"))[:1024] for _ in range(2000)
)
REFUSED = {
    "negative size": (with_size(b"\xff" * 10 + b"\xfe\x00")(PLAIN), "header of -512 bytes"),
    "long name": (
        with_size(b"%011o\0" % 2**31)(packed((entry("a", tarfile.GNUTYPE_LONGNAME), b"")) + PLAIN),
        "header of 2147483648 bytes",
    ),
    "long pax header": (
        with_size(b"%011o\0" % 2**31)(packed((entry("a", tarfile.XHDTYPE), b"")) + PLAIN),
        "header of 2147483648 bytes",
    ),
    "size beyond the end": (with_size(b"%011o\0" % 2**32)(PLAIN), "cut short"),
    "size of petabytes": (with_size(b"\x80" + b"\0" * 3 + b"\1" * 8)(PLAIN), "cut short"),
    "a chain of long names": (CHAIN + PLAIN, "not an intact"),
    "cut in a file": (PLAIN[:900], "cut short"),
    "cut before the end": (PLAIN[:3072], "cut short"),
    "a bad header": (PLAIN[:1540] + b"?" + PLAIN[1541:], "cut short"),
    "no archive": (A * 3, "not an intact tar archive"),
    "empty": (b"", "not an intact tar archive"),
    "gzip": (gzip.compress(PLAIN), "is compressed, and can only be read in order: gunzip it"),
    "bzip2": (bz2.compress(PLAIN), "bunzip2 it"),
    "xz": (lzma.compress(PLAIN), "unxz it"),
    "zstandard": (b"\x28\xb5\x2f\xfd" + A, "unzstd it"),
    "two archives": (PLAIN + PLAIN, "another archive follows its end"),
    "inner archive cut": (
        packed(("n.tar", PLAIN[:900])),
        r"x\.tar: its member n\.tar is not an intact tar archive \(unexpected end of data\)",
    ),
    "inner archive empty": (packed(("n.tar", b"")), r"x\.tar: its member n\.tar is not an intact"),
    "inner archive compressed": (packed(("n.tar", gzip.compress(PLAIN))), r"n\.tar.* gunzip it"),
    "inner archive hostile": (
        packed(("n.tar", with_size(b"\xff" * 10 + b"\xfe\x00")(PLAIN))),
        r"n\.tar: the archive has a header of -512",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_broken_archive_is_refused_by_name(tmp_path: Path, kind: str):
    content, reason = REFUSED[kind]
    with pytest.raises(DataError, match=reason) as caught:
        built(tmp_path, content)
    assert str(tmp_path / "x.tar") in str(caught.value)
    assert isinstance(next(tars.indexed([tmp_path / "x.tar"], tmp_path, None)), DataError)
    assert not (tmp_path / "x.tar.index").exists()


def sparse(name: str) -> tarfile.TarInfo:
    made = entry(name)
    made.pax_headers = {"GNU.sparse.size": "9", "GNU.sparse.map": "0,9", "GNU.sparse.name": name}
    return made


LEFT_OUT = {
    "links": (
        [
            (entry("s", tarfile.SYMTYPE, "/etc/passwd"), b""),
            (entry("h", tarfile.LNKTYPE, "a"), b""),
        ],
        {"links": 2},
    ),
    "devices": (
        [(entry("c", tarfile.CHRTYPE), b""), (entry("p", tarfile.FIFOTYPE), b"")],
        {"special files": 2},
    ),
    "sparse": ([(sparse("s.jpg"), A)], {"special files": 1}),
    "absolute": ([("/etc/x.jpg", A)], {"names that lead out of the archive": 1}),
    "parents": ([("a/../../x.jpg", A)], {"names that lead out of the archive": 1}),
    "no name": ([("./", A)], {"names that lead out of the archive": 1}),
    "terminal": ([("\x1b[2J.jpg", A)], {"names that cannot be shown": 1}),
    "not UTF-8": ([("caf\udce9.jpg", A)], {"names that cannot be shown": 1}),
    "repeated": ([("./good.jpg", b"older")], {"older files of the same name": 1}),
    "hidden": ([("._a.jpg", A), (".d/a.jpg", A), (entry("d", tarfile.DIRTYPE), b"")], {}),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_other_entries_are_counted_and_not_read(tmp_path: Path, kind: str):
    members, left_out = LEFT_OUT[kind]
    content = packed(*members, ("good.jpg", A), form=tarfile.PAX_FORMAT)
    index = built(tmp_path, content)
    assert dict(index.left_out) == left_out
    assert files_of(tmp_path / "x.tar") == {"good.jpg": A}


def test_what_follows_the_end_is_no_archive(tmp_path: Path):
    for more in (b"", bytes(10_240), bytes(512) + b"left on the tape" * 64):
        assert len(built(tmp_path, PLAIN + more)) == 2


def test_the_largest_header_that_is_read(tmp_path: Path):
    """64 KiB of a name; every entry has one at most, so that no memory is asked for."""
    largest = 2**16
    for size in (largest, largest + 1):
        name = b"x" * (size - 1) + b"\0"
        long = packed((entry("././@LongLink", tarfile.GNUTYPE_LONGNAME), name))
        content = long[: 512 + -(-size // 512) * 512] + PLAIN
        if size == largest:
            index = built(tmp_path, content)
            assert [index.name(i) for i in range(2)] == ["x" * (largest - 1), "b.jpg"]
        else:
            with pytest.raises(DataError, match=f"a header of {size} bytes"):
                built(tmp_path, content)


@pytest.mark.parametrize(("zeros", "noticed"), [(2**17, True), (2**17 + 1, False)])
def test_how_far_after_its_end_another_archive_is_looked_for(
    tmp_path: Path, zeros: int, noticed: bool
):
    """64 MiB of zeros, which a sparse file has without any on the disk."""
    end = PLAIN.rstrip(b"\0")
    start = -(-len(end) // 512) * 512
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(end)
        file.seek(start + zeros * 512)
        file.write(PLAIN)
    if noticed:
        with pytest.raises(DataError, match="another archive follows its end"):
            tar_index.build(tmp_path / "x.tar")
    else:
        assert len(tar_index.build(tmp_path / "x.tar")) == 2


def test_an_inner_archive_is_a_folder_and_one_in_it_a_file(tmp_path: Path):
    inner = packed(("./x_1.jpg", A), ("deep.tar", PLAIN))
    path = tmp_path / "x.tar"
    path.write_bytes(packed(("top.jpg", b"t"), ("./n01.tar", inner), ("end.jpg", b"e")))
    found = files_of(path)
    assert list(found) == ["top.jpg", "n01/x_1.jpg", "n01/deep.tar", "end.jpg"]
    assert found["n01/x_1.jpg"] == A and found["n01/deep.tar"] == PLAIN


def test_what_is_no_file_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.tar")
    for path in (tmp_path / "pipe.tar", tmp_path):
        with pytest.raises(DataError, match="not a regular file"):
            tar_index.build(path)
    with pytest.raises(MissingError, match=r"absent\.tar cannot be read"):
        tar_index.build(tmp_path / "absent.tar")


def test_f33_a_damaged_archive_gives_all_its_files_or_an_error(tmp_path: Path):
    rng, path, wanted = random.Random(3), tmp_path / "x.tar", {"a.jpg": A, "b.jpg": A}
    refused = 0
    for case in range(300):
        broken = bytearray(PLAIN)
        if case % 3:
            broken[rng.randrange(3072)] ^= 1 << rng.randrange(8)
        else:
            del broken[rng.randrange(3500) :]
        path.write_bytes(broken)
        try:
            found = files_of(path)
        except EsamError:
            refused += 1
        else:  # a bit of a file, which no tar notices
            assert len(found) == 2 and [len(x) for x in found.values()] == [700, 700]
            assert all(name in wanted or len(name) == 5 for name in found)
    assert refused > 100


HEADER_FIELDS = {"name": (0, 100), "mode": (100, 108), "size": (124, 136), "kind": (156, 157)}
HEADER_FIELDS |= {"target": (157, 257), "magic": (257, 265), "prefix": (345, 500)}


def test_headers_of_any_content_give_sound_files_or_an_error(tmp_path: Path):
    """Fields of headers at random, mostly with the checksum that goes with them: 300 cases."""
    inner = packed(("b1.jpg", A), ("é" * 80 + ".jpg", b"z"), form=tarfile.PAX_FORMAT)
    whole = packed(("a.jpg", A), ("n.tar", inner), ("l" * 150 + "9.jpg", A))
    heads = [at for at in range(0, len(whole), 512) if whole[at + 257 : at + 262] == b"ustar"]
    rng, path, counts = random.Random(4), tmp_path / "x.tar", [0, 0]
    for _ in range(300):
        broken = bytearray(whole)
        for head in rng.choices(heads, k=rng.randint(1, 3)):
            for field in rng.choices(list(HEADER_FIELDS.values()), k=rng.randint(1, 4)):
                broken[head + rng.randrange(*field)] = rng.choice(b"\0\xff\x80 0123457xLKSg./\x1b")
            if rng.random() < 0.9:
                broken[head + 148 : head + 156] = b" " * 8
                total = sum(broken[head : head + 512])
                broken[head + 148 : head + 156] = b"%06o\0 " % total
        path.write_bytes(broken)
        try:
            found = files_of(path)
        except EsamError:
            counts[0] += 1
            continue
        counts[1] += 1
        assert all(is_plain(name) and "\x1b" not in name for name in found)
    assert min(counts) > 30


# -------------------------------------------------------------------------------- the index file


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "x.tar"
    path.write_bytes(packed(*((f"sa_{i}.jpg", bytes([i]) * (900 + i)) for i in range(20))))
    return path


def same(one: Index, other: Index) -> None:
    assert (one.stamp, one.strings, dict(one.left_out)) == (
        other.stamp,
        other.strings,
        dict(other.left_out),
    )
    assert one.rows.tobytes() == other.rows.tobytes()


def opened(path: Path, folder: Path | None = None) -> tars.Indexed:
    (found,) = tars.indexed([path], path, folder)
    assert isinstance(found, tars.Indexed)
    return found


def test_an_index_is_built_once_and_again_for_another_archive(archive: Path):
    first, again = opened(archive), opened(archive)
    assert (first.built, again.built, again.why) == (True, False, "")
    same(first.index, again.index)
    changed = archive.stat().st_mtime_ns + 1
    os.utime(archive, ns=(changed, changed))
    stale = opened(archive)
    assert stale.built and "is of another version of its archive" in stale.why
    archive.write_bytes(PLAIN)
    os.utime(archive, ns=(changed, changed))
    assert opened(archive).built and len(opened(archive).index) == 2
    assert not opened(archive).built


def test_an_index_may_lie_elsewhere(archive: Path, tmp_path: Path):
    nested = tmp_path / "data" / "part" / "y.tar"
    nested.parent.mkdir(parents=True)
    nested.write_bytes(PLAIN)
    found = list(
        tars.indexed(tars.find(nested.parents[1]), nested.parents[1], tmp_path / "indexes")
    )
    assert [each.built for each in found if isinstance(each, tars.Indexed)] == [True]
    assert (tmp_path / "indexes" / "part" / "y.tar.index").is_file()
    assert [path.name for path in nested.parent.iterdir()] == ["y.tar"]
    assert not opened(nested, tmp_path / "indexes" / "part").built


def test_an_index_that_cannot_be_stored_is_used_all_the_same(archive: Path, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    said = (
        r"file/\S+\.index cannot be written \(.*\): 1 index could not be stored, and will be built"
    )
    with pytest.warns(UserWarning, match=said):
        found = opened(archive, tmp_path / "file")
    assert len(found.index) == 20 and "cannot be written" in found.unstored


def test_a_file_of_another_program_is_not_replaced(archive: Path):
    file = tars.index_file(archive, archive, None)
    file.write_text("what another program has written")
    with pytest.warns(
        UserWarning, match="is a file of another program, and is not replaced: 1 index"
    ):
        found = opened(archive)
    assert len(found.index) == 20 and "no index of this version" in found.why
    assert file.read_text() == "what another program has written"
    file.write_bytes(b"")  # as a disk that was full leaves it
    assert opened(archive).built and not opened(archive).built


def test_every_flipped_bit_of_an_index_is_noticed(archive: Path):
    """Each byte with one of its bits, then cuts and an addition: 700 cases."""
    truth, rng = opened(archive).index, random.Random(8)
    file = tars.index_file(archive, archive, None)
    content = file.read_bytes()
    assert len(content) > 500
    for at in range(len(content)):
        broken = bytearray(content)
        broken[at] ^= 1 << rng.randrange(8)
        file.write_bytes(broken)
        with pytest.raises(DataError):
            tar_index.read(file, truth.stamp)
    for cut in range(0, len(content), 3):
        file.write_bytes(content[:cut])
        with pytest.raises(DataError):
            tar_index.read(file, truth.stamp)
    file.write_bytes(content + b"\0")
    with pytest.raises(DataError, match="checksum"):
        tar_index.read(file, truth.stamp)
    again = opened(archive)
    assert again.built and "damaged" in again.why
    same(again.index, truth)


def edited(content: bytes, change: Callable[[dict], object], rows: bytes | None = None) -> bytes:
    """An index with another JSON object, or other rows, and the checksum that goes with it."""
    length = int.from_bytes(content[40:48], "little")
    about = json.loads(content[48 : 48 + length])
    change(about)
    text = json.dumps(about).encode()
    rest = len(text).to_bytes(8, "little") + text + (rows or content[48 + length :])
    return content[:8] + hashlib.sha256(rest).digest() + rest


BAD_ROW = np.array([(9, 9, 9, 2**32 - 1, 2**32 - 1)], tar_index.ROW)
FAR_ROW = np.array([(0, 9, 0, 2**32 - 1, 1)], tar_index.ROW)
FORGED = {
    "no strings": (lambda c: c.pop("strings"), None),
    "numbers as strings": (lambda c: c.update(strings=[1, 2, 3]), None),
    "a name for a terminal": (lambda c: c.update(strings=["", "\x1b[2J", ".jpg"]), None),
    "too few strings": (lambda c: c.update(strings=[""]), None),
    "another count": (lambda c: c.update(files=19), None),
    "a count that is none": (lambda c: c.update(size="x"), None),
    "no object": (lambda c: c.update(left_out=[1]), None),
    "words for a count": (lambda c: c.update(left_out={"links": "many"}), None),
    "an endless number": (lambda c: c.update(size=float("inf")), None),
    "rows without a string": (lambda c: c.update(files=1), BAD_ROW.tobytes()),
    "rows after the end": (lambda c: c.update(files=1), FAR_ROW.tobytes()),
    "a row just after the end": (
        lambda c: c.update(files=1),
        np.array([(0, 9, 0, 80, 1)], tar_index.ROW).tobytes(),
    ),
    "half a row": (lambda c: c.update(files=1), FAR_ROW.tobytes()[:-1]),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_index_is_refused(archive: Path, kind: str):
    truth = opened(archive).index
    file = tars.index_file(archive, archive, None)
    file.write_bytes(edited(file.read_bytes(), *FORGED[kind]))
    with pytest.raises(DataError, match="damaged"):
        tar_index.read(file, truth.stamp)
    same(opened(archive).index, truth)


def test_what_was_left_out_is_kept_in_an_index(tmp_path: Path):
    made = built(tmp_path, packed(*LEFT_OUT["links"][0], *LEFT_OUT["sparse"][0], form=2))
    assert dict(made.left_out) == {"links": 2, "special files": 1}
    tar_index.write(made, tmp_path / "x.tar.index")
    same(tar_index.read(tmp_path / "x.tar.index", made.stamp), made)


def test_an_archive_is_recognised_by_its_plain_files_that_are_not_hidden(tmp_path: Path):
    members = (entry("d", tarfile.DIRTYPE), b""), ("._sa_1.jpg", A), ("./d/b.jpg", A), ("c.jpg", A)
    (tmp_path / "x.tar").write_bytes(packed(*members))
    for most, names in ((1, ("d/b.jpg",)), (9, ("d/b.jpg", "c.jpg"))):
        assert tar_index.first_names(tmp_path / "x.tar", most) == names
    assert tar_index.first_names(tmp_path / "absent.tar", 1) == ()


def test_what_is_no_index_is_not_read(archive: Path, tmp_path: Path):
    stamp = tar_index.stamp_of(archive)
    os.mkfifo(tmp_path / "pipe.index")
    with pytest.raises(DataError, match="not a regular file"):
        tar_index.read(tmp_path / "pipe.index", stamp)
    other = tmp_path / "other.index"
    other.write_bytes(b"esamtar\x02" + bytes(100))
    with pytest.raises(DataError, match="no index of this version"):
        tar_index.read(other, stamp)
    most = stamp.size + 2**20  # its size is checked before memory is taken
    for size, said in ((2**40, "larger than"), (most + 1, "larger than"), (most, "is no index of")):
        with other.open("wb") as file:
            file.truncate(size)
        with pytest.raises(DataError, match=said):
            tar_index.read(other, stamp)


def test_a_build_that_is_killed_leaves_no_index(archive: Path):
    code = (
        "import os, signal, sys, pathlib; from esam_jax.data import tars\n"
        "pathlib.Path.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "list(tars.indexed([pathlib.Path(sys.argv[1])], pathlib.Path(sys.argv[1]), None))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(archive)], capture_output=True)
    assert done.returncode == -9, done.stderr
    left = {path.name for path in archive.parent.iterdir()}
    assert "x.tar.index" not in left and len(left) == 2  # a temporary file, as a kill leaves it
    assert opened(archive).built
    assert {path.name for path in archive.parent.iterdir()} == {"x.tar", "x.tar.index"}


# --------------------------------------------------------------------------------------- reading


def listed(path: Path) -> tar_files.TarFiles:
    return tar_files.open_all(path, None, lambda tar, index: index.rows).files


def read(files: tar_files.TarFiles, index: int) -> bytes:
    return files.reader(index)(2**20)


def test_many_threads_read_what_is_there(tmp_path: Path):
    """More archives than files are open at once."""
    wanted = {}
    for tar in range(12):
        members = [
            (f"t{tar}_{i}.jpg", random.Random(tar * 99 + i).randbytes(5000)) for i in range(9)
        ]
        wanted |= dict(members)
        (tmp_path / f"{tar:02}.tar").write_bytes(packed(*members))
    files = listed(tmp_path)
    small = tar_files.TarFiles(
        files.tars, files.stamps, files.strings, files.rows, tars.OpenFiles(3)
    )
    order = random.Random(1).choices(range(len(files)), k=480)
    before = len(os.listdir("/proc/self/fd"))
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda i: read(small, i), order))
    assert found == [wanted[files.name(i)] for i in order]
    assert len(os.listdir("/proc/self/fd")) <= before + 3
    copy = pickle.loads(pickle.dumps(small))
    assert [read(copy, i) for i in range(9)] == [wanted[copy.name(i)] for i in range(9)]
    del copy, small
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_archive_that_changes_while_it_is_read_is_noticed(archive: Path):
    files = listed(archive)
    assert read(files, 0) == bytes(900)
    with archive.open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(DataError, match=r"x\.tar was changed while it is read"):
        read(files, 5)
    archive.unlink()
    with pytest.raises(MissingError, match=r"x\.tar cannot be read"):
        read(files, 5)


def test_a_reader_ends_with_its_file(archive: Path):
    files = listed(archive)
    at = [files.name(i) for i in range(20)].index("sa_7.jpg")
    reader = files.reader(at)
    assert [len(reader(600)) for _ in range(4)] == [600, 307, 0, 0]


@pytest.mark.parametrize(("count", "said"), [(2**16 - 1, "the first"), (2**16, "at most 65535")])
def test_no_more_archives_are_read_than_a_row_can_tell_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, said: str
):
    paths = [tmp_path / f"{number}.tar" for number in range(count)]
    monkeypatch.setattr(tars, "find", lambda path: paths)
    monkeypatch.setattr(tars, "indexed", lambda *args: iter([DataError("the first")]))
    with pytest.raises(DataError, match=said):
        listed(tmp_path)
    (tmp_path / "a.tar").write_bytes(PLAIN)
    monkeypatch.undo()
    last = listed(tmp_path).rows["tar"].dtype.type(-1 % 2**16)
    assert last == 2**16 - 1  # the place of the last archive is one less


NUMBERED = st.builds("{}{}{}".format, st.just("sa_"), st.integers(0, 10**9 - 1), st.just(".jpg"))
SORTABLE = st.one_of(
    NUMBERED,
    st.builds("{}/n{}_{}{}".format, st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 2000),
              st.sampled_from([".jpg", ".json", ""])),
)  # fmt: skip
ANY = st.text(st.sampled_from("019a._-/"), min_size=1, max_size=6).map(lambda x: f"x{x}y")


@given(st.one_of(st.lists(NUMBERED), st.lists(SORTABLE), st.lists(ANY), st.lists(SORTABLE | ANY)))
def test_names_are_in_order_and_each_once(tmp_path_factory, names: list[str]):
    folder = tmp_path_factory.mktemp("tars")
    half = len(names) // 2
    for tar, part in (("2.tar", names[half:]), ("1.tar", names[:half])):
        (folder / tar).write_bytes(packed(*((name, tar.encode()) for name in part)))
    found = tar_files.open_all(folder, None, lambda tar, index: index.rows)
    plain = {str(PurePosixPath(name)) for name in names if is_plain(name)}
    assert [found.files.name(i) for i in range(len(found.files))] == sorted(plain)
    first = {str(PurePosixPath(name)) for name in names[:half]}
    second = {str(PurePosixPath(name)) for name in names[half:]}
    assert {name for tar, name in found.repeated} == {x for x in first & second if is_plain(x)}
    assert all(tar.name == "2.tar" for tar, _ in found.repeated)
    for i in range(len(found.files)):
        wanted = b"1.tar" if found.files.name(i) in first else b"2.tar"
        assert read(found.files, i) == wanted


def test_progress_is_written_where_indexing_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    for number in range(3):
        (tmp_path / f"{number}.tar").write_bytes(packed((f"{number}.jpg", A)))
    assert len(listed(tmp_path)) == 3
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(tar_files, "_EVERY_SECONDS", 0.0)
    listed(tmp_path)
    lines = [f"esam: {done} of 3 archives are indexed\n" for done in (1, 2)]
    assert capsys.readouterr().err == "".join(lines)


def test_archives_are_found_at_any_depth(tmp_path: Path):
    for name in (
        "b/2.tar",
        "a/10.tar",
        "1.tar",
        ".hidden/3.tar",
        "a/.4.tar",
        "a/5.tar.gz",
        "6.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PLAIN)
    assert [str(each.relative_to(tmp_path)) for each in tars.find(tmp_path)] == [
        "1.tar",
        "a/10.tar",
        "b/2.tar",
    ]
    with pytest.raises(MissingError):
        tars.find(tmp_path / "absent")
    with pytest.raises(DataError, match=r"holds no \.tar file"):
        (tmp_path / "empty").mkdir()
        listed(tmp_path / "empty")


def test_a_program_may_end_with_files_open(archive: Path):
    code = (
        "import pathlib, sys; from esam_jax.data import tar_index, tars\n"
        "path = pathlib.Path(sys.argv[1]); held = tars.OpenFiles()\n"
        "held.read(path, tar_index.stamp_of(path), 0, 8)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(archive)], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
