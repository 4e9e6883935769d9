"""Teachers of each kind: their features against the parts, their weights, and what is refused."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nano, small_clip, tiny

from esam_jax import configs, sharding, tasks
from esam_jax.config import (
    ClassifierConfig,
    ClipConfig,
    ComputeConfig,
    CropConfig,
    DistillConfig,
    FramedConfig,
    MaeConfig,
    MeshConfig,
    PretrainDecoderConfig,
    TeacherConfig,
    TextConfig,
    VitConfig,
)
from esam_jax.convert import model_folder, save
from esam_jax.convert.families import timm_vit
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.evaluate import parity_sam
from esam_jax.models import named
from esam_jax.models.clip.towers import ImageTower
from esam_jax.models.encoders.vit import VitEncoder
from esam_jax.ops import images
from esam_jax.tasks import operations
from esam_jax.tasks.task import BEHIND_TRUNK
from esam_jax.tasks.teacher import Teacher
from esam_jax.train import frozen

PX, GRID = 64, 8
CLIP = ClipConfig(
    encoder=VitConfig(width=24, heads=3, depth=2, patch_px=8, image_px=PX, pretrain_px=PX),
    text=TextConfig(width=8, heads=2, depth=1),
    embed_width=6,
)
VIT = named.model("mae_nano")
SAM = named.sam("sam_nano")
WIDTHS = {"clip_test": 24, "mae_nano": 64}  # what tests of SAMI and distillation do not have
PICTURES = jnp.asarray(nano.picture(2 * PX, PX).reshape(2, PX, PX, 3))


@pytest.fixture(autouse=True)
def clip_of_small_patches(monkeypatch):
    """One whose cells are those of the nano students."""
    monkeypatch.setitem(named._BUILDERS, "clip_test", lambda: CLIP)


def teacher(model, **changes):
    config = TeacherConfig(**{"model": model, "weights": "random"} | changes)
    return Teacher(config, ComputeConfig(), PX)


def written(folder, config, params=None, **more):
    """A model folder, and its parameters."""
    params = nano.params(config) if params is None else params
    model_folder.write(folder, config, params, source="test", **more)
    return str(folder), params


def norm(params, x, eps):
    x = np.asarray(x, np.float64)
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * params["scale"] + params["bias"]


def assert_targets(found, wanted):
    assert found.shape == wanted.shape and found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-4)


def features(model, params, **changes):
    return tiny.jit(lambda p, x: teacher(model, **changes).features(p, x, GRID))(params, PICTURES)


# ------------------------------------------------------------------------ what each kind computes


def test_clips_patches_are_those_after_the_last_norm_of_its_own_pixels(tmp_path):
    """Of the tower as it is used for texts, whose last block is tapped."""
    path, params = written(tmp_path / "clip", CLIP)
    taken = teacher("clip_test", weights=path).frozen(GRID).read()
    assert taken.keys() == params["encoder"].keys() - {"project"}
    # CLIP's own mean and deviation, which are not ImageNet's.
    pixels = (PICTURES / 255 - images.CLIP_MEAN) / images.CLIP_STD
    tower = ImageTower(CLIP.encoder, CLIP.embed_width)

    def run(params, pixels):
        seen = []

        def tap(call, args, kwargs, context):
            out = call(*args, **kwargs)
            if context.module.name == "norm":
                seen.append(args[0])
            return out

        # What the tower reads is the class token alone: `norm` is given one row.
        with nn.intercept_methods(tap):
            features = tower.apply({"params": params}, pixels)
            tokens = tower.apply({"params": params}, pixels, method=ImageTower._through)
        return features, seen[0], tokens

    outcome = tiny.jit(run)(params["encoder"], jnp.asarray(pixels, jnp.float32))
    embedded, class_BD, tokens_BSD = map(np.asarray, outcome)
    np.testing.assert_allclose(tokens_BSD[:, 0], class_BD, rtol=1e-6)
    last = params["encoder"]["norm"]
    np.testing.assert_allclose(
        norm(last, class_BD, 1e-5) @ params["encoder"]["project"]["kernel"],
        embedded,
        rtol=1e-4,
        atol=1e-5,
    )
    wanted = norm(last, tokens_BSD[:, 1:], 1e-5).reshape(2, GRID, GRID, 24)
    assert_targets(features("clip_test", taken), wanted)


@pytest.mark.slow
def test_clips_patches_are_those_of_transformers(tmp_path):
    """Their last hidden state behind their last norm, from a folder of their names."""
    if not parity_sam.has_transformers():
        pytest.skip("torch and transformers are not installed: make test WITH_TORCH=1")
    import torch
    import transformers

    config, params = small_clip.weights()
    file = ModelFile(config=config, params=params, source="test")
    save.write(file, tmp_path / "theirs", layout="transformers")
    model = transformers.CLIPModel.from_pretrained(tmp_path / "theirs").vision_model
    mean, std = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    pixels = (np.asarray(PICTURES) / 255 - mean) / std
    with torch.no_grad():
        seen = model(torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32))
        theirs = model.post_layernorm(seen.last_hidden_state)[:, 1:].numpy()
    taken = teacher("clip_nano", weights=str(tmp_path / "theirs")).frozen(4)
    ours = tiny.jit(taken.features)(taken.read(), PICTURES)
    np.testing.assert_allclose(ours, theirs.reshape(2, 4, 4, -1), atol=5e-5 * theirs.std())


def test_patches_of_a_plain_vit_are_those_after_its_last_norm(tmp_path):
    path, params = written(tmp_path / "vit", VIT)
    taken = teacher("mae_nano", weights=path).frozen(GRID).read()
    jax.tree.map(np.testing.assert_array_equal, taken, params)
    trunk = functools.partial(VitEncoder(VIT.encoder).apply, method=VitEncoder.trunk)
    pixels = images.normalise(PICTURES)
    tokens = tiny.jit(trunk)({"params": params["encoder"]}, pixels, None, params["class_token"])
    wanted = norm(params["norm"], tokens[:, 1:], 1e-6).reshape(2, GRID, GRID, 64)
    assert_targets(features("mae_nano", taken), wanted)


@pytest.mark.parametrize("model", WIDTHS)
def test_any_teacher_is_drawn_has_its_width_and_gets_no_gradient(model):
    part = teacher(model).frozen(GRID)
    assert part.drawn and part.weights == "random"
    params, shapes = part.read(), part.shapes()
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)

    def total(params):
        found = part.features(params, PICTURES)
        assert found.shape == (2, GRID, GRID, WIDTHS[model])
        return (found**2).sum()

    gradient = tiny.jit(jax.grad(total))(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_pictures_are_brought_to_the_teachers_size_and_its_cells_to_the_students(monkeypatch):
    """A CLIP of 128 pixels: enlarged twice, its cells averaged 2 x 2."""
    big = dataclasses.replace(CLIP.encoder, image_px=128, pretrain_px=128)
    large = dataclasses.replace(CLIP, encoder=big)
    monkeypatch.setitem(named._BUILDERS, "clip_large", lambda: large)
    params = nano.params(large)["encoder"]
    found = features("clip_large", params, view="enlarged")
    pixels = (PICTURES / 255 - images.CLIP_MEAN) / images.CLIP_STD
    doubled = jax.image.resize(pixels.astype(jnp.float32), (2, 128, 128, 3), "linear")
    tower = functools.partial(ImageTower(big, 6).apply, method=ImageTower.tokens)
    cells = np.asarray(tiny.jit(tower)({"params": params}, doubled))
    assert_targets(found, cells.reshape(2, 8, 2, 8, 2, 24).mean((2, 4)))


# ----------------------------------------------------------------------------------- whose weights


def _mae(folder):
    with_decoder = dataclasses.replace(
        VIT, decoder=PretrainDecoderConfig(width=8, depth=1, heads=2)
    )
    return written(folder, with_decoder)


def _classifier(folder):
    return written(folder, ClassifierConfig(encoder=VIT.encoder, classes=3, pool="mean"))


def _sami(folder):
    config, beside = named.sam("efficientsam_nano"), nano.params(VIT)
    params = {**nano.params(config)}
    unused = timm_vit.kept(beside)
    path, _ = written(folder, config, params, untrained=BEHIND_TRUNK, unused=unused)
    return path, {"encoder": params["encoder"], **{x: beside[x] for x in ("class_token", "norm")}}


@pytest.mark.parametrize("write", [_mae, _classifier, _sami])
def test_a_plain_vit_is_taken_from_a_file_of_any_task(write, tmp_path):
    path, params = write(tmp_path / "model")
    taken = teacher("mae_nano", weights=path).frozen(GRID).read()
    assert taken.keys() == {"encoder", "class_token", "norm"}
    assert "neck" not in taken["encoder"]
    jax.tree.map(
        np.testing.assert_array_equal,
        taken,
        {name: x for name, x in params.items() if name in taken}
        | {"encoder": {name: x for name, x in params["encoder"].items() if name != "neck"}},
    )
    # What is taken is all that the network has: no parameter is left as drawn.
    shapes = teacher("mae_nano").frozen(GRID).shapes()
    assert jax.tree.map(jnp.shape, taken) == jax.tree.map(jnp.shape, shapes)


def _of(model, config, message, **more):
    return pytest.param(model, config, more, message, id=f"{model}: {message}")


@pytest.mark.parametrize(
    ("model", "config", "more", "message"),
    [
        _of("clip_test", VIT, "another image encoder than .*clip_test.*kind mae instead of clip"),
        _of("clip_test", SAM, "another image encoder than .*clip_test"),
        _of("mae_nano", CLIP, "another encoder than .*mae_nano.*kind clip instead of vit"),
        _of("mae_nano", named.sam("efficientsam_nano"), "holds no class token and last norm"),
        _of("mae_nano", SAM, "another encoder than .*kind sam_vit instead of vit"),
        _of("sam_nano", VIT, "another image encoder than .*kind vit instead of sam_vit"),
        _of("sam_nano", SAM, "neck was never trained", untrained=("encoder/neck",)),
    ],
)
def test_weights_of_another_network_are_refused(model, config, more, message, tmp_path):
    path, _ = written(tmp_path / "model", config, **more)
    with pytest.raises(CheckpointError, match=message):
        teacher(model, weights=path).frozen(GRID).read()


def test_a_plain_vit_of_another_size_is_refused_by_its_fields(tmp_path):
    encoder = dataclasses.replace(VIT.encoder, depth=2)
    path, _ = written(tmp_path / "model", MaeConfig(encoder=encoder))
    with pytest.raises(CheckpointError, match="depth 2 instead of 3"):
        teacher("mae_nano", weights=path).frozen(GRID).read()


@pytest.mark.parametrize(
    ("model", "accepted"),
    [("clip_test", "weights of CLIP"), ("mae_nano", "a classifier"), ("sam_nano", "a SAM")],
)
def test_no_weights_are_an_error_that_says_which_are_wanted(model, accepted):
    with pytest.raises(ConfigError, match=rf"teacher\.weights is not set.*{accepted}.*random"):
        teacher(model, weights=None).frozen(GRID).read()


# ------------------------------------------------------------------------------ what does not fit


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("clip_test", {"features": "trunk"}, "features is 'trunk', a choice that SAM's encoders"),
        ("mae_nano", {"features": "trunk"}, "features is 'trunk', a choice that SAM's encoders"),
        ("u2net", {}, "'u2net', which has no features of patches: choose"),
        ("efficientsam_nano", {}, "'efficientsam_nano', whose image encoder is no SAM's: choose"),
        ("mobile_sam_nano", {}, r"is no SAM's: .* \(mae_\* for a plain ViT, a classifier's too\)"),
        ("clip_b16", {}, "no model is called 'clip_b16': did you mean 'clip_b_16'"),
        ("clip_nano", {"view": "enlarged"}, "has 4 cells a side, but the student has 8"),
    ],
)
def test_models_that_are_no_teachers(model, changes, message):
    with pytest.raises(ConfigError, match=message):
        teacher(model, **changes).frozen(GRID)


def run_of(task, view=None):
    run = configs.load("quickstart_sami")
    view = CropConfig(image_px=PX) if view is None else view
    return dataclasses.replace(run, task=task, data=dataclasses.replace(run.data, view=view))


def sami(model):
    task = configs.load("quickstart_sami").task
    return run_of(dataclasses.replace(task, teacher=TeacherConfig(model=model, weights="random")))


def distill(model, view=None, **changes):
    named_teacher = TeacherConfig(model=model, weights="random")
    return run_of(
        DistillConfig(**{"student": "efficientsam_nano", "teacher": named_teacher} | changes), view
    )


def test_grids_that_do_not_pair_are_refused():
    with pytest.raises(ConfigError, match="patches are 8 px in efficientsam_nano, 16 px in clip_"):
        tasks.build(sami("clip_nano"))
    with pytest.raises(ConfigError, match=r"8 cells a side in .*, but 4 in 'clip_nano'"):
        tasks.build(distill("clip_nano", coupling="features"))


@pytest.mark.parametrize("model", WIDTHS)
def test_a_teacher_without_a_decoder_makes_no_promptable_student(model):
    view = FramedConfig(image_px=PX, fit="stretch")
    with pytest.raises(ConfigError, match=f"'{model}', which has no mask decoder.*features"):
        tasks.build(distill(model, view))


# -------------------------------------------------------------------------------- in both tasks


@pytest.mark.parametrize("model", WIDTHS)
def test_weights_are_placed_in_the_types_in_which_they_are_read(model):
    """In pieces, and in 16 bits what is rounded before anything else: norms are not."""
    run = sami(model)
    teacher = dataclasses.replace(run.task.teacher, placement="fsdp")
    task = tasks.build(
        dataclasses.replace(
            run,
            task=dataclasses.replace(run.task, teacher=teacher),
            compute=ComputeConfig(dtype="bfloat16"),
        )
    )
    placed = frozen.abstract(task, sharding.make_mesh(MeshConfig(data=4, fsdp=2)))["teacher"]
    leaves = {sharding.name(path): x for path, x in jax.tree_util.tree_leaves_with_path(placed)}
    kernels = {name for name in leaves if name.endswith("kernel")}
    assert {leaves[name].dtype for name in kernels} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for name, x in leaves.items() if "norm" in name} == {jnp.dtype(jnp.float32)}
    split = {name for name, x in leaves.items() if "fsdp" in x.sharding.spec}
    assert kernels and kernels == {name for name in split if name.endswith("kernel")}


@pytest.mark.parametrize("config", [CLIP, VIT])
def test_operations_are_those_of_its_network(config):
    """Counted in its jaxpr: class token, blocks and patches on paper."""
    (found, _) = operations.parts(sami("clip_test" if config is CLIP else "mae_nano"))
    D, depth, N = config.encoder.width, config.encoder.depth, GRID**2
    blocks = depth * (24 * (N + 1) * D**2 + 4 * (N + 1) ** 2 * D)
    assert found.forward == 2 * N * 192 * D + blocks


@pytest.mark.parametrize(("model", "width"), WIDTHS.items())
def test_regression_takes_the_trunk_where_the_teacher_has_no_neck(model, width):
    task = tasks.build(distill(model, coupling="features"))
    shapes = jax.eval_shape(task.init, jax.random.key(0))["efficientsam_nano"]
    assert "neck" not in shapes["encoder"]
    assert shapes["head"]["kernel"].shape == (64, width)
    chosen = tasks.build(distill(model, coupling="features", student_features="neck"))
    assert "neck" in jax.eval_shape(chosen.init, jax.random.key(0))["efficientsam_nano"]["encoder"]
    with pytest.raises(ConfigError, match="'mobile_sam_nano' has no trunk of one width"):
        tasks.build(distill(model, coupling="features", student="mobile_sam_nano"))
