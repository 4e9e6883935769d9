"""Floating-point operations of a forward pass, counted in its jaxpr; by formula where that errs.

One multiplication with its addition counts two. Only products are counted: norms, activations and
softmaxes are a few percent of small networks and less of large ones. Nothing is compiled, computed
or allocated. Two encoders keep a formula: SAM's, whose relative positions are one-hot channels in
its products, and TinyViT's, whose depthwise convolutions are sums of shifted maps.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from esam_jax.config import (
    ComputeConfig,
    DecoderConfig,
    EncoderConfig,
    SamConfig,
    SamVitConfig,
    TinyVitConfig,
)
from esam_jax.models.sam import network

# A fused kernel is opaque, and chunks may be padded: the plain products are what is counted.
PLAIN = ComputeConfig(attention="xla")


def count(function: Callable[..., Any], *arguments: Any) -> int:
    """Of one call with these arguments, which may be abstract."""
    return _products(jax.make_jaxpr(function)(*arguments).jaxpr)


def _products(jaxpr: core.Jaxpr) -> int:
    """Of the matrix products and convolutions, inner programs included."""
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        inner = [_products(each) for each in core.jaxprs_in_params(params)]
        if name == "scan":
            total += params["length"] * sum(inner)
        else:
            total += max(inner, default=0) if name == "cond" else sum(inner)
        if name not in ("dot_general", "conv_general_dilated"):
            continue
        left, right, out = (_array(v) for v in (*equation.invars, *equation.outvars))
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            total += 2 * out.size * math.prod(left.shape[i] for i in contracted)
        else:
            channels = right.shape[params["dimension_numbers"].rhs_spec[0]]
            total += 2 * out.size * (right.size // channels)
    return total


def _array(variable: Any) -> Any:
    return variable.aval


def attention(queries: int, keys: int, width: int) -> int:
    """Scores and mixtures of all heads together, which are `width` channels wide."""
    return 4 * queries * keys * width


def linear(rows: int, wide: int, out: int) -> int:
    return 2 * rows * wide * out


def encoder(config: EncoderConfig, image_px: int) -> int:
    """Image encoder with its neck, on one square image."""
    if isinstance(config, TinyVitConfig):
        return _tiny_vit(config, image_px)
    if isinstance(config, SamVitConfig):
        cells = (image_px // config.patch_px) ** 2
        return sam_vit_trunk(config, image_px) + neck(config, cells, config.width)
    return _counted_encoder(config, image_px)


def miscounted(config: EncoderConfig) -> int:
    """What `encoder` says on one image of the config's size, less what is counted in its jaxpr."""
    exact = isinstance(config, SamVitConfig | TinyVitConfig)
    px = config.image_px
    return encoder(config, px) - _counted_encoder(config, px) if exact else 0


def mask_decoder(config: SamConfig, prompts: int, points: int) -> int:
    """Prompt encoder and mask decoder on `prompts` of `points` slots each; shared work once."""
    model, grid = network.Sam(config, PLAIN), config.encoder.grid
    return count(
        lambda params, *inputs: model.apply({"params": params}, *inputs, method="decode"),
        _params(config),
        jax.ShapeDtypeStruct((1, grid, grid, config.decoder.width), jnp.float32),
        jax.ShapeDtypeStruct((1, prompts, points, 2), jnp.float32),
        jax.ShapeDtypeStruct((1, prompts, points), jnp.int32),
    )


@functools.cache
def _params(config: SamConfig) -> Any:
    return jax.eval_shape(functools.partial(network.init, config), jax.random.key(0))


@functools.cache
def _counted_encoder(config: EncoderConfig, image_px: int) -> int:
    decoder = DecoderConfig(wiring="efficientsam", width=config.neck_width)
    whole = SamConfig(encoder=config, decoder=decoder)
    model = network.Sam(whole, PLAIN)
    pixels = jax.ShapeDtypeStruct((1, image_px, image_px, 3), jnp.float32)
    shapes = _params(whole)
    return count(
        lambda params, x: model.apply({"params": params}, x, method="encode"), shapes, pixels
    )


# ------------------------------------------------------------------------------ by formula


def sam_vit_trunk(config: SamVitConfig, image_px: int) -> int:
    """SAM's trunk; windows are padded, and their padding is worked on like any other cell."""
    D, side = config.width, image_px // config.patch_px
    tokens = side**2
    windows = math.ceil(side / config.window) ** 2
    total = linear(tokens, 3 * config.patch_px**2, D)
    for i in range(config.depth):
        if i in config.global_blocks:
            number, each = 1, side
        else:
            number, each = windows, config.window
        rows = number * each**2
        relative = 2 * rows * D * 2 * each  # every query with one vector for each row and column
        total += linear(rows, D, 4 * D) + number * attention(each**2, each**2, D) + relative
        total += linear(tokens, D, 2 * config.mlp_ratio * D)
    return total


def neck(config: EncoderConfig, cells: int, width: int) -> int:
    """A product of each cell, and a 3x3 convolution."""
    C = config.neck_width
    return linear(cells, width, C) + linear(cells, 9 * C, C)


def _tiny_vit(config: TinyVitConfig, image_px: int) -> int:
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


def _depthwise(cells: int, channels: int) -> int:
    return 2 * 9 * cells * channels
