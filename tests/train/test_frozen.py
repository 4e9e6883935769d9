"""Frozen networks: placed as their config says; wrong, damaged or unusable weights are refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy

from esam_jax import configs, sharding, tasks
from esam_jax.config import MeshConfig
from esam_jax.errors import CheckpointError
from esam_jax.models import rounding
from esam_jax.train import frozen, loop

ONE, FOUR = (sharding.make_mesh(MeshConfig(data=data)) for data in (1, 4))
PIECES = sharding.make_mesh(MeshConfig(data=1, fsdp=2, tensor=2))
PICTURE = {"image": ((64, 64, 3), np.dtype(np.uint8))}


def see(params, image):
    """A teacher of one layer: 8 x 8 cells, 6 channels."""
    cells = image.astype(jnp.float32).reshape(-1, 8, 8, 8, 8, 3).mean((2, 4)) / 255
    return jnp.tanh(cells @ params["head"]["kernel"])


def weights(seed=0):
    return {"head": {"kernel": np.random.default_rng(seed).normal(size=(3, 6)).astype(np.float32)}}


def task(params, **more):
    part = toy.frozen(params, features=see, **more)
    return dataclasses.replace(toy.task(), frozen={"teacher": part}, example=PICTURE)


def start(made, workdir, resumed, mesh=ONE):
    """What the start of a run does with the frozen networks of a task."""
    read = frozen.read(made)
    found = frozen.digests(read)
    if resumed:
        frozen.compare(made, found, workdir)
    frozen.try_out(made, frozen.place(made, read, mesh), mesh)
    frozen.store(made, found, workdir)


def test_a_task_without_frozen_networks_leaves_no_file(tmp_path):
    start(toy.task(), tmp_path, resumed=False)
    start(toy.task(), tmp_path, resumed=True)
    assert list(tmp_path.iterdir()) == []


def test_f22_another_teacher_than_at_the_first_start_is_refused(tmp_path):
    start(task(weights()), tmp_path, resumed=False)
    start(task(weights()), tmp_path, resumed=True, mesh=FOUR)  # on any mesh
    with pytest.raises(CheckpointError) as error:
        start(task(weights(seed=1)), tmp_path, resumed=True)
    assert error.match(r"task\.teacher\.weights teacher\.pt holds other weights than at the first")
    assert error.match(r"frozen\.json\): give those that the run began with \(--task\.teacher\.we")
    start(task(weights(seed=1)), tmp_path, resumed=False)  # before the first checkpoint it may
    start(task(weights(seed=1)), tmp_path, resumed=True)


def test_f22_one_flipped_bit_since_the_first_start_is_found(tmp_path):
    spoilt = weights()
    spoilt["head"]["kernel"].view(np.uint32)[1, 2] ^= 1
    start(task(weights()), tmp_path, resumed=False)
    with pytest.raises(CheckpointError, match="holds other weights"):
        start(task(spoilt), tmp_path, resumed=True)


def test_names_and_shapes_belong_to_the_hash():
    kernel = weights()["head"]["kernel"]
    others = ({"tail": {"kernel": kernel}}, {"head": {"kernel": kernel.reshape(6, 3)}})
    hashes = [frozen.digests({"teacher": each}) for each in (weights(), *others)]
    assert len({each["teacher"] for each in hashes}) == 3


def test_drawn_weights_are_not_compared(tmp_path):
    start(task(weights(), drawn=True), tmp_path, resumed=False)
    start(task(weights(seed=1), drawn=True), tmp_path, resumed=True)
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_an_earlier_release_has_no_hash_yet(tmp_path):
    (tmp_path / "teacher_answer.json").write_text("{}")  # what such a release wrote
    start(task(weights()), tmp_path, resumed=True)
    assert set(json.loads((tmp_path / frozen.FILE).read_text())) == {"teacher"}


@pytest.mark.parametrize("text", ["", "[]", "{", "3"])
def test_a_file_that_holds_no_hashes_is_refused(tmp_path, text):
    (tmp_path / frozen.FILE).write_text(text)
    with pytest.raises(CheckpointError, match=r"frozen\.json"):
        start(task(weights()), tmp_path, resumed=True)


@pytest.mark.parametrize(("value", "fault"), [(np.nan, "not finite"), (0.0, "the same everywhere")])
def test_f22_a_teacher_that_sees_nothing_is_refused(tmp_path, value, fault):
    spoilt = jax.tree.map(lambda x: x * np.float32(value), weights())
    with pytest.raises(CheckpointError, match=rf"task\.teacher \(teacher\.pt\) are {fault}"):
        start(task(spoilt), tmp_path, resumed=False, mesh=FOUR)
    assert list(tmp_path.iterdir()) == []


def test_f22_a_run_tries_it_out_before_anything_is_compiled(tmp_path, monkeypatch):
    broken = task(jax.tree.map(lambda x: x * np.nan, weights()))
    monkeypatch.setattr("esam_jax.tasks.build", lambda cfg: broken)
    monkeypatch.setattr(loop, "jit_step", None)
    with pytest.raises(CheckpointError, match=r"\(teacher\.pt\) are not finite"):
        loop.run(toy.config(), tmp_path)


def test_f22_the_shipped_teacher_is_tried_out_in_bfloat16():
    cfg = configs.load("quickstart_sami")
    cfg = dataclasses.replace(cfg, compute=dataclasses.replace(cfg.compute, dtype="bfloat16"))
    made, mesh = tasks.build(cfg), sharding.make_mesh(MeshConfig(data=2))
    frozen.try_out(made, frozen.place(made, frozen.read(made), mesh), mesh)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("placement", "piece"), [("fsdp", (4, 8)), ("replicated", (8, 8))])
def test_weights_are_placed_in_the_types_in_which_they_are_read(dtype, placement, piece):
    wide, norm = np.full((8, 16), 1.001, np.float32), {"scale": np.full(8, 1.001, np.float32)}
    hidden = {"kernel": wide, "bias": np.full(16, 1.001, np.float32)}
    host = {"mlp": {"hidden": hidden}, "mlp_norm": norm, "positions": wide, "unread": wide}

    def look(params, image):
        x = image.astype(jnp.float32).reshape(-1, 8)[:4] * params["mlp_norm"]["scale"]
        kernel, bias = (params["mlp"]["hidden"][name].astype(dtype) for name in ("kernel", "bias"))
        return x.astype(dtype) @ kernel + bias + params["positions"][:4]

    part = toy.frozen(host, placement, features=look)
    made = dataclasses.replace(toy.task(), frozen={"teacher": part}, example=PICTURE)
    placed = frozen.place(made, frozen.read(made), PIECES)
    hidden = placed["teacher"]["mlp"]["hidden"]
    assert hidden["kernel"].dtype == hidden["bias"].dtype == dtype
    assert {shard.data.shape for shard in hidden["kernel"].addressable_shards} == {piece}
    like = frozen.abstract(made, PIECES)
    for leaf, shape in zip(jax.tree.leaves(placed), jax.tree.leaves(like), strict=True):
        assert (leaf.shape, leaf.dtype, leaf.sharding) == (shape.shape, shape.dtype, shape.sharding)
    np.testing.assert_array_equal(placed["teacher"]["mlp_norm"]["scale"], norm["scale"])
    for name in ("positions", "unread"):
        np.testing.assert_array_equal(placed["teacher"][name], wide)


@pytest.mark.parametrize("features", ["trunk", "neck"])
def test_a_teacher_neither_rounds_nor_piles_up_its_weights(features):
    """Each kernel goes into its products as it was placed."""
    cfg = configs.load("quickstart_sami")
    teacher = dataclasses.replace(cfg.task.teacher, features=features)
    cfg = dataclasses.replace(
        cfg,
        task=dataclasses.replace(cfg.task, teacher=teacher),
        compute=dataclasses.replace(cfg.compute, dtype="bfloat16"),
    )
    made, mesh = tasks.build(cfg), sharding.make_mesh(MeshConfig(data=1))
    part, like = made.frozen["teacher"], frozen.abstract(made, mesh)["teacher"]
    picture = jax.ShapeDtypeStruct((2, *made.example["image"][0]), np.uint8)
    assert sum(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(like)) > 20
    types = rounding.dtypes(part.features, like, picture)
    assert types == jax.tree.map(lambda leaf: leaf.dtype, like)  # nothing is left to be rounded
    program = str(jax.make_jaxpr(part.features)(like, picture))
    assert "dot_general[" in program
    assert "stack[" not in program and "scan[" not in program
