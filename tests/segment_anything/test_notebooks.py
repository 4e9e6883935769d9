"""The calls of segment-anything's three notebooks, from top to bottom, with the import changed."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import nano
from PIL import Image

from esam_jax.convert import model_folder, state_dict
from esam_jax.convert.families import registry
from esam_jax.errors import CheckpointError, ConfigError, MissingError, PromptError
from esam_jax.evaluate import parity_sam
from esam_jax.models import named
from esam_jax.segment_anything import (
    SamAutomaticMaskGenerator,
    SamPredictor,
    sam_model_registry,
)
from esam_jax.segment_anything.utils.transforms import ResizeLongestSide

HEIGHT, WIDTH = 75, 120


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SAM with random weights."""
    config = named.sam("sam_nano")
    folder = tmp_path_factory.mktemp("models") / "sam_nano"
    model_folder.write(folder, config, nano.params(config), source="a test")
    return folder


@pytest.fixture(params=["numpy", "torch"])
def tensors(request: pytest.FixtureRequest) -> Any:
    """What the notebooks call torch.tensor and torch.as_tensor."""
    if request.param == "numpy":
        return lambda value, device=None: np.asarray(value)
    torch = pytest.importorskip("torch")
    return lambda value, device=None: torch.as_tensor(np.asarray(value), device=device)


