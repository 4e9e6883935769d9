"""Numbers that go wrong: an update is skipped, or the run goes back, leaves data out, or stops."""

import dataclasses
import functools
import itertools
import json
import os
import sys
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import processes, toy

from esam_jax import sharding
from esam_jax.config import GuardConfig, MeshConfig, SaveConfig
from esam_jax.errors import TrainingError
from esam_jax.train import guard, loop, optim, step
from esam_jax.train import state as states
from esam_jax.train.checkpoint import checksums, manager
from esam_jax.train.telemetry import log
from esam_jax.typing import PerExample

EIGHT = MeshConfig(data=8)


def kinked_task():
    """The toy task plus a root: where `room` is 0, the loss is finite and its gradient infinite."""
    toy_task = toy.task(noise=0.1)

    def loss(params, frozen, batch):
        each = toy_task.loss(params, frozen, batch)
        bias = params["toy"]["encoder"]["block_01"]["mlp"]["out"]["bias"][0]
        root = jnp.sqrt(batch["room"] + bias - jax.lax.stop_gradient(bias))
        return PerExample(each.loss + root, each.weight, each.metrics)

    return dataclasses.replace(toy_task, loss=loss)


@functools.cache
def compiled(mesh_config, config=None):
    """(first state on the host, the update on device) of the toy task."""
    cfg = dataclasses.replace(toy.config(steps=40, batch=16), guard=config or GuardConfig())
    mesh, task = sharding.make_mesh(mesh_config), kinked_task()
    template = toy.abstract(task, cfg, mesh)
    first = jax.device_get(toy.create(task, cfg, mesh))
    places = jax.tree.map(lambda leaf: leaf.sharding, template)
    update = toy.jit_step(task, cfg, mesh, template, {})

    def run(state, batch):
        placed = jax.device_put(batch, sharding.batch(mesh))
        return jax.device_get(update(jax.device_put(state, places), {}, placed))

    return first, run


def batch(number, size=16, **spoilt):
    """Host batch; `spoilt` sets values of the last example, which lies on the last device."""
    made = {**toy.batch_of(0, number, size), "room": np.ones(size, np.float32)}
    made["weight"][-1] = 1.0
    for name, value in spoilt.items():
        made[name][-1] = value
    return made


def assert_same(a, b):
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        np.testing.assert_array_equal(x, y, err_msg=sharding.name(path))


@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param({"y": np.nan}, id="loss"),
        pytest.param({"y": np.inf}, id="infinite-loss"),
        pytest.param({"room": 0.0}, id="gradient"),
    ],
)
def test_f19_what_is_not_finite_on_one_device_is_skipped_by_all(spoilt):
    state, update = compiled(EIGHT)
    for number in range(3):
        state, metrics = update(state, batch(number))
        assert metrics["skipped"] == metrics["skipped_in_a_row"] == 0
    after, metrics = update(state, batch(3, **spoilt))
    assert not np.isfinite(metrics["grad_norm"])
    assert np.isfinite(metrics["loss"]) == ("room" in spoilt)
    assert metrics["skipped"] == 1 and metrics["update_ratio"] == 0
    assert metrics["param_norm"] == pytest.approx(float(optax.tree.norm(state.params)))
    assert_same((after.params, after.opt_state), (state.params, state.opt_state))
    assert (after.step, after.batches) == (4, 4)
    assert (after.guard.skipped, after.guard.skipped_in_a_row) == (1, 1)

    again, metrics = update(after, batch(4, **spoilt))
    assert metrics["skipped_in_a_row"] == 2
    good, metrics = update(again, batch(5))
    assert (good.guard.skipped, good.guard.skipped_in_a_row) == (2, 0)
    # Warm-up waits: the rate in the metrics is the one that was used.
    count = good.opt_state[1].count
    optimiser = optim.make(toy.config().optim, 40)
    assert count == 4 and metrics["learning_rate"] == optimiser.rate(3, optimiser.schedule)


@pytest.mark.slow
def test_without_a_fault_the_update_is_the_plain_one():
    """Against optax alone, to the bit: the select changes no rounding.

    Operation by operation: of two compiled programs XLA may fuse one otherwise than the other, and
    a product that is rounded before it is added in one of them alone differs in the last bit.
    """
    cfg, task = toy.config(steps=40, batch=16), kinked_task()
    optimiser, mesh = optim.make(cfg.optim, cfg.steps), sharding.make_mesh(MeshConfig(data=1))
    key = jax.random.key(cfg.seed)
    state = toy.create(task, cfg, mesh)
    update = toy.jit_step(task, cfg, mesh, toy.abstract(task, cfg, mesh), {})

    def plain(params, opt_state, batch, number):
        rng = jax.random.fold_in(key, number)
        grads, _, _ = step.mean_gradient(task, params, {}, batch, rng, 1, sharding.batch(mesh))
        updates, opt_state = optimiser.update(grads, opt_state, params, optimiser.schedule)
        return optax.apply_updates(params, updates), opt_state

    params, opt_state = state.params, state.opt_state
    with jax.disable_jit():
        for number in range(2):  # the first has a rate of 0
            given = jax.device_put(batch(number))
            state, _ = update(state, {}, given)
            params, opt_state = plain(params, opt_state, given, number)
    assert_same((state.params, state.opt_state), (params, opt_state))


