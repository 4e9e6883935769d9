"""A model over a mesh answers as the same model alone, on any devices and in any order.

The slow version: one prompt after the other through the public interface, masks compared in NumPy.
"""

import dataclasses
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
from esam_jax.evaluate import answers, numbers, prompts, talks, targets
from esam_jax.evaluate.protocol import MIN_AREA_PX, Protocol, Takes
from esam_jax.models import named
from esam_jax.ops import regions
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.sam import Sam

NAME = "efficientsam_nano"
EVALUATE = EvaluateConfig(source=ScenesConfig(split="heldout"), images=11, masks_per_image=3)
MEANS = ("box_miou", "point_miou", "fill_box")


def rules_of(sam: Sam, **options) -> talks.Rules:
    return talks.Rules(Protocol(**options), Takes.of(sam.config, sam.untrained))


def found_by(sam, source, places, rules, *, devices=1, queries=4):
    mesh = sharding.make_mesh(MeshConfig(data=devices), jax.devices()[:devices])
    params = jax.device_put(sam.ready, sharding.replicated(mesh))
    model = answers.Model(sam.model, mesh, queries).of(params)
    found = prompts.measure(model, source, places, rules, progress=False)
    return {each.place: each for each in found}


def ious(found) -> dict:
    return {place: numbers.content(each) for place, each in found.items()}


def check_slowly(sam: Sam, found: prompts.Found, rules: talks.Rules) -> int:
    """Every answer of a picture against the public interface, exactly; how many there are."""
    assert found.scene is not None
    embedding, count = sam.encode(found.scene.image), 0
    for target, scores in zip(found.scene.targets, found.scores, strict=True):
        truth = target.mask.dense()
        for column, runs in scores.items():
            points = 0 if column == "box" else int(column.rsplit("_", 1)[1])
            single = points > 1 and rules.protocol.single(rules.takes)
            for answer in runs:
                masks = sam.decode(embedding, [answer.prompt], multimask=not single)
                best = masks.best()[1][0]
                assert (answer.found.dense() == best).all()
                union = np.count_nonzero(best | truth)
                assert answer.iou == np.count_nonzero(best & truth) / union
                each = [regions.iou(mask, truth) for mask in masks.binary()[0]]
                assert answer.oracle == max(each) >= answer.iou
                count += 1
    return count


@pytest.mark.parametrize("name", nano.NAMES)
def test_each_answer_is_that_of_the_public_interface_to_the_bit(name: str):
    """With background points, mask prompts and single masks where the model takes them."""
    sam, source = nano.sam(name), sources.open_source(EVALUATE.source)
    is_sam = name == "sam_nano"
    clicks = ("uniform", "centre", "random_first")
    rules = rules_of(sam, points=(1, 3), clicks=clicks, masks_per_image=3, feed_back=is_sam)
    assert rules.takes.background == rules.takes.masks == is_sam
    found = found_by(sam, source, [4, 0], dataclasses.replace(rules, keep=True))
    assert sum(check_slowly(sam, each, rules) for each in found.values()) == 2 * 3 * 7
    given = [
        answer.prompt
        for each in found.values()
        for scores in each.scores
        for answer in scores["centre_3"]
    ]
    assert all(len(prompt.points) == 3 and (prompt.mask is not None) == is_sam for prompt in given)


@pytest.mark.parametrize("name", [NAME, pytest.param("sam_nano", marks=pytest.mark.slow)])
def test_neither_devices_nor_order_nor_company_change_a_number(name: str):
    sam, source = nano.sam(name), sources.open_source(EVALUATE.source)
    rules = rules_of(sam, points=(1, 2), clicks=("centre",), masks_per_image=3)
    places = [5, 2, 9, 0]
    wanted = ious(found_by(sam, source, places, rules))
    for devices, some in ((2, places), (3, places[::-1]), (8, places), (2, [9])):
        found = ious(found_by(sam, source, some, rules, devices=devices))
        assert found == {place: wanted[place] for place in some}, (devices, some)


def test_the_number_of_prompts_in_a_call_changes_rounding_at_most():
    sam, source = nano.sam("sam_nano"), sources.open_source(EVALUATE.source)
    rules = rules_of(sam, points=(1, 3), masks_per_image=5)
    one, other = (found_by(sam, source, [5, 2], rules, queries=queries) for queries in (2, 7))
    for place, each in one.items():
        for mine, its in zip(each.scores, other[place].scores, strict=True):
            for column in rules.protocol.columns:
                # A pixel at the threshold may fall on its other side.
                assert mine[column][0].iou == pytest.approx(its[column][0].iou, abs=2e-3)


# -------------------------------------------------------------------------------- in training


def alone(sam, source, config):
    """The protocol of a run, one picture after the other through the public interface."""
    found = {name: [] for name in MEANS}
    chosen = np.random.default_rng(config.seed).permutation(len(source))[: config.images]
    for i in chosen.tolist():
        options = {"most": config.masks_per_image, "seed": config.seed}
        scene = targets.of(source.read(i), **options, min_area_px=MIN_AREA_PX, given=False)
        for target in scene.targets:
            click = target.mask.pixel(
                int(target.generator(config.seed).integers(target.mask.area()))
            )
            asked = [target.box(given=False), Prompt(points=[click])]
            _, both = sam.decode(sam.encode(scene.image), asked).best()
            truth = target.mask.dense()
            found["box_miou"].append(regions.iou(both[0], truth))
            found["point_miou"].append(regions.iou(both[1], truth))
            _, _, width, height = regions.mask_box(truth)
            found["fill_box"].append(truth.sum() / (width * height))
    return {name: np.mean(values) for name, values in found.items()}


def measured(name, mesh_config, source=None, monkeypatch=None):
    mesh = sharding.make_mesh(mesh_config)
    host = nano.params(named.sam(name))
    places = sharding.shardings(host, mesh)
    params = jax.tree.map(sharding.place, host, places)
    if source is not None:
        monkeypatch.setattr(prompts.sources, "open_source", lambda *_: source)
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
    assert "11 of 20000 pictures and up to 3 masks of each" in result["protocol"]


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

    wanted = alone(nano.sam(name), Good(), EVALUATE)
    assert_close(result, wanted)
    # Seven sizes, of which each side is rounded up to 64, 96, 128 or 192, on four devices.
    assert answers._compare._cache_size() - programs <= 4 * 5


@pytest.mark.parametrize("name", nano.NAMES)
def test_a_logit_of_zero_is_outside_or_inside(name: str):
    """SAM: answers without a pixel score nothing. Neither does a mask that only fills up a row: 0
    of 0 pixels would be not a number. EfficientSAM: the answer is the picture."""
    sam = nano.sam(name)
    silent = Sam(sam.model, jax.tree.map(np.zeros_like, sam.params))
    source = sources.open_source(EVALUATE.source)
    found = found_by(silent, source, [0, 1], rules_of(silent, masks_per_image=3))
    for picture in found.values():
        for target, scores in zip(picture.scene.targets, picture.scores, strict=True):
            share = target.mask.area() / (target.mask.height * target.mask.width)
            wanted = 0.0 if name == "sam_nano" else share
            assert scores["box"][0].iou == scores["box"][0].oracle == wanted
    assert all(picture.scores for picture in found.values())


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
    prompts.sources.open_source = lambda *_: Noted(opened)
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
