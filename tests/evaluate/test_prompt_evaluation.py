"""The measurement follows its protocol: an oracle scores 1, a filled box scores the baseline."""

import dataclasses

import numpy as np
import pytest
from helpers import nano

from esam_jax.config import ScenesConfig
from esam_jax.data import sources
from esam_jax.data.bitmaps import Bitmap, Grid
from esam_jax.data.findings import KINDS
from esam_jax.data.pictures import Pixels
from esam_jax.data.records import Record
from esam_jax.errors import ConfigError, DataError
from esam_jax.evaluate import prompts
from esam_jax.models import named
from esam_jax.ops import regions


@dataclasses.dataclass
class Masks:
    """A MaskSet in memory."""

    masks: np.ndarray

    def __len__(self) -> int:
        return len(self.masks)

    def sample(self, index: int, grid: Grid) -> Bitmap:
        if not self.masks[index].any():
            raise DataError(f"mask {index} is broken")
        return Bitmap.of(self.masks[index][grid.rows][:, grid.columns])


class Pictures:
    """A Source in memory; the picture's first pixel is its index, so that a fake can find it."""

    def __init__(self, masks: list[np.ndarray | None]) -> None:
        self._masks = masks

    def __len__(self) -> int:
        return len(self._masks)

    def name(self, index: int) -> str:
        return f"picture {index}"

    def read(self, index: int) -> Record:
        masks = self._masks[index]
        image = np.full((24, 32, 3), index, np.uint8)
        return Record(
            self.name(index), Pixels(image), {} if masks is None else {"masks": Masks(masks)}
        )


class Fake:
    """Answers each prompt with what `answer(masks of the picture, prompt)` says, two at a time."""

    rows, read, own = 2, (0, 1), frozenset((0, 1))

    def __init__(self, answer) -> None:
        self._answer = answer

    def __call__(self, asked):
        return {
            row: np.array(
                [
                    [
                        regions.iou(self._answer(question.masks, prompt), mask)
                        for prompt, mask in zip(prompts, question.masks, strict=True)
                    ]
                    for prompts in (question.boxes, question.clicks)
                ]
            )
            for row, question in asked.items()
        }


def ellipse(x: float, y: float, a: float, b: float) -> np.ndarray:
    rows, columns = np.mgrid[:24, :32]
    return ((columns - x) / a) ** 2 + ((rows - y) / b) ** 2 < 1


THREE = np.stack([ellipse(8, 8, 6, 5), ellipse(22, 12, 7, 9), ellipse(5, 20, 3, 3)])
DOT = np.zeros((1, 24, 32), bool)
DOT[0, 2:5, 2:7] = True  # 15 pixels: one too few
LINE = np.zeros((1, 24, 32), bool)
LINE[0, 3, 4:24] = True


def oracle(masks: np.ndarray, prompt) -> np.ndarray:
    """The mask under the point, or the one whose tight box was given."""
    if len(prompt.points):
        x, y = prompt.points[0].astype(int)
        return next(mask for mask in masks if mask[y, x])
    return next(mask for mask in masks if (prompts._box(Bitmap.of(mask)) == prompt.box).all())


def filled(masks: np.ndarray, prompt) -> np.ndarray:
    out = np.zeros((24, 32), bool)
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box.astype(int)
        out[y0 : y1 + 1, x0 : x1 + 1] = True
    return out


def evaluate(source: Pictures, answer, **options) -> dict:
    chosen = prompts.Selection(**{"images": 9, "masks_per_image": 9, "seed": 0} | options)
    found, reasons = prompts.measure(Fake(answer), source, chosen)
    noted = dict(zip(KINDS, found.noted, strict=True))
    counts = {"masks": found.fill_box.count, "skipped": found.skipped, "reasons": reasons}
    return found.means() | counts | {kind: count for kind, count in noted.items() if count}


def test_an_oracle_scores_one_from_box_and_from_point():
    source = Pictures([THREE, LINE, THREE[:1]])
    for click in ("uniform", "centre"):
        result = evaluate(source, oracle, click=click)
        assert (result["box_miou"], result["point_miou"]) == (1, 1)
        assert result["masks"] == 5


def test_filling_the_box_scores_the_baseline():
    result = evaluate(Pictures([THREE]), filled)
    assert (
        result["box_miou"]
        == result["fill_box"]
        == pytest.approx(np.mean([mask.sum() / box_area(mask) for mask in THREE]), abs=1e-6)
    )
    assert result["point_miou"] == 0


def box_area(mask: np.ndarray) -> int:
    rows, columns = np.nonzero(mask)
    return int((np.ptp(rows) + 1) * (np.ptp(columns) + 1))


def test_tiny_masks_are_left_out():
    assert evaluate(Pictures([np.concatenate([DOT, THREE])]), oracle)["masks"] == 3
    assert evaluate(Pictures([DOT, DOT]), oracle)["masks"] == 0
    with pytest.raises(DataError, match="none of 2 pictures has a usable mask of 16 pixels or"):
        prompts.evaluate(
            nano.sam("sam_nano"), Pictures([DOT, DOT]), images=9, masks_per_image=9, seed=0
        )


def test_the_seed_draws_pictures_and_masks():
    source = Pictures([THREE] * 7)
    assert evaluate(source, oracle, images=4, masks_per_image=2)["masks"] == 8
    chosen = prompts.Selection(images=4, masks_per_image=2, seed=0)
    assert "4 of 7 pictures and up to 2 masks" in chosen.words(named.sam("sam_nano"), 7)
    asked = [prompts.ask(source.read(3), 2, (seed, 3), "uniform") for seed in (0, 0, 1)]
    points = [[click.points.tolist() for click in question.clicks] for question in asked]
    assert points[0] == points[1] != points[2]


def test_a_source_without_masks_is_an_error():
    with pytest.raises(ConfigError, match="picture 1 comes from a source without masks"):
        evaluate(Pictures([THREE, None]), oracle)


NOTHING = np.zeros((1, 24, 32), bool)  # which the masks here call broken


def test_a_broken_mask_costs_itself_and_a_picture_only_where_no_other_is_left():
    source = Pictures([np.concatenate([THREE, NOTHING]), np.repeat(NOTHING, 2, 0), LINE])
    with pytest.warns(UserWarning) as warned:
        result = evaluate(source, oracle)
    assert (result["masks"], result["skipped"], result["objects_left_out"]) == (4, 1, 1)
    assert result["box_miou"] == 1
    lost = "picture 1: 2 of 2 objects cannot be used, the first: mask "
    assert result["reasons"][0].startswith(lost) and result["reasons"][1:] == ["mask 3 is broken"]
    (text,) = [str(each.message) for each in warned]
    assert f"1 broken picture left out, the first: {lost}" in text
    assert "1 object left out, the first: mask 3 is broken" in text


def test_nothing_that_is_usable_gives_no_numbers():
    with pytest.warns(UserWarning, match="1 broken picture left out"):
        nothing = evaluate(Pictures([NOTHING]), oracle)
    assert (nothing["masks"], nothing["skipped"]) == (0, 1) and "box_miou" not in nothing


def test_the_nano_model_on_scenes():
    source = sources.open_source(ScenesConfig(split="heldout"))
    settings = {"images": 5, "masks_per_image": 3, "seed": 2}
    sam = nano.sam("efficientsam_nano")
    first = prompts.evaluate(sam, source, **settings)
    assert first == prompts.evaluate(sam, source, **settings)
    assert 0 <= first["point_miou"] <= 1 and 0.3 < first["fill_box"] < 1
    assert "logits >= 0" in first["protocol"]
