"""Averaged weights: by hand, against the golden steps, and through the update and the state."""

import dataclasses
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy

from esam_jax import sharding
from esam_jax.config import MeshConfig, OptimConfig
from esam_jax.tasks import trained
from esam_jax.tasks.task import Task
from esam_jax.train import averages, jobs
from esam_jax.train import state as states
from esam_jax.typing import PerExample

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "classification_a.npz")
MESH = sharding.make_mesh(MeshConfig(data=1))
DECAY = 0.75


def config(**changes):
    optim = OptimConfig(peak_lr=1e-2, ema=DECAY)
    return toy.config(optim=optim, **changes)


def test_the_averages_are_those_of_timm():
    """Of a run of parameters, whose first are those that averages begin at."""
    params, wanted = GOLDEN["ema/params"], GOLDEN["ema/decay0.9999"]
    found = {"a": jnp.asarray(params[0])}
    for param, expected in zip(params[1:], wanted, strict=True):
        found = averages.followed(found, {"a": jnp.asarray(param)}, 0.9999, jnp.bool_(True))
        np.testing.assert_allclose(found["a"], expected, rtol=1e-7, atol=1e-7)


def test_a_constant_stays_as_it_is():
    """In float32 d and 1 - d do not add up to 1: as a sum of both parts it would drift."""
    constant = {"a": jnp.asarray([0.1, 3.3e-5, -7.7], jnp.float32)}
    found = constant
    for _ in range(20):
        found = averages.followed(found, constant, 0.9999, jnp.bool_(True))
    np.testing.assert_array_equal(found["a"], constant["a"])


def updated(cfg, made, batches, start=None):
    """Every state of a few updates, the first included, on the host."""
    state = toy.create(made, cfg, MESH, start)
    step_fn = toy.jit_step(made, cfg, MESH, state, {})
    seen = [jax.device_get(state)]
    for batch in batches:
        state, _ = step_fn(state, {}, jax.device_put(batch, sharding.batch(MESH)))
        seen.append(jax.device_get(state))
    return seen


def test_an_update_moves_them_towards_the_parameters_and_a_skipped_one_does_not():
    """The batches of a run with a NaN in the third."""
    batches = [toy.batch_of(0, number, 8) for number in range(4)]
    batches[2]["y"][0] = np.nan
    seen = updated(config(), toy.task(), batches)
    assert int(seen[-1].guard.skipped) == 1
    for number, (before, after) in enumerate(itertools.pairwise(seen)):
        for e, p, found in zip(
            *map(jax.tree.leaves, (before.averages, after.params, after.averages)), strict=True
        ):
            if number == 2:
                np.testing.assert_array_equal(found, e)
            else:
                np.testing.assert_allclose(found, DECAY * e + (1 - DECAY) * p, rtol=1e-5, atol=1e-7)
                assert np.any(found != e) and np.any(found != p)


