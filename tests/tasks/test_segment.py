"""Promptable segmentation: the round's loss against a slow version."""

import dataclasses
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from helpers import nano, tiny

from esam_jax import configs, sharding, tasks
from esam_jax.config import EvaluateConfig, MeshConfig, ScenesConfig, SegmentConfig
from esam_jax.errors import ConfigError
from esam_jax.models import expected_shapes, lora, named
from esam_jax.models.sam.network import Sam
from esam_jax.tasks import segment, trained

# One program for each config and shape, where single operations would be hundreds.
round_loss = tiny.jit(segment.round_loss, static_argnums=0)


def _slow_round_loss(task, logits, scores, masks):
    """Loss, IoU of the best and of the chosen mask: one at a time, as SAM's section A says it."""
    B, Q, M, side, _ = logits.shape
    cell = masks.shape[-1] // side
    out = np.zeros((3, B, Q))
    for b in range(B):
        for q in range(Q):
            target = masks[b, q].reshape(side, cell, side, cell).mean((1, 3)) >= 0.5
            costs, ious = [], []
            for m in range(M):
                z = logits[b, q, m].astype(np.float64)
                p = 1 / (1 + np.exp(-z))
                right = np.where(target, p, 1 - p)
                alpha = np.where(target, 0.25, 0.75)
                focal = np.mean(-alpha * (1 - right) ** 2 * np.log(right))
                dice = 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)
                costs.append(task.focal_weight * focal + task.dice_weight * dice)
                union = ((z > 0) | target).sum()
                ious.append(((z > 0) & target).sum() / max(union, 1))
            best = int(np.argmin(costs))
            score_costs = (scores[b, q] - ious) ** 2
            score = np.mean(score_costs) if task.scored_masks == "all" else score_costs[best]
            chosen = ious[int(np.argmax(scores[b, q]))]
            out[:, b, q] = costs[best] + task.iou_weight * score, ious[best], chosen
    return out


def _random_round(seed=0, side=5, cell=3):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, 3, 4, side, side)).astype(np.float32)
    scores = rng.random((2, 3, 4)).astype(np.float32)
    masks = rng.random((2, 3, side * cell, side * cell)) < 0.5
    return logits, scores, masks


@pytest.mark.parametrize("scored", ["best", "all"])
def test_round_loss_equals_the_slow_version(scored):
    task = SegmentConfig(scored_masks=scored, focal_weight=20.0, iou_weight=0.7)
    logits, scores, masks = _random_round()
    fast = round_loss(task, logits, scores, masks, np.ones((2, 3), np.float32))
    loss, best_iou, chosen_iou = _slow_round_loss(task, logits, scores, masks)
    np.testing.assert_allclose(fast.loss, loss, rtol=2e-5)
    np.testing.assert_allclose(fast.metrics["best_iou"], best_iou, rtol=1e-6)
    np.testing.assert_allclose(fast.metrics["chosen_iou"], chosen_iou, rtol=1e-6)
    assert set(fast.metrics) == {"focal", "dice", "score_mse", "best_iou", "chosen_iou"}


def test_a_mask_that_vanishes_at_low_resolution_weighs_nothing():
    masks = np.zeros((1, 3, 16, 16), bool)
    masks[0, 0, 5] = True  # a line one pixel high: a quarter of the cells it crosses
    masks[0, 1, 4:6] = True  # half of them
    masks[0, 2, 4:8] = True
    logits, scores = np.zeros((1, 3, 3, 4, 4), np.float32), np.zeros((1, 3, 3), np.float32)
    valid = np.float32([[1, 1, 0]])
    for loss_at, expected in (("low_res", [[0, 1, 0]]), ("image", [[1, 1, 0]])):
        task = SegmentConfig(loss_at=loss_at)
        out = round_loss(task, logits, scores, masks, valid)
        assert out.weight.tolist() == expected


