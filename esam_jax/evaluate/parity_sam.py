"""The promptable networks beside their PyTorch originals, and beside recorded numbers."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from esam_jax.config import SamConfig
from esam_jax.convert import state_dict
from esam_jax.convert.families import sam_transformers, sam_transformers_config
from esam_jax.evaluate import exact, golden
from esam_jax.evaluate.originals import Original
from esam_jax.models.sam import network
from esam_jax.ops import geometry
from esam_jax.predict import frames
from esam_jax.typing import BOTTOM_RIGHT, PADDING, PADDING_XY, TOP_LEFT, Params


def has_transformers() -> bool:
    """Whether torch and transformers' SamModel can be imported."""
    try:
        import torch  # noqa: F401
        from transformers import SamModel  # noqa: F401
    except Exception:  # a broken installation raises anything
        return False
    return True


def original_pairs(
    config: SamConfig, params: Any, original: Original
) -> Iterator[tuple[str, Any, np.ndarray]]:
    """Both networks on one picture with three prompts: points, and a box."""
    assert original.decode is not None
    height, width = round(0.6 * config.image_px), config.image_px
    if config.fit == "stretch":
        height = width
    pixels = np.asarray(frames.to_input(_picture(height, width), config))[None]
    ours = network.Sam(config, exact.COMPUTE)
    embedding = exact.apply(ours, params, "encode", jnp.asarray(pixels))
    features = original.encode(pixels)
    yield "embedding", embedding.transpose(0, 3, 1, 2), features.transpose(0, 3, 1, 2)
    points, labels, box = _prompts(config)
    for asked in ({"points": points, "labels": labels}, {"boxes": box}):
        expected, scores = original.decode(features, **asked)
        slots = _corners(box) if "boxes" in asked else (points, labels)
        answer = exact.apply(
            ours, params, "decode", jnp.asarray(features),
            *_filled(*slots, config, boxed="boxes" in asked),
        )  # fmt: skip
        logits, iou = (each[:, :, 1:] for each in answer)
        yield "low-res masks", logits, expected
        yield "IoU", iou, scores
        masks = [
            np.asarray(frames.to_original(jnp.asarray(x), height, width, config)) > 0
            for x in (logits, expected)
        ]
        yield "mask pixels", masks[0], masks[1]


def transformers_model(params: Params, config: SamConfig) -> Any:
    """SamModel with exactly these parameters, in float32 on the CPU, ready to be called."""
    import torch
    import transformers

    state = state_dict.to_state_dict(params, sam_transformers.FAMILY, config)
    settings = transformers.SamConfig.from_dict(sam_transformers_config.config_json(config))
    model = transformers.SamModel(settings).eval()
    tensors = {k: torch.tensor(np.asarray(x, np.float32)) for k, x in state.items()}
    model.load_state_dict(tensors, strict=True)
    return model


def _picture(height: int, width: int) -> np.ndarray:
    """Smooth waves, edges and noise, the same everywhere."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = np.stack([np.sin(x / 37 + c) + np.cos(y / (23 + 5 * c)) for c in range(3)], -1)
    disc = ((x - width / 2) ** 2 + (y - height / 2) ** 2 < (height / 3) ** 2)[..., None]
    noise = np.random.default_rng(0).random((height, width, 3))
    return np.clip(110 + 40 * waves + 60 * disc + 20 * noise, 0, 255).astype(np.uint8)


def _prompts(config: SamConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points [1, Q, P, 2], labels [1, Q, P] and boxes [1, Q, 4], in pixels of the model's input."""
    px = config.image_px
    points = np.array([[[[0.5, 0.3], [0.2, 0.2]], [[0.7, 0.1], [0.4, 0.5]]]], np.float32) * px
    labels = np.array([[[1, 0], [1, 1]]], np.int64)
    return points, labels, np.array([[[0.2, 0.1, 0.8, 0.5]]], np.float32) * px