def picture(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return nano.picture(height, width, seed)


def test_the_predictors_notebook(checkpoint: Path, tensors: Any):
    image = picture()
    sam = sam_model_registry["default"](checkpoint=checkpoint)
    sam.to(device="cuda")
    predictor = SamPredictor(sam)
    predictor.set_image(image)

    # A single point, then the best of its masks again with a second one.
    input_point, input_label = np.array([[50, 37]]), np.array([1])
    masks, scores, logits = predictor.predict(
        point_coords=input_point, point_labels=input_label, multimask_output=True
    )
    assert masks.shape == (3, HEIGHT, WIDTH) and scores.shape == (3,)
    mask_input = logits[np.argmax(scores), :, :]
    input_point, input_label = np.array([[50, 37], [112, 62]]), np.array([1, 1])
    masks, _, _ = predictor.predict(
        point_coords=input_point,
        point_labels=input_label,
        mask_input=mask_input[None, :, :],
        multimask_output=False,
    )
    assert masks.shape == (1, HEIGHT, WIDTH)
    masks, _, _ = predictor.predict(
        point_coords=input_point,
        point_labels=np.array([1, 0]),
        mask_input=mask_input[None, :, :],
        multimask_output=False,
    )

    # A box, alone and with a point.
    input_box = np.array([42, 30, 70, 68])
    boxed, _, _ = predictor.predict(
        point_coords=None, point_labels=None, box=input_box[None, :], multimask_output=False
    )
    predictor.predict(
        point_coords=np.array([[57, 60]]),
        point_labels=np.array([0]),
        box=input_box,
        multimask_output=False,
    )

    # Several boxes at once.
    input_boxes = tensors(
        [[7, 12, 80, 60], [42, 30, 70, 68], [3, 4, 90, 74.8]], device=predictor.device
    )
    transformed_boxes = predictor.transform.apply_boxes_torch(input_boxes, image.shape[:2])
    masks, _, _ = predictor.predict_torch(
        point_coords=None, point_labels=None, boxes=transformed_boxes, multimask_output=False
    )
    assert masks.shape == (3, 1, HEIGHT, WIDTH)
    assert (masks[1].cpu().numpy() != boxed).sum() <= 1  # boxes there and back: float rounding

    # Several pictures, each with its boxes.
    resize_transform = ResizeLongestSide(sam.image_encoder.img_size)

    def prepare_image(image: np.ndarray, transform: Any, device: Any) -> Any:
        image = transform.apply_image(image)
        return tensors(image.transpose(2, 0, 1), device=device.device)

    image2, boxes2 = picture(1, 90, 60), tensors([[5, 6, 40, 80], [10, 3, 59, 50]], sam.device)
    batched_input = [
        {
            "image": prepare_image(each, resize_transform, sam),
            "boxes": resize_transform.apply_boxes_torch(boxes, each.shape[:2]),
            "original_size": each.shape[:2],
        }
        for each, boxes in ((image, input_boxes), (image2, boxes2))
    ]
    batched_output = sam(batched_input, multimask_output=False)
    assert batched_output[0].keys() == {"masks", "iou_predictions", "low_res_logits"}
    assert [x["masks"].shape for x in batched_output] == [(3, 1, 75, 120), (2, 1, 90, 60)]
    for found, wanted in zip(batched_output[0]["masks"], masks, strict=True):
        assert (found.cpu().numpy() != wanted.cpu().numpy()).sum() <= 2


def test_the_notebook_of_everything(checkpoint: Path):
    image = np.asarray(Image.fromarray(picture(3, 9, 14)).resize((70, 45)))
    sam = sam_model_registry["default"](checkpoint=str(checkpoint))
    sam.to(device="cuda")
    loose: dict[str, Any] = {"pred_iou_thresh": -9.0, "stability_score_thresh": 0.2}
    masks = SamAutomaticMaskGenerator(sam, points_per_side=3, **loose).generate(image)
    assert masks and masks[0].keys() == {
        "segmentation",
        "area",
        "bbox",
        "predicted_iou",
        "point_coords",
        "stability_score",
        "crop_box",
    }
    for annotation in sorted(masks, key=lambda x: x["area"], reverse=True):
        assert annotation["segmentation"].shape == (45, 70)
        assert annotation["segmentation"].sum() == annotation["area"]
    SamAutomaticMaskGenerator(
        model=sam,
        points_per_side=4,
        pred_iou_thresh=0.86,
        stability_score_thresh=0.92,
        crop_n_layers=1,
        crop_n_points_downscale_factor=2,
        min_mask_region_area=100,
    ).generate(image)


def test_the_notebook_of_the_exported_decoder(checkpoint: Path):
    """All but the export: the embedding, and points in the frame of the model, with its padding."""
    image = picture()
    sam = sam_model_registry["default"](checkpoint=checkpoint).eval()
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    image_embedding = predictor.get_image_embedding().cpu().numpy()
    assert image_embedding.shape == (1, 64, 8, 8) and type(image_embedding) is np.ndarray
    np.testing.assert_array_equal(image_embedding, predictor.features.cpu().numpy())
    input_point, input_box = np.array([[57, 60]]), np.array([42, 30, 70, 68])
    corners = np.concatenate([input_point, input_box.reshape(2, 2)], axis=0)[None, :, :]
    coords = predictor.transform.apply_coords(corners, image.shape[:2]).astype(np.float32)
    np.testing.assert_allclose(coords[0], corners[0] * [64 / 120, 40 / 75], rtol=1e-6)
    boxes = predictor.transform.apply_boxes(input_box[None], image.shape[:2])
    np.testing.assert_allclose(boxes[0], coords[0, 1:].ravel())
    masks, _, _ = predictor.predict_torch(
        coords[:, :1], np.array([[0]]), boxes, multimask_output=False, return_logits=True
    )
    masks = masks > predictor.model.mask_threshold
    wanted, _, _ = predictor.predict(input_point, [0], input_box, multimask_output=False)
    assert (masks[0].numpy() != wanted).sum() <= 1


def test_attributes_of_the_predictor(checkpoint: Path):
    predictor = SamPredictor(sam_model_registry["default"](checkpoint))
    predictor.set_image(picture())
    assert predictor.original_size == (HEIGHT, WIDTH) and predictor.input_size == (40, 64)
    assert predictor.is_image_set and predictor.device == "cpu" == predictor.model.device
    assert predictor.model.image_format == "RGB" and predictor.model.mask_threshold == 0
    assert ResizeLongestSide.get_preprocess_shape(HEIGHT, WIDTH, 1024) == (640, 1024)
    predictor.reset_image()
    with pytest.raises(PromptError, match="set_image"):
        predictor.predict_torch(None, None, np.zeros((1, 4)))


def test_a_picture_resized_before(checkpoint: Path, tensors: Any):
    """Through bytes it is what set_image makes of it; as floats it is not rounded."""
    predictor = SamPredictor(sam_model_registry["default"](checkpoint))
    predictor.set_image(picture())
    wanted = predictor.features
    resized = predictor.transform.apply_image(picture())
    predictor.set_torch_image(tensors(resized.transpose(2, 0, 1)[None]), (HEIGHT, WIDTH))
    np.testing.assert_array_equal(predictor.features, wanted)
    assert predictor.original_size == (HEIGHT, WIDTH)
    floats = predictor.transform.apply_image_torch(tensors(picture().transpose(2, 0, 1)[None]))
    assert floats.shape == (1, 3, 40, 64)
    assert np.abs(floats[0].transpose(1, 2, 0) - resized).max() <= 1
    predictor.set_torch_image(floats, (HEIGHT, WIDTH))
    assert 0 < np.abs(predictor.features - wanted).max() < 0.3 * np.abs(wanted).max()


def test_a_resized_picture_is_torchs():
    torch = pytest.importorskip("torch")
    image = torch.from_numpy(picture().transpose(2, 0, 1)[None].copy()).float()
    wanted = torch.nn.functional.interpolate(
        image, (40, 64), mode="bilinear", align_corners=False, antialias=True
    )
    found = ResizeLongestSide(64).apply_image_torch(image)
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-2)