@functools.cache
def _graded(task):
    """The weighted loss of a round, what it comes from, and the gradient of logits and scores."""

    def total(logits, scores, masks, valid):
        out = segment.round_loss(task, logits, scores, masks, valid)
        return (out.loss * out.weight).sum(), out

    return tiny.jit(jax.value_and_grad(total, (0, 1), has_aux=True))


@pytest.mark.parametrize("loss_at", ["low_res", "image"])
@pytest.mark.parametrize("case", ["empty", "full", "one pixel", "equal"])
def test_f23_extreme_masks_have_a_finite_loss_and_gradient(loss_at, case):
    """Also where the prediction is certain and right, so that no region is in error."""
    task, (side, px) = SegmentConfig(loss_at=loss_at), (4, 16)
    masks = np.zeros((1, 1, px, px), bool)
    if case == "full":
        masks[:] = True
    elif case == "one pixel":
        masks[0, 0, 7, 3] = True
    elif case == "equal":
        masks[0, 0, :8] = True
    cells = masks[:, :, :: px // side, :: px // side][:, :, None]
    scores, valid = np.full((1, 1, 3), 0.5, np.float32), np.ones((1, 1), np.float32)
    for size in (0.0, 100.0, 1e4):  # undecided; certain; beyond what a sigmoid can hold
        logits = np.float32(np.where(cells, size, -size)) * np.ones((1, 1, 3, 1, 1), np.float32)
        (_, out), grads = _graded(task)(logits, scores, masks, valid)
        for value in jax.tree.leaves((out, grads)):
            assert np.isfinite(value).all()
        if case == "equal" and size:
            assert out.metrics["focal"].item() == pytest.approx(0, abs=1e-6)
            assert (loss_at == "image") or out.metrics["best_iou"].item() == 1


def test_only_the_best_mask_has_a_gradient():
    task = SegmentConfig(iou_weight=0.0)
    _, (gradient, _) = _graded(task)(*_random_round(1), np.ones((2, 3), np.float32))
    moved = np.abs(gradient).sum((-2, -1)) > 0
    assert np.array_equal(moved.sum(-1), np.ones((2, 3)))


def test_at_image_size_the_logits_are_enlarged():
    """A constant logit map has the same loss at either size when the mask fills whole cells."""
    logits, masks = np.full((1, 1, 3, 4, 4), 0.3, np.float32), np.zeros((1, 1, 16, 16), bool)
    masks[..., :8, :] = True
    scores, valid = np.full((1, 1, 3), 0.5, np.float32), np.ones((1, 1), np.float32)
    low = round_loss(SegmentConfig(loss_at="low_res"), logits, scores, masks, valid)
    full = round_loss(SegmentConfig(loss_at="image"), logits, scores, masks, valid)
    np.testing.assert_allclose(low.metrics["focal"], full.metrics["focal"], rtol=1e-6)
    np.testing.assert_allclose(low.metrics["best_iou"], full.metrics["best_iou"], rtol=1e-6)


def _batch():
    rng = np.random.default_rng(0)
    masks = rng.random((2, 3, 64, 64)) < 0.3
    return {
        "image": rng.integers(0, 256, (2, 64, 64, 3), np.uint8),
        "masks": np.packbits(masks, axis=-1),
        "points": rng.random((2, 3, 2, 2), np.float32) * 64,
        "labels": np.tile(np.array([[1, -1], [2, 3], [1, -1]], np.int32), (2, 1, 1)),
        "valid": np.array([[1, 1, 0], [1, 0, 0]], np.float32),
    }


def _task(model, remat="none", **changes):
    config = configs.load("quickstart_scratch")
    view = dataclasses.replace(config.data.view, fit=named.sam(model).fit)
    return tasks.build(
        dataclasses.replace(
            config,
            task=dataclasses.replace(config.task, model=model, **changes),
            data=dataclasses.replace(config.data, view=view),
            compute=dataclasses.replace(config.compute, remat=remat),
        )
    )


def _params(model):
    return {model: jax.tree.map(jnp.asarray, nano.params(named.sam(model)))}


def _total(task, params, batch):
    out = task.loss(params, {}, batch)
    return (out.loss * out.weight).sum(), out


@functools.cache
def _learned(model, remat="none"):
    """(weighted loss, what it comes from) and the gradient of the parameters, of one batch."""
    total = functools.partial(_total, _task(model, remat))
    return tiny.jit(jax.value_and_grad(total, has_aux=True))(_params(model), _batch())


def test_loss_runs_from_uint8_and_packed_bits():
    (_, out), _ = _learned("efficientsam_nano")
    assert out.loss.shape == (2, 3) and np.isfinite(out.loss).all()
    assert np.array_equal(out.weight, _batch()["valid"])
    task = tasks.build(configs.load("quickstart_scratch"))
    assert set(task.models(_params("efficientsam_nano"), task.resumed())) == {"efficientsam_nano"}


@pytest.mark.parametrize("loss_at", ["low_res", "image"])
@pytest.mark.parametrize("scored", ["best", "all"])
def test_gradient_is_that_of_the_least_of_all_candidates(loss_at, scored):
    rng = np.random.default_rng(4)
    logits = jnp.asarray(rng.normal(size=(2, 3, 3, 16, 16)), jnp.float32)
    scores = jnp.asarray(rng.random((2, 3, 3)), jnp.float32)
    masks = jnp.asarray(rng.random((2, 3, 64, 64)) < 0.4)
    task = SegmentConfig(loss_at=loss_at, scored_masks=scored)

    def quick(logits, scores):
        return segment.round_loss(task, logits, scores, masks, jnp.ones((2, 3))).loss.sum()

    def alone(logits, scores):
        """Each candidate as the only one, and the gradient through the least of the three.

        It is taken by its index: the gradient of a minimum goes where a value equals it, and a
        program that computes the values twice (jax 0.12 without optimisations) may round them
        differently.
        """
        each = [
            segment.round_loss(
                task, logits[:, :, m : m + 1], scores[:, :, m : m + 1], masks, jnp.ones((2, 3))
            )
            for m in range(3)
        ]
        mask_loss = jnp.stack(
            [
                task.focal_weight * e.metrics["focal"] + task.dice_weight * e.metrics["dice"]
                for e in each
            ]
        )
        score_loss = jnp.stack([e.metrics["score_mse"] for e in each])
        best = jnp.argmin(mask_loss, axis=0, keepdims=True)
        least, its_score = (
            jnp.take_along_axis(each, best, 0)[0] for each in (mask_loss, score_loss)
        )
        chosen = score_loss.mean(0) if scored == "all" else its_score
        return (least + task.iou_weight * chosen).sum()

    found, wanted = (tiny.jit(jax.grad(f, (0, 1)))(logits, scores) for f in (quick, alone))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


def test_first_prompts_train_the_candidates_and_never_the_single_mask():
    _, gradient = _learned("efficientsam_nano")
    heads = gradient["efficientsam_nano"]["decoder"]["mask_heads"]
    for name, layer in heads.items():
        of_each_token = np.abs(layer["kernel"]).reshape(4, -1).max(1)
        assert of_each_token[0] == 0 and of_each_token[1:].max() > 0, name
    scores = np.asarray(gradient["efficientsam_nano"]["decoder"]["iou_head"]["out"]["kernel"])
    assert not scores[:, 0].any() and scores[:, 1:].all(0).any()


@pytest.mark.slow
@pytest.mark.parametrize("wiring", ["efficientsam", "sam"])
def test_recomputing_blocks_changes_memory_and_nothing_else(wiring):
    model, kept = f"{wiring}_nano", {}
    params, batch = _params(model), jax.tree.map(jnp.asarray, _batch())
    for remat in ("none", "blocks"):
        task = _task(model, remat)
        made = jax.eval_shape(task.init, jax.random.key(0))
        assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, params)

        def total(p, task=task):
            return _total(task, p, batch)[0]

        backward = jax.eval_shape(lambda p, total=total: jax.vjp(total, p)[1], params)
        kept[remat] = sum(leaf.size for leaf in jax.tree.leaves(backward))
    # Without recomputation, too, an encoder's blocks keep no scores, and no image is projected.
    assert kept["blocks"] < 0.45 * kept["none"]
    found, wanted = (jax.tree.leaves(_learned(model, remat)) for remat in ("blocks", "none"))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)  # up to 100