def test_they_begin_at_the_parameters_that_the_run_starts_from():
    ones = np.ones((8, 16), np.float32)
    start = {"toy": {"encoder": {"block_01": {"mlp": {"hidden": {"kernel": ones}}}}}}
    state = toy.create(toy.task(), config(), MESH, start)
    for ours, theirs in zip(*map(jax.tree.leaves, (state.averages, state.params)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        # An update consumes both, which no two arrays of one buffer survive.
        assert ours.unsafe_buffer_pointer() != theirs.unsafe_buffer_pointer()


def test_without_them_a_run_is_bit_for_bit_what_it_was():
    """The same parameters and moments, whether averages are kept or not."""
    batches = [toy.batch_of(0, number, 8) for number in range(3)]
    optim = dataclasses.replace(config().optim, ema=None)
    *_, plain = updated(toy.config(optim=optim), toy.task(), batches)
    *_, averaged = updated(config(), toy.task(), batches)
    assert plain.averages is None and plain.result is plain.params
    for ours, theirs in zip(*map(jax.tree.leaves, (plain.params, averaged.params)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def partly():
    """A task with a frozen part and a batch norm, whose statistics follow the batch."""

    def init(rng):
        norm = {"mean": jnp.zeros(2), "variance": jnp.ones(2)}
        return {"a": {"kernel": jnp.ones((2, 2)), "frozen": jnp.ones(2), "in_norm": norm}}

    def loss(params, frozen, batch):
        x = batch["x"] @ params["a"]["kernel"] + params["a"]["frozen"]
        moments = {"a": {"in_norm": {"mean": x.mean(0), "variance": x.var(0)}}}
        return PerExample(jnp.square(x).sum(-1), jnp.ones(len(x)), {}, moments=moments)

    number = np.dtype(np.float32)
    return Task(
        init=init,
        loss=loss,
        example={"x": ((2,), number)},
        models=lambda *_: {},
        trains=lambda path: path == "a/kernel",
    )


def test_statistics_have_averages_and_what_is_frozen_has_none():
    rng = np.random.default_rng(0)
    batches = [{"x": rng.normal(size=(8, 2)).astype(np.float32)} for _ in range(3)]
    seen = updated(config(), partly(), batches)
    last = seen[-1]
    assert set(last.averages["a"]) == {"kernel", "in_norm"}
    mean = np.zeros(2)
    for each in seen[1:]:
        mean = DECAY * mean + (1 - DECAY) * each.params["a"]["in_norm"]["mean"]
    np.testing.assert_allclose(last.averages["a"]["in_norm"]["mean"], mean, rtol=1e-5)
    assert np.any(mean != last.params["a"]["in_norm"]["mean"])
    np.testing.assert_array_equal(last.result["a"]["frozen"], np.ones(2))
    np.testing.assert_array_equal(last.result["a"]["kernel"], last.averages["a"]["kernel"])
    assert trained.count(last.params, partly().trains).trained == 4


def test_they_are_laid_out_as_the_parameters():
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    state = toy.create(toy.task(), config(), mesh)
    template = toy.abstract(toy.task(), config(), mesh)
    for tree in (state, template):
        for ours, theirs in zip(*map(jax.tree.leaves, (tree.averages, tree.params)), strict=True):
            assert ours.sharding == theirs.sharding


def test_their_copies_are_compared():
    state = toy.abstract(toy.task(), config(), MESH)
    assert jobs.copied(state, {})["averages"] is state.averages
    assert "averages" not in jobs.copied(dataclasses.replace(state, averages=None), {})


def test_a_run_that_is_too_short_for_them_says_so():
    said = averages.left_of_the_start(0.9999, 1000)
    assert said.startswith("optim.ema 0.9999 leaves 90% of the weights that a run of 1000 steps")
    assert averages.left_of_the_start(0.9, 22) == averages.left_of_the_start(None, 1) == ""


@pytest.mark.parametrize("kept", [True, False])
def test_a_state_gets_averages_where_the_config_wants_them(kept):
    """Of `--resume-with`: new ones begin at the parameters, and those that it has stay."""
    wants = toy.abstract(toy.task(), config(), MESH)
    lacks = dataclasses.replace(wants, averages=None)
    state = toy.create(toy.task(), config(), MESH)
    moved = state.replace(averages=jax.tree.map(lambda x: x + 1, state.averages))
    given = moved if kept else moved.replace(averages=None)
    found = states.averaging(given, wants, toy.task())
    wanted = moved.averages if kept else moved.params
    for ours, theirs in zip(*map(jax.tree.leaves, (found.averages, wanted)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert states.averaging(given, lacks, toy.task()).averages is None


def test_an_update_holds_them_once():
    """They are consumed like the parameters: no second copy, neither beside nor in between."""
    made, sizes = toy.task(), {}
    for name, cfg in {"plain": toy.config(), "averaged": config()}.items():
        state = toy.abstract(made, cfg, MESH)
        update = toy.jit_step(made, cfg, MESH, state, {})
        batch = states.abstract_batch(made, cfg.batch, MESH)
        sizes[name] = update.lower(state, {}, batch).compile().memory_analysis()
    bytes_of_params = 4 * trained.count(state.params, made.trains).all
    plain, averaged = sizes["plain"], sizes["averaged"]
    for part in ("argument_size_in_bytes", "alias_size_in_bytes"):
        assert getattr(averaged, part) - getattr(plain, part) == bytes_of_params
    assert averaged.temp_size_in_bytes - plain.temp_size_in_bytes < bytes_of_params / 4
