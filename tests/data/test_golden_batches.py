"""The first batches of every source are those that earlier versions read: order, draws and pixels.

`python tests/data/test_golden_batches.py` rewrites the file; review its diff.
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from esam_jax import sharding
from esam_jax.config import (
    CocoConfig,
    CropConfig,
    DataConfig,
    ImageFolderConfig,
    MeshConfig,
    PromptedConfig,
    Sa1bConfig,
    ScenesConfig,
    SourceConfig,
)
from esam_jax.data import loader, sources
from esam_jax.ops import regions

GOLDEN = Path(__file__).parents[1] / "golden" / "batches.json"
BATCHES, BATCH, SEEDS = 20, 4, (0, 7)


def picture(number: int) -> np.ndarray:
    """Blocks of random colours, of another size for every number."""
    rng = np.random.default_rng(number)
    blocks = rng.integers(0, 256, (5 + number % 3, 6 + number % 4, 3), np.uint8)
    return blocks.repeat(9, 0).repeat(7, 1)


def masks(number: int, height: int, width: int) -> list[dict]:
    """Up to five rectangles, as run lengths."""
    rng = np.random.default_rng((number, 1))
    found = []
    for _ in range(number % 6):
        mask = np.zeros((height, width), bool)
        y, x = rng.integers(0, height - 12), rng.integers(0, width - 12)
        mask[y : y + rng.integers(4, height - y), x : x + rng.integers(4, width - x)] = True
        found.append(regions.to_rle(mask))
    return found


def save(path: Path, number: int) -> None:
    """PNG whatever the name is, for JPEG decoders differ; number 3 is broken."""
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(picture(number)).save(path, "PNG")
    if number == 3:
        path.write_bytes(path.read_bytes()[:200])


def scenes(root: Path) -> SourceConfig:
    return ScenesConfig(scenes=11, scene_px=32)


def image_folder(root: Path) -> SourceConfig:
    for number in range(11):
        save(root / f"{number % 2}" / f"{number}.png", number)
    return ImageFolderConfig(path=str(root))


def sa1b(root: Path) -> SourceConfig:
    for number in range(11):
        path = root / f"sa_{number}.jpg"
        save(path, number)
        found = [{"segmentation": rle} for rle in masks(number, *picture(number).shape[:2])]
        path.with_suffix(".json").write_text(json.dumps({"annotations": found}))
    return Sa1bConfig(path=str(root))


def coco(root: Path) -> SourceConfig:
    images, annotations = [], []
    for number in range(11):
        height, width, _ = picture(number).shape
        save(root / "images" / f"{number}.png", number)
        images.append(
            {"id": 50 - number, "file_name": f"{number}.png", "height": height, "width": width}
        )
        polygon = [[1, 1, 20, 3 + number, 9, 25]]
        annotations += [
            {"image_id": 50 - number, "segmentation": each}
            for each in [*masks(number, height, width), polygon]
        ]
    (root / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return CocoConfig(path=str(root / "instances.json"))


PROMPTED = PromptedConfig(image_px=32, masks=3, min_area_px=12, flip="horizontal")
CASES: dict[str, tuple[Callable[[Path], SourceConfig], CropConfig | PromptedConfig]] = {
    "scenes": (scenes, PROMPTED),
    "image_folder": (image_folder, CropConfig(image_px=16)),
    "sa1b": (sa1b, PROMPTED),
    "coco": (coco, PromptedConfig(image_px=48, fit="pad", masks=4, min_area_px=12)),
}


def digests(name: str, seed: int, root: Path) -> list[str]:
    """One for each batch, over all of its arrays.

    Without the pixels of scenes, which differ by a level where the sine of a processor does.
    """
    source, view = CASES[name]
    data = DataConfig(source=source(root), view=view, threads=2, max_broken_share=0.5)
    found = []
    opened, mesh = sources.open_source(data.source), sharding.make_mesh(MeshConfig(data=1))
    with loader.stream(opened, data, seed=seed, batch=BATCH, mesh=mesh) as stream:
        for _ in range(BATCHES):
            batch = next(stream)
            digest = 0
            for key in sorted(batch):
                if (name, key) != ("scenes", "image"):
                    digest = zlib.crc32(np.ascontiguousarray(batch[key]).tobytes(), digest)
            found.append(f"{digest:08x}")
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CASES)
def test_batches_are_those_of_earlier_versions(name: str, seed: int, tmp_path: Path):
    expected = json.loads(GOLDEN.read_text())[name][str(seed)]
    assert digests(name, seed, tmp_path) == expected


if __name__ == "__main__":
    import tempfile

    written: dict[str, dict[str, list[str]]] = {}
    for case in CASES:
        for number in SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                written.setdefault(case, {})[str(number)] = digests(case, number, Path(folder))
    GOLDEN.write_text(json.dumps(written, indent=1) + "\n")