@pytest.fixture
def train(monkeypatch, tmp_path):
    """Runs the toy task in a folder of that name; `edit(number, batch)` may spoil its data."""
    monkeypatch.setattr("esam_jax.tasks.build", lambda cfg: toy.task(noise=0.1))

    def run(folder, edit=None, **changes):
        stream = functools.partial(toy.Stream, edit=edit)
        monkeypatch.setattr(loop.loader, "stream", stream)
        cfg = toy.config(**{"steps": 14, "save": SaveConfig(every_steps=4), **changes})
        result = loop.run(cfg, tmp_path / folder)
        return result, final(cfg, tmp_path / folder)

    return run


def final(cfg, folder):
    mesh = sharding.make_mesh(cfg.mesh)
    template = toy.abstract(toy.task(), cfg, mesh)
    return jax.device_get(manager.load(folder, cfg.steps, template))


def spoil(*numbers, by=np.nan):
    def edit(number, batch):
        if number in numbers:
            batch["y"] *= by

    return edit


def test_f19_skipped_updates_are_named_and_do_not_stop_the_run(train, tmp_path):
    result, state = train(
        "run", spoil(2, 3, 6), log_every_steps=5, guard=GuardConfig(max_skipped=3)
    )
    assert result["finished"] and state.guard.skipped == 3
    lines = log.read(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if line.get("skipped")] == [3, 4, 7]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_f19_too_many_in_a_row_stop_the_run(train, tmp_path):
    config = GuardConfig(max_skipped=3)
    message = (
        r"loss of step 9 is nan, like those since step 7, .* last good update is step 6, and "
        r"guard\.max_skipped=3"
    )
    for _ in range(2):  # the count is in the state: a resumed run stops at the same step
        with pytest.raises(TrainingError, match=message):
            train("run", spoil(6, 7, 8), guard=config)
    assert manager.steps(tmp_path / "run") == [4, 8]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortMemory(GuardConfig):
    """A mean that is known after few updates, and few rollbacks."""

    spike_horizon_steps: ClassVar[int] = 4
    max_rollbacks: ClassVar[int] = 2


SPIKE = ShortMemory(spike=4.0)


def left_out(*gone):
    """The stream without these batches, as if they had never been there."""

    def edit(number, batch):
        kept = [n for n in range(number + len(gone) + 1) if n not in gone]
        batch.update(toy.batch_of(0, kept[number], len(batch["x"])))

    return edit


def events(folder):
    lines = log.read(folder / "metrics.jsonl")
    keys = ("step", "from", "to", "skipped_batches")
    return [[line[key] for key in keys] for line in lines if line.get("event") == "rollback"]


def assert_same_numbers(a, b):
    assert_same((a.step, a.params, a.opt_state), (b.step, b.params, b.opt_state))


@pytest.mark.slow
def test_f20_a_spike_is_gone_back_from_and_its_data_left_out(train, tmp_path):
    """Whether its loss is read at once or four updates later."""
    _, plain = train("plain", left_out(8, 9))
    for log_every in (1, 5):
        name = f"every_{log_every}"
        _, state = train(name, spoil(9, by=30.0), guard=SPIKE, log_every_steps=log_every)
        assert events(tmp_path / name) == [[8, 10, 8, [8, 9]]]
        assert (state.step, state.batches, state.guard.rollbacks) == (14, 16, 1)
        assert_same_numbers(state, plain)
        lines = log.read(tmp_path / name / "metrics.jsonl")
        steps = [line["step"] for line in lines if "event" not in line]
        assert steps == sorted(steps)  # nothing of the abandoned updates


@pytest.mark.slow
def test_f20_two_spikes_go_back_to_one_checkpoint_and_a_third_stops(train, tmp_path):
    _, state = train("two", spoil(9, 11, by=30.0), guard=SPIKE)
    assert events(tmp_path / "two") == [[8, 10, 8, [8, 9]], [8, 10, 8, [8, 11]]]
    assert state.guard.rollbacks == 2
    assert_same_numbers(state, train("plain", left_out(8, 9, 10, 11))[1])
    message = r"loss of step 10 is .* more than guard\.spike=4\.0 times .*max_rollbacks=2 are used"
    with pytest.raises(TrainingError, match=message):
        train("three", spoil(9, 11, 13, by=30.0), guard=SPIKE)


