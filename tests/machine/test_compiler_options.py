"""Options of compilers: which a program gets, what flags of the user change, that they arrive."""

import dataclasses

import jax
import pytest
from helpers import toy

from esam_jax import sharding
from esam_jax.config import MeshConfig
from esam_jax.errors import ConfigError
from esam_jax.machine import compiler_options
from esam_jax.train import state as states

LATENCY, DETERMINISTIC = "xla_gpu_enable_latency_hiding_scheduler", "xla_gpu_deterministic_ops"


def options(platform, devices=8, flags="", **more):
    return compiler_options.of_update(platform, devices, environment={"XLA_FLAGS": flags}, **more)


@pytest.mark.parametrize("platform", ["gpu", "cuda"])  # of a card here, and of a planned one
def test_several_gpus_compute_while_they_send(platform):
    assert options(platform)[LATENCY] is True
    assert DETERMINISTIC not in options(platform)
    assert options(platform, devices=1) == {} == options("cpu")
    assert options("tpu") == {}  # libtpu's defaults: docs/launch.md


def test_what_the_user_sets_is_left_to_the_user():
    flags = f"--xla_dump_to=x --{LATENCY}=false"
    assert LATENCY not in options("gpu", flags=flags)
    assert compiler_options.given({"XLA_FLAGS": flags, "LIBTPU_INIT_ARGS": "--xla_b"}) == {
        "xla_dump_to": "x",
        LATENCY: "false",
        "xla_b": "true",
    }


def test_determinism_is_for_gpus_alone_and_no_flag_may_undo_it():
    assert options("gpu", devices=1, deterministic=True) == {DETERMINISTIC: True}
    assert options("cpu", deterministic=True) == {}
    assert options("tpu", deterministic=True) == {}
    assert options("gpu", 1, f"--{DETERMINISTIC}=true", deterministic=True) == {}
    with pytest.raises(ConfigError, match=f"{DETERMINISTIC} is false"):
        options("gpu", flags=f"--{DETERMINISTIC}=false", deterministic=True)


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

    def of_update(platform, devices, *, deterministic):
        asked.append((platform, devices, deterministic))
        return {"xla_unheard_of": deterministic}

    monkeypatch.setattr(compiler_options, "of_update", of_update)
    cfg = toy.config(mesh=MeshConfig(data=2))
    compute = dataclasses.replace(cfg.compute, deterministic=deterministic)
    cfg = dataclasses.replace(cfg, compute=compute)
    mesh, task = sharding.make_mesh(cfg.mesh), toy.task()
    state = toy.abstract(task, cfg, mesh)
    update = toy.jit_step(task, cfg, mesh, state, {})
    assert asked == [("cpu", 2, deterministic)]
    lowered = update.lower(state, {}, states.abstract_batch(task, cfg.batch, mesh))
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_unheard_of"):
        lowered.compile()


def test_jaxlib_knows_all_names_of_gpus():
    """They are in every build of it."""
    names = options("gpu", deterministic=True)
    assert len(names) > 1
    jax.jit(lambda x: x).lower(0.0).compile(names)
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_gpu_unheard_of"):
        jax.jit(lambda x: x).lower(0.0).compile({"xla_gpu_unheard_of": True})
