"""Names of classes: of every source that has them, and compared with those of a model."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from helpers import tfds_sets
from helpers.tar_files import packed
from PIL import Image

from esam_jax.config import ImageFolderConfig, MixtureConfig, PackConfig
from esam_jax.data import class_names, records, sources
from esam_jax.data.labels import Label
from esam_jax.datasets import check, packing
from esam_jax.errors import ConfigError, DataError

SYNSETS = [f"n{100 + i:08}" for i in range(1000)]


def png(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)
    return Image.fromarray(pixels)


def folders(root: Path, **counts: int) -> Path:
    """So many pictures in a folder for each class."""
    number = itertools.count()
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for _ in range(count):
            png(i := next(number)).save(root / name / f"{i}.png")
    return root


def opened(path: Path, **fields) -> sources.Source:
    return sources.open_source(ImageFolderConfig(path=str(path), **fields))


def labels(source: sources.Source) -> set[Label]:
    return {source.read(i).annotation("label") for i in range(len(source))}


# ------------------------------------------------------------------------------ of sources


def test_a_folder_without_pictures_keeps_its_number_and_is_named(tmp_path):
    root = folders(tmp_path, ants=2, bees=0, cats=1)
    (root / ".hidden").mkdir()
    with pytest.warns(UserWarning, match="1 class without a picture: bees; a class keeps its num"):
        source = opened(root)
    assert source.classes == ("ants", "bees", "cats")
    assert labels(source) == {Label(0, "ants"), Label(2, "cats")}


def test_pictures_outside_of_folders_have_no_classes(tmp_path):
    png(0).save(folders(tmp_path, ants=1, bees=1) / "top.png")
    assert records.classes(opened(tmp_path)) == ()


def test_folders_in_folders_are_no_classes(tmp_path):
    folders(tmp_path / "ants", young=1, old=1)
    folders(tmp_path, bees=1)
    assert opened(tmp_path).classes == ("ants", "bees")


def test_a_part_and_copies_have_the_classes_of_all(tmp_path):
    root = folders(tmp_path / "all", ants=2, bees=1)
    ids = tmp_path / "ids.txt"
    ids.write_text("bees/2.png\n")
    part = opened(root, ids=str(ids))
    assert records.classes(part) == ("ants", "bees") and labels(part) == {Label(1, "bees")}
    mixed = MixtureConfig(paths=(str(root),), times=(2.0,))
    assert records.classes(sources.open_source(mixed)) == ("ants", "bees")


def test_a_pack_has_the_classes_of_what_was_packed(tmp_path):
    root = folders(tmp_path / "all", ants=1, bees=1)
    config = ImageFolderConfig(path=str(root))
    source = sources.open_source(config)
    packing.write(source, tmp_path / "pack", packing.plan(source, config))
    packed_source = sources.open_source(PackConfig(path=str(tmp_path / "pack")))
    assert records.classes(packed_source) == ("ants", "bees")
    assert labels(packed_source) == labels(source)
    manifest = tmp_path / "pack" / "pack.json"  # as earlier releases wrote it
    text = manifest.read_text()
    manifest.write_text(text[: text.index(',\n "classes"')] + "\n}\n")
    assert records.classes(sources.open_source(PackConfig(path=str(tmp_path / "pack")))) == ()
    manifest.write_text(text.replace('"bees"', "7"))
    with pytest.raises(DataError, match=r"pack\.json is damaged"):
        sources.open_source(PackConfig(path=str(tmp_path / "pack")))


def test_classes_of_a_mixture_are_one_by_name(tmp_path):
    first, second = folders(tmp_path / "1", bees=1, dogs=1), folders(tmp_path / "2", ants=1, bees=2)
    mixture = sources.open_source(MixtureConfig(paths=(str(first), str(second))))
    assert mixture.classes == ("bees", "dogs", "ants")
    assert labels(mixture) == {Label(0, "bees"), Label(1, "dogs"), Label(2, "ants")}
    again = sources.open_source(MixtureConfig(paths=(str(second), str(first))))
    assert again.classes == ("ants", "bees", "dogs")
    record = mixture.read(2)
    assert dict(record.annotations) == {"label": Label(2, "ants")} and len(record.annotations) == 1


def test_a_mixture_with_classes_without_names_has_none(tmp_path):
    root = folders(tmp_path / "all", ants=1, bees=1)
    config = ImageFolderConfig(path=str(root))
    source = sources.open_source(config)
    packing.write(source, tmp_path / "pack", packing.plan(source, config))
    manifest = tmp_path / "pack" / "pack.json"
    text = manifest.read_text()
    manifest.write_text(text[: text.index(',\n "classes"')] + "\n}\n")
    mixed = MixtureConfig(paths=(str(root), str(tmp_path / "pack")))
    with pytest.raises(ConfigError, match="pack does not name its classes, as others do"):
        sources.open_source(mixed, needs=frozenset({"label"}))


def test_an_archive_without_pictures_keeps_its_number(tmp_path):
    root = folders(tmp_path / "all", ants=1, cats=1)
    tars = tmp_path / "tars"
    tars.mkdir()
    for name in ("ants", "cats"):
        members = [(x.name, x.read_bytes()) for x in (root / name).iterdir()]
        (tars / f"{name}.tar").write_bytes(packed(*members))
    (tars / "bees.tar").write_bytes(packed(("readme.txt", b"nothing")))
    with (
        pytest.warns(UserWarning, match="1 class without a picture: bees"),
        pytest.warns(UserWarning, match="not read"),
    ):
        source = sources.open_source(sources.detect(str(tars)))
    assert [*source.classes] == ["ants", "bees", "cats"]
    assert labels(source) == {Label(0, "ants"), Label(2, "cats")}


def test_a_prepared_data_set_has_the_names_of_its_feature(tmp_path):
    folder = tfds_sets.classes(tmp_path, count=6)
    source = sources.open_source(sources.detect(str(folder)))
    found = records.classes(source)
    assert len(found) > 1 and all(found[each.index] == each.name for each in labels(source))


# ---------------------------------------------------------------------------- compared


def test_classes_of_one_name_are_the_same_whatever_their_order():
    found = class_names.match(("bees", "cats", "ants"), 3, ("ants", "bees"), "x")
    assert found.by == "name" and not found.unknown
    assert [found.number(Label(i, x), "r") for i, x in enumerate(("ants", "bees"))] == [2, 0]
    assert found.words() == "a class counts by its name"


def test_a_name_that_the_model_does_not_have_is_named():
    found = class_names.match(("ants", "bees"), 2, ("bees", "dogs"), "x")
    assert found.unknown == ("dogs",) and found.number(Label(0, "bees"), "r") == 1
    with pytest.raises(DataError, match="r is of class 'dogs', which is none of the model's"):
        found.number(Label(1, "dogs"), "r")


@pytest.mark.parametrize(
    ("model", "count", "data"),
    [((), 2, ("ants", "bees")), (("ants", "bees"), 2, ()), ((), 2, ())],
)
def test_without_names_numbers_count(model, count, data):
    found = class_names.match(model, count, data, "x")
    assert found.by == "number" and found.number(Label(1, "whatever"), "r") == 1
    for number in (-1, 2):
        with pytest.raises(DataError, match=f"r has class {number} .*, but there are 2, from 0"):
            found.number(Label(number, "z"), "r")


def test_numbers_that_cannot_mean_the_same_are_refused():
    with pytest.raises(ConfigError, match=r"x has 1 class \(ants\), but the model tells 2 apart"):
        class_names.match((), 2, ("ants",), "x")
    with pytest.raises(ConfigError, match="none of the classes of x: it tells a, b apart, and"):
        class_names.match(("a", "b"), 2, ("c", "d"), "x")


def test_imagenets_synsets_are_its_numbers_whatever_a_model_calls_them():
    called = [f"thing {i}" for i in range(1000)]
    assert class_names.match(called, 1000, SYNSETS, "x").by == "number"
    assert class_names.are_synsets(SYNSETS)
    swapped = [SYNSETS[1], SYNSETS[0], *SYNSETS[2:]]
    for other in (swapped, SYNSETS[:-1], [*SYNSETS[:-1], "n1"]):
        assert not class_names.are_synsets(other)
        with pytest.raises(ConfigError, match="knows none"):
            class_names.match(called, 1000, other, "x")


# ------------------------------------------------------------------------------- counted


@pytest.mark.parametrize(
    ("classes", "counts", "words"),
    [
        (("a", "b"), {"a": 9, "b": 1}, []),
        (("a", "b"), {"a": 10, "b": 1}, ["classes are uneven: 10 of a, but 1 of b"]),
        ((), {"a": 3}, ["all pictures are of one class, a: nothing can be told apart"]),
        (
            ("a", "b", "c"),
            {"b": 3},
            ["2 classes without a picture: a, c", "all pictures are of one class, b: nothing can"],
        ),
        (("a", "b"), {}, ["2 classes without a picture: a, b"]),
    ],
)
def test_unexpected_counts_are_said(classes, counts, words):
    found = class_names.notes(classes, counts)
    assert len(found) == len(words)
    assert all(each.startswith(text) for each, text in zip(found, words, strict=True))


def test_a_check_says_them(tmp_path):
    root = folders(tmp_path, ants=10, bees=1, cats=0)
    with pytest.warns(UserWarning, match="cats"):
        found = check.run(opened(root))
    assert found["notes"] == [
        "1 class without a picture: cats",
        "classes are uneven: 10 of ants, but 1 of bees",
    ]
