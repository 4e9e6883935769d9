"""How far a network of ours is from PyTorch's: the measured differences, stage by stage.

`against_transformers` runs SamModel with the very weights beside ours. Where that cannot be had,
`against_golden` runs our network of the same kind with golden weights and compares with what the
PyTorch original gave (`evaluate/golden.py`): it checks the code, not the weights.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esam_jax.config import ComputeConfig, MaeConfig, ModelConfig, SamConfig
from esam_jax.convert import state_dict
from esam_jax.convert.families import registry, sam_transformers
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError
from esam_jax.evaluate import golden
from esam_jax.models.pretrain import mae
from esam_jax.models.sam import network
from esam_jax.ops import geometry, images, losses, patches
from esam_jax.predict import frames
from esam_jax.typing import BOTTOM_RIGHT, PADDING, PADDING_XY, TOP_LEFT

# Suggested with the golden measurements: some ten times the rounding floor of float32.
LIMITS = {"embedding": 5e-5, "low-res masks": 1e-4, "IoU": 5e-5, "mask pixels": 2e-4}
_MAE_LIMIT = 5e-5
_EXACT = ComputeConfig(precision="highest")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One comparison. `error` is relative to the root mean square of what is expected, absolute
    for IoU and losses, and the share of differing pixels for masks; `largest` is the largest
    difference as it is."""

    name: str
    error: float
    largest: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.error <= self.limit


@dataclasses.dataclass(frozen=True)
class Report:
    """What was compared with what, and how it came out."""

    against: str
    stages: tuple[Stage, ...]

    @property
    def holds(self) -> bool:
        return all(stage.holds for stage in self.stages)


def measure(file: ModelFile) -> Report:
    """The comparison that can be made here for this model."""
    if sam_transformers.FAMILY.refuses(file.config) is None and has_transformers():
        return against_transformers(file)
    return against_golden(file.config)


def has_transformers() -> bool:
    """Whether torch and transformers' SamModel can be imported."""
    try:
        import torch  # noqa: F401
        from transformers import SamModel  # noqa: F401
    except Exception:  # a broken installation raises anything
        return False
    return True


# ------------------------------------------------------------------------------ transformers


def against_transformers(file: ModelFile) -> Report:
    """Both networks with these weights, on one picture and three prompts (points, and a box)."""
    import torch
    import transformers

    config = file.config
    assert isinstance(config, SamConfig)
    height, width = round(0.6 * config.image_px), config.image_px
    pixels = np.asarray(frames.to_input(_picture(height, width), config))[None]
    points, labels, box = _prompts(config)
    theirs = _their_model(file, config)
    ours = network.Sam(config, _EXACT)
    params = jax.device_put(file.params)
    embedding = _apply(ours, params, "encode", jnp.asarray(pixels))
    with torch.no_grad():
        expected = theirs.get_image_embeddings(torch.tensor(pixels.transpose(0, 3, 1, 2)))
    pairs: list[tuple[str, Any, Any]] = [
        ("embedding", embedding.transpose(0, 3, 1, 2), expected.numpy())
    ]
    for asked in ("points", "box"):
        inputs: dict[str, Any] = (
            {"input_points": torch.tensor(points), "input_labels": torch.tensor(labels)}
            if asked == "points"
            else {"input_boxes": torch.tensor(box)}
        )
        with torch.no_grad():
            answer = theirs(image_embeddings=expected, multimask_output=True, **inputs)
        all_masks = _apply(
            ours, params, "decode", jnp.asarray(expected.numpy().transpose(0, 2, 3, 1)),
            *(_slots(points, labels) if asked == "points" else _corners(box)),
        )  # fmt: skip
        logits, iou = (each[:, :, 1:] for each in all_masks)
        pairs.append(("low-res masks", logits, answer.pred_masks.numpy()))
        pairs.append(("IoU", iou, answer.iou_scores.numpy()))
        masks = [
            np.asarray(frames.to_original(jnp.asarray(x), height, width, config)) > 0
            for x in (logits, answer.pred_masks.numpy())
        ]
        pairs.append(("mask pixels", masks[0], masks[1]))
    versions = f"transformers {transformers.__version__} SamModel, torch {torch.__version__}"
    return Report(f"{versions}, these weights", tuple(_worst(pairs)))


def _their_model(file: ModelFile, config: SamConfig) -> Any:
    import torch
    import transformers

    family = sam_transformers.FAMILY
    state = state_dict.to_state_dict(file.params, family, config)
    settings = transformers.SamConfig.from_dict(sam_transformers.config_json(config))
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


def _corners(box: np.ndarray) -> tuple[Any, Any]:
    marks = np.tile(np.array([TOP_LEFT, BOTTOM_RIGHT], np.int32), (*box.shape[:2], 1))
    return jnp.asarray(box.reshape(*box.shape[:2], 2, 2)), jnp.asarray(marks)


# ------------------------------------------------------------------------------------ golden


def against_golden(config: ModelConfig) -> Report:
    """Our network of this kind against the recorded numbers of the PyTorch original."""
    name = _case_for(config)
    case = golden.load(name)
    state = golden.state_dict(case.meta["listing"], case.meta["seed"], case.scaled)
    family = registry.recognise(state)
    recorded = state_dict.detect(state, family)
    params, _ = state_dict.to_params(state, family, recorded)
    params = jax.device_put(params)
    if isinstance(recorded, MaeConfig):
        pairs = list(_mae_pairs(case, recorded, params))
    else:
        pairs = list(_sam_pairs(case, recorded, params))
    same = "this size" if recorded == config else "another size of this kind"
    return Report(f"golden case {name} ({same}, golden weights)", tuple(_worst(pairs)))


