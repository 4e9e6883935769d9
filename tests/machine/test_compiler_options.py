"""Options of compilers: which a program gets, what flags of the user change, that they arrive."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from helpers import toy

from esam_jax import sharding
from esam_jax.config import MeshConfig
from esam_jax.errors import ConfigError, EsamError
from esam_jax.machine import compiler_options
from esam_jax.plan import compiled, topologies
from esam_jax.train import loop, start
from esam_jax.train import state as states

DETERMINISTIC = "xla_gpu_deterministic_ops"


def options(platform, deterministic=True, flags=""):
    environment = {"XLA_FLAGS": flags}
    return compiler_options.of_update(
        platform, deterministic=deterministic, environment=environment
    )


def test_determinism_is_for_gpus_alone():
    """Programs for CPUs and TPUs are deterministic without an option."""
    assert options("gpu") == {DETERMINISTIC: True}
    assert options("gpu", deterministic=False) == {}
    assert options("cpu") == options("tpu") == {}


def test_no_flag_may_undo_it():
    for flag in (f"--{DETERMINISTIC}", f"--xla_dump_to=x --{DETERMINISTIC}=true"):
        assert options("gpu", flags=flag) == {DETERMINISTIC: True}
    undone = f"--{DETERMINISTIC}=false"
    with pytest.raises(ConfigError, match=f"{DETERMINISTIC} is false"):
        options("gpu", flags=undone)
    assert options("cpu", flags=undone) == options("gpu", False, undone) == {}


def test_flags_of_the_user_are_read_from_both_variables():
    environment = {"XLA_FLAGS": "--xla_a=2  --xla_b", "LIBTPU_INIT_ARGS": "--xla_c=x=y"}
    flags = {"xla_a": "2", "xla_b": "true", "xla_c": "x=y"}
    assert compiler_options.given(environment) == flags


def test_sums_of_nccl_keep_their_order():
    environment = {}
    compiler_options.sum_in_one_order(environment)
    assert environment == {compiler_options.NVLS: "0"}
    compiler_options.sum_in_one_order(environment)
    with pytest.raises(ConfigError, match=f"{compiler_options.NVLS} is 1"):
        compiler_options.sum_in_one_order({compiler_options.NVLS: "1"})


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_update_is_compiled_with_them(deterministic, monkeypatch):
    """An option that no compiler knows is refused by this one: it got there."""
    asked = []

    def of_update(platform, *, deterministic):
        asked.append((platform, deterministic))
        return {"xla_unheard_of": deterministic}

    monkeypatch.setattr(compiler_options, "of_update", of_update)
    cfg = toy.config(mesh=MeshConfig(data=2))
    compute = dataclasses.replace(cfg.compute, deterministic=deterministic)
    cfg = dataclasses.replace(cfg, compute=compute)
    mesh, task = sharding.make_mesh(cfg.mesh), toy.task()
    state = toy.abstract(task, cfg, mesh)
    update = toy.jit_step(task, cfg, mesh, state, {})
    assert asked == [("cpu", deterministic)]
    lowered = update.lower(state, {}, states.abstract_batch(task, cfg.batch, mesh))
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_unheard_of"):
        lowered.compile()


class SeenError(EsamError):
    """What is looked at has been seen."""


def run(cfg, folder):
    loop.run(cfg, folder)


def plan(cfg, folder):
    card = topologies.parse("cpu:1")
    compiled.lower(cfg, card, topologies.devices(card)[:1])


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("who", [run, plan])
def test_the_config_decides(who, deterministic, monkeypatch, tmp_path):
    def of_update(platform, *, deterministic):
        raise SeenError(f"asked for {deterministic}")

    monkeypatch.setattr(compiler_options, "of_update", of_update)
    monkeypatch.setattr("esam_jax.tasks.build", lambda cfg: toy.task())
    monkeypatch.setattr(loop.loader, "stream", toy.Stream)
    cfg = toy.config(mesh=MeshConfig(data=1))
    compute = dataclasses.replace(cfg.compute, deterministic=deterministic)
    with pytest.raises(SeenError, match=f"asked for {deterministic}"):
        who(dataclasses.replace(cfg, compute=compute), tmp_path / "run")


@pytest.mark.parametrize(
    ("platform", "deterministic", "order"),
    [("gpu", True, "fixed"), ("gpu", False, "any"), ("cpu", True, "any")],
)
def test_a_run_fixes_the_order_of_sums_over_devices(
    platform, deterministic, order, monkeypatch, tmp_path
):
    def enough(order, *_):
        raise SeenError(order)

    mesh = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform=platform)]))
    monkeypatch.setattr(sharding, "make_mesh", lambda *_: mesh)
    monkeypatch.setattr(compiler_options, "sum_in_one_order", lambda: enough("fixed"))
    monkeypatch.setattr(sharding, "check_batch", lambda *_: enough("any"))
    cfg = toy.config()
    compute = dataclasses.replace(cfg.compute, deterministic=deterministic)
    with pytest.raises(SeenError, match=order):
        start.check(dataclasses.replace(cfg, compute=compute), tmp_path, 0)


def test_jaxlib_knows_the_name():
    """It is in every build of it."""
    jax.jit(lambda x: x).lower(0.0).compile(options("gpu"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_gpu_unheard_of"):
        jax.jit(lambda x: x).lower(0.0).compile({"xla_gpu_unheard_of": True})
