"""What a network computes on a device, kernel by kernel: the vocabulary in which encoders list it.

Numbers are counted for one picture. `bench/roofline.py` gives them a time.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Product:
    """[rows, wide] times [wide, out]; a residual of `residual` columns is read with it."""

    rows: int
    wide: int
    out: int
    residual: int = 0


@dataclasses.dataclass(frozen=True)
class Attention:
    """All tokens to each other, in heads of the given width."""

    tokens: int
    heads: int
    head_dim: int


@dataclasses.dataclass(frozen=True)
class Convolution:
    """3x3, with as many channels out as in."""

    cells: int
    channels: int


@dataclasses.dataclass(frozen=True)
class Pass:
    """So many numbers, read and written once: a norm, for one."""

    numbers: int


Kernel = Product | Attention | Convolution | Pass
