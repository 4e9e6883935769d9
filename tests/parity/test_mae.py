"""MAE ViT-B against its PyTorch original: what both halves compute on the way, and both losses."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import cases
from helpers import unrolled

from esam_jax import configs, tasks
from esam_jax.config import ComputeConfig, MaePretrainConfig
from esam_jax.convert import state_dict
from esam_jax.convert.families import mae as layout
from esam_jax.evaluate import golden
from esam_jax.models.pretrain.mae import Mae
from esam_jax.ops import images, losses, masking, patches

pytestmark = pytest.mark.slow
TARGETS = {"loss": "plain", "loss_norm_pix": "standardised"}


@pytest.fixture(scope="module")
def case():
    return cases.load("mae_vit_b_a")


@functools.cache
def network():
    case = cases.load("mae_vit_b_a")
    state = golden.state_dict(case.meta["listing"], case.meta["seed"])
    config = state_dict.detect(state)
    params, _ = state_dict.to_params(state, layout.FAMILY, config)
    return Mae(config), jax.device_put(params)


def split(case):
    """Which patches are kept and which removed, both in the order of the noise."""
    shuffled = np.argsort(case.arrays["noise"], axis=1, kind="stable")
    kept = int(shuffled.shape[1] * (1 - case.meta["mask_ratio"]))
    return jnp.asarray(shuffled[:, :kept]), jnp.asarray(shuffled[:, kept:])


@functools.cache
def outcome():
    """The prediction, and {"encoder/block_00": (input, output), "norm": ..., ...}."""
    case, (model, params) = cases.load("mae_vit_b_a"), network()

    def run(params, pixels, visible, masked):
        seen = {}

        def intercept(call, args, kwargs, context):
            out = call(*args, **kwargs)
            path = "/".join(context.module.path)
            if path.count("/") < 2 and context.method_name == "__call__" and path:
                seen[path] = (args[0], out)
            return out

        with nn.intercept_methods(intercept), unrolled.blocks():
            out = model.apply({"params": params}, pixels, visible, masked)
        return out, seen

    pixels = images.normalise(jnp.asarray(case.arrays["image"]))
    return jax.jit(run)(params, pixels, *split(case))


def test_encoder(case):
    _, seen = outcome()
    found = {
        "encoder_tokens": seen["encoder/block_00"][0][:, :, ::8],
        "after_block_0": seen["encoder/block_00"][1][:, :, ::8],
        "after_block_6": seen["encoder/block_06"][1][:, :, ::8],
        "latent_sample": seen["norm"][1][:, :, ::4],
    }
    for key, got in found.items():
        cases.check(key, got, case.arrays[key])


def test_decoder(case):
    prediction, seen = outcome()
    first = seen["decoder/block_00"][1]
    cases.check("after_decoder_block_0", first[:, ::4, ::8], case.arrays["after_decoder_block_0"])
    cases.check("pred_sample", prediction[:, ::4, ::8], case.arrays["pred_sample"])


def test_which_patches_are_removed(case):
    visible, masked = split(case)
    np.testing.assert_array_equal(masking.order(visible, masked), case.arrays["ids_restore"])
    removed = np.zeros_like(case.arrays["mask"])
    np.put_along_axis(removed, np.asarray(masked), 1, axis=1)
    np.testing.assert_array_equal(removed, case.arrays["mask"])


def test_losses(case):
    prediction, _ = outcome()
    pixels = images.normalise(jnp.asarray(case.arrays["image"]))
    target = patches.patchify(pixels, 16).reshape(2, 196, -1)
    cases.check("patchify_sample", target[:, ::4, ::8], case.arrays["patchify_sample"])
    _, masked = split(case)
    for key, goal in (("loss", target), ("loss_norm_pix", patches.standardise(target))):
        loss = losses.masked_mse(prediction, goal, masked).mean(keepdims=True)
        cases.check(key, loss, case.arrays[key])


def test_losses_of_the_task(case):
    """The task that trains it, given the pictures and what is removed."""
    _, params = network()
    seen, masked = split(case)
    batch = {"image": jnp.asarray(case.arrays["image"]), "seen": seen, "masked": masked}

    def loss(params, target):
        task = MaePretrainConfig(model="mae_b", target=target)
        run = dataclasses.replace(configs.load("mae_b"), task=task, compute=ComputeConfig())
        return tasks.build(run).loss({"mae_b": params}, {}, batch).loss.mean(keepdims=True)

    # In one program, which computes the prediction once.
    found = jax.jit(lambda params: {key: loss(params, target) for key, target in TARGETS.items()})(
        params
    )
    for key, value in found.items():
        cases.check(key, value, case.arrays[key])
