"""MAE: the loss against its original and by hand, what it starts from and what it leaves behind."""

import dataclasses
import pathlib
import re

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_mae, tiny
from hypothesis import given

from esam_jax import configs, tasks
from esam_jax.config import (
    ClassifierConfig,
    MaeConfig,
    MaePretrainConfig,
    PretrainDecoderConfig,
)
from esam_jax.convert import model_folder, state_dict
from esam_jax.convert.families import mae as layout
from esam_jax.convert.families import timm_vit
from esam_jax.errors import CheckpointError, ConfigError, MissingError
from esam_jax.models import named
from esam_jax.models.pretrain.mae import Mae
from esam_jax.ops import images, masking
from esam_jax.tasks import mae
from esam_jax.tasks.task import Start

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
NAME, DECODER, COMPLETE = small_mae.NAME, small_mae.DECODER, small_mae.COMPLETE


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    small_mae.add(monkeypatch)


# ------------------------------------------------------------------------------------- the loss


def test_losses_are_the_golden_ones():
    """Of the original's own arrays: 16 patches of 4 pixels, of which the mask names the removed."""
    case = np.load(GOLDEN / "distillation_a.npz")
    pixels = case["pixels"].reshape(2, 4, 4, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    picture = jnp.asarray(pixels.reshape(2, 16, 16, 3))
    masked = jnp.asarray([np.flatnonzero(row) for row in case["mask"]])
    for name, changes in (
        ("mae_masked_normalised", {}),
        ("mae_masked", {"target": "plain"}),
        ("mae_all_tokens", {"target": "plain", "loss_on": "all"}),
    ):
        task = small_mae.config(**changes).task
        wanted = mae.target(task, picture, 4)
        found = mae.compare(task, jnp.asarray(case["prediction"]), wanted, masked)
        np.testing.assert_allclose(found.loss.mean(), case[name], rtol=1e-6, err_msg=name)
        assert found.loss.shape == (2,) and (found.weight == 1).all()


@pytest.mark.parametrize("target", ["standardised", "plain"])
@pytest.mark.parametrize("loss_on", ["masked", "all"])
def test_loss_by_hand(target, loss_on):
    """One value an example, and what the mean of all patches would cost."""
    out = small_mae.loss(small_mae.config(target=target, loss_on=loss_on), small_mae.params())
    batch = small_mae.batch()
    pixels = np.asarray(images.normalise(batch["image"]), np.float64)
    wanted = pixels.reshape(3, 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(3, 16, -1)
    if target == "standardised":
        deviation = np.sqrt(wanted.var(-1, ddof=1, keepdims=True) + 1e-6)
        wanted = (wanted - wanted.mean(-1, keepdims=True)) / deviation
    apply = tiny.jit(Mae(COMPLETE).apply)
    given = images.normalise(batch["image"]), batch["seen"], batch["masked"]
    found = np.asarray(apply({"params": small_mae.params()}, *given), np.float64)
    if loss_on == "masked":
        rows = np.arange(3)[:, None], np.asarray(batch["masked"])
        wanted, found = wanted[rows], found[rows]
    np.testing.assert_allclose(out.loss, ((found - wanted) ** 2).mean((1, 2)), rtol=3e-5)
    mean = wanted.mean((0, 1))
    baseline = ((wanted - mean) ** 2).mean((1, 2))
    np.testing.assert_allclose(out.metrics["baseline_loss"], baseline, rtol=3e-5)


@given(
    arrays.arrays(np.float32, (2, 6, 5), elements=st.floats(-3, 3, width=32)),
    arrays.arrays(np.float32, (2, 2, 5), elements=st.floats(-3, 3, width=32)),
    st.permutations(range(6)),
)
def test_what_is_predicted_of_visible_patches_is_free(found, other, order):
    masked = jnp.asarray([order[2:], order[:1:-1]])
    seen = np.asarray([order[:2], order[:2]])
    changed = found.copy()
    np.put_along_axis(changed, seen[..., None], other, axis=1)
    wanted = jnp.asarray(np.roll(found, 1))
    task = MaePretrainConfig()
    pair = [mae.compare(task, jnp.asarray(x), wanted, masked).loss for x in (found, changed)]
    np.testing.assert_array_equal(*pair)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["standardised", "plain"])
def test_loss_and_gradients_are_those_of_transformers(target):
    """Of every parameter that either of them trains, from the same weights and the same noise."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    encoder, batch, params = COMPLETE.encoder, small_mae.batch(), small_mae.params()
    theirs = transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            hidden_size=encoder.width,
            num_hidden_layers=encoder.depth,
            num_attention_heads=encoder.heads,
            intermediate_size=4 * encoder.width,
            image_size=small_mae.PX,
            patch_size=encoder.patch_px,
            decoder_hidden_size=DECODER.width,
            decoder_num_hidden_layers=DECODER.depth,
            decoder_num_attention_heads=DECODER.heads,
            decoder_intermediate_size=4 * DECODER.width,
            layer_norm_eps=1e-6,
            norm_pix_loss=target == "standardised",
        )
    )
    weights = {name: torch.tensor(x) for name, x in _as_transformers(params).items()}
    theirs.load_state_dict(weights, strict=True)
    pixels = np.asarray(images.normalise(batch["image"])).transpose(0, 3, 1, 2)
    noise = np.argsort(np.concatenate([batch["seen"], batch["masked"]], axis=1), axis=1)
    expected = theirs(torch.tensor(pixels), noise=torch.tensor(noise / 16.0)).loss
    expected.backward()

    loss = tasks.build(small_mae.config(target=target)).loss
    value, gradient = tiny.jit(
        jax.value_and_grad(lambda mine: loss({NAME: mine}, {}, batch).loss.mean())
    )(params)
    assert float(value) == pytest.approx(expected.item(), rel=2e-6)
    found = _as_transformers(gradient)
    compared = {name: x.grad for name, x in theirs.named_parameters() if x.grad is not None}
    assert found.keys() - compared.keys() == {
        "vit.embeddings.position_embeddings",
        "decoder.decoder_pos_embed",
    }
    largest = max(float(x.abs().max()) for x in compared.values())
    for name, x in compared.items():
        np.testing.assert_allclose(found[name], x, rtol=1e-3, atol=1e-5 * largest, err_msg=name)


def _as_transformers(tree):
    """MAE's names and shapes, which are linear in ours, as transformers has them."""
    renamed = (
        (r"^cls_token", "vit.embeddings.cls_token"),
        (r"^pos_embed", "vit.embeddings.position_embeddings"),
        (r"^patch_embed\.proj", "vit.embeddings.patch_embeddings.projection"),
        (r"^norm\.", "vit.layernorm."),
        (r"^blocks\.", "vit.layers."),
        (r"^decoder_blocks\.", "decoder.decoder_layers."),
        (r"^(decoder_|mask_token)", r"decoder.\1"),
        (r"attn\.proj", "attention.o_proj"),
        (r"norm1", "layernorm_before"),
        (r"norm2", "layernorm_after"),
    )
    found = {}
    for name, x in state_dict.to_state_dict(tree, layout.FAMILY, COMPLETE).items():
        for pattern, to in renamed:
            name = re.sub(pattern, to, name)
        if "attn.qkv" not in name:
            found[name] = x
            continue
        for letter, part in zip("qkv", np.split(x, 3), strict=True):
            found[name.replace("attn.qkv", f"attention.{letter}_proj")] = part
    return found


def test_a_batch_shows_a_quarter_of_the_patches_and_rebuilds_the_others():
    task = tasks.build(small_mae.config())
    drawn = jax.jit(task.draw, static_argnums=1)(jax.random.key(0), 5)
    assert drawn["seen"].shape == (5, 4) and drawn["masked"].shape == (5, 12)
    both = np.sort(np.concatenate([drawn["seen"], drawn["masked"]], axis=1), axis=1)
    assert (both == np.arange(16)).all()
    seen, _ = masking.choose(jax.random.key(0), 5, 16, 4)  # as in SAMI
    np.testing.assert_array_equal(drawn["seen"], seen)


# ------------------------------------------------------------------------------------- the run


@pytest.mark.parametrize("positions", ["fixed", "learned"])
def test_what_is_trained(positions):
    task = tasks.build(small_mae.config(positions=positions))
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in _leaves(shapes)]
    left = {path for path in paths if not task.trains(path)}
    tables = {f"{NAME}/encoder/positions", f"{NAME}/decoder/positions"}
    assert left == (tables if positions == "fixed" else set()) and tables < set(paths)


