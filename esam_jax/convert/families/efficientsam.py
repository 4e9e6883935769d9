"""EfficientSAM's released checkpoints (yformer/EfficientSAM, a dict with the key `model`).

Its prompt encoder knows neither background points nor masks: a model that has learned them cannot
be written in this layout.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import flax.traverse_util
import numpy as np

from esam_jax.config import DecoderConfig, ModelConfig, SamConfig, VitConfig
from esam_jax.convert.families import sam
from esam_jax.convert.families.family import Family, Reduced, State, count, size, unwritten
from esam_jax.convert.table import SAME, Link, Row, affine, links, mask_head, norm, upscale
from esam_jax.typing import Params

_IE, _E = "image_encoder", "encoder"
_BLOCK, _OUR_BLOCK = f"{_IE}.blocks.{{block}}", f"{_E}/block_{{block}}"
_LAYER, _OUR_LAYER = "mask_decoder.transformer.layers.{layer}", "decoder/two_way/block_{layer}"
_HEADS, _OUR_HEADS = "mask_decoder.output_hypernetworks_mlps.{m}", "decoder/mask_heads"
_IOU, _OUR_IOU = "mask_decoder.iou_prediction_head", "decoder/iou_head"
_UP, _OUR_UP = "mask_decoder.final_output_upscaling_layers", "decoder/upscale"

ROWS: tuple[Row, ...] = (
    Row(f"{_IE}.pos_embed", f"{_E}/positions", "1 s d -> s d"),
    *sam.ENCODER,
    *affine(f"{_BLOCK}.mlp.fc1", f"{_OUR_BLOCK}/mlp/hidden"),
    *affine(f"{_BLOCK}.mlp.fc2", f"{_OUR_BLOCK}/mlp/out"),
    *sam.NECK,
    *sam.TWO_WAY,
    Row("prompt_encoder.invalid_points.weight", "prompt/padding", SAME),
    Row("prompt_encoder.point_embeddings.weight", "prompt/foreground", SAME),
    Row("prompt_encoder.bbox_top_left_embeddings.weight", "prompt/top_left", SAME),
    Row("prompt_encoder.bbox_bottom_right_embeddings.weight", "prompt/bottom_right", SAME),
    *affine(f"{_LAYER}.mlp.layers.0.0", f"{_OUR_LAYER}/mlp/hidden"),
    *affine(f"{_LAYER}.mlp.fc", f"{_OUR_LAYER}/mlp/out"),
    *upscale(f"{_UP}.0.0", f"{_OUR_UP}/conv_1"),
    *norm(f"{_UP}.0.1", f"{_OUR_UP}/norm"),
    *upscale(f"{_UP}.1.0", f"{_OUR_UP}/conv_2"),
    *mask_head(f"{_HEADS}.layers.0.0", f"{_OUR_HEADS}/hidden_1"),
    *mask_head(f"{_HEADS}.layers.1.0", f"{_OUR_HEADS}/hidden_2"),
    *mask_head(f"{_HEADS}.fc", f"{_OUR_HEADS}/out"),
    *affine(f"{_IOU}.layers.0.0", f"{_OUR_IOU}/hidden_1"),
    *affine(f"{_IOU}.layers.1.0", f"{_OUR_IOU}/hidden_2"),
    *affine(f"{_IOU}.fc", f"{_OUR_IOU}/out"),
)


def _links(config: SamConfig) -> Iterator[Link]:
    return links(ROWS, sam.counts(config), sam.sizes(config))


def _detect(state: State) -> SamConfig:
    width = size(state, f"{_IE}.pos_embed", -1)
    known = unwritten(width)
    patch_px = size(state, f"{_IE}.patch_embed.proj.weight", -1)
    slots = size(state, f"{_IE}.pos_embed", 1)
    encoder = VitConfig(
        width=width,
        heads=known.encoder_heads,
        depth=count(state, f"{_IE}.blocks."),
        patch_px=patch_px,
        neck_width=size(state, f"{_IE}.neck.0.weight", 0),
        image_px=known.image_px,
        pretrain_px=math.isqrt(max(slots - 1, 0)) * patch_px,
    )
    decoder = DecoderConfig(
        wiring="efficientsam",
        width=size(state, "mask_decoder.iou_token.weight", 1),
        depth=count(state, "mask_decoder.transformer.layers."),
        heads=known.decoder_heads,
        mlp_width=size(state, "mask_decoder.transformer.layers.0.mlp.layers.0.0.weight", 0),
        iou_width=size(state, f"{_IOU}.layers.0.0.weight", 0),
        mask_tokens=size(state, "mask_decoder.mask_tokens.weight", 0),
    )
    return SamConfig(encoder=encoder, decoder=decoder)


def _refuses(config: ModelConfig) -> str | None:
    reason = sam.unlike(config, "efficientsam", VitConfig, "a plain ViT")
    if reason is None and config != _nearest(config):
        return "it has neither background points nor mask prompts"
    return reason


# What the release lacks: the field of the decoder's config, its branches, and those of their
# parameters whose zeros make them as good as absent.
_EXTRAS = {
    "background": (("prompt/background",), ("prompt/background",)),
    "mask_prompts": (
        ("prompt/no_mask", "prompt/mask"),
        ("prompt/no_mask", "prompt/mask/conv_3/kernel", "prompt/mask/conv_3/bias"),
    ),
}


def _nearest(config: ModelConfig) -> ModelConfig:
    if not isinstance(config, SamConfig) or config.decoder.traits.extras == "always":
        return config
    without = dict.fromkeys(_EXTRAS, "none")
    return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, **without))


def _reduce(config: SamConfig, params: Params, unused: State) -> Reduced:
    """The parameters less the extras; those that were trained are lost."""
    there = [field for field in _EXTRAS if getattr(config.decoder, field) == "learned"]
    weights: dict[str, Any] = flax.traverse_util.flatten_dict(params, sep="/")
    trained = [f for f in there if any(np.any(weights[path]) for path in _EXTRAS[f][1])]
    gone = tuple(branch for field in there for branch in _EXTRAS[field][0])
    kept = {
        path: x
        for path, x in weights.items()
        if not any(path == branch or path.startswith(f"{branch}/") for branch in gone)
    }
    lost = tuple(branch for field in trained for branch in _EXTRAS[field][0])
    return flax.traverse_util.unflatten_dict(kept, sep="/"), lost


def _golden(config: SamConfig) -> str:
    assert isinstance(config.encoder, VitConfig)
    sizes = {192: "efficientsam_ti_a", 384: "efficientsam_s_a"}
    return sizes.get(config.encoder.width, "efficientsam_small_test")


FAMILY = Family(
    name="efficientsam",
    about="EfficientSAM's release",
    marks=("prompt_encoder.invalid_points.weight",),
    detect=_detect,
    links=_links,
    refuses=_refuses,
    nearest=_nearest,
    reduce=_reduce,
    golden=_golden,
    wrap="model",
    licence="Apache-2.0",
)
