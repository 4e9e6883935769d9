"""Rows of a family's table: PyTorch's tensors <-> our parameters, both directions from one line.

A row names both sides and how their axes correspond, as two einops patterns; each tensor keeps
every value, so both directions are exact. The tables themselves are in the file of each family.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

import einops
import numpy as np

SAME = "... -> ..."
LINEAR = "o i -> i o"
CONV = "o i r c -> r c i o"
PATCHES = "o c p q -> (p q c) o"  # a convolution whose strides are its size, as a linear map


@dataclasses.dataclass(frozen=True)
class Row:
    """`torch` <-> `params`, axes named by `layout` ("torch pattern -> parameter pattern").

    A number in braces, `{block}`, stands for a run of rows: `counts` of `links` says how many. In
    `params` it has two digits. `{m}` counts mask tokens, whose tensors are stacked on an axis m.
    `(a|b|c)` names three parameters that share one tensor, on an axis n. Letters whose size shapes
    do not determine are those of `sizes`.
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
        """The tensors of `torch` as the arrays of `params`: views of them wherever that can be."""
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


def links(
    rows: Iterable[Row], counts: Mapping[str, int], sizes: Mapping[str, int]
) -> Iterator[Link]:
    """Every correspondence of one model: the rows, each repeated as often as its number runs."""
    for row in rows:
        counter = re.search(r"\{(\w\w+)\}", row.torch)
        for number in range(counts[counter[1]] if counter else 1):
            yield _link(row, number, counts.get("m", 1), sizes)


def _link(row: Row, number: int, mask_tokens: int, sizes: Mapping[str, int]) -> Link:
    torch, params = (
        re.sub(r"\{\w\w+\}", text, name)
        for name, text in ((row.torch, str(number)), (row.params, f"{number:02d}"))
    )
    tensors = [torch]
    if "{m}" in torch:
        tensors = [torch.replace("{m}", str(m)) for m in range(mask_tokens)]
    group = re.search(r"\((.+)\)", params)
    names = [params.replace(group[0], one) for one in group[1].split("|")] if group else [params]
    return Link(tuple(tensors), tuple(names), row.layout, sizes)


# ------------------------------------------------------------------- rows that tables share


def affine(torch: str, params: str, layout: str = LINEAR) -> tuple[Row, Row]:
    """Weight and bias of a linear map or a convolution."""
    return (
        Row(f"{torch}.weight", f"{params}/kernel", layout),
        Row(f"{torch}.bias", f"{params}/bias", SAME),
    )


def norm(torch: str, params: str) -> tuple[Row, Row]:
    """Weight and bias of a normalisation."""
    return (
        Row(f"{torch}.weight", f"{params}/scale", SAME),
        Row(f"{torch}.bias", f"{params}/bias", SAME),
    )


def fused_attention(
    torch: str, params: str, qkv: str = "qkv", proj: str = "proj", order: str = "n a k"
) -> list[Row]:
    """Attention of an image encoder, query, key and value in one tensor; a is its heads.

    `order` is that of the fused tensor's rows: by query, key and value first, or by head (a n k).
    """
    ours = f"{params}/(query|key|value)"
    return [
        Row(f"{torch}.{qkv}.weight", f"{ours}/kernel", f"({order}) d -> n d a k"),
        Row(f"{torch}.{qkv}.bias", f"{ours}/bias", f"({order}) -> n a k"),
        *affine(f"{torch}.{proj}", f"{params}/out", "d (a k) -> a k d"),
    ]


def attention(torch: str, params: str) -> list[Row]:
    """One attention of the mask decoder; b is its heads."""
    rows = []
    for theirs, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        rows.append(Row(f"{torch}.{theirs}.weight", f"{params}/{ours}/kernel", "(b k) d -> d b k"))
        rows.append(Row(f"{torch}.{theirs}.bias", f"{params}/{ours}/bias", "(b k) -> b k"))
    rows += affine(f"{torch}.out_proj", f"{params}/out", "d (b k) -> b k d")
    return rows


def mask_head(torch: str, params: str) -> tuple[Row, Row]:
    """One layer of the hypernetworks, which we keep stacked over mask tokens."""
    return (
        Row(f"{torch}.weight", f"{params}/kernel", "m o i -> m i o"),
        Row(f"{torch}.bias", f"{params}/bias", SAME),
    )


def upscale(torch: str, params: str) -> tuple[Row, Row]:
    """A 2x2 transposed convolution of stride 2."""
    return affine(torch, params, "i o y x -> i y x o")
