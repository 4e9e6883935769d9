"""Small data sets in the layouts of the paper's, drawn at random, and what is in them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from esam_jax.ops import regions


def picture(path: Path, height: int = 12, width: int = 20, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def png(path: Path, values: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image = image.convert("P")
        image.putdata(values.ravel().tolist())
        image.putpalette([value % 256 for value in range(0, 3 * 256)])
    image.save(path)


def coloured(numbers: np.ndarray) -> np.ndarray:
    """Numbers of segments as COCO paints them, one byte after the other."""
    return np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16 & 255], -1).astype(np.uint8)


# Of the first picture of `panoptic`: segments by number, as rows and columns.
SEGMENTS = {
    70_000: (slice(0, 4), slice(0, 20)),
    300: (slice(4, 12), slice(0, 9)),
    7: (slice(4, 10), slice(9, 20)),
}


def panoptic(root: Path, official: bool = True) -> Path:
    """Pictures a (three segments, one a crowd, and nothing below) and b (one segment); its json."""
    numbers = np.zeros((2, 12, 20), np.int32)
    for number, place in SEGMENTS.items():
        numbers[0][place] = number
    numbers[1] = 5
    annotations: Any = [
        [
            {"id": 70_000, "category_id": 187, "bbox": [0, 0, 20, 4], "iscrowd": 0},
            {"id": 300, "category_id": 1, "bbox": [0, 4, 9, 8], "iscrowd": 0},
            {"id": 7, "category_id": 1, "iscrowd": 1},
        ],
        [{"id": 5, "category_id": 3}],
    ]
    images = root / ("val2017" if official else "images")
    maps = root / ("annotations/panoptic_val2017" if official else "panoptic")
    for name, values in zip("ab", numbers, strict=True):
        picture(images / f"{name}.jpg")
        png(maps / f"{name}.png", coloured(values))
    content = {
        "images": [
            {"id": i, "file_name": f"{name}.jpg", "height": 12, "width": 20}
            for i, name in enumerate("ab")
        ],
        "annotations": [
            {"image_id": i, "file_name": f"{name}.png", "segments_info": segments}
            for i, (name, segments) in enumerate(zip("ab", annotations, strict=True))
        ],
        "categories": [
            {"id": 1, "name": "person", "isthing": 1},
            {"id": 3, "name": "car", "isthing": 1},
            {"id": 187, "name": "sky", "isthing": 0},
        ],
    }
    path = root / ("annotations/panoptic_val2017.json" if official else "panoptic.json")
    path.write_text(json.dumps(content))
    return path


def semantic_maps(root: Path) -> Path:
    """ADE20K's layout: two pictures to train on and one to validate, with three classes."""
    rng = np.random.default_rng(3)
    for seed, name in enumerate(("training/a", "training/b", "validation/c")):
        picture(root / "images" / f"{name}.jpg", seed=seed)
        png(root / "annotations" / f"{name}.png", rng.integers(0, 4, (12, 20)).astype(np.uint8))
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    lines += [f"{i}\t0.1\t9\t9\t1\t{name}" for i, name in enumerate(("wall", "building", "sky"), 1)]
    (root / "objectInfo150.txt").write_text("\n".join(lines) + "\n")
    return root


def drawn_by_people(people: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Boundaries uint8 and regions uint16 [people, 12, 20]; each has some of the numbers 1 to 4."""
    rng = np.random.default_rng(seed)
    regions_ = rng.integers(1, 5, (people, 1, 1)) + (np.arange(20) > 9).astype(np.uint16)
    regions_ = np.broadcast_to(regions_, (people, 12, 20)).astype(np.uint16)
    return (rng.random((people, 12, 20)) < 0.2).astype(np.uint8), regions_


def matlab(boundaries: np.ndarray, segmentation: np.ndarray, packed: bool = True) -> bytes:
    """BSDS500's ground truth, as SciPy writes it."""
    cells = np.empty((1, len(boundaries)), object)
    for i, pair in enumerate(zip(segmentation, boundaries, strict=True)):
        struct = np.empty((1, 1), [("Segmentation", object), ("Boundaries", object)])
        struct[0, 0] = pair
        cells[0, i] = struct
    file = io.BytesIO()
    scipy.io.savemat(file, {"groundTruth": cells}, do_compression=packed)
    return file.getvalue()


def bsds(root: Path) -> Path:
    """The original layout: a picture to train on and two to validate."""
    data = root / "BSDS500" / "data"
    for seed, name in enumerate(("train/11", "val/12", "val/13")):
        picture(data / "images" / f"{name}.jpg", seed=seed)
        path = data / "groundTruth" / f"{name}.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(matlab(*drawn_by_people(2 + seed, seed)))
    return root


def davis(root: Path) -> Path:
    """DAVIS 2017: videos bear (three frames, objects 1 and 2, and void) and ant (two; 1)."""
    maps = {f"bear/0000{i}": frame(1, 2, i) for i in range(3)}
    maps |= {f"ant/0000{i}": frame(1, 1, i) for i in range(2)}
    maps["bear/00001"][11] = 255
    for seed, (name, values) in enumerate(maps.items()):
        picture(root / "JPEGImages" / "480p" / f"{name}.jpg", seed=seed)
        png(root / "Annotations" / "480p" / f"{name}.png", values, palette=True)
    picture(root / "JPEGImages" / "480p" / "ant" / "00002.jpg")  # without a map
    for split, names in (("val", "bear\n"), ("train", "ant\nabsent\n")):
        path = root / "ImageSets" / "2017" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(names)
    return root


def frame(first: int, second: int, shift: int) -> np.ndarray:
    """A map of two objects that move to the right."""
    values = np.zeros((12, 20), np.uint8)
    values[2:6, 1 + shift : 6 + shift] = first
    values[5:9, 8 + shift : 14 + shift] = second
    return values


def sav_frames(root: Path) -> Path:
    """SA-V's val set: a video of nine frames, of which three have maps of two objects.

    The objects overlap; the second is not visible in the last frame, and has no map in the first.
    """
    for number in range(9):
        picture(root / "JPEGImages_24fps" / "sav_1" / f"{number:05d}.jpg", seed=number)
    for shift, number in enumerate((0, 4, 8)):
        name, maps = f"{number:05d}.png", root / "Annotations_6fps" / "sav_1"
        png(maps / "000" / name, frame(1, 1, shift))
        if number:
            png(maps / "001" / name, frame(1, 0, shift) * 255 * (number == 4))
    (root / "sav_val.txt").write_text("sav_1\n")
    return root


def sav_jsons(root: Path, video: str = "sav_1", frames: int = 10) -> Path:
    """Masklets of a training video of 12 x 20; the video itself is another file."""
    root.mkdir(parents=True, exist_ok=True)
    shifts = range(-(-frames // 4))
    nothing = regions.to_rle(np.zeros((12, 20), bool))
    manual = [
        [regions.to_rle(frame(1, 0, i) > 0), nothing if i else regions.to_rle(frame(0, 1, i) > 0)]
        for i in shifts
    ]
    auto = [[regions.to_rle(frame(1, 1, i) > 0)] for i in shifts]
    for kind, masklets, ids in (("manual", manual, [4, 9]), ("auto", auto, [4])):
        content = {
            "video_id": video,
            "video_duration": frames / 24,
            "video_frame_count": float(frames),
            "video_height": 12.0,
            "video_width": 20.0,
            "masklet": masklets,
            "masklet_id": ids,
        }
        (root / f"{video}_{kind}.json").write_text(json.dumps(content))
    return root
