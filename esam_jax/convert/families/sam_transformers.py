"""SAM's checkpoints in the names of Hugging Face transformers (`SamModel`; model.safetensors).

The numbers are those of segment-anything. What differs, from transformers' modeling_sam.py:

* The Fourier matrix is one parameter under two names. `state_dict` has both and a strict
  `load_state_dict` asks for both; `save_pretrained` writes the first only.
* The norms in the layers of the two-way decoder take their epsilon from `mask_decoder_config`, by
  default 1e-6. SAM was trained with 1e-5, which we compute and write; the config of another
  writer may say either (with plain random weights, masks then differ by 1e-4 of their size).
  The norm behind the last layer has 1e-5 in any case.
* A mask prompt belongs to a picture, not to a prompt: all prompts of the picture share it.
* Points without a box get one more slot of label -1, inside the model. The processor fills
  prompts up with label -10, a token of zeros that still takes part: the masks of such a prompt
  are not those of the unfilled one, and no label of ours means it.
"""

import math
from collections.abc import Iterator
from typing import Any, NoReturn

from esam_jax.config import DecoderConfig, ModelConfig, SamConfig, SamVitConfig
from esam_jax.convert.families import sam
from esam_jax.convert.families.family import Family, State, count, size, unwritten
from esam_jax.convert.table import (
    CONV,
    PATCHES,
    SAME,
    Link,
    Row,
    affine,
    attention,
    fused_attention,
    links,
    mask_head,
    norm,
    upscale,
)
from esam_jax.errors import CheckpointError, ConfigError

_V, _E = "vision_encoder", "encoder"
_BLOCK, _OUR_BLOCK = f"{_V}.layers.{{block}}", f"{_E}/block_{{block}}"
_P, _STEM, _OUR_STEM = "prompt_encoder", "prompt_encoder.mask_embed", "prompt/mask"
_D, _TWO_WAY, _OUR_TWO_WAY = "mask_decoder", "mask_decoder.transformer", "decoder/two_way"
_LAYER, _OUR_LAYER = f"{_TWO_WAY}.layers.{{layer}}", f"{_OUR_TWO_WAY}/block_{{layer}}"
_HEADS, _OUR_HEADS = f"{_D}.output_hypernetworks_mlps.{{m}}", "decoder/mask_heads"
_IOU, _OUR_IOU = f"{_D}.iou_prediction_head", "decoder/iou_head"
_FOURIER = "shared_image_embedding.positional_embedding"