# ------------------------------------------------------------------------ a part is trained


def _branch_gradient(task, params, batch):
    """Gradient of what the task trains, as an update takes it."""
    part = trained.select(params, task.trains)

    def total(part, params, batch):
        return _total(task, trained.merged(params, part), batch)[0]

    return tiny.jit(jax.grad(total))(part, params, batch)


def _assert_gradient(found, wanted):
    """Equal but for rounding: some, such as those of the biases of keys, are nothing else."""
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(wanted))
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True
    ):
        close = {"rtol": 1e-3, "atol": 1e-5 * largest, "err_msg": sharding.name(path)}
        np.testing.assert_allclose(a, b, **close)


@pytest.mark.parametrize(
    "model", ["efficientsam_nano", pytest.param("sam_nano", marks=pytest.mark.slow)]
)
def test_the_decoder_alone_learns_what_it_would_with_the_encoder(model):
    _, wanted = _learned(model)
    found = _branch_gradient(_task(model, train="decoder"), _params(model), _batch())[model]
    _assert_gradient(found, {branch: wanted[model][branch] for branch in ("prompt", "decoder")})


@pytest.mark.parametrize("model", ["efficientsam_nano", "sam_nano", "mobile_nano"])
def test_a_frozen_encoder_keeps_nothing_for_the_backward_pass(model, monkeypatch):
    nano.add_mobile(monkeypatch)
    params, batch = _params(model), jax.tree.map(jnp.asarray, _batch())

    def kept(train):
        """Numbers that the forward pass leaves for the backward pass, besides parameters."""
        task = _task(model, train=train)
        part = trained.select(params, task.trains)

        def total(part):
            return _total(task, trained.merged(params, part), batch)[0]

        backward = jax.eval_shape(lambda part: jax.vjp(total, part)[1], part)
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    def decoder_alone(part):
        """The same loss of an embedding that is given."""
        task = _task(model, train="decoder")
        with mock.patch.object(Sam, "encode", lambda self, pixels: jnp.zeros((2, 8, 8, 64))):
            return _total(task, trained.merged(params, part), batch)[0]

    part = trained.select(params, _task(model, train="decoder").trains)
    backward = jax.eval_shape(lambda part: jax.vjp(decoder_alone, part)[1], part)
    alone = sum(leaf.size for leaf in jax.tree.leaves(backward))
    assert kept("decoder") == alone < kept("all")


