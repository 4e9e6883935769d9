"""Objects as CLIP sees them as first prompts: the model's new part, loss, run, inference."""

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers import nano, tiny
from PIL import Image

import esam_jax as esam
from esam_jax import cli, configs, tasks
from esam_jax.config import MeshConfig, ScenesConfig, TextPromptConfig
from esam_jax.convert import load, model_folder
from esam_jax.errors import ConfigError, EsamError, PromptError
from esam_jax.models import expected_shapes, named
from esam_jax.models.clip import towers
from esam_jax.models.sam.network import Sam
from esam_jax.ops import regions
from esam_jax.predict.clip import Clip
from esam_jax.tasks import operations, own_data, text_prompt
from esam_jax.train import loop
from esam_jax.typing import NOTHING, PADDING

RANDOM = TextPromptConfig(model="clip_nano", weights="random")


def run_of(model="sam_nano", **task):
    cfg = configs.load("quickstart_teacher")
    view = dataclasses.replace(cfg.data.view, fit=named.sam(model).fit, masks=3)
    return dataclasses.replace(
        cfg,
        task=dataclasses.replace(cfg.task, **{"model": model, "text": RANDOM, **task}),
        data=dataclasses.replace(cfg.data, view=view, source=ScenesConfig(scenes=8)),
    )


# ------------------------------------------------------------------------------------- model


def with_text(wiring: str, width: int = 6):
    config = tiny.config(wiring, text_width=width)
    arrays = (
        np.random.default_rng(1).normal(size=(1, 5, 5, 16)).astype(np.float32),
        np.float32([[[[3, 4], [9, 9]], [[20, 31], [1, 2]]]]),
        np.int32([[[1, 1], [2, 3]]]),
    )
    return config, tiny.params(config), arrays


@pytest.mark.parametrize("wiring", ["efficientsam", "sam"])
def test_a_model_that_takes_texts_is_the_same_without_one(wiring: str):
    config, params, arrays = with_text(wiring)
    plain = tiny.config(wiring)
    new = expected_shapes.of(config).keys() - expected_shapes.of(plain).keys()
    assert new == {"prompt/text/kernel", "prompt/text/bias"}

    def decode(config, params, *arrays):
        return Sam(config).apply({"params": params}, *arrays, method="decode")

    run = tiny.jit(decode, static_argnums=0)
    logits, scores = run(config, params, *arrays)
    less = {**params, "prompt": {k: v for k, v in params["prompt"].items() if k != "text"}}
    before = run(plain, less, *arrays)
    np.testing.assert_array_equal(logits, before[0])
    np.testing.assert_array_equal(scores, before[1])
    # A text changes the answer of its own query alone, also where there is no point at all.
    # (One array each: JAX reads a NumPy array in place, and may read it after the call returned.)
    texts = np.stack([np.zeros(6), np.ones(6)])[None].astype(np.float32)
    nothing = np.full_like(arrays[2], PADDING if wiring == "efficientsam" else NOTHING)
    one, _ = run(config, params, *arrays[:2], nothing, None, texts)
    other, _ = run(config, params, *arrays[:2], nothing, None, -texts)
    np.testing.assert_allclose(one[0, 0], other[0, 0], atol=1e-5)
    assert np.abs(one[0, 1] - other[0, 1]).max() > 1e-2


def test_a_text_that_does_not_fit_is_refused():
    config, params, arrays = with_text("sam")
    for given, width, message in ((config, 5, "has 5 numbers"), (tiny.config("sam"), 6, "none")):
        with pytest.raises(PromptError, match=message):
            jax.eval_shape(
                lambda arrays, text, given=given: Sam(given).apply(
                    {"params": params}, *arrays, None, text, method="decode"
                ),
                tuple(map(jnp.asarray, arrays)),
                jnp.zeros((1, 2, width)),
            )


def test_no_release_has_a_place_for_text_prompts(tmp_path, capsys):
    config = dataclasses.replace(
        named.sam("sam_nano"),
        decoder=dataclasses.replace(named.sam("sam_nano").decoder, text_width=64),
    )
    model_folder.write(tmp_path / "text", config, nano.params(config), source="a test")
    assert esam.load(tmp_path / "text").config.decoder.text_width == 64
    target = tmp_path / "sam.safetensors"
    assert cli.main(["convert", str(tmp_path / "text"), str(target)]) == 2
    assert "no PyTorch release has a model of this kind" in capsys.readouterr().err


