"""U-2-Net: U-Nets within a U-Net tell what is salient (arXiv:2005.09007; upstream model/u2net.py).

A residual U-block (RSU) of height L is a U-Net of L layers that halves its map L - 2 times;
"RSU-4F" keeps the size and dilates instead. Six of them make an encoder, five a decoder, and each
size gives a map of its own; one more is made of these six.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from esam_jax.config import ComputeConfig, U2NetConfig
from esam_jax.models.parts.batch_norm import BatchNorm
from esam_jax.models.parts.layers import XAVIER, precision
from esam_jax.ops import positions
from esam_jax.typing import Params

_DILATED = 4  # layers of an RSU-4F
MAPS = 7


class Rsu(nn.Module):
    """A map to one of `width` channels: {enter, down_1.., up_1..}, a `_norm` beside each layer.

    `height` layers go down, each to half the size of the one before but for the last, which dilates
    by 2; without a height there are four, which dilate by 1, 2, 4 and 8 instead. Each layer up sees
    the one below it beside that of its own size. All of `inner` channels but the outermost.
    """

    inner: int
    width: int
    height: int | None = None
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, x_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B H W D"]:
        height, compute = self.height or _DILATED, self.compute

        def layer(x: Any, width: int, name: str, dilation: int) -> Any:
            x = convolution(width, 3, compute, name, dilation)(x)
            return nn.relu(BatchNorm(compute, name=f"{name}_norm")(x)[0])

        def dilation(level: int) -> int:
            if self.height is None:
                return 2 ** (level - 1)
            return 2 if level == height else 1

        entered = layer(x_BHWC, self.width, "enter", 1)
        seen, x = [], entered
        for level in range(1, height + 1):
            if self.height is not None and 1 < level < height:
                x = halved(x)
            x = layer(x, self.inner, f"down_{level}", dilation(level))
            seen.append(x)
        x = seen.pop()
        for level in range(height - 1, 0, -1):
            beside = seen.pop()
            x = jnp.concatenate([like(x, beside), beside], axis=-1)
            width = self.inner if level > 1 else self.width
            x = layer(x, width, f"up_{level}", dilation(level))
        return x + entered


class U2Net(nn.Module):
    """Logits of seven maps: {encoder_1..6, decoder_5..1, side_1..6, fuse}.

    The first, of all the others, is what the network answers; the others are those of the six
    sizes, the finest first. Upstream gives their sigmoids. Pixels as `ops.images.normalise` gives
    them, of any size.
    """

    config: U2NetConfig
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, pixels_BHW3: Float[Array, "B H W 3"]) -> Float[Array, "B H W 7"]:
        cfg, compute = self.config, self.compute
        heights = (*cfg.heights, None, None)
        seen, x = [], pixels_BHW3
        for i, (inner, width) in enumerate(zip(cfg.inner, cfg.widths), 1):
            x = halved(x) if i > 1 else x
            x = Rsu(inner, width, heights[i - 1], compute, name=f"encoder_{i}")(x)
            seen.append(x)
        found = [seen.pop()]
        for inner, width in zip(cfg.inner[len(cfg.widths) :], cfg.up_widths, strict=True):
            i, beside = len(seen), seen.pop()
            x = jnp.concatenate([like(found[0], beside), beside], axis=-1)
            x = Rsu(inner, width, heights[i - 1], compute, name=f"decoder_{i}")(x)
            found.insert(0, x)
        sides = [
            like(convolution(1, 3, compute, f"side_{i}")(each), pixels_BHW3)
            for i, each in enumerate(found, 1)
        ]
        sides = jnp.concatenate(sides, axis=-1)
        fused = convolution(1, 1, compute, "fuse")(sides)
        return jnp.concatenate([fused, sides], axis=-1).astype(jnp.float32)


def convolution(
    width: int, side: int, compute: ComputeConfig, name: str, dilation: int = 1
) -> nn.Conv:
    """Convolution that keeps the size: {kernel, bias}."""
    return nn.Conv(
        width,
        (side, side),
        kernel_dilation=dilation,
        padding=dilation * (side // 2),
        dtype=jnp.dtype(compute.dtype),
        precision=precision(compute),
        kernel_init=XAVIER,
        name=name,
    )


def halved(x_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B _ _ C"]:
    """The largest of every 2 x 2; a last row or column without a partner stays alone."""
    rest: Any = [(0, side % 2) for side in x_BHWC.shape[1:3]]
    return nn.max_pool(x_BHWC, (2, 2), (2, 2), rest)


def like(
    x_BhwC: Float[Array, "B h w C"], other: Float[Array, "B H W _"]
) -> Float[Array, "B H W C"]:
    """The map brought to the size of another one, bilinear."""
    return positions.bilinear_resize(x_BhwC, *other.shape[1:3])


def init(config: U2NetConfig, rng: Key[Array, ""]) -> Params:
    """Every parameter of the model, freshly drawn; under `jax.jit` nothing else is computed."""
    return U2Net(config).init(rng, jnp.zeros((1, 32, 32, 3)))["params"]


def thin(config: U2NetConfig) -> tuple[U2NetConfig, dict[str, list[int]]]:
    """The same: no two of its stages are alike."""
    return config, {}
