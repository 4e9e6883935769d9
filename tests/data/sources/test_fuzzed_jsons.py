"""Any value anywhere in a json: records that can be read, or an error of the package."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import drawn_sets

from esam_jax.config import CocoConfig, PanopticConfig, VideoConfig
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
FEW, MANY = 40, 500  # cases of each kind


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


@pytest.mark.parametrize("cases", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["coco", "panoptic", "video"])
def test_f31_any_value_anywhere_in_a_json(tmp_path: Path, coco_json: Path, kind: str, cases: int):
    if kind == "coco":
        file, config = coco_json, CocoConfig(path=str(coco_json), crowds="use")
    elif kind == "panoptic":
        file = drawn_sets.panoptic(tmp_path)
        config = PanopticConfig(path=str(file), crowds="use")
    else:
        root = drawn_sets.sav_jsons(tmp_path / "sav")
        (root / "sav_1.mp4").touch()
        file, config = root / "sav_1_manual.json", VideoConfig(path=str(root))
    content = json.loads(file.read_text())
    if kind == "coco":
        content["categories"] = [{"id": 1, "name": "x"}]
        content["images"][0] |= {"neg_category_ids": [1], "not_exhaustive_category_ids": []}
    rng, masks, refused = np.random.default_rng(cases), [], 0
    all_of_them = read_all(config)
    for _ in range(cases):
        file.write_text(json.dumps(damaged(content, rng)))
        try:
            masks.append(read_all(config))
        except EsamError:
            refused += 1
    # Most damage costs something, and hardly any of it costs everything.
    assert refused < cases / 2
    assert sum(masks) > all_of_them * len(masks) / 3 and min(masks) < all_of_them