def _with_pairs(model, task, b):
    """Parameters with pairs whose b are random of that size."""
    params = _params(model)[model]
    pairs = lora.init(params, 8, jax.random.key(1))
    rng = np.random.default_rng(2)

    def draw(path, leaf):
        values = b * rng.normal(size=leaf.shape)
        return jnp.asarray(values, jnp.float32) if path[-1].key == "b" else leaf

    return {model: {**params, "lora": jax.tree_util.tree_map_with_path(draw, pairs)}}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["efficientsam_nano", "sam_nano", "mobile_nano"])
def test_pairs_learn_by_the_chain_rule_through_their_kernels(model, monkeypatch):
    """dL/da = s dL/dW b^T and dL/db = s a^T dL/dW, with dL/dW from training the merged model."""
    nano.add_mobile(monkeypatch)
    task = _task(model, train="lora", lora_alpha=12.0)
    params = _with_pairs(model, task, b=0.05)
    found = _branch_gradient(task, params, _batch())[model]
    assert set(found) == {"lora"}
    (merged,) = task.models(params, task.resumed()).values()
    whole = _branch_gradient(_task(model), {model: merged.params}, _batch())[model]
    gradients, scale = flatten_dict(whole["encoder"], sep="/"), 12.0 / 8
    before = flatten_dict(params[model]["lora"]["encoder"], sep="/")
    changes = flatten_dict(found["lora"]["encoder"], sep="/")
    slopes = {}
    for path, change in changes.items():
        stem, which = path.rsplit("/", 1)
        a, b = (np.float64(before[f"{stem}/{x}"]) for x in "ab")
        slope = np.float64(gradients[f"{stem}/kernel"]).reshape(a[..., 0].size, b[0].size)
        flat_a, flat_b = a.reshape(-1, 8), b.reshape(8, -1)
        slope = scale * (slope @ flat_b.T if which == "a" else flat_a.T @ slope)
        slopes[path] = slope.reshape(change.shape)
        assert np.abs(slope).max() > 0, path
    _assert_gradient(changes, slopes)


