"""Classification: what a batch becomes, its mixtures, its loss, what it starts from and leaves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nano, tiny

from esam_jax import configs, tasks
from esam_jax.config import (
    ClassifierConfig,
    CocoConfig,
    ImageFolderConfig,
    ImageTarsConfig,
    MaeConfig,
    PackConfig,
    TfdsConfig,
)
from esam_jax.convert import load, model_folder
from esam_jax.convert.families import timm_vit
from esam_jax.errors import CheckpointError, ConfigError, MissingError
from esam_jax.models import named
from esam_jax.models.heads.classifier import Classifier
from esam_jax.ops import drop_path, images, rectangles
from esam_jax.tasks.task import Start

NAME, PX, CLASSES = "efficientsam_nano", 64, 5


def config(view=None, **changes):
    run = configs.load("classify_nano")
    task = dataclasses.replace(run.task, **changes)
    view = dataclasses.replace(run.data.view, **{"classes": CLASSES, **(view or {})})
    return dataclasses.replace(run, task=task, data=dataclasses.replace(run.data, view=view))


def network(pool="mean"):
    encoder = timm_vit.pretrained(named.sam(NAME).encoder)
    return ClassifierConfig(encoder=encoder, classes=CLASSES, pool=pool)


BATCH = {
    "image": jnp.asarray(nano.picture(4 * PX, PX).reshape(4, PX, PX, 3)),
    "label": jnp.array([0, 4, 1, 4]),
    "erased": jnp.array([[0, 0, 0, 0], [5, 9, 30, 60], [0, 0, 0, 0], [1, 2, 3, 4]]),
    "noise": jnp.arange(8, dtype=jnp.uint32).reshape(4, 2),
}
PLAIN = {"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0}


def prepared(run, draws=None):
    return jax.device_get(tasks.build(run).prepare({**BATCH, **(draws or {})}))


def _drawn(run, key, images=4):
    return tasks.build(run).draw(jax.random.key(key), images)


@functools.cache
def drawn(count=400, **changes):
    """Of many updates, one row each."""
    draw = tasks.build(config(**changes)).draw
    found = jax.jit(jax.vmap(lambda key: draw(key, 2)))(jax.random.split(jax.random.key(0), count))
    assert all((x[:, 0] == x[:, 1]).all() for name, x in found.items() if name != "drop_path")
    return {name: np.asarray(x[:, 0]) for name, x in found.items()}


# ----------------------------------------------------------------------------- what is prepared


def test_without_any_of_it_pictures_are_normalised_and_labels_hard():
    found = prepared(config({"erasing": 0.0}, **PLAIN))
    assert found.keys() == {"pixels", "target"}
    np.testing.assert_allclose(found["pixels"], images.normalise(BATCH["image"]), atol=1e-6)
    assert found["target"].tolist() == np.eye(CLASSES)[[0, 4, 1, 4]].tolist()


def test_noise_comes_after_normalising_and_before_mixing():
    plain = np.asarray(images.normalise(BATCH["image"]))
    found = prepared(config(**PLAIN))["pixels"]
    np.testing.assert_allclose(found[[0, 2]], plain[[0, 2]], atol=1e-6)
    inside = found[1, 5:30, 9:60]
    assert abs(inside.mean()) < 0.1 and abs(inside.std() - 1) < 0.1
    draws = {
        "box": jnp.tile(rectangles.EVERYTHING, (4, 1)),
        "kept": jnp.full(4, 0.75),
        "share": jnp.full(4, 0.75),
    }
    mixed = prepared(config(smoothing=0.0), draws)
    np.testing.assert_allclose(mixed["pixels"], 0.75 * found + 0.25 * found[::-1], atol=1e-5)
    eye = np.eye(CLASSES)[[0, 4, 1, 4]]
    np.testing.assert_allclose(mixed["target"], 0.75 * eye + 0.25 * eye[::-1], atol=1e-6)


def test_labels_are_smoothed_by_the_config():
    found = prepared(config(**{**PLAIN, "smoothing": 0.2}))["target"]
    assert found[0] == pytest.approx([0.84, 0.04, 0.04, 0.04, 0.04])


def test_one_batch_is_mixed_by_what_was_drawn():
    """A rectangle of the opposite picture, or a share of all of it; labels as the area is."""
    run = config({"erasing": 0.0}, smoothing=0.0)
    plain = np.asarray(images.normalise(BATCH["image"]))
    kinds = set()
    for key in range(8):
        draws = _drawn(run, key)
        found = prepared(run, draws)
        kept, share = float(draws["kept"][0]), float(draws["share"][0])
        top, left, bottom, right = np.clip(draws["box"][0], 0, PX).tolist()
        wanted = plain.copy()
        opposite = plain[::-1, top:bottom, left:right]
        own = plain[:, top:bottom, left:right]
        wanted[:, top:bottom, left:right] = kept * own + (1 - kept) * opposite
        np.testing.assert_allclose(found["pixels"], wanted, atol=1e-5)
        seen = 1 - (1 - kept) * (bottom - top) * (right - left) / PX**2
        assert share == pytest.approx(seen, abs=1e-6)
        assert found["target"][0, 0] == pytest.approx(share, abs=1e-6)
        kinds.add((bottom - top) * (right - left) == PX**2)
    assert kinds == {True, False}


# -------------------------------------------------------------------------------- what is drawn


def test_mixtures_are_of_both_kinds_evenly():
    cuts = drawn()["box"][:, 2] <= PX
    assert 0.4 < cuts.mean() < 0.6


def test_shares_of_mixup_have_the_betas_moments():
    found = drawn(2000, cutmix=0.0)
    assert (found["box"] == rectangles.EVERYTHING).all()
    assert np.array_equal(found["kept"], found["share"])
    # Beta(a, a) has a mean of 1/2 and a variance of 1 / (4 (2 a + 1)).
    assert found["share"].mean() == pytest.approx(0.5, abs=0.03)
    assert found["share"].var() == pytest.approx(1 / (4 * 2.6), abs=0.008)
    narrow = drawn(2000, cutmix=0.0, mixup=8.0)
    assert narrow["share"].var() == pytest.approx(1 / (4 * 17), abs=0.003)


def test_rectangles_of_cutmix_lie_everywhere():
    found = drawn(2000, mixup=0.0)
    assert not found["kept"].any()
    top, left, bottom, right = found["box"].T
    areas = (bottom - top) * (right - left) / PX**2
    np.testing.assert_allclose(found["share"], 1 - areas, atol=1e-6)
    assert top.min() == left.min() == 0 and bottom.max() == right.max() == PX
    # Before it is cut, a uniform share: centres are anywhere, so that a good half of it is left.
    assert 0.25 < areas.mean() < 0.4 and areas.max() > 0.8
    wide = (top + bottom) / 2
    assert wide.min() < 0.2 * PX and wide.max() > 0.8 * PX


def test_nothing_is_drawn_that_is_not_used():
    assert _drawn(config(**PLAIN), 0) == {}
    assert _drawn(config(drop_path=0.5, **PLAIN), 0).keys() == {"drop_path"}


# ------------------------------------------------------------------------------------- the loss


def _run(run, draws):
    task = tasks.build(run)
    params = {NAME: nano.params(network())}
    batch = task.prepare({**BATCH, **draws})
    return params[NAME], batch, tiny.jit(task.loss)(params, {}, batch)


@pytest.mark.parametrize("rate", [0.0, 0.6])
def test_loss_is_the_cross_entropy_of_what_was_prepared(rate):
    run = config(drop_path=rate)
    draws = _drawn(run, 3)
    params, batch, out = _run(run, draws)
    scales = drop_path.scales(draws["drop_path"], rate) if rate else None
    logits = tiny.jit(Classifier(network()).apply)({"params": params}, batch["pixels"], scales)
    logits = np.asarray(logits, np.float64)
    log_probability = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = -(np.asarray(batch["target"]) * log_probability).sum(-1)
    np.testing.assert_allclose(out.loss, wanted, rtol=2e-5)
    assert out.weight.tolist() == [1, 1, 1, 1]
    if rate:  # and some of both pictures' blocks were left out
        plain = tiny.jit(Classifier(network()).apply)({"params": params}, batch["pixels"])
        assert np.abs(plain - logits).max() > 0.01


# ---------------------------------------------------------------- what it starts from and leaves


def _start(path, **changes):
    return tasks.build(config(init_from=str(path), **changes)).initial().params[NAME]


def _write(folder, model, params=None, **more):
    params = nano.params(model) if params is None else params
    model_folder.write(folder, model, params, source="test", **more)
    return params


def _same(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("pool", ["mean", "class_token"])
def test_of_a_pretrained_vit_the_norm_is_taken_where_it_is_of_the_class_token(tmp_path, pool):
    params = _write(tmp_path / "mae", MaeConfig(encoder=network().encoder))
    found = _start(tmp_path / "mae", pool=pool)
    kept = {"encoder", "class_token"} | ({"norm"} if pool == "class_token" else set())
    assert found.keys() == kept
    _same(found, {name: params[name] for name in kept})


def test_of_a_sami_run_the_class_token_comes_with_the_trunk(tmp_path):
    model = named.sam(NAME)
    token, scale, bias = (np.full(64, x, np.float32) for x in (2, 3, 4))
    beside = timm_vit.kept({"class_token": token, "norm": {"scale": scale, "bias": bias}})
    params = _write(tmp_path / "sami", model, unused=beside)
    for pool in ("mean", "class_token"):
        found = _start(tmp_path / "sami", pool=pool)
        trunk = {name: x for name, x in params["encoder"].items() if name != "neck"}
        _same(found["encoder"], trunk)
        assert np.array_equal(found["class_token"], token)
        assert ("norm" in found) == (pool == "class_token")
    _same(found["norm"], {"scale": scale, "bias": bias})


def test_of_a_promptable_model_the_trunk_alone_is_there(tmp_path):
    _write(tmp_path / "sam", named.sam(NAME))
    assert _start(tmp_path / "sam").keys() == {"encoder"}


def test_of_the_same_classifier_all_is_taken_over(tmp_path):
    params = _write(tmp_path / "same", network())
    _same(_start(tmp_path / "same"), params)
    found = _start(tmp_path / "same", pool="class_token")
    assert found.keys() == {"encoder", "class_token"}
    other = dataclasses.replace(network(), classes=9)
    params = _write(tmp_path / "other", other)
    found = _start(tmp_path / "other")
    assert found.keys() == {"encoder", "class_token", "norm"}
    _same(found["norm"], params["norm"])


def test_the_head_is_that_of_classes_of_the_same_names(tmp_path):
    """As many others have another one, and so have classes whose names are not known."""
    named = dataclasses.replace(network(), class_names=tuple("abcde"))
    params = _write(tmp_path / "named", named)
    _write(tmp_path / "plain", network())

    def taken(where, names):
        run = config({"class_names": names}, init_from=str(tmp_path / where))
        return tasks.build(run).initial().params[NAME]

    _same(taken("named", tuple("abcde")), params)
    for where, names in (("named", tuple("abcdx")), ("named", ()), ("plain", tuple("abcde"))):
        assert taken(where, names).keys() == {"encoder", "class_token", "norm"}


def test_a_head_of_1000_classes_without_names_is_imagenets(tmp_path):
    synsets = tuple(f"n{i:08}" for i in range(1000))
    params = _write(tmp_path / "plain", dataclasses.replace(network(), classes=1000))
    view = {"class_names": synsets, "classes": 1000}
    for names, keeps in ((synsets, True), (tuple(f"c{i:03}" for i in range(1000)), False)):
        run = config(view | {"class_names": names}, init_from=str(tmp_path / "plain"))
        found = tasks.build(run).initial().params[NAME]
        assert ("head" in found) == keeps
    _same(found["encoder"], params["encoder"])


def test_a_model_keeps_the_names_of_its_classes(tmp_path):
    task = tasks.build(config({"class_names": tuple("abcde")}))
    params = {NAME: nano.params(network())}
    (model,) = task.models(params, Start()).values()
    model_folder.write(tmp_path / "model", model.config, model.params, source="test")
    assert load.model_file(tmp_path / "model").config.class_names == tuple("abcde")


def test_without_data_the_number_of_classes_must_be_given():
    with pytest.raises(ConfigError, match=r"write --data\.view\.classes N"):
        tasks.build(configs.load("classify_nano"))


def test_another_encoder_is_refused(tmp_path):
    encoder = dataclasses.replace(network().encoder, depth=2)
    _write(tmp_path / "less", MaeConfig(encoder=encoder))
    with pytest.raises(CheckpointError, match=r"another encoder than .*depth 2 instead of 3; name"):
        _start(tmp_path / "less")
    _write(tmp_path / "sam", named.sam("sam_nano"))
    with pytest.raises(CheckpointError, match="another encoder than 'efficientsam_nano'"):
        _start(tmp_path / "sam")
    with pytest.raises(MissingError, match="nowhere"):
        _start(tmp_path / "nowhere")


def test_what_is_left_behind_can_be_read_again(tmp_path):
    task = tasks.build(config())
    params = {NAME: nano.params(network())}
    (model,) = task.models(params, Start()).values()
    model_folder.write(tmp_path / "model", model.config, model.params, source="test")
    file = load.model_file(tmp_path / "model")
    assert file.config == network() and file.untrained == ()
    _same(file.params, params[NAME])
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, params)


def test_a_classifier_answers_no_prompts(tmp_path):
    import esam_jax

    _write(tmp_path / "model", network())
    with pytest.raises(CheckpointError, match="holds a classifier, which answers no prompts"):
        esam_jax.load(tmp_path / "model")


@pytest.mark.parametrize("source", [ImageFolderConfig, ImageTarsConfig, TfdsConfig, PackConfig])
def test_every_source_of_classes_can_be_read(source):
    run = config()
    data = dataclasses.replace(run.data, source=source())
    evaluate = dataclasses.replace(run.evaluate, source=source())
    tasks.build(dataclasses.replace(run, data=data, evaluate=evaluate))


def test_a_source_of_masks_alone_is_refused():
    with pytest.raises(ConfigError, match="classified views need label: read scenes, tfds, pack"):
        dataclasses.replace(config().data, source=CocoConfig())
    run = config()
    evaluate = dataclasses.replace(run.evaluate, source=CocoConfig())
    with pytest.raises(ConfigError, match="a measurement needs label: read scenes, tfds, pack"):
        dataclasses.replace(run, evaluate=evaluate)


@pytest.mark.parametrize(
    ("view", "changes", "words"),
    [
        ({}, {"model": "sam_nano"}, "has no plain ViT encoder: choose an"),
        ({"image_px": 32}, {}, "was made for 64: write --data.view.image-px 64"),
        ({}, {"model": "sami"}, "no model is called 'sami'"),
    ],
)
def test_what_does_not_go_together_is_refused(view, changes, words):
    with pytest.raises(ConfigError, match=words):
        tasks.build(config(view, **changes))
