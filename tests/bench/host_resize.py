"""What resizing a picture of SA-1B on the host costs, and what handing it over as it is would.

    python tests/bench/host_resize.py

A device can only resize what it is given: all of the 1500 x 2250 pixels, in rows and columns enough
for pictures that are upright, too. The host then copies these bytes twice (into the batch, and to
the device), and worker processes copy them once more. Medians of both ways, turn by turn, in
milliseconds of one core for a picture, without the time of the copy to a device.
"""

import statistics
import time

import numpy as np

from esam_jax.data.views import resize

HEIGHT, WIDTH, SIDE, BATCH, ROUNDS = 1500, 2250, 1024, 4, 9


def resized(pictures: list[np.ndarray]) -> np.ndarray:
    return np.stack([resize.two_taps(each, SIDE, SIDE) for each in pictures])


def as_they_are(pictures: list[np.ndarray]) -> np.ndarray:
    batch = np.zeros((len(pictures), WIDTH, WIDTH, 3), np.uint8)
    for row, each in zip(batch, pictures):
        row[: each.shape[0], : each.shape[1]] = each
    return batch


def main() -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(BATCH)]
    times = {resized: [], as_they_are: []}
    for _ in range(ROUNDS):
        for way, spent in times.items():
            begin = time.thread_time()
            batch = way(pictures)
            batch.copy()  # as `jax.device_put` reads it, or a worker's shared memory takes it
            spent.append(time.thread_time() - begin)
    for way, spent in times.items():
        size = way(pictures[:1]).nbytes / 1e6
        print(f"{way.__name__}: {1e3 * statistics.median(spent) / BATCH:.1f} ms, {size:.1f} MB")


if __name__ == "__main__":
    main()