def _slots(points: Any, labels: np.ndarray) -> tuple[Any, Any]:
    """SAM appends one slot of padding to points that come without a box."""
    padded = np.pad(points, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=-1)
    marks = np.pad(labels, ((0, 0), (0, 0), (0, 1)), constant_values=PADDING)
    return jnp.asarray(padded), jnp.asarray(marks.astype(np.int32))


def _corners(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    marks = np.tile(np.array([TOP_LEFT, BOTTOM_RIGHT], np.int32), (*box.shape[:2], 1))
    return box.reshape(*box.shape[:2], 2, 2), marks


def _filled(
    points: np.ndarray, labels: np.ndarray, config: SamConfig, *, boxed: bool
) -> tuple[Any, Any]:
    """Points in pixels of the input in the slots that the wiring has."""
    if config.decoder.traits.fixed_slots:
        px = config.image_px
        return _release_slots(points, labels, config, px, px)
    if boxed:
        return jnp.asarray(points), jnp.asarray(labels)
    return _slots(points, labels)


# ------------------------------------------------------------------------------------ golden


def golden_pairs(
    case: golden.Case, config: SamConfig, params: Any
) -> Iterator[tuple[str, Any, np.ndarray]]:
    """Embedding, masks and scores of a golden case."""
    pictures = case.pictures if case.pictures.ndim == 4 else case.pictures[None]
    H, W = pictures.shape[1:3]
    ours = network.Sam(config, exact.COMPUTE)
    pixels = jnp.stack([frames.to_input(picture, config) for picture in pictures])
    embedding = exact.apply(ours, params, "encode", pixels)
    step = max(1, embedding.shape[1] // 8)
    sample = embedding[:, 3::step, 5::step].transpose(0, 3, 1, 2)
    yield "embedding", sample, case.arrays["embedding_sample"]
    for prompt in case.meta["prompts"]:
        wanted = case.prompt(prompt)
        if config.decoder.traits.fixed_slots:
            points, labels = _release_slots(wanted["points"], wanted["labels"], config, H, W)
            stride, kept = case.meta["low_stride"], slice(None)
        elif "point_coords" in wanted and "box" not in wanted and "mask_input" not in wanted:
            frame = (H, W, config.image_px, config.fit)
            points = geometry.to_model(wanted["point_coords"][None], *frame)[None]
            points, labels = _slots(points, wanted["point_labels"][None, None])
            stride, kept = 7, (0, 0)
        else:
            continue  # points will do: the other prompts have their own tests
        tokens = slice(1, None) if wanted.get("multimask_output", True) else slice(0, 1)
        answer = exact.apply(ours, params, "decode", embedding, points, labels)
        logits, iou = (each[:, :, tokens][kept] for each in answer)
        yield "low-res masks", logits[..., 2::stride, 3::stride], wanted["low_res_sample"]
        yield "IoU", iou, wanted["iou"]
        full = np.asarray(frames.to_original(jnp.asarray(logits), H, W, config))
        mask = full >= 0 if config.decoder.traits.zero_is_inside else full > 0
        mask = mask[..., ::16, :] if H * W > 200_000 else mask  # large files hold every 16th row
        bits = np.unpackbits(wanted["full_mask_bits"], axis=-1, count=W).astype(bool)
        yield "mask pixels", mask, bits


def _release_slots(
    given: np.ndarray, labels: np.ndarray, config: SamConfig, height: int, width: int
) -> tuple[Any, Any]:
    """Points in the model's frame, in the slots it has: cut or padded as the original does it."""
    count = config.decoder.point_slots
    points = geometry.to_model(
        given, height, width, config.image_px, config.fit, negative="minus_one"
    )
    free = ((0, 0), (0, 0), (0, max(0, count - labels.shape[2])))
    points = np.pad(np.asarray(points), (*free, (0, 0)), constant_values=PADDING_XY)
    labels = np.pad(labels, free, constant_values=PADDING)
    return (
        jnp.asarray(points[:, :, :count], jnp.float32),
        jnp.asarray(labels[:, :, :count], jnp.int32),
    )
