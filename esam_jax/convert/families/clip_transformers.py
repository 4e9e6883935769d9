"""CLIP's checkpoints in the names of Hugging Face transformers (`CLIPModel`; model.safetensors).

Query, key and value have a tensor each, and the two projections lie the other way round. The norm
before the image encoder's blocks is called `pre_layrnorm` there.
"""

from collections.abc import Iterator

from esam_jax.config import ClipConfig
from esam_jax.convert.families import clip, clip_transformers_config
from esam_jax.convert.families.family import Family, Library, State, count, size
from esam_jax.convert.table import LINEAR, PATCHES, SAME, Link, Row, affine, attention, norm

_V, _T = "vision_model", "text_model"


def _blocks(torch: str, params: str) -> tuple[Row, ...]:
    return (
        *norm(f"{torch}.layer_norm1", f"{params}/attn_norm"),
        *attention(f"{torch}.self_attn", f"{params}/attn"),
        *norm(f"{torch}.layer_norm2", f"{params}/mlp_norm"),
        *affine(f"{torch}.mlp.fc1", f"{params}/mlp/hidden"),
        *affine(f"{torch}.mlp.fc2", f"{params}/mlp/out"),
    )


IMAGE: tuple[Row, ...] = (
    Row(f"{_V}.embeddings.patch_embedding.weight", "encoder/patch_embed/kernel", PATCHES),
    Row(f"{_V}.embeddings.class_embedding", "encoder/class_token", SAME),
    Row(f"{_V}.embeddings.position_embedding.weight", "encoder/positions", SAME),
    *norm(f"{_V}.pre_layrnorm", "encoder/pre_norm"),
    *_blocks(f"{_V}.encoder.layers.{{block}}", "encoder/block_{block}"),
    *norm(f"{_V}.post_layernorm", "encoder/norm"),
    Row("visual_projection.weight", "encoder/project/kernel", LINEAR),
)

TEXT: tuple[Row, ...] = (
    Row(f"{_T}.embeddings.token_embedding.weight", "text/words", SAME),
    Row(f"{_T}.embeddings.position_embedding.weight", "text/positions", SAME),
    *_blocks(f"{_T}.encoder.layers.{{block}}", "text/block_{block}"),
    *norm(f"{_T}.final_layer_norm", "text/norm"),
    Row("text_projection.weight", "text/project/kernel", LINEAR),
    Row("logit_scale", "logit_scale", SAME),
)


def _links(config: ClipConfig) -> Iterator[Link]:
    return clip.towers(IMAGE, TEXT, config)


def _detect(state: State) -> ClipConfig:
    return clip.of_sizes(
        width=size(state, f"{_V}.embeddings.class_embedding", 0),
        depth=count(state, f"{_V}.encoder.layers."),
        patch_px=size(state, f"{_V}.embeddings.patch_embedding.weight", -1),
        slots=size(state, f"{_V}.embeddings.position_embedding.weight", 0),
        text_width=size(state, f"{_T}.final_layer_norm.weight", 0),
        text_depth=count(state, f"{_T}.encoder.layers."),
        embed_width=size(state, "text_projection.weight", 0),
    )


FAMILY = Family(
    name="clip_transformers",
    about="CLIP, as transformers' CLIPModel names it",
    marks=(f"{_V}.embeddings.class_embedding", f"{_T}.embeddings.token_embedding.weight"),
    detect=_detect,
    links=_links,
    refuses=clip.refuses,
    # Of files that transformers wrote before 4.31: they count up from 0.
    repeated=(f"{_V}.embeddings.position_ids", f"{_T}.embeddings.position_ids"),
    layout="transformers",
    library=Library(
        model_type="clip",
        names=clip_transformers_config.NAMES,
        from_config=clip_transformers_config.from_config_json,
        files=clip_transformers_config.files,
    ),
    golden=clip.golden,
    licence="MIT",
)
