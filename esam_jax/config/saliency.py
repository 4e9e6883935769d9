"""What a saliency network is; travels with its weights."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from esam_jax.config.rules import Config, each, few, within

_WIDEST = 4096  # channels; U-2-Net has 512
_STAGES = 6
_Widths = Annotated[tuple[int, ...], few(2 * _STAGES - 1), each(within(1, _WIDEST))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class U2NetConfig(Config):
    """U-2-Net (arXiv:2005.09007; upstream model/u2net.py): six encoder stages, five of a decoder.

    A stage is a small U-Net: `widths` are the channels that the encoder's give, `inner` those
    within each of the encoder, then of the decoder, from the deepest up. A decoder stage gives as
    many as the encoder stage that comes above it, the last as many as the first of all.
    """

    kind: ClassVar[Literal["u2net"]] = "u2net"
    widths: _Widths
    inner: _Widths

    image_px: ClassVar[int] = 320  # of the square that the released weights were measured on
    heights: ClassVar[tuple[int, ...]] = (7, 6, 5, 4)  # of stages 1 to 4; 5 and 6 only dilate
    widest_layer: ClassVar[int] = 0  # nothing grows with the size of pictures, which is fixed

    def across(self) -> Iterator[tuple[str, str]]:
        for name, count in (("widths", _STAGES), ("inner", 2 * _STAGES - 1)):
            if len(getattr(self, name)) != count:
                yield name, f"must have {count} values"

    @property
    def up_widths(self) -> tuple[int, ...]:
        """Channels that the stages of the decoder give, from the deepest up."""
        return (*self.widths[-3::-1], self.widths[0])

    @property
    def depth(self) -> int:
        """Stages in all."""
        return len(self.inner)

    @property
    def least_weights(self) -> int:
        """Of the convolutions of 3 x 3, but for those that stages of the decoder begin with."""
        heights = (*self.heights, self.heights[-1], self.heights[-1])
        heights += heights[-2::-1]
        outer = (*self.widths, *self.up_widths)
        first = sum(9 * above * width for above, width in itertools.pairwise(self.widths))
        return first + sum(
            9 * inner * (3 * width + (3 * height - 5) * inner)
            for inner, width, height in zip(self.inner, outer, heights, strict=True)
        )

    @property
    def encoder(self) -> "U2NetConfig":
        """What a picture goes into: all of it."""
        return self
