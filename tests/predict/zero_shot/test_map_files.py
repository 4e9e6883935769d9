"""Grey pictures as maps: found by name, and read as numbers from 0 to 1."""

import numpy as np
import pytest
from PIL import Image

from esam_jax.errors import DataError, MissingError
from esam_jax.predict.zero_shot import map_files

VALUES = np.array([[0, 51, 255], [102, 204, 153]], np.uint8)


def save(path, array=VALUES, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["sub/a.jpg.png", "sub/a.png", "a.png", "a.jpg.png", "a.webp"])
def test_found_by_name_in_the_same_folders_or_flat(tmp_path, name):
    file = save(tmp_path / name, lossless=True) if name.endswith("webp") else save(tmp_path / name)
    assert map_files.of(tmp_path, ["sub/a.jpg"]) == {"sub/a.jpg": file}


def test_the_digest_is_of_names_and_contents(tmp_path):
    one, other = tmp_path / "a.png", tmp_path / "b.png"
    one.write_bytes(b"one")
    other.write_bytes(b"two")
    files = {"a": one, "b": other, "\udcff": tmp_path / "absent"}
    found = map_files.digest(files)
    assert found == map_files.digest(dict(reversed(files.items())))
    assert found != map_files.digest({**files, "a": other})
    assert found != map_files.digest({"c": one, "b": other, "\udcff": tmp_path / "absent"})
    assert found != map_files.digest({"a": one, "b": other})


def test_what_is_missing_is_named_and_counted(tmp_path):
    save(tmp_path / "b.png")
    with pytest.raises(MissingError, match=r"has no a\.png, nor that of 1 other picture: write"):
        map_files.of(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    with pytest.raises(MissingError, match="is no folder"):
        map_files.of(tmp_path / "absent", ["a.jpg"])


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (VALUES, VALUES / 255),
        (np.repeat(VALUES[..., None], 3, axis=2), VALUES / 255),  # as U-2-Net writes it
        (VALUES.astype(np.uint16) * 257, VALUES / 255),
        (VALUES > 100, VALUES > 100),
    ],
)
def test_read_as_numbers(tmp_path, array, wanted):
    found = map_files.read(save(tmp_path / "a.png", array), (2, 3))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_colours_and_other_sizes_are_refused_by_name(tmp_path):
    coloured = np.zeros((2, 3, 3), np.uint8)
    coloured[..., 0] = 200
    file = save(tmp_path / "a.png", coloured)
    with pytest.raises(DataError, match=r"a\.png: it has colours, but must be grey"):
        map_files.read(file)
    with pytest.raises(DataError, match=r"b\.png: it is 3 x 2, but its picture 4 x 2: write it"):
        map_files.read(save(tmp_path / "b.png"), (2, 4))


def test_written_as_it_is_read(tmp_path):
    (tmp_path / "a.png").write_bytes(map_files.png((VALUES / 255).astype(np.float32)))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), VALUES)