def test_parameters_are_counted_as_pytorch_counts_them(checkpoint: Path):
    sam = sam_model_registry["default"](checkpoint)
    model = named.sam("sam_nano")
    # All tensors of the original's state dict but its one buffer.
    state = state_dict.to_state_dict(nano.params(model), registry.of_layout(model), model)
    buffer = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    wanted = sum(x.size for name, x in state.items() if name != buffer)
    assert buffer in state and sum(p.numel() for p in sam.parameters()) == wanted
    first = next(sam.parameters())
    assert (first.device, first.dtype) == ("cpu", np.float32)
    with pytest.raises(ValueError, match="read-only"):
        first[:] = 0


def test_padding_is_a_token_and_changes_the_answer_in_the_same_way_everywhere(
    checkpoint: Path, tensors: Any
):
    sam = sam_model_registry["default"](checkpoint)
    predictor = SamPredictor(sam)
    predictor.set_image(picture())
    points, labels = np.array([[[9, 12], [60, 70], [-5, 999]]]), np.array([[1, 0, -1]])
    coords = predictor.transform.apply_coords(points, (HEIGHT, WIDTH))
    masks, scores, low_res = predictor.predict_torch(tensors(coords), tensors(labels))
    _, their_scores, logits = predictor.predict(points[0], labels[0])
    np.testing.assert_allclose(logits, low_res[0], atol=1e-5)
    np.testing.assert_allclose(their_scores, scores[0], atol=1e-5)
    image = predictor.transform.apply_image(picture()).transpose(2, 0, 1)
    asked = {"image": tensors(image), "original_size": (HEIGHT, WIDTH)}
    prompts = {"point_coords": tensors(coords), "point_labels": tensors(labels)}
    [found] = sam([{**asked, **prompts}], multimask_output=True)
    np.testing.assert_allclose(found["low_res_logits"], low_res, atol=1e-5)
    _, _, plain = predictor.predict(points[0, :2], labels[0, :2])
    assert np.abs(plain - logits).max() > 1e-3
    # Without any prompt there is one answer, as in the original.
    masks, scores, none = predictor.predict_torch(None, None)
    assert masks.shape == (1, 3, HEIGHT, WIDTH) and scores.shape == (1, 3)
    np.testing.assert_array_equal(predictor.predict()[2], none[0])
    [found] = sam([asked], multimask_output=True)
    np.testing.assert_allclose(found["low_res_logits"], none, atol=1e-5)


