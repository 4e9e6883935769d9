"""The tables against the listings of the originals: nothing left over, nothing lost."""

import itertools
import re

import numpy as np
import pytest

from esam_jax.config import ModelConfig
from esam_jax.convert import state_dict
from esam_jax.convert.families import efficientsam, registry, sam
from esam_jax.convert.families.family import Family
from esam_jax.evaluate import golden
from esam_jax.models import expected_shapes, named

LISTINGS = (
    "efficientsam_ti",
    "efficientsam_s",
    "efficientsam_small_test",
    "sam_small_test",
    "sam_vit_b",
    "sam_vit_l",
    "sam_vit_h",
    "mobile_sam_vit_t",
    "mae_vit_b_pretrain",
    "u2net",
    "u2netp",
    "vit_classifier_token",
    "vit_classifier_mean",
    "vit_classifier_distilled",
    "regnety_002",
)


def hollow(listing: str) -> dict[str, np.ndarray]:
    """Tensors of a listing's names, shapes and dtype that take no memory."""
    shapes = golden.listing(listing)
    return {
        name: np.broadcast_to(np.dtype(golden.dtype(name)).type(0), shape)
        for name, shape in shapes.items()
    }


def known(listing: str) -> tuple[Family, ModelConfig]:
    family = registry.recognise(hollow(listing))
    return family, state_dict.detect(hollow(listing), family)


@pytest.mark.parametrize("listing", LISTINGS)
def test_both_sides_are_covered_exactly_once(listing):
    family, config = known(listing)
    links = list(family.links(config))
    torch = list(itertools.chain.from_iterable(link.torch for link in links))
    torch += family.unused(config)
    ours = list(itertools.chain.from_iterable(link.params for link in links))
    assert sorted(torch) == sorted(golden.listing(listing))
    assert sorted(ours) == sorted(expected_shapes.of(config))


@pytest.mark.parametrize("listing", LISTINGS)
def test_each_link_there_and_back_is_identity(listing):
    """Every value is told from every other, so that any wrong axis shows."""
    family, config = known(listing)
    shapes, ours = golden.listing(listing), expected_shapes.of(config)
    for link in family.links(config):
        if re.search(r"\.blocks\.[1-9]", link.torch[0]):
            continue  # the first block stands for all of them
        size = int(np.prod(shapes[link.torch[0]]))
        tensors = [
            (np.arange(size, dtype=np.float32) + i * size).reshape(shapes[name])
            for i, name in enumerate(link.torch)
        ]
        arrays = link.forward(tensors)
        assert [x.shape for x in arrays] == [ours[name] for name in link.params]
        for tensor, back in zip(tensors, link.backward(arrays), strict=True):
            np.testing.assert_array_equal(back, tensor, strict=True)
        assert link.torch_shape([ours[name] for name in link.params]) == tensors[0].shape


def test_query_key_and_value_come_in_this_order_and_head_by_head():
    links = efficientsam.FAMILY.links(named.sam("efficientsam_nano"))
    link = next(x for x in links if x.torch == ("image_encoder.blocks.2.attn.qkv.weight",))
    assert link.params == tuple(
        f"encoder/block_02/attn/{part}/kernel" for part in ("query", "key", "value")
    )
    weight = np.arange(192 * 64, dtype=np.float32).reshape(192, 64)
    query, key, value = link.forward([weight])
    x = np.random.default_rng(0).normal(size=64).astype(np.float32)
    expected = (weight @ x).reshape(3, 2, 32)  # upstream: reshape(B, N, 3, heads, width)
    for part, kernel in zip(expected, (query, key, value), strict=True):
        np.testing.assert_allclose(np.einsum("d,dak->ak", x, kernel), part, rtol=1e-4)


def test_mask_heads_are_stacked_over_mask_tokens():
    links = list(sam.FAMILY.links(named.sam("sam_nano")))
    link = next(x for x in links if x.params == ("decoder/mask_heads/out/kernel",))
    assert link.torch == tuple(
        f"mask_decoder.output_hypernetworks_mlps.{m}.layers.2.weight" for m in range(4)
    )
    tensors = [np.full((8, 64), m, np.float32) for m in range(4)]
    (kernel,) = link.forward(tensors)
    assert kernel.shape == (4, 64, 8)
    np.testing.assert_array_equal(kernel[:, 0, 0], np.arange(4))
