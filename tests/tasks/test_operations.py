"""Operations counted in jaxprs, against the numbers of formulas, what XLA counts, and on paper.

The formulas were worked out by hand for each network and held against XLA; their results are kept
here. XLA counts every operation, a jaxpr's count holds products alone, so that small networks
differ by more than large ones.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from helpers import toy, unrolled

from esam_jax import configs, sharding, tasks
from esam_jax.config import ComputeConfig, MeshConfig, TeacherConfig
from esam_jax.models import flops, named
from esam_jax.models.sam import network
from esam_jax.models.sam.network import Sam
from esam_jax.tasks import operations
from esam_jax.train.step import mean_gradient

PLAIN = ComputeConfig(attention="xla")
GIGA = 1e9

# By formula: image encoder at its own size; mask decoder for one and five prompts of two points.
NETWORKS = {
    "efficientsam_nano": (28835840, 7275520, 27988992),
    "efficientsam_ti": (204547817472, 5030465536, 16562393088),
    "efficientsam_s": (491236884480, 5030465536, 16562393088),
    "efficientsam_b": (1325534281728, 5030465536, 16562393088),
    "mobile_sam": (77536590848, 4964782080, 16233975808),
    "sam_nano": (69009408, 6386688, 23544832),
    "sam_b": (972077334528, 4964782080, 16233975808),
    "sam_l": (2985680306176, 4964782080, 16233975808),
    "sam_h": (5961082830848, 4964782080, 16233975808),
}


def rounds(model: str, number: int, first: int) -> int:
    """Of several rounds of prompts from that of the first: the encoder runs once."""
    encoder = 3 * NETWORKS[model][0]
    return encoder + number * (first - encoder)


def classifier(width: int) -> int:
    """Patches, twelve blocks and a head of 1000 classes, three times; with a class token."""
    blocks = 12 * (24 * 197 * width**2 + 4 * 197**2 * width)
    return 3 * (2 * 196 * 768 * width + blocks + 2 * 1000 * width)


def mae(width: int) -> int:
    """The forward pass: 49 patches and a class token in twelve blocks, then all in eight."""
    encoder = 2 * 49 * 768 * width + blocks(12, 50, 50, width) + 2 * 50 * width * 512
    return encoder + blocks(8, 197, 197, 512) + 2 * 196 * 512 * 768


def dmae(width: int) -> int:
    """With a linear map to ViT-L, whose first 18 of 24 blocks see the same patches once."""
    return 3 * (mae(width) + 2 * 50 * width * 1024) + 2 * 49 * 768 * 1024 + blocks(18, 50, 50, 1024)


TEACHER = 254113742848  # SAM's ViT-H on 224 pixels


def vit(tokens: int, width: int) -> int:
    """Twelve blocks on so many tokens, of which one is the class token, and the patches of all."""
    return 2 * (tokens - 1) * 768 * width + blocks(12, tokens, tokens, width)


def blocks(depth: int, queries: int, keys: int, width: int) -> int:
    """Attention and MLP of the queries, and keys and values of what they look at."""
    products = 20 * queries * width**2 + 4 * keys * width**2
    return depth * (products + 4 * queries * keys * width)


def masked(width: int, seen: int, queries: str = "masked", target: int = 256) -> int:
    """A student of SAMI, three times: embedding, eight blocks of 512 and a head."""
    E = 512
    joint = queries == "all"
    decoder = blocks(8, 197, 197, E) if joint else blocks(8, 196 - seen, 196, E)
    embedding = 2 * (seen + joint) * width * E
    return 3 * (vit(seen + 1, width) + embedding + decoder + 2 * 196 * E * target)


def regressing(width: int) -> int:
    """All patches without a class token, and a head."""
    products = 2 * 196 * 768 * width + blocks(12, 196, 196, width)
    return TEACHER + 3 * (products + 2 * 196 * width * 256)


# By formula: one example of a step.
STEPS = {
    "quickstart_sami": 122464512,
    "sami_ti": 280847331328,
    "sami_s": 285766279168,
    "sami_b": 305159323648,
    "sami_all": 363545448448,
    "mae_ti": 3 * mae(192),
    "mae_s": 3 * mae(384),
    "mae_b": 3 * mae(768),
    "dmae_ti": dmae(192),
    "dmae_s": dmae(384),
    "dmae_b": dmae(768),
    "sami_b_mask_50": TEACHER + masked(768, 98),
    "sami_b_mask_85": TEACHER + masked(768, 29),
    "sami_ti_all_tokens": TEACHER + masked(192, 49, "all"),
    "sami_ti_clip": vit(197, 768) + masked(192, 49, target=768),
    "regress_ti": regressing(192),
    "regress_b": regressing(768),
    "classify_ti": classifier(192),
    "classify_s": classifier(384),
    "classify_b": classifier(768),
    "segment_ti": rounds("efficientsam_ti", 6, 1173618425856),
    "segment_s": rounds("efficientsam_s", 6, 2033685626880),
}

FAST_STEPS = {"quickstart_sami", "sami_ti", "classify_ti", "classify_s", "classify_b"} | {
    *("segment_ti", "segment_s", "sami_ti_clip", "mae_ti", "dmae_b")
}

# Counting traces the network: once for each config, however many tests look at it.
per_example = functools.cache(operations.per_example)
parts = functools.cache(operations.parts)
encoder_flops = functools.cache(flops.encoder)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_by_formula(name):
    config, (encoder, one, five) = named.sam(name), NETWORKS[name]
    # The formulas leave out that a position table is fitted to the grid: 1.3e-4 of Ti at 1024 px.
    assert encoder_flops(config.encoder, config.image_px) == pytest.approx(encoder, rel=1.5e-4)
    assert flops.mask_decoder(config, 1, 2) == one
    assert flops.mask_decoder(config, 5, 2) == five


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST_STEPS)) for name in STEPS],
)
def test_steps_by_formula(name):
    assert per_example(configs.load(name)) == pytest.approx(STEPS[name], rel=1e-4)


def test_masks_enlarged_for_the_loss_are_products_too():
    """At the size of the image, which the formulas left out: from 32 to 64 pixels."""
    cfg = configs.load("quickstart_scratch")
    low = dataclasses.replace(cfg, task=dataclasses.replace(cfg.task, loss_at="low_res"))
    assert per_example(low) == 154939392
    more = per_example(cfg) - 154939392
    one = 2 * 64 * 32 * (32 + 64)
    assert more == 3 * cfg.data.view.masks * 4 * one  # three candidates, and the best again


def test_a_teacher_that_is_trained_counts_no_one_hot_channels():
    cfg = configs.load("quickstart_teacher")
    low = dataclasses.replace(cfg, task=dataclasses.replace(cfg.task, loss_at="low_res"))
    assert per_example(low) == 264794112  # by formula


def test_loops_branches_and_recomputation():
    x = _shape(3, 5)

    def product(x):
        return x @ jnp.ones((5, 5))

    once = 2 * 3 * 5 * 5
    assert flops.count(product, x) == once
    assert flops.count(jax.jit(product), x) == once
    assert flops.count(jax.checkpoint(product), x) == once
    custom = jax.custom_vjp(product)
    custom.defvjp(lambda x: (product(x), None), lambda _, cotangent: (cotangent,))
    assert flops.count(custom, x) == once
    looped = lambda x: jax.lax.scan(lambda x, _: (product(x), None), x, length=7)[0]  # noqa: E731
    assert flops.count(looped, x) == 7 * once
    branched = lambda x: jax.lax.cond(x[0, 0] > 0, product, lambda x: product(product(x)), x)  # noqa: E731
    assert flops.count(branched, x) == 2 * once
    kernel = _shape(3, 3, 4, 8)
    convolve = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert flops.count(convolve, _shape(1, 6, 7, 4), kernel) == 2 * 6 * 7 * 8 * 9 * 4


def test_any_task_is_counted(monkeypatch):
    monkeypatch.setattr(tasks, "build", lambda cfg: toy.task())
    (trained,) = operations.parts(toy.config())
    assert trained.trained and trained.forward == 2 * (2 * 8 * 8 + 2 * 8 * 16)


@pytest.mark.parametrize("name", ["efficientsam_nano", "sam_nano"])
def test_what_is_frozen_spares_its_share(name):
    """A frozen encoder is passed once; beside pairs nothing needs a gradient of its kernels."""
    model = named.sam(name)
    cfg = configs.load("quickstart_scratch")
    view = dataclasses.replace(cfg.data.view, fit=model.fit)
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, view=view))

    def trained(train):
        task = dataclasses.replace(cfg.task, model=name, train=train)
        (part,) = operations.parts(dataclasses.replace(cfg, task=task))
        return part

    every, decoder, pairs = map(trained, ("all", "decoder", "lora"))
    encoder = flops.encoder(model.encoder, model.image_px)
    assert every.total == 3 * every.forward
    assert decoder.forward == every.forward
    assert decoder.total == encoder + 3 * (every.forward - encoder)
    # The products of the pairs are made once an update, and counted for each example: next to none.
    assert every.forward < pairs.forward < 1.05 * every.forward
    assert pairs.total == 2 * pairs.forward


def _shape(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def _xla(function, arguments):
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("name", "image_px"),
    [("efficientsam_ti", 224), ("efficientsam_s", 1024), ("sam_b", 224)],
)
def test_encoders_as_xla_counts_them(name, image_px):
    config = named.sam(name)
    model = Sam(config, PLAIN)
    params = jax.eval_shape(lambda key: network.init(config, key), jax.random.key(0))

    def run(params, pixels):
        return model.apply({"params": params}, pixels, method=Sam.encode)

    with unrolled.blocks():  # it counts bodies of loops once
        counted = _xla(run, (params, _shape(1, image_px, image_px, 3)))
    assert encoder_flops(config.encoder, image_px) == pytest.approx(counted, rel=0.05)


def _gradient(cfg):
    """The gradient of a config's step on one device, with one example, and its arguments."""
    cfg = dataclasses.replace(cfg, mesh=MeshConfig(data=1), batch=1, compute=PLAIN)
    task, place = tasks.build(cfg), sharding.batch(sharding.make_mesh(cfg.mesh))
    params = jax.eval_shape(task.init, jax.random.key(0))
    frozen = {name: part.shapes() for name, part in task.frozen.items()}
    batch = {name: _shape(1, *shape, dtype=dtype) for name, (shape, dtype) in task.example.items()}

    def step(params, frozen, batch):
        return mean_gradient(task, params, frozen, batch, jax.random.key(1), 1, place)

    return step, (params, frozen, batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sami_ti", "segment_ti"])
def test_steps_as_xla_counts_them(name):
    cfg = configs.load(name)
    if hasattr(cfg.task, "teacher"):
        teacher = TeacherConfig(model="sam_b", weights="random")
        cfg = dataclasses.replace(cfg, task=dataclasses.replace(cfg.task, teacher=teacher))
    else:  # rounds are a loop, of which XLA counts the body once
        cfg = dataclasses.replace(cfg, task=dataclasses.replace(cfg.task, clicks=0))
    with unrolled.blocks():
        counted = _xla(*_gradient(cfg))
    assert per_example(cfg) == pytest.approx(counted, rel=0.05)


def test_encoders_on_paper():
    """GFLOP by hand for 1024 pixels: 24 N D^2 + 4 N^2 D a block, embedding and neck."""
    for name, wanted in (("ti", 204.5), ("s", 491.2), ("b", 1330)):
        found = encoder_flops(named.sam(f"efficientsam_{name}").encoder, 1024)
        assert found / GIGA == pytest.approx(wanted, rel=0.01)
    for name, whole, small in (("b", 970, 35), ("l", 2990, 123), ("h", 5960, 254)):
        config = named.sam(f"sam_{name}").encoder
        assert encoder_flops(config, 1024) / GIGA == pytest.approx(whole, rel=0.01)
        assert encoder_flops(config, 224) / GIGA == pytest.approx(small, rel=0.02)


def test_mask_decoder_on_paper():
    """3.69 GFLOP for one prompt, 2.88 for each further one; the grid's own codes come once."""
    config = named.sam("efficientsam_ti")
    one, two = (flops.mask_decoder(config, prompts, 2) for prompts in (1, 2))
    positions = 5 * flops.linear(4096, 256, 128)
    assert (one - positions) / GIGA == pytest.approx(3.69, rel=0.01)
    assert (two - one) / GIGA == pytest.approx(2.88, rel=0.01)


@pytest.mark.slow
def test_sami_on_paper():
    """Teacher 254 G, students 0.57, 2.20, 8.64 G, decoder 8.3 G; one teacher pass for all."""
    found = {part.name: part.forward / GIGA for part in parts(configs.load("sami_all"))}
    assert found["teacher"] == pytest.approx(254, rel=0.01)
    assert found["trained"] == pytest.approx(0.57 + 2.20 + 8.64 + 3 * 8.35, rel=0.01)
    for name, low, high in (("ti", 257, 281), ("s", 264, 287), ("b", 294, 307)):
        assert low < per_example(configs.load(f"sami_{name}")) / GIGA < high


@pytest.mark.slow
def test_enlarged_teacher_and_trunk_features():
    cfg = configs.load("sami_ti")

    def teacher(**changes):
        replaced = dataclasses.replace(cfg.task.teacher, **changes)
        changed = dataclasses.replace(cfg, task=dataclasses.replace(cfg.task, teacher=replaced))
        return parts(changed)[0].forward / GIGA

    assert teacher(view="enlarged") == pytest.approx(5960, rel=0.01)
    neck = flops.neck(named.sam("sam_h").encoder, 196, 1280) / GIGA
    assert teacher() - teacher(features="trunk") == pytest.approx(neck)
