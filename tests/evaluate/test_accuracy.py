"""Top-1 and top-5 against sorting, over any mesh, without broken pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import made_sets
from hypothesis import given
from hypothesis import strategies as st

from esam_jax import sharding
from esam_jax.config import ClassifiedConfig, EvaluateConfig, ImageFolderConfig, MeshConfig
from esam_jax.data import sources
from esam_jax.data.views import classified
from esam_jax.errors import ConfigError
from esam_jax.evaluate import accuracy

KERNEL = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)


@given(
    values=st.lists(st.lists(st.integers(-2, 2), min_size=7, max_size=7), min_size=1, max_size=5),
    data=st.data(),
)
def test_a_rank_is_the_place_in_a_stable_order(values, data):
    """With as many ties as there are."""
    labels = [data.draw(st.integers(0, 6)) for _ in values]
    order = np.argsort([[-x for x in row] for row in values], axis=1, kind="stable")
    wanted = [row.tolist().index(label) for label, row in zip(labels, order, strict=True)]
    logits = jnp.asarray(values, jnp.float32)
    assert accuracy.rank(logits, jnp.asarray(labels)).tolist() == wanted


def logits(params, image):
    """Of the mean colour, whose parts are as large as the network's."""
    return (image.astype("float32").mean((1, 2)) / 64 - 2) @ params["kernel"]


def by_hand(source, places):
    """Shares of the pictures whose class is the likeliest, or among five."""
    ranks = []
    for place in places:
        record = source.read(place)
        mean = classified.centred(record, 24).astype(np.float64).mean((0, 1)) / 64 - 2
        order = np.argsort(-(mean @ KERNEL))
        ranks.append(order.tolist().index(record.annotation("label").index))
    return np.mean(np.array(ranks) < 1), np.mean(np.array(ranks) < 5)


def measured(folder, data=1, images=100, names=tuple("abcdef")):
    """By a model that has `names`, or so many classes without."""
    named = () if isinstance(names, int) else names
    classes = names if isinstance(names, int) else len(names)
    view = ClassifiedConfig(image_px=24, classes=classes, class_names=named)
    config = EvaluateConfig(source=ImageFolderConfig(path=str(folder)), images=images)
    mesh = sharding.make_mesh(MeshConfig(data=data))
    run = accuracy.measurement(logits, view, config, mesh)
    kernel = jax.device_put({"kernel": KERNEL[:, :classes]}, sharding.replicated(mesh))
    return run(kernel, {})


@pytest.mark.parametrize("data", [1, 8])
def test_shares_are_those_of_all_pictures(tmp_path, data):
    """More of them than one batch of a device holds."""
    folder = made_sets.image_folder(tmp_path, 41)
    source = sources.open_source(ImageFolderConfig(path=str(folder)))
    top1, top5 = by_hand(source, range(41))
    assert 0 < top1 < top5 <= 1
    found = measured(folder, data)
    assert found == {
        "top1": pytest.approx(top1, abs=1e-6),
        "top5": pytest.approx(top5, abs=1e-6),
        "images": 41,
        "skipped": 0,
    }


def test_some_pictures_are_those_that_the_seed_chooses(tmp_path):
    folder = made_sets.image_folder(tmp_path, 20)
    source = sources.open_source(ImageFolderConfig(path=str(folder)))
    chosen = np.random.default_rng(EvaluateConfig.seed).permutation(20)[:7].tolist()
    found = measured(folder, images=7)
    assert (found["top1"], found["top5"]) == pytest.approx(by_hand(source, chosen), abs=1e-6)
    assert found["images"] == 7


def test_what_is_broken_is_left_out_and_named(tmp_path):
    folder = made_sets.image_folder(tmp_path, 9)
    (folder / "a" / "zz.png").write_bytes(b"nothing")
    source = sources.open_source(ImageFolderConfig(path=str(folder)))
    intact = [i for i in range(len(source)) if "zz" not in source.name(i)]
    with pytest.warns(UserWarning, match=r"1 broken picture left out, the first: .*zz\.png"):
        found = measured(folder, data=8)
    assert found["images"] == 9 and found["skipped"] == 1
    assert "zz.png" in found["reasons"][0]
    assert found["top1"] == pytest.approx(by_hand(source, intact)[0], abs=1e-6)


def test_classes_that_the_model_does_not_know_are_left_out_and_named(tmp_path):
    folder = made_sets.image_folder(tmp_path, 9)
    (folder / "c").mkdir()
    next((folder / "b").iterdir()).rename(folder / "c" / "other.png")
    with pytest.warns(UserWarning, match=r"c/other\.png is of class 'c', which is none of the"):
        found = measured(folder, names=("b", "a"))
    assert found["images"] == 8 and found["skipped"] == 1


def test_classes_are_those_of_the_same_name_whatever_their_number(tmp_path):
    folder = made_sets.image_folder(tmp_path, 20)
    wanted = by_hand(sources.open_source(ImageFolderConfig(path=str(folder))), range(20))
    (folder / "a").rename(folder / "z")  # the second of b and z: its number was 0
    found = measured(folder, names=("z", "b", *"cdef"))
    assert (found["top1"], found["top5"]) == pytest.approx(wanted, abs=1e-6)
    assert found["top1"] != pytest.approx(measured(folder, names=tuple("bzcdef"))["top1"])


def test_numbers_count_where_the_model_has_no_names_and_as_many_classes(tmp_path):
    folder = made_sets.image_folder(tmp_path, 9)
    for empty in "cdef":
        (folder / empty).mkdir()
    empty = "4 classes without a picture: c, d, e, f"
    with pytest.warns(UserWarning, match=empty):
        source = sources.open_source(ImageFolderConfig(path=str(folder)))
    with pytest.warns(UserWarning, match=empty):
        found = measured(folder, names=6)
    assert found["top1"] == pytest.approx(by_hand(source, range(9))[0], abs=1e-6)
    with (
        pytest.warns(UserWarning, match=empty),
        pytest.raises(ConfigError, match=r"has 6 classes \(a, b, c, d, e, f\), but .* tells 5"),
    ):
        measured(folder, names=5)
    with (
        pytest.warns(UserWarning, match=empty),
        pytest.raises(ConfigError, match="tells x, y apart, and these are a, b, c, d, e, f"),
    ):
        measured(folder, names=("x", "y"))


def test_nothing_that_can_be_read_measures_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="1 broken picture"):
        found = measured(tmp_path)
    assert found.keys() == {"images", "skipped", "reasons"} and found["images"] == 0


def test_pictures_without_classes_are_refused(tmp_path):
    made_sets.image_folder(tmp_path, 2)
    next((tmp_path / "a").iterdir()).rename(tmp_path / "top.png")
    with pytest.raises(ConfigError, match="has no label here"):
        measured(tmp_path)
