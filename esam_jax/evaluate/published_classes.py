"""Published accuracies on ImageNet-1K, to stand beside ours where data and protocol match.

Source: EfficientSAM, arXiv:2312.00863, Table 1. None is of weights that exist: they say what the
same ViT reaches there after other pretraining.
"""

from collections.abc import Sequence
from typing import Any

from esam_jax.config import VitConfig
from esam_jax.convert.families import timm_vit
from esam_jax.data import class_names
from esam_jax.evaluate.published import PAPER, Beside
from esam_jax.models import named
from esam_jax.words import counted

_PICTURES, _PX = 50_000, 224  # of the validation set; of the centre that is seen
_SIZES = {"efficientsam_ti": "ViT-Ti", "efficientsam_s": "ViT-S", "efficientsam_b": "ViT-B"}
# Top-1 in percent, by size and pretraining.
_TOP1 = {
    "ViT-Ti": {"DeiT": 74.5, "SSTA": 75.2, "DMAE": 70.0, "MAE": 75.2, "SAMI": 76.8},
    "ViT-S": {
        **{"DeiT": 81.2, "SSTA": 81.4, "DMAE": 79.3, "MAE": 81.5, "BEiT": 81.7, "CAE": 82.0},
        **{"DINO": 82.0, "iBOT": 82.3, "SAMI": 82.7},
    },
    "ViT-B": {
        **{"DeiT": 83.8, "DMAE": 84.0, "BootMAE": 84.2, "MAE": 83.6, "BEiT": 83.7, "CAE": 83.9},
        **{"DINO": 82.8, "iBOT": 84.4, "SAMI": 84.8},
    },
}


def imagenet(
    encoder: VitConfig | None, classes: Sequence[str], *, there: int, pictures: int, skipped: int
) -> dict[str, Any]:
    """`rows` of Table 1 (top-1 as a share) of a ViT of the same size, or of all for None; else
    `left_out`, why they do not stand for these data or this model.

    The data has so many pictures `there`, of which `pictures` are measured and others `skipped`;
    `classes` are the names of those of the data.
    """
    beside, faults = Beside(), []
    # As many drawn from ImageNet's training set are not its validation set.
    if not class_names.are_synsets(classes) or {there, pictures + skipped} != {_PICTURES}:
        measured = pictures + skipped
        drawn = "" if there == measured else f"{measured} of "
        faults.append(
            f"it is of the {_PICTURES} pictures of ImageNet-1K's validation set, and these are "
            f"{drawn}{counted(there, 'picture')} of "
            f"{counted(len(classes), 'class', 'classes')}"
        )
    if skipped:
        faults.append(f"{counted(skipped, 'picture')} could not be used")
    size = None if encoder is None else _size(encoder)
    if encoder is not None and size is None:
        faults.append(f"it is of {', '.join(_TOP1)} at {_PX} pixels, and this is another network")
    if faults:
        beside.left_out.append(f"{PAPER}, Table 1: {'; '.join(faults)}")
        return beside.json()
    for each, numbers in _TOP1.items():
        for pretraining, value in numbers.items() if size in (None, each) else ():
            about = {"label": "published", "source": f"{PAPER}, Table 1"}
            row = {"model": each, "pretraining": pretraining, "top1": round(value / 100, 3)}
            beside.rows.append({**row, **about})
    return beside.json()


def _size(encoder: VitConfig) -> str | None:
    plain = timm_vit.pretrained(encoder)
    for model, size in _SIZES.items():
        known = named.sam(model).encoder
        assert isinstance(known, VitConfig)
        if plain == timm_vit.pretrained(known) and plain.pretrain_px == _PX:
            return size
    return None