# -------------------------------------------------------------------------------------- task


def batch_of(task, seed=0):
    rng = np.random.default_rng(seed)
    B, Q = 2, 3
    masks = np.zeros((B, Q, 64, 64), bool)
    for b in range(B):
        for q in range(Q):
            masks[b, q, 8 * q : 8 * q + 24, 6 * b + 4 : 6 * b + 30] = True
    batch = {
        "image": rng.integers(0, 256, (B, 64, 64, 3), np.uint8),
        "masks": np.packbits(masks, axis=-1),
        "points": rng.uniform(0, 60, (B, Q, 2, 2)).astype(np.float32),
        "labels": np.ones((B, Q, 2), np.int32),
        "valid": np.ones((B, Q), np.float32),
    }
    return {**batch, **task.draw(jax.random.key(seed), B)}


def parts_of(cfg):
    """A task, parameters of its model and those of its CLIP."""
    task, name = tasks.build(cfg), cfg.task.model
    config = text_prompt.TextPrompt(RANDOM, cfg.compute, 64).extended(named.sam(name))
    clip = nano.params(named.model("clip_nano"))["encoder"]
    return task, {name: nano.params(config)}, {text_prompt.NAME: clip}


def test_the_object_is_the_first_prompt_and_points_are_not_looked_at():
    task, params, frozen = parts_of(run_of(clicks=0, repeats=0))
    batch = batch_of(task)

    @tiny.jit
    def look(params, frozen, batch):
        def total(params, batch):
            each = task.loss(params, frozen, batch)
            return each.loss.sum(), each.loss

        (_, each), gradient = jax.value_and_grad(total, has_aux=True)(params, batch)
        return each, gradient

    each, gradient = look(params, frozen, batch)
    assert each.shape == (2, 3) and np.isfinite(each).all()
    other = {**batch, "points": batch["points"] + 9, "labels": np.full((2, 3, 2), 2, np.int32)}
    np.testing.assert_array_equal(look(params, frozen, other)[0], each)
    flat = flatten_dict(gradient, sep="/")
    assert np.abs(flat["sam_nano/prompt/text/kernel"]).max() > 0
    assert not np.any(flat["sam_nano/prompt/foreground"])
    halved = jax.tree.map(lambda leaf: leaf / 2, frozen)
    assert np.abs(look(params, halved, batch)[0] - each).max() > 1e-6


def test_clip_sees_the_enlarged_box_and_without_its_background_half_of_the_time():
    cfg = run_of()
    text = text_prompt.TextPrompt(RANDOM, cfg.compute, 64)
    task, _, frozen = parts_of(cfg)
    batch = batch_of(task)
    prompts = tiny.jit(text.prompts)
    masks = np.unpackbits(batch["masks"], axis=-1).astype(bool)

    def of(image, cut, enlarge=0.5):
        drawn = np.zeros((2, 3, 2), np.float32) + np.float32([enlarge, 0.2 if cut else 0.8])
        return np.asarray(prompts(frozen[text_prompt.NAME], image, masks, drawn))

    image = batch["image"]
    found = of(image, cut=False)
    assert found.shape == (2, 3, 64)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-5)
    recoloured = np.where(masks.any(1)[..., None], image, 255 - image)
    np.testing.assert_allclose(of(recoloured, cut=True), of(image, cut=True), atol=1e-5)
    assert np.abs(of(recoloured, cut=False) - found).max() > 1e-3
    assert np.abs(of(image, cut=False, enlarge=0.9) - found).max() > 1e-3
    # The same by the CLIP of prediction, of the square of 26 pixels around an object of 24 x 26.
    once = of(image, cut=False, enlarge=0.0)[0, 0]
    clip = Clip(esam_clip(), nano.params(named.model("clip_nano")))
    seen = clip.encode_image(image[0, 7:33, 4:30])[0]
    assert once @ seen / np.linalg.norm(seen) > 0.98  # bilinear here, bicubic there


def esam_clip():
    return towers.Clip(named.model("clip_nano"))


