"""Models by segment-anything's names, and the model itself: `sam(batched_input, ...)`.

Source of names and results: segment-anything, `build_sam.py` and `modeling/sam.py`.
"""

import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from esam_jax.convert import describe
from esam_jax.convert import load as models
from esam_jax.errors import CheckpointError, MissingError, PromptError
from esam_jax.models import named
from esam_jax.ops import geometry
from esam_jax.predict import load, tiles
from esam_jax.predict import sam as predict_sam
from esam_jax.predict.masks import Masks
from esam_jax.predict.prompt import Prompt
from esam_jax.segment_anything.tensor import Tensor, array, tensor
from esam_jax.typing import PADDING


class Sam(predict_sam.Sam):
    """A loaded model with the attributes that segment-anything's callers use.

    It computes on JAX's device, whatever `to` says; `device` is where its results are: the host.
    """

    device = "cpu"
    image_format = "RGB"
    mask_threshold = tiles.THRESHOLD

    @property
    def image_encoder(self) -> Any:
        return types.SimpleNamespace(img_size=self.config.image_px)

    def to(self, *_: Any, **__: Any) -> "Sam":
        return self

    def parameters(self) -> Iterator[Tensor]:
        """The weights, to be counted and looked at: read-only arrays of the host, in any order.

        Without what PyTorch keeps as buffers. They have no gradients, and changes go nowhere.
        """
        for path, weights in describe.flat(self.params).items():
            if not describe.is_buffer(path):
                yield tensor(weights)

    def eval(self) -> "Sam":
        return self

    def __call__(
        self, batched_input: Sequence[Mapping[str, Any]], multimask_output: bool
    ) -> list[dict[str, Tensor]]:
        """masks [N, M, H, W], iou_predictions [N, M] and low_res_logits [N, M, l, l] of each.

        batched_input: for each picture `image` [3, H, W], resized by `ResizeLongestSide`, its
        `original_size`, and prompts in pixels of that image: `point_coords` [N, P, 2] with
        `point_labels` [N, P], `boxes` [N, 4], `mask_inputs` [N, 1, l, l].
        """
        sizes = [(int(x["original_size"][0]), int(x["original_size"][1])) for x in batched_input]
        images = [resized(x["image"], "image", self.config.image_px) for x in batched_input]
        embedding = self.encode_resized(images, sizes)
        lists = [
            prompts(
                self,
                size,
                each.get("point_coords"),
                each.get("point_labels"),
                each.get("boxes"),
                each.get("mask_inputs"),
            )
            for size, each in zip(sizes, batched_input, strict=True)
        ]
        found = self.decode(embedding, lists, multimask=multimask_output)
        names = ("masks", "iou_predictions", "low_res_logits")
        return [dict(zip(names, as_tensors(masks), strict=True)) for masks in found]


def as_tensors(masks: Masks, *, logits: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (or logits) at full size, scores, and low-resolution logits."""
    full = masks.logits if logits else masks.binary()
    return tensor(full), tensor(masks.scores), tensor(masks.low_res)


def resized(image: Any, name: str, px: int) -> np.ndarray:
    """A picture [3, H, W] whose longer side is px, channels last."""
    found = array(image, name, "3 H W")
    if found.shape[0] != 3 or max(found.shape) != px:
        raise PromptError.of(
            name,
            f"has shape {found.shape}, but must be [3, H, W] with a longer side of {px}: "
            f"ResizeLongestSide({px}).apply_image, then .transpose(2, 0, 1)",
        )
    return np.ascontiguousarray(found.transpose(1, 2, 0))


def prompts(
    sam: predict_sam.Sam,
    size: tuple[int, int],
    point_coords: Any,
    point_labels: Any,
    boxes: Any,
    masks: Any,
) -> list[Prompt]:
    """One prompt for each row, from pixels of the resized picture to pixels of the picture.

    Where nothing is given, one without any part.
    """
    if (point_coords is None) != (point_labels is None):
        raise PromptError.of("point_coords", "and point_labels belong together: give both")
    config = sam.config
    parts: dict[str, np.ndarray] = {}
    if point_coords is not None:
        points = array(point_coords, "point_coords", "N P 2")
        points = geometry.to_image(points, *size, config.image_px, config.fit)
        parts["points"] = np.asarray(points)
        parts["labels"] = array(point_labels, "point_labels", "N P")
    if boxes is not None:
        corners = array(boxes, "boxes", "N 4").reshape(-1, 2, 2)
        corners = geometry.to_image(corners, *size, config.image_px, config.fit)
        parts["box"] = np.asarray(corners).reshape(-1, 4)
    if masks is not None:
        parts["mask"] = array(masks, "mask_input", "N 1 l l")[:, 0]
    if len({len(part) for part in parts.values()}) > 1:
        shapes = ", ".join(f"{name} {part.shape}" for name, part in parts.items())
        raise PromptError(f"prompts have different numbers of rows ({shapes}): give one of each")
    if not parts:
        return [prompt()]
    rows = zip(*parts.values(), strict=True)
    return [prompt(**dict(zip(parts, row, strict=True))) for row in rows]


def prompt(points: Any = None, labels: Any = None, box: Any = None, mask: Any = None) -> Prompt:
    """One query as segment-anything takes it: a point labelled -1 is padding, wherever it lies, and
    there may be nothing at all.
    """
    parts = {"points": points, "labels": labels, "box": box, "mask": mask}
    if all(part is None for part in parts.values()):
        return Prompt(padding=0)
    try:
        places, marks = np.asarray(points), np.asarray(labels)
    except (TypeError, ValueError, RuntimeError):  # Prompt says what is wrong
        return Prompt(**parts)
    spare = marks == PADDING
    if marks.ndim == 1 and places.shape[:1] == marks.shape and spare.any():
        parts |= {"points": places[~spare], "labels": marks[~spare]}
        return Prompt(**parts, padding=int(spare.sum()))
    return Prompt(**parts)


def _build(name: str | None, checkpoint: str | Path | None = None) -> Sam:
    if checkpoint is None:
        raise MissingError(
            "checkpoint is None, but weights are needed: name a .pth or .safetensors file, or a "
            "model folder"
        )
    loaded = load(checkpoint)
    if name is not None and loaded.config != named.sam(name):
        raise CheckpointError(
            f"{checkpoint} is not {name}: {models.differences(loaded.config, named.sam(name))}; "
            'sam_model_registry["default"] takes any'
        )
    return Sam(loaded.model, loaded.params, loaded.untrained, loaded.encoder, loaded.thresholds)


build_sam = functools.partial(_build, None)
build_sam_vit_h = functools.partial(_build, "sam_h")
build_sam_vit_l = functools.partial(_build, "sam_l")
build_sam_vit_b = functools.partial(_build, "sam_b")
build_sam_vit_t = functools.partial(_build, "mobile_sam")  # MobileSAM's registry has it

sam_model_registry = {
    "default": build_sam,
    "vit_h": build_sam_vit_h,
    "vit_l": build_sam_vit_l,
    "vit_b": build_sam_vit_b,
    "vit_t": build_sam_vit_t,
}
