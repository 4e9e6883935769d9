"""Plain feature regression: trunk and linear map against the teacher, and what starts from it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nano, tiny

from esam_jax import configs, tasks
from esam_jax.config import ClassifiedConfig
from esam_jax.convert import load, model_folder
from esam_jax.convert.families import timm_vit
from esam_jax.models import named
from esam_jax.models.encoders.sam_vit import SamVitEncoder
from esam_jax.models.encoders.vit import VitEncoder
from esam_jax.ops import images
from esam_jax.tasks.task import BEHIND_TRUNK

STUDENT, PX = "efficientsam_nano", 64
PICTURES = nano.picture(2 * PX, PX).reshape(2, PX, PX, 3)
VIT = named.model("mae_nano")
TRUNK = {f"block_{i:02d}" for i in range(3)} | {"patch_embed", "positions"}


@functools.cache
def begun():
    task = tasks.build(configs.load("quickstart_regress"))
    shapes, rng = jax.eval_shape(task.init, jax.random.key(0)), np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), shapes)
    return task, params, {"teacher": task.frozen["teacher"].read()}


def test_every_patch_takes_part_and_a_linear_map_stands_before_the_teachers_features():
    task, params, frozen = begun()
    student = params[STUDENT]
    assert student.keys() == {"encoder", "head"} and student["encoder"].keys() == TRUNK
    assert jax.eval_shape(lambda: task.draw(jax.random.key(0), 2)) == {}  # nothing is masked
    out = tiny.jit(task.loss)(params, frozen, {"image": jnp.asarray(PICTURES)})
    pixels = images.normalise(jnp.asarray(PICTURES))
    trunk = functools.partial(VitEncoder(named.sam(STUDENT).encoder).apply, method="trunk")
    found = np.asarray(tiny.jit(trunk)({"params": student["encoder"]}, pixels), np.float64)
    found = found @ student["head"]["kernel"] + student["head"]["bias"]
    theirs = tiny.jit(SamVitEncoder(named.sam("sam_nano").encoder).apply)
    target = theirs({"params": frozen["teacher"]}, pixels).reshape(2, 64, 64)
    error = np.square(found - np.asarray(target)).mean((1, 2))
    np.testing.assert_allclose(out.loss, error, rtol=1e-4)


def test_every_parameter_of_the_student_learns():
    task, params, frozen = begun()
    batch = {"image": jnp.asarray(PICTURES)}

    def total(params, frozen):
        return task.loss(params, frozen, batch).loss.sum()

    gradient = tiny.jit(jax.grad(total))(params, frozen)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        name = jax.tree_util.keystr(path)
        # A bias of all keys shifts a query's scores alike, which softmax does not see; there is no
        # class token, whose position is slot 0.
        if "['key']['bias']" not in name:
            assert np.abs(leaf).max() > 0, name
        if name.endswith("['positions']"):
            assert not np.any(leaf[0]) and np.any(leaf[1:], axis=1).all()


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """The model that a run of it leaves."""
    task, params, _ = begun()
    with nano.filled_with_zeros():
        model = task.models(params, task.initial())[STUDENT]
    assert model.untrained == BEHIND_TRUNK and not model.unused
    # Complete, and what was never trained is named: a head has no place in it.
    assert model.params.keys() == {"encoder", "prompt", "decoder"}
    assert model.params["encoder"].keys() == TRUNK | {"neck"}
    folder = tmp_path_factory.mktemp("regression") / "model"
    model_folder.write(folder, model.config, model.params, source="test", untrained=model.untrained)
    return str(folder), params[STUDENT]["encoder"]


def started(name, init_from, **changes):
    run = configs.load(name)
    task = dataclasses.replace(run.task, init_from=init_from, **changes)
    return tasks.build(dataclasses.replace(run, task=task)).initial().params[STUDENT]


@pytest.mark.parametrize("name", ["quickstart_segment", "quickstart_sami", "quickstart_regress"])
def test_its_trunk_starts_other_tasks(name, left):
    folder, encoder = left
    taken = started(name, folder)["encoder"]
    # Of the neck, `quickstart_segment` has what ends the decoder's own.
    neck = taken.pop("neck", {})
    assert neck.keys() == ({"smooth", "smooth_norm"} if name == "quickstart_segment" else set())
    jax.tree.map(np.testing.assert_array_equal, taken, encoder)


def test_a_classifier_starts_from_its_trunk_and_draws_a_class_token(left):
    folder, encoder = left
    run = configs.load("quickstart_classify")
    task = dataclasses.replace(run.task, init_from=folder, pool="class_token")
    assert isinstance(run.data.view, ClassifiedConfig)
    taken = tasks.build(dataclasses.replace(run, task=task)).initial().params[STUDENT]
    assert taken.keys() == {"encoder"}
    jax.tree.map(np.testing.assert_array_equal, taken["encoder"], encoder)


def _sami(folder):
    config = named.sam(STUDENT)
    params, unused = nano.params(config), timm_vit.kept(nano.params(VIT))
    model_folder.write(folder, config, params, source="test", untrained=BEHIND_TRUNK, unused=unused)


def _mae(folder):
    model_folder.write(folder, VIT, nano.params(VIT), source="test")


@pytest.mark.parametrize("write", [_sami, _mae])
def test_it_starts_from_the_trunk_of_sami_and_mae(write, tmp_path):
    write(tmp_path / "model")
    taken = started("quickstart_regress", str(tmp_path / "model"))
    wanted = load.model_file(tmp_path / "model").params["encoder"]
    assert taken.keys() == {"encoder"} and taken["encoder"].keys() == TRUNK
    for name in TRUNK:
        jax.tree.map(np.testing.assert_array_equal, taken["encoder"][name], wanted[name])
