"""What the masks of an SA-1B record cost a training view, beside what the obvious way costs.

    python tests/bench/mask_path.py               a drawn record: 100 masks, 1500 x 2250
    python tests/bench/mask_path.py SA1B_FOLDER   the first records of a folder

64 masks at 1024 x 1024, packed, with a first prompt each: from the texts of the json, equal to the
bit. The obvious way decodes each mask in full, eight at a time, as the package did before. Both
turn by turn in one process; medians. The record as a whole (json, JPEG, resizing) is timed, too.
"""

import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np
from helpers import slow_masks
from PIL import Image

from esam_jax.config import PromptedConfig, Sa1bConfig
from esam_jax.data import sources, views
from esam_jax.data.bitmaps import Grid
from esam_jax.data.views import draws, prompted, resize
from esam_jax.ops import regions

ROUNDS, RECORDS = 9, 2
CONFIG = PromptedConfig()
PX = CONFIG.image_px


def blob(rng, height, width):
    """A mask with a ragged outline; sides from 2 to 70 percent of the picture, small ones as often
    as large ones."""
    side = float(np.exp(rng.uniform(np.log(0.02), np.log(0.7))))
    rows = np.arange(height)[:, None] - rng.uniform(0, height)
    columns = np.arange(width) - rng.uniform(0, width)
    angle = np.arctan2(rows, columns)
    ragged = sum(
        rng.uniform(0, 0.3) / k * np.sin(k * angle + rng.uniform(0, 7)) for k in range(1, 40, 3)
    )
    return np.hypot(rows, columns) < (1 + ragged) * side * height / 2


def draw_record(folder, height=1500, width=2250, masks=100):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (30, 45, 3), np.uint8)
    Image.fromarray(coarse).resize((width, height)).save(folder / "sa_1.jpg", quality=90)
    found = [{"segmentation": regions.to_rle(blob(rng, height, width))} for _ in range(masks)]
    (folder / "sa_1.json").write_text(json.dumps({"annotations": found}))


def quick(record, grid, rng):
    found = prompted.masks_and_prompts(record, grid, CONFIG, rng)
    return found["masks"], found["points"], found["labels"]


def slow(record, grid, rng):
    texts = [each.segmentation for each in record.annotation("masks").outlines]
    size = (record.picture.height, record.picture.width)
    return slow_masks.view(texts, *size, grid.rows, grid.columns, CONFIG, rng)


def timed(function, *args):
    begin = time.perf_counter()
    found = function(*args)
    return (time.perf_counter() - begin) * 1e3, found


def measure(source, index):
    """Medians in milliseconds: the quick way, the slow way, the whole record."""
    times = {"quick": [], "slow": [], "record": []}
    for number in range(ROUNDS):
        record = source.read(index)
        sides = (record.picture.height, record.picture.width)
        rows, columns = (resize.nearest(side, PX) for side in sides)
        found = {}
        for name, way in (("quick", quick), ("slow", slow)):
            rng = draws.generator(number, 0, record.name)
            grid = Grid(*sides, rows, columns)
            took, found[name] = timed(way, record, grid, rng)
            times[name].append(took)
        assert all((a == b).all() for a, b in zip(found["quick"], found["slow"], strict=True))
        rng = draws.generator(number, 0, record.name)
        took, _ = timed(lambda rng=rng: views.make(source.read(index), CONFIG, rng))
        times["record"].append(took)
    return len(record.annotation("masks")), *(statistics.median(x) for x in times.values())


def main(folder):
    source = sources.open_source(Sa1bConfig(path=str(folder)))
    for index in range(min(RECORDS, len(source))):
        masks, fast, before, record = measure(source, index)
        print(
            f"{source.name(index)}, {min(masks, CONFIG.masks)} of {masks} masks: {before:.1f} ms "
            f"before, {fast:.1f} ms now, {before / fast:.1f} times faster; the record "
            f"{record - fast + before:.0f} ms before, {record:.0f} ms now"
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(pathlib.Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            draw_record(pathlib.Path(temporary))
            main(pathlib.Path(temporary))
