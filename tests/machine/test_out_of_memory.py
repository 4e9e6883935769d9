"""A full device is told with advice, and the next call works."""

import gc
import os
import subprocess
import sys
import weakref
from typing import Any

import jax
import numpy as np
import pytest
from helpers import nano

import esam_jax
from esam_jax.errors import DeviceMemoryError, EsamError
from esam_jax.machine import out_of_memory
from esam_jax.predict import programs

# A real one: the process may have 300 MB more than it has, and one mask of the picture is 64 MB.
SCRIPT = """
import resource, sys
import jax, jax.numpy as jnp, numpy as np
from helpers import nano
from esam_jax import AutomaticMaskGenerator, DeviceMemoryError
from esam_jax.machine import out_of_memory

options = {"pred_iou_thresh": -9.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
generator = AutomaticMaskGenerator(nano.sam("sam_nano"), 4, **options)
small, large = nano.picture(40, 56), np.zeros((8192, 8192, 3), np.uint8)
before = generator.generate(small)
with open("/proc/self/statm") as file:
    limit = int(file.read().split()[0]) * resource.getpagesize() + 300 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

def told(call):
    try:
        with out_of_memory.advice():
            call()
    except DeviceMemoryError as error:
        return f"{type(error.__cause__).__name__} {error}"
    raise SystemExit("nothing was told")

print(told(lambda: generator.generate(large)))
print(told(lambda: jnp.ones((40_000, 40_000)).block_until_ready()))
after = generator.generate(small)
assert before and len(after) == len(before)
for old, new in zip(before, after):
    np.testing.assert_array_equal(old["segmentation"], new["segmentation"])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_f36_a_device_out_of_memory_gives_advice_and_the_next_call_works():
    path = os.pathsep.join(part for part in sys.path if part)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    everything, plain = done.stdout.splitlines()
    for line in (everything, plain):
        assert "points_per_batch" in line and "bfloat16" in line
    assert plain.startswith("JaxRuntimeError out of memory (RESOURCE_EXHAUSTED")


@pytest.mark.parametrize("part", ["encode", "decode"])
@pytest.mark.parametrize(
    "said",
    [
        "RESOURCE_EXHAUSTED: Out of memory allocating 6400000000 bytes.\nof the allocator",
        "INTERNAL: Out of memory while trying to allocate 68719476736 bytes.",
    ],
)
def test_f36_a_device_that_was_full_once_answers_the_next_call(
    monkeypatch: pytest.MonkeyPatch, part: str, said: str
):
    sam, picture = nano.sam("sam_nano"), nano.picture(40, 56)
    prompts = [esam_jax.Prompt(points=[[9, 12]])]
    wanted = sam.decode(sam.encode(picture), prompts)

    def full(*args: object, **kwargs: object) -> None:
        raise jax.errors.JaxRuntimeError(said)

    with monkeypatch.context() as patched:
        patched.setattr(programs, part, full)
        with pytest.raises(DeviceMemoryError, match="fewer pictures or prompts") as told:
            sam.decode(sam.encode(picture), prompts)
    assert isinstance(told.value, EsamError) and "\n" not in str(told.value)
    again = sam.decode(sam.encode(picture), prompts)
    np.testing.assert_array_equal(again.low_res, wanted.low_res)


def test_f36_an_error_that_is_kept_keeps_no_array_of_the_call():
    kept = []

    def call() -> None:
        array = np.zeros(9)
        kept.append(weakref.ref(array))
        raise MemoryError

    advised = pytest.raises(DeviceMemoryError, match=r"out of memory \(MemoryError\)")
    with advised as told, out_of_memory.advice():
        call()
    gc.collect()
    assert told.value.__cause__ is not None and kept[0]() is None


def test_f36_other_errors_pass():
    for error in (jax.errors.JaxRuntimeError("INTERNAL: a defect"), ValueError("out of memory")):
        with pytest.raises(type(error)) as told, out_of_memory.advice():
            raise error
        assert told.value is error
    with pytest.raises(DeviceMemoryError) as told, out_of_memory.advice(), out_of_memory.advice():
        raise MemoryError
    assert isinstance(told.value.__cause__, MemoryError)
    assert not isinstance(told.value.__cause__, DeviceMemoryError)


def test_f36_no_array_of_a_failed_call_is_kept(monkeypatch: pytest.MonkeyPatch):
    """Not even while the error is, as a notebook keeps it."""
    sam, kept = nano.sam("sam_nano"), []
    encode = programs.encode

    def full_at_last(*args: Any) -> Any:
        if kept:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.")
        features = encode(*args)
        kept.append(weakref.ref(features))
        return features

    full_at_last.lower = encode.lower  # pyright: ignore[reportFunctionMemberAccess]
    monkeypatch.setattr(programs, "encode", full_at_last)
    with pytest.raises(DeviceMemoryError) as told:
        sam.encode([nano.picture(40, 56)] * 3)
    gc.collect()
    assert told.value is not None and kept[0]() is None
