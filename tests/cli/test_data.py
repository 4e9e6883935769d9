"""`esam data check`, `show` and `subset` from their options to their files and exit codes."""

import csv
import json

import numpy as np
import pytest
from helpers import made_sets
from PIL import Image

from esam_jax import cli

CHECK = ["data", "check"]
WRITES = [("check", "bad.csv"), ("show", "sheet.png"), ("subset", "ids.txt")]


def run(capsys, *argv):
    code = cli.main([str(each) for each in argv])
    return code, *capsys.readouterr()


@pytest.fixture
def folder(tmp_path):
    """Eight pictures of SA-1B's layout, of which one is broken and two have the same bytes."""
    folder = made_sets.sa1b(tmp_path / "set", 8)
    (folder / "sa_3.jpg").write_bytes(b"")
    (folder / "sa_7.jpg").write_bytes((folder / "sa_4.jpg").read_bytes())
    (folder / "sa_7.json").write_bytes((folder / "sa_4.json").read_bytes())
    return folder


def test_check_says_what_is_there_and_what_is_wrong(folder, tmp_path, capsys):
    table = tmp_path / "problems.csv"
    argv = [*CHECK, folder, "--max-broken-share", "0.2", "--workers", "1"]
    code, out, err = run(capsys, *argv, "--out", table)
    assert (code, err) == (0, "")
    assert "8 records read, 1 of them bad, 12.50%" in out and "broken: " in out
    assert "sa_3.jpg" in out and "sa_4.jpg = sa_7.jpg" in out and "PNG RGB 7" in out
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["record"], row["kind"]) for row in rows] == [
        ("sa_3.jpg", "broken"),
        ("sa_7.jpg", "same_contents"),
    ]
    assert "0 bytes" in rows[0]["text"]
    code, out, _ = run(capsys, *argv, "--json")
    found = json.loads(out)
    assert found["kind"] == "sa1b" and found["bad_share"] == 0.125 and code == 0
    assert found["masks"]["count"] == sum(
        len(made_sets.masks(4 if i == 7 else i)) for i in range(8) if i != 3
    )


def test_too_many_broken_records_are_an_exit_code(folder, capsys):
    code, out, _ = run(capsys, *CHECK, folder)
    assert code == 2 and "more than max_broken_share=10.0% is bad: repair" in out
    code, out, _ = run(capsys, *CHECK, folder, "--max-broken-share", "0.125")
    assert code == 0 and "max_broken_share" not in out


def test_a_config_brings_its_share_and_its_keys(folder, capsys):
    argv = [*CHECK, "segment_ti", "--data.source.kind", "sa1b", "--data.source.path", folder]
    assert run(capsys, *argv)[0] == 2
    assert run(capsys, *argv, "--data.max-broken-share", "0.3")[0] == 0


@pytest.mark.filterwarnings("ignore:.*not read. .json:UserWarning")
def test_keys_of_the_source(folder, capsys, tmp_path):
    (tmp_path / "ids.txt").write_text("sa_1\nsa_2\n")
    code, out, _ = run(capsys, *CHECK, folder, "--data.source.ids", tmp_path / "ids.txt", "--json")
    assert (code, json.loads(out)["records"]) == (0, 2)
    code, out, _ = run(capsys, *CHECK, folder, "--data.source.kind=image_folder", "--json")
    found = json.loads(out)
    assert found["kind"] == "image_folder" and "masks" not in found and code == 2
    argv = [*CHECK, folder, "--data.source.part", "heldout", "--data.source.heldout", "3", "--json"]
    assert json.loads(run(capsys, *argv)[1])["records"] == 3


@pytest.mark.filterwarnings("ignore:.*is read as pictures:UserWarning")
def test_an_empty_folder_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for command in ("check", "show", "subset"):
        out = {"check": [], "show": ["--out", "a.png"], "subset": ["--out", "a.txt"]}[command]
        code, _, err = run(capsys, "data", command, tmp_path / "empty", *out)
        assert code == 2 and "empty holds no .jpg" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["data"], "no command is named"),
        (["data", "chek"], "must be one of index, check, "),
        (CHECK, "no data is named: write esam data check PATH|CONFIG"),
        ([*CHECK, "--json"], "the data comes first"),
        ([*CHECK, "scenes", "--workers", "0"], "--workers is 0"),
        ([*CHECK, "scenes", "--max-broken-share", "2"], "--max-broken-share is 2.0"),
        ([*CHECK, "scenes", "--data.source.scens", "3"], "did you mean --data.source.scenes?"),
        ([*CHECK, "scenes", "--data.source.kind", "cocoa"], "must be one of scenes, "),
        ([*CHECK, "scenes", "--out", "a.txt"], "must end in .csv"),
        ([*CHECK, "tests", "--data.source.kind", "scenes"], "'scenes', which reads no path"),
        ([*CHECK, "nowhere"], "nowhere does not exist: check the path"),
        (["data", "show", "scenes"], "missing: --out PATH"),
        (["data", "show", "scenes", "--out", "a.jpg"], "must end in .png"),
        (["data", "show", "scenes", "--out", "a.png", "--examples", "0"], "from 1 to 400"),
        (["data", "show", "scenes", "--out", "a.png", "--first-batch", "1"], "is of a config"),
        (["data", "show", "scenes", "--out", "a.png", "--seed", "-1"], "at least 0"),
        (["data", "subset", "scenes", "--out", "a.txt", "--share", "0"], "--share is 0.0"),
    ],
)
def test_mistakes_are_one_line(argv, text, capsys):
    code, _, err = run(capsys, *argv)
    assert code == 2 and text in err and err.count("\n") == 1


