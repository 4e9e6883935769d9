"""Work is shared by devices, and answers come in order."""

import gc
import queue
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest
from helpers import nano

from esam_jax.config import ComputeConfig
from esam_jax.models.sam.network import Sam as Network
from esam_jax.predict import devices
from esam_jax.predict.sam import Sam


def of(sam: Sam) -> list[jax.Device]:
    return [x.device for x in jax.tree.leaves(sam.ready)]


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize(("count", "each"), [(1, 1), (1, 2), (2, 1), (8, 1), (2, 3)])
def test_answers_come_in_order_and_few_items_are_taken_ahead(count: int, each: int, ahead: int):
    taken, done = 0, 0

    def items():
        nonlocal taken
        for i in range(20):
            taken += 1
            yield i

    sam = nano.sam("sam_nano")
    options = {"count": count, "ahead": ahead, "each": each}
    for item, answer in devices.share(items(), sam, lambda _, i: 10 * i, **options):
        assert (item, answer) == (done, 10 * done)
        done += 1
        assert taken <= min(20, done + (1 + ahead) * count * each)
        if done == 1:
            assert taken >= 1 + ahead  # what is read ahead has begun
    assert done == 20


@pytest.mark.parametrize("collected", [False, True])
def test_leaving_waits_for_no_thread(collected: bool):
    # The garbage collector can close a generator while a thread starts, where a join never ends.
    sam, begun, go_on = nano.sam("sam_nano"), threading.Semaphore(0), threading.Event()
    worked, ended = [], []

    def work(_: Sam, item: int) -> None:
        worked.append(item)
        if item:
            begun.release()
            go_on.wait(20)
            ended.append(item)

    before = set(threading.enumerate())
    answers = devices.share(iter(range(100)), sam, work, count=1, ahead=3)
    assert next(answers) == (0, None)
    assert begun.acquire(timeout=60)  # item 1 is worked on, and 2 and 3 wait
    if collected:
        del answers
        gc.collect()
    else:
        answers.close()
    assert not ended
    go_on.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()
    assert worked == [0, *ended] == [0, 1]  # what had not begun never does


def test_every_device_works_with_its_own_copy():
    sam, meeting = nano.sam("sam_nano"), threading.Barrier(2, timeout=60)

    def work(copied: Sam, item: int) -> jax.Device:
        meeting.wait()  # both at once, or never
        [device] = set(of(copied))
        assert jax.numpy.zeros(3).device == device
        assert copied.config == sam.config and copied.encoder == sam.encoder
        return device

    found = [device for _, device in devices.share(range(6), sam, work, count=2, ahead=1)]
    assert set(found) == set(jax.local_devices()[:2])
    assert set(of(sam)) == set(jax.local_devices()[:1])  # the caller's stays where it was


def test_a_copy_in_16_bits_shares_what_lies_on_the_host():
    sam = nano.sam("sam_nano")
    half = Sam(Network(sam.config, ComputeConfig(dtype="bfloat16")), sam.params)
    other = jax.local_devices()[1]
    copied = half.on(other)
    assert copied.params is half.params and set(of(copied)) == {other} != set(of(half))
    single = sam.on(other)
    assert single.params is single.ready and set(of(single)) == {other} != set(of(sam))


def test_one_item_leaves_the_other_devices_alone():
    sam = nano.sam("sam_nano")
    [(_, found)] = devices.share(range(1), sam, lambda given, _: given, count=1, ahead=1)
    assert found is sam
    assert list(devices.share([], sam, lambda given, _: given, count=0, ahead=1)) == []


def test_an_error_of_the_work_reaches_the_caller_after_the_answers_before_it():
    done = []

    def work(_: Sam, item: int) -> int:
        if item == 5:
            raise OSError("the disk is full")
        return item

    with pytest.raises(OSError, match="disk is full"):
        for item, _ in devices.share(range(50), nano.sam("sam_nano"), work, count=3, ahead=2):
            done.append(item)
    assert done == [0, 1, 2, 3, 4]


def test_a_device_whose_work_failed_takes_the_next_item(monkeypatch: pytest.MonkeyPatch):
    meeting, next_one = threading.Barrier(2, timeout=60), threading.Event()

    class Impatient(queue.Queue):
        """Raises where it would wait for ever, so that a lost device fails this test."""

        def get(self):
            return super().get(timeout=20)

    def items():
        yield from range(3)
        assert next_one.wait(10), "no device is left"
        yield 3

    def work(_: Sam, item: int) -> None:
        if item < 2:
            meeting.wait()  # both devices fail
            raise OSError("the disk is full")
        next_one.set()

    monkeypatch.setattr(devices, "queue", types.SimpleNamespace(SimpleQueue=Impatient))
    with pytest.raises(OSError, match="disk is full"):
        list(devices.share(items(), nano.sam("sam_nano"), work, count=2, ahead=1))


def test_what_waits_when_the_caller_leaves_is_never_begun(monkeypatch: pytest.MonkeyPatch):
    leaving, begun = threading.Event(), []
    shutdown = ThreadPoolExecutor.shutdown

    def left(pool: ThreadPoolExecutor, *args, **options) -> None:
        leaving.set()
        shutdown(pool, *args, **options)

    def work(_: Sam, item: int) -> None:
        begun.append(item)
        assert item == 0 or leaving.wait(60)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", left)
    answers = devices.share(range(50), nano.sam("sam_nano"), work, count=2, ahead=3)
    next(answers)
    answers.close()
    assert set(begun) <= {0, 1, 2}
