"""The JSON files in a folder of transformers' `CLIPModel`, read and written.

What its config can say and our network does not compute is refused by name. The files of the
tokenizer are not written: `CLIPTokenizer.from_pretrained` finds them at any CLIP of OpenAI's.
"""

from typing import Any

from esam_jax.config import ClipConfig, TextConfig, VitConfig
from esam_jax.convert.families.library_section import Section
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.ops import images

NAMES = _CONFIG_FILE, _PROCESSOR_FILE = ("config.json", "preprocessor_config.json")

_VISION, _TEXT = "vision_config", "text_config"
_LEGACY_END = 2  # of files before 4.24: the largest token is the end, whatever its number
_END = TextConfig.vocabulary - 1

# Section -> key -> the values that name what our network computes (`Section`).
_FIXED: dict[str, dict[str, tuple[Any, ...]]] = {
    _VISION: {"hidden_act": ("quick_gelu",), "layer_norm_eps": (1e-5,), "num_channels": (3,)},
    _TEXT: {
        "hidden_act": ("quick_gelu",),
        "layer_norm_eps": (1e-5,),
        "max_position_embeddings": (TextConfig.context,),
        "vocab_size": (TextConfig.vocabulary,),
        "eos_token_id": (_END, _LEGACY_END),
    },
}


def config_json(config: ClipConfig, dtype: str = "float32") -> dict[str, Any]:
    """What `config.json` beside a model.safetensors must hold for `CLIPModel.from_pretrained`.

    `dtype` names the numbers of the tensors.
    """
    fixed = {section: {k: v[0] for k, v in keys.items()} for section, keys in _FIXED.items()}
    encoder, text = config.encoder, config.text
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "dtype": dtype,
        "projection_dim": config.embed_width,
        _VISION: {
            "model_type": "clip_vision_model",
            **fixed[_VISION],
            **_transformer(encoder),
            "image_size": encoder.image_px,
            "patch_size": encoder.patch_px,
            "projection_dim": config.embed_width,
        },
        _TEXT: {
            "model_type": "clip_text_model",
            **fixed[_TEXT],
            **_transformer(text),
            "projection_dim": config.embed_width,
            "bos_token_id": _END - 1,
            "pad_token_id": _END,
        },
    }


def _transformer(half: VitConfig | TextConfig) -> dict[str, int]:
    return {
        "hidden_size": half.width,
        "intermediate_size": half.mlp_ratio * half.width,
        "num_attention_heads": half.heads,
        "num_hidden_layers": half.depth,
    }


def preprocessor_json(config: ClipConfig) -> dict[str, Any]:
    """What `preprocessor_config.json` must hold for `CLIPImageProcessor.from_pretrained`."""
    side = config.encoder.image_px
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": 3,  # PIL's bicubic
        "size": {"shortest_edge": side},
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": images.CLIP_MEAN.tolist(),
        "image_std": images.CLIP_STD.tolist(),
    }


def files(config: ClipConfig, dtype: str) -> dict[str, Any]:
    """The JSON files beside the weights, by name."""
    return {
        _CONFIG_FILE: config_json(config, dtype),
        _PROCESSOR_FILE: preprocessor_json(config),
    }


def from_config_json(value: Any) -> ClipConfig:
    """The config that transformers' `config.json` describes, head counts included.

    A key that is absent or null has transformers' default; one that we know of no use for is
    passed over. CheckpointError names the first value that is off.
    """
    if not isinstance(value, dict) or value.get("model_type") != "clip":
        raise CheckpointError(
            "this config.json is not of transformers' CLIPModel (model_type clip)"
        )
    vision, text = (Section(value, name, _FIXED) for name in (_VISION, _TEXT))
    for section in (vision, text):
        section.check_fixed()
    whole = Section({"config": value}, "config", {"config": {}})
    px = vision.whole("image_size", 224)
    try:
        return ClipConfig(
            encoder=VitConfig(
                **_sizes(vision, 768, 12),
                patch_px=vision.whole("patch_size", 32),
                image_px=px,
                pretrain_px=px,
            ),
            text=TextConfig(**_sizes(text, 512, 8)),
            embed_width=whole.whole("projection_dim", 512),
        )
    except ConfigError as error:
        raise CheckpointError(f"config.json is invalid: {error}") from error


def _sizes(section: Section, width: int, heads: int) -> dict[str, int]:
    """Width, heads and depth, where the MLP is four times as wide; with transformers' defaults."""
    found = section.whole("hidden_size", width)
    mlp_width, wanted = section.whole("intermediate_size", 4 * width), 4 * found
    if mlp_width != wanted:
        section.refuse("intermediate_size", mlp_width, f"{wanted}, four times hidden_size={found}")
    return {
        "width": found,
        "heads": section.whole("num_attention_heads", heads),
        "depth": section.whole("num_hidden_layers", 12),
    }
