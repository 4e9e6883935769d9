"""What JAX believes of a card that is not there."""

import jax
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from esam_jax.ops import attention
from esam_jax.plan import pretended


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
