"""Programs of inference as NVIDIA's compiler leaves them."""

import importlib.util

import pytest

from esam_jax.models import named
from esam_jax.plan import prediction

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("jax_plugins"), reason="JAX's CUDA plug-in is not installed"
)


@pytest.mark.parametrize(
    ("part", "kernels", "seconds"),
    [
        ("encoder", 165, 0.75e-3),  # 308 when blocks were piled up and rounded in each call
        ("device", 300, 1.0e-3),  # box to mask: 478
    ],
)
def test_the_smallest_network_launches_few_kernels(part, kernels, seconds):
    """Of one picture hardly any kernel is longer than its launch: their number is the time."""
    config = named.sam("efficientsam_ti")
    [row] = prediction.rows(config, "bfloat16", "h200", batches=[1], prompts=[1], parts=[part])
    assert row.paper.runs <= kernels
    assert row.paper.seconds <= seconds
