"""A classifier, written because timm's layout was named: the same names as its original's."""

import dataclasses

from esam_jax.convert.families import vit_classifier

FAMILY = dataclasses.replace(
    vit_classifier.FAMILY,
    name="timm_classifier",
    marks=(),  # what is read in these names is of the `vit_classifier` family
    layout="timm",
)