@pytest.mark.parametrize(("command", "name"), WRITES)
def test_the_folder_of_what_is_written_is_made(command, name, folder, tmp_path, capsys):
    out = tmp_path / "new" / "deeper" / name
    argv = ["data", command, folder, "--out", out]
    code, _, err = run(capsys, *argv, *(["--max-broken-share", "1"] if command == "check" else []))
    assert code == 0, err
    assert out.is_file()


@pytest.mark.parametrize(("command", "name"), WRITES)
def test_a_folder_that_cannot_be_made_is_refused_first(command, name, folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    argv = ["data", command, folder, "--out", tmp_path / "file" / "deeper" / name]
    code, out, err = run(capsys, *argv)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is a file; name another folder" in err


@pytest.mark.parametrize("command", ["check", "show", "subset"])
def test_help(command, capsys):
    for argv in ([], ["scenes"], ["segment_ti"]):
        code, out, _ = run(capsys, "data", command, *argv, "--help")
        assert code == 0 and "--data.source." in out and "--out" in out
    assert command in run(capsys, "data", "--help")[1]


def test_show_writes_a_page(folder, tmp_path, capsys):
    page = tmp_path / "page.png"
    argv = ["data", "show", folder, "--out", page, "--examples", "9"]
    code, out, err = run(capsys, *argv, "--json")
    found = json.loads(out)
    assert code == 0 and err.startswith("esam: left out: sa_3.jpg: ")
    assert sorted(found["names"]) == [f"sa_{i}.jpg" for i in range(8) if i != 3]
    with Image.open(page) as image:
        assert image.width == 12 + 2 * 652 and image.height > 4 * 300
    code, _, err = run(capsys, *argv)
    assert code == 2 and "exists already" in err
    assert run(capsys, *argv, "--overwrite", "--seed", "5")[0] == 0


def test_show_takes_configs(folder, tmp_path, capsys):
    pages = [tmp_path / f"{i}.png" for i in range(3)]
    argv = ["data", "show", "segment_ti", "--data.source.kind", "sa1b", "--data.source.path"]
    argv += [folder, "--data.view.image-px", "64", "--batch", "4", "--examples", "4"]
    argv += ["--data.max-broken-share", "0.5"]
    for page, more in zip(pages, ([], ["--first-batch", "1"], ["--seed", "9"]), strict=True):
        assert run(capsys, *argv, "--out", page, *more)[0] == 0
    pixels = [np.asarray(Image.open(page)) for page in pages]
    assert all(each.shape[1] == 12 + 2 * 652 for each in pixels)
    assert not np.array_equal(pixels[0], pixels[1]) and not np.array_equal(pixels[0], pixels[2])


def test_show_of_a_config_refuses_data_that_its_updates_cannot_use(tmp_path, capsys):
    """In the words of the run, and not in those of the first record."""
    Image.new("RGB", (9, 7)).save(tmp_path / "a.png")
    argv = ["data", "show", "classify_nano", "--data.source.path", tmp_path]
    code, _, err = run(capsys, *argv, "--out", tmp_path / "page" / "a.png")
    assert code == 2 and "a.png lies in no folder below" in err
    assert "give each class a folder of its own" in err


def test_nothing_to_show_is_said(folder, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("sa_3.jpg\n")
    argv = ["data", "show", folder, "--data.source.ids", tmp_path / "ids.txt"]
    code, _, err = run(capsys, *argv, "--out", tmp_path / "page.png")
    assert code == 2 and "no record can be shown" in err and not (tmp_path / "page.png").exists()


def test_a_subset_is_read_by_every_command(folder, tmp_path, capsys):
    ids = tmp_path / "ids.txt"
    argv = ["data", "subset", folder, "--out", ids, "--min-masks", "2", "--workers", "1"]
    code, out, err = run(capsys, *argv, "--json")
    counts = json.loads(out)
    assert code == 0 and counts["broken"] == 1 and "left out: sa_3.jpg" in err
    assert counts["records"] == counts["in_share"] == 8
    assert ids.read_text().splitlines() == [
        "sa_1.jpg",
        "sa_2.jpg",
        "sa_4.jpg",
        "sa_6.jpg",
        "sa_7.jpg",
    ]
    code, out, _ = run(capsys, *CHECK, folder, "--data.source.ids", ids, "--json")
    found = json.loads(out)
    assert found["records"] == counts["chosen"] == 5 and found["masks"]["per_picture"]["min"] == 2
    code, _, err = run(capsys, *argv, "--overwrite", "--data.source.ids", ids)
    assert code == 2 and "is what is read" in err
    code, out, _ = run(capsys, *argv, "--overwrite", "--share", "0.5")
    assert code == 0 and "of 8 pictures" in out
    code, _, err = run(capsys, *argv, "--overwrite", "--min-area", "99999")
    assert code == 2 and "no picture of" in err and "widen the rules" in err