def test_f20_before_the_first_checkpoint_the_run_starts_again(train, tmp_path):
    _, state = train("run", spoil(5, by=30.0), guard=SPIKE, save=SaveConfig(every_steps=100))
    assert events(tmp_path / "run") == [[0, 6, 0, [0, 5]]]
    _, plain = train("plain", left_out(*range(6)), save=SaveConfig(every_steps=100))
    assert_same_numbers(state, plain)


@pytest.mark.nightly
def test_f20_a_run_killed_around_the_rollback_ends_with_the_same_bits(train, tmp_path):
    """Just before the spike, and after going back but before anything new is saved."""
    spike = spoil(9, by=30.0)
    _, whole = train("whole", spike, guard=SPIKE)
    for killed_at in (8, 11):
        name = f"killed_at_{killed_at}"

        def dying(number, batch, killed_at=killed_at):
            spike(number, batch)
            if number == killed_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(name, dying, guard=SPIKE)
        assert manager.newest(tmp_path / name) == 8
        _, state = train(name, spike, guard=SPIKE)
        assert_same(state, whole)
        assert events(tmp_path / name)[-1:] == events(tmp_path / "whole")


def test_f20_what_a_preempted_run_saved_is_not_gone_back_to(train, tmp_path, monkeypatch):
    """The checkpoint that SIGTERM leaves lies at a step where an undisturbed run has none."""
    spike, asked = spoil(10, by=30.0), itertools.count(1)
    _, whole = train("whole", spike, guard=SPIKE)
    with monkeypatch.context() as patch:
        patch.setattr(loop.stop, "stop_agreed", lambda terminated: next(asked) == 9)
        with pytest.raises(loop.Terminated):
            train("stopped", spike, guard=SPIKE)
    assert manager.newest(tmp_path / "stopped") == 9
    _, state = train("stopped", spike, guard=SPIKE)
    assert_same(state, whole)


@pytest.mark.parametrize(
    ("saved", "step"), [([0, 5], 5), ([0, 4, 5], 4), ([0], 0), ([], 0), ([0, 9], 0)]
)
def test_f20_the_start_that_is_kept_is_gone_back_to_last(saved, step):
    values = {"loss": 9.0, "loss_mean": 0.1, "batches": 8, "rollbacks": 0}
    back = guard.RollBack(8, values)
    assert guard.target(back, saved, every_steps=4) == step


def test_the_mean_follows_the_losses_and_ignores_what_is_wrong(monkeypatch):
    monkeypatch.setattr(GuardConfig, "spike_horizon_steps", 2)
    config = GuardConfig(spike=3.0)
    zero = jnp.int32(0)
    memory = states.GuardState(zero, zero, zero, jnp.float32(0), zero)
    found = []
    for loss in (2.0, 4.0, 6.0, np.nan, 100.0, 4.5):
        state = states.TrainState(zero, {}, (), zero, memory)
        memory, findings = guard.watch(config, state, jnp.float32(loss), jnp.isfinite(loss))
        found.append((int(findings["spike"]), float(memory.loss_mean)))
    assert found == [(0, 2.0), (0, 3.0), (0, 4.5), (0, 4.5), (1, 4.5), (0, 4.5)]


# ---------------------------------------------------------------------------- several processes


def process():
    """One of two hosts with one device each; the last example, which lies on host 1, is spoilt."""
    number = int(os.environ["JAX_PROCESS_ID"])
    jax.distributed.initialize(num_processes=2, process_id=number)
    cfg, mesh, task = toy.config(), sharding.make_mesh(MeshConfig()), kinked_task()
    state = toy.create(task, cfg, mesh)
    update = toy.jit_step(task, cfg, mesh, state, {})
    place = sharding.batch(mesh)
    for number in range(4):
        whole = batch(number, cfg.batch, **({"room": 0.0} if number == 2 else {}))
        placed = {
            name: jax.make_array_from_callback(x.shape, place, lambda index, x=x: x[index])
            for name, x in whole.items()
        }
        state, metrics = update(state, {}, placed)
        sums = [int(checksums.word_sum(leaf)) for leaf in jax.tree.leaves(state.params)]
        found = {name: float(metrics[name]) for name in ("skipped", "loss")}
        print("update", json.dumps({**found, "sums": sums}))


@pytest.mark.slow
def test_f19_an_infinite_gradient_on_one_host_is_skipped_on_every_host():
    outputs = processes.finish(processes.start([__file__], 2))
    first, second = [
        [json.loads(line[7:]) for line in out.splitlines() if line.startswith("update")]
        for out, _ in outputs
    ]
    assert first == second and [line["skipped"] for line in first] == [0, 0, 1, 0]
    assert all(np.isfinite(line["loss"]) for line in first)
    assert first[1]["sums"] == first[2]["sums"] != first[3]["sums"]


if __name__ == "__main__" and "JAX_PROCESS_ID" in os.environ:
    sys.path.insert(0, os.path.dirname(os.path.dirname(__file__)))
    process()
