"""Calls are as large as the device has room for, and give the same whatever their size."""

from typing import Any

import numpy as np
import pytest
from helpers import tiny

from esam_jax.machine import memory
from esam_jax.models.sam import network
from esam_jax.predict import programs, room
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.sam import Sam

CONFIG = tiny.config("efficientsam")
PICTURES = np.random.default_rng(0).integers(0, 256, (7, 40, 40, 3), np.uint8)
PROMPTS = [Prompt(points=[[i % 40, i // 2]]) for i in range(64)]


def sam() -> Sam:
    """Which knows of no room yet."""
    return Sam(network.Sam(CONFIG), tiny.params(CONFIG))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pictures of each call of the encoder, and queries of each of the decoder."""
    found: list[int] = []

    def watch(name: str, count: Any) -> None:
        program = getattr(programs, name)

        def watched(model: Any, params: Any, *arrays: Any) -> Any:
            found.append(count(*arrays))
            return program(model, params, *arrays)

        watched.lower = program.lower  # pyright: ignore[reportFunctionMemberAccess]
        monkeypatch.setattr(programs, name, watched)

    watch("encode", len)
    watch("decode", lambda features, points, *_: points.shape[1])
    return found


def needs(program: Any, *arrays: Any) -> int:
    made = sam()
    needed = program.lower(made.model, made.ready, *arrays).compile().memory_analysis()
    return needed.temp_size_in_bytes + needed.output_size_in_bytes


def test_each_picture_needs_as_much_in_a_large_call_as_in_a_small_one():
    """So that one program says how large another may be."""
    two, four = (needs(programs.encode, np.zeros((n, 40, 40, 3), np.float32)) for n in (2, 4))
    assert four / 4 == pytest.approx(two / 2, rel=0.2)


@pytest.mark.parametrize(("fit", "wanted"), [(1, [1] * 7), (2.5, [2, 2, 2, 1]), (9, [4, 2, 1])])
def test_a_call_of_the_encoder_fits(
    monkeypatch: pytest.MonkeyPatch, calls: list[int], fit: float, wanted: list[int]
):
    each = needs(programs.encode, np.zeros((4, 40, 40, 3), np.float32)) / 4
    everything = sam().encode(PICTURES)
    calls.clear()
    monkeypatch.setattr(memory, "free_bytes", lambda _: int(2 * fit * each + 64))
    made = sam()
    found = made.encode(PICTURES)
    assert calls == wanted
    np.testing.assert_allclose(found.features, everything.features, rtol=1e-4, atol=1e-4)
    # What is free for a while changes nothing: a server would compile.
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1)
    made.encode(PICTURES)
    assert calls == 2 * wanted


def test_a_call_of_the_decoder_fits(monkeypatch: pytest.MonkeyPatch, calls: list[int]):
    embedding = sam().encode(PICTURES[0])
    found = {}
    for most, free, wanted in (
        (256, None, [64]),
        (32, None, [32, 32]),
        (256, 1, [8] * 8),  # for which there must be room
    ):
        monkeypatch.setattr(room, "most_prompts", lambda most=most: most)
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=free: free)
        calls.clear()
        found[most, free] = sam().decode(embedding, PROMPTS).low_res
        assert calls == wanted
    first, *others = found.values()
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-4, atol=1e-4)


def test_an_accelerator_takes_more_at_once(monkeypatch: pytest.MonkeyPatch):
    assert (room.most_pictures(1024), room.most_prompts()) == (4, 32)
    monkeypatch.setattr(room.jax, "default_backend", lambda: "gpu")
    assert (room.most_pictures(1024), room.most_prompts()) == (16, 256)
    assert room.most_pictures(8192) == 1
