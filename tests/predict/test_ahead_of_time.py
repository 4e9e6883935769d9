"""After `compile`, no request within its shapes compiles anything."""

from typing import Any

import numpy as np
import pytest
from helpers import nano, tiny

import esam_jax
from esam_jax import Prompt, Shapes
from esam_jax.errors import ConfigError, PromptError
from esam_jax.machine import compilation
from esam_jax.models.sam import network
from esam_jax.predict import programs
from esam_jax.predict.sam import Sam

PIXELS = 90 * 90


def request(rng: np.random.Generator, shapes: Shapes) -> tuple[list[np.ndarray], list[Any]]:
    """Pictures of any size, each with any number of prompts of any kind."""
    pictures, lists = [], []
    for _ in range(rng.integers(1, shapes.pictures + 1)):
        height = int(rng.integers(1, 2 * PIXELS**0.5))
        pictures.append(nano.picture(height, int(rng.integers(1, PIXELS // height))))
        # Few prompts as often as many.
        most = shapes.prompts if rng.random() < 0.5 else min(shapes.prompts, 3)
        lists.append([prompt(rng, shapes) for _ in range(rng.integers(0, most + 1))])
    return pictures, lists


def prompt(rng: np.random.Generator, shapes: Shapes) -> Prompt:
    mask = np.ones((3, 2), bool) if shapes.masks and rng.random() < 0.3 else None
    if shapes.points > 1 and rng.random() < 0.3:
        points = np.zeros((rng.integers(0, shapes.points - 1), 2))
        return Prompt(points=points, box=[0, 0, 1, 1], mask=mask)
    return Prompt(points=np.zeros((rng.integers(1, shapes.points + 1), 2)), mask=mask)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wiring", "shapes"),
    [
        ("sam", {"prompts": 9, "masks": True, "results": ("best",)}),
        ("efficientsam", {"pictures": 5, "prompts": 2, "results": ("rle", "low_res", "binary")}),
    ],
)
def test_requests_within_the_shapes_compile_nothing(wiring: str, shapes: dict[str, Any]):
    config = tiny.config(wiring)
    sam, bounds = Sam(network.Sam(config), tiny.params(config)), Shapes(pixels=PIXELS, **shapes)
    before = compilation.counts().programs
    report = sam.compile(bounds)
    ready = compilation.counts().programs
    assert sum(each.programs for each in report) == ready - before
    assert all(each.seconds > 0 for each in report)
    assert str(report[1]).startswith("encoder, 1 picture: ") and str(report[1]).endswith(" s")
    rng = np.random.default_rng(0)
    for _ in range(25):
        pictures, lists = request(rng, bounds)
        for masks in sam.segment(pictures, lists):
            for name in bounds.results:
                found = getattr(masks, name)
                if callable(found):
                    found()
        asked = [(each.shape, len(prompts)) for each, prompts in zip(pictures, lists, strict=True)]
        assert compilation.counts().programs == ready, asked
    assert not sum(each.programs for each in sam.compile(bounds))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"pictures": 0}, "pictures is 0, but must be an integer from 1"),
        ({"pixels": -3}, "pixels is -3, but must be an integer from 1"),
        ({"results": ("best", "area")}, "results has 'area', but must be of low_res, logits"),
        ({"results": "best"}, "results is 'best', but must be a tuple or list of names: write"),
    ],
)
def test_what_is_no_shape_is_named(shapes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        Shapes(**shapes)


def test_what_a_model_cannot_take_is_refused_before_anything_is_compiled():
    sam = nano.sam("efficientsam_nano")
    before = compilation.counts().programs
    with pytest.raises(PromptError, match="takes no mask prompts"):
        sam.compile(Shapes(masks=True))
    with pytest.raises(PromptError, match=r"takes 9 slots .* give fewer points"):
        sam.compile(Shapes(points=9))
    assert compilation.counts().programs == before


def test_a_device_without_room_is_reported(monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise MemoryError("out of memory")

    monkeypatch.setattr(programs, "decode", full)
    with pytest.raises(esam_jax.DeviceMemoryError, match="fewer pictures or prompts"):
        nano.sam("sam_nano").compile(Shapes(pixels=1))
