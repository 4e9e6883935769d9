"""`esam data` and `esam train` on an object store."""

import json
from pathlib import Path

import pytest
from helpers import fake_store, made_sets, tar_files
from helpers.fake_store import SCHEME, WORKERS_SCHEME, address
from PIL import Image

from esam_jax import cli
from esam_jax.data import sources

store = fake_store.store


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    code = cli.main([str(each) for each in argv])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


@pytest.mark.parametrize(
    ("scheme", "workers"),
    [(SCHEME, 1), pytest.param(WORKERS_SCHEME, 2, marks=pytest.mark.slow)],  # starts interpreters
)
def test_commands_give_what_they_give_of_a_folder(
    scheme: str, workers: int, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    count = 8 if workers == 1 else 40  # so few are not spread over processes
    folder = made_sets.sa1b(store / "bucket" / "set", count)
    made = {}
    for data in (str(folder), address(folder, scheme)):
        out = tmp_path / ("there" if "://" in data else "here")
        options = ["--workers", workers]
        report = run(capsys, "data", "check", data, "--json", *options)
        run(capsys, "data", "subset", data, "--out", out / "ids.txt", "--min-masks", 3, *options)
        run(capsys, "data", "pack", data, "--out", out / "pack", *options)
        listed = ["--data.source.ids", out / "ids.txt"]
        run(capsys, "data", "show", data, "--out", out / "x.png", "--examples", 3, *listed)
        shards = sorted((out / "pack").glob("*.array_record"))
        made[data] = (
            json.loads(report),
            (out / "ids.txt").read_text(),
            [each.read_bytes() for each in shards],
            Image.open(out / "x.png").tobytes(),
        )
    here, there = made.values()
    assert here == there and len(here[1].splitlines()) > 2 and here[2]


def test_archives_are_indexed_beside_or_in_a_local_folder(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = made_sets.sa1b(tmp_path / "set", 5)
    tar = tar_files.of_folder(folder, store / "bucket" / "tars" / "sa_000000.tar")
    there = address(tar.parent)
    assert "10 files in 1 archive, 1 indexed now" in run(capsys, "data", "index", there)
    assert "10 files in 1 archive, 0 indexed now" in run(capsys, "data", "index", there)
    assert tar.with_name("sa_000000.tar.index").is_file()
    index = tmp_path / "indexes"
    run(capsys, "data", "index", there, "--index", index)
    assert [each.name for each in index.iterdir()] == ["sa_000000.tar.index"]
    other = address(store / "bucket" / "indexes")
    run(capsys, "data", "index", there, "--index", other)
    assert (store / "bucket" / "indexes" / "sa_000000.tar.index").is_file()
    report = run(capsys, "data", "check", there, "--data.source.index", other, "--json")
    assert json.loads(report)["records"] == 5


def test_what_is_written_is_local(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = made_sets.sa1b(store / "bucket" / "set", 3)
    there = address(folder)
    for argv in (
        ["data", "pack", there, "--out", "fake://bucket/pack"],
        ["data", "check", there, "--out", "fake://bucket/x.csv"],
        ["data", "check", "--out", there],
        ["data", there],
        ["evaluate", "prompts", "--model", "x", "--data", there],
    ):
        assert cli.main(argv) == 2
        err = capsys.readouterr().err
        assert "only data sets are read from buckets" in err or "the command comes first" in err
    assert sources.open_source(sources.detect(there)).name(0) == "sa_0.jpg"


def test_a_train_command_takes_an_address_and_names_the_client(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    argv = ["train", "quickstart_sami", "--workdir", str(tmp_path / "run")]
    source = ["--data.source.kind", "image_folder", "--data.source.path"]
    assert cli.main([*argv, *source, "az://bucket/pictures"]) == 2
    assert "az:// needs a client that is not installed" in capsys.readouterr().err
    assert cli.main([*argv, *source, "https://host/pictures"]) == 2
    assert "an object store that fsspec knows" in capsys.readouterr().err
