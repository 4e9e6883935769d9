"""The paper's ablations of SAMI: each choice against its parts, and all of them together."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nano, tiny

from esam_jax import configs, tasks
from esam_jax.config import CropConfig, PretrainDecoderConfig
from esam_jax.models import flops, named
from esam_jax.models.encoders.sam_vit import SamVitEncoder
from esam_jax.models.pretrain.sami import Sami
from esam_jax.ops import images, masking
from esam_jax.tasks import operations
from esam_jax.tasks.task import Start

PX, TOKENS = 64, 64
DECODER = PretrainDecoderConfig(width=32, depth=1, heads=2)
STUDENT = "efficientsam_nano"
BATCH = {"image": jnp.asarray(nano.picture(2 * PX, PX).reshape(2, PX, PX, 3))}
QUERIES, LOSS_ON = ("masked", "all"), ("all", "masked")
# The patches that are seen of 64, by MAE's rounding, at the ratios of the paper's table 7.
VISIBLE = {0.5: 32, 0.75: 16, 0.85: 9}


def run_of(**changes):
    run = configs.load("quickstart_sami")
    task = dataclasses.replace(run.task, decoder=DECODER, **changes)
    return dataclasses.replace(run, task=task)


def drawn(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), shapes)


@functools.cache
def target():
    """The weights of the shipped teacher, and what it makes of the pictures."""
    weights = tasks.build(run_of()).frozen["teacher"].read()
    encoder = SamVitEncoder(named.sam("sam_nano").encoder)
    found = tiny.jit(encoder.apply)({"params": weights}, images.normalise(BATCH["image"]))
    return weights, np.asarray(found, np.float64).reshape(2, TOKENS, -1)


@functools.cache
def params(queries):
    task = tasks.build(run_of(queries=queries))
    return drawn(jax.eval_shape(task.init, jax.random.key(0)))


@pytest.mark.parametrize(
    ("queries", "loss", "loss_on", "ratio"),
    [
        ("masked", "mse", "masked", 0.75),
        pytest.param("all", "mse", "all", 0.5, marks=pytest.mark.slow),
        ("all", "cosine", "masked", 0.85),
    ],
)
def test_against_the_parts_put_together(queries, loss, loss_on, ratio):
    task = tasks.build(run_of(queries=queries, loss=loss, loss_on=loss_on, mask_ratio=ratio))
    choices = tiny.jit(task.draw, static_argnums=1)(jax.random.key(5), 2)
    assert choices["seen"].shape == (2, VISIBLE[ratio])
    weights, wanted = target()
    out = tiny.jit(task.loss)(params(queries), {"teacher": weights}, BATCH | choices)

    student = Sami(named.sam(STUDENT).encoder, DECODER, wanted.shape[-1], queries=queries)
    split = choices["seen"], choices["masked"]
    pixels = images.normalise(BATCH["image"])
    found = tiny.jit(student.apply)({"params": params(queries)[STUDENT]}, pixels, *split)
    found = np.asarray(found, np.float64).reshape(2, TOKENS, -1)
    each, compared = [], []
    for image in range(2):
        tokens = range(TOKENS) if loss_on == "all" else np.asarray(choices["masked"][image])
        a, b = found[image][[*tokens]], wanted[image][[*tokens]]
        compared.append(b)
        if loss == "mse":
            each.append(np.mean((a - b) ** 2))
        else:
            norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
            each.append(np.mean(1 - (a * b).sum(-1) / norms))
    np.testing.assert_allclose(out.loss, each, rtol=1e-4)
    # Of a student that predicts the same features everywhere, on the tokens that are compared.
    if loss == "mse":
        baseline = np.concatenate(compared).var(0).mean()
        assert np.mean(out.metrics["baseline_loss"]) == pytest.approx(baseline, rel=1e-4)


def test_the_loss_on_masked_tokens_does_not_see_the_others():
    """Another target at visible tokens changes nothing; at masked ones it does."""
    folder = CropConfig(image_px=PX, crops=1, features="unread")
    run = run_of(loss_on="masked")
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, view=folder))
    task, split = tasks.build(run), masking.choose(jax.random.key(0), 2, TOKENS, 16)
    loss, given = tiny.jit(task.loss), dict(zip(("seen", "masked"), split, strict=True))
    rows = jnp.arange(2)[:, None]

    def of(features):
        batch = BATCH | given | {"target": features.reshape(2, 8, 8, -1)}
        return np.asarray(loss(params("masked"), {}, batch).loss)

    stored = jnp.asarray(target()[1], jnp.float32)
    np.testing.assert_array_equal(of(stored), of(stored.at[rows, given["seen"]].set(7.0)))
    assert (of(stored) != of(stored.at[rows, given["masked"]].set(7.0))).all()


@pytest.mark.parametrize("ratio", VISIBLE)
def test_patches_are_counted_as_mae_counts_them(ratio):
    for tokens, visible in ((64, VISIBLE[ratio]), (196, {0.5: 98, 0.75: 49, 0.85: 29}[ratio])):
        assert masking.visible_tokens(tokens, ratio) == int(tokens * (1 - ratio)) == visible


def test_every_combination_goes_with_several_students_and_stored_features():
    """Traced, not computed: each learns, and its operations are those of its decoder."""
    students, counted = (STUDENT, "efficientsam_nano_extended"), {}
    for queries in QUERIES:
        params = jax.eval_shape(
            tasks.build(_stored(students, queries=queries)).init, jax.random.key(0)
        )
        for loss, loss_on in itertools.product(("mse", "cosine"), LOSS_ON):
            changes = {"queries": queries, "loss": loss, "loss_on": loss_on}
            (part,) = operations.parts(_stored(students, **changes), params, {})
            counted.setdefault(queries, set()).add(part.total)
    # What is compared, how and with what costs nothing; which tokens are transformed does.
    assert {len(values) for values in counted.values()} == {1}
    (masked,), (joint,) = counted.values()
    assert joint - masked == 2 * (_decoder(65, 65) - _decoder(48, 64))


def _stored(students, **changes):
    """A run of several students that reads its targets from a folder."""
    base = run_of(students=students, **changes)
    view = dataclasses.replace(base.data.view, crops=1, features="unread")
    return dataclasses.replace(base, data=dataclasses.replace(base.data, view=view))


def _decoder(queries, context):
    """Three passes of one block and of the class token's embedding, on paper."""
    E = DECODER.width
    block = flops.linear(queries, E, 2 * E) + flops.linear(context, E, 2 * E)
    block += flops.linear(queries, E, 2 * DECODER.mlp_ratio * E)
    block += flops.attention(queries, context, E)
    embedded = flops.linear(17 if queries == 65 else 16, 64, E)
    return 3 * (block + embedded)


@pytest.mark.parametrize("queries", QUERIES)
def test_the_model_left_behind_is_of_the_same_parts(queries):
    task = tasks.build(run_of(queries=queries))
    with nano.filled_with_zeros():
        model = task.models(params(queries), Start())[STUDENT]
    assert model.config == named.sam(STUDENT)
    trunk = {name: x for name, x in model.params["encoder"].items() if name != "neck"}
    jax.tree.map(np.testing.assert_array_equal, trunk, params(queries)[STUDENT]["encoder"])
    assert model.unused.keys() == {"cls_token", "norm.weight", "norm.bias"}