@pytest.mark.skipif(not parity_sam.has_transformers(), reason="transformers is not installed")
def test_answers_are_those_of_transformers(checkpoint: Path):
    import torch

    sam = sam_model_registry["default"](checkpoint)
    theirs = parity_sam.transformers_model(sam.params, sam.config)
    predictor = SamPredictor(sam)
    predictor.set_image(picture())
    boxes = np.array([[7, 12, 80, 60], [42, 30, 70, 68]], np.float32)
    points, labels = np.array([[[9, 12], [60, 70]]], np.float32), np.array([[1, 0]])
    padded, padding = np.array([[1, -1]]), np.array([[-1, -1]])
    transform, embedding = predictor.transform, torch.from_numpy(predictor.features.numpy())
    size = (HEIGHT, WIDTH)
    inputs = transform.apply_boxes_torch(boxes, size), transform.apply_coords_torch(points, size)
    for multimask in (True, False):
        ask = functools.partial(theirs, image_embeddings=embedding, multimask_output=multimask)
        with torch.no_grad():
            of_boxes = ask(input_boxes=torch.tensor(inputs[0].numpy())[None])
            of_points = ask(
                input_points=torch.tensor(inputs[1].numpy())[None],
                input_labels=torch.tensor(labels)[None],
            )
            of_padded, of_padding = (
                ask(
                    input_points=torch.tensor(inputs[1].numpy())[None],
                    input_labels=torch.tensor(marks)[None],
                )
                for marks in (padded, padding)
            )
            of_nothing = ask()
        calls = [
            (None, None, inputs[0]),
            (inputs[1], labels, None),
            (inputs[1], padded, None),
            (inputs[1], padding, None),
            (None, None, None),
        ]
        answers = (of_boxes, of_points, of_padded, of_padding, of_nothing)
        for call, answer in zip(calls, answers, strict=True):
            masks, scores, low_res = predictor.predict_torch(*call, multimask_output=multimask)
            scale = answer.pred_masks.abs().max()
            np.testing.assert_allclose(low_res, answer.pred_masks[0], atol=2e-5 * scale)
            np.testing.assert_allclose(scores, answer.iou_scores[0], atol=2e-5 * scale)
            assert masks.shape == (*answer.iou_scores.shape[1:], HEIGHT, WIDTH)


def test_what_is_wrong_is_named(checkpoint: Path):
    with pytest.raises(MissingError, match="checkpoint is None"):
        sam_model_registry["vit_b"]()
    with pytest.raises(CheckpointError, match=r'is not sam_b: .*sam_model_registry\["default"\]'):
        sam_model_registry["vit_b"](checkpoint=checkpoint)
    sam = sam_model_registry["default"](checkpoint)
    predictor = SamPredictor(sam)
    with pytest.raises(PromptError, match=r"transformed_image has shape \(3, 75, 120\)"):
        predictor.set_torch_image(picture().transpose(2, 0, 1)[None], (HEIGHT, WIDTH))
    predictor.set_image(picture())
    for call, message in (
        ((None, None, np.zeros(4)), r"boxes has shape \(4,\), but must be \[N 4\]"),
        ((np.zeros((1, 2, 2)), None), "point_coords and point_labels belong together"),
        ((np.zeros((2, 1, 2)), np.ones((2, 1)), np.ones((3, 4))), "different numbers of rows"),
    ):
        with pytest.raises(PromptError, match=message):
            predictor.predict_torch(*call)
    stretching = SamPredictor(nano.sam("efficientsam_nano"))
    with pytest.raises(ConfigError, match="stretches pictures"):
        stretching.transform.apply_coords([[1, 2]], (HEIGHT, WIDTH))
