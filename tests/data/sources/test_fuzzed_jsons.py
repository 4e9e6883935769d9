"""Any value anywhere in a json: records that can be read, or an error of the package."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import drawn_sets
from helpers.fuzzing import damaged, read_all

from esam_jax.config import CocoConfig, PanopticConfig, VideoConfig
from esam_jax.errors import EsamError

FEW, MANY = 40, 500  # cases of each kind


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
