"""Work of many items on all local devices, each with its own copy of a model."""

import collections
import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import jax

from esam_jax.predict.sam import Sam

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def share(
    items: Iterable[Item],
    sam: Sam,
    work: Callable[[Sam, Item], Answer],
    *,
    count: int,
    ahead: int,
) -> Iterator[tuple[Item, Answer]]:
    """(item, `work(sam, item)`) in the order of the items, of which there are `count`.

    Whichever device is idle takes the next, with the model on that device; `work` is called in
    threads. For each device, so many items are taken `ahead` of the one that it works on.
    """
    devices = jax.local_devices()[: max(1, count)]
    if len(devices) == 1:
        for item in _taken_ahead(items, ahead):
            yield item, work(sam, item)
        return
    idle: queue.SimpleQueue[tuple[jax.Device, Sam]] = queue.SimpleQueue()
    for device in devices:
        idle.put((device, sam.on(device)))

    def next_one(item: Item) -> Answer:
        device, copied = idle.get()
        try:
            with jax.default_device(device):
                return work(copied, item)
        finally:
            idle.put((device, copied))

    with ThreadPoolExecutor(len(devices)) as pool:
        begun: collections.deque[tuple[Item, Future[Answer]]] = collections.deque()
        try:
            for item in items:
                begun.append((item, pool.submit(next_one, item)))
                # Far enough ahead that a slow item does not make other devices wait, but bounded.
                if len(begun) == (1 + ahead) * len(devices):
                    first, answer = begun.popleft()
                    yield first, answer.result()
            while begun:
                first, answer = begun.popleft()
                yield first, answer.result()
        finally:
            for _, answer in begun:
                answer.cancel()


def _taken_ahead(items: Iterable[Item], ahead: int) -> Iterator[Item]:
    taken: collections.deque[Item] = collections.deque()
    for item in items:
        taken.append(item)
        if len(taken) > ahead:
            yield taken.popleft()
    yield from taken
