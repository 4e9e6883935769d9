"""Examples made by worker processes: the same as by threads, and what happens when one dies."""

import dataclasses
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esam_jax import sharding
from esam_jax.config import (
    CropConfig,
    DataConfig,
    FramedConfig,
    ImageFolderConfig,
    MeshConfig,
    PromptedConfig,
    ScenesConfig,
)
from esam_jax.data import loader, order, sources, workers
from esam_jax.data.examples import Attempt, Example, Examples
from esam_jax.data.stored_features import Header
from esam_jax.errors import ConfigError, PeerError
from esam_jax.typing import Batch

SCENES = ScenesConfig(scenes=11, scene_px=32)
VIEW = PromptedConfig(image_px=32, masks=3, min_area_px=4)
DATA = DataConfig(source=SCENES, view=VIEW, threads=3)


def stream(data: DataConfig, first_batch: int = 0) -> loader.Stream:
    source = sources.open_source(data.source)
    mesh = sharding.make_mesh(MeshConfig(data=4))
    return loader.stream(source, data, seed=3, batch=8, mesh=mesh, first_batch=first_batch)


def with_workers(data: DataConfig, count: int) -> DataConfig:
    return dataclasses.replace(data, workers=count)


def equal(first: Batch, second: Batch) -> bool:
    assert first.keys() == second.keys()
    return all((np.asarray(first[key]) == np.asarray(second[key])).all() for key in first)


def children() -> list:
    return multiprocessing.active_children()


@pytest.mark.parametrize(("count", "each"), [(0, 8), (1, 8), (3, 3), (8, 1)])
def test_workers_share_the_threads(count: int, each: int, monkeypatch):
    asked, options = [], workers.grain.ReadOptions

    def remembered(**keys):
        asked.append(keys["num_threads"])
        return options(**keys)

    monkeypatch.setattr(workers.grain, "ReadOptions", remembered)
    data = with_workers(dataclasses.replace(DATA, threads=8), count)
    examples = Examples(sources.open_source(SCENES), VIEW, 0)
    workers.read(examples, data, rows=[0], batch=1, ahead=1, first=0).close()
    assert asked == [each]


def test_a_stream_may_be_closed_twice():
    with stream(DATA) as batches:
        next(batches)
        batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def test_what_is_waited_for_is_named_by_position_and_record():
    """Of a batch of 8 on 4 devices of one process: all rows; one example comes after the other."""
    source = sources.open_source(SCENES)
    examples, rows = Examples(source, VIEW, 3), tuple(range(2, 6))  # of another process 0 and 1
    wanted = [order.position(i, rows, 8) for i in range(12)]
    assert wanted == [2, 3, 4, 5, 10, 11, 12, 13, 18, 19, 20, 21]
    reading = workers.read(examples, DATA, rows=rows, batch=8, ahead=4, first=0)
    for position in wanted:
        name = source.name(order.Order(len(source), 3)[position][1])
        assert reading.awaited() == f"the data at position {position}, which is of {name}"
        assert next(reading).position == position
    reading.close()
    names = [examples.name(position) for position in wanted[4:8]]
    assert workers._in_words(examples, wanted[4:8]) == (
        f"the data at position 10 to 13, which is of {', '.join(names[:3])} and 1 more"
    )


# ------------------------------------------------------------------------------- real processes


