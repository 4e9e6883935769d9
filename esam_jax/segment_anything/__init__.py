"""segment-anything's names: `from segment_anything import ...` with `esam_jax.` before it.

What its notebooks call takes the same arguments and gives the same results, as NumPy arrays that
also have the methods of tensors which the notebooks use (`cpu`, `numpy`, ...). PyTorch is not
needed; tensors on the CPU are taken.
"""

from esam_jax.predict.everything.generator import (
    AutomaticMaskGenerator as SamAutomaticMaskGenerator,
)
from esam_jax.segment_anything.sam_model import (
    build_sam,
    build_sam_vit_b,
    build_sam_vit_h,
    build_sam_vit_l,
    build_sam_vit_t,
    sam_model_registry,
)
from esam_jax.segment_anything.sam_predictor import SamPredictor

__all__ = [
    "SamAutomaticMaskGenerator",
    "SamPredictor",
    "build_sam",
    "build_sam_vit_b",
    "build_sam_vit_h",
    "build_sam_vit_l",
    "build_sam_vit_t",
    "sam_model_registry",
]
