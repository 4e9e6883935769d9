"""The optimiser against hand-computed values, the papers' formulas and PyTorch."""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from esam_jax.config import OptimConfig
from esam_jax.errors import ConfigError
from esam_jax.train import optim

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def tree(depth=3):
    """One model with a leaf of every kind that has its own rule."""
    blocks = {f"block_{i:02d}": {"mlp": {"hidden": linear()}} for i in range(depth)}
    encoder = {"patch_embed": linear(), "positions": np.ones((5, 2)), "neck": linear(), **blocks}
    decoder = {"block_00": linear(), "positions": np.ones((4, 2)), "mask_token": np.ones(2)}
    return {"encoder": encoder, "class_token": np.ones(2), "decoder": decoder, "norm": norm()}


def linear():
    return {"kernel": np.ones((3, 2)), "bias": np.ones(2)}


def norm():
    return {"scale": np.ones(2), "bias": np.ones(2)}


def rate(config, steps, number):
    """That of one update, of a run of so many."""
    optimiser = optim.make(config, steps)
    return float(optimiser.rate(number, optimiser.schedule))


@pytest.mark.parametrize(
    "schedule, expected",
    [
        # 4 warm-up updates to 0.8, then 10 updates down to 0.2.
        ("linear", {0: 0.0, 1: 0.2, 3: 0.6, 4: 0.8, 9: 0.5, 14: 0.2, 99: 0.2}),
        ("cosine", {0: 0.0, 2: 0.4, 4: 0.8, 6: 0.2 + 0.3 * (1 + math.cos(0.2 * math.pi)), 9: 0.5}),
    ],
)
def test_learning_rate_by_hand(schedule, expected):
    config = OptimConfig(peak_lr=0.8, warmup_steps=4, final_lr=0.2, schedule=schedule)
    for step, value in expected.items():
        assert rate(config, 14, step) == pytest.approx(value, rel=1e-6), step


def test_steps_take_a_tenth_at_each():
    config = OptimConfig(peak_lr=0.8, warmup_steps=4, schedule="steps", drop_at_steps=(8, 12))
    expected = {0: 0.0, 1: 0.2, 4: 0.8, 7: 0.8, 8: 0.08, 11: 0.08, 12: 0.008, 99: 0.008}
    for step, value in expected.items():
        assert rate(config, 14, step) == pytest.approx(value, rel=1e-6), step


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"schedule": "steps"}, "drop_at_steps"),
        ({"drop_at_steps": (5,)}, "drop_at_steps"),
        ({"schedule": "steps", "drop_at_steps": (5, 5)}, "rise"),
        ({"schedule": "steps", "drop_at_steps": (0, 5)}, "rise"),
        ({"schedule": "steps", "drop_at_steps": (5,), "final_lr": 0.1}, "final_lr"),
    ],
)
def test_steps_that_make_no_sense(values, fault):
    with pytest.raises(ConfigError, match=fault):
        OptimConfig(peak_lr=0.3, **values)


def test_no_warm_up_starts_at_the_peak():
    assert rate(OptimConfig(peak_lr=0.3), 5, 0) == pytest.approx(0.3)


def test_only_kernels_decay():
    decayed = optim.decays({"a": tree()})["a"]
    assert decayed["encoder"]["block_01"]["mlp"]["hidden"] == {"kernel": True, "bias": False}
    assert decayed["encoder"]["patch_embed"]["kernel"]
    assert not decayed["encoder"]["positions"]
    assert not any([decayed["class_token"], decayed["decoder"]["mask_token"]])
    assert decayed["norm"] == {"scale": False, "bias": False}


@pytest.mark.parametrize(
    ("name", "peak", "warm_up", "last"),
    [
        ("mae_finetune_lr2e-3_warm5_100_min1e-6", 2e-3, 5, 1e-6),
        ("es_finetune_lr1e-3_warm5_100_min0", 1e-3, 5, 0.0),
        ("es_detection_lr2e-4_warm10_100_min0", 2e-4, 10, 0.0),
    ],
)
def test_rates_of_fine_tuning_are_those_of_mae(name, peak, warm_up, last):
    golden = np.load(GOLDEN / "classification_a.npz")
    epoch = 1250  # updates, of ImageNet at batch 1024
    config = OptimConfig(peak_lr=peak, warmup_steps=warm_up * epoch, final_lr=last)
    epochs, wanted = golden["schedule/epochs"], golden[f"schedule/{name}"]
    found = [rate(config, 100 * epoch, each * epoch) for each in epochs]
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6 * peak)


def test_steps_are_those_of_detectron2_behind_the_warm_up():
    """Its warm-up of 250 updates begins at a thousandth of the peak, where ours begins at 0."""
    golden = np.load(GOLDEN / "classification_a.npz")
    updates, wanted = golden["schedule/d2_iterations"], golden["schedule/d2_vitdet_b"]
    config = OptimConfig(
        peak_lr=1e-4, schedule="steps", warmup_steps=250, drop_at_steps=(163_889, 177_546)
    )
    found = np.array([rate(config, 184_375, each) for each in updates])
    behind = updates >= 250
    assert behind.sum() == 9
    np.testing.assert_allclose(found[behind], wanted[behind], rtol=1e-6)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1.001e-3 * config.peak_lr)


