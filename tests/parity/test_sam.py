"""SAM and MobileSAM against their originals, called as the predictor of both calls them."""

import functools
import zlib

import jax
import numpy as np
import pytest
from golden import cases

from esam_jax.models.sam.network import Sam
from esam_jax.ops import geometry
from esam_jax.predict import frames

CASES = (
    "sam_small_test",
    "epsilon_sam_small_test",
    pytest.param("sam_vit_b_a", marks=pytest.mark.slow),
    pytest.param("mobile_sam_a", marks=pytest.mark.slow),
    pytest.param("epsilon_mobile_sam", marks=pytest.mark.slow),
)
STRIDE = 7  # of the samples of logits


@pytest.fixture(scope="module", params=CASES)
def name(request):
    """Of module scope, so that pytest finishes one case before the next."""
    return request.param


@functools.lru_cache(maxsize=1)
def encoded(name):
    """The model's input, and what the encoder makes of it."""
    case = cases.load(name)
    pixels = np.asarray(frames.to_input(case.arrays["image"], cases.network_of(case).config))[None]
    return pixels, *cases.network_of(case).encode(pixels)


def test_encoder(name):
    pixels, embedding, seen = encoded(name)
    cases.check_encoder(pixels, embedding, seen, cases.load(name))


def test_input_is_resized_to_the_byte(name):
    arrays = cases.load(name).arrays
    pixels, config = encoded(name)[0][0], cases.network_of(cases.load(name)).config
    height, width = geometry.longest_side(*arrays["image"].shape[:2], config.image_px)
    np.testing.assert_array_equal((height, width, 3), arrays["resized_shape"])
    # Undone, the normalisation gives the bytes back; what was padded is exactly zero.
    mean, deviation = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    resized = np.round(pixels[:height, :width] * deviation + mean).astype(np.uint8)
    np.testing.assert_array_equal(resized[5::32, 9::32], arrays["resized_sample"])
    assert zlib.crc32(resized.tobytes()) == arrays["resized_crc32"]
    assert not pixels[height:].any() and not pixels[:, width:].any()


def test_prompts(name):
    for prompt in cases.load(name).meta["prompts"]:
        check_prompt(name, prompt)


def check_prompt(name, prompt):
    case, wanted = cases.load(name), cases.load(name).prompt(prompt)
    _, embedding, _ = encoded(name)
    (height, width), config = case.arrays["image"].shape[:2], cases.network_of(case).config
    points, labels = tokens(wanted)
    points = geometry.to_model(points, height, width, config.image_px, config.fit)
    mask = wanted["mask_input"][None] if "mask_input" in wanted else None
    (logits, iou), seen = cases.network_of(case).decode(embedding, points[None], labels[None], mask)
    kept = slice(1, None) if wanted["multimask_output"] else slice(0, 1)
    logits, iou = np.asarray(logits)[0, :, kept], np.asarray(iou)[0, :, kept]

    def check(key, got):
        cases.check(f"{prompt}/{key}", got, wanted[key])

    if not prompt.startswith("torch_"):  # the predictor's plain call: one query, without its axis
        logits, iou = logits[0], iou[0]
        check("sparse", seen["sparse"][0])
        check("dense_sample", cases.sample_map(seen["dense"][0])[:, ::4])
        check("decoder_tokens", seen["decoder_tokens"][0])
    check("low_res_sample", logits[..., 2::STRIDE, 3::STRIDE])
    check("iou", iou)
    full = np.asarray(frames.to_original(logits, height, width, config))
    check("full_sample", full[..., 2::STRIDE, 3::STRIDE])
    cases.check_masks(prompt, full, full > 0, wanted)


def tokens(wanted):
    """Points (in pixels of the picture) and labels, as the predictor turns its arguments into.

    Points first, then the two corners of the box, or one slot of padding where there is no box.
    """
    if "batched_boxes" in wanted:
        points = wanted["batched_boxes"].reshape(-1, 2, 2)
        return points, np.tile(np.int32([2, 3]), (len(points), 1))
    points, labels = np.zeros((1, 0, 2)), np.zeros((1, 0), np.int32)
    if "batched_point_coords" in wanted:
        points, labels = wanted["batched_point_coords"], wanted["batched_point_labels"]
    if "point_coords" in wanted:
        points, labels = wanted["point_coords"][None], wanted["point_labels"][None]
    last, marks = np.zeros((len(points), 0, 2)), []
    if "box" in wanted:
        last, marks = wanted["box"].reshape(1, 2, 2), [2, 3]
    elif points.size:
        last, marks = np.zeros_like(points[:, :1]), [-1]
    labels = np.concatenate([labels, np.tile(marks, (len(points), 1))], axis=1)
    return np.concatenate([points, last], axis=1), labels.astype(np.int32)


@pytest.mark.slow
@pytest.mark.nightly
def test_full_size_encoder_with_its_blocks_in_a_loop():
    """As everybody runs it; the tests above look at each block and so call them one by one."""
    case = cases.load("sam_vit_b_a")
    network = cases.network_of(case)
    pixels = np.asarray(frames.to_input(case.arrays["image"], network.config))[None]
    encode = jax.jit(functools.partial(Sam(network.config).apply, method="encode"))
    embedding = encode({"params": network.params}, pixels)
    cases.check("embedding_sample", cases.sample_map(embedding), case.arrays["embedding_sample"])
