"""Labels land where the person who drew them saw them, whatever turn a picture's EXIF asks for."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import nano, whole
from PIL import Image, ImageOps

from esam_jax.config import CocoConfig, PromptedConfig, Sa1bConfig, SourceConfig
from esam_jax.data import sources
from esam_jax.data.examples import Examples, Tally
from esam_jax.errors import DataError
from esam_jax.evaluate.protocol import Protocol
from esam_jax.ops import regions

BLOCK = (slice(4, 20), slice(6, 30))  # of the picture in which the labels were drawn
TALL, SQUARE = (80, 48), (64, 64)
TURNS = range(1, 9)
# What EXIF's numbers undo, as a picture is stored: the inverse of `exif_transpose`.
INVERSE = {6: 8, 8: 6}


def seen(height: int, width: int) -> np.ndarray:
    picture = np.full((height, width, 3), 90, np.uint8)
    picture[BLOCK] = (250, 40, 40)
    return picture


def stored(upright: np.ndarray, turn: int) -> Image.Image:
    """The pixels of a file that a viewer with EXIF shows as `upright`."""
    turned = Image.fromarray(upright)
    turned.getexif()[0x0112] = INVERSE.get(turn, turn)
    return ImageOps.exif_transpose(turned)


def save(path: Path, pixels: Image.Image, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels.save(path, quality=95, exif=exif)


def data(folder: Path, kind: str, pixels: Image.Image, turn: int, drawn_on: tuple, **config):
    """One picture with its block labelled in a frame of this (height, width)."""
    height, width = drawn_on
    mask = np.zeros((height, width), bool)
    mask[BLOCK] = True
    rle = regions.to_rle(mask)
    if kind == "sa1b":
        save(folder / "sa_1.jpg", pixels, turn)
        image = {"width": width, "height": height}
        content = {"image": image, "annotations": [{"segmentation": rle}]}
        (folder / "sa_1.json").write_text(json.dumps(content))
        return Sa1bConfig(path=str(folder), **config)
    save(folder / "images" / "p.jpg", pixels, turn)
    image = {"id": 1, "file_name": "p.jpg", "width": width, "height": height}
    content = {"images": [image], "annotations": [{"image_id": 1, "segmentation": rle}]}
    (folder / "instances.json").write_text(json.dumps(content))
    return CocoConfig(path=str(folder / "instances.json"), **config)


def overlap(source: SourceConfig) -> tuple[float, list[str]]:
    """IoU of the label with the red block of the picture that is read, and what is noted."""
    record = sources.open_source(source).read(0)
    pixels = record.picture.rgb().astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 120)
    (mask,) = whole.masks(record, 0)
    return (mask & red).sum() / (mask | red).sum(), [each.kind for each in record.findings]


@pytest.mark.parametrize("kind", ["coco", "sa1b"])
@pytest.mark.parametrize("turn", TURNS)
def test_labels_drawn_upright_lie_on_the_upright_picture(tmp_path: Path, kind: str, turn: int):
    for size in (TALL, SQUARE):
        config = data(tmp_path / str(size), kind, stored(seen(*size), turn), turn, size)
        iou, found = overlap(config)
        assert iou > 0.9
        both_fit = turn != 1 and (size == SQUARE or turn < 5)
        assert found == ["ambiguous_exif"] * both_fit


@pytest.mark.parametrize("kind", ["coco", "sa1b"])
@pytest.mark.parametrize("turn", TURNS)
def test_labels_drawn_on_the_stored_pixels_lie_there(tmp_path: Path, kind: str, turn: int):
    """Only where the sides are exchanged does the size say so; elsewhere the config does."""
    for size in (TALL, SQUARE):
        folder, pixels = tmp_path / str(size), Image.fromarray(seen(*size))
        sure = size == TALL and turn >= 5
        options = {} if sure else {"ambiguous_exif": "stored"}
        iou, found = overlap(data(folder, kind, pixels, turn, size, **options))
        assert iou > 0.9
        assert found == ["ambiguous_exif"] * (not sure and turn != 1)


def test_the_size_may_stand_in_the_run_lengths_alone(tmp_path: Path):
    config = data(tmp_path, "sa1b", stored(seen(*TALL), 6), 6, TALL)
    file = tmp_path / "sa_1.json"
    for image in ({}, {"width": "?", "height": None}, {"width": 48.5, "height": 80}):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"image": image}))
        iou, found = overlap(config)
        assert iou > 0.9 and found == []


def test_without_any_size_the_config_decides_and_says_so(tmp_path: Path):
    config = data(tmp_path, "coco", stored(seen(*TALL), 6), 6, TALL)
    file = tmp_path / "instances.json"
    content = json.loads(file.read_text())
    del content["images"][0]["width"]
    content["annotations"][0]["segmentation"] = [[6, 4, 30, 4, 30, 20, 6, 20]]
    file.write_text(json.dumps(content))
    iou, found = overlap(config)
    assert iou > 0.9 and found == ["ambiguous_exif"]


def test_a_size_of_neither_reading_is_refused(tmp_path: Path):
    config = data(tmp_path, "coco", stored(seen(*TALL), 6), 6, (80, 47))
    with pytest.raises(
        DataError,
        match=r"p\.jpg is 80 x 48 or, as stored, 48 x 80, but its annotations say 80 x 47",
    ):
        sources.open_source(config).read(0)


def test_training_and_evaluation_count_the_pictures_that_could_be_either(tmp_path: Path):
    images, annotations = [], []
    for turn in TURNS:
        save(tmp_path / "images" / f"{turn}.jpg", stored(seen(*SQUARE), turn), turn)
        images.append({"id": turn, "file_name": f"{turn}.jpg", "width": 64, "height": 64})
        polygon = [6, 4, 30, 4, 30, 20, 6, 20]
        annotations.append({"image_id": turn, "segmentation": [polygon]})
    content = {"images": images, "annotations": annotations}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    source = sources.open_source(CocoConfig(path=str(tmp_path / "instances.json")))
    tally = Tally(examples := Examples(source, PromptedConfig(image_px=64), seed=0), 0.1)
    for position in range(16):  # each twice
        tally.view_of(examples[position])
    assert tally.findings.counts() == {"ambiguous_exif": 7}
    (words,) = tally.findings.in_words()
    assert (
        words.startswith("7 ambiguous EXIF orientations, the first: ") and "read upright" in words
    )
    with pytest.warns(
        UserWarning, match="7 ambiguous EXIF orientations, the first: .* EXIF orientation"
    ):
        found = nano.measured(nano.sam("sam_nano"), source, Protocol(images=8, masks_per_image=1))
    assert found["ambiguous_exif"] == 7 and found["images"] == 8
