"""The least time that a device can take, kernel by kernel: the larger of work and traffic.

Every kernel takes its operations at the peak rate, or its numbers, each read and written once, at
the peak bandwidth. Numbers have 16 bits, and weights are shared by a batch so large that reading
them costs nothing. Norms are kernels of their own; activations and residuals are part of the
product before them. Attention counts its products and, on a GPU, also its exponentials. On a
TPU the sides of a product are filled up to the matrix unit. A network in float32 is
compared with the same floor, which is a limit of the device and not of the type.
"""

from esam_jax.config import SamConfig
from esam_jax.machine.accelerators import Accelerator
from esam_jax.models import encoders, flops
from esam_jax.models.parts.kernels import Attention, Convolution, Kernel, Pass, Product

_BYTES = 2

_MATRIX_UNIT = {"v4": 128, "v5e": 128, "v5p": 128, "v6e": 256}


def encoder(config: SamConfig, sheet: Accelerator) -> float:
    """Seconds a picture. Where an encoder lists no kernels, its operations alone are counted."""
    listed = encoders.kernels(config.encoder)
    if listed is None:
        return flops.encoder(config.encoder, config.image_px) / sheet.flops
    return sum(_seconds(kernel, sheet) for kernel in listed)


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


def end_to_end(config: SamConfig, sheet: Accelerator, prompts: int) -> float:
    """Seconds a picture: encoder, decoder, and the candidates at full size.

    These count as float32 logits, although a program that fuses the threshold writes less.
    """
    masks = prompts * (config.decoder.mask_tokens - 1)
    enlarging = 4 * masks * config.image_px**2 / sheet.bandwidth
    return encoder(config, sheet) + decoder(config, sheet, prompts) + enlarging


def _seconds(kernel: Kernel, sheet: Accelerator) -> float:
    unit = _MATRIX_UNIT.get(sheet.name, 1)
    match kernel:
        case Product(rows, wide, out, residual):
            work = flops.linear(rows, _filled(wide, unit), _filled(out, unit)) / sheet.flops
            return max(work, _traffic(sheet, rows * (wide + out + residual)))
        case Attention(tokens, heads, head_dim):
            width = heads * _filled(head_dim, unit)
            seconds = flops.attention(tokens, tokens, width) / sheet.flops
            rate = sheet.exponentials
            return seconds if rate is None else seconds + heads * tokens**2 / rate
        case Convolution(cells, channels):
            work = flops.linear(cells, 9 * channels, channels) / sheet.flops
            return max(work, _traffic(sheet, 2 * cells * channels))
        case Pass(numbers):
            return _traffic(sheet, 2 * numbers)


def _traffic(sheet: Accelerator, numbers: int) -> float:
    return _BYTES * numbers / sheet.bandwidth


def _filled(size: int, unit: int) -> int:
    return size + -size % unit