def _leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


def test_what_a_run_leaves_is_a_start_of_others(tmp_path):
    task = tasks.build(configs.load("quickstart_mae"))
    shapes = jax.eval_shape(task.init, jax.random.key(0))["mae_nano"]
    drawn = jax.tree.map(lambda x: np.random.default_rng(x.size).normal(size=x.shape), shapes)
    drawn = jax.tree.map(lambda x: x.astype(np.float32), drawn)
    (left,) = task.models({"mae_nano": drawn}, Start()).values()
    model_folder.write(tmp_path / "model", left.config, left.params, source="a test")
    file, run = model_folder.read(tmp_path / "model"), str(tmp_path)
    assert file.config.encoder == named.model("mae_nano").encoder
    taken = {
        "quickstart_segment": {"encoder", "prompt", "decoder"},
        "quickstart_sami": {"encoder", "class_token", "norm"},
        "quickstart_classify": {"encoder", "class_token"},
        "quickstart_mae": set(file.params),
    }
    for name, parts in taken.items():
        later = configs.load(name)
        later = dataclasses.replace(later, task=dataclasses.replace(later.task, init_from=run))
        (begun,) = tasks.build(later).initial().params.values()
        assert begun.keys() == parts
        wanted = file.params["encoder"]["block_01"]["mlp"]["out"]["kernel"]
        np.testing.assert_array_equal(begun["encoder"]["block_01"]["mlp"]["out"]["kernel"], wanted)


