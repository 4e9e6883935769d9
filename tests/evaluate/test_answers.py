"""A model over a mesh gives what the same model gives alone, whatever its devices and processes."""

import json
import os
import sys

import jax
import numpy as np
import pytest
from helpers import nano, processes

from esam_jax import sharding
from esam_jax.config import EvaluateConfig, MeshConfig, ScenesConfig
from esam_jax.data import sources
from esam_jax.data.bitmaps import Bitmap
from esam_jax.data.pictures import Pixels
from esam_jax.data.records import Record
from esam_jax.evaluate import answers, prompts
from esam_jax.models import named
from esam_jax.ops import regions
from esam_jax.predict.sam import Sam

NAME = "efficientsam_nano"
EVALUATE = EvaluateConfig(source=ScenesConfig(split="heldout"), images=11, masks_per_image=3)
MEANS = ("box_miou", "point_miou", "fill_box")


def alone(sam, source, config):
    """The same protocol, one picture after the other through the public interface."""
    ious = {name: [] for name in MEANS}
    chosen = np.random.default_rng(config.seed).permutation(len(source))[: config.images]
    for i in chosen.tolist():
        asked = prompts.ask(source.read(i), config.masks_per_image, (config.seed, i), "uniform")
        _, found = sam.decode(sam.encode(asked.image), asked.boxes + asked.clicks).best()
        for k, mask in enumerate(asked.masks):
            ious["box_miou"].append(regions.iou(found[k], mask))
            ious["point_miou"].append(regions.iou(found[len(asked.masks) + k], mask))
            _, _, width, height = regions.mask_box(mask)
            ious["fill_box"].append(mask.sum() / (width * height))
    return {name: np.mean(values) for name, values in ious.items()}


def measured(name, mesh_config, source=None, monkeypatch=None):
    mesh = sharding.make_mesh(mesh_config)
    host = nano.params(named.sam(name))
    places = sharding.shardings(host, mesh)
    params = jax.tree.map(sharding.place, host, places)
    if source is not None:
        monkeypatch.setattr(prompts.sources, "open_source", lambda config, options="": source)
    return prompts.measurement(nano.sam(name).model, EVALUATE, mesh)(params)


def assert_close(found, wanted):
    """To float rounding: a pixel at the threshold may fall on its other side."""
    for name in MEANS:
        assert found[name] == pytest.approx(wanted[name], abs=2e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [MeshConfig(data=1), MeshConfig(data=2, fsdp=2, tensor=2)])
def test_a_model_in_training_is_measured_like_a_loaded_one(mesh):
    source = sources.open_source(EVALUATE.source)
    result = measured(NAME, mesh)
    assert_close(result, alone(nano.sam(NAME), source, EVALUATE))
    assert result["images"] == 11 and result["skipped"] == 0
    loaded = prompts.evaluate(nano.sam(NAME), source, images=11, masks_per_image=3, seed=0)
    assert_close(loaded, result)
    assert loaded.keys() | {"skipped"} == result.keys()
    assert loaded["protocol"] == result["protocol"]


class Blobs:
    """Pictures of many sizes with a few masks each; one is broken and one is empty."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self._sizes = [(40, 70), (91, 33), (64, 64), (130, 100), (20, 25), (70, 69), (33, 33)]
        self._records = []
        for i, (height, width) in enumerate(self._sizes):
            y, x = np.mgrid[:height, :width]
            masks = [
                (x - rng.integers(width)) ** 2 + (y - rng.integers(height)) ** 2
                < (5 + rng.integers(min(height, width) // 2)) ** 2
                for _ in range(0 if i == 2 else i + 1)
            ]
            picture = Pixels(nano.picture(height, width, i))
            self._records.append(Record(str(i), picture, {"masks": _Masks(masks)}))

    def __len__(self):
        return len(self._records)

    def name(self, index):
        return str(index)

    def read(self, index):
        if index == 5:
            raise prompts.DataError("5 is broken")
        return self._records[index]


class _Masks:
    def __init__(self, masks):
        self._masks = masks

    def __len__(self):
        return len(self._masks)

    def sample(self, index, grid):
        return Bitmap.of(self._masks[index][grid.rows][:, grid.columns])


def test_pictures_of_any_size_share_few_programs(monkeypatch):
    name = "sam_nano"  # pads its pictures, and shrinks some answers
    source, programs = Blobs(), answers._compare._cache_size()
    with pytest.warns(UserWarning, match="1 broken picture left out, the first: 5 is broken"):
        result = measured(name, MeshConfig(data=4), source, monkeypatch)
    assert result["reasons"] == ["5 is broken"]
    assert (result["images"], result["skipped"]) == (6, 1)

    class Good(Blobs):
        def read(self, index):
            return self._records[2 if index == 5 else index]  # without a mask

    sam, ious = nano.sam(name), {box: [] for box in MEANS[:2]}
    for i in np.random.default_rng(0).permutation(7).tolist():
        asked = prompts.ask(Good().read(i), 3, (0, i), "uniform")
        if not asked.boxes:
            continue
        _, found = sam.decode(sam.encode(asked.image), asked.boxes + asked.clicks).best()
        for k, mask in enumerate(asked.masks):
            ious["box_miou"].append(regions.iou(found[k], mask))
            ious["point_miou"].append(regions.iou(found[len(asked.masks) + k], mask))
    for key, values in ious.items():
        assert result[key] == pytest.approx(np.mean(values), abs=1e-3), key
    # Seven sizes, of which each side is rounded up to 64, 96, 128 or 192.
    assert answers._compare._cache_size() - programs <= 5


def test_answers_without_a_pixel_score_nothing():
    """Neither does a mask that only fills up a row: 0 of 0 pixels would be not a number."""
    sam = nano.sam("sam_nano")  # a logit of 0 is outside
    silent = Sam(sam.model, jax.tree.map(np.zeros_like, sam.params))
    source = sources.open_source(EVALUATE.source)
    found = prompts.evaluate(silent, source, images=2, masks_per_image=3, seed=0)
    assert (found["box_miou"], found["point_miou"]) == (0.0, 0.0) and found["masks"] > 0


def test_rounding_up_has_few_values():
    assert [answers._at_least(n, 4) for n in (1, 4, 5, 7, 9, 13, 32)] == [4, 4, 6, 8, 12, 16, 32]
    assert len({answers._at_least(n, 64) for n in range(1, 4097)}) == 13
    for n in range(1, 4097):
        assert n <= answers._at_least(n, 64) <= max(64, 1.5 * n)


def main():
    jax.distributed.initialize(
        num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
        process_id=int(os.environ["JAX_PROCESS_ID"]),
    )
    read = []

    class Noted:
        def __init__(self, source):
            self._source = source

        def __len__(self):
            return len(self._source)

        def name(self, index):
            return self._source.name(index)

        def read(self, index):
            read.append(index)
            return self._source.read(index)

    opened = sources.open_source(EVALUATE.source)
    prompts.sources.open_source = lambda config, options="": Noted(opened)
    print(json.dumps([measured(NAME, MeshConfig(fsdp=2)), read]), flush=True)


@pytest.mark.slow
def test_two_processes_measure_half_each():
    outputs = processes.finish(processes.start([__file__], 2, devices=2))
    (first, read), (second, others) = (json.loads(out.splitlines()[-1]) for out, _ in outputs)
    assert first == second
    assert not set(read) & set(others) and len(read) + len(others) == 11
    source = sources.open_source(EVALUATE.source)
    assert_close(first, alone(nano.sam(NAME), source, EVALUATE))


if __name__ == "__main__":
    sys.exit(main())
