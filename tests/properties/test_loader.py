"""The order of examples: the same for any processes and any restart, each record once an epoch."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esam_jax import sharding
from esam_jax.config import CropConfig, MeshConfig
from esam_jax.data import order
from esam_jax.data.examples import Examples, Tally
from esam_jax.data.order import Order
from esam_jax.data.pictures import Pixels
from esam_jax.data.records import Record
from esam_jax.data.sources import scene_painter
from esam_jax.errors import DataError

VIEW = CropConfig(image_px=8)
seeds = st.integers(0, 2**32 - 1)


class Fragile:
    """Scenes of which some cannot be read; notes what was."""

    def __init__(self, records: int, broken: set[int]) -> None:
        self.records, self.broken, self.read_names = records, broken, []

    def __len__(self) -> int:
        return self.records

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> Record:
        if index in self.broken:
            raise DataError("broken on purpose")
        self.read_names.append(index)
        return Record(self.name(index), Pixels(scene_painter.draw(index, 32)[0]))


@given(seeds, st.integers(1, 40), st.integers(0, 4))
def test_every_record_comes_once_an_epoch(seed: int, records: int, epoch: int):
    sequence = Order(records, seed)
    positions = range(epoch * records, (epoch + 1) * records)
    assert {sequence[p][0] for p in positions} == {epoch}
    assert sorted(sequence[p][1] for p in positions) == list(range(records))


@given(seeds, st.integers(1, 40), st.integers(1, 5), st.integers(0, 3))
def test_repeated_records_stand_in_a_row_and_epochs_are_as_long_as_ever(
    seed: int, records: int, repeats: int, epoch: int
):
    sequence, single = Order(records, seed, repeats), Order(records, seed)
    positions = range(epoch * records, (epoch + 1) * records)
    assert {sequence[p][0] for p in positions} == {epoch}
    found = [(sequence[p][1], sequence.copy(p)) for p in positions]
    first = [single[p][1] for p in positions]  # of the same shuffle, its beginning
    assert found == [(first[i // repeats], i % repeats) for i in range(records)]
    assert len(set(found)) == records  # no example twice
    assert len({index for index, _ in found}) == -(-records // repeats)


@given(seeds, st.integers(2, 12), st.integers(2, 4), st.sampled_from([1, 2, 4, 8]))
def test_repeated_records_are_those_of_any_hosts_and_resume_steps(
    seed: int, records: int, repeats: int, hosts: int
):
    mesh, batch = sharding.make_mesh(MeshConfig()), 16
    placement, devices = sharding.batch(mesh), list(mesh.devices.flat)
    sequence, share = Order(records, seed, repeats), len(devices) // hosts
    for step in (0, 3):
        found = {}
        for i in range(hosts):
            rows = order.local_rows(placement, batch, devices[i * share : (i + 1) * share])
            # A fresh sequence, as in a process that resumes at this step.
            mine = Order(records, seed, repeats)
            for slot, row in enumerate(rows):
                position = order.position(step * len(rows) + slot, rows, batch)
                found[row] = mine[position], mine.copy(position)
        alone = [(sequence[p], sequence.copy(p)) for p in range(step * batch, (step + 1) * batch)]
        assert [found[row] for row in range(batch)] == alone


@given(seeds, st.integers(0, 20))
def test_copies_of_one_record_are_views_of_their_own(seed: int, position: int):
    """The first is that of a run without repeats; all are functions of seed and position."""
    source, repeats = Fragile(7, set()), 3
    examples = Examples(source, VIEW, seed, repeats)
    start = position - Order(7, seed, repeats).copy(position)
    row = [p for p in range(start, start + repeats) if p // 7 == start // 7]
    made = {p: examples[p] for p in row}
    assert len({example.attempts[0].name for example in made.values()}) == 1
    views = [made[p].view["image"] for p in row]
    again = Examples(source, VIEW, seed, repeats)
    assert all((again[p].view["image"] == made[p].view["image"]).all() for p in reversed(row))
    # Crops of 8 pixels of a scene: two that are drawn alike differ.
    assert all((a != b).any() for a, b in itertools.combinations(views, 2))
    single, epoch = Order(7, seed), start // 7
    at = next(
        p for p in range(7 * epoch, 7 * epoch + 7) if single[p][1] == Order(7, seed, 3)[start][1]
    )
    assert (Examples(source, VIEW, seed)[at].view["image"] == views[0]).all()


@given(seeds)
def test_epochs_and_seeds_shuffle_anew(seed: int):
    first, other = Order(60, seed), Order(60, seed ^ 1)
    orders = [
        [first[p][1] for p in range(60)],
        [first[p][1] for p in range(60, 120)],
        [other[p][1] for p in range(60)],
    ]
    assert len({tuple(each) for each in orders}) == 3


@given(
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([(8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 2, 4)]),
    st.integers(1, 3),
    st.integers(0, 7),
)
def test_processes_read_together_what_one_reads_alone(
    processes: int, shape: tuple[int, int, int], per_device: int, step: int
):
    """Pretend processes of neighbouring devices; replicas along `tensor` read the same rows."""
    data, fsdp, tensor = shape
    mesh = sharding.make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
    placement, batch = sharding.batch(mesh), per_device * data * fsdp
    devices = list(mesh.devices.flat)
    share = len(devices) // processes
    seen: dict[int, int] = {}
    for process in range(processes):
        mine = devices[process * share : (process + 1) * share]
        rows = order.local_rows(placement, batch, mine)
        assert len(rows) == batch // (data * fsdp) * max(share // tensor, 1)
        for slot, row in enumerate(rows):
            seen[row] = order.position(step * len(rows) + slot, rows, batch)
    assert [seen[row] for row in sorted(seen)] == list(range(step * batch, (step + 1) * batch))
    assert order.local_rows(placement, batch) == tuple(range(batch))


@given(
    seeds,
    st.integers(1, 50),
    st.lists(st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(1, 4)), min_size=1, max_size=4),
)
def test_f28_any_hosts_and_resume_steps_read_the_same_ids(
    seed: int, records: int, parts: list[tuple[int, int]]
):
    """A run in parts, each of so many hosts and updates: in the end every id once an epoch."""
    mesh, batch = sharding.make_mesh(MeshConfig()), 16
    placement, devices = sharding.batch(mesh), list(mesh.devices.flat)
    sequence, step, read = Order(records, seed), 0, []
    for hosts, updates in parts:
        share = len(devices) // hosts
        held = [
            order.local_rows(placement, batch, devices[i * share : (i + 1) * share])
            for i in range(hosts)
        ]
        for done in range(step, step + updates):  # every host has a part of every batch
            found = {
                row: sequence[order.position(done * len(rows) + slot, rows, batch)]
                for rows in held
                for slot, row in enumerate(rows)
            }
            read.extend(found[row] for row in range(batch))
        step += updates
    assert read == [sequence[position] for position in range(step * batch)]
    for epoch in range(step * batch // records):
        assert sorted(index for e, index in read if e == epoch) == list(range(records))


@given(seeds, st.integers(1, 12), st.sets(st.integers(0, 11)), st.integers(0, 30))
def test_a_broken_record_is_replaced_by_the_same_other_one(
    seed: int, records: int, broken: set[int], position: int
):
    broken = {index for index in broken if index < records}
    if len(broken) == records:
        broken.pop()
    views = []
    for warm_up in (0, 3):  # what was read before makes no difference
        source = Fragile(records, broken)
        examples = Examples(source, VIEW, seed)
        tally = Tally(examples, max_broken_share=1.0)
        for other in range(warm_up):
            tally.view_of(examples[other])
        views.append(tally.view_of(examples[position])["image"])
        index = Order(records, seed)[position][1]
        assert (source.read_names[-1] == index) == (index not in broken)
        assert (str(index) in tally.broken) == (index in broken)
    assert (views[0] == views[1]).all()


def test_the_order_of_a_large_set_is_that_of_a_small_one_and_ready_before_its_epoch(monkeypatch):
    small = [Order(50, seed=3)[p] for p in range(150)]
    monkeypatch.setattr(order, "_LARGE", 50)
    made: list[int] = []

    class Noted(Order):
        def _shuffle(self, epoch, made_):
            made.append(epoch)
            super()._shuffle(epoch, made_)

    large, known = Noted(50, seed=3), []
    for position in range(150):
        assert large[position] == small[position]
        known.append(len(large._orders))
        if (
            position % 50 == 24
        ):  # in the first half: two orders are in memory, no sooner than needed
            assert position // 50 + 1 not in large._orders
        if position % 50 == 25:  # in the second
            assert position // 50 + 1 in large._orders
    assert made == [0, 1, 2, 3] and max(known) == 2
    assert large[10] == small[10]  # back again, as an evaluation or a rollback may go


@pytest.mark.parametrize("large", [50, 10**6])
def test_an_order_that_cannot_be_made_is_an_error_for_all_that_wait_for_it(monkeypatch, large):
    def full(records: int, dtype: type):
        raise MemoryError

    monkeypatch.setattr(order, "_LARGE", large)
    monkeypatch.setattr(order.np, "arange", full)
    sequence = Order(50, seed=3)
    for _ in range(2):
        assert isinstance(sequence._shuffled(0).exception(timeout=5), MemoryError)
        with pytest.raises(MemoryError):
            sequence[7]
