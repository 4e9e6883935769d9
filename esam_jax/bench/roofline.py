"""The least time that a device can take, kernel by kernel: the larger of work and traffic.

Every kernel takes its operations at the peak rate, or its numbers, each read and written once, at
the peak bandwidth. Numbers have 16 bits, and weights are shared by a batch so large that reading
them costs nothing. Norms are kernels of their own; activations and residuals are part of the
product before them. Attention is charged its products and, on a GPU, its exponentials besides. On a
TPU the sides of a product are filled up to the matrix unit. A network in float32 is held against
the same floor: it says what the device could do, not what the type allows.
"""

from esam_jax.config import SamConfig, VitConfig
from esam_jax.machine.accelerators import Accelerator
from esam_jax.models import flops

_BYTES = 2

# 16 a cycle on each multiprocessor: 108 at 1.41 GHz, 132 at 1.83 GHz.
_EXPONENTIALS = {
    "a100-40": 108 * 16 * 1.41e9,
    "a100": 108 * 16 * 1.41e9,
    "h100": 132 * 16 * 1.83e9,
    "h200": 132 * 16 * 1.83e9,
}
_MATRIX_UNIT = {"v4": 128, "v5e": 128, "v5p": 128, "v6e": 256}


def encoder(config: SamConfig, sheet: Accelerator) -> float:
    """Seconds a picture. Of SAM's and MobileSAM's encoders the operations alone are counted."""
    vit, N = config.encoder, config.encoder.grid**2
    if not isinstance(vit, VitConfig):
        return flops.encoder(vit, config.image_px) / sheet.flops
    D, C, F = vit.width, vit.neck_width, vit.mlp_ratio * vit.width
    patch = 3 * vit.patch_px**2
    block = (
        2 * _traffic(sheet, 2 * N * D)
        + _product(sheet, N, D, 3 * D)
        + _attention(sheet, N, vit.heads, D // vit.heads)
        + _product(sheet, N, D, D, residual=D)
        + _product(sheet, N, D, F)
        + _product(sheet, N, F, D, residual=D)
    )
    smooth = max(flops.linear(N, 9 * C, C) / sheet.flops, _traffic(sheet, 2 * N * C))
    neck = _product(sheet, N, D, C) + smooth + 2 * _traffic(sheet, 2 * N * C)
    return _product(sheet, N, patch, D) + vit.depth * block + neck


def decoder(config: SamConfig, sheet: Accelerator, prompts: int, points: int = 2) -> float:
    """Seconds for the prompts of one picture, each operation a kernel: all of it, or all traffic.

    The image side of a prompt is read or written twice in the first block, whose projections all
    prompts share, 7 times in each further one, 3 times in the last look and 9 times in the
    upscaling; then the logits are written.
    """
    cfg, N = config.decoder, config.encoder.grid**2
    passes = 2 + 7 * (cfg.depth - 1) + 3 + 9
    numbers = passes * N * cfg.width + 16 * N * cfg.mask_tokens
    work = flops.mask_decoder(config, prompts, points) / sheet.flops
    return max(work, _traffic(sheet, prompts * numbers))


def whole(config: SamConfig, sheet: Accelerator, prompts: int) -> float:
    """Seconds a picture: encoder, decoder, and the candidates at full size.

    These count as float32 logits, although a program that fuses the threshold writes less.
    """
    masks = prompts * (config.decoder.mask_tokens - 1)
    enlarging = 4 * masks * config.image_px**2 / sheet.bandwidth
    return encoder(config, sheet) + decoder(config, sheet, prompts) + enlarging


def _product(sheet: Accelerator, rows: int, wide: int, out: int, residual: int = 0) -> float:
    unit = _MATRIX_UNIT.get(sheet.name, 1)
    work = flops.linear(rows, _filled(wide, unit), _filled(out, unit)) / sheet.flops
    return max(work, _traffic(sheet, rows * (wide + out + residual)))


def _attention(sheet: Accelerator, tokens: int, heads: int, head_dim: int) -> float:
    width = heads * _filled(head_dim, _MATRIX_UNIT.get(sheet.name, 1))
    seconds = flops.attention(tokens, tokens, width) / sheet.flops
    rate = _EXPONENTIALS.get(sheet.name)
    return seconds if rate is None else seconds + heads * tokens**2 / rate


def _traffic(sheet: Accelerator, numbers: int) -> float:
    return _BYTES * numbers / sheet.bandwidth


def _filled(size: int, unit: int) -> int:
    return size + -size % unit
