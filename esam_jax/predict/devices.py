"""Work of many items on all local devices, each with its own copy of a model."""

import collections
import contextlib
import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax

from esam_jax.predict.thread_pool import ThreadPool

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@runtime_checkable
class Model(Protocol):
    """What can be copied to a device."""

    def on(self, device: jax.Device) -> Any:
        """The same there."""
        ...


AModel = TypeVar("AModel", bound=Model)


def share(
    items: Iterable[Item],
    model: AModel,
    work: Callable[[AModel, Item], Answer],
    *,
    count: int,
    ahead: int,
    each: int = 1,
) -> Iterator[tuple[Item, Answer]]:
    """(item, `work(model, item)`) in the order of the items, on at most `count` devices.

    Whichever device is idle takes the next, with the model on that device; a single one works with
    the model as it is. `work` is called in threads, `each` of them for a device: with two, one
    writes results while the other has the device compute. For each thread, so many items are taken
    `ahead` of the one that it works on.
    """
    devices = jax.local_devices()[: max(1, count)]
    idle: queue.SimpleQueue[tuple[jax.Device | None, AModel]] = queue.SimpleQueue()
    placed = [(device, model.on(device)) for device in devices] if len(devices) > 1 else []
    for place in (placed or [(None, model)]) * each:
        idle.put(place)
    threads = len(devices) * each

    def next_one(item: Item) -> Answer:
        device, copied = idle.get()
        try:
            with contextlib.nullcontext() if device is None else jax.default_device(device):
                return work(copied, item)
        finally:
            idle.put((device, copied))

    with ThreadPool(threads) as pool:
        begun: collections.deque[tuple[Item, Future[Answer]]] = collections.deque()
        for item in items:
            begun.append((item, pool.submit(next_one, item)))
            # Far enough ahead that a slow item does not make other devices wait, but bounded.
            if len(begun) == (1 + ahead) * threads:
                first, answer = begun.popleft()
                yield first, answer.result()
        while begun:
            first, answer = begun.popleft()
            yield first, answer.result()
