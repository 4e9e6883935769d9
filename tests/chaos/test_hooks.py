"""What the hooks do inside a training process, here inside this one."""

import itertools
import threading
import time

import pytest
from chaos import hooks
from chaos.supervisor import read_journal
from helpers import toy

from esam_jax import sharding
from esam_jax.config import MeshConfig
from esam_jax.data import loader, sources, views, workers


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Hooks of process 1 that are taken out afterwards."""
    for module, name in (
        (time, "time"), (time, "time_ns"), (views, "make"),
        (loader, "stream"), (loader.Stream, "__next__"), (workers, "_begin"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setenv(hooks.FOLDER, str(tmp_path))
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    hooks.install()
    return tmp_path


def batches(first_step, count):
    mesh = sharding.make_mesh(MeshConfig(data=1))
    try:
        cfg = toy.config()
        source = sources.open_source(cfg.data.source)
        with loader.stream(
            source, cfg.data, seed=cfg.seed, batch=cfg.batch, mesh=mesh, first_batch=first_step
        ) as stream:
            return list(itertools.islice(stream, count))
    finally:  # a thread that still reads would take what is asked of the next stream
        for thread in threading.enumerate():
            if thread.name.startswith("grain-prefetch"):
                thread.join(timeout=60)


def test_the_journal_tells_batches_apart_and_the_same_ones_as_the_same(folder):
    batches(0, 3)
    batches(2, 2)
    lines = read_journal(hooks.journal(folder, 1))
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 2, 3, 4]
    assert ["life" in line for line in lines] == [True, *[False] * 3, True, *[False] * 2]
    digests = [line.get("digest") for line in lines]
    assert len({digests[1], digests[2], digests[3], digests[6]}) == 4
    assert digests[3] == digests[5]


def test_f27_a_thread_of_the_loader_breaks_once_and_its_error_arrives(folder):
    hooks.request(folder, hooks.READER, 1).write_text("")
    with pytest.raises(RuntimeError, match="broke this thread"):
        batches(0, 8)  # whichever of the batches read ahead (4) the thread was at work on
    assert len(batches(0, 2)) == 2


def test_the_clock_jumps_and_monotonic_time_does_not(folder):
    before, steady = time.time(), time.monotonic()
    hooks.request(folder, hooks.CLOCK, 1).write_text("-3600")
    assert -3700 < time.time() - before < -3500
    assert -3700e9 < time.time_ns() - before * 1e9 < -3500e9
    assert 0 <= time.monotonic() - steady < 100


def test_nothing_is_hooked_without_the_runner(monkeypatch):
    monkeypatch.delenv(hooks.FOLDER, raising=False)
    before = loader.stream, views.make, time.time
    hooks.install()
    assert before == (loader.stream, views.make, time.time)
