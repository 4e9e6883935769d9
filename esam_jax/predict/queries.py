"""Prompts of one picture -> arrays for the decoder, in few shapes so that little is compiled.

Queries do not see each other, so their count may be padded freely. Tokens of one query do: in the
"efficientsam" wiring every query has all its slots anyway, but in the "sam" wiring a padding token
changes the answer, so queries go together only when they have as many tokens.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from esam_jax.config import SamConfig
from esam_jax.ops import geometry
from esam_jax.predict import frames
from esam_jax.predict.prompt import Prompt
from esam_jax.typing import PADDING

LARGEST = 32  # queries in one call; at 1024 px each holds tens of MB while it is decoded
_CERTAIN = 10.0  # logit of a pixel that a 0/1 mask covers, minus that where it does not


@dataclasses.dataclass(frozen=True)
class Group:
    """Queries for one call of the decoder: X = Q padded to a power of two with copies of the first.

    `indices` are the places of the Q in the list. Points are in pixels of the square model input,
    mask logits at the decoder's own size.
    """

    indices: Int[np.ndarray, " Q"]
    points: Float[np.ndarray, "X P 2"]
    labels: Int[np.ndarray, "X P"]
    masks: Float[np.ndarray, "X l l"] | None

    def batch(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Points, labels and masks with a leading axis of one picture."""
        masks = None if self.masks is None else self.masks[None]
        return self.points[None], self.labels[None], masks


def groups(prompts: list[Prompt], config: SamConfig, height: int, width: int) -> Iterator[Group]:
    """Covers every prompt once; query counts are powers of two up to `LARGEST`."""
    kinds: dict[tuple[int, bool], list[int]] = {}
    for i, prompt in enumerate(prompts):
        slots = _slots(prompt, config)
        kinds.setdefault((slots, prompt.mask is not None), []).append(i)
    for (slots, masked), members in kinds.items():
        for first in range(0, len(members), LARGEST):
            chunk = members[first : first + LARGEST]
            yield _group([prompts[i] for i in chunk], chunk, slots, masked, config, height, width)


def mask_logits(
    mask: np.ndarray, config: SamConfig, height: int, width: int
) -> Float[np.ndarray, "l l"]:
    """Logits for the prompt encoder: floats as they are, booleans stretched over the picture.

    A cell covered to the share s gets 10 (2 s - 1); SAM's padding beside the picture gets -10.
    """
    if mask.dtype.kind == "f":
        return mask
    side = config.low_res_px
    cells_high, cells_wide = frames.valid(height, width, config)
    picture = Image.fromarray(mask.astype(np.float32))
    share = np.asarray(picture.resize((cells_wide, cells_high), Image.Resampling.BOX))
    covered = np.zeros((side, side), np.float32)
    covered[:cells_high, :cells_wide] = share
    return _CERTAIN * (2 * covered - 1)


def _slots(prompt: Prompt, config: SamConfig) -> int:
    return config.decoder.point_slots if config.decoder.wiring == "efficientsam" else prompt.tokens


def _group(
    prompts: list[Prompt],
    indices: list[int],
    slots: int,
    masked: bool,
    config: SamConfig,
    height: int,
    width: int,
) -> Group:
    prompts = prompts + prompts[:1] * (_power_of_two(len(prompts)) - len(prompts))
    pairs = [prompt.padded(slots) for prompt in prompts]
    labels = np.stack([labels for _, labels in pairs])
    points = np.stack([points for points, _ in pairs]).reshape(-1, 2)
    points = geometry.to_model(points, height, width, config.image_px, config.fit)
    points = np.asarray(points, np.float32).reshape(*labels.shape, 2)
    # EfficientSAM keeps the position code of an empty slot, and its place is (-1, -1) of the input.
    points = np.where(labels[..., None] == PADDING, np.float32(-1), points)
    masks = None
    if masked:
        masks = np.stack([mask_logits(prompt.mask, config, height, width) for prompt in prompts])
    return Group(np.asarray(indices), points, labels, masks)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
