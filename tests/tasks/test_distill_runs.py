"""Runs of distillation: resumed to the bit, spread over devices, converted and back."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from helpers import toy

from esam_jax import configs, sharding, tasks
from esam_jax.cli import main
from esam_jax.config import EvaluateConfig, MeshConfig, SaveConfig, ScenesConfig
from esam_jax.convert import load
from esam_jax.data import loader, sources
from esam_jax.models.parts import batch_norm
from esam_jax.train import frozen, loop

STUDENT = "mobile_sam_nano"
ONE = MeshConfig(data=1)


def run_of(mesh=ONE, steps=4, batch=8, accumulate=1, **task):
    config = configs.load("quickstart_distill")
    held_out = ScenesConfig(split="heldout")
    return dataclasses.replace(
        config,
        task=dataclasses.replace(config.task, **task),
        data=dataclasses.replace(config.data, source=ScenesConfig(scenes=50)),
        optim=dataclasses.replace(config.optim, warmup_steps=1),
        evaluate=EvaluateConfig(source=held_out, images=3),
        save=SaveConfig(every_steps=2),
        mesh=mesh,
        steps=steps,
        batch=batch,
        accumulate=accumulate,
        log_every_steps=1,
    )


def flat(params):
    return {sharding.name(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(params)}


@functools.cache
def updates(mesh, accumulate=1, batch_norm="batch"):
    """The state after three updates, and their numbers, on the host."""
    cfg = run_of(mesh=mesh, batch=16, accumulate=accumulate, batch_norm=batch_norm)
    made, task = sharding.make_mesh(mesh), tasks.build(cfg)
    state = toy.create(task, cfg, made, task.initial().params)
    weights = frozen.place(task, frozen.read(task), made)
    update = toy.jit_step(task, cfg, made, state, weights)
    source, history = sources.open_source(cfg.data.source), []
    with loader.stream(source, cfg.data, seed=0, batch=cfg.batch, mesh=made) as batches:
        for _ in range(3):
            state, metrics = update(state, weights, next(batches))
            history.append(jax.device_get(metrics))
    return jax.device_get(state), history


def assert_close(found, wanted):
    (state, history), (alone, alone_history) = found, wanted
    for ours, theirs in zip(history, alone_history, strict=True):
        assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-4)
    for path, theirs in flat(alone.params).items():
        ours, statistic = flat(state.params)[path], batch_norm.is_statistic(path)
        # Adam divides gradients by their own size, the rounding of those near zero included.
        np.testing.assert_allclose(
            ours, theirs, rtol=1e-3, atol=1e-4 if statistic else 4e-3, err_msg=path
        )


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one():
    """The statistics are of the global batch: those of each device would be others."""
    alone = updates(ONE)
    assert_close(updates(MeshConfig(data=4, fsdp=2)), alone)
    begun = flat(tasks.build(run_of()).initial().params)
    for path, leaf in flat(alone[0].params).items():
        if path in begun:  # the decoder
            np.testing.assert_array_equal(leaf, begun[path])
        if batch_norm.is_statistic(path):
            assert np.abs(leaf - (1.0 if path.endswith("variance") else 0.0)).max() > 1e-4, path
    moments = flat(alone[0].opt_state)
    assert any("encoder/stem_1/kernel" in path for path in moments)
    frozen_parts = ("/decoder/", "/prompt/", "_norm/mean", "_norm/variance")
    assert not any(part in path for path in moments for part in frozen_parts)


@pytest.mark.slow
def test_micro_batches_give_the_numbers_of_one_batch_where_statistics_are_stored():
    alone = updates(ONE, 1, "stored")
    assert_close(updates(MeshConfig(data=2), 4, "stored"), alone)
    drawn = flat(alone[0].params)
    statistics = {path: leaf for path, leaf in drawn.items() if batch_norm.is_statistic(path)}
    assert len(statistics) == 30
    for path, leaf in statistics.items():
        assert np.all(leaf == (1.0 if path.endswith("variance") else 0.0)), path


class CutShort(Exception):  # noqa: N818 (it stands for a kill)
    pass


@pytest.mark.slow
def test_a_run_resumes_to_the_same_bits_and_its_model_converts_and_back(tmp_path, monkeypatch):
    loop.run(run_of(), tmp_path / "through", progress=False)
    made = loader.stream

    def short(*arguments, **options):
        """The stream, until the run is killed after its third update."""
        stream = made(*arguments, **options)
        read = type(stream).__next__
        count = iter(range(3))

        class Stream(type(stream)):
            def __next__(self):
                if next(count, None) is None:
                    raise CutShort
                return read(self)

        stream.__class__ = Stream
        return stream

    with monkeypatch.context() as patch:
        patch.setattr(loop.loader, "stream", short)
        with pytest.raises(CutShort):
            loop.run(run_of(), tmp_path / "again", progress=False)
    loop.run(run_of(), tmp_path / "again", progress=False)
    through, again = (load.model_file(tmp_path / name) for name in ("through", "again"))
    for path, leaf in flat(through.params).items():
        np.testing.assert_array_equal(leaf, flat(again.params)[path], err_msg=path)
    moved = [path for path in flat(through.params) if batch_norm.is_statistic(path)]
    assert len(moved) == 30
    lines = [json.loads(x) for x in (tmp_path / "again" / "metrics.jsonl").read_text().splitlines()]
    (measured,) = [line for line in lines if "embedding_mse" in line]
    assert measured["step"] == 4 and 0 <= measured["box_miou"] <= 1
    assert measured["embedding_mse"] > 0

    # To PyTorch's layout and back, statistics included.
    pytest.importorskip("torch")
    there, back = tmp_path / "student.pt", tmp_path / "back"
    assert main(["convert", str(tmp_path / "again"), str(there)]) == 0
    assert main(["convert", str(there), str(back), "--model", STUDENT]) == 0
    found = flat(load.model_file(back).params)
    for path, leaf in flat(again.params).items():
        np.testing.assert_array_equal(leaf, found[path], err_msg=path)