ROWS: tuple[Row, ...] = (
    Row(f"{_V}.pos_embed", f"{_E}/positions", "1 h w d -> h w d"),
    *affine(f"{_V}.patch_embed.projection", f"{_E}/patch_embed", PATCHES),
    *norm(f"{_BLOCK}.layer_norm1", f"{_OUR_BLOCK}/attn_norm"),
    *fused_attention(f"{_BLOCK}.attn", f"{_OUR_BLOCK}/attn"),
    Row(f"{_BLOCK}.attn.rel_pos_h", f"{_OUR_BLOCK}/attn/rel_rows", SAME),
    Row(f"{_BLOCK}.attn.rel_pos_w", f"{_OUR_BLOCK}/attn/rel_cols", SAME),
    *norm(f"{_BLOCK}.layer_norm2", f"{_OUR_BLOCK}/mlp_norm"),
    *affine(f"{_BLOCK}.mlp.lin1", f"{_OUR_BLOCK}/mlp/hidden"),
    *affine(f"{_BLOCK}.mlp.lin2", f"{_OUR_BLOCK}/mlp/out"),
    Row(f"{_V}.neck.conv1.weight", f"{_E}/neck/project/kernel", "o i 1 1 -> i o"),
    *norm(f"{_V}.neck.layer_norm1", f"{_E}/neck/project_norm"),
    Row(f"{_V}.neck.conv2.weight", f"{_E}/neck/smooth/kernel", CONV),
    *norm(f"{_V}.neck.layer_norm2", f"{_E}/neck/smooth_norm"),
    Row(_FOURIER, "prompt/fourier", SAME),
    Row(f"{_P}.not_a_point_embed.weight", "prompt/padding", SAME),
    Row(f"{_P}.point_embed.0.weight", "prompt/background", SAME),
    Row(f"{_P}.point_embed.1.weight", "prompt/foreground", SAME),
    Row(f"{_P}.point_embed.2.weight", "prompt/top_left", SAME),
    Row(f"{_P}.point_embed.3.weight", "prompt/bottom_right", SAME),
    Row(f"{_P}.no_mask_embed.weight", "prompt/no_mask", SAME),
    *affine(f"{_STEM}.conv1", f"{_OUR_STEM}/conv_1", "o c y x -> (y x c) o"),
    *norm(f"{_STEM}.layer_norm1", f"{_OUR_STEM}/norm_1"),
    *affine(f"{_STEM}.conv2", f"{_OUR_STEM}/conv_2", "o c y x -> (y x c) o"),
    *norm(f"{_STEM}.layer_norm2", f"{_OUR_STEM}/norm_2"),
    *affine(f"{_STEM}.conv3", f"{_OUR_STEM}/conv_3", "o c 1 1 -> c o"),
    Row(f"{_D}.iou_token.weight", "decoder/iou_token", SAME),
    Row(f"{_D}.mask_tokens.weight", "decoder/mask_tokens", SAME),
    *attention(f"{_LAYER}.self_attn", f"{_OUR_LAYER}/self_attn"),
    *norm(f"{_LAYER}.layer_norm1", f"{_OUR_LAYER}/self_norm"),
    *attention(f"{_LAYER}.cross_attn_token_to_image", f"{_OUR_LAYER}/token_to_image"),
    *norm(f"{_LAYER}.layer_norm2", f"{_OUR_LAYER}/token_to_image_norm"),
    *affine(f"{_LAYER}.mlp.lin1", f"{_OUR_LAYER}/mlp/hidden"),
    *affine(f"{_LAYER}.mlp.lin2", f"{_OUR_LAYER}/mlp/out"),
    *norm(f"{_LAYER}.layer_norm3", f"{_OUR_LAYER}/mlp_norm"),
    *attention(f"{_LAYER}.cross_attn_image_to_token", f"{_OUR_LAYER}/image_to_token"),
    *norm(f"{_LAYER}.layer_norm4", f"{_OUR_LAYER}/image_to_token_norm"),
    *attention(f"{_TWO_WAY}.final_attn_token_to_image", f"{_OUR_TWO_WAY}/final_attn"),
    *norm(f"{_TWO_WAY}.layer_norm_final_attn", f"{_OUR_TWO_WAY}/final_norm"),
    *upscale(f"{_D}.upscale_conv1", "decoder/upscale/conv_1"),
    *norm(f"{_D}.upscale_layer_norm", "decoder/upscale/norm"),
    *upscale(f"{_D}.upscale_conv2", "decoder/upscale/conv_2"),
    *mask_head(f"{_HEADS}.proj_in", f"{_OUR_HEADS}/hidden_1"),
    *mask_head(f"{_HEADS}.layers.0", f"{_OUR_HEADS}/hidden_2"),
    *mask_head(f"{_HEADS}.proj_out", f"{_OUR_HEADS}/out"),
    *affine(f"{_IOU}.proj_in", f"{_OUR_IOU}/hidden_1"),
    *affine(f"{_IOU}.layers.0", f"{_OUR_IOU}/hidden_2"),
    *affine(f"{_IOU}.proj_out", f"{_OUR_IOU}/out"),
)


def _links(config: SamConfig) -> Iterator[Link]:
    return links(ROWS, sam.counts(config), sam.sizes(config))


