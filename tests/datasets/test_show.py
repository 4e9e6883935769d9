"""What is shown is what a run is given, and what a source says."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import label_maps, made_sets
from PIL import Image

from esam_jax import sharding
from esam_jax.config import (
    CropConfig,
    DataConfig,
    FramedConfig,
    MeshConfig,
    PromptedConfig,
    ScenesConfig,
)
from esam_jax.data import loader, sources
from esam_jax.data.labels import Label, SemanticMap
from esam_jax.data.mask_sets import LabelledMasks
from esam_jax.data.pictures import Pixels
from esam_jax.data.records import Record
from esam_jax.datasets import show
from esam_jax.errors import TrainingError
from esam_jax.ops import images, rectangles
from esam_jax.predict import draw
from esam_jax.typing import BOTTOM_RIGHT, FOREGROUND, PADDING, TOP_LEFT

BATCH = 4
PROMPTED = PromptedConfig(image_px=48, masks=3, min_area_px=4, flip="horizontal")


def test_a_classified_view_is_shown_with_its_noise():
    rng = np.random.default_rng(0)
    view = {
        "image": rng.integers(0, 256, (20, 24, 3), np.uint8),
        "label": np.int32(3),
        "erased": np.array([2, 5, 9, 11], np.int32),
        "noise": np.array([1, 2], np.uint32),
    }
    shown = show.of_view("x", view)
    assert shown.about == "class 3" and shown.masks is None
    changed = (shown.picture != view["image"]).any(-1)
    outside = changed.copy()
    outside[2:9, 5:11] = False
    assert not outside.any() and changed[2:9, 5:11].mean() > 0.9
    noise = images.normalise(jnp.asarray(shown.picture))[2:9, 5:11]
    wanted = rectangles.erased(
        images.normalise(jnp.asarray(view["image"]))[None],
        jnp.asarray(view["erased"])[None],
        jnp.asarray(view["noise"])[None],
    )[0, 2:9, 5:11]
    shown_as_is = np.abs(wanted) < 1.5  # the rest is cut where black and white end
    np.testing.assert_allclose(noise[shown_as_is], wanted[shown_as_is], atol=0.01)


def data(view, source):
    return DataConfig(source=source, view=view, threads=2, max_broken_share=0.5)


def batches(config, seed, first):
    mesh = sharding.make_mesh(MeshConfig(data=1))
    opened = sources.open_source(config.source)
    with loader.stream(
        opened, config, seed=seed, batch=BATCH, mesh=mesh, first_batch=first
    ) as stream:
        for _ in range(2):
            batch = next(stream)
            for i in range(BATCH):
                yield {key: np.asarray(rows[i]) for key, rows in batch.items()}


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize(
    "view",
    [PROMPTED, CropConfig(image_px=16), FramedConfig(image_px=24, fit="pad")],
    ids=lambda view: view.kind,
)
def test_examples_are_those_of_the_loader(view, first, tmp_path):
    """Also where a record is broken, and another one takes its place."""
    folder = made_sets.sa1b(tmp_path, 7)
    (folder / "sa_3.jpg").write_bytes(b"")
    config = data(view, sources.detect(str(folder)))
    source = sources.open_source(config.source)
    shown = show.examples(source, config, seed=5, batch=BATCH, first_batch=first)
    for row, each in zip(batches(config, 5, first), shown):
        assert each.name != "sa_3.jpg"
        np.testing.assert_array_equal(each.picture, row["image"])
        if "masks" not in row:
            assert each.masks is None and not each.prompts
            continue
        used = int(row["valid"].sum())
        assert len(each.masks) == len(each.prompts) == used
        for k, prompt in enumerate(each.prompts):
            expected = images.unpack_bits(jnp.asarray(row["masks"][k]))  # as the step does it
            np.testing.assert_array_equal(each.masks[k], expected)
            if prompt.box is None:
                assert row["labels"][k].tolist() == [FOREGROUND, PADDING]
                np.testing.assert_array_equal(prompt.points, row["points"][k][:1])
            else:
                assert row["labels"][k].tolist() == [TOP_LEFT, BOTTOM_RIGHT]
                assert len(prompt.points) == 0
                edges = np.add(row["points"][k].ravel(), (0, 0, 1, 1), dtype=np.float64)
                np.testing.assert_array_equal(prompt.box, edges)
        assert used > 0


def test_both_kinds_of_prompts_are_shown():
    config = data(PROMPTED, ScenesConfig(scenes=20))
    source = sources.open_source(config.source)
    found = itertools.islice(show.examples(source, config, seed=0, batch=2), 8)
    prompts = [prompt for each in found for prompt in each.prompts]
    assert {prompt.box is None for prompt in prompts} == {True, False}


def test_a_run_that_would_stop_is_not_shown(tmp_path):
    folder = made_sets.sa1b(tmp_path, 12)
    for i in range(12):
        (folder / f"sa_{i}.jpg").write_bytes(b"")
    config = data(PROMPTED, sources.detect(str(folder)))
    with pytest.raises(TrainingError):
        next(show.examples(sources.open_source(config.source), config, seed=0, batch=1))


def test_a_record_is_shown_with_all_of_its_masks(tmp_path):
    source = sources.open_source(sources.detect(str(made_sets.sa1b(tmp_path, 9))))
    found = {each.name: each for each in show.records(source, seed=3)}
    assert sorted(found) == [f"sa_{i}.jpg" for i in range(9)]
    for number in range(9):
        each = found[f"sa_{number}.jpg"]
        np.testing.assert_array_equal(each.picture, made_sets.picture(number))
        np.testing.assert_array_equal(each.masks, np.stack(made_sets.masks(number)))
        assert each.about == f"{len(each.masks)} mask{'s' * (len(each.masks) != 1)}"
    orders = [[each.name for each in show.records(source, seed=seed)] for seed in (3, 4)]
    assert orders[0] == list(found) != orders[1]


def test_what_is_broken_is_left_out_and_said(tmp_path):
    folder = made_sets.sa1b(tmp_path, 3)
    (folder / "sa_1.json").write_text("{")
    reasons = []
    source = sources.open_source(sources.detect(str(folder)))
    found = [each.name for each in show.records(source, seed=0, left_out=reasons.append)]
    assert sorted(found) == ["sa_0.jpg", "sa_2.jpg"]
    assert len(reasons) == 1 and reasons[0].startswith("sa_1.jpg: ")


def test_large_pictures_are_reduced_with_their_masks(monkeypatch):
    """A pixel of a reduced mask is that of the picture at its centre."""
    labels = np.zeros((1024, 2048), np.uint8)
    labels[100:900, 200:1999], labels[300:310] = 1, 2
    picture = Pixels(np.repeat(labels[..., None] * 90, 3, axis=2))
    each = show.of_record(Record("r", picture, {"masks": LabelledMasks(labels)}))
    assert each.picture.shape == (256, 512, 3)
    for i in range(2):
        np.testing.assert_array_equal(each.masks[i], labels[2::4, 2::4] == i + 1)
    monkeypatch.setattr(show, "_MOST_MASKS", 1)
    fewer = show.of_record(Record("r", picture, {"masks": LabelledMasks(labels)}))
    np.testing.assert_array_equal(fewer.masks, each.masks[:1])
    assert fewer.about == "the largest 1 of 2 masks"


def test_classes_keep_their_colours_and_void_has_none():
    names = {2: "road", 5: "sky", 7: "tree"}
    values = np.full((40, 50), 9, np.uint8)
    values[:20], values[:, :5] = 5, 7
    picture = Pixels(np.full((40, 50, 3), 200, np.uint8))
    semantic = SemanticMap(values, names, frozenset({9}))
    each = show.of_record(Record("r", picture, {"semantic": semantic}))
    ((masks, captions),) = each.more
    assert captions == ("road", "sky", "tree")
    np.testing.assert_array_equal(masks, [values == value for value in names])
    drawn = show._panels(each)
    assert len(drawn) == 2
    # The second class is drawn in the second colour, whatever else is in the picture.
    inside = drawn[1][8 * 1, 8 * 20].astype(int)
    grey = 90 + 0.55 * 200
    expected = 0.55 * grey + 0.45 * np.array(draw.colour(1))
    assert np.abs(inside - expected).max() <= 1
    bare = drawn[1][8 * 30, 8 * 30].astype(int)
    assert np.abs(bare - grey).max() <= 1


def test_values_without_names_are_shown_too():
    values = np.zeros((4, 6), np.uint16)
    values[1], values[2] = 3, 700
    made = Record(
        "r",
        Pixels(np.zeros((4, 6, 3), np.uint8)),
        {"semantic": SemanticMap(values, {}, frozenset())},
    )
    ((masks, captions),) = show.of_record(made).more
    shown = {name: mask for name, mask in zip(captions, masks, strict=True) if mask.any()}
    assert {name: mask.sum() for name, mask in shown.items()} == {"0": 12, "3": 6}
    named = SemanticMap(values, {0: "a"}, frozenset())
    ((_, captions),) = show.of_record(
        dataclasses.replace(made, annotations={"semantic": named})
    ).more
    assert captions == ("a", "3", "700")


def test_thin_boundaries_survive_and_labels_are_said():
    boundaries = np.zeros((2, 1000, 1000), bool)
    boundaries[0, 501], boundaries[1, :, 77] = True, True
    picture = Pixels(np.zeros((1000, 1000, 3), np.uint8))
    annotations = {"boundaries": boundaries, "label": Label(3, "bee")}
    each = show.of_record(Record("r", picture, annotations))
    ((thin, _),) = each.more
    assert thin.shape == (2, 512, 512)
    assert thin[0].any(0).all() and thin[1].any(1).all() and thin[0].sum() <= 2 * 512
    assert each.about == "bee, 2 annotators"


def test_pictures_higher_than_wide_take_no_more_room():
    pixels = np.zeros((90, 30, 3), np.uint8)
    shown = [show.Shown("high", pixels), show.Shown("wide", pixels.swapaxes(0, 1))]
    high, wide = (show._panels(each)[0] for each in shown)
    assert high.shape[0] == high.shape[1] == wide.shape[1] and wide.shape[0] < wide.shape[1]
    left, inside, right = np.split(high, (high.shape[1] // 3 + 1, 2 * high.shape[1] // 3 - 1), 1)
    assert (left[:, :-2] == 255).all() and (right[:, 2:] == 255).all() and not inside.any()


def test_a_page_has_every_example_with_its_panels(tmp_path):
    source = sources.open_source(sources.detect(str(label_maps.label_maps(tmp_path))))
    page, names = show.sheet(show.records(source, seed=0), 3)
    assert sorted(names) == ["a.png", "c.png", "sub/b.png"]
    assert page.shape[1] == 12 + (640 + 12) * 2  # two pairs beside each other
    one, _ = show.sheet(show.records(source, seed=0), 1)
    assert one.shape[1] == 12 + 640 + 12
    first = next(show.records(source, seed=0))
    pair = np.concatenate(show._panels(first), axis=1)
    size = (640, round(pair.shape[0] * 640 / pair.shape[1]))
    cell = np.asarray(Image.fromarray(pair).resize(size, Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(one[12 : 12 + size[1], 12 : 12 + 640], cell)
