"""Interactive training against a plain version that takes one query of one picture at a time."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny
from hypothesis import given
from hypothesis import strategies as st

from esam_jax import configs, tasks
from esam_jax.config import SegmentConfig
from esam_jax.errors import ConfigError
from esam_jax.models.sam.network import Sam
from esam_jax.ops import images
from esam_jax.tasks import rounds, segment
from esam_jax.typing import (
    BACKGROUND,
    BOTTOM_RIGHT,
    FOREGROUND,
    NOTHING,
    PADDING,
    PADDING_XY,
    TOP_LEFT,
)

SAM_ROUNDS = SegmentConfig(clicks=8, repeats=2)
FEW = SegmentConfig(clicks=3, repeats=2)
RELEASED = SegmentConfig(clicks=8, repeats=2, click_labels="foreground", answers="candidates")


IN_PIXELS = dataclasses.replace(FEW, loss_at="image", rounds_as="mean")
EXTENDED = {"background": "learned", "mask_prompts": "learned"}

# What the loss of the predicted IoU may change by where a logit rounds to the other side of zero.
ONE_PIXEL = 0.05

round_loss = tiny.jit(segment.round_loss, static_argnums=0)  # test_segment.py has a slow version


# ------------------------------------------------------------------------------- which rounds


def test_sam_has_eleven_rounds_of_which_two_add_no_click():
    drawn = rounds.draw(SAM_ROUNDS, 3, jax.random.key(0), 10_000)
    adds = np.asarray(rounds.has_click(SAM_ROUNDS, drawn["repeat_before"]))
    assert 1 + adds.shape[1] == 11
    assert (adds.sum(1) == 8).all() and not adds[:, -1].any()
    at = np.argmin(adds, axis=1)
    counts = np.bincount(at, minlength=8)
    assert len(counts) == 8  # before each of the clicks, never after the last of them
    # Chi-square with 7 degrees of freedom: above 24.3 once in a thousand.
    assert ((counts - 1250) ** 2 / 1250).sum() < 24.3


@pytest.mark.parametrize(("repeats", "adds"), [(0, [True] * 3), (1, [True] * 3 + [False])])
def test_fewer_repeats(repeats, adds):
    task = SegmentConfig(clicks=3, repeats=repeats)
    drawn = rounds.draw(task, 2, jax.random.key(0), 5)
    assert rounds.has_click(task, drawn["repeat_before"]).tolist() == [adds] * 5


def test_one_prompt_alone_draws_nothing():
    assert rounds.draw(SegmentConfig(), 3, jax.random.key(0), 5) == {}


# ------------------------------------------------------------------------------------- clicks


@functools.cache
def clicked(task, config):
    return tiny.jit(functools.partial(rounds.with_click, task, config))


def scene(seed, empty=False, perfect=False):
    """Logits of 20 x 20 cells and true masks, two queries of three pictures."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(2, 3, 2, 5, 5)).astype(np.float32)
    logits, truth = coarse.repeat(4, -1).repeat(4, -2)
    target = np.zeros_like(truth, bool) if empty else truth > 0.5
    return np.where(target, 1, -1).astype(np.float32) if perfect else logits, target


def prompts_of(config, task, points, labels):
    return rounds.with_slots(task, config, jnp.asarray(points), jnp.asarray(labels))


ONE_POINT = (
    np.full((3, 2, 2, 2), -1, np.float32),
    np.tile(np.int32([FOREGROUND, PADDING]), (3, 2, 1)),
)


@given(st.integers(0, 2**20), st.sampled_from(["both", "foreground"]))
def test_a_click_lies_where_the_mask_is_wrong(seed, kind):
    task, config = dataclasses.replace(FEW, click_labels=kind), tiny.config("sam")
    logits, target = scene(seed)
    points, labels = prompts_of(config, task, *ONE_POINT)
    bits = np.random.default_rng(seed).integers(0, 2**32, (3, 2), np.uint32)
    adds = np.array([True, True, False])
    new_points, new_labels = clicked(task, config)(points, labels, logits, target, bits, adds)
    assert np.array_equal(new_labels[2], labels[2]) and np.array_equal(new_points[2], points[2])
    inside = logits > 0
    for i in np.ndindex(2, 2):
        changed = np.flatnonzero(np.asarray(new_labels[i]) != np.asarray(labels[i]))
        missing, excess = target[i] & ~inside[i], inside[i] & ~target[i]
        if kind == "foreground":
            region = missing if missing.any() else target[i]
        else:
            region = missing | excess if (missing | excess).any() else ~target[i]
        if not region.any():
            assert not len(changed)
            continue
        assert changed.tolist() == [2]  # behind the first prompt and its padding
        x, y = ((np.asarray(new_points[i][2]) + 0.5) / 2 - 0.5).astype(int)  # 40 px, 20 cells
        assert region[y, x]
        assert new_labels[i][2] == (FOREGROUND if target[i][y, x] else BACKGROUND)
        if missing.any() and not excess.any():
            assert new_labels[i][2] == FOREGROUND


