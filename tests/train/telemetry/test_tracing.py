"""Chosen updates leave a trace, and only when they are asked for."""

import jax
import jax.numpy as jnp
import pytest

from esam_jax.config import ProfileConfig
from esam_jax.train.telemetry.tracing import Tracer


def run(config, folder, steps, fail=None):
    double = jax.jit(lambda x: 2 * x)
    with Tracer(config, folder) as tracer:
        for number in steps:
            with tracer.step(number):
                x = double(jnp.float32(number))
            tracer.after(number, x)
            if number == fail:
                raise KeyboardInterrupt


def traces(folder):
    return list((folder / "profile").rglob("*.xplane.pb"))


def test_a_trace_of_two_updates(tmp_path):
    run(ProfileConfig(first_step=3, steps=2), tmp_path, range(1, 7))
    (file,) = traces(tmp_path)
    assert b"train" in file.read_bytes()


def test_a_run_that_ends_within_still_leaves_it(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(ProfileConfig(first_step=2, steps=50), tmp_path, range(1, 9), fail=4)
    assert len(traces(tmp_path)) == 1


@pytest.mark.parametrize("steps", [range(1, 5), range(9, 12)])
def test_none_unless_asked_for(tmp_path, steps):
    run(ProfileConfig(), tmp_path, steps)
    run(ProfileConfig(first_step=6, steps=2), tmp_path, steps)
    assert not (tmp_path / "profile").exists()
