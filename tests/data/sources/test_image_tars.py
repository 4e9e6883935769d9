"""ImageNet's own archives, small: pictures, names and classes, without unpacking."""

import io
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from helpers.tar_files import packed
from PIL import Image

from esam_jax.config import CropConfig, ImageTarsConfig
from esam_jax.data import records, sources, views
from esam_jax.data.labels import Label
from esam_jax.data.views import draws
from esam_jax.errors import ConfigError, DataError, MissingError

CLASSES = ("n01440764", "n01443537", "n02119789")


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((40, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


MEMBERS = {
    wnid: {f"{wnid}_{number}.JPEG": jpeg(100 * c + number) for number in (10026, 3, 200)}
    for c, wnid in enumerate(CLASSES)
}
INNER = {f"{wnid}.tar": packed(*members.items()) for wnid, members in MEMBERS.items()}
VAL = {f"ILSVRC2012_val_{i:08}.JPEG": jpeg(i) for i in range(8, 13)}
WANTED = {f"{wnid}/{name}": x for wnid, members in MEMBERS.items() for name, x in members.items()}


def opened(path: Path, **fields: str) -> sources.Source:
    return sources.open_source(ImageTarsConfig(path=str(path), **fields))


@pytest.fixture
def val(tmp_path: Path) -> Path:
    path = tmp_path / "ILSVRC2012_img_val.tar"
    path.write_bytes(packed(*VAL.items()))
    return path


def classes(source: sources.Source) -> list[Label]:
    return [source.read(i).annotation("label") for i in range(len(source))]


@pytest.mark.parametrize("form", ["nested", "folder of tars", "folders in a tar"])
def test_names_classes_and_pixels(tmp_path: Path, form: str):
    path = tmp_path / ("t" if form == "folder of tars" else "train.tar")
    if form == "nested":
        path.write_bytes(packed(*reversed(INNER.items())))
    elif form == "folder of tars":
        path.mkdir()
        for name, content in INNER.items():
            (path / name).write_bytes(content)
    else:
        path.write_bytes(packed(*((f"./{name}", content) for name, content in WANTED.items())))
    source = opened(path)
    assert [source.name(i) for i in range(len(source))] == sorted(WANTED)
    for i, label in enumerate(classes(source)):
        wnid = source.name(i).split("/")[0]
        assert label == Label(CLASSES.index(wnid), wnid)
        with Image.open(io.BytesIO(WANTED[source.name(i)])) as image:
            pixels = np.asarray(image).astype(int)
        assert np.abs(source.read(i).picture.rgb() - pixels).max() <= 1
    assert sources.detect(str(path)) == ImageTarsConfig(path=str(path))
    assert records.summary(source).endswith(f"3 classes {source.digest().split()[-1]}")
    view = views.make(source.read(0), CropConfig(image_px=16), draws.generator(0, 0, "x"))
    assert view is not None and view["image"].shape == (16, 16, 3)


def test_a_class_may_be_a_number_or_begin_with_one(tmp_path: Path):
    """The last number of a name is kept apart from it, wherever it is."""
    members = [("12/a.jpg", jpeg(1)), ("cat3/b.jpg", jpeg(2)), ("cat3/x/5.jpg", jpeg(3))]
    members += [("top.jpg", jpeg(4)), ("dog/7.jpg", jpeg(5)), ("dog/no.jpg", jpeg(6))]
    (tmp_path / "x.tar").write_bytes(packed(*members))
    source = opened(tmp_path / "x.tar")
    found = {}
    for i in range(len(source)):
        label = source.read(i).annotations.get("label")
        found[source.name(i)] = label and (label.index, label.name)
    assert found == {
        "12/a.jpg": (0, "12"),
        "cat3/b.jpg": (1, "cat3"),
        "cat3/x/5.jpg": (3, "x"),
        "dog/7.jpg": (2, "dog"),
        "dog/no.jpg": (2, "dog"),
        "top.jpg": None,
    }


def test_pictures_without_a_class_have_none(val: Path):
    source = opened(val)
    assert [source.name(i) for i in range(5)] == sorted(VAL)
    with pytest.raises(ConfigError, match="comes from a source without label"):
        source.read(0).annotation("label")


# Classes 2 and 1 are not in the order of their names, as in the development kit.
LINES = ["3", "2", "2", "1", "3"]
WNIDS = {"1": CLASSES[1], "2": CLASSES[0], "3": CLASSES[2], "1001": "n00000001"}


def meta(folder: Path) -> None:
    rows = [(np.uint16(int(number)), wnid) for number, wnid in WNIDS.items()]
    table = np.array(rows, [("ILSVRC2012_ID", object), ("WNID", object)])
    scipy.io.savemat(folder / "meta.mat", {"synsets": table})


@pytest.mark.parametrize("form", ["development kit", "a class a line", "names", "paths"])
def test_classes_from_a_file(val: Path, tmp_path: Path, form: str):
    labels = tmp_path / "ILSVRC2012_validation_ground_truth.txt"
    names, wnids = sorted(VAL), [WNIDS[line] for line in LINES]
    if form == "development kit":
        meta(tmp_path)
        labels.write_text("\n".join(LINES) + "\n")
    elif form == "a class a line":
        labels.write_text("\n".join(wnids))
    else:
        pairs = [f"{name}\t{wnid}" for name, wnid in zip(names, wnids, strict=True)]
        labels.write_text("\r\n".join([*reversed(pairs), f"absent.JPEG {CLASSES[0]}"]))
    path = val
    if form == "paths":
        (tmp_path / "t").mkdir()
        path = val.rename(tmp_path / "t" / "part.tar").parent
    source = opened(path, labels=str(labels))
    wanted = [Label(CLASSES.index(wnid), wnid) for wnid in wnids]
    assert classes(source) == wanted and source.findings == []
    assert source.digest() != opened(path).digest()


def test_a_picture_without_a_class_is_left_out_and_noted(val: Path, tmp_path: Path):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"{name} cat" for name in sorted(VAL)[2:]))
    source = opened(val, labels=str(labels))
    assert [source.name(i) for i in range(len(source))] == sorted(VAL)[2:]
    assert classes(source) == [Label(0, "cat")] * 3
    (found,) = source.findings
    assert (found.kind, found.count) == ("pictures_left_out", 2)
    assert found.text == f"{min(VAL)} has no class in {labels} (the first of 2)"


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        (b"a\nb", DataError, "has 2 lines, but there are 5 pictures"),
        (b"a b\nc", DataError, "line 2 is not a picture's name and its class"),
        (b"a b c\n" * 5, DataError, "line 1 is not a picture's name and its class"),
        (b"", DataError, "is empty"),
        (b"\xff\xff", DataError, "no text in UTF-8"),
        (b"x cat\ny cat", DataError, "none of its pictures is there, the first is x"),
        (b"1\n2\n3\n1\n2", MissingError, r"numbers its classes .* put it at .*meta\.mat"),
        (b"c\x1b[2J\nc\nc\nc\nc", DataError, "line 1 has a class whose name cannot be shown"),
        (None, MissingError, r"labels\.txt cannot be read"),
    ],
)
def test_a_file_of_classes_that_cannot_be_used(
    val: Path, tmp_path: Path, text: bytes | None, error: type, reason: str
):
    labels = tmp_path / "labels.txt"
    if text is not None:
        labels.write_bytes(text)
    with pytest.raises(error, match=reason):
        opened(val, labels=str(labels))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no mat", "is not ImageNet's"),
        (b"MATLAB" * 100, "is not ImageNet's"),
        (bytes(2**20 + 1), "more than 1048576 bytes"),
        (None, "has the class 9, which is not in"),
    ],
)
def test_a_development_kit_that_cannot_be_used(
    val: Path, tmp_path: Path, content: bytes | None, reason: str
):
    labels = tmp_path / "labels.txt"
    labels.write_text("1\n2\n3\n9\n1")
    meta(tmp_path)
    if content is not None:
        (tmp_path / "meta.mat").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        opened(val, labels=str(labels))


