"""Id lists: what is written is read, short names are found, and what is not there is said."""

import pytest
from helpers import made_sets
from helpers.name_source import Names
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.config import ImageFolderConfig, Sa1bConfig
from esam_jax.data import id_lists, records, sources
from esam_jax.errors import ConfigError, DataError, MissingError

LETTERS = st.characters(blacklist_characters="\r\n\0\ufeff", blacklist_categories=("Cs",))
NAMES = st.lists(st.text(LETTERS, min_size=1, max_size=5), min_size=1, max_size=12, unique=True)


def listed(part):
    return [part.name(i) for i in range(len(part))]


@given(NAMES, st.data())
def test_what_is_written_is_selected(tmp_path_factory, names, data):
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    path = tmp_path_factory.mktemp("ids") / "ids.txt"
    id_lists.write(path, chosen)
    assert id_lists.read(path) == tuple(chosen)
    part = id_lists.select(Names(tuple(names)), path)
    assert listed(part) == [name for name in names if name in chosen] and not part.findings


@pytest.mark.parametrize("line", ["c/sa_0023.jpg", "sa_0023.jpg", "sa_0023", "23", "0023", "00023"])
def test_a_line_may_be_shorter_than_a_name(line, tmp_path):
    source = Names(("a/sa_1.jpg", "c/sa_0023.jpg", "c/sa_123.jpg"))
    path = tmp_path / "ids.txt"
    path.write_text(f"{line}\r\n\r\na/sa_1.jpg\n{line}\n")
    assert listed(id_lists.select(source, path)) == ["a/sa_1.jpg", "c/sa_0023.jpg"]


def test_two_lines_may_be_one_record(tmp_path):
    (tmp_path / "ids").write_text("7\n007\nx_7.png\n")
    assert listed(id_lists.select(Names(("x_7.png", "y")), tmp_path / "ids")) == ["x_7.png"]


def test_a_complete_name_is_never_ambiguous(tmp_path):
    (tmp_path / "ids").write_text("1\n")
    assert listed(id_lists.select(Names(("a/1.png", "1", "b/1.jpg")), tmp_path / "ids")) == ["1"]


def test_what_fits_several_records_is_refused(tmp_path):
    (tmp_path / "ids").write_text("1\n")
    with pytest.raises(ConfigError, match=r"'1' fits 'a/1.png' and 'b/1.jpg'"):
        id_lists.select(Names(("a/1.png", "b/1.jpg")), tmp_path / "ids")


def test_what_is_not_there_is_a_finding(tmp_path):
    (tmp_path / "ids").write_text("a\nmissing\nother\n")
    part = id_lists.select(Names(("a", "b")), tmp_path / "ids")
    (found,) = part.findings
    assert (found.kind, found.count) == ("ids_not_found", 2) and "missing" in found.text
    (tmp_path / "ids").write_text("missing\n")
    with pytest.raises(DataError, match=r"none of the 1 lines of .* such as 'a'; .*'missing'"):
        id_lists.select(Names(("a", "b")), tmp_path / "ids")


@pytest.mark.parametrize("content", [b"", b"\n\r\n", b"a\0b\n"])
def test_a_file_that_is_no_list_is_named(content, tmp_path):
    (tmp_path / "ids.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"ids\.txt"):
        id_lists.read(tmp_path / "ids.txt")


def test_a_list_that_is_not_there_or_too_large(tmp_path, monkeypatch):
    with pytest.raises(MissingError, match="nowhere"):
        id_lists.read(tmp_path / "nowhere")
    monkeypatch.setattr(id_lists, "_MAX_BYTES", 3)
    (tmp_path / "ids.txt").write_text("abcd")
    with pytest.raises(DataError, match="has 4 bytes"):
        id_lists.read(tmp_path / "ids.txt")


@pytest.mark.parametrize("name", ["a\nb", "a\rb", ""])
def test_a_name_that_is_no_line_is_refused_before_anything_is_written(name, tmp_path):
    with pytest.raises(DataError, match="cannot stand in an id list"):
        id_lists.write(tmp_path / "ids.txt", ["good", name])
    assert not list(tmp_path.iterdir())


def test_names_of_other_bytes_than_text(tmp_path):
    names = ["a\udcff.png", "ä.png"]
    id_lists.write(tmp_path / "ids.txt", names)
    assert id_lists.read(tmp_path / "ids.txt") == tuple(names)


@pytest.mark.filterwarnings("ignore:.*not read. .json:UserWarning")
@pytest.mark.parametrize("config", [Sa1bConfig, ImageFolderConfig])
def test_every_source_of_files_reads_them_and_parts_are_taken_of_them(config, tmp_path):
    folder = made_sets.sa1b(tmp_path / "data", 6)
    (tmp_path / "ids.txt").write_text("sa_4\nsa_1\nsa_0\n")
    ids = str(tmp_path / "ids.txt")
    source = sources.open_source(config(path=str(folder), ids=ids))
    assert listed(source) == ["sa_0.jpg", "sa_1.jpg", "sa_4.jpg"]
    assert source.read(2).name == "sa_4.jpg"
    both = [
        sources.open_source(config(path=str(folder), ids=ids, part=part, heldout=1))
        for part in ("train", "heldout")
    ]
    assert sorted(name for each in both for name in listed(each)) == listed(source)
    everything = sources.open_source(config(path=str(folder)))
    assert len({records.summary(each) for each in (everything, source, *both)}) == 4