def _case_for(config: ModelConfig) -> str:
    """The recorded case that is most like the config."""
    if isinstance(config, MaeConfig):
        return "mae_vit_b_a"
    if config.encoder.kind == "tiny_vit":
        return "mobile_sam_a"
    if config.encoder.kind == "sam_vit":
        return "sam_vit_b_a" if config.encoder.width == 768 else "sam_small_test"
    if config.decoder.wiring != "efficientsam":
        raise CheckpointError("no PyTorch original has this image encoder with SAM's decoder")
    sizes = {192: "efficientsam_ti_a", 384: "efficientsam_s_a"}
    return sizes.get(config.encoder.width, "efficientsam_small_test")


def _sam_pairs(
    case: golden.Case, config: SamConfig, params: Any
) -> Iterator[tuple[str, Any, np.ndarray]]:
    pictures = case.pictures if case.pictures.ndim == 4 else case.pictures[None]
    H, W = pictures.shape[1:3]
    ours = network.Sam(config, _EXACT)
    pixels = jnp.stack([frames.to_input(picture, config) for picture in pictures])
    embedding = _apply(ours, params, "encode", pixels)
    step = max(1, embedding.shape[1] // 8)
    sample = embedding[:, 3::step, 5::step].transpose(0, 3, 1, 2)
    yield "embedding", sample, case.arrays["embedding_sample"]
    for prompt in case.meta["prompts"]:
        wanted = case.prompt(prompt)
        if config.decoder.wiring == "efficientsam":
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
        answer = _apply(ours, params, "decode", embedding, points, labels)
        logits, iou = (each[:, :, tokens][kept] for each in answer)
        yield "low-res masks", logits[..., 2::stride, 3::stride], wanted["low_res_sample"]
        yield "IoU", iou, wanted["iou"]
        full = np.asarray(frames.to_original(jnp.asarray(logits), H, W, config))
        mask = full >= 0 if config.decoder.wiring == "efficientsam" else full > 0
        mask = mask[..., ::16, :] if H * W > 200_000 else mask  # large files hold every 16th row
        bits = np.unpackbits(wanted["full_mask_bits"], axis=-1, count=W).astype(bool)
        yield "mask pixels", mask, bits


def _mae_pairs(
    case: golden.Case, config: MaeConfig, params: Any
) -> Iterator[tuple[str, Any, np.ndarray]]:
    ours, kept = mae.Mae(config, _EXACT), config.encoder.pretrain_grid**2
    visible = int(kept * (1 - case.meta["mask_ratio"]))
    order = np.argsort(case.arrays["noise"], axis=1, kind="stable")
    seen, masked = jnp.asarray(order[:, :visible]), jnp.asarray(order[:, visible:])
    pixels = images.normalise(jnp.asarray(case.pictures))
    latent = _apply(ours, params, "encode", pixels, seen)
    yield "latent", latent[:, :, ::4], case.arrays["latent_sample"]
    predicted = _apply(ours, params, "__call__", pixels, seen, masked)
    target = patches.patchify(pixels, config.encoder.patch_px).reshape(predicted.shape)
    for name, key, wanted in (
        ("loss", "loss", target),
        ("loss on normalised pixels", "loss_norm_pix", patches.standardise(target)),
    ):
        loss = losses.masked_mse(jnp.asarray(predicted), wanted, masked).mean()
        yield name, np.asarray(loss)[None], case.arrays[key]


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


def _apply(model: Any, params: Any, method: str, *inputs: Any, **options: bool) -> Any:
    run = _compiled(model, method, tuple(options.items()))
    return jax.tree.map(np.asarray, run(params, *inputs))


@functools.lru_cache(maxsize=4)
def _compiled(model: Any, method: str, options: tuple[tuple[str, bool], ...]) -> Any:
    return jax.jit(lambda p, *x: model.apply({"params": p}, *x, method=method, **dict(options)))


# --------------------------------------------------------------------------------- comparing


def _worst(pairs: list[tuple[str, Any, Any]]) -> Iterator[Stage]:
    """The largest error of each stage, in the order in which they come."""
    for name in dict.fromkeys(name for name, _, _ in pairs):
        each = [_difference(name, np.asarray(a), np.asarray(b)) for n, a, b in pairs if n == name]
        error, largest = (max(values) for values in zip(*each, strict=True))
        yield Stage(name, error, largest, LIMITS.get(name, _MAE_LIMIT))


def _difference(name: str, got: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    if got.shape != wanted.shape:
        raise CheckpointError(f"{name} has shape {got.shape}, but {wanted.shape} was expected")
    if got.dtype == bool:
        differ = got != wanted
        return float(differ.mean()), float(differ.sum())
    largest = float(np.abs(got.astype(np.float64) - wanted).max(initial=0.0))
    absolute = name in ("IoU", "loss", "loss on normalised pixels")
    scale = 1.0 if absolute else float(np.sqrt((wanted.astype(np.float64) ** 2).mean()))
    return largest / max(scale, 1e-30), largest
