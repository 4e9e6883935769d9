"""The golden cases asked as a user asks: a picture and prompts in its own pixels, masks back."""

import functools
from typing import Any

import numpy as np
import pytest
from golden import cases

from esam_jax.errors import PromptError
from esam_jax.models.sam.network import Sam as Network
from esam_jax.predict.embedding import Embedding
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.sam import Sam
from esam_jax.segment_anything import SamPredictor
from esam_jax.typing import BACKGROUND, FOREGROUND, TOP_LEFT

nightly = pytest.mark.nightly  # full size: each compiles for minutes
SAM = ["sam_small_test", *(pytest.param(x, marks=nightly) for x in ("sam_vit_b_a", "mobile_sam_a"))]
EFFICIENTSAM = [
    "efficientsam_small_test",
    "efficientsam_small_test_native",
    *(pytest.param(x, marks=nightly) for x in ("efficientsam_ti_a", "efficientsam_s_a")),
]


@functools.lru_cache(maxsize=1)
def model(name: str) -> Sam:
    network = cases.network_of(cases.load(name))
    return Sam(Network(network.config), network.params)


@functools.lru_cache(maxsize=1)
def predictor(name: str) -> SamPredictor:
    asked = SamPredictor(model(name))
    asked.set_image(cases.load(name).arrays["image"])
    return asked


@functools.lru_cache(maxsize=1)
def encoded(name: str) -> Embedding:
    return model(name).encode(cases.load(name).arrays["image"][0])


@pytest.mark.parametrize("name", SAM)
def test_sams_own_predictor(name: str):
    """The same call gives the same masks, from the picture as given."""
    case = cases.load(name)
    for prompt in case.meta["prompts"]:
        wanted = case.prompt(prompt)
        if prompt.startswith("torch_"):
            check_batched(name, prompt, wanted)
        else:
            check_call(name, prompt, wanted)


def check_call(name: str, prompt: str, wanted: dict[str, Any]) -> None:
    names = ("point_coords", "point_labels", "box", "mask_input")
    call: dict[str, Any] = {each: wanted[each] for each in names if each in wanted}
    call["multimask_output"] = bool(wanted["multimask_output"])
    masks, scores, low_res = predictor(name).predict(**call)
    logits, _, _ = predictor(name).predict(**call, return_logits=True)
    cases.check(f"{prompt}/iou", scores, wanted["iou"])
    cases.check(f"{prompt}/low_res_sample", low_res[:, 2::7, 3::7], wanted["low_res_sample"])
    cases.check(f"{prompt}/full_sample", logits[:, 2::7, 3::7], wanted["full_sample"])
    cases.check_masks(prompt, logits, masks, wanted)


def check_batched(name: str, prompt: str, wanted: dict[str, Any]) -> None:
    """`predict_torch`, whose prompts are a batch in the frame of the resized picture."""
    asked, size = predictor(name), cases.load(name).arrays["image"].shape[:2]
    points = labels = boxes = None
    if "batched_boxes" in wanted:
        boxes = asked.transform.apply_boxes_torch(wanted["batched_boxes"], size)
    else:
        points = asked.transform.apply_coords_torch(wanted["batched_point_coords"], size)
        labels = wanted["batched_point_labels"]
    call = {"boxes": boxes, "multimask_output": bool(wanted["multimask_output"])}
    masks, scores, low_res = asked.predict_torch(points, labels, **call)
    logits, _, _ = asked.predict_torch(points, labels, **call, return_logits=True)
    cases.check(f"{prompt}/iou", scores, wanted["iou"])
    cases.check(f"{prompt}/low_res_sample", low_res[..., 2::7, 3::7], wanted["low_res_sample"])
    cases.check_masks(prompt, logits, masks, wanted)


@pytest.mark.parametrize("name", EFFICIENTSAM)
def test_efficientsam(name: str):
    case, asked = cases.load(name), 0
    for prompt in case.meta["prompts"]:
        wanted = case.prompt(prompt)
        points, labels = wanted["points"][0], wanted["labels"][0]
        if prompt == "queries":
            continue  # reaches out of the picture and beyond the slots, which is refused here
        if (labels == BACKGROUND).any():  # of which the release never learned anything
            with pytest.raises(PromptError, match="background"):
                model(name).decode(encoded(name), [Prompt(points=points[0], labels=labels[0])])
            continue
        answer = model(name).decode(encoded(name), [as_prompt(points[0], labels[0])])
        stride = case.meta["low_stride"]
        low_res = answer.low_res[None, ..., 2::stride, 3::stride]
        cases.check(f"{prompt}/low_res_sample", low_res, wanted["low_res_sample"])
        cases.check(f"{prompt}/iou", answer.scores[None], wanted["iou"])
        stride, full = case.meta["full_stride"], answer.logits[None]
        cases.check(f"{prompt}/full_sample", full[..., 2::stride, 3::stride], wanted["full_sample"])
        cases.check_masks(prompt, full, answer.binary()[None], wanted)
        asked += 1
    assert asked


def as_prompt(points: np.ndarray, labels: np.ndarray) -> Prompt:
    (corner,) = np.flatnonzero(labels == TOP_LEFT).tolist() or [None]
    box = None if corner is None else points[corner : corner + 2].reshape(4)
    return Prompt(points=points[labels == FOREGROUND], box=box)