@pytest.mark.parametrize("count", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_f28_workers_give_the_batches_of_threads(count, tmp_path: Path, write_picture, monkeypatch):
    """More chunks than one, broken records among them, and from any batch on."""
    monkeypatch.setattr(workers, "_CHUNK_BYTES", 3 * 16 * 16 * 3)  # three examples
    for i in range(9):
        write_picture(tmp_path / f"good_{i}.png", 20, 24, seed=i)
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    folder = ImageFolderConfig(path=str(tmp_path))
    data = DataConfig(source=folder, view=CropConfig(image_px=16), threads=3)
    with stream(data) as batches:
        expected = [next(batches) for _ in range(6)]
        known = batches.broken
    assert set(known) == {"bad.png"}
    for first_batch in (0, 4):
        with stream(with_workers(data, count), first_batch) as batches:
            for wanted in expected[first_batch:]:
                assert equal(next(batches), wanted)
            assert set(batches.broken) <= set(known)
        assert not children()


@pytest.mark.slow
def test_views_of_masks_come_through_too_and_closing_ends_the_workers():
    with stream(DATA) as batches:
        expected = next(batches)
    with stream(with_workers(DATA, 2)) as batches:
        assert equal(next(batches), expected)
        assert len(children()) == 2
        for _ in range(8):  # until both have begun: 32 examples come from each in turn
            next(batches)
        for worker in children():  # what a terminal or a scheduler sends to all
            os.kill(worker.pid, signal.SIGINT)
            os.kill(worker.pid, signal.SIGTERM)
        for _ in range(8):
            next(batches)
    assert not children()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


@pytest.mark.slow
def test_f27_a_killed_worker_ends_the_run_and_the_next_start_may_succeed():
    with stream(with_workers(DATA, 2)) as batches:
        next(batches)
        os.kill(children()[0].pid, signal.SIGKILL)
        with pytest.raises(PeerError, match=r"exit code -9\).*fewer --data\.workers") as caught:
            for _ in range(1000):
                next(batches)
    assert caught.value.exit_code == os.EX_TEMPFAIL
    assert not children()


@pytest.mark.slow
def test_an_error_in_a_worker_keeps_its_kind(tmp_path: Path):
    """Not of a record: features of other pictures."""
    header = Header(teacher={}, weights="", view={}, shape=(1, 1, 2), dtype="float16")
    (tmp_path / "features.json").write_text(header.to_json())
    view = FramedConfig(image_px=32, features=str(tmp_path))
    with (
        stream(DataConfig(source=SCENES, view=view, threads=2, workers=2)) as batches,
        pytest.raises(ConfigError, match="has no features of"),
    ):
        next(batches)
    assert not children()


@pytest.mark.slow
def test_f27_workers_do_not_survive_the_run():
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
if __name__ == "__main__":
    import multiprocessing
    from data.test_workers import DATA, stream, with_workers
    batches = stream(with_workers(DATA, 2))
    next(batches)
    print(*[each.pid for each in multiprocessing.active_children()], flush=True)
    sys.stdin.read()
"""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert run.stdout is not None
    pids = [int(word) for word in run.stdout.readline().split()]
    assert len(pids) == 2
    run.kill()
    run.communicate()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("code", "reason"),
    [(-9, "for lack of memory"), (-7, "/dev/shm is full"), (1, "the reason may stand above")],
)
def test_f27_what_the_exit_code_of_a_worker_most_often_means(code, reason):
    said = workers._death(f"{workers._DIED} with exit code {code}. It may have crashed")
    assert said.startswith("a worker process of the data loader died (Worker process was termin")
    assert f"exit code {code}); " in said and reason in said


# ------------------------------------------------------------------------------------- order


class Numbered(Examples):
    """Examples that say their position, every third of them unusable."""

    def __init__(self) -> None:
        pass

    def __getitem__(self, position: int) -> Example:
        view = None if position % 3 == 1 else {"x": np.full((2,), position)}
        return Example(position, (Attempt(str(position), "usable"),), view)


@given(
    hosts=st.integers(1, 5),
    count=st.integers(0, 4),
    share=st.integers(1, 5),
    size=st.integers(1, 7),
    first_batch=st.integers(0, 20),
)
def test_f28_any_hosts_and_workers_read_every_position_once(hosts, count, share, size, first_batch):
    """Grain gives each worker every n-th chunk, and takes them in turn.

    Its issue 1129: batches made of what one worker has lose examples, or change with their number.
    """
    batch, wanted, seen = share * hosts, 23, []
    for host in range(hosts):
        rows = tuple(range(host * share, (host + 1) * share))
        starts = range(first_batch * share, sys.maxsize, size)
        of_each = [starts[i :: max(count, 1)] for i in range(max(count, 1))]
        in_turn = itertools.chain.from_iterable(zip(*of_each))
        chunks = (workers._make(Numbered(), rows, batch, size, start) for start in in_turn)
        read = itertools.chain.from_iterable(map(workers._unpack, chunks))
        mine = list(itertools.islice(read, wanted * share))
        for index, example in enumerate(mine, first_batch * share):
            assert example.position == order.position(index, rows, batch)
            assert example.attempts[0].name == str(example.position)
            if example.position % 3 == 1:
                assert example.view is None
            else:
                assert example.view is not None and set(example.view["x"]) == {example.position}
        seen += [example.position for example in mine]
    assert sorted(seen) == list(range(first_batch * batch, (first_batch + wanted) * batch))


def test_small_views_are_handed_over_together_and_large_ones_alone():
    def size(view):
        return workers._chunk(dataclasses.replace(DATA, view=view))

    assert size(CropConfig(image_px=224)) == 2**20 // (224 * 224 * 3) == 6
    assert size(CropConfig(image_px=16)) == 32
    assert size(PromptedConfig(image_px=1024)) == 1


def test_more_workers_than_threads_are_refused():
    with pytest.raises(ConfigError, match="workers is 4, but must be at most the 3 threads"):
        with_workers(DATA, 4)
