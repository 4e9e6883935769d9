"""What Orbax is kept from asking, and that a save leaves nothing behind."""

import gc
import sys

import jax
import numpy as np
import pytest
import tensorstore as ts
from helpers import toy
from hypothesis import given
from hypothesis import strategies as st
from orbax.checkpoint._src.serialization import tensorstore_utils

from esam_jax import sharding
from esam_jax.config import MeshConfig
from esam_jax.train.checkpoint import leaks
from esam_jax.train.checkpoint.manager import Checkpoints
from esam_jax.train.state import TrainState

ARRAYS = 100


@pytest.fixture(autouse=True)
def installed():
    assert leaks.stop(), "this Orbax or TensorStore works otherwise: does it still leak?"
    yield
    leaks.stop()


names = st.text(st.characters(exclude_characters="/", exclude_categories=["C"]), min_size=1)


@given(st.lists(names.filter(lambda name: name not in (".", "..")), min_size=1))
def test_a_local_folder_is_what_tensorstore_says(parts):
    asked = {"driver": "file", "path": "/" + "/".join(parts) + "/"}
    answer = tensorstore_utils.ts.KvStore.Spec(asked)
    assert answer.to_json() == ts.KvStore.Spec(asked).to_json()


def test_a_local_folder_opens(tmp_path):
    asked = tensorstore_utils.ts.KvStore.Spec({"driver": "file", "path": f"{tmp_path}/"})
    tensorstore_utils.ts.KvStore.open(asked).result().write("a", b"1").result()
    assert (tmp_path / "a").read_bytes() == b"1"


@pytest.mark.parametrize(
    "asked",
    [
        {"driver": "gcs", "bucket": "some", "path": "a/"},
        {"driver": "file", "path": "/a/", "file_io_locking": {"mode": "none"}},
        "file:///a/",
    ],
)
def test_anything_else_is_asked_of_tensorstore(asked):
    answer = tensorstore_utils.ts.KvStore.Spec(asked)
    assert isinstance(answer, ts.KvStore.Spec) and answer == ts.KvStore.Spec(asked)


def test_another_orbax_is_left_alone(monkeypatch):
    monkeypatch.setattr(tensorstore_utils, "ts", np)  # whatever it is, it is not TensorStore
    assert not leaks.stop() and tensorstore_utils.ts is np
    monkeypatch.setattr(leaks, "tensorstore_utils", None)  # as where that module is gone
    assert not leaks.stop()


def objects_a_save(folder):
    """Of Python, that each save leaves behind."""
    place = sharding.replicated(sharding.make_mesh(MeshConfig(data=1)))
    tree = {f"array_{i}": np.zeros(4, np.float32) for i in range(ARRAYS)}
    state = jax.device_put(TrainState(np.int32(0), tree, (), (), ()), place)
    counts = []
    with Checkpoints(toy.config(), folder, state) as checkpoints:
        for step in range(1, 13):
            checkpoints.save(step, state)
            checkpoints.wait()
            gc.collect()
            counts.append(sys.getallocatedblocks())
    return np.median(np.diff(counts[3:]))


def test_saves_leave_nothing_behind(tmp_path, monkeypatch):
    assert objects_a_save(tmp_path / "kept") < 2 * ARRAYS
    # And as Orbax is without `stop`, which shows that the count would tell.
    monkeypatch.setattr(tensorstore_utils, "ts", ts)
    monkeypatch.setattr(leaks, "stop", lambda: False)
    assert objects_a_save(tmp_path / "leaking") > 4 * ARRAYS
