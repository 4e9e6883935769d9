"""What JAX believes of a card that is not there."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from esam_jax.config import ComputeConfig, VitConfig
from esam_jax.models.encoders.vit import VitEncoder
from esam_jax.ops import attention
from esam_jax.plan import compiled, pretended, topologies


@pytest.mark.parametrize(("version", "hopper"), [((8, 0), False), ((9, 0), True), ((10, 3), True)])
def test_the_card_has_the_capability(version, hopper):
    assert not cudnn.check_compute_capability("8.0")  # this machine
    with pretended.capability(version):
        assert cudnn.check_compute_capability("8.0")
        assert cudnn.check_compute_capability("9.0") is hopper
    assert not cudnn.check_compute_capability("8.0")


def test_wide_heads_are_traced_for_hopper_alone(monkeypatch):
    """A global block of ViT-H at 1024 px: 80 channels and 128 of relative positions."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    q = jax.ShapeDtypeStruct((1, 4096, 2, 208), "bfloat16")

    def attend(q, k, v):
        return attention.attend(q, k, v, impl="cudnn")

    with attention.target("gpu", 256):
        with pytest.raises(NotImplementedError):
            jax.eval_shape(attend, q, q, q)
        with pretended.capability((9, 0)):
            assert jax.eval_shape(attend, q, q, q).shape == q.shape


@pytest.mark.parametrize(("remat", "forward"), [("none", 1), ("blocks", 2)])
def test_a_gradient_computes_attention_once(remat, forward, monkeypatch):
    """A block keeps what the fused kernel gives, unless it is to keep nothing."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    sizes = {"width": 16, "heads": 2, "patch_px": 8, "image_px": 64, "pretrain_px": 64}
    config = VitConfig(**sizes, depth=3, neck_width=16)
    encoder = VitEncoder(config, ComputeConfig(dtype="bfloat16", remat=remat))
    pixels = jnp.zeros((1, 64, 64, 3))

    def loss(params):
        return encoder.apply(params, pixels).astype(jnp.float32).sum()

    with attention.target("gpu", 256), pretended.capability((9, 0)):
        params = jax.eval_shape(encoder.init, jax.random.key(0), pixels)
        program = str(jax.make_jaxpr(jax.grad(loss))(params))
    kernels = re.findall(r"dot_product_attention_(\w\w\w)_wrapper(?=\[)", program)
    assert kernels == ["fwd"] * forward + ["bwd"]  # of a loop over blocks


def test_what_was_traced_for_one_machine_is_no_program_of_another():
    """A function that is compiled already is traced again by whoever calls it for a card."""
    seen = []

    @jax.jit
    def function(x):
        machine = attention._TARGET.get()
        seen.append(machine and (machine.backend, machine.max_head_dim))
        return x

    function(1.0)
    for name in ("h200:1x1", "a100:1x1", "v5e:2x2"):
        with compiled.choices_of(topologies.parse(name)):
            jax.jit(lambda x: function(x)).lower(1.0)
    function(1.0)
    assert seen == [None, ("gpu", 256), ("gpu", 128), ("tpu", 128), None]
