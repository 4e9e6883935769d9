"""The formulas of MFU, against what XLA counts, against products counted one by one, and on paper.

XLA counts every operation, the formulas products alone, so that small networks differ by more than
large ones. Bodies of scans it counts once: nothing here is scanned, nor run: see `unrolled_blocks`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from helpers import unrolled
from jax.extend import core

from esam_jax import configs, sharding, tasks
from esam_jax.config import ComputeConfig, MeshConfig, TeacherConfig
from esam_jax.models import flops as networks
from esam_jax.models import named
from esam_jax.models.sam import network
from esam_jax.models.sam.network import Sam
from esam_jax.tasks import flops
from esam_jax.train.step import mean_gradient

PLAIN = ComputeConfig(attention="xla")
GIGA = 1e9


@pytest.fixture(autouse=True)
def unrolled_blocks():
    """Blocks one after the other, as the formulas count them."""
    with unrolled.blocks():
        yield


def _shape(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def _params(config):
    return jax.eval_shape(lambda key: network.init(config, key), jax.random.key(0))


def _encode(name, image_px):
    """The encoder of a model as a function, with abstract arguments."""
    config = named.sam(name)
    model = Sam(config, PLAIN)

    def run(params, pixels):
        return model.apply({"params": params}, pixels, method=Sam.encode)

    return run, (_params(config), _shape(1, image_px, image_px, 3))


def _decode(name, prompts, points=2):
    config = named.sam(name)
    model, grid = Sam(config, PLAIN), config.encoder.grid

    def run(params, embedding, points, labels):
        variables = {"params": params}
        masks, iou = model.apply(variables, embedding, points, labels, method=Sam.decode)
        return masks.sum() + iou.sum()

    return run, (
        _params(config),
        _shape(1, grid, grid, config.decoder.width),
        _shape(1, prompts, points, 2),
        _shape(1, prompts, points, dtype=jnp.int32),
    )


def _xla(function, arguments):
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def _products(jaxpr):
    """2 for each multiplication of a matrix product or convolution, inner programs included."""
    total = 0
    for equation in jaxpr.eqns:
        for inner in core.jaxprs_in_params(equation.params):
            total += _products(inner)
        out = equation.outvars[0].aval.shape
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(out) * math.prod(left[i] for i in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            total += 2 * math.prod(out) * math.prod(kernel[:-1])
    return total


def _counted(function, arguments):
    return _products(jax.make_jaxpr(function)(*arguments).jaxpr)


def _one_hot(name, image_px):
    """What the channels that pick relative positions add to SAM's scores: not the mathematics."""
    config = named.sam(name).encoder
    side = image_px // config.patch_px
    total = 0
    for i in range(config.depth):
        each = side if i in config.global_blocks else config.window
        windows = 1 if each == side else math.ceil(side / each) ** 2
        total += windows * 2 * config.heads * each**4 * 2 * each
    return total


@pytest.mark.parametrize(
    ("name", "image_px"),
    [("efficientsam_ti", 224), ("efficientsam_ti", 1024), ("efficientsam_s", 1024), ("sam_b", 224)],
)
def test_encoders_as_xla_counts_them(name, image_px):
    found = networks.encoder(named.sam(name).encoder, image_px)
    assert found == pytest.approx(_xla(*_encode(name, image_px)), rel=0.05)


@pytest.mark.parametrize("name", ["efficientsam_nano", "sam_nano", "sam_b"])
def test_products_of_the_encoders(name):
    """Exact, but for table resizing, and the edges of the neck's convolution that XLA leaves in."""
    image_px = named.sam(name).image_px
    extra = _one_hot(name, image_px) if name.startswith("sam") else 0
    found = networks.encoder(named.sam(name).encoder, image_px)
    assert found + extra == pytest.approx(_counted(*_encode(name, image_px)), rel=0.002)


def test_products_of_mobile_sam():
    """Depthwise convolutions are no products: they are 1.3 % of this network."""
    found = networks.encoder(named.sam("mobile_sam").encoder, 1024)
    counted = _counted(*_encode("mobile_sam", 1024))
    assert counted < found < 1.02 * counted


@pytest.mark.parametrize("name", ["efficientsam_nano", "sam_nano", "efficientsam_ti"])
def test_products_of_the_mask_decoder(name):
    for prompts in (1, 5):
        found = networks.mask_decoder(named.sam(name), prompts, points=2)
        assert found == pytest.approx(_counted(*_decode(name, prompts)), rel=0.001)