def test_the_encoders_rate_is_its_own_whatever_the_layers_and_pairs_included():
    """By hand: the first update of Adam has the size of the rate, with its share of the decay."""
    config = OptimConfig(peak_lr=0.1, weight_decay=0.5, layer_decay=0.5, encoder_rate=0.25)
    pair = {"a": jnp.ones((2, 1)), "b": jnp.ones((1, 2))}
    params = {
        "a": {
            "encoder": {"block_00": linear(), "neck": linear()},
            "decoder": linear(),
            "lora": {"encoder": {"block_00": {"attn": {"query": pair}}}},
        }
    }
    optimiser = optim.make(config, 10)
    grads = jax.tree.map(lambda x: -2.0 * x, params)
    updates, _ = optimiser.update(grads, optimiser.init(params), params, optimiser.schedule)
    sizes = jax.tree.map(lambda x: float(np.unique(np.asarray(x)).item()), updates["a"])
    close = functools.partial(pytest.approx, rel=2e-5)
    assert sizes["decoder"] == {"kernel": close(0.1 * 0.5), "bias": close(0.1)}
    assert sizes["encoder"]["neck"] == {"kernel": close(0.025 * 0.5), "bias": close(0.025)}
    in_block = {"kernel": close(0.025 * 0.5 * 0.5), "bias": close(0.025 * 0.5)}
    assert sizes["encoder"]["block_00"] == in_block
    # Its block's share of the rate, and no decay.
    found = sizes["lora"]["encoder"]["block_00"]["attn"]["query"]
    assert found == {"a": close(0.0125), "b": close(0.0125)}


def test_each_model_is_clipped_by_its_own_norm():
    updates = {
        "loud": {"x": jnp.array([30.0, 0.0]), "y": jnp.array([40.0])},
        "quiet": {"x": jnp.array([0.3, 0.4])},
        "silent": {"x": jnp.zeros(2)},
    }
    clipped = optim.clip_each(updates, 2.0)
    np.testing.assert_allclose(clipped["loud"]["x"], [1.2, 0.0], rtol=1e-6)
    np.testing.assert_allclose(clipped["loud"]["y"], [1.6], rtol=1e-6)
    np.testing.assert_array_equal(clipped["quiet"]["x"], updates["quiet"]["x"])
    np.testing.assert_array_equal(clipped["silent"]["x"], np.zeros(2))


def test_first_update_by_hand():
    # Adam's first step is lr * g / (|g| + eps) whatever the betas; a kernel decays besides.
    config = OptimConfig(peak_lr=0.1, schedule="linear", weight_decay=0.5, layer_decay=0.5)
    params = {"a": {"encoder": {"block_00": {"mlp": {"hidden": linear()}}}}}
    optimiser = optim.make(config, 10)
    grads = jax.tree.map(lambda x: -2.0 * x, params)
    updates, _ = optimiser.update(grads, optimiser.init(params), params, optimiser.schedule)
    hidden = updates["a"]["encoder"]["block_00"]["mlp"]["hidden"]
    # 1 - beta2 is 0.001 but for a float32 rounding: 7e-6 of the first term.
    np.testing.assert_allclose(hidden["bias"], 0.5 * 0.1 * np.ones(2), rtol=2e-5)
    np.testing.assert_allclose(hidden["kernel"], 0.5 * 0.1 * 0.5 * np.ones((3, 2)), rtol=2e-5)


def test_what_never_had_a_gradient_stays_put():
    config = OptimConfig(peak_lr=0.1, schedule="linear", weight_decay=0.5)
    params = {"a": {"kernel": jnp.array([2.0, 3.0]), "other": {"kernel": jnp.array([5.0])}}}
    grads = {"a": {"kernel": jnp.array([0.4, 0.0]), "other": {"kernel": jnp.zeros(1)}}}
    optimiser = optim.make(config, 10)
    state, by_hand = optimiser.init(params), 2.0
    for step in range(2):
        updates, state = optimiser.update(grads, state, params, optimiser.schedule)
        params = optax.apply_updates(params, updates)
        # Of a constant gradient both moments are the gradient's, so Adam's direction is its sign.
        by_hand -= 0.1 * (1 - step / 10) * (1 + 0.5 * by_hand)
    np.testing.assert_allclose(params["a"]["kernel"], [by_hand, 3.0], rtol=1e-5)
    np.testing.assert_array_equal(params["a"]["other"]["kernel"], [5.0])
    # Once touched, it decays also while the gradient is zero, as a parameter of PyTorch does.
    zeros = jax.tree.map(jnp.zeros_like, grads)
    updates, _ = optimiser.update(zeros, state, params, optimiser.schedule)
    assert float(updates["a"]["kernel"][0]) < 0 == float(updates["a"]["kernel"][1])


def test_follows_torch_adamw():
    torch = pytest.importorskip("torch", reason="the comparison needs PyTorch")
    rng = np.random.default_rng(0)
    config = OptimConfig(peak_lr=3e-2, warmup_steps=2, beta2=0.95, weight_decay=0.3, clip_norm=1.5)
    start = {"kernel": rng.normal(size=(3, 5)), "bias": rng.normal(size=5)}
    start = {name: value.astype(np.float32) for name, value in start.items()}
    gradients = [
        {name: rng.normal(size=value.shape).astype(np.float32) for name, value in start.items()}
        for _ in range(8)
    ]

    params, optimiser = {"a": start}, optim.make(config, 8)
    state = optimiser.init(params)
    for gradient in gradients:
        updates, state = optimiser.update({"a": gradient}, state, params, optimiser.schedule)
        params = optax.apply_updates(params, updates)

    theirs = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start.items()}
    groups = [
        {"params": [theirs["kernel"]], "weight_decay": 0.3},
        {"params": [theirs["bias"]], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    for step, gradient in enumerate(gradients):
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(gradient[name])
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.5)
        for group in adamw.param_groups:
            group["lr"] = rate(config, 8, step)
        adamw.step()
    for name, parameter in theirs.items():
        # Both are float32 sums in another order; clip_grad_norm_ adds 1e-6 to the norm.
        np.testing.assert_allclose(params["a"][name], parameter.detach().numpy(), atol=3e-6)
