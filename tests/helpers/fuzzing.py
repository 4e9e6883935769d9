"""Damage to bytes and to trees of values, drawn at random, and a reading of all that results."""

import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from esam_jax.data import sources
from esam_jax.data.bitmaps import Grid
from esam_jax.data.mask_sets import describe
from esam_jax.errors import EsamError

VALUES: list[Any] = [
    *(None, True, 0, -1, 1, 2, 5, 7, 12, 300, 2**31, 2**63, 10**400, 0.5, -0.0, 1e300),
    *("", "a", "1", "../x", "/etc/passwd", "\0", "\ud800", "a.png", "b.jpg", "é" * 300),
    *([], [[]], [0], [12, 20], [None], {}, {"id": 1}, {"size": [12, 20], "counts": [240]}),
    float("nan"),
    float("inf"),
]
_NUMBERS = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def altered(data: bytes, rng: random.Random) -> bytes:
    """The same with one to four changes: bits, numbers, and parts lost, exchanged or repeated."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not found:
            break
        at, other = sorted(rng.randrange(len(found) + 1) for _ in range(2))
        what = rng.randrange(6)
        if what == 0:
            found[min(at, len(found) - 1)] ^= 1 << rng.randrange(8)
        elif what == 1:
            del found[other:]
        elif what == 2:
            del found[at : at + rng.randint(1, 16)]
        elif what == 3:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(_NUMBERS) % 2 ** (8 * width)
            found[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif what == 4:
            found[at:at] = found[at:other][: rng.randint(1, 2000)]
        else:
            found = found[other:] + found[at:other] + found[:at]
    return bytes(found)


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a tree, and each of its keys."""
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield node, key
        yield from places(node[key])


def damaged(content: Any, rng: np.random.Generator) -> Any:
    """The same with one to three values exchanged, left out or repeated."""
    content = copy.deepcopy(content)
    for _ in range(rng.integers(1, 4)):
        found = list(places(content))
        if not found:
            break
        node, key = found[rng.integers(len(found))]
        what = rng.integers(5)
        if what == 0:
            del node[key]
        elif what == 1 and isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
        else:
            node[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    return content


def read_all(config: Any) -> int:
    """Masks of all records, each of which is decoded or refused."""
    source, masks = sources.open_source(config), 0
    for index in range(len(source)):
        try:
            record = source.read(index)
            picture, found = record.picture, record.annotation("masks")
        except EsamError:
            continue
        grid = Grid.whole(picture.height, picture.width)
        for i in range(len(found)):
            describe(found, i)
            try:
                assert found.sample(i, grid).dense().shape == (picture.height, picture.width)
                masks += 1
            except EsamError:
                pass
        if "semantic" in record.annotations:
            semantic = record.annotation("semantic")
            assert semantic.values.shape == (picture.height, picture.width)
            assert {*np.unique(semantic.values).tolist()} <= {*semantic.names, *semantic.void}
    return masks