def test_a_click_is_the_centre_of_its_cell_in_pixels_of_the_input():
    config, target = tiny.config("sam"), np.zeros((1, 1, 20, 20), bool)
    target[0, 0, 3, 17] = True
    points, labels = (x[:1, :1] for x in prompts_of(config, FEW, *ONE_POINT))
    logits = np.full((1, 1, 20, 20), -1, np.float32)
    points, labels = clicked(FEW, config)(
        points, labels, logits, target, np.uint32([[7]]), np.array([True])
    )
    assert points[0, 0, 2].tolist() == [34.5, 6.5] and labels[0, 0, 2] == FOREGROUND


@pytest.mark.parametrize(
    ("kind", "empty", "label"),
    [
        ("both", False, BACKGROUND),  # nothing is wrong: a click in the background
        ("both", True, BACKGROUND),
        ("foreground", False, FOREGROUND),
        ("foreground", True, NOTHING),  # there is nothing to click on
    ],
)
def test_where_nothing_is_wrong(kind, empty, label):
    task, config = dataclasses.replace(FEW, click_labels=kind), tiny.config("sam")
    logits, target = scene(0, empty=empty, perfect=True)
    points, labels = prompts_of(config, task, *ONE_POINT)
    bits, adds = np.arange(6, dtype=np.uint32).reshape(3, 2), np.ones(3, bool)
    _, labels = clicked(task, config)(points, labels, logits, target, bits, adds)
    assert (np.asarray(labels)[..., 2] == label).all()


def test_the_released_model_never_gets_more_than_six_points():
    config = tiny.config("efficientsam")
    logits, target = scene(1)
    corners = np.tile(np.int32([TOP_LEFT, BOTTOM_RIGHT]), (3, 2, 1))
    for first, most in ((ONE_POINT[1], 6), (corners, 6)):
        points, labels = prompts_of(config, RELEASED, ONE_POINT[0], first)
        for number in range(8):
            bits, adds = np.full((3, 2), number, np.uint32), np.ones(3, bool)
            points, labels = clicked(RELEASED, config)(points, labels, logits, target, bits, adds)
            assert labels.shape[2] == config.decoder.point_slots
            given = (np.asarray(labels) != PADDING).sum(-1)
            wanted = min((first[0, 0] != PADDING).sum() + number + 1, most)
            assert (given == wanted).all()
            assert (np.asarray(points)[np.asarray(labels) == PADDING] == PADDING_XY).all()
        assert np.array_equal(labels[..., 0], first[..., 0])  # the first prompt stays
        assert not (np.asarray(labels) == BACKGROUND).any()


# ------------------------------------------------------------------------- the complete loss


def network(config):
    model = Sam(config)
    return tiny.jit(
        functools.partial(model.apply, {"params": tiny.params(config)}, method="decode")
    )


def batch_of(task, config, pictures, queries=2, seed=0):
    """First prompts, packed masks of 40 px, the draws of one update, and image embeddings."""
    rng = np.random.default_rng(seed)
    grid, width = config.encoder.grid, config.decoder.width
    masks = (rng.normal(size=(pictures, queries, 5, 5)) > 0.3).repeat(8, -1).repeat(8, -2)
    masks[..., 3:6, 2:9] ^= True
    labels = np.int32([[FOREGROUND, PADDING], [TOP_LEFT, BOTTOM_RIGHT]])
    labels = labels[rng.integers(0, 2, (pictures, queries))]
    points = rng.uniform(0, 40, (pictures, queries, 2, 2)).astype(np.float32)
    points[labels == PADDING] = -1
    drawn = rounds.draw(task, queries, jax.random.key(seed), pictures)
    embedding = rng.normal(size=(pictures, grid, grid, width)).astype(np.float32)
    return {
        "points": points,
        "labels": labels,
        "masks": np.packbits(masks, axis=-1),
        "valid": np.ones((pictures, queries), np.float32),
        **jax.tree.map(np.asarray, drawn),
    }, embedding


def fast(task, config, batch, embedding, params):
    """As `tasks.segment` calls it."""
    batch, embedding = jax.tree.map(jnp.asarray, (batch, embedding))
    masks = images.unpack_bits(batch["masks"])
    decode = functools.partial(Sam(config).apply, {"params": params}, embedding, method="decode")
    compare = functools.partial(compare_with, task, masks, batch["valid"])
    target = functools.partial(segment._target, task, masks, config.low_res_px)
    return rounds.loss(task, config, decode, compare, lambda: target() > 0.5, batch)


