"""Examples carry the status of what was tried for them; the tally stops a run in order of use."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from esam_jax.config import CocoConfig, CropConfig, PromptedConfig, ScenesConfig
from esam_jax.data import examples as examples_module
from esam_jax.data import sources
from esam_jax.data.examples import Attempt, Example, Examples, Tally
from esam_jax.data.pictures import Pixels
from esam_jax.data.records import Record
from esam_jax.errors import DataError, DiskError, TrainingError

VIEW = CropConfig(image_px=8)
NOTHING_USABLE = PromptedConfig(image_px=32, min_area_px=1024)  # the picture's area; max_area less


class Spoilt:
    """Plain pictures; some records raise what is asked for, and every read is counted."""

    def __init__(self, records: int, errors: dict[int, Exception]) -> None:
        self.records, self.errors, self.reads = records, errors, 0

    def __len__(self) -> int:
        return self.records

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> Record:
        self.reads += 1
        if index in self.errors:
            raise self.errors[index]
        return Record(str(index), Pixels(np.full((9, 9, 3), index, np.uint8)))


def broken(records: int, *but: int, error: type[Exception] = DataError) -> Spoilt:
    """All records broken, but some."""
    return Spoilt(records, {i: error(f"spoilt {i}") for i in range(records) if i not in but})


def test_an_example_names_every_record_tried_for_it():
    examples = Examples(broken(4, 2), VIEW, seed=0)
    for position in range(4):
        example = examples[position]
        *failed, last = example.attempts
        assert (last.name, last.status, last.reason) == ("2", "usable", "")
        assert (example.view["image"] == 2).all()
        for attempt in failed:
            assert attempt.status == "broken" and attempt.reason == f"spoilt {attempt.name}"
        assert len({attempt.name for attempt in example.attempts}) == len(example.attempts)


@pytest.mark.parametrize("source", [ScenesConfig(scenes=5, scene_px=32), "folder"])
def test_examples_can_be_made_in_another_process(source, sa1b_folder):
    config = sources.detect(str(sa1b_folder)) if source == "folder" else source
    view = PromptedConfig(image_px=32, masks=2, min_area_px=4)
    examples = Examples(sources.open_source(config), view, seed=3)
    first = [examples[position] for position in range(7)]  # the order is in use
    copy = pickle.loads(pickle.dumps(examples))
    for example in first:
        sent = pickle.loads(pickle.dumps(copy[example.position]))
        assert sent.attempts == example.attempts
        assert all((sent.view[key] == example.view[key]).all() for key in example.view)


def test_an_example_tries_few_records_and_the_tally_the_rest():
    """A worker does not read a broken set to its end before anyone can stop it."""
    source = broken(100, 37)
    examples = Examples(source, VIEW, seed=0)
    position = next(p for p in range(100) if len(examples[p].attempts) == 10)
    source.reads = 0
    example = examples[position]
    assert example.view is None and source.reads == 10
    tally = Tally(examples, max_broken_share=1.0)
    assert (tally.view_of(example)["image"] == 37).all()
    assert len(tally.broken) == source.reads - 1 and "37" not in tally.broken
    source.reads = 0
    with pytest.raises(TrainingError, match=r"100\.0% of 10 records read are broken"):
        Tally(examples, max_broken_share=0.5).view_of(examples[position])
    assert source.reads == 10


def test_statuses_count_in_the_order_of_use_and_not_of_making():
    source = broken(20, *range(10))
    examples = Examples(source, VIEW, seed=1)
    made = {position: examples[position] for position in reversed(range(20))}

    def stops_at(order: list[int]) -> int:
        tally = Tally(examples, max_broken_share=0.3)
        used = []
        with pytest.raises(TrainingError, match="max_broken_share=30"):
            for position in order * 3:
                used.append(tally.view_of(made[position]))
        return len(used)

    assert stops_at(list(range(20))) == stops_at(list(range(20)))
    cleanest = sorted(made, key=lambda position: len(made[position].attempts))
    assert stops_at(cleanest) > stops_at(cleanest[::-1])


def test_one_answer_of_the_storage_starts_its_count_again():
    silent = [Attempt(str(i), "unreadable", "no answer") for i in range(10)]
    view = {"image": np.zeros((8, 8, 3), np.uint8)}
    tally = Tally(Examples(broken(20), VIEW, seed=0), max_broken_share=1.0)
    for status in ("broken", "usable", "empty"):
        tally.view_of(Example(0, (*silent[:9], Attempt("x", status, "a reason")), view))
    with pytest.raises(DiskError, match="10 records in a row cannot be read: the disk no longer"):
        tally.view_of(Example(0, tuple(silent), view))


def test_many_records_in_a_row_without_a_usable_mask_stop_the_run(monkeypatch):
    monkeypatch.setattr(examples_module, "_MOST_EMPTY", 25)
    source = sources.open_source(ScenesConfig(scenes=50, scene_px=32))
    examples = Examples(source, NOTHING_USABLE, 0)
    assert {attempt.status for attempt in examples[0].attempts} == {"empty"}
    tally = Tally(examples, max_broken_share=0.1)
    with pytest.raises(
        TrainingError, match=r"25 records .*min_area_px=1024 and data\.view\.max_area"
    ):
        tally.view_of(examples[0])
    assert len(tally.empty) == 25 and tally.broken == {}


def test_a_thousand_empty_records_in_a_row_are_the_limit():
    empty = [Attempt(str(i), "empty", "no usable mask") for i in range(1000)]
    usable, view = Attempt("x", "usable", ""), {"image": np.zeros((8, 8, 3), np.uint8)}
    tally = Tally(Examples(broken(20), VIEW, seed=0), max_broken_share=0.1)
    for _ in range(2):
        tally.view_of(Example(0, (*empty[:999], usable), view))
    with pytest.raises(TrainingError, match="1000 records in a row"):
        tally.view_of(Example(0, tuple(empty), view))


def test_nothing_usable_names_both_reasons():
    masks = {"masks": sources.open_source(ScenesConfig()).read(0).annotation("masks")}
    source = broken(3, 1)
    source.read = lambda index, read=source.read: Record("1", read(index).picture, masks)
    examples = Examples(source, NOTHING_USABLE, 0)
    with pytest.raises(
        TrainingError,
        match=r"no record of 3 can be used: 2 are broken \(spoilt .\); 1 have no usable mask",
    ):
        Tally(examples, max_broken_share=0.1).view_of(examples[0])


PROMPTED = PromptedConfig(image_px=32, masks=2)


@pytest.mark.parametrize(("pictures", "bad"), [(4, 1), (4, 4), (18, 9), (40, 40)])
def test_bad_objects_stop_no_run_while_their_pictures_have_good_ones(
    tmp_path: Path, write_picture: Callable, pictures: int, bad: int
):
    images, objects = [], []
    for i in range(pictures):
        write_picture(tmp_path / f"{i}.png", 32, 32, seed=i)
        images.append({"id": i, "file_name": f"{i}.png", "height": 32, "width": 32})
        good = [[2, 2, 20, 2, 20, 20, 2, 20]]
        objects.append({"image_id": i, "segmentation": [] if i < bad else good})
        objects.append({"image_id": i, "segmentation": good})
    content = {"images": images, "annotations": objects}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    source = sources.open_source(CocoConfig(path=str(tmp_path)))
    tally = Tally(examples := Examples(source, PROMPTED, seed=0), max_broken_share=0.1)
    valid = [tally.view_of(examples[i])["valid"].sum() for i in range(3 * pictures)]
    assert sorted(valid) == [1] * 3 * bad + [2] * 3 * (pictures - bad)
    assert tally.broken == {} and tally.findings.counts() == {"objects_left_out": bad}
