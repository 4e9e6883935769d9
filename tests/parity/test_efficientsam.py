"""EfficientSAM against its PyTorch release, every intermediate that the golden files hold."""

import functools

import numpy as np
import pytest
from golden import cases

from esam_jax.ops import geometry
from esam_jax.predict import frames
from esam_jax.typing import PADDING

CASES = (
    "efficientsam_small_test",
    "efficientsam_small_test_native",
    "epsilon_efficientsam_small_test",
    "efficientsam_ti_a",
    pytest.param("efficientsam_ti_b", marks=pytest.mark.slow),
    pytest.param("efficientsam_s_a", marks=pytest.mark.slow),
)


@pytest.fixture(scope="module", params=CASES)
def name(request):
    """Of module scope, so that pytest finishes one case before the next."""
    return request.param


@functools.lru_cache(maxsize=1)
def encoded(name):
    """Height and width of the pictures, the model's input, and what the encoder makes of it."""
    case = cases.load(name)
    repeat = case.meta.get("repeat", 1)
    pictures = case.arrays["image"].repeat(repeat, axis=1).repeat(repeat, axis=2)
    config = cases.network_of(case).config
    pixels = np.stack([frames.to_input(picture, config) for picture in pictures])
    return pictures.shape[1:3], pixels, *cases.network_of(case).encode(pixels)


def test_encoder(name):
    case = cases.load(name)
    _, pixels, embedding, seen = encoded(name)
    cases.check_encoder(pixels, embedding, seen, case)


def test_prompts(name):
    for prompt in cases.load(name).meta["prompts"]:
        check_prompt(name, prompt)


def check_prompt(name, prompt):
    case, wanted = cases.load(name), cases.load(name).prompt(prompt)
    (height, width), _, embedding, _ = encoded(name)
    config = cases.network_of(case).config
    points, labels = slots(wanted["points"], wanted["labels"], config, height, width)
    (logits, iou), seen = cases.network_of(case).decode(embedding, points, labels)
    logits, iou = np.asarray(logits), np.asarray(iou)

    def check(key, got):
        cases.check(f"{prompt}/{key}", got, wanted[key])

    check("sparse", rows(seen["sparse"]))
    check("decoder_tokens", rows(seen["decoder_tokens"]))
    image = cases.sample_tokens(rows(seen["decoder_image"]), embedding.shape[1], 8)
    check("decoder_image_sample", image)
    stride = case.meta["low_stride"]
    low = logits[..., 2::stride, 3::stride]
    check("low_res_sample", low[:, :, 1:])
    check("single_low_res_sample", low[:, :, :1])
    check("iou", iou[:, :, 1:])
    check("single_iou", iou[:, :, :1])
    order = np.argsort(-iou[:, :, 1:], axis=-1, kind="stable")
    np.testing.assert_array_equal(order, wanted["order_by_iou"])

    full = np.asarray(frames.to_original(logits[:, :, 1:], height, width, config))
    stride = case.meta["full_stride"]
    check("full_sample", full[..., 2::stride, 3::stride])
    cases.check_masks(prompt, full, full >= 0, wanted)


def slots(points, labels, config, height, width):
    """Points in the frame of the model, in as many slots as it has.

    The original drops what goes beyond its slots, where ours refuses: so it is dropped here. Slots
    are filled here too, so that one shape is compiled (the model's own filling has its own test).
    """
    count = config.decoder.point_slots
    points = geometry.to_model(
        points, height, width, config.image_px, config.fit, negative="minus_one"
    )
    free = max(0, count - labels.shape[2])
    pad = ((0, 0), (0, 0), (0, free))
    points = np.pad(points, (*pad, (0, 0)), constant_values=-1)
    labels = np.pad(labels, pad, constant_values=PADDING)
    return points[:, :, :count], labels[:, :, :count].astype(np.int32)


def rows(x):
    """Images and queries as one axis, image-major, as the original keeps them."""
    return np.asarray(x).reshape(-1, *x.shape[2:])