def test_boxes_are_enlarged_up_to_twice_and_half_of_the_objects_cut_out():
    cfg = run_of()
    text = text_prompt.TextPrompt(RANDOM, cfg.compute, 64)
    task, _, frozen = parts_of(cfg)
    batch = batch_of(task)
    masks = np.unpackbits(batch["masks"], axis=-1).astype(bool)
    prompts = tiny.jit(text.prompts)

    def of(enlarge, cut):
        drawn = np.broadcast_to(np.float32([enlarge, cut]), (2, 3, 2))
        return np.asarray(prompts(frozen[text_prompt.NAME], batch["image"], masks, drawn))[1, 1]

    # Around (23, 20), 52 wide: CLIP's mean where that lies outside the picture, as zeros are.
    seen = np.full((76, 76, 3), (123, 117, 104), np.uint8)
    seen[6:70, 6:70] = batch["image"][1]
    clip = Clip(esam_clip(), nano.params(named.model("clip_nano")))
    sides = {side: slice(-side // 2, side // 2) for side in (39, 46, 52)}
    around = [
        seen[26 + part.start : 26 + part.stop, 29 + part.start : 29 + part.stop]
        for part in sides.values()
    ]
    features = clip.encode_image(around)
    cosines = features @ of(1.0, 0.9) / np.linalg.norm(features, axis=1)
    assert cosines.argmax() == 2 and cosines[2] > 0.98, cosines
    np.testing.assert_array_equal(of(0.3, 0.49), of(0.3, 0.0))
    np.testing.assert_array_equal(of(0.3, 0.51), of(0.3, 0.99))
    assert np.abs(of(0.3, 0.49) - of(0.3, 0.51)).max() > 1e-3


def test_what_is_counted_is_every_object_once():
    cfg = run_of()
    plain = dataclasses.replace(cfg, task=dataclasses.replace(cfg.task, text=None))
    clip, trained = operations.parts(cfg)
    (before,) = operations.parts(plain)
    text = text_prompt.TextPrompt(RANDOM, cfg.compute, 64)
    assert clip.name == "clip" and not clip.trained
    assert clip.total == 3 * text.operations > 0
    # What is left is the projection, and one token more for each object.
    assert before.forward < trained.forward < 1.05 * before.forward


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"text": TextPromptConfig(model="sam_nano")},
            "task.text.model is 'sam_nano', which is no",
        ),
        ({"train": "lora", "init_from": "x"}, "task.text is given, but task.train is 'lora'"),
    ],
)
def test_a_config_that_cannot_be_trained(changes, message):
    with pytest.raises(ConfigError, match=message):
        tasks.build(run_of(**changes))


def test_weights_are_needed_and_compared(tmp_path):
    def read(weights, model="clip_nano"):
        text = TextPromptConfig(model=model, weights=weights)
        return tasks.build(run_of(text=text)).frozen["clip"].read()

    with pytest.raises(ConfigError, match=r"task\.text\.weights is not set"):
        read(None)
    config = named.model("clip_nano")
    model_folder.write(tmp_path / "clip", config, nano.params(config), source="a test")
    found = flatten_dict(read(str(tmp_path / "clip")))
    wanted = flatten_dict(nano.params(config)["encoder"])
    assert found.keys() == wanted.keys()
    with pytest.raises(EsamError, match=r"holds another model than task\.text\.model"):
        read("quickstart_clicks")


def test_a_released_model_can_be_extended():
    task = tasks.build(run_of(init_from="quickstart_clicks"))
    start = task.initial()
    paths = flatten_dict(start.params, sep="/")
    assert not any(path.startswith("sam_nano/prompt/text") for path in paths)
    assert "sam_nano/prompt/foreground" in paths
    assert "prompt/text" not in start.untrained


def texts_folder(folder, width=64, **decoder):
    config = named.sam("sam_nano")
    decoder = dataclasses.replace(config.decoder, text_width=width, **decoder)
    config = dataclasses.replace(config, decoder=decoder)
    model_folder.write(folder, config, nano.params(config), source="a test")
    return str(folder)


@pytest.mark.parametrize("changes", [{}, {"train": "decoder"}, {"train": "lora"}])
def test_a_run_without_texts_leaves_those_of_its_first_model_out(changes, tmp_path):
    folder = texts_folder(tmp_path / "text")
    task = tasks.build(run_of(text=None, init_from=folder, **changes))
    start = task.initial()
    paths = flatten_dict(start.params["sam_nano"], sep="/").keys()
    assert paths == expected_shapes.of(named.sam("sam_nano")).keys()
    assert own_data._network(folder, load.model_file(folder)) == (
        "sam_nano",
        named.sam("sam_nano"),
    )