def _detect(state: State) -> SamConfig:
    width = size(state, f"{_V}.pos_embed", -1)
    known = unwritten(width)
    depth = count(state, f"{_V}.layers.")
    reach = [(size(state, f"{_V}.layers.{i}.attn.rel_pos_h", 0) + 1) // 2 for i in range(depth)]
    patch_px = size(state, f"{_V}.patch_embed.projection.weight", -1)
    encoder = SamVitConfig(
        width=width,
        heads=known.encoder_heads,
        depth=depth,
        mlp_ratio=size(state, f"{_V}.layers.0.mlp.lin1.weight", 0) // width,
        patch_px=patch_px,
        neck_width=size(state, f"{_V}.neck.conv1.weight", 0),
        image_px=size(state, f"{_V}.pos_embed", 1) * patch_px,
        window=min(reach),
        global_blocks=tuple(i for i, cells in enumerate(reach) if cells != min(reach)),
    )
    decoder = DecoderConfig(
        wiring="sam",
        width=size(state, f"{_D}.iou_token.weight", 1),
        depth=count(state, f"{_TWO_WAY}.layers."),
        heads=known.decoder_heads,
        mlp_width=size(state, f"{_TWO_WAY}.layers.0.mlp.lin1.weight", 0),
        iou_width=size(state, f"{_IOU}.proj_in.weight", 0),
        mask_tokens=size(state, f"{_D}.mask_tokens.weight", 0),
        mask_channels=size(state, f"{_STEM}.conv3.weight", 1),
        background="learned",
        mask_prompts="learned",
    )
    return SamConfig(encoder=encoder, decoder=decoder)


FAMILY = Family(
    name="sam_transformers",
    about="SAM ViT-B, L or H, as transformers' SamModel names it",
    marks=(f"{_V}.pos_embed", f"{_P}.not_a_point_embed.weight"),
    detect=_detect,
    links=_links,
    refuses=sam.refuses,
    aliases={"prompt_encoder.shared_embedding.positional_embedding": _FOURIER},
    released=False,
    licence="Apache-2.0",
)


# ------------------------------------------------------------------------------ config.json

_VISION = "vision_config"
_PROMPT = "prompt_encoder_config"
_DECODER = "mask_decoder_config"
_LARGEST = 16_384  # as in model folders: a size beyond it is refused before anything is made

# Section -> key -> the values that name what our networks compute. The first is transformers'
# own default, which stands for a key that is not there. The values may be compared as they are:
# no list or object of a hostile file equals one.
_FIXED: dict[str, dict[str, tuple[Any, ...]]] = {
    _VISION: {
        "hidden_act": ("gelu",),
        "layer_norm_eps": (1e-6,),
        "num_channels": (3,),
        "qkv_bias": (True,),
        "use_abs_pos": (True,),
        "use_rel_pos": (True,),
    },
    _PROMPT: {
        "hidden_act": ("gelu",),
        "layer_norm_eps": (1e-6,),
        "num_point_embeddings": (4,),
    },
    _DECODER: {
        "hidden_act": ("relu",),
        "layer_norm_eps": (1e-6, 1e-5),
        "attention_downsample_rate": (2,),
        "iou_head_depth": (3,),
    },
}


def config_json(config: ModelConfig, dtype: str = "float32") -> dict[str, Any]:
    """What `config.json` beside a model.safetensors must hold for `SamModel.from_pretrained`.

    `dtype` names the numbers of the tensors. CheckpointError for a model that is not SAM's.
    """
    reason = FAMILY.refuses(config)
    if reason is not None or not isinstance(config, SamConfig):
        raise CheckpointError(f"this model cannot be written as {FAMILY.name}: {reason}")
    encoder, decoder = config.encoder, config.decoder
    assert isinstance(encoder, SamVitConfig)  # or it would have been refused
    fixed = {section: {k: v[0] for k, v in keys.items()} for section, keys in _FIXED.items()}
    input_size = {"image_size": encoder.image_px, "patch_size": encoder.patch_px}
    return {
        "architectures": ["SamModel"],
        "model_type": "sam",
        "dtype": dtype,
        _VISION: {
            "model_type": "sam_vision_model",
            **fixed[_VISION],
            **input_size,
            "hidden_size": encoder.width,
            "num_hidden_layers": encoder.depth,
            "num_attention_heads": encoder.heads,
            "mlp_dim": encoder.mlp_ratio * encoder.width,
            "mlp_ratio": float(encoder.mlp_ratio),
            "window_size": encoder.window,
            "global_attn_indexes": list(encoder.global_blocks),
            "output_channels": encoder.neck_width,
            "num_pos_feats": decoder.width // 2,
        },
        _PROMPT: {
            "model_type": "sam_prompt_encoder",
            **fixed[_PROMPT],
            **input_size,
            "image_embedding_size": encoder.grid,
            "hidden_size": decoder.width,
            "mask_input_channels": decoder.mask_channels,
        },
        _DECODER: {
            "model_type": "sam_mask_decoder",
            **fixed[_DECODER],
            "layer_norm_eps": 1e-5,
            "hidden_size": decoder.width,
            "num_hidden_layers": decoder.depth,
            "num_attention_heads": decoder.heads,
            "mlp_dim": decoder.mlp_width,
            "iou_head_hidden_dim": decoder.iou_width,
            "num_multimask_outputs": decoder.mask_tokens - 1,
        },
    }


def preprocessor_json(config: SamConfig) -> dict[str, Any]:
    """What `preprocessor_config.json` must hold for `SamProcessor.from_pretrained`."""
    side, low = config.image_px, config.low_res_px
    return {
        "image_processor_type": "SamImageProcessor",
        "processor_class": "SamProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": 2,  # PIL's bilinear
        "size": {"longest_edge": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_pad": True,
        "pad_size": {"height": side, "width": side},
        "mask_size": {"longest_edge": low},
        "mask_pad_size": {"height": low, "width": low},
    }


def from_config_json(value: Any) -> SamConfig:
    """The config that transformers' `config.json` describes, head counts included.

    A key that is absent or null has transformers' default; one that we know of no use for is
    passed over. CheckpointError names the first value that is off.
    """
    if not isinstance(value, dict) or value.get("model_type") != "sam":
        raise CheckpointError("this config.json is not of transformers' SamModel (model_type sam)")
    sections = {name: _Section(value, name) for name in _FIXED}
    for section in sections.values():
        section.check_fixed()
    encoder, decoder = _encoder(sections[_VISION]), sections[_DECODER]
    width = decoder.whole("hidden_size", 256)
    for name, key, default, wanted in (
        (_VISION, "num_pos_feats", 128, width // 2),
        (_PROMPT, "hidden_size", 256, width),
        (_PROMPT, "image_size", 1024, encoder["image_px"]),
        (_PROMPT, "patch_size", 16, encoder["patch_px"]),
    ):
        value = sections[name].whole(key, default)
        if value != wanted:
            sections[name].refuse(key, value, f"{wanted}, to fit the rest of the config")
    try:
        return SamConfig(
            encoder=SamVitConfig(**encoder),
            decoder=DecoderConfig(
                wiring="sam",
                width=width,
                depth=decoder.whole("num_hidden_layers", 2),
                heads=decoder.whole("num_attention_heads", 8),
                mlp_width=decoder.whole("mlp_dim", 2048),
                iou_width=decoder.whole("iou_head_hidden_dim", 256),
                mask_tokens=decoder.whole("num_multimask_outputs", 3) + 1,
                mask_channels=sections[_PROMPT].whole("mask_input_channels", 16),
                background="learned",
                mask_prompts="learned",
            ),
        )
    except ConfigError as error:
        raise CheckpointError(f"config.json breaks a rule: {error}") from error


def _encoder(vision: "_Section") -> dict[str, Any]:
    width = vision.whole("hidden_size", 768)
    ratio = vision.get("mlp_ratio", 4.0)
    if type(ratio) not in (int, float) or not 0 < ratio <= _LARGEST:
        vision.refuse("mlp_ratio", ratio, f"a number up to {_LARGEST}")
    mlp_width = vision.whole("mlp_dim", math.floor(width * ratio))
    if mlp_width % width:
        vision.refuse("mlp_dim", mlp_width, f"a whole multiple of hidden_size={width}")
    blocks = vision.get("global_attn_indexes", [2, 5, 8, 11])
    if not isinstance(blocks, list) or not all(type(i) is int for i in blocks):
        vision.refuse("global_attn_indexes", blocks, "a list of whole numbers")
    return {
        "width": width,
        "heads": vision.whole("num_attention_heads", 12),
        "depth": vision.whole("num_hidden_layers", 12),
        "mlp_ratio": mlp_width // width,
        "patch_px": vision.whole("patch_size", 16),
        "image_px": vision.whole("image_size", 1024),
        "neck_width": vision.whole("output_channels", 256),
        "window": vision.whole("window_size", 14),
        "global_blocks": tuple(sorted(set(blocks))),
    }


class _Section:
    """One object of config.json, read with suspicion."""

    def __init__(self, config: dict[str, Any], name: str) -> None:
        self.name = name
        self.values = {} if config.get(name) is None else config[name]
        if not isinstance(self.values, dict):
            raise CheckpointError(
                f"{name} of config.json is {_shown(self.values)}, but must be a JSON object"
            )

    def get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        return default if value is None else value

    def whole(self, key: str, default: int) -> int:
        value = self.get(key, default)
        if type(value) is not int or not 0 < value <= _LARGEST:
            self.refuse(key, value, f"a whole number from 1 to {_LARGEST}")
        return value

    def check_fixed(self) -> None:
        for key, accepted in _FIXED[self.name].items():
            value = self.get(key, accepted[0])
            if value not in accepted:
                self.refuse(key, value, " or ".join(str(x) for x in accepted))

    def refuse(self, key: str, value: Any, rule: str) -> NoReturn:
        raise CheckpointError(
            f"{self.name}.{key} of config.json is {_shown(value)}, but must be {rule}"
        )


def _shown(value: Any) -> str:
    """A value short enough for a message; lists and objects may nest without end."""
    return f"{value!r:.80}" if isinstance(value, str | int | float) else type(value).__name__
