"""BSDS500: what several people drew, from MATLAB's files and from NumPy's."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import drawn_sets, whole

from esam_jax.config import BsdsConfig, PromptedConfig
from esam_jax.data import sources
from esam_jax.data.examples import Examples, Tally
from esam_jax.data.mask_sets import describe
from esam_jax.data.records import AnnotatedSource
from esam_jax.errors import DataError


def opened(folder: Path, **fields: Any) -> sources.Source:
    return sources.open_source(BsdsConfig(path=str(folder), **fields))


def numpy_form(folder: Path) -> Path:
    """One picture, as `gt/NAME.npz` has it."""
    drawn_sets.picture(folder / "images" / "12.jpg")
    (folder / "gt").mkdir()
    boundaries, regions = drawn_sets.drawn_by_people(3, 1)
    np.savez_compressed(folder / "gt" / "12.npz", boundaries=boundaries, segmentation=regions)
    return folder


@pytest.mark.parametrize("given", [".", "BSDS500", "BSDS500/data"])
def test_the_original_layout_is_found_from_above(tmp_path: Path, given: str):
    drawn_sets.bsds(tmp_path)
    config = sources.detect(str(tmp_path / given))
    assert config == BsdsConfig(path=str(tmp_path / given))
    source = sources.open_source(config)
    assert [source.name(i) for i in range(len(source))] == [
        "train/11.jpg",
        "val/12.jpg",
        "val/13.jpg",
    ]


def test_a_split_is_read_alone(tmp_path: Path):
    source = opened(drawn_sets.bsds(tmp_path), split="val")
    assert [source.name(i) for i in range(len(source))] == ["val/12.jpg", "val/13.jpg"]
    with pytest.raises(DataError, match=r"'test', .* its splits are train, val"):
        opened(tmp_path, split="test")


def check(source: sources.Source, index: int) -> None:
    """Against what was drawn, one person and one region after the other."""
    record = source.read(index)
    boundaries, regions = drawn_sets.drawn_by_people(3, 1)
    np.testing.assert_array_equal(record.annotation("boundaries"), boundaries == 1)
    assert record.annotation("boundaries").dtype == bool
    wanted = {
        f"annotator {person + 1} region {number}": regions[person] == number
        for person in range(3)
        for number in range(1, 6)
        if (regions[person] == number).any()
    }
    masks = record.annotation("masks")
    assert [describe(masks, i).identity for i in range(len(masks))] == list(wanted)
    np.testing.assert_array_equal(whole.masks(record), list(wanted.values()))


def test_everybody_s_regions_are_masks(tmp_path: Path):
    check(opened(drawn_sets.bsds(tmp_path / "a")), 1)
    check(sources.open_source(sources.detect(str(numpy_form(tmp_path / "b")))), 0)


def test_training_reads_them(tmp_path: Path):
    view = PromptedConfig(image_px=32, min_area_px=1, max_area=1.0, masks=9)
    tally = Tally(examples := Examples(opened(drawn_sets.bsds(tmp_path)), view, seed=0), 0.1)
    assert sum(int(tally.view_of(examples[i])["valid"].sum()) for i in range(3)) == 2 * (2 + 3 + 4)
    assert not tally.broken


B, S = drawn_sets.drawn_by_people(2)
BAD_MATLAB: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a MATLAB file"),
    "another size": (drawn_sets.matlab(B[:, :9], S[:, :9]), "ground truth is 9 x 20, but the pict"),
    "two sizes": (drawn_sets.matlab(B[:, :9], S), r"what annotator 1 drew is \(12, 20\), but"),
    "fractions": (drawn_sets.matlab(B, S + 0.5), "must be whole numbers"),
    "three axes": (drawn_sets.matlab(B[..., None], S[..., None]), "with 2 axes|must be whole"),
    "boundaries of 2": (drawn_sets.matlab(B * 2, S), "boundaries must be 0 or 1"),
    "negative": (drawn_sets.matlab(B, S.astype(int) * -1), "must be numbers from 0"),
    "many regions": (drawn_sets.matlab(B, S * np.uint16(4000)), "annotator [12] has the region"),
    "nobody": (drawn_sets.matlab(B[:0], S[:0]), "has 0 annotators"),
    "a crowd": (drawn_sets.matlab(*drawn_sets.drawn_by_people(51)), "has 51 annotators"),
}


@pytest.mark.parametrize("case", BAD_MATLAB)
def test_bad_matlab_files_cost_their_pictures(tmp_path: Path, case: str):
    data, message = BAD_MATLAB[case]
    (drawn_sets.bsds(tmp_path) / "BSDS500/data/groundTruth/val/12.mat").write_bytes(data)
    source = opened(tmp_path)
    with pytest.raises(DataError, match=rf"12\.(mat|jpg): .*({message})"):
        source.read(1)
    assert len(source.read(0).annotation("masks")) == 4


def header(shape: object, descr: str = "|u1") -> bytes:
    """The first bytes of an .npy file."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def npz(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


GOOD = saved(B)
BAD_NUMPY: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "broken .npz"),
    "cut": (npz(boundaries=GOOD, segmentation=saved(S))[:-30], "broken .npz"),
    "no boundaries": (npz(segmentation=saved(S)), "no array 'boundaries'"),
    "no regions": (npz(boundaries=GOOD), "no array 'segmentation'"),
    "pickled": (npz(boundaries=saved(np.array([[[{}]]])), segmentation=GOOD), "do not agree"),
    "huge": (npz(boundaries=header((2**40, 2**40, 9)), segmentation=GOOD), "do not agree"),
    "negative": (npz(boundaries=header((-1, 1, 1)), segmentation=GOOD), "do not agree"),
    "short": (npz(boundaries=header((2, 12, 20)) + b"0", segmentation=GOOD), "do not agree"),
    "a bomb": (npz(boundaries=bytes(2**26 + 1), segmentation=GOOD), "at most 67108864"),
    "no array": (npz(boundaries=b"text", segmentation=GOOD), "broken .npz"),
    "code": (npz(boundaries=header("__import__('os')"), segmentation=GOOD), "broken .npz"),
    "fractions": (npz(boundaries=saved(B / 2), segmentation=GOOD), "must be whole numbers"),
    "two axes": (npz(boundaries=saved(B[0]), segmentation=GOOD), "with 3 axes"),
    "two sizes": (npz(boundaries=saved(B[:1]), segmentation=GOOD), "but both must be"),
    "another size": (npz(boundaries=saved(B[:, 1:]), segmentation=saved(S[:, 1:])), "is 11 x 20"),
}


@pytest.mark.parametrize("case", BAD_NUMPY)
def test_bad_numpy_files_cost_their_pictures(tmp_path: Path, case: str):
    data, message = BAD_NUMPY[case]
    (numpy_form(tmp_path) / "gt" / "12.npz").write_bytes(data)
    with pytest.raises(DataError, match=rf"12\.(npz|jpg): .*{message}"):
        opened(tmp_path).read(0)


def test_a_huge_file_is_not_read(tmp_path: Path):
    with (numpy_form(tmp_path) / "gt" / "12.npz").open("r+b") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(DataError, match=r"12\.npz: it is larger than 67108864 bytes"):
        opened(tmp_path).read(0)


def test_the_digest_follows_the_ground_truth(tmp_path: Path):
    source = opened(drawn_sets.bsds(tmp_path))
    assert isinstance(source, AnnotatedSource)
    before = source.digest()
    (tmp_path / "BSDS500/data/groundTruth/val/12.mat").write_bytes(BAD_MATLAB["two sizes"][0])
    assert before.startswith("ground truth of 3 ") and source.digest() != before
