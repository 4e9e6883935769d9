"""Floating-point operations of each network's forward pass, by formula; one image.

One multiplication with its addition counts two. Only products are counted: norms, activations and
softmaxes are a few percent of small networks and less of large ones. What a kernel does beside the
mathematics (padded heads, recomputation, one-hot channels for relative positions) is not counted.
"""

import math

from esam_jax.config import (
    DecoderConfig,
    EncoderConfig,
    PretrainDecoderConfig,
    SamConfig,
    SamVitConfig,
    TinyVitConfig,
    VitConfig,
)


def attention(queries: int, keys: int, width: int) -> int:
    """Scores and mixtures of all heads together, which are `width` channels wide."""
    return 4 * queries * keys * width


def linear(rows: int, wide: int, out: int) -> int:
    return 2 * rows * wide * out


def vit_trunk(config: VitConfig, tokens: int, *, patches: int | None = None) -> int:
    """Patch embedding of `patches` (default: of every token) and all blocks over `tokens`."""
    D, patches = config.width, tokens if patches is None else patches
    embed = linear(patches, 3 * config.patch_px**2, D)
    block = _block(tokens, D, config.mlp_ratio) + attention(tokens, tokens, D)
    return embed + config.depth * block


def sam_vit_trunk(config: SamVitConfig, image_px: int) -> int:
    """SAM's trunk; windows are padded, and their padding is worked on like any other cell."""
    D, side = config.width, image_px // config.patch_px
    tokens = side**2
    windows = math.ceil(side / config.window) ** 2
    total = linear(tokens, 3 * config.patch_px**2, D)
    for i in range(config.depth):
        if i in config.global_blocks:
            count, each = 1, side
        else:
            count, each = windows, config.window
        rows = count * each**2
        relative = 2 * rows * D * 2 * each  # every query with one vector for each row and column
        total += linear(rows, D, 4 * D) + count * attention(each**2, each**2, D) + relative
        total += linear(tokens, D, 2 * config.mlp_ratio * D)
    return total


def neck(config: EncoderConfig, cells: int, width: int) -> int:
    """A product of each cell, and a 3x3 convolution."""
    C = config.neck_width
    return linear(cells, width, C) + linear(cells, 9 * C, C)


def tiny_vit(config: TinyVitConfig, image_px: int) -> int:
    """MobileSAM's encoder with its neck."""
    widths, side = config.widths, image_px // 2
    total = linear(side**2, 9 * 3, widths[0] // 2)
    side //= 2
    total += linear(side**2, 9 * widths[0] // 2, widths[0])
    for i, width in enumerate(widths):
        cells, inner = side**2, 4 * width
        if i == 0:
            each = linear(cells, width, 2 * inner) + _depthwise(cells, inner)
        else:
            window = config.windows[i]
            windows = math.ceil(side / window) ** 2
            each = linear(windows * window**2, width, 4 * width)
            each += windows * attention(window**2, window**2, width)
            each += linear(cells, width, 2 * config.mlp_ratio * width) + _depthwise(cells, width)
        total += config.depths[i] * each
        if i < len(widths) - 1:
            following = widths[i + 1]
            halved = side if i == len(widths) - 2 else side // 2
            total += linear(cells, width, following) + _depthwise(halved**2, following)
            total += linear(halved**2, following, following)
            side = halved
    return total + neck(config, side**2, widths[-1])


def encoder(config: EncoderConfig, image_px: int) -> int:
    """Image encoder with its neck, on a square image."""
    if isinstance(config, TinyVitConfig):
        return tiny_vit(config, image_px)
    cells = (image_px // config.patch_px) ** 2
    if isinstance(config, VitConfig):
        trunk = vit_trunk(config, cells)
    else:
        trunk = sam_vit_trunk(config, image_px)
    return trunk + neck(config, cells, config.width)


def sami_decoder(
    config: PretrainDecoderConfig, encoder_width: int, target_width: int, visible: int, masked: int
) -> int:
    """SAMI's decoder with the maps in front of it and behind it."""
    E, tokens = config.width, visible + masked
    block = linear(masked, E, 2 * E) + linear(tokens, E, 2 * E)  # query and out; key and value
    block += attention(masked, tokens, E) + linear(masked, E, 2 * config.mlp_ratio * E)
    ends = linear(visible, encoder_width, E) + linear(tokens, E, target_width)
    return ends + config.depth * block


def mask_decoder(config: SamConfig, prompts: int, points: int) -> int:
    """Mask decoder on `prompts` of `points` slots each; what they share is counted once.

    The image side of the first block's attention, keys and values and queries alike, is the same
    for all prompts as long as none has a mask.
    """
    cfg, N = config.decoder, config.encoder.grid**2
    C, half = cfg.width, cfg.width // 2
    slots = cfg.point_slots if cfg.traits.fixed_slots else points
    T = 1 + cfg.mask_tokens + slots
    total = 0
    for i in range(cfg.depth):
        shared = 1 if i == 0 else prompts
        total += shared * 3 * linear(N, C, half)  # key, value; then query the other way around
        total += prompts * linear(N, half, C)
        total += prompts * _two_way_tokens(cfg, T, N)
    total += prompts * (2 * linear(N, C, half) + 2 * linear(T, C, half) + attention(T, N, half))
    positions = (2 * cfg.depth + 1) * linear(N, C, half)  # of the grid, once for all prompts
    return total + positions + prompts * _read_out(cfg, N)


def _two_way_tokens(cfg: DecoderConfig, T: int, N: int) -> int:
    """What a block does with the tokens, and both looks between them and the image."""
    C, half = cfg.width, cfg.width // 2
    own = linear(T, C, 4 * C) + attention(T, T, C) + linear(T, C, 2 * cfg.mlp_width)
    looks = 2 * attention(T, N, half) + 4 * linear(T, C, half)
    return own + looks


def _read_out(cfg: DecoderConfig, N: int) -> int:
    """Upscaling to 16 sub-cells, hypernetworks, masks and predicted IoU of one prompt."""
    C, M = cfg.width, cfg.mask_tokens
    upscale = linear(N, C, 4 * (C // 4)) + linear(4 * N, C // 4, 4 * (C // 8))
    heads = M * (linear(2, C, C) + linear(1, C, C // 8))
    iou = linear(1, C, cfg.iou_width) + linear(1, cfg.iou_width, cfg.iou_width + M)
    return upscale + heads + linear(16 * N, C // 8, M) + iou


def _block(tokens: int, width: int, mlp_ratio: int) -> int:
    """Projections and MLP of a transformer block."""
    return linear(tokens, width, (4 + 2 * mlp_ratio) * width)


def _depthwise(cells: int, channels: int) -> int:
    return 2 * 9 * cells * channels
