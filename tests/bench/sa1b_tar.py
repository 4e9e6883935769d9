"""A synthetic tar of SA-1B, and how fast the loader reads it: `python tests/bench/sa1b_tar.py`.

    python tests/bench/sa1b_tar.py make OUT.tar --pictures DIR --count 2000
    python tests/bench/sa1b_tar.py read OUT.tar [--profile]
    python tests/bench/sa1b_tar.py index --count 1000000

`make` enlarges pieces of the pictures of a folder to 1500 x 2250 pixels, with 100 masks each: blobs
of many sizes, as compressed run lengths. `read` makes the examples of `segment_ti` (1024 px, 64
masks) in one thread, beside what decoding alone takes. `index` measures the index of as many
records, without any picture: bytes on disk and in memory, and how long opening takes.
"""

import argparse
import cProfile
import io
import itertools
import json
import pstats
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from esam_jax import configs
from esam_jax.config import Sa1bConfig
from esam_jax.data import pictures, sources, tar_index, tars
from esam_jax.data.examples import Examples
from esam_jax.ops import regions

HEIGHT, WIDTH, MASKS, QUALITY = 1500, 2250, 100, 85
AREA = (0.0002, 0.2)  # of the picture, evenly spread over their logarithm


def picture(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A piece of an image, enlarged, with grain that costs as many bits as a sharp photograph."""
    share = rng.uniform(0.5, 1.0)
    size = np.array([min(image.width, image.height * 1.5), min(image.height, image.width / 1.5)])
    left, top = (rng.uniform(0, full - share * part) for full, part in zip(image.size, size))
    box = (left, top, left + share * size[0], top + share * size[1])
    pixels = np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box))
    grain = rng.integers(-8, 9, (HEIGHT, WIDTH, 1), np.int16)
    noisy = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def mask(rng: np.random.Generator) -> np.ndarray:
    """An ellipse with a wavy edge."""
    area = np.exp(rng.uniform(*np.log(AREA))) * HEIGHT * WIDTH
    aspect = np.exp(rng.uniform(-0.7, 0.7))
    ry, rx = np.sqrt(area / np.pi * aspect), np.sqrt(area / np.pi / aspect)
    cy, cx = rng.uniform(0, HEIGHT), rng.uniform(0, WIDTH)
    reach = 1.4
    y0, x0 = max(0, int(cy - reach * ry)), max(0, int(cx - reach * rx))
    y1, x1 = min(HEIGHT, int(cy + reach * ry) + 1), min(WIDTH, int(cx + reach * rx) + 1)
    y, x = np.mgrid[y0:y1, x0:x1]
    dy, dx = (y - cy) / ry, (x - cx) / rx
    waves = rng.uniform(0, 0.08, 6)[:, None, None] * np.cos(
        np.arange(2, 8)[:, None, None] * np.arctan2(dy, dx) + rng.uniform(0, 6.3, (6, 1, 1))
    )
    made = np.zeros((HEIGHT, WIDTH), bool)
    made[y0:y1, x0:x1] = dy * dy + dx * dx < (1 + waves.sum(0)) ** 2
    return made


def annotations(number: int, rng: np.random.Generator) -> bytes:
    found = []
    for i in range(MASKS):
        made = mask(rng)
        while not made.any():
            made = mask(rng)
        box = [int(x) for x in regions.mask_box(made)]
        score = {"predicted_iou": 0.95, "stability_score": 0.97, "point_coords": [[0.0, 0.0]]}
        found.append(
            {"bbox": box, "area": int(made.sum()), "segmentation": regions.to_rle(made), **score}
            | {"crop_box": [0, 0, WIDTH, HEIGHT], "id": number * 1000 + i}
        )
    image = {"image_id": number, "width": WIDTH, "height": HEIGHT, "file_name": f"sa_{number}.jpg"}
    return json.dumps({"image": image, "annotations": found}).encode()


def make(out: Path, folder: Path, count: int, distinct: int) -> None:
    """`distinct` records, repeated under other names up to `count`: their bytes are read again."""
    names = pictures.list_pictures(folder).names
    made = []
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as archive:
        for i in range(count):
            if i < distinct:
                rng = np.random.default_rng(i)
                with Image.open(folder / names[i % len(names)]) as image:
                    made.append((picture(image.convert("RGB"), rng), annotations(i, rng)))
            for ending, content in zip((".jpg", ".json"), made[i % distinct]):
                member = tarfile.TarInfo(f"./sa_{223750 + i}{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    sizes = [sum(map(len, part)) / len(made) / 1e6 for part in zip(*made)]
    print(f"{out}: {count} records, MB of a picture and of a json on average: {sizes}")


def read(tar: Path, seconds: float, profile: bool) -> None:
    view = configs.load("segment_ti").data.view
    source = sources.open_source(Sa1bConfig(path=str(tar)))
    examples = Examples(source, view, seed=0)
    examples[0]
    positions = itertools.count(1)

    def run() -> tuple[int, float]:
        done, begin = 0, time.process_time()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert examples[next(positions)].view is not None
            done += 1
        return done, time.process_time() - begin

    profiler = cProfile.Profile()
    done, cpu = profiler.runcall(run) if profile else run()
    print(
        f"examples of segment_ti: {done / cpu:.2f} records per second of one core ({done} records)"
    )
    parts(source, min(done, 12))
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(18)


def parts(source: sources.Source, count: int) -> None:
    """What reading and decoding alone take, in milliseconds of one core a record."""
    records, reading = timed(source.read, range(count))
    data = [record.picture.data for record in records]  # pyright: ignore[reportAttributeAccessIssue]
    _, fast = timed(simplejpeg.decode_jpeg, data)
    decoded, slow = timed(lambda x: Image.open(io.BytesIO(x)).convert("RGB"), data)
    _, resizing = timed(lambda x: x.resize((1024, 1024), Image.Resampling.BILINEAR), decoded)
    for name, each in (
        ("read and parse", reading),
        ("simplejpeg", fast),
        ("Pillow", slow),
        ("Pillow, resize to 1024", resizing),
    ):
        print(f"  {name}: {1000 * each:.1f} ms a record")


def timed(function: Callable[[Any], Any], values: Iterable[Any]) -> tuple[list[Any], float]:
    """The results, and seconds of one core for each."""
    begin = time.process_time()
    found = [function(value) for value in values]
    return found, (time.process_time() - begin) / len(found)


def index(count: int, of_one: int = 11_186) -> None:
    """Indexes as of SA-1B's archives, whose pictures are numbered in turn."""
    with tempfile.TemporaryDirectory() as folder:
        root, stored = Path(folder), 0
        for tar, first in enumerate(range(1, count + 1, of_one)):
            path = root / f"sa_{tar:06}.tar"
            rows = np.zeros(2 * min(of_one, count + 1 - first), tar_index.ROW)
            rows["head"] = 1
            rows["number"] = first + np.arange(len(rows)) // 2
            rows["tail"] = 2 + np.arange(len(rows)) % 2
            rows["block"] = np.arange(len(rows)) * 900 + 1
            rows["size"] = 400_000
            with path.open("wb") as file:
                file.truncate(len(rows) * 900 * 512 + 2**20)
            strings = ("", "sa_", ".jpg", ".json")
            made = tar_index.Index(tar_index.stamp_of(path), strings, rows, {})
            tar_index.write(made, tars.index_file(path, root, None))
            stored += tars.index_file(path, root, None).stat().st_size
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.monotonic(), time.process_time()
        source = sources.open_source(Sa1bConfig(path=folder))
        wall, cpu = time.monotonic() - begin[0], time.process_time() - begin[1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        listed = source._files.files  # pyright: ignore[reportAttributeAccessIssue]
        assert len(source) == count and source.name(0) == "sa_1.jpg"
        print(f"{count} records in {tar + 1} archives: {stored / count:.1f} bytes each on disk,")
        print(f"  {listed.rows.nbytes / count:.1f} in memory, {1024 * peak / count:.1f} at most")
        print(f"  opened in {wall:.1f} s ({cpu:.1f} s of one core)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["make", "read", "index"])
    parser.add_argument("tar", type=Path, nargs="?")
    parser.add_argument("--pictures", type=Path, help="a folder of pictures, at any depth")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--distinct", type=int, default=10, help="records that are not repeated")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    if args.what == "make":
        make(args.tar, args.pictures, args.count, min(args.distinct, args.count))
    elif args.what == "read":
        read(args.tar, args.seconds, args.profile)
    else:
        index(args.count)
