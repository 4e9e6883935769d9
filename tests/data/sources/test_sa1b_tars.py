"""SA-1B in tar archives gives the records of the same files unpacked, and says what it left out."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import whole
from helpers.tar_files import of_folder, packed

from esam_jax.config import PromptedConfig, Sa1bConfig
from esam_jax.data import records, sources
from esam_jax.data.examples import Examples
from esam_jax.errors import DataError

DATA = Path(os.environ.get("ESAM_TEST_DATA", "absent"))


def opened(path: Path, **fields: str) -> sources.Source:
    return sources.open_source(Sa1bConfig(path=str(path), **fields))


def names(source: sources.Source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


def texts(source: sources.Source) -> list[str]:
    return [f"{each.count} {each.kind}: {each.text}" for each in source.findings]


def agree(one: sources.Source, other: sources.Source) -> None:
    """Names, pixels, masks, digests: all that training sees."""
    assert names(one) == names(other) and len(one)
    assert records.summary(one) == records.summary(other)
    for i in range(len(one)):
        left, right = one.read(i), other.read(i)
        assert (left.picture.rgb() == right.picture.rgb()).all()
        count = len(left.annotation("masks"))
        assert count == len(right.annotation("masks"))
        assert (whole.masks(left, *range(count)) == whole.masks(right, *range(count))).all()
    view = PromptedConfig(image_px=64, masks=2)
    for position in range(4):
        left, right = (Examples(each, view, 5)[position].view for each in (one, other))
        assert left and right and all((left[key] == right[key]).all() for key in left)


def number(path: Path) -> int:
    return int(path.stem.removeprefix("sa_"))


@pytest.mark.parametrize("before", ["", "./", "sa_000020/"])
def test_tars_give_the_records_of_the_folder(sa1b_folder: Path, tmp_path: Path, before: str):
    folder = tmp_path / "tars"
    of_folder(sa1b_folder, folder / "sa_000001.tar", before=before, keep=lambda p: number(p) > 1)
    of_folder(sa1b_folder, folder / "sa_000000.tar", before=before, keep=lambda p: number(p) == 1)
    unpacked = tmp_path / "unpacked" / before
    unpacked.parent.mkdir(exist_ok=True)
    sa1b_folder.rename(unpacked)
    agree(opened(folder), opened(tmp_path / "unpacked"))
    assert opened(folder).findings == []
    assert sorted(path.name for path in folder.iterdir()) == [
        "sa_000000.tar",
        "sa_000000.tar.index",
        "sa_000001.tar",
        "sa_000001.tar.index",
    ]


@pytest.mark.skipif(not DATA.is_dir(), reason="ESAM_TEST_DATA names no folder with test pictures")
def test_tars_of_real_pictures(tmp_path: Path):
    folder = DATA / "sa1b_layout"
    of_folder(folder, tmp_path / "a.tar", keep=lambda path: number(path) % 2 == 0)
    of_folder(folder, tmp_path / "b.tar", keep=lambda path: number(path) % 2 == 1)
    agree(opened(tmp_path), opened(folder))


def test_one_tar_with_its_index_elsewhere_and_a_copy_in_another_process(
    sa1b_folder: Path, tmp_path: Path
):
    tar = of_folder(sa1b_folder, tmp_path / "tars" / "sa_000000.tar")
    source = opened(tar, index=str(tmp_path / "indexes"))
    assert list(tar.parent.iterdir()) == [tar]
    assert (tmp_path / "indexes" / "sa_000000.tar.index").is_file()
    agree(pickle.loads(pickle.dumps(source)), opened(sa1b_folder))


def test_what_has_no_partner_is_left_out_and_noted(sa1b_folder: Path, tmp_path: Path):
    members = {path.name: path.read_bytes() for path in sa1b_folder.iterdir()}
    lone = {"sa_3.jpg": b"x", "sa_4.jpg": b"x", "sa_5.json": b"{}", "other.jpg": b"", "a.json": b""}
    tar = tmp_path / "x.tar"
    tar.write_bytes(packed(*members.items(), *lone.items()))
    source = opened(tar)
    assert names(source) == ["sa_1.jpg", "sa_10.jpg", "sa_2.jpg"]
    assert texts(source) == [
        f"2 pictures_left_out: {tar}: sa_3.jpg has no json of its name beside it (the first of 2)",
        f"1 pictures_left_out: {tar}: sa_5.json has no picture of its name beside it",
    ]


def test_of_a_name_in_two_archives_the_first_is_read(sa1b_folder: Path, tmp_path: Path):
    of_folder(sa1b_folder, tmp_path / "t" / "a.tar")
    content = (sa1b_folder / "sa_2.json").read_bytes()
    (tmp_path / "t" / "b.tar").write_bytes(
        packed(("sa_2.jpg", b"no picture"), ("sa_2.json", content))
    )
    source = opened(tmp_path / "t")
    agree(source, opened(sa1b_folder))
    second = tmp_path / "t" / "b.tar"
    found = f"1 pictures_left_out: {second}: sa_2.jpg is in an archive before it, too"
    assert texts(source) == [found]


def test_names_of_any_kind_are_paired_and_sorted(sa1b_folder: Path, tmp_path: Path):
    picture, text = ((sa1b_folder / f"sa_1.{x}").read_bytes() for x in ("jpg", "json"))
    stems = [
        "sa_1",
        "sa_0001",
        "sa_10",
        "sa_x",
        "sa_1_b",
        "sa_1_2",
        "sa_12345678901",
        "d1/sa_é",
        "sa_",
    ]
    others = ["sa_1/x", "1/x1", "xsa_5", "sa_7/8"]
    members = [(f"{stem}.json", text) for stem in [*stems, *others]]
    members += [(f"{stem}.jpg", picture) for stem in [*reversed(stems), *others]]
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "x.tar").write_bytes(packed(*members))
    source = opened(tmp_path / "t")
    assert names(source) == sorted(f"{stem}.jpg" for stem in stems)
    for name, content in members:
        (tmp_path / "u" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "u" / name).write_bytes(content)
    agree(source, opened(tmp_path / "u"))


BROKEN = {
    "no json": (b"{", b"", r"the json of .*x\.tar, byte 1536: sa_1\.jpg is not valid JSON"),
    "a list": (b"[]", b"", r"holds a list"),
    "too large": (b" " * (2**26 + 1), b"", r"x\.tar, byte 512: sa_1\.json: it has 67108865 bytes"),
    "no picture": (
        b'{"annotations": []}',
        b"text",
        r"x\.tar, byte 1536: sa_1\.jpg: not a JPEG, PNG or WebP",
    ),
    "empty": (b'{"annotations": []}', b"", r"x\.tar, byte 1536: sa_1\.jpg: the file is empty"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_record_names_archive_and_file(tmp_path: Path, kind: str):
    text, picture, reason = BROKEN[kind]
    (tmp_path / "x.tar").write_bytes(packed(("sa_1.json", text), ("sa_1.jpg", picture)))
    source = opened(tmp_path)
    with pytest.raises(DataError, match=reason):
        source.read(0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"x.tar": packed(("a.jpg", b""))}, "holds no sa_.*jpg with its json"),
        ({"x.tar": packed(("sa_1.json", b"{}"))}, "holds no sa_.*jpg with its json"),
        ({"x.tar": packed(("sa_1.jpg", b""))}, "holds no sa_.*jpg with its json"),
        ({"x.tar": packed(("sa_1.jpg", b""))[:600]}, r"x\.tar: the archive is cut short"),
        ({"x.tar": b"\x1f\x8b"}, "gunzip it"),
        ({"notes.txt": b""}, "holds no sa_.*jpg at any depth, nor a tar archive"),
    ],
)
def test_nothing_to_read_is_said_at_once(tmp_path: Path, content: dict, reason: str):
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=reason):
        opened(tmp_path)


def test_a_stale_index_is_built_again_with_a_warning(sa1b_folder: Path, tmp_path: Path):
    tar = of_folder(sa1b_folder, tmp_path / "x.tar", keep=lambda path: number(path) == 1)
    assert names(opened(tar)) == ["sa_1.jpg"]
    of_folder(sa1b_folder, tar)
    with pytest.warns(UserWarning, match=r"x\.tar\.index is of another version .*: built again"):
        assert len(opened(tar)) == 3
    assert len(opened(tar)) == 3


def test_unpacked_pictures_come_before_archives(sa1b_folder: Path):
    of_folder(sa1b_folder, sa1b_folder / "x.tar", keep=lambda path: number(path) == 1)
    with pytest.warns(
        UserWarning, match="unpacked pictures are read, and 1 archive beside them not"
    ):
        assert len(opened(sa1b_folder)) == 3
    assert not (sa1b_folder / "x.tar.index").exists()


def test_a_path_is_taken_for_what_it_holds(sa1b_folder: Path, tmp_path: Path):
    tar = of_folder(sa1b_folder, tmp_path / "t" / "sa_000000.tar", before="sa_000000/")
    for path in (tar, tar.parent):
        assert sources.detect(str(path)) == Sa1bConfig(path=str(path))
    assert not tar.with_name(f"{tar.name}.index").exists()  # nothing is built to look


def test_jsons_are_read_from_the_archive_alone(
    sa1b_folder: Path, tmp_path: Path, write_picture: Callable
):
    """A name in an archive is no path: what lies beside it is another picture."""
    tar = of_folder(sa1b_folder, tmp_path / "t" / "x.tar")
    (tar.parent / "sa_1.json").write_text(json.dumps({"annotations": []}))
    assert len(opened(tar).read(0).annotation("masks")) == 2