def test_texts_of_another_clip_are_no_start(tmp_path):
    folder = texts_folder(tmp_path / "text", width=32)
    with pytest.raises(EsamError, match=r"decoder\.text_width 32 instead of 64"):
        tasks.build(run_of(init_from=folder)).initial()
    kept = texts_folder(tmp_path / "same")
    start = tasks.build(run_of(init_from=kept)).initial()
    assert "text" in start.params["sam_nano"]["prompt"]


def test_a_run_of_texts_alone_never_learns_boxes():
    start = tasks.build(run_of(clicks=0)).initial()
    assert {"prompt/top_left", "prompt/bottom_right", "prompt/foreground"} <= {*start.untrained}
    assert "prompt/foreground" not in tasks.build(run_of(clicks=1)).initial().untrained
    assert not tasks.build(run_of(init_from="quickstart_clicks")).initial().untrained
    assert "prompt/top_left" not in tasks.build(run_of(text=None)).initial().untrained
    sam = nano.sam("sam_nano")
    fresh = esam.Sam(sam.model, sam.params, start.untrained, sam.encoder)
    with pytest.raises(PromptError, match="box is given, but this checkpoint never learned boxes"):
        fresh.segment(nano.picture(20, 30), esam.Prompt(box=[1, 2, 9, 9]))


# --------------------------------------------------------------------------------- inference


def test_a_model_that_never_learned_texts_says_so():
    clip = Clip(esam_clip(), nano.params(named.model("clip_nano")))
    with pytest.raises(PromptError, match="texts cannot be prompts of this model, which never"):
        nano.sam("sam_nano").text_prompt(nano.picture(20, 30), "a dog", clip=clip)
    with pytest.raises(PromptError, match="clip is a str, but must be what"):
        nano.sam("sam_nano").text_prompt(nano.picture(20, 30), "a dog", clip="ViT-B/32")


@pytest.mark.parametrize(
    "model",
    [
        pytest.param("efficientsam_nano", marks=pytest.mark.slow),
        pytest.param("sam_nano", marks=pytest.mark.nightly),
    ],
)
def test_a_run_leaves_a_model_whose_prompts_are_texts(model, tmp_path, capsys):
    config = named.model("clip_nano")
    model_folder.write(tmp_path / "clip", config, nano.params(config), source="a test")
    text = TextPromptConfig(model="clip_nano", weights=str(tmp_path / "clip"))
    cfg = run_of(model, text=text, clicks=1, repeats=0, click_labels="foreground",
                 answers="candidates")  # fmt: skip
    cfg = dataclasses.replace(
        cfg,
        steps=2,
        batch=2,
        evaluate=None,
        optim=dataclasses.replace(cfg.optim, warmup_steps=1),
        mesh=MeshConfig(data=2),
    )
    loop.run(cfg, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sam = esam.load(tmp_path / "run")
    assert "prompt/text" not in sam.untrained
    clip, picture = esam.load_clip(tmp_path / "clip"), nano.picture(40, 56)
    masks = sam.text_prompt(picture, ["a dog", "a cat"], clip=clip)
    assert len(masks) == 2 and masks.binary().shape == (2, 3, 40, 56)
    alone = sam.text_prompt(sam.encode(picture), "a cat", clip=clip)
    np.testing.assert_allclose(alone.low_res[0], masks.low_res[1], atol=1e-4)
    assert np.abs(masks.low_res[0] - masks.low_res[1]).max() > 1e-6
    other = dataclasses.replace(config, embed_width=32)
    narrow = Clip(towers.Clip(other), nano.params(other))
    with pytest.raises(PromptError, match="clip has features of 32 numbers, but the model was"):
        sam.text_prompt(picture, "a cat", clip=narrow)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    argv = ["segment", str(tmp_path / "picture.png"), "--model", str(tmp_path / "run"), "--json"]
    argv += ["--out", str(tmp_path / "out"), "--text-mode", "prompt", "--text", "a cat"]
    assert cli.main([*argv, "--clip", str(tmp_path / "clip")]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["masks"]
    index = int(alone.scores[0].argmax())
    assert (entry["text"], entry["candidate"]) == ("a cat", index)
    np.testing.assert_array_equal(regions.from_rle(entry["segmentation"]), alone.binary()[0, index])
    # What asks for anything else is answered as before.
    assert sam.segment(picture, esam.Prompt(points=[[9, 9]])).scores.shape == (1, 3)
