"""One table a family: PyTorch's tensors <-> our parameters, both directions from the same rows.

A row names both sides and how their axes correspond, as two einops patterns; each tensor keeps
every value, so both directions are exact. Upstream files: EfficientSAM's and segment-anything's
state dicts, whose names and shapes are listed in tests/golden.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping

import einops
import numpy as np

from esam_jax.config import SamConfig


@dataclasses.dataclass(frozen=True)
class Row:
    """`torch` <-> `params`, axes named by `layout` ("torch pattern -> parameter pattern").

    `{i}` counts encoder blocks, `{j}` decoder blocks: one pair for each. `{m}` counts mask tokens:
    their tensors are stacked on an axis m. `(a|b|c)` names three parameters that share one tensor,
    on an axis n. Letters whose size shapes do not tell are those of `_sizes`.
    """

    torch: str
    params: str
    layout: str


@dataclasses.dataclass(frozen=True)
class Link:
    """One row for one block: some tensors <-> some parameters (at least one side is a single)."""

    torch: tuple[str, ...]
    params: tuple[str, ...]
    to_params: str
    sizes: Mapping[str, int]

    def forward(self, tensors: list[np.ndarray]) -> list[np.ndarray]:
        """The tensors of `torch` as the arrays of `params`."""
        return self._apply(tensors, self.to_params, len(self.params))

    def backward(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The arrays of `params` as the tensors of `torch`."""
        left, right = self.to_params.split(" -> ")
        return self._apply(arrays, f"{right} -> {left}", len(self.torch))

    def torch_shape(self, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
        """The shape of each tensor, from the shapes of the parameters."""
        arrays = [np.broadcast_to(np.uint8(0), shape) for shape in shapes]
        return self.backward(arrays)[0].shape

    def _apply(self, arrays: list[np.ndarray], pattern: str, parts: int) -> list[np.ndarray]:
        stacked = np.stack(arrays) if len(arrays) > 1 else arrays[0]
        used = {k: v for k, v in self.sizes.items() if k in re.findall(r"\w+", pattern)}
        out = einops.rearrange(stacked, pattern, **used)
        return [out] if parts == 1 else [out[i] for i in range(parts)]


def links(config: SamConfig) -> Iterator[Link]:
    """Every correspondence of one model."""
    cfg = config.decoder
    rows = list(_SHARED)
    rows += _EFFICIENTSAM if cfg.wiring == "efficientsam" else _SAM
    if cfg.background == "learned":
        rows.append(_BACKGROUND[cfg.wiring])
    if cfg.mask_prompts == "learned":
        rows += _MASK_PROMPTS
    sizes = _sizes(config)
    counts = {"{i}": config.encoder.depth, "{j}": cfg.depth}
    for row in rows:
        counter = next((c for c in counts if c in row.torch), None)
        for number in range(counts[counter] if counter else 1):
            yield _link(row, number, cfg.mask_tokens, sizes)


def _sizes(config: SamConfig) -> dict[str, int]:
    """Axis sizes that a shape alone does not tell: p and q pixels of a patch, x and y of a stem."""
    patch = config.encoder.patch_px
    return {
        "n": 3,
        "a": config.encoder.heads,
        "b": config.decoder.heads,
        "p": patch,
        "q": patch,
        "y": 2,
        "x": 2,
    }


def _link(row: Row, number: int, mask_tokens: int, sizes: Mapping[str, int]) -> Link:
    torch, params = (
        re.sub(r"\{[ij]\}", text, name)
        for name, text in ((row.torch, str(number)), (row.params, f"{number:02d}"))
    )
    tensors = [torch]
    if "{m}" in torch:
        tensors = [torch.replace("{m}", str(m)) for m in range(mask_tokens)]
    group = re.search(r"\((.+)\)", params)
    names = [params.replace(group[0], one) for one in group[1].split("|")] if group else [params]
    return Link(tuple(tensors), tuple(names), row.layout, sizes)


# -------------------------------------------------------------------------------- the tables

_SAME = "... -> ..."
_LINEAR = "o i -> i o"
_QKV = "(query|key|value)"


def _affine(torch: str, params: str, layout: str) -> tuple[Row, Row]:
    """Weight and bias of a linear map or a convolution."""
    return (
        Row(f"{torch}.weight", f"{params}/kernel", layout),
        Row(f"{torch}.bias", f"{params}/bias", _SAME),
    )


def _norm(torch: str, params: str) -> tuple[Row, Row]:
    return (
        Row(f"{torch}.weight", f"{params}/scale", _SAME),
        Row(f"{torch}.bias", f"{params}/bias", _SAME),
    )


def _attention(torch: str, params: str) -> tuple[Row, ...]:
    """One attention of the mask decoder; b is its heads."""
    rows = []
    for theirs, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        rows.append(Row(f"{torch}.{theirs}.weight", f"{params}/{ours}/kernel", "(b k) d -> d b k"))
        rows.append(Row(f"{torch}.{theirs}.bias", f"{params}/{ours}/bias", "(b k) -> b k"))
    rows += _affine(f"{torch}.out_proj", f"{params}/out", "d (b k) -> b k d")
    return tuple(rows)


def _mask_head(torch: str, params: str) -> tuple[Row, Row]:
    """One layer of the hypernetworks, which we keep stacked over mask tokens."""
    return (
        Row(f"{torch}.weight", f"{params}/kernel", "m o i -> m i o"),
        Row(f"{torch}.bias", f"{params}/bias", _SAME),
    )


_IE, _E = "image_encoder", "encoder"
_BLOCK, _OUR_BLOCK = f"{_IE}.blocks.{{i}}", f"{_E}/block_{{i}}"
_LAYER, _OUR_LAYER = "mask_decoder.transformer.layers.{j}", "decoder/two_way/block_{j}"
_HEADS, _OUR_HEADS = "mask_decoder.output_hypernetworks_mlps.{m}", "decoder/mask_heads"
_IOU, _OUR_IOU = "mask_decoder.iou_prediction_head", "decoder/iou_head"

_SHARED: tuple[Row, ...] = (
    *_affine(f"{_IE}.patch_embed.proj", f"{_E}/patch_embed", "o c p q -> (p q c) o"),
    *_norm(f"{_BLOCK}.norm1", f"{_OUR_BLOCK}/attn_norm"),
    Row(f"{_BLOCK}.attn.qkv.weight", f"{_OUR_BLOCK}/attn/{_QKV}/kernel", "(n a k) d -> n d a k"),
    Row(f"{_BLOCK}.attn.qkv.bias", f"{_OUR_BLOCK}/attn/{_QKV}/bias", "(n a k) -> n a k"),
    *_affine(f"{_BLOCK}.attn.proj", f"{_OUR_BLOCK}/attn/out", "d (a k) -> a k d"),
    *_norm(f"{_BLOCK}.norm2", f"{_OUR_BLOCK}/mlp_norm"),
    Row(f"{_IE}.neck.0.weight", f"{_E}/neck/project/kernel", "o i 1 1 -> i o"),
    *_norm(f"{_IE}.neck.1", f"{_E}/neck/project_norm"),
    Row(f"{_IE}.neck.2.weight", f"{_E}/neck/smooth/kernel", "o i r c -> r c i o"),
    *_norm(f"{_IE}.neck.3", f"{_E}/neck/smooth_norm"),
    Row("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "prompt/fourier", _SAME),
    *_attention(f"{_LAYER}.self_attn", f"{_OUR_LAYER}/self_attn"),
    *_norm(f"{_LAYER}.norm1", f"{_OUR_LAYER}/self_norm"),
    *_attention(f"{_LAYER}.cross_attn_token_to_image", f"{_OUR_LAYER}/token_to_image"),
    *_norm(f"{_LAYER}.norm2", f"{_OUR_LAYER}/token_to_image_norm"),
    *_norm(f"{_LAYER}.norm3", f"{_OUR_LAYER}/mlp_norm"),
    *_attention(f"{_LAYER}.cross_attn_image_to_token", f"{_OUR_LAYER}/image_to_token"),
    *_norm(f"{_LAYER}.norm4", f"{_OUR_LAYER}/image_to_token_norm"),
    *_attention("mask_decoder.transformer.final_attn_token_to_image", "decoder/two_way/final_attn"),
    *_norm("mask_decoder.transformer.norm_final_attn", "decoder/two_way/final_norm"),
    Row("mask_decoder.iou_token.weight", "decoder/iou_token", _SAME),
    Row("mask_decoder.mask_tokens.weight", "decoder/mask_tokens", _SAME),
)

_EFFICIENTSAM: tuple[Row, ...] = (
    Row(f"{_IE}.pos_embed", f"{_E}/positions", "1 s d -> s d"),
    *_affine(f"{_BLOCK}.mlp.fc1", f"{_OUR_BLOCK}/mlp/hidden", _LINEAR),
    *_affine(f"{_BLOCK}.mlp.fc2", f"{_OUR_BLOCK}/mlp/out", _LINEAR),
    Row("prompt_encoder.invalid_points.weight", "prompt/padding", _SAME),
    Row("prompt_encoder.point_embeddings.weight", "prompt/foreground", _SAME),
    Row("prompt_encoder.bbox_top_left_embeddings.weight", "prompt/top_left", _SAME),
    Row("prompt_encoder.bbox_bottom_right_embeddings.weight", "prompt/bottom_right", _SAME),
    *_affine(f"{_LAYER}.mlp.layers.0.0", f"{_OUR_LAYER}/mlp/hidden", _LINEAR),
    *_affine(f"{_LAYER}.mlp.fc", f"{_OUR_LAYER}/mlp/out", _LINEAR),
    *_affine(
        "mask_decoder.final_output_upscaling_layers.0.0",
        "decoder/upscale/conv_1",
        "i o y x -> i y x o",
    ),
    *_norm("mask_decoder.final_output_upscaling_layers.0.1", "decoder/upscale/norm"),
    *_affine(
        "mask_decoder.final_output_upscaling_layers.1.0",
        "decoder/upscale/conv_2",
        "i o y x -> i y x o",
    ),
    *_mask_head(f"{_HEADS}.layers.0.0", f"{_OUR_HEADS}/hidden_1"),
    *_mask_head(f"{_HEADS}.layers.1.0", f"{_OUR_HEADS}/hidden_2"),
    *_mask_head(f"{_HEADS}.fc", f"{_OUR_HEADS}/out"),
    *_affine(f"{_IOU}.layers.0.0", f"{_OUR_IOU}/hidden_1", _LINEAR),
    *_affine(f"{_IOU}.layers.1.0", f"{_OUR_IOU}/hidden_2", _LINEAR),
    *_affine(f"{_IOU}.fc", f"{_OUR_IOU}/out", _LINEAR),
)

_SAM: tuple[Row, ...] = (
    Row(f"{_IE}.pos_embed", f"{_E}/positions", "1 h w d -> h w d"),
    Row(f"{_BLOCK}.attn.rel_pos_h", f"{_OUR_BLOCK}/attn/rel_rows", _SAME),
    Row(f"{_BLOCK}.attn.rel_pos_w", f"{_OUR_BLOCK}/attn/rel_cols", _SAME),
    *_affine(f"{_BLOCK}.mlp.lin1", f"{_OUR_BLOCK}/mlp/hidden", _LINEAR),
    *_affine(f"{_BLOCK}.mlp.lin2", f"{_OUR_BLOCK}/mlp/out", _LINEAR),
    Row("prompt_encoder.not_a_point_embed.weight", "prompt/padding", _SAME),
    Row("prompt_encoder.point_embeddings.1.weight", "prompt/foreground", _SAME),
    Row("prompt_encoder.point_embeddings.2.weight", "prompt/top_left", _SAME),
    Row("prompt_encoder.point_embeddings.3.weight", "prompt/bottom_right", _SAME),
    *_affine(f"{_LAYER}.mlp.lin1", f"{_OUR_LAYER}/mlp/hidden", _LINEAR),
    *_affine(f"{_LAYER}.mlp.lin2", f"{_OUR_LAYER}/mlp/out", _LINEAR),
    *_affine("mask_decoder.output_upscaling.0", "decoder/upscale/conv_1", "i o y x -> i y x o"),
    *_norm("mask_decoder.output_upscaling.1", "decoder/upscale/norm"),
    *_affine("mask_decoder.output_upscaling.3", "decoder/upscale/conv_2", "i o y x -> i y x o"),
    *_mask_head(f"{_HEADS}.layers.0", f"{_OUR_HEADS}/hidden_1"),
    *_mask_head(f"{_HEADS}.layers.1", f"{_OUR_HEADS}/hidden_2"),
    *_mask_head(f"{_HEADS}.layers.2", f"{_OUR_HEADS}/out"),
    *_affine(f"{_IOU}.layers.0", f"{_OUR_IOU}/hidden_1", _LINEAR),
    *_affine(f"{_IOU}.layers.1", f"{_OUR_IOU}/hidden_2", _LINEAR),
    *_affine(f"{_IOU}.layers.2", f"{_OUR_IOU}/out", _LINEAR),
)

# EfficientSAM as released has neither of what follows: the names are SAM's, or ours.
_BACKGROUND = {
    "sam": Row("prompt_encoder.point_embeddings.0.weight", "prompt/background", _SAME),
    "efficientsam": Row("prompt_encoder.background_embeddings.weight", "prompt/background", _SAME),
}

_STEM, _OUR_STEM = "prompt_encoder.mask_downscaling", "prompt/mask"

_MASK_PROMPTS: tuple[Row, ...] = (
    Row("prompt_encoder.no_mask_embed.weight", "prompt/no_mask", _SAME),
    *_affine(f"{_STEM}.0", f"{_OUR_STEM}/conv_1", "o c y x -> (y x c) o"),
    *_norm(f"{_STEM}.1", f"{_OUR_STEM}/norm_1"),
    *_affine(f"{_STEM}.3", f"{_OUR_STEM}/conv_2", "o c y x -> (y x c) o"),
    *_norm(f"{_STEM}.4", f"{_OUR_STEM}/norm_2"),
    *_affine(f"{_STEM}.6", f"{_OUR_STEM}/conv_3", "o c 1 1 -> c o"),
)
