"""Floating-point operations of a training step for one example, by formula: what MFU is taken from.

A frozen part counts its forward pass, a trained part three times that: backward needs the gradient
of its inputs and that of its parameters. Recomputation is not counted, nor is the optimiser.
"""

import dataclasses

from esam_jax.config import RunConfig, SamConfig, SamiConfig, SamVitConfig, SegmentConfig, VitConfig
from esam_jax.models import flops, named
from esam_jax.tasks import sami

_SLOTS = 2  # of a first prompt: a point and padding, or two corners


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a step: forward operations for one example, and how often they count."""

    name: str
    forward: int
    trained: bool = True

    @property
    def total(self) -> int:
        return (3 if self.trained else 1) * self.forward


def per_example(cfg: RunConfig) -> int:
    """Of the whole step, for one picture."""
    return sum(part.total for part in parts(cfg))


def parts(cfg: RunConfig) -> tuple[Part, ...]:
    """The parts of a step in the order in which they are computed."""
    image_px = cfg.data.view.image_px
    if isinstance(cfg.task, SamiConfig):
        return _sami(cfg.task, image_px)
    assert cfg.data.view.kind == "prompted"
    return _segment(cfg.task, image_px, cfg.data.view.masks)


def _sami(task: SamiConfig, image_px: int) -> tuple[Part, ...]:
    teacher = named.sam(task.teacher.model).encoder
    assert isinstance(teacher, SamVitConfig)
    neck = task.teacher.features == "neck"
    found = [Part("teacher", _teacher(teacher, task, image_px), trained=False)]
    target_width = teacher.neck_width if neck else teacher.width
    for name in task.students:
        student = named.sam(name).encoder
        assert isinstance(student, VitConfig)
        tokens = (image_px // student.patch_px) ** 2
        visible = sami.visible_tokens(tokens, task.mask_ratio)
        # The class token takes part in every block.
        trunk = flops.vit_trunk(student, visible + 1, patches=visible)
        decoder = flops.sami_decoder(
            task.decoder, student.width, target_width, visible, tokens - visible
        )
        found += [Part(f"student/{name}", trunk), Part(f"decoder/{name}", decoder)]
    return tuple(found)


def _teacher(config: SamVitConfig, task: SamiConfig, image_px: int) -> int:
    side_px = config.image_px if task.teacher.view == "enlarged" else image_px
    trunk = flops.sam_vit_trunk(config, side_px)
    if task.teacher.features == "trunk":
        return trunk
    return trunk + flops.neck(config, (side_px // config.patch_px) ** 2, config.width)


def _segment(task: SegmentConfig, image_px: int, prompts: int) -> tuple[Part, ...]:
    model: SamConfig = named.sam(task.model)
    return (
        Part("encoder", flops.encoder(model.encoder, image_px)),
        Part("decoder", flops.mask_decoder(model, prompts, _SLOTS)),
    )
