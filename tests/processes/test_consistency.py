"""What hosts compare, and what they say about the one that differs."""

import json

import jax
import jax.numpy as jnp
import pytest
from helpers import toy

from esam_jax.config import json as config_json
from esam_jax.errors import ConfigError
from esam_jax.processes import consistency


def test_one_process_agrees_with_itself(monkeypatch):
    consistency.agree({"anything": 1})
    monkeypatch.setattr(consistency.jax, "process_count", lambda: 4)
    with pytest.raises(ConfigError, match=r"give --peers\.processes 4"):
        consistency.agree({"anything": 1})


def test_one_process_lowers_nothing():
    step = jax.jit(lambda state, frozen, batch: state)
    assert consistency.agreeing(step) is step


def test_lowering_first_traces_once():
    """The comparison of programs must cost no second trace."""
    traced = []

    def step(x):
        traced.append(1)
        return jnp.sin(x)

    jitted, x = jax.jit(step), jnp.ones(3)
    jitted.lower(x).as_text()
    jitted(x)
    jitted(x)
    assert len(traced) == 1


@pytest.mark.parametrize(
    ("digests", "different", "usual"),
    [
        ("aaa", [], 0),
        ("aba", [1], 0),
        ("baa", [0], 1),
        ("ab", [1], 0),  # of two, host 0 counts as right
        ("abc", [1, 2], 0),
        ("abbc", [0, 3], 1),
    ],
)
def test_hosts_that_differ_are_fewer(digests, different, usual):
    assert consistency.outliers(dict(enumerate(digests))) == (different, usual)


def test_differences_are_named_by_path():
    here = {"config": {"seed": 1, "task": {"students": ["a"]}}, "code": {"x.py": "1", "y.py": "2"}}
    there = {"config": {"seed": 0, "task": {"students": ["a"]}}, "code": {"x.py": "1", "z.py": "3"}}
    assert consistency.differences(here, there) == [
        "config.seed: 1, not 0",
        'code.z.py: null, not "3"',
        'code.y.py: "2", not null',
    ]
    assert consistency.differences(here, here) == []


def test_facts_hold_config_code_and_packages(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_b=1 --xla_dump_to=/here --xla_a=2")
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    facts = consistency.facts(config_json.to_json(toy.config()), workdir="runs/a")
    assert facts["config"]["optim"]["peak_lr"] == 1e-2 and facts["workdir"] == "runs/a"
    assert {"train/loop.py", "__init__.py", "ops/losses.py"} <= facts["code"].keys()
    assert facts["packages"].keys() == {"jax", "jaxlib"}
    assert facts["compiler"] == ["--xla_a=2", "--xla_b=1"]  # where programs are dumped may differ
    assert json.loads(json.dumps(facts)) == facts