@pytest.mark.parametrize(
    "model", ["efficientsam_nano", pytest.param("mobile_nano", marks=pytest.mark.slow)]
)
def test_a_run_of_pairs_starts_as_its_model_and_leaves_a_plain_one(model, monkeypatch):
    nano.add_mobile(monkeypatch)
    task, every = _task(model, train="lora"), _task(model)
    shapes = jax.eval_shape(task.init, jax.random.key(0))[model]
    plain = jax.eval_shape(every.init, jax.random.key(0))[model]
    assert jax.tree.structure({**plain, "lora": shapes["lora"]}) == jax.tree.structure(shapes)
    params = _with_pairs(model, task, b=0.0)
    out, wanted = (
        tiny.jit(functools.partial(_total, each))(params, _batch())[1] for each in (task, every)
    )
    for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b)
    # Less the pairs, which it holds in its kernels.
    trained_params = _with_pairs(model, task, b=0.3)
    (left,) = task.models(trained_params, task.resumed()).values()
    assert jax.tree.structure(left.params) == jax.tree.structure(plain)
    assert {
        path: np.shape(leaf) for path, leaf in flatten_dict(left.params, sep="/").items()
    } == expected_shapes.of(named.sam(model))
    moved, wanted = (
        tiny.jit(functools.partial(_total, each))(its, _batch())[1].loss
        for each, its in ((task, trained_params), (every, {model: left.params}))
    )
    np.testing.assert_allclose(moved, wanted, rtol=1e-5)
    assert np.abs(moved - out.loss).max() > 1e-3


def test_an_evaluation_in_training_sees_the_pairs(monkeypatch):
    model, seen = "efficientsam_nano", []

    def measure(params):
        seen.append(params)
        return {"box_miou": 0.5, "point_miou": 0.25}

    monkeypatch.setattr(segment.prompts, "measurement", lambda *_: measure)
    task = _task(model, train="lora")
    params = _with_pairs(model, task, b=0.3)
    assert task.measurement is not None
    mesh = sharding.make_mesh(MeshConfig(data=1))
    found = task.measurement(EvaluateConfig(source=ScenesConfig()), mesh)(params, {})
    assert found == {"box_miou": 0.5, "point_miou": 0.25, "miou": 0.375}
    (left,) = task.models(params, task.resumed()).values()
    jax.tree.map(np.testing.assert_array_equal, seen[0], left.params)


def test_nothing_is_left_out_of_a_frozen_encoder():
    said = r"task\.drop_path is 0\.2, but task\.train is 'decoder', .*: write --task\.drop-path 0"
    with pytest.raises(ConfigError, match=said):
        _task("efficientsam_nano", train="decoder", drop_path=0.2)
    _task("efficientsam_nano", train="lora", drop_path=0.2)


