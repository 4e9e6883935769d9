import jax.numpy as jnp
import numpy as np
import pytest

from esam_jax.config import CropConfig, PromptedConfig
from esam_jax.data import views
from esam_jax.data.bitmaps import Bitmap, Grid
from esam_jax.data.pictures import Pixels
from esam_jax.data.records import Record
from esam_jax.data.views import draws
from esam_jax.errors import ConfigError
from esam_jax.models import named
from esam_jax.ops import images
from esam_jax.predict import frames


class Masks:
    """Masks in an array, counting what is decoded."""

    def __init__(self, masks: np.ndarray) -> None:
        self.masks, self.decoded = masks, 0

    def __len__(self) -> int:
        return len(self.masks)

    def sample(self, index: int, grid: Grid) -> Bitmap:
        self.decoded += 1
        return Bitmap.of(self.masks[index][grid.rows][:, grid.columns])


def record_of(image: np.ndarray, masks: Masks | None = None) -> Record:
    return Record("x", Pixels(image), {} if masks is None else {"masks": masks})


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(height: int, width: int) -> np.ndarray:
    """Red is the row, green the column: a pixel says where it comes from."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, rows * 0], -1).astype(np.uint8)


def unpack(view: dict) -> np.ndarray:
    return np.unpackbits(view["masks"], axis=-1).astype(bool)


def prompted(array: np.ndarray, **config: object) -> dict | None:
    record = record_of(picture(*array.shape[1:]), Masks(array))
    return views.make(record, PromptedConfig(image_px=32, **config), rng())


# ---------------------------------------------------------------------------------------- crop


def test_crop_is_a_part_of_the_picture_with_an_allowed_shape():
    config = CropConfig(image_px=32, min_scale=0.2, flip="none")
    for seed in range(50):
        image = views.make(record_of(picture(200, 150)), config, rng(seed))["image"]
        assert image.shape == (32, 32, 3) and image.dtype == np.uint8
        # A ramp's slope tells the size of the crop: 32 new pixels span height x width old ones.
        height = (image[-3, :, 0].mean() - image[2, :, 0].mean()) / 27 * 32
        width = (image[:, -3, 1].mean() - image[:, 2, 1].mean()) / 27 * 32
        assert 0.18 < height * width / (200 * 150) <= 1.02
        assert 3 / 4 - 0.05 < width / height < 4 / 3 + 0.05


def test_crop_flips_half_the_time():
    config = CropConfig(image_px=16, flip="horizontal")
    record = record_of(picture(64, 64))
    flipped = 0
    for seed in range(200):
        green = views.make(record, config, rng(seed))["image"][..., 1].astype(int)
        flipped += int(green[0, 0] > green[0, -1])
    assert 70 < flipped < 130


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (200, 2)])
def test_crop_of_a_line(shape: tuple[int, int]):
    view = views.make(record_of(picture(*shape)), CropConfig(image_px=16), rng())
    assert view["image"].shape == (16, 16, 3)


# ------------------------------------------------------------------------------------ prompted


def test_stretched_masks_follow_the_picture():
    mask = np.zeros((1, 64, 96), bool)
    mask[0, 16:48, 24:48] = True
    view = prompted(mask, masks=3)
    assert view["image"].shape == (32, 32, 3)
    expected = np.zeros((32, 32), bool)
    expected[8:24, 8:16] = True
    assert (unpack(view)[0] == expected).all()
    assert not unpack(view)[1:].any()
    assert view["valid"].tolist() == [1, 0, 0]
    assert (view["labels"][1:] == -1).all() and (view["points"][1:] == 0).all()


def test_padding_keeps_the_ratio_and_fills_with_the_mean_colour():
    mask = np.zeros((1, 64, 128), bool)
    mask[0, :, 64:] = True
    view = prompted(mask, fit="pad")
    assert (unpack(view)[0, :16, 16:]).all() and unpack(view)[0].sum() == 16 * 16
    assert (view["image"][16:] == [124, 116, 104]).all()
    assert (np.diff(view["image"][:16, :, 1].astype(int), axis=1) >= 0).all()


@pytest.mark.parametrize("model", ["efficientsam_nano", "sam_nano"])
@pytest.mark.parametrize("shape", [(130, 190), (190, 130), (20, 33), (3, 400)])
def test_training_sees_the_pixels_of_inference(model: str, shape: tuple[int, int]):
    config = named.sam(model)
    image = rng(1).integers(0, 256, (*shape, 3), np.uint8)
    masks = Masks(np.ones((1, *shape), bool))
    view = views.make(
        record_of(image, masks),
        PromptedConfig(image_px=config.image_px, fit=config.fit, min_area_px=1, max_area=1.0),
        rng(),
    )
    found = np.asarray(images.normalise(jnp.asarray(view["image"])))
    # Rounding to uint8 is half a level of 255; the padding's mean colour is rounded too.
    half_a_level = 0.5 / 255 / images.STD.min()
    difference = np.abs(found - frames.to_input(image, config)).max()
    assert difference <= half_a_level * 1.01


def test_masks_and_prompts_are_flipped_with_the_picture():
    image = picture(32, 32)
    mask = np.zeros((1, 32, 32), bool)
    mask[0, 3:20, 2:11] = True
    record = record_of(image, Masks(mask))
    config = PromptedConfig(image_px=32, flip="horizontal", box_noise=0.0)
    seen = set()
    for seed in range(20):
        view = views.make(record, config, rng(seed))
        flipped = bool(view["image"][0, 0, 1] > 0)
        seen.add(flipped)
        expected = mask[0, :, ::-1] if flipped else mask[0]
        assert (unpack(view)[0] == expected).all()
        x, y = view["points"][0, 0].astype(int)
        assert expected[y, x]
    assert seen == {True, False}


def test_masks_too_small_or_too_large_are_left_out():
    masks = np.zeros((4, 32, 32), bool)
    masks[0, :3, :5] = True  # 15 pixels
    masks[1, :4, :4] = True  # 16
    masks[2] = True  # all
    masks[3, :28] = True  # 0.875
    view = prompted(masks, masks=4, min_area_px=16, max_area=0.9)
    areas = unpack(view).sum((1, 2))
    assert sorted(areas.tolist()) == [0, 0, 16, 896] and view["valid"].sum() == 2


def test_area_is_a_share_of_the_picture_not_of_its_padding():
    masks = np.ones((1, 16, 32), bool)
    assert prompted(masks, fit="pad", max_area=0.9) is None


def test_no_usable_mask_is_none():
    assert prompted(np.zeros((0, 9, 9), bool)) is None
    assert prompted(np.zeros((2, 9, 9), bool), min_area_px=0) is None


def test_at_most_the_asked_number_is_chosen_and_no_more_decoded():
    masks = np.zeros((100, 32, 32), bool)
    masks[:, 4:20, 4:20] = True
    masks[np.arange(100), 0, np.arange(100) % 32] = True
    record = record_of(picture(32, 32), Masks(masks))
    view = views.make(record, PromptedConfig(image_px=32, masks=10), rng())
    assert view["valid"].sum() == 10
    assert record.annotation("masks").decoded == 10
    other = views.make(record, PromptedConfig(image_px=32, masks=10), rng(1))
    assert (other["masks"] != view["masks"]).any()


def test_a_line_of_pixels_survives_padding():
    view = prompted(np.ones((1, 1, 4000), bool), fit="pad", min_area_px=1, max_area=1.0)
    assert unpack(view)[0].sum() == 32


def test_prompted_views_need_masks():
    with pytest.raises(ConfigError, match="without masks"):
        views.make(record_of(picture(8, 8)), PromptedConfig(image_px=32), rng())


def test_generators_differ_by_each_part_of_their_key():
    keys = [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"), (0, 0, "a", 1)]
    drawn = [draws.generator(*key).integers(2**62) for key in keys]
    assert len(set(drawn)) == len(keys)
    assert drawn[0] == draws.generator(0, 0, "a").integers(2**62)