def compare_with(task, masks, valid, logits, scores):
    return segment.round_loss(task, logits, scores, masks, valid)


def enlarged(logits, side):
    """Bilinear, by the centres of pixels."""
    at = (np.arange(side) + 0.5) * len(logits) / side - 0.5
    cells = np.arange(len(logits))
    rows = np.stack([np.interp(at, cells, column) for column in logits.T], -1)
    return np.stack([np.interp(at, cells, row) for row in rows])


def plain(task, config, decode, batch, embedding, b, q):
    """(points, labels, loss, IoU of the answer) of each round of one query, without free slots."""
    truth = np.unpackbits(batch["masks"][b, q], axis=-1).astype(bool)
    side = config.low_res_px
    cell = truth.shape[0] // side
    target = truth.reshape(side, cell, side, cell).mean((1, 3)) >= 0.5
    if task.loss_at == "image":
        target = truth
    px = config.image_px / len(target)
    labels = batch["labels"][b, q].tolist()
    points = batch["points"][b, q].tolist()
    fixed, remembers = config.decoder.wiring == "efficientsam", config.decoder.mask_prompts
    if fixed:  # the other padding is added by the network
        points = [p for p, label in zip(points, labels) if label != PADDING]
        labels = [label for label in labels if label != PADDING]
    number, sequence = 0, ["first"]
    repeat = int(batch["repeat_before"][b]) if task.repeats == 2 else None
    for click in range(task.clicks):
        sequence += (["repeat"] if click == repeat else []) + ["click"]
    sequence += ["repeat"] if task.repeats else []
    seen, shown = [], None
    for kind in sequence:
        if kind != "first":
            bits = int(batch["click_bits"][b, number, q])
            number += 1
        room = not fixed or len(points) < config.decoder.point_slots
        if kind == "click" and room:
            inside = enlarged(shown, len(target)) > 0
            if task.click_labels == "foreground":
                region = target & ~inside if (target & ~inside).any() else target
            else:
                region = target ^ inside if (target ^ inside).any() else ~target
            where = np.argwhere(region)
            if len(where):
                y, x = where[bits % len(where)]
                points.append([(x + 0.5) * px - 0.5, (y + 0.5) * px - 0.5])
                labels.append(FOREGROUND if target[y, x] else BACKGROUND)
        mask = None
        if kind != "first" and remembers == "learned":
            mask = shown[None, None]
        given = np.float32(points)[None, None], np.int32(labels)[None, None]
        logits, scores = map(np.asarray, decode(embedding[b : b + 1], *given, mask))
        kept = slice(1, None)
        if kind != "first" and task.answers == "single":
            kept = slice(0, 1)
        logits, scores = logits[:, :, kept], scores[:, :, kept]
        one = round_loss(task, logits, scores, truth[None, None], np.ones((1, 1), np.float32))
        loss, iou = (float(x[0, 0]) for x in (one.loss, one.metrics["chosen_iou"]))
        seen.append((list(map(tuple, points)), list(labels), loss, iou))
        shown = logits[0, 0, int(scores[0, 0].argmax())]
    return seen


@pytest.mark.parametrize(
    ("wiring", "task", "pictures", "extra"),
    [
        ("sam", FEW, 4, {}),
        pytest.param("sam", IN_PIXELS, 3, {}, marks=pytest.mark.slow),
        pytest.param("efficientsam", FEW, 4, EXTENDED, marks=pytest.mark.slow),
        pytest.param("sam", SAM_ROUNDS, 50, {}, marks=pytest.mark.slow),
        pytest.param("efficientsam", RELEASED, 50, {}, marks=pytest.mark.slow),
    ],
)
def test_every_round_is_that_of_the_plain_version(wiring, task, pictures, extra, monkeypatch):
    config = tiny.config(wiring, **extra)
    batch, embedding = batch_of(task, config, pictures)
    clicks, losses = [], []

    def seen_click(*arguments):
        points, labels = with_click(*arguments)
        jax.debug.callback(lambda *x: clicks.append(x), points, labels, ordered=True)
        return points, labels

    with_click = rounds.with_click
    monkeypatch.setattr(rounds, "with_click", seen_click)

    def seen_loss(task, masks, valid, logits, scores):
        each = segment.round_loss(task, logits, scores, masks, valid)
        jax.debug.callback(lambda x: losses.append(np.asarray(x)), each.loss, ordered=True)
        return each

    monkeypatch.setitem(globals(), "compare_with", seen_loss)
    params = tiny.params(config)
    found = tiny.jit(functools.partial(fast, task, config))(batch, embedding, params)
    jax.effects_barrier()
    count = 1 + task.clicks + task.repeats
    assert len(losses) == count and len(clicks) == count - 1
    decode, flips = network(config), 0
    for b, q in np.ndindex(pictures, 2):
        wanted = plain(task, config, decode, batch, embedding, b, q)
        assert len(wanted) == count
        for number, (points, labels, loss, _) in enumerate(wanted):
            if number:
                got_points, got_labels = (np.asarray(x[b, q]) for x in clicks[number - 1])
                free = PADDING if config.decoder.wiring == "efficientsam" else NOTHING
                real = got_labels != free
                assert real.sum() == len(labels)
                same = got_labels[real].tolist() == labels
                if not (same and np.allclose(got_points[real], points, rtol=0, atol=1e-5)):
                    flips += 1  # a pixel more or less to choose from: another click from here on
                    break
            error = abs(losses[number][b, q] - loss)
            assert error < ONE_PIXEL
            flips += error > 1e-5 + 2e-4 * loss
        else:
            total = sum(loss for *_, loss, _ in wanted)
            total = total / count if task.rounds_as == "mean" else total
            np.testing.assert_allclose(found.loss[b, q], total, rtol=2e-4, atol=flips * ONE_PIXEL)
            last = found.metrics["last_iou"][b, q]
            np.testing.assert_allclose(last, wanted[-1][-1], rtol=0, atol=1e-6 + flips * ONE_PIXEL)
    assert flips <= 0.01 * pictures * 2 * count


