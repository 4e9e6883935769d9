"""Any hosts, worker processes, batch size and interruptions: the ids of an undisturbed run.

`tests/properties/test_loader.py` has the order itself, and test_workers.py how chunks are taken in
turn, for very many cases; here processes really read, for a few.
"""

import itertools
import multiprocessing
from collections import Counter

import numpy as np
import pytest
from helpers import made_sets
from hypothesis import example, given, settings
from hypothesis import strategies as st

from esam_jax.config import CropConfig, DataConfig, MixtureConfig, ScenesConfig
from esam_jax.data import order, sources, workers
from esam_jax.data.examples import Examples, Tally

SEED, EPOCHS = 5, 2
VIEW = CropConfig(image_px=8)
HOSTS, WORKERS = st.integers(1, 5), st.integers(0, 4)
PARTS = st.tuples(st.tuples(HOSTS, WORKERS, st.integers(1, 3)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sources of about a dozen records; in the mixture one of four is broken and others repeat."""
    folder = tmp_path_factory.mktemp("data")
    coco, sa1b = made_sets.coco(folder / "coco", 4), made_sets.sa1b(folder / "sa1b", 3)
    (folder / "coco" / "images" / f"{2:012}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    mixture = MixtureConfig(paths=(str(coco), str(sa1b)), times=(1.0, 2.5))
    return {"scenes": ScenesConfig(scenes=11, scene_px=32), "mixture": mixture}


def ids(source, config, hosts, batch, first, count):
    """Names of the records that hosts see in batches `first` to `first + count`, in their order."""
    examples, seen = Examples(source, config.view, SEED), {}
    for rows in np.array_split(range(batch), hosts):
        rows = tuple(rows.tolist())
        tally = Tally(examples, max_broken_share=1.0)
        made = workers.read(
            examples, config, rows=rows, batch=batch, ahead=batch, first=first * len(rows)
        )
        for index in range(first * len(rows), (first + count) * len(rows)):
            read = next(made)
            assert read.position == order.position(index, rows, batch)
            assert read.position not in seen
            seen[read.position] = tally.named_view_of(read)[0]
        made.close()
    assert [*sorted(seen)] == [*range(first * batch, (first + count) * batch)]
    return [seen[position] for position in sorted(seen)]


@pytest.mark.slow
@settings(max_examples=1, deadline=None)  # a process takes seconds to start
@given(st.sampled_from(["scenes", "mixture"]), st.integers(5, 8), PARTS, st.integers(1, 3))
@example("mixture", 7, ((3, 4, 2), (1, 2, 1)), 2)
def test_ids_are_those_of_an_undisturbed_run(data, kind, batch, parts, chunk):
    """A run in parts, each of so many hosts, worker processes and updates, then one to the end."""
    source = sources.open_source(data[kind])
    configs = [
        DataConfig(source=data[kind], view=VIEW, threads=4, workers=count) for count in range(5)
    ]
    updates = -(-EPOCHS * len(source) // batch)
    undisturbed = ids(source, configs[0], 1, batch, 0, updates)
    read, done = [], 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(workers, "_CHUNK_BYTES", chunk * 8 * 8 * 3)
        for hosts, count, most in itertools.chain(parts, [(1, 0, updates)]):
            step = min(most, updates - done)
            read += ids(source, configs[count], hosts, batch, done, step)
            done += step
    assert read == undisturbed
    assert not multiprocessing.active_children()
    names = Counter(source.name(i) for i in range(len(source)))
    for epoch in range(EPOCHS):
        seen = Counter(read[epoch * len(source) : (epoch + 1) * len(source)])
        if kind == "scenes":
            assert seen == names
        else:  # the broken one is replaced by another, so that one comes twice
            lost = names - seen
            assert [*lost] == [f"1/{2:012}.png"] and (seen - names).total() == 1