def test_view_must_fit_the_model():
    config = configs.load("quickstart_scratch")
    view = dataclasses.replace(config.data.view, fit="pad")
    with pytest.raises(ConfigError, match=r"data\.view\.fit"):
        tasks.build(dataclasses.replace(config, data=dataclasses.replace(config.data, view=view)))


@pytest.mark.slow
@pytest.mark.parametrize("norms", ["stored", "batch"])
def test_drop_path_leaves_out_branches_of_a_tiny_vit(norms):
    """With a draw of 0 only the first block has any: what others end in makes no difference."""
    model = "mobile_sam_nano"
    sam_config = named.sam(model)
    config = SegmentConfig(model=model, drop_path=0.4, batch_norm=norms)
    drawn = _task(model, drop_path=0.4, batch_norm=norms).draw(jax.random.key(0), 2)
    blocks = sam_config.encoder.depth
    assert drawn["drop_path"].shape == (2, blocks, 2)

    @tiny.jit
    def embedding(params, draws):
        batch = {"image": jnp.asarray(_batch()["image"]), "drop_path": draws}
        return segment._embed(config, Sam(sam_config), {"params": params[model]}, batch)[0]

    params, none, all_kept = _params(model), jnp.zeros((2, blocks, 2)), jnp.ones((2, blocks, 2))
    encoder = flatten_dict(params[model]["encoder"], sep="/")
    ends = ("attn/out/kernel", "mlp/out/kernel", "attn/out/bias", "mlp/out/bias")
    zeros = {path: jnp.zeros_like(x) for path, x in encoder.items() if path.endswith(ends)}
    assert len(zeros) == 4 * (blocks - sam_config.encoder.depths[0])
    other = trained.merged(params, {model: {"encoder": unflatten_dict(zeros, sep="/")}})
    left_out = embedding(params, none)
    np.testing.assert_array_equal(embedding(other, none), left_out)
    assert np.abs(embedding(params, all_kept) - left_out).max() > 1e-3
    assert np.abs(embedding(params, all_kept) - embedding(other, all_kept)).max() > 1e-3


def test_the_loss_is_that_of_the_branches_that_drop_path_keeps():
    """A draw of 0 leaves a branch out, but for the first block's, whose chance is 0."""
    model, batch = "efficientsam_nano", _batch()
    params = _params(model)
    encoder = {
        f"{block}/{branch}/out": jax.tree.map(
            jnp.zeros_like, params[model]["encoder"][block][branch]["out"]
        )
        for block in ("block_01", "block_02")
        for branch in ("attn", "mlp")
    }
    without = trained.merged(params, {model: {"encoder": unflatten_dict(encoder, sep="/")}})
    drawn = {**batch, "drop_path": np.zeros((2, 3, 2), np.float32)}
    found, wanted = (
        tiny.jit(functools.partial(_total, task))(its, given)[1].loss
        for task, its, given in (
            (_task(model, drop_path=0.4), params, drawn),
            (_task(model), without, batch),
        )
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    (_, complete), _ = _learned(model)
    assert np.abs(found - complete.loss).max() > 1e-3


def test_drop_path_draws_for_each_image_and_leaves_clicks_as_they_are():
    config = configs.load("quickstart_scratch")
    task = dataclasses.replace(config.task, clicks=1, click_labels="foreground")
    with_it = dataclasses.replace(task, drop_path=0.3)
    both = [
        tasks.build(dataclasses.replace(config, task=each)).draw(jax.random.key(0), 5)
        for each in (task, with_it)
    ]
    plain, drawn = both
    assert drawn["drop_path"].shape == (5, 3, 2)  # three blocks
    assert set(drawn) - set(plain) == {"drop_path"}
    assert all(np.array_equal(plain[name], drawn[name]) for name in plain)
    # `split` gives the keys that `fold_in` makes of 0 and 1, and the rounds draw from those.
    for key in jax.random.split(jax.random.key(0)):
        assert not np.array_equal(drawn["drop_path"], jax.random.uniform(key, (5, 3, 2)))