def test_other_files_are_counted(tmp_path: Path):
    path = tmp_path / "x.tar"
    path.write_bytes(packed(("a/1.jpg", jpeg(1)), ("a/notes.txt", b""), ("b", b""), ("c.mp4", b"")))
    with pytest.warns(UserWarning, match=r"not read: \.mp4 \(1\), \.txt \(1\), no ending \(1\)"):
        assert len(opened(path)) == 1
    path = tmp_path / "y.tar"
    path.write_bytes(packed(("notes.txt", b"")))
    with pytest.raises(
        DataError, match=r"holds no \.jpg.* file at any depth; it holds \.txt \(1\)"
    ):
        opened(path)


def test_one_name_by_two_ways_is_one_picture(tmp_path: Path):
    """b1/y/c.jpg of a.tar, and y/c.jpg of a/b1.tar: also where the last number is the archive's."""
    (tmp_path / "t" / "a").mkdir(parents=True)
    (tmp_path / "t" / "a" / "b1.tar").write_bytes(packed(("y/c.jpg", jpeg(3))))
    (tmp_path / "t" / "a.tar").write_bytes(packed(("b1/y/c.jpg", jpeg(1))))
    source = opened(tmp_path / "t")
    assert [source.name(i) for i in range(len(source))] == ["a/b1/y/c.jpg"]
    (found,) = source.findings
    assert found.text == f"{tmp_path / 't/a/b1.tar'}: a/b1/y/c.jpg is in an archive before it, too"


def test_train_and_val_in_one_folder_are_told_apart(val: Path, tmp_path: Path):
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(packed(*INNER.items()))
    with pytest.raises(
        DataError, match=r"train\.tar holds folders, and .*val\.tar none: .* name one"
    ):
        opened(tmp_path)


def test_a_compressed_archive_has_a_remedy(tmp_path: Path):
    path = tmp_path / "x.tar"
    path.write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(DataError, match="is compressed, and can only be read in order: gunzip it"):
        sources.open_source(sources.detect(str(path)))


def test_a_broken_picture_costs_itself(tmp_path: Path):
    path = tmp_path / "x.tar"
    path.write_bytes(packed(("a/1.jpg", b"no picture"), ("a/2.jpg", jpeg(1))))
    source = opened(path)
    with pytest.raises(DataError, match=r"x\.tar, byte 512: a/1\.jpg: not a JPEG"):
        source.read(0)
    assert source.read(1).picture.rgb().shape == (30, 40, 3)