def test_the_model_left_behind_is_all_of_it():
    task = tasks.build(small_mae.config())
    (model,) = task.models({NAME: small_mae.params()}, Start()).values()
    assert model.config == COMPLETE and model.untrained == () and not model.unused
    jax.tree.map(np.testing.assert_array_equal, model.params, small_mae.params())


# -------------------------------------------------------------------------- what it starts from


def _begun(path, **changes):
    found = tasks.build(small_mae.config(init_from=str(path), **changes)).initial().params
    return found.get(NAME, {})


def _written(path, config, params, **more):
    model_folder.write(path, config, params, source="a test", **more)
    return path


def test_complete_files_bring_the_decoder_too(tmp_path):
    path = _written(tmp_path / "m", COMPLETE, small_mae.params())
    found = _begun(path)
    assert found.keys() == small_mae.params().keys()
    jax.tree.map(np.testing.assert_array_equal, found, small_mae.params())
    other = PretrainDecoderConfig(width=64, depth=2, heads=4)
    with pytest.raises(
        CheckpointError,
        match=r"another decoder than task\.decoder: depth 1 instead of 2, heads 2 instead of 4; wr",
    ):
        _begun(path, decoder=other)


def test_files_of_the_encoder_alone_leave_the_decoder_drawn(tmp_path):
    alone = dataclasses.replace(COMPLETE, decoder=None)
    found = _begun(_written(tmp_path / "m", alone, tiny.params(alone)))
    assert found.keys() == {"encoder", "class_token", "norm"}
    jax.tree.map(np.testing.assert_array_equal, found, tiny.params(alone))


def test_maes_own_files_are_read(tmp_path):
    """As released: names of MAE's, under the key `model`, with a decoder of sixteen heads."""
    torch = pytest.importorskip("torch")
    decoder = PretrainDecoderConfig(width=32, depth=2, heads=16)
    encoder = dataclasses.replace(COMPLETE.encoder, width=48)
    config = MaeConfig(encoder=encoder, decoder=decoder)
    params = tiny.params(config)
    state = state_dict.to_state_dict(params, layout.FAMILY, config)
    path = tmp_path / "mae_pretrain_full.pth"
    torch.save({"model": {name: torch.tensor(x) for name, x in state.items()}}, path)
    alone = dataclasses.replace(config, decoder=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(named._BUILDERS, NAME, lambda: alone)
        jax.tree.map(np.testing.assert_array_equal, _begun(path, decoder=decoder), params)


def test_a_run_of_sami_brings_its_trunk_with_class_token_and_norm(tmp_path):
    sam = tiny.config("efficientsam")
    token, norm = jnp.arange(12.0), {"scale": jnp.linspace(0.5, 2, 12), "bias": jnp.zeros(12)}
    unused = timm_vit.kept({"class_token": token, "norm": norm})
    path = _written(tmp_path / "m", sam, tiny.params(sam), unused=unused)
    encoder = timm_vit.pretrained(sam.encoder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(named._BUILDERS, NAME, lambda: MaeConfig(encoder=encoder))
        found = _begun(path)
    trunk = {name: x for name, x in tiny.params(sam)["encoder"].items() if name != "neck"}
    wanted = {"encoder": trunk, "class_token": token, "norm": norm}
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("pool", ["mean", "class_token"])
def test_the_norm_of_a_classifier_is_taken_where_it_is_of_single_tokens(pool, tmp_path):
    config = ClassifierConfig(encoder=COMPLETE.encoder, classes=3, pool=pool)
    found = _begun(_written(tmp_path / "m", config, tiny.params(config)))
    assert found.keys() == {"encoder", "class_token"} | ({"norm"} if pool != "mean" else set())


def test_other_encoders_are_refused(tmp_path):
    large = small_mae.LARGE
    with pytest.raises(
        CheckpointError,
        match=r"init_from .*m holds another encoder than 'mae_small': width 20 instead of 12, h",
    ):
        _begun(_written(tmp_path / "m", large, tiny.params(large)))
    with pytest.raises(CheckpointError, match="holds another encoder than 'mae_small': "):
        _begun("quickstart_teacher")
    with pytest.raises(MissingError, match="no model at"):
        _begun(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("changes", "view", "reason"),
    [
        ({"model": "sam_nano"}, {}, r"task\.model is 'sam_nano', which has no plain ViT encoder"),
        ({"model": "u2net"}, {}, r"task\.model is 'u2net', which has no plain ViT encoder"),
        ({"model": "mae_bb"}, {}, "no model is called 'mae_bb': did you mean 'mae_b'"),
        ({}, {"image_px": 64}, r"image_px is 64, but the position table of 'mae_small' was made f"),
        ({}, {"crops": 2, "features": "f"}, r"data\.view\.features is set, but MAE rebuilds pixel"),
    ],
)
def test_configs_that_do_not_fit(changes, view, reason):
    run = small_mae.config(**changes)
    view = dataclasses.replace(run.data.view, **view)
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, view=view))
    with pytest.raises(ConfigError, match=reason):
        tasks.build(run)
