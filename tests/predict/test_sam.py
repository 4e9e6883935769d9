"""Encoding once and decoding often gives what the network gives, however it is grouped."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nano
from PIL import Image

import esam_jax
from esam_jax.config import ComputeConfig
from esam_jax.convert import save
from esam_jax.convert.formats import safetensors_file
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError, DataError, MissingError, PromptError
from esam_jax.models import named
from esam_jax.models.sam.network import Sam as Network
from esam_jax.predict import programs
from esam_jax.predict.embedding import Embedding
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.sam import Sam

HEIGHT, WIDTH = 40, 56
PROMPTS = [
    Prompt(points=[[10, 12]]),
    Prompt(box=[3, 4, 30, 25]),
    Prompt(points=[[10, 12], [40.5, 30]], box=[3, 4, 50, 36]),
    Prompt(points=[[33, 20], [41, 7], [2, 3]]),
]


@functools.cache
def embedding(name: str) -> Embedding:
    return nano.sam(name).encode(nano.picture(HEIGHT, WIDTH))


@pytest.fixture(params=nano.NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_shapes_and_order(name: str):
    masks = nano.sam(name).decode(embedding(name), PROMPTS)
    assert masks.low_res.shape == (4, 3, 32, 32) and masks.scores.shape == (4, 3)
    assert masks.logits.shape == (4, 3, HEIGHT, WIDTH) and np.isfinite(masks.low_res).all()


def test_the_single_mask_is_none_of_the_three():
    sam, encoded = nano.sam("efficientsam_nano"), embedding("efficientsam_nano")
    single = sam.decode(encoded, PROMPTS[:1], multimask=False)
    assert single.low_res.shape == (1, 1, 32, 32) and single.scores.shape == (1, 1)
    three = sam.decode(encoded, PROMPTS[:1])
    assert np.abs(three.low_res - single.low_res).max(axis=(2, 3)).min() > 1e-3


def test_queries_do_not_see_each_other(name: str):
    sam = nano.sam(name)
    together = sam.decode(embedding(name), PROMPTS)
    for i in (0, 2):
        alone = sam.decode(embedding(name), [PROMPTS[i]])
        np.testing.assert_allclose(alone.low_res[0], together.low_res[i], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(alone.scores[0], together.scores[i], rtol=1e-4, atol=1e-4)
    order = [3, 0, 2, 1]
    permuted = sam.decode(embedding(name), [PROMPTS[i] for i in order])
    np.testing.assert_allclose(permuted.low_res, together.low_res[order], rtol=1e-4, atol=1e-4)


def test_the_network_called_by_hand_agrees():
    """SAM's tokens of a point: the point, then "not a point"; 64/56 pixels of input per pixel."""
    sam, encoded = nano.sam("sam_nano"), embedding("sam_nano")
    points = np.array([[[[10 * 64 / 56, 12 * 46 / 40], [0, 0]]]], np.float32)
    labels = np.array([[[1, -1]]], np.int32)
    logits, iou = programs.decode(sam.model, sam.params, encoded.features, points, labels, None)
    masks = sam.decode(encoded, PROMPTS[:1])
    np.testing.assert_allclose(masks.low_res[0], logits[0, 0, 1:], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(masks.scores[0], iou[0, 0, 1:], rtol=1e-4, atol=1e-4)


def test_pictures_of_any_sizes_together_or_apart(name: str):
    sam = nano.sam(name)
    pictures = [nano.picture(40, 56), nano.picture(64, 64, 1), nano.picture(90, 17, 2)]
    lists = [PROMPTS[:1], [Prompt(box=[1, 2, 60, 50])], [Prompt(points=[[16, 80]])]]
    together = sam.decode(sam.encode(pictures), lists)
    for picture, prompts, masks in zip(pictures, lists, together, strict=True):
        alone = sam.decode(sam.encode(picture), prompts)
        assert (masks.height, masks.width) == picture.shape[:2]
        np.testing.assert_allclose(masks.low_res, alone.low_res, rtol=1e-4, atol=1e-4)


def test_a_batch_array_is_a_list_of_pictures():
    sam = nano.sam("sam_nano")
    batch = np.stack([nano.picture(64, 64, seed) for seed in range(2)])
    encoded = sam.encode(batch)
    assert not encoded.single and encoded.sizes == ((64, 64), (64, 64))
    assert isinstance(sam.decode(encoded, [PROMPTS[:1], PROMPTS[:1]]), list)


def test_a_mask_prompt_tells_in_the_sam_wiring():
    sam, encoded = nano.sam("sam_nano"), embedding("sam_nano")
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:20, 5:30] = True
    box = [3, 4, 30, 25]
    plain, masked, alone = sam.decode(
        encoded, [Prompt(box=box), Prompt(box=box, mask=mask), Prompt(mask=mask)]
    ).low_res
    assert np.abs(plain - masked).max() > 1e-3 and np.abs(masked - alone).max() > 1e-3
    again = sam.decode(encoded, [Prompt(box=box, mask=plain[0])])
    assert np.isfinite(again.low_res).all()