def _gradient(cfg):
    """The gradient of a config's step on one device, with one example."""
    cfg = dataclasses.replace(cfg, mesh=MeshConfig(data=1), batch=1, compute=PLAIN)
    task, place = tasks.build(cfg), sharding.batch(sharding.make_mesh(cfg.mesh))
    params = jax.eval_shape(task.init, jax.random.key(0))
    frozen = jax.eval_shape(task.load_frozen)

    def step(params, frozen, batch):
        return mean_gradient(task, params, frozen, batch, jax.random.key(1), 1, place)

    return step, params, frozen


def test_sami_step_as_xla_counts_it():
    cfg = configs.load("sami_ti")
    teacher = TeacherConfig(model="sam_b", weights="random")
    cfg = dataclasses.replace(cfg, task=dataclasses.replace(cfg.task, teacher=teacher))
    step, params, frozen = _gradient(cfg)
    batch = {"image": _shape(1, 224, 224, 3, dtype=jnp.uint8)}
    assert flops.per_example(cfg) == pytest.approx(_xla(step, (params, frozen, batch)), rel=0.05)


def test_segment_step_as_xla_counts_it():
    cfg = configs.load("segment_ti")
    step, params, frozen = _gradient(cfg)
    prompts = cfg.data.view.masks
    batch = {
        "image": _shape(1, 1024, 1024, 3, dtype=jnp.uint8),
        "points": _shape(1, prompts, 2, 2),
        "labels": _shape(1, prompts, 2, dtype=jnp.int32),
        "masks": _shape(1, prompts, 1024, 128, dtype=jnp.uint8),
        "valid": _shape(1, prompts),
    }
    assert flops.per_example(cfg) == pytest.approx(_xla(step, (params, frozen, batch)), rel=0.05)


def test_encoders_on_paper():
    """GFLOP by hand for 1024 pixels: 24 N D^2 + 4 N^2 D a block, embedding and neck."""
    for name, wanted in (("ti", 204.5), ("s", 491.2), ("b", 1330)):
        found = networks.encoder(named.sam(f"efficientsam_{name}").encoder, 1024)
        assert found / GIGA == pytest.approx(wanted, rel=0.01)
    for name, whole, small in (("b", 970, 35), ("l", 2990, 123), ("h", 5960, 254)):
        config = named.sam(f"sam_{name}").encoder
        assert networks.encoder(config, 1024) / GIGA == pytest.approx(whole, rel=0.01)
        assert networks.encoder(config, 224) / GIGA == pytest.approx(small, rel=0.02)


def test_mask_decoder_on_paper():
    """3.69 GFLOP for one prompt, 2.88 for each further one; the grid's own codes come once."""
    config = named.sam("efficientsam_ti")
    one, two = (networks.mask_decoder(config, prompts, 2) for prompts in (1, 2))
    positions = 5 * networks.linear(4096, 256, 128)
    assert (one - positions) / GIGA == pytest.approx(3.69, rel=0.01)
    assert (two - one) / GIGA == pytest.approx(2.88, rel=0.01)


def test_sami_on_paper():
    """Teacher 254 G, students 0.57, 2.20, 8.64 G, decoder 8.3 G; one teacher pass for all."""
    found = {part.name: part.forward / GIGA for part in flops.parts(configs.load("sami_all"))}
    assert found["teacher"] == pytest.approx(254, rel=0.01)
    for name, wanted in (("ti", 0.57), ("s", 2.20), ("b", 8.64)):
        assert found[f"student/efficientsam_{name}"] == pytest.approx(wanted, rel=0.03)
        assert found[f"decoder/efficientsam_{name}"] == pytest.approx(8.3, rel=0.05)
    for name, low, high in (("ti", 257, 281), ("s", 264, 287), ("b", 294, 307)):
        assert low < flops.per_example(configs.load(f"sami_{name}")) / GIGA < high


def test_enlarged_teacher_and_trunk_features():
    cfg = configs.load("sami_ti")

    def teacher(**changes):
        replaced = dataclasses.replace(cfg.task.teacher, **changes)
        changed = dataclasses.replace(cfg, task=dataclasses.replace(cfg.task, teacher=replaced))
        return flops.parts(changed)[0].forward / GIGA

    assert teacher(view="enlarged") == pytest.approx(5960, rel=0.01)
    neck = networks.neck(named.sam("sam_h").encoder, 196, 1280) / GIGA
    assert teacher() - teacher(features="trunk") == pytest.approx(neck)
