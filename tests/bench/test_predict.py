"""Order and arithmetic of measurements; nothing here asserts how long anything takes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nano, tiny

from esam_jax.bench import everything, inputs, predict, roofline, timing
from esam_jax.bench.baselines import Rival
from esam_jax.bench.predict import Row
from esam_jax.bench.timing import Timing
from esam_jax.config import ComputeConfig
from esam_jax.errors import ConfigError
from esam_jax.machine import accelerators
from esam_jax.models import flops, named
from esam_jax.models.sam import network
from esam_jax.predict import programs, tiles
from esam_jax.predict.everything import search
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.sam import Sam

# (network, accelerator, milliseconds): sums over kernels that were worked out by hand.
BY_HAND = [
    ("efficientsam_ti", "a100", 0.977),
    ("efficientsam_ti", "h100", 0.447),
    ("efficientsam_ti", "h200", 0.408),
    ("efficientsam_ti", "v5p", 0.859),
    ("efficientsam_ti", "v6e", 0.944),
    ("efficientsam_s", "a100", 2.160),
    ("efficientsam_s", "h100", 0.887),
    ("efficientsam_s", "h200", 0.852),
    ("efficientsam_s", "v5p", 1.811),
    ("efficientsam_s", "v6e", 1.873),
    ("efficientsam_b", "a100", 5.40),
    ("efficientsam_b", "h200", 2.03),
]


def sheet(name: str) -> accelerators.Accelerator:
    return next(each for each in accelerators.ACCELERATORS if each.name == name)


def row(ours: tuple[float, ...], theirs: tuple[float, ...] | None = None, **more) -> Row:
    return Row(
        **{"part": "encoder", "dtype": "float32", "pictures": 4, "prompts": 0, **more},
        ours=Timing(9.0, ours),
        theirs=None if theirs is None else Timing(9.0, theirs),
        flops=10,
        floor_seconds=0.5,
    )


def test_calls_take_turns_and_are_waited_for(monkeypatch):
    order, waited = [], []
    ticks = itertools.count()
    monkeypatch.setattr(timing, "wait", waited.append)

    def call(name):
        return lambda: (order.append(name), name)[1]

    a, b = timing.in_turn([call("a"), call("b")], 3, clock=lambda: float(next(ticks)))
    assert order == ["a", "b"] * (1 + timing.WARM_UP + 3)
    assert waited == order
    assert a.seconds == b.seconds == (1.0, 1.0, 1.0) and a.first == 1.0


@pytest.mark.parametrize("part", predict.PARTS)
def test_all_that_a_part_returns_is_waited_for(part, monkeypatch):
    """Arrays of JAX and `Masks` know how; anything else would be over before it is computed."""
    returned = []
    monkeypatch.setattr(timing, "wait", returned.append)
    list(predict.predict(nano.sam("efficientsam_nano"), batches=(2,), parts=(part,), runs=1))
    assert len(returned) >= 3
    leaves = jax.tree.leaves(returned)
    assert leaves and all(hasattr(x, "block_until_ready") or type(x) is np.ndarray for x in leaves)


def test_each_call_gets_its_own_times():
    now = [0.0]

    def takes(seconds):
        def call():
            now[0] += next(seconds)

        return call

    a, b = timing.in_turn(
        [takes(iter([9, 8, 1, 2, 3])), takes(iter([7, 6, 4, 5, 6]))], 3, clock=lambda: now[0]
    )
    assert (a.first, a.seconds) == (9, (1, 2, 3))
    assert (b.first, b.seconds) == (7, (4, 5, 6))


def test_compilation_is_told_apart():
    fresh = jax.jit(lambda x: x * 3 + 1)
    compiled, plain = timing.in_turn([lambda: fresh(jnp.ones(3)), lambda: None], 1)
    assert 0 < compiled.compile <= compiled.first and plain.compile == 0


def test_median_and_p90():
    timing = Timing(1.0, tuple(float(x) for x in (11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)))
    assert timing.median == 6 and timing.p90 == 10
    assert Timing(1.0, (2.0,)).p90 == 2


def test_ratio_rate_and_share_are_of_medians():
    measured = row((1.0, 2.0, 30.0), (4.0, 5.0, 6.0))
    assert measured.ratio == pytest.approx(2 / 5)
    assert measured.per_second == 4 / 2 and measured.floor_share == 0.5 / 2
    assert row((2.0,), part="decoder", pictures=1, prompts=16).per_second == 8
    assert row((2.0,)).ratio is None


@pytest.mark.parametrize("wiring", ["sam", pytest.param("efficientsam", marks=pytest.mark.slow)])
def test_every_part_of_a_model(wiring: str):
    config = tiny.config(wiring)
    sam = Sam(network.Sam(config), tiny.params(config))
    rows = list(predict.predict(sam, batches=(2,), prompts=(1, 3), runs=2))
    found = [(each.part, each.pictures, each.prompts) for each in rows]
    assert found == [
        ("encoder", 2, 0), ("decoder", 1, 1), ("decoder", 1, 3), ("device", 2, 1),
        ("end-to-end", 2, 1),
    ]  # fmt: skip
    assert all(len(each.ours.seconds) == 2 and each.theirs is None for each in rows)
    assert all(each.floor_share is None and each.dtype == "float32" for each in rows)
    encoder = 2 * flops.encoder(config.encoder, 40)
    decoder = flops.mask_decoder(config, 1, 2)
    assert [each.flops for each in rows[:2]] == [encoder, decoder]
    assert rows[3].flops == rows[4].flops == encoder + 2 * decoder


@pytest.mark.slow
def test_what_is_timed_is_what_the_library_calls(monkeypatch: pytest.MonkeyPatch):
    """No part has a program of its own, and the library cuts batches and prompts."""
    sam, called = nano.sam("efficientsam_nano"), []
    shapes = {
        "encode": lambda pixels: (len(pixels),),
        "decode": lambda features, points, *_: points.shape[:2],
    }
    for name, shape in shapes.items():
        program = getattr(programs, name)

        def seen(model, params, *arrays, name=name, shape=shape, program=program):
            called.append((name, *shape(*arrays)))
            return program(model, params, *arrays)

        seen.lower = program.lower
        monkeypatch.setattr(programs, name, seen)
    pictures, boxes = [("encode", 2), ("encode", 1)], [("decode", 1, 32), ("decode", 1, 8)]
    segment = [*pictures, *[("decode", 1, 1)] * 3]
    wanted = {"encoder": pictures, "decoder": boxes, "device": segment, "end-to-end": segment}
    for row in predict.predict(sam, batches=(3,), prompts=(40,), runs=1):
        first = [("encode", 1)] if row.part == "decoder" else []  # what is decoded
        assert called == first + 3 * wanted[row.part]
        called.clear()
    points, _ = inputs.boxes(2, 1, sam.config)
    asked = sam, inputs.pictures(2, sam.config), predict.prompts_of(points)
    for ours, wanted in zip(predict._on_device(*asked), predict._on_host(*asked), strict=True):
        assert np.mean(np.asarray(ours) == wanted) > 0.999  # rounding at zero


def test_a_rival_gets_what_was_promised():
    sam, seen = nano.sam("efficientsam_nano"), {}

    def put(array):
        seen.setdefault("put", []).append((array.dtype.name, array.shape))
        return ("put", array)

    def encode(pictures):
        seen["encode"] = pictures[0]
        return "embedding"

    def decode(embedding, points, labels):
        seen["decode"] = embedding, points[0], labels[0]

    def ask(pictures, points, labels):
        seen["ask"] = [(x.dtype.name, x.shape) for x in (pictures, points, labels)]

    rival = Rival("toy", encode, decode, ask, put)
    rows = list(predict.predict(sam, batches=(2,), prompts=(3,), runs=1, rival=rival))
    assert [each.part for each in rows if each.theirs] == ["encoder", "decoder", "end-to-end"]
    assert all(each.ratio == each.ours.median / each.theirs.median for each in rows if each.theirs)
    assert seen["encode"] == "put" and seen["decode"] == ("embedding", "put", "put")
    assert ("uint8", (2, 64, 64, 3)) in seen["put"] and ("float32", (1, 3, 2, 2)) in seen["put"]
    assert seen["ask"] == [
        ("uint8", (2, 64, 64, 3)), ("float32", (2, 1, 2, 2)), ("int32", (2, 1, 2))
    ]  # fmt: skip


def test_boxes_lie_in_the_picture():
    points, labels = inputs.boxes(2, 50, named.sam("sam_nano"))
    assert (points >= 0).all() and (points < 64).all()
    assert (points[:, :, 1] > points[:, :, 0]).all() and (labels == [2, 3]).all()


def test_random_weights_keep_numbers_finite():
    config = tiny.config("sam")
    for dtype in ("float32", "bfloat16"):
        ours = network.Sam(config, ComputeConfig(dtype=dtype))
        sam = Sam(ours, inputs.random_params(config))
        answer = sam.decode(sam.encode(nano.picture(40, 60)), [predict.Prompt(box=[4, 4, 30, 30])])
        assert np.isfinite(answer.low_res).all() and np.abs(answer.low_res).max() < 1e3


# ------------------------------------------------------------------------------------ floors


@pytest.mark.parametrize(("name", "accelerator", "milliseconds"), BY_HAND)
def test_floor_of_the_encoder(name: str, accelerator: str, milliseconds: float):
    found = roofline.encoder(named.sam(name), sheet(accelerator))
    assert 1e3 * found == pytest.approx(milliseconds, rel=0.01)


@pytest.mark.parametrize(
    ("accelerator", "microseconds"),
    [("a100", 22.3), ("h100", 13.3), ("h200", 9.3), ("v5p", 16.1), ("v6e", 27.2)],
)
def test_floor_of_the_decoder(accelerator: str, microseconds: float):
    config = named.sam("efficientsam_ti")
    many = roofline.decoder(config, sheet(accelerator), 1024) / 1024
    assert 1e6 * many == pytest.approx(microseconds, rel=0.03)


@pytest.mark.parametrize(
    ("name", "accelerator", "images_per_second"),
    [("efficientsam_ti", "h200", 2379), ("efficientsam_s", "a100", 457)],
)
def test_floor_of_the_whole_way(name: str, accelerator: str, images_per_second: float):
    found = roofline.end_to_end(named.sam(name), sheet(accelerator), 1)
    assert 1 / found == pytest.approx(images_per_second, rel=0.01)


@pytest.mark.parametrize("name", ["sam_h", "mobile_sam"])
def test_other_encoders_are_counted_by_operations(name: str):
    config = named.sam(name)
    expected = flops.encoder(config.encoder, 1024) / 989e12
    assert roofline.encoder(config, sheet("h200")) == expected


def test_a_share_needs_a_data_sheet():
    sam = nano.sam("efficientsam_nano")
    (measured,) = predict.predict(sam, parts=("encoder",), runs=1, sheet=sheet("h200"))
    assert (
        measured.floor_share == roofline.encoder(sam.config, sheet("h200")) / measured.ours.median
    )


# -------------------------------------------------------------------------------- everything


def test_everything_by_part():
    generator = AutomaticMaskGenerator(
        nano.sam("efficientsam_nano"), 4, pred_iou_thresh=-1e9, stability_score_thresh=0.0,
        output_mode="coco_rle",
    )  # fmt: skip
    before = tiles.turned, Sam.encode, search.search
    picture = nano.picture(50, 70)
    result = everything.measure(generator, picture, runs=2)
    assert (tiles.turned, Sam.encode, search.search) == before
    assert result.masks == len(generator.generate(picture)) > 0
    assert (result.height, result.width, result.clicks) == (50, 70, 16)
    assert len(result.total.seconds) == 2 and set(result.parts) == set(everything.PARTS)
    # A part of nothing would mean that the generator goes another way than the one watched.
    assert all(seconds > 0 for seconds in result.parts.values())
    assert result.as_json()["parts_seconds"] == result.parts


def test_functions_come_back_after_a_failure():
    before = search.search, Sam.encode
    with pytest.raises(ConfigError), everything._watching():
        raise ConfigError("stop")
    assert (search.search, Sam.encode) == before
