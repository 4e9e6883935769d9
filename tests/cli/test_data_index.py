"""`esam data index`, and the group of commands that it is one of."""

import json
from pathlib import Path

import pytest
from helpers.tar_files import packed

from esam_jax.cli import data, main

FILES = packed(("sa_1.jpg", b"x" * 600), ("sa_1.json", b"{}"))


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    folder = tmp_path / "sa1b"
    folder.mkdir()
    for number in range(3):
        (folder / f"sa_{number:06}.tar").write_bytes(FILES)
    return folder


def indexes(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.index"))


def test_every_command_has_help_and_one_must_be_named(capsys):
    assert main(["data", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in data.COMMANDS)
    for name in data.COMMANDS:
        assert main(["data", name, "--help"]) == 0
        assert f"usage: esam data {name}" in capsys.readouterr().out
    for argv, message in (
        ([], "no command is named"),
        (["--json"], "the command comes first"),
        (["indx"], "the command is 'indx', but must be one of"),
    ):
        assert main(["data", *argv]) == 2
        assert message in capsys.readouterr().err


def test_indexes_are_made_once(archives: Path, capsys):
    assert main(["data", "index", str(archives), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first == {"archives": 3, "files": 6, "built": 3, "broken": []}
    assert indexes(archives) == [f"sa_{number:06}.tar.index" for number in range(3)]
    assert main(["data", "index", str(archives)]) == 0
    assert capsys.readouterr().out == f"{archives}: 6 files in 3 archives, 0 indexed now\n"
    (archives / "sa_000001.tar.index").write_bytes(b"esamtar\x01damaged")
    assert main(["data", "index", str(archives)]) == 0
    out, err = capsys.readouterr()
    assert "6 files in 3 archives, 1 indexed now" in out
    assert "built again: " in err and "sa_000001.tar.index is damaged" in err


def test_indexes_in_another_folder(archives: Path, tmp_path: Path, capsys):
    one = archives / "sa_000002.tar"
    assert main(["data", "index", str(one), "--index", str(tmp_path / "indexes")]) == 0
    assert "2 files in 1 archive, 1 indexed now" in capsys.readouterr().out
    assert indexes(archives) == [] and indexes(tmp_path) == ["sa_000002.tar.index"]


def test_a_broken_archive_stops_no_other(archives: Path, capsys):
    (archives / "sa_000000.tar").write_bytes(FILES[:700])
    assert main(["data", "index", str(archives), "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["built"] == 2 and len(indexes(archives)) == 2
    assert "1 of 3 archives cannot be used, the first: " in err and "sa_000000.tar: the arch" in err


def test_an_index_that_cannot_be_stored_fails(archives: Path, capsys):
    """The others are; a run would only warn, and index it again at each start."""
    (archives / "sa_000001.tar.index").write_text("what another program has written")
    assert main(["data", "index", str(archives)]) == 2
    out, err = capsys.readouterr()
    assert "6 files in 3 archives, 3 indexed now" in out
    assert "1 index could not be stored, the first: " in err
    assert "file of another program, and is not replaced; name a folder that can be" in err
    assert len(indexes(archives)) == 3


def test_what_is_no_archive_is_refused(tmp_path: Path, capsys):
    for path, message in (
        (tmp_path, "holds no .tar file"),
        (tmp_path / "absent", "cannot be read"),
    ):
        assert main(["data", "index", str(path)]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "x.tar").write_bytes(FILES)
    assert main(["data", "index", str(tmp_path), "--index", str(tmp_path / "x.tar")]) == 2
    assert "is a file, but a folder is needed" in capsys.readouterr().err


def test_archives_without_files_are_nothing_to_index(archives: Path, tmp_path: Path, capsys):
    (tmp_path / "empty.tar").write_bytes(packed())
    assert main(["data", "index", str(tmp_path / "empty.tar")]) == 2
    _, err = capsys.readouterr()
    assert "empty.tar holds no file in 1 archive: fetch them again" in err and err.count("\n") == 1
    (archives / "sa_9.tar").write_bytes(packed())  # one of several is no reason
    assert main(["data", "index", str(archives)]) == 0
    assert "6 files in 4 archives, 4 indexed now" in capsys.readouterr().out
