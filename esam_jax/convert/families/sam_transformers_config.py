"""The JSON files in a folder of transformers' `SamModel`, read and written.

What its config can say and our networks do not compute is refused by name.
"""

import math
from typing import Any

from esam_jax.config import DecoderConfig, ModelConfig, SamConfig, SamVitConfig
from esam_jax.convert.families import sam
from esam_jax.convert.families.library_section import LARGEST, Section
from esam_jax.errors import CheckpointError, ConfigError

NAMES = _CONFIG_FILE, _PROCESSOR_FILE = ("config.json", "preprocessor_config.json")

_VISION = "vision_config"
_PROMPT = "prompt_encoder_config"
_DECODER = "mask_decoder_config"

# Section -> key -> the values that name what our networks compute (`Section`).
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
    reason = sam.refuses(config)
    if reason is not None or not isinstance(config, SamConfig):
        raise CheckpointError(f"this model cannot be written as sam_transformers: {reason}")
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


def files(config: SamConfig, dtype: str) -> dict[str, Any]:
    """The JSON files beside the weights, by name."""
    return {
        _CONFIG_FILE: config_json(config, dtype),
        _PROCESSOR_FILE: preprocessor_json(config),
    }


def from_config_json(value: Any) -> SamConfig:
    """The config that transformers' `config.json` describes, head counts included.

    A key that is absent or null has transformers' default; one that we know of no use for is
    passed over. CheckpointError names the first value that is off.
    """
    if not isinstance(value, dict) or value.get("model_type") != "sam":
        raise CheckpointError("this config.json is not of transformers' SamModel (model_type sam)")
    sections = {name: Section(value, name, _FIXED) for name in _FIXED}
    for section in sections.values():
        section.check_fixed()
    encoder, decoder = _encoder(sections[_VISION]), sections[_DECODER]
    width = decoder.whole("hidden_size", 256)
    for name, key, default, wanted in (
        (_VISION, "num_pos_feats", 128, width // 2),
        (_PROMPT, "hidden_size", 256, width),
        (_PROMPT, "image_size", 1024, encoder["image_px"]),
        (_PROMPT, "patch_size", 16, encoder["patch_px"]),
        (_PROMPT, "mask_input_channels", 16, DecoderConfig.mask_channels),
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
                background="learned",
                mask_prompts="learned",
            ),
        )
    except ConfigError as error:
        raise CheckpointError(f"config.json is invalid: {error}") from error


def _encoder(vision: Section) -> dict[str, Any]:
    width = vision.whole("hidden_size", 768)
    ratio = vision.get("mlp_ratio", 4.0)
    if type(ratio) not in (int, float) or not 0 < ratio <= LARGEST:
        vision.refuse("mlp_ratio", ratio, f"a number up to {LARGEST}")
    mlp_width = vision.whole("mlp_dim", math.floor(width * ratio))
    wanted = SamVitConfig.mlp_ratio * width
    if mlp_width != wanted:
        vision.refuse("mlp_dim", mlp_width, f"{wanted}, four times hidden_size={width}")
    blocks = vision.get("global_attn_indexes", [2, 5, 8, 11])
    if not isinstance(blocks, list) or not all(type(i) is int for i in blocks):
        vision.refuse("global_attn_indexes", blocks, "a list of integers")
    return {
        "width": width,
        "heads": vision.whole("num_attention_heads", 12),
        "depth": vision.whole("num_hidden_layers", 12),
        "patch_px": vision.whole("patch_size", 16),
        "image_px": vision.whole("image_size", 1024),
        "neck_width": vision.whole("output_channels", 256),
        "window": vision.whole("window_size", 14),
        "global_blocks": tuple(sorted(set(blocks))),
    }