def test_no_weights_are_copied_or_rounded_in_a_call(name: str):
    """Blocks are called in turn, and the device holds kernels in the type of the products."""
    config = nano.sam(name).config
    half = Sam(Network(config, ComputeConfig(dtype="bfloat16")), nano.sam(name).params)
    pixels = jnp.zeros((1, config.image_px, config.image_px, 3))
    points, labels = jnp.zeros((1, 1, 2, 2)), jnp.ones((1, 1, 2), jnp.int32)

    def of(program: Any, *arrays: Any) -> str:
        return str(jax.make_jaxpr(lambda *x: program(half.model, half.ready, *x))(*arrays))

    encoder = of(programs.encode, pixels)
    decoder = of(programs.decode, half.encode(nano.picture(40, 56)).features, points, labels)
    assert not any(each in encoder + decoder for each in ("scan[", "stack["))
    kernel = half.ready["encoder"]["block_00"]["mlp"]["hidden"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    rows, columns = kernel.shape
    assert f"f32[{rows},{columns}]" not in encoder and f"bf16[{rows},{columns}]" in encoder


def test_any_number_of_queries_compiles_few_functions():
    sam, encoded = nano.sam("efficientsam_nano"), embedding("efficientsam_nano")
    before = programs.decode._cache_size()
    for count in (1, 3, 4, 3, 1):
        sam.decode(encoded, [Prompt(points=[[i, i]]) for i in range(count)])
    assert programs.decode._cache_size() - before <= 2


def test_one_prompt_needs_no_list(name: str):
    sam = nano.sam(name)
    alone = sam.decode(embedding(name), PROMPTS[0])
    assert len(alone) == 1
    np.testing.assert_array_equal(alone.low_res, sam.decode(embedding(name), PROMPTS[:1]).low_res)
    pair = sam.decode(sam.encode([nano.picture(HEIGHT, WIDTH)] * 2), [PROMPTS[0], PROMPTS[:2]])
    assert [len(masks) for masks in pair] == [1, 2]


def test_a_picture_of_several_may_have_no_prompt(name: str):
    sam = nano.sam(name)
    pictures = [nano.picture(HEIGHT, WIDTH, seed) for seed in range(3)]
    masks = sam.decode(sam.encode(pictures), [PROMPTS[:1], [], PROMPTS[:2]])
    assert [len(each) for each in masks] == [1, 0, 2]
    assert masks[1].binary().shape == masks[1].logits.shape == (0, 3, HEIGHT, WIDTH)
    assert masks[1].best()[1].shape == (0, HEIGHT, WIDTH) and masks[1].rle() == []
    assert repr(masks[1]) == f"Masks(0 x 3 of a picture of {HEIGHT} x {WIDTH})"
    alone = sam.decode(sam.encode(pictures[2]), PROMPTS[:2])
    np.testing.assert_allclose(masks[2].low_res, alone.low_res, rtol=1e-4, atol=1e-4)


def test_what_is_less_than_a_pixel_outside_is_asked_at_the_edge():
    sam = nano.sam("sam_nano")
    outside = [Prompt(points=[[WIDTH + 0.4, 3]]), Prompt(box=[-0.3, 2, 30, HEIGHT + 0.9])]
    edge = [Prompt(points=[[np.nextafter(WIDTH, 0), 3]]), Prompt(box=[0, 2, 30, HEIGHT])]
    found, wanted = (sam.decode(embedding("sam_nano"), each) for each in (outside, edge))
    np.testing.assert_array_equal(found.low_res, wanted.low_res)


def test_pictures_may_be_arrays_of_jax_or_of_pillow():
    sam, picture = nano.sam("sam_nano"), nano.picture(HEIGHT, WIDTH)
    wanted = sam.encode(picture)
    for given in (
        jnp.asarray(picture),
        Image.fromarray(picture),
        Image.fromarray(picture).convert("RGBA"),
    ):
        found = sam.encode(given)
        assert found.single and found.sizes == wanted.sizes
        np.testing.assert_array_equal(found.features, wanted.features)
    several = sam.encode([Image.fromarray(picture), picture, jnp.asarray(picture)])
    assert not several.single and len(several) == 3
    assert len(sam.encode(jnp.asarray(np.stack([picture, picture])))) == 2
    grey = Image.fromarray(picture[..., 0])
    wanted = sam.encode(np.repeat(picture[..., :1], 3, axis=2))
    np.testing.assert_array_equal(sam.encode(grey).features, wanted.features)
    with pytest.raises(DataError, match=r"images is a Pillow picture of mode I;16, but must"):
        sam.encode(Image.fromarray(np.zeros((4, 5), np.uint16)))


def test_the_embedding_of_several_pictures_is_taken_apart(name: str):
    sam = nano.sam(name)
    pictures = [nano.picture(40, 56), nano.picture(64, 64, 1), nano.picture(90, 17, 2)]
    encoded = sam.encode(pictures)
    assert [part.sizes for part in encoded] == [(size,) for size in encoded.sizes]
    last = sam.decode(encoded[-1], Prompt(points=[[3, 80]]))
    assert (last.height, last.width) == (90, 17)
    together = sam.decode(encoded[1:], [PROMPTS[:1], Prompt(points=[[3, 80]])])
    np.testing.assert_allclose(together[1].low_res, last.low_res, rtol=1e-4, atol=1e-4)
    with pytest.raises(IndexError):
        encoded[3]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_embedding_is_saved_and_loaded(dtype: str, tmp_path: Path):
    sam = nano.sam("sam_nano")
    encoded = sam.encode([nano.picture(40, 56), nano.picture(64, 64, 1)])
    encoded = encoded.replace(features=encoded.features.astype(dtype))
    encoded.save(tmp_path / "two.safetensors")
    encoded[1].save(tmp_path / "one.safetensors")
    loaded = Embedding.load(tmp_path / "two.safetensors")
    assert loaded.sizes == encoded.sizes and not loaded.single
    assert loaded.features.dtype == dtype and isinstance(loaded.features, jax.Array)
    np.testing.assert_array_equal(loaded.features, encoded.features)
    one = Embedding.load(tmp_path / "one.safetensors")
    assert one.single and sam.decode(one, PROMPTS[0]).height == 64


def test_an_embedding_is_for_models_with_its_encoder(tmp_path: Path):
    config = named.sam("sam_nano")
    params = nano.params(config)
    sam = nano.sam("sam_nano")
    file = tmp_path / "x.safetensors"
    sam.encode(nano.picture(40, 56)).save(file)
    loaded = Embedding.load(file)
    # Another decoder may go with it, and so may the same weights in any layout.
    decoder = {"decoder": jax.tree.map(lambda x: x / 2, params["decoder"])}
    Sam(Network(config), {**params, **decoder}).decode(loaded, PROMPTS[0])
    model = ModelFile(config=config, params=params, source="a test")
    for target in ("m.safetensors", "m"):
        save.write(model, tmp_path / target)
        assert esam_jax.load(tmp_path / target).encoder == loaded.encoder == sam.encoder
    # Any one array of the encoder makes it another.
    changed = flax.traverse_util.flatten_dict(params["encoder"], sep="/")
    path = "block_02/mlp/hidden/kernel"
    changed[path] = changed[path] + 1e-6
    encoder = {"encoder": flax.traverse_util.unflatten_dict(changed, sep="/")}
    other = Sam(Network(config), {**params, **encoder})
    with pytest.raises(PromptError) as caught:
        other.decode(loaded, PROMPTS[0])
    names = (sam.encoder, other.encoder)
    assert len(set(names)) == 2
    assert all(f"({name})" in str(caught.value) for name in names)
    assert all(name.startswith("sam_vit of 64 px, sha256:") for name in names)


def test_what_is_no_saved_embedding_is_refused(tmp_path: Path):
    encoded = nano.sam("sam_nano").encode(nano.picture(40, 56))
    file = tmp_path / "x.safetensors"
    good = {"kind": "esam_jax embedding", "sizes": "[[40, 56]]", "single": "true"}
    good["encoder"] = json.dumps(encoded.encoder)
    safetensors_file.write(file, {"features": encoded.features}, good)
    assert Embedding.load(file).encoder == encoded.encoder
    bad = [
        {**good, "sizes": each} for each in ("[]", "[[0, 56]]", "[[40]]", "{", "3", "[[40, 1e9]]")
    ]
    bad += [{**good, "kind": "model"}, {**good, "single": "1"}, {}]
    bad += [{**good, "encoder": each} for each in ("3", '"a\\nb"', '""', f'"{"x" * 101}"', "{")]
    for about in bad:
        safetensors_file.write(file, {"features": encoded.features}, about)
        with pytest.raises(CheckpointError, match="is not an embedding"):
            Embedding.load(file)
    safetensors_file.write(file, {"features": encoded.features[0]}, good)
    with pytest.raises(CheckpointError, match="is not an embedding"):
        Embedding.load(file)
    file.write_bytes(b"text")
    with pytest.raises(CheckpointError):
        Embedding.load(file)
    with pytest.raises(MissingError, match="does not exist"):
        Embedding.load(tmp_path / "y.safetensors")


def test_what_is_printed_says_what_it_is():
    sam = nano.sam("sam_nano")
    assert repr(sam).startswith("Sam(sam_vit of 64 px, ") and repr(sam).endswith(", float32)")
    encoded = embedding("sam_nano")
    assert repr(encoded) == (
        f"Embedding(1 of pictures of {HEIGHT} x {WIDTH}; features float32 "
        f"{list(encoded.features.shape)})"
    )
    masks = sam.decode(encoded, PROMPTS)
    assert repr(masks).startswith(f"Masks(4 x 3 of a picture of {HEIGHT} x {WIDTH}, scores ")


def test_other_weights_of_the_same_model_compile_nothing():
    sam, encoded = nano.sam("efficientsam_nano"), embedding("efficientsam_nano")
    sam.decode(encoded, PROMPTS[:1])
    before = programs.decode._cache_size()
    halved = jax.tree.map(lambda x: x / 2, sam.params)
    Sam(Network(sam.config), halved).decode(encoded.replace(encoder=None), PROMPTS[:1])
    assert programs.decode._cache_size() == before


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "images is empty"),
        (np.zeros((8, 8), np.uint8), "images"),
        (np.zeros((8, 8, 4), np.uint8), r"images has shape \(8, 8, 4\)"),
        (np.zeros((8, 8, 3), np.float32), "images has float32"),
        (np.zeros((0, 8, 3), np.uint8), r"images has shape \(0, 8, 3\)"),
        ([nano.picture(8, 8), "a.jpg"], r"images\[1\] is a str"),
        (3, "images is 3, but must be a numpy array"),
    ],
)
def test_what_is_no_picture_is_named(images: object, message: str):
    with pytest.raises(DataError, match=message):
        nano.sam("sam_nano").encode(images)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "prompts is empty"),
        ([[1, 2]], "must be a list of Prompt"),
        ([Prompt(points=[[57, 2]])], "outside; the picture is 56 wide"),
        ([Prompt(points=[[1, 2]]), Prompt(box=[0, 0, 5, 99])], "box is .* reaches outside"),
    ],
)
def test_prompts_are_checked_first(prompts: object, message: str):
    with pytest.raises(PromptError, match=message):
        nano.sam("sam_nano").decode(embedding("sam_nano"), prompts)


def test_a_list_of_pictures_wants_a_list_of_lists():
    sam = nano.sam("sam_nano")
    encoded = sam.encode([nano.picture(HEIGHT, WIDTH)])
    for prompts in ([PROMPTS[:1], PROMPTS[:1]], PROMPTS[0]):
        with pytest.raises(PromptError, match="give one list for each picture"):
            sam.decode(encoded, prompts)


def test_efficientsam_works_at_another_size_with_the_same_weights():
    """The recipe of docs/inference.md."""
    sam = nano.sam("efficientsam_nano")
    encoder = dataclasses.replace(sam.config.encoder, image_px=96)
    other = Sam(Network(dataclasses.replace(sam.config, encoder=encoder)), sam.params)
    masks = other.decode(other.encode(nano.picture(HEIGHT, WIDTH)), PROMPTS[:1])
    assert masks.low_res.shape == (1, 3, 48, 48) and masks.binary().shape == (1, 3, HEIGHT, WIDTH)