def test_memory_hardly_grows_with_the_number_of_rounds():
    """What the forward pass keeps for the backward pass, besides parameters."""
    config = tiny.config("sam")
    params = jax.tree.map(jnp.asarray, tiny.params(config))

    def kept(task):
        batch, embedding = batch_of(task, config, 1)

        def total(params):
            return fast(task, config, batch, embedding, params).loss.sum()

        backward = jax.eval_shape(lambda params: jax.vjp(total, params)[1], params)
        numbers = sum(leaf.size for leaf in jax.tree.leaves(backward))
        return numbers - sum(leaf.size for leaf in jax.tree.leaves(params))

    four, eleven = kept(SegmentConfig(clicks=1, repeats=2)), kept(SAM_ROUNDS)
    # A round leaves its prompts and the mask before it; all of it would be two thirds of `four`.
    assert 0 < (eleven - four) / 7 < 0.1 * four


@pytest.mark.slow
def test_memory_of_a_shown_mask_ends_its_gradient():
    """A round learns to answer; what it shows the next one is a given."""
    config = tiny.config("sam")
    task = SegmentConfig(clicks=1)
    batch, embedding = batch_of(task, config, 1)
    params = tiny.params(config)
    after = tiny.jit(jax.grad(lambda e: fast(task, config, batch, e, params).loss.sum()))(embedding)
    alone = tiny.jit(
        jax.grad(lambda e: fast(SegmentConfig(), config, batch, e, params).loss.sum())
    )(embedding)
    assert np.abs(np.asarray(after) - np.asarray(alone)).max() > 1e-6  # both rounds are trained

    def shown(logits):
        return rounds.chosen(logits, jnp.ones((1, 1, 3))).sum()

    assert not np.asarray(jax.grad(shown)(jnp.ones((1, 1, 3, 4, 4)))).any()


@functools.cache
def graded(wiring):
    """A batch of one picture, and the gradient of its loss with all that it comes from."""
    config = tiny.config(wiring)
    clicks = {"click_labels": "foreground", "answers": "candidates"} if wiring != "sam" else {}
    task = SegmentConfig(clicks=2, repeats=2, **clicks)
    batch, embedding = batch_of(task, config, 1)

    def total(params, batch):
        out = fast(task, config, batch, embedding, params)
        return out.loss.sum(), out

    return batch, functools.partial(tiny.jit(jax.grad(total, has_aux=True)), tiny.params(config))


@pytest.mark.slow
@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("wiring", tiny.WIRINGS)
def test_empty_and_full_masks_have_finite_gradients(wiring, fill):
    batch, gradient = graded(wiring)
    grads, out = gradient({**batch, "masks": np.full_like(batch["masks"], 255 * fill)})
    for leaf in jax.tree.leaves((grads, out)):
        assert np.isfinite(leaf).all()
    assert np.array_equal(out.weight, np.full((1, 2), float(fill)))


def test_clicks_in_the_background_need_a_model_that_takes_them():
    config = configs.load("quickstart_scratch")
    task = dataclasses.replace(config.task, clicks=2)
    with pytest.raises(ConfigError, match=r"write --task\.click-labels foreground"):
        tasks.build(dataclasses.replace(config, task=task))
    tasks.build(
        dataclasses.replace(config, task=dataclasses.replace(task, click_labels="foreground"))
    )
