"""What promptable training starts from: trunk, whole model, a SAM's prompt encoder and decoder."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from helpers import nano, toy

from esam_jax import configs, sharding, tasks
from esam_jax.config import (
    ClassifierConfig,
    MaeConfig,
    MeshConfig,
    PretrainDecoderConfig,
    SegmentConfig,
    VitConfig,
)
from esam_jax.convert import load, model_folder
from esam_jax.convert.families import timm_vit
from esam_jax.errors import CheckpointError, ConfigError, MissingError
from esam_jax.models import named
from esam_jax.models.sam import network
from esam_jax.models.sam.network import Sam
from esam_jax.tasks import start


def _folder(tmp_path, name, untrained=()):
    config = named.sam(name)
    params = nano.params(config)
    model_folder.write(tmp_path / "model", config, params, source="test", untrained=untrained)
    return str(tmp_path / "model"), params


def _with_init(path):
    config = configs.load("quickstart_segment")
    task = dataclasses.replace(config.task, init_from=path, decoder_from=None)
    return dataclasses.replace(config, task=task)


def test_after_sami_only_the_trunk_is_taken_over(tmp_path):
    path, params = _folder(tmp_path, "efficientsam_nano", ("encoder/neck", "prompt", "decoder"))
    found = tasks.build(_with_init(path)).initial().params
    found = found["efficientsam_nano"]
    assert set(found) == {"encoder"} and "neck" not in found["encoder"]
    kernel = found["encoder"]["block_00"]["attn"]["query"]["kernel"]
    assert np.array_equal(kernel, params["encoder"]["block_00"]["attn"]["query"]["kernel"])


@pytest.mark.parametrize("decoder", [None, PretrainDecoderConfig(width=32, depth=1)])
def test_of_a_pretrained_vit_only_the_trunk_is_taken_over(tmp_path, decoder):
    encoder = dataclasses.replace(named.sam("efficientsam_nano").encoder, neck_width=256)
    config = MaeConfig(encoder=encoder, decoder=decoder)
    params = nano.params(config)
    model_folder.write(tmp_path / "vit", config, params, source="test")
    task = tasks.build(_with_init(str(tmp_path / "vit")))
    found = task.initial().params
    assert set(found["efficientsam_nano"]) == {"encoder"}
    trunk = found["efficientsam_nano"]["encoder"]
    jax.tree.map(np.testing.assert_array_equal, trunk, params["encoder"])
    assert (
        "encoder/neck"
        not in task.models({"efficientsam_nano": {}}, task.resumed())["efficientsam_nano"].untrained
    )


@pytest.mark.parametrize("pixels", ["imagenet", "symmetric"])
def test_of_a_classifier_only_the_trunk_is_taken_over(tmp_path, pixels):
    encoder = dataclasses.replace(named.sam("efficientsam_nano").encoder, neck_width=256)
    config = ClassifierConfig(encoder=encoder, classes=3, pool="distilled", pixels=pixels)
    params = nano.params(config)
    model_folder.write(tmp_path / "classes", config, params, source="test")
    task = tasks.build(_with_init(str(tmp_path / "classes")))
    found = task.initial().params["efficientsam_nano"]
    assert set(found) == {"encoder"}
    found, wanted = flatten_dict(found["encoder"]), flatten_dict(params["encoder"])
    other = {path for path in wanted if not np.array_equal(found[path], wanted[path])}
    # Ours are normalised as ImageNet's: another linear map of patches takes the place of theirs.
    assert {path[0] for path in other} == ({"patch_embed"} if pixels == "symmetric" else set())


def _sami_from(path, students=("efficientsam_nano",)):
    config = configs.load("quickstart_sami")
    teacher = dataclasses.replace(config.task.teacher, model="sam_nano", weights="random")
    task = dataclasses.replace(config.task, init_from=path, teacher=teacher, students=students)
    return dataclasses.replace(config, task=task)


@pytest.mark.parametrize("kind", ["mae", "sami", "sam"])
def test_sami_starts_from_a_trunk(tmp_path, kind):
    """With class token and norm of MAE's weights, and of a run of SAMI; what is absent is drawn."""
    encoder = named.sam("efficientsam_nano").encoder
    if kind == "mae":
        config = MaeConfig(encoder=encoder, decoder=PretrainDecoderConfig(width=32, depth=1))
        params, path = nano.params(config), str(tmp_path / "model")
        model_folder.write(tmp_path / "model", config, params, source="test")
    elif kind == "sami":
        model = named.sam("efficientsam_nano")
        params, path = nano.params(MaeConfig(encoder=encoder)), str(tmp_path / "model")
        whole, kept = dict(nano.params(model)), timm_vit.kept(params)
        whole["encoder"] = {**params["encoder"], "neck": whole["encoder"]["neck"]}
        model_folder.write(tmp_path / "model", model, whole, source="test", unused=kept)
    else:
        path, params = _folder(tmp_path, "efficientsam_nano")
    cfg = _sami_from(path)
    task = tasks.build(cfg)
    mesh = sharding.make_mesh(MeshConfig(data=1))
    drawn = toy.create(task, cfg, mesh).params["efficientsam_nano"]
    begun = toy.create(task, cfg, mesh, task.initial().params)
    started = begun.params["efficientsam_nano"]
    trunk = {name: branch for name, branch in params["encoder"].items() if name != "neck"}
    taken = {name: params[name] for name in ("class_token", "norm") if kind != "sam"}
    taken |= {"encoder": trunk}
    for name, branch in taken.items():
        jax.tree.map(np.testing.assert_array_equal, started.pop(name), branch)
        drawn.pop(name)
    jax.tree.map(np.testing.assert_array_equal, started, drawn)


def test_sami_from_another_model_is_refused(tmp_path):
    path, _ = _folder(tmp_path, "sam_nano")
    with pytest.raises(CheckpointError, match="another encoder than 'efficientsam_nano'"):
        tasks.build(_sami_from(path)).initial()


def test_prompted_training_starts_from_the_trunk_of_a_classifier(tmp_path):
    encoder = timm_vit.pretrained(named.sam("efficientsam_nano").encoder)
    config = ClassifierConfig(encoder=encoder, classes=3, pool="mean")
    params = nano.params(config)
    model_folder.write(tmp_path / "vit", config, params, source="test")
    found = tasks.build(_with_init(str(tmp_path / "vit"))).initial().params["efficientsam_nano"]
    assert {*found} == {"encoder"}  # no class token, norm or head has a place here
    jax.tree.map(np.testing.assert_array_equal, found["encoder"], params["encoder"])


def test_a_pretrained_vit_of_another_size_is_refused(tmp_path):
    encoder = dataclasses.replace(named.sam("efficientsam_nano").encoder, depth=2)
    config = MaeConfig(encoder=encoder)
    model_folder.write(tmp_path / "vit", config, nano.params(config), source="test")
    with pytest.raises(CheckpointError, match=r"another model than .*: depth 2 instead of 3; name"):
        tasks.build(_with_init(str(tmp_path / "vit"))).initial()


def test_parts_that_first_prompts_never_train_are_named(tmp_path):
    def untrained(init_from):
        config = _with_init(init_from)
        task = dataclasses.replace(config.task, model="sam_nano", init_from=init_from)
        view = dataclasses.replace(config.data.view, fit="pad")
        data = dataclasses.replace(config.data, view=view)
        built = tasks.build(dataclasses.replace(config, task=task, data=data))
        return built.models({"sam_nano": {}}, built.resumed())["sam_nano"].untrained

    everything = ("prompt/background", "prompt/mask", "decoder/single_mask")
    assert untrained(None) == untrained(str(tmp_path / "gone")) == everything
    config = named.sam("sam_nano")
    for i, (before, after) in enumerate(
        [
            ((), ()),
            (("prompt/mask", "decoder/single_mask"), ("prompt/mask", "decoder/single_mask")),
            (("encoder/neck", "prompt"), ("prompt/background", "prompt/mask")),
        ]
    ):
        folder = tmp_path / str(i)
        model_folder.write(folder, config, nano.params(config), source="", untrained=before)
        assert untrained(str(folder)) == after
    released = tasks.build(_with_init(None))  # has no such prompts at all
    assert released.resumed().untrained == ("decoder/single_mask",)


def test_of_a_run_with_several_models_the_one_of_that_name_is_taken(tmp_path):
    for name in ("efficientsam_nano", "another"):
        config = named.sam("sam_nano" if name == "another" else name)
        model_folder.write(
            tmp_path / "model" / name, config, nano.params(config), source="", untrained=()
        )
    found = tasks.build(_with_init(str(tmp_path))).initial().params
    assert set(found) == {"efficientsam_nano"}


def test_another_model_is_refused(tmp_path):
    path, _ = _folder(tmp_path, "sam_nano")
    expected = r"another model than 'efficientsam_nano': encoder\.kind sam_vit.*; name"
    with pytest.raises(CheckpointError, match=expected):
        tasks.build(_with_init(path)).initial()


def test_weights_to_start_from_are_only_read_when_asked_for(tmp_path):
    task = tasks.build(_with_init(str(tmp_path / "gone")))  # a resumed run may have lost them
    with pytest.raises(MissingError, match="gone"):
        task.initial()


TEACHER = "quickstart_teacher"


def _decoder(name, decoder_from=TEACHER, init_from=None):
    """What a start brings, and what it leaves untrained, for the model of that name."""
    task = SegmentConfig(model=name, init_from=init_from, decoder_from=decoder_from)
    begun = start.read(task, named.sam(name))
    assert start.untrained(task, named.sam(name)) == begun.untrained
    return begun.params[name], begun.untrained


def test_a_sams_decoder_is_taken_over_by_the_other_wiring():
    params, untrained = _decoder("efficientsam_nano")
    whole = load.model_file(TEACHER).params
    model = jax.eval_shape(lambda: network.init(named.sam("efficientsam_nano"), jax.random.key(0)))
    assert untrained == ("decoder/single_mask",)  # nor was it in the teacher
    neck = {k: model["encoder"]["neck"][k] for k in ("smooth", "smooth_norm")}
    wanted = {"encoder": {"neck": neck}, "prompt": model["prompt"], "decoder": model["decoder"]}
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, wanted)
    kernel = params["encoder"]["neck"].pop("smooth")["kernel"]
    jax.tree.map_with_path(
        lambda path, leaf: np.testing.assert_array_equal(leaf, _at(whole, path)), params
    )
    picture = jax.random.normal(jax.random.key(1), (1, 8, 8, kernel.shape[-1]))
    same = nn.Conv(kernel.shape[-1], (3, 3), use_bias=False).apply(
        {"params": {"kernel": kernel}}, picture
    )
    np.testing.assert_allclose(same, picture, rtol=1e-6)


def _at(tree, path):
    for key in path:
        tree = tree[key.key]
    return tree


def test_decoder_and_trunk_come_from_two_files(tmp_path):
    path, theirs = _folder(tmp_path, "efficientsam_nano", ("encoder/neck", "prompt", "decoder"))
    params, _ = _decoder("efficientsam_nano", init_from=path)
    assert set(params) == {"encoder", "prompt", "decoder"}
    trunk = {k: v for k, v in params["encoder"].items() if k != "neck"}
    del theirs["encoder"]["neck"]
    jax.tree.map(np.testing.assert_array_equal, trunk, theirs["encoder"])
    neck = load.model_file(TEACHER).params["encoder"]["neck"]
    assert set(params["encoder"]["neck"]) == {"smooth", "smooth_norm"}
    found = params["encoder"]["neck"]["smooth_norm"]
    assert np.array_equal(found["scale"], neck["smooth_norm"]["scale"])


def test_a_trained_encoder_keeps_its_neck(tmp_path):
    path, theirs = _folder(tmp_path, "efficientsam_nano")
    params, untrained = _decoder("efficientsam_nano", init_from=path)
    jax.tree.map(np.testing.assert_array_equal, params["encoder"], theirs["encoder"])
    teacher = load.model_file(TEACHER).params
    assert np.array_equal(params["prompt"]["fourier"], teacher["prompt"]["fourier"])
    assert not np.array_equal(theirs["prompt"]["fourier"], teacher["prompt"]["fourier"])
    # The trained single-mask head of the whole model went with the rest of its decoder.
    assert untrained == ("decoder/single_mask",)


def test_prompts_that_the_decoders_model_never_had_start_anew(tmp_path):
    released, _ = _folder(tmp_path, "efficientsam_nano")
    params, untrained = _decoder("sam_nano", released)
    assert not {"background", "mask", "no_mask"} & set(params["prompt"])
    assert untrained == ("prompt/background", "prompt/mask")
    with_all, _ = _folder(tmp_path / "all", "sam_nano")
    params, untrained = _decoder("sam_nano", with_all)
    assert {"background", "mask", "no_mask"} < set(params["prompt"])
    assert untrained == ()


def test_files_are_read_once_when_a_run_begins_and_once_when_it_resumes(monkeypatch):
    read, model_file = [], load.model_file
    monkeypatch.setattr(load, "model_file", lambda name: read.append(name) or model_file(name))
    for begins in (True, False):
        task = tasks.build(configs.load("quickstart_scratch"))
        begun = task.initial() if begins else task.resumed()
        found = [task.models({"efficientsam_nano": {}}, begun) for _ in range(2)]
        assert {model["efficientsam_nano"].untrained for model in found} == {
            ("decoder/single_mask",)
        }
    assert read == [TEACHER, TEACHER]


def test_a_run_asks_for_that_decoder_by_its_config():
    begun = tasks.build(configs.load("quickstart_scratch")).initial().params
    assert set(begun) == {"efficientsam_nano"}
    assert set(begun["efficientsam_nano"]) == {"encoder", "prompt", "decoder"}
    assert tasks.build(_with_init(None)).initial().params == {}


@pytest.mark.parametrize(
    ("untrained", "said"),
    [
        (("encoder/neck", "prompt", "decoder"), "holds no trained mask decoder: name a SAM"),
        (("decoder",), "holds no trained mask decoder: name a SAM"),
    ],
)
def test_a_pretraining_run_has_no_decoder_to_give(tmp_path, untrained, said):
    path, _ = _folder(tmp_path, "efficientsam_nano", untrained)
    with pytest.raises(CheckpointError, match=said):
        _decoder("efficientsam_nano", path)


def test_a_pretrained_vit_has_no_decoder_to_give(tmp_path):
    config = MaeConfig(encoder=named.sam("efficientsam_nano").encoder)
    model_folder.write(tmp_path / "vit", config, nano.params(config), source="test")
    with pytest.raises(CheckpointError, match="holds no trained mask decoder"):
        _decoder("efficientsam_nano", str(tmp_path / "vit"))


@pytest.mark.parametrize("student", ["efficientsam_ti", "efficientsam_s", "efficientsam_b"])
def test_every_students_decoder_fits_sams(student):
    sam, ours = (named.sam(name).decoder for name in ("sam_h", student))
    both = dict.fromkeys(("background", "mask_prompts"), "learned")
    assert dataclasses.replace(ours, wiring="sam", **both) == sam


def test_a_decoder_of_other_widths_is_refused():
    said = r"another mask decoder than task\.model 'efficientsam_ti': width 64 instead of 256.*name"
    with pytest.raises(CheckpointError, match=said):
        _decoder("efficientsam_ti")


def test_a_decoder_that_is_gone_is_missed_at_the_start_only(tmp_path):
    gone = str(tmp_path / "gone")
    with pytest.raises(MissingError, match="gone"):
        _decoder("efficientsam_nano", gone)
    task = SegmentConfig(model="efficientsam_nano", decoder_from=gone)
    assert start.untrained(task, named.sam("efficientsam_nano")) == ("decoder/single_mask",)


# ------------------------------------------------------------------ what is not trained


@pytest.mark.parametrize("train", ["decoder", "lora"])
def test_a_part_is_trained_of_a_model_that_is_trained(tmp_path, train):
    path, theirs = _folder(tmp_path, "efficientsam_nano")
    config = named.sam("efficientsam_nano")
    task = SegmentConfig(model="efficientsam_nano", init_from=path, train=train)
    begun = start.read(task, config)
    jax.tree.map(np.testing.assert_array_equal, begun.params["efficientsam_nano"], theirs)
    assert begun.untrained == ()
    with pytest.raises(ConfigError, match=rf"task\.train is '{train}', but task\.init_from is not"):
        start.read(dataclasses.replace(task, init_from=None), config)


@pytest.mark.parametrize(
    ("train", "untrained", "missing"),
    [
        ("decoder", ("encoder/neck", "prompt", "decoder"), "encoder/neck, which"),
        ("decoder", ("prompt", "decoder"), None),
        ("lora", ("encoder/neck",), "encoder/neck, which"),
        ("lora", ("decoder",), "decoder/.*, decoder/.*, which"),
        ("all", ("encoder/neck", "prompt", "decoder"), None),
    ],
)
def test_what_stays_frozen_must_have_been_trained(tmp_path, train, untrained, missing):
    path, _ = _folder(tmp_path, "efficientsam_nano", untrained)
    task = SegmentConfig(model="efficientsam_nano", init_from=path, train=train)
    config = named.sam("efficientsam_nano")
    if missing is None:
        assert start.read(task, config).untrained == ("decoder/single_mask",)
        return
    with pytest.raises(CheckpointError, match=rf"'{train}', but .* brings no {missing} would stay"):
        start.read(task, config)


def test_the_half_of_a_neck_that_comes_with_a_decoder_is_not_enough(tmp_path):
    path, _ = _folder(tmp_path, "efficientsam_nano", ("encoder/neck", "prompt", "decoder"))
    task = SegmentConfig(
        model="efficientsam_nano", init_from=path, decoder_from=TEACHER, train="decoder"
    )
    with pytest.raises(CheckpointError, match="brings no encoder/neck, which would stay random"):
        start.read(task, named.sam("efficientsam_nano"))


@pytest.mark.parametrize(
    ("train", "left"),
    [
        ("all", ()),
        ("decoder", ()),
        # Pairs train no prompt, whichever come.
        ("lora", ("prompt/background", "prompt/mask")),
    ],
)
def test_an_extension_is_trained_with_the_decoder_alone(tmp_path, train, left):
    path, _ = _folder(tmp_path, "efficientsam_nano")
    name = "efficientsam_nano_extended"
    task = SegmentConfig(model=name, init_from=path, clicks=2, train=train)
    begun = start.read(task, named.sam(name))
    assert begun.untrained == left == start.untrained(task, named.sam(name))
    assert not {"background", "mask", "no_mask"} & set(begun.params[name]["prompt"])


@pytest.mark.parametrize(
    ("train", "trained"),
    [
        ("all", {"encoder", "prompt", "decoder", "lora"}),
        ("decoder", {"prompt", "decoder"}),
        ("lora", {"lora"}),
    ],
)
def test_what_is_trained_goes_by_the_branch(train, trained):
    task = SegmentConfig(train=train)
    branches = ("encoder", "prompt", "decoder", "lora")
    ends = {"lora": "encoder/block_00/attn/query/a", "decoder": "two_way/block_00/mlp/kernel"}
    for branch in branches:
        path = f"efficientsam_ti/{branch}/{ends.get(branch, 'neck/kernel')}"
        assert start.trains(task, path) == (branch in trained)


# ----------------------------------------------------------- background points and mask prompts


@pytest.mark.parametrize(
    ("rounds", "left"),
    [
        ({}, ("prompt/background", "prompt/mask", "decoder/single_mask")),
        ({"clicks": 3}, ()),
        ({"repeats": 1}, ("prompt/background",)),
        ({"clicks": 3, "click_labels": "foreground"}, ("prompt/background",)),
        ({"clicks": 3, "answers": "candidates"}, ("decoder/single_mask",)),
    ],
)
def test_what_rounds_of_prompts_train(rounds, left):
    name = "efficientsam_nano_extended"
    task = SegmentConfig(model=name, **rounds)
    assert start.read(task, named.sam(name)).untrained == left
    assert start.untrained(task, named.sam(name)) == left


@pytest.mark.slow
def test_a_released_model_that_is_extended_gives_its_own_masks_to_the_bit(tmp_path):
    path, before = _folder(tmp_path, "efficientsam_nano")
    name = "efficientsam_nano_extended"
    task = SegmentConfig(model=name, init_from=path, clicks=2, answers="candidates")
    begun = start.read(task, named.sam(name))
    drawn = jax.jit(functools.partial(network.init, named.sam(name)))(jax.random.key(3))
    flat = flatten_dict(drawn) | flatten_dict(begun.params[name])
    params = unflatten_dict(flat)
    assert not set(begun.untrained) & {"prompt/background", "prompt/mask"}
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(1, 64, 64, 3)), jnp.float32)
    points = jnp.asarray(rng.uniform(0, 64, (1, 2, 3, 2)), jnp.float32)
    labels = jnp.asarray([[[1, 0, -1], [2, 3, 0]]], jnp.int32)  # 0: what the release knows not
    mask = jnp.asarray(rng.normal(size=(1, 2, 32, 32)), jnp.float32)
    small, large = (Sam(named.sam(each)) for each in ("efficientsam_nano", name))
    wanted = jax.jit(small.apply)({"params": before}, image, points, labels)
    found = jax.jit(large.apply)({"params": params}, image, points, labels)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    # A mask adds zeros to the image of each query, whose products then have other shapes.
    found = jax.jit(large.apply)({"params": params}, image, points, labels, mask)
    jax.tree.map(lambda *x: np.testing.assert_allclose(*x, rtol=1e-4, atol=1e-4), found, wanted)


def test_a_model_is_extended_and_never_cut(tmp_path):
    path, _ = _folder(tmp_path, "efficientsam_nano_extended")
    with pytest.raises(CheckpointError, match="another model than 'efficientsam_nano'"):
        start.read(
            SegmentConfig(model="efficientsam_nano", init_from=path), named.sam("efficientsam_nano")
        )


def _sam_from_mae(tmp_path, pretrained):
    params = nano.params(MaeConfig(encoder=pretrained))
    model_folder.write(tmp_path / "mae", MaeConfig(encoder=pretrained), params, source="test")
    config = configs.load("quickstart_teacher")
    task = dataclasses.replace(config.task, init_from=str(tmp_path / "mae"))
    return params["encoder"], tasks.build(dataclasses.replace(config, task=task))


def _mae_of_sam_nano(**other):
    """Patches of 4 pixels, a grid of 6: SAM's are of 8, with a grid of 8."""
    sizes = {"width": 96, "heads": 3, "depth": 4, "patch_px": 4, **other}
    return VitConfig(**sizes, image_px=24, pretrain_px=24)


def test_sam_starts_from_a_pretrained_vit(tmp_path):
    """Blocks as they are; a wider grid and larger patches by torch's bicubic rule."""
    given, task = _sam_from_mae(tmp_path, _mae_of_sam_nano())
    found = task.initial().params["sam_nano"]
    assert set(found) == {"encoder"} and "neck" not in found["encoder"]
    found, drawn = found["encoder"], nano.params(named.sam("sam_nano"))["encoder"]
    for i in range(4):
        taken, block = found[f"block_{i:02d}"], given[f"block_{i:02d}"]
        tables = {name: taken["attn"].pop(name) for name in ("rel_rows", "rel_cols")}
        jax.tree.map(np.testing.assert_array_equal, taken, block)
        for name, table in tables.items():
            assert table.shape == drawn[f"block_{i:02d}"]["attn"][name].shape
            assert not table.any()
    torch = pytest.importorskip("torch")

    def enlarged(table, side):
        pixels = torch.tensor(np.asarray(table)).permute(2, 0, 1)[None]
        larger = torch.nn.functional.interpolate(pixels, (side, side), mode="bicubic")
        return larger[0].permute(1, 2, 0).numpy()

    table = np.asarray(given["positions"])[1:].reshape(6, 6, 96)
    np.testing.assert_allclose(found["positions"], enlarged(table, 8), atol=1e-5)
    pixels = np.asarray(given["patch_embed"]["kernel"]).reshape(4, 4, 3 * 96)
    kernel = found["patch_embed"]["kernel"].reshape(8, 8, 3 * 96)
    np.testing.assert_allclose(kernel, enlarged(pixels, 8), atol=1e-5)


def test_a_grid_and_patches_that_fit_are_taken_as_they_are(tmp_path):
    pretrained = VitConfig(width=96, heads=3, depth=4, patch_px=8, image_px=64, pretrain_px=64)
    given, task = _sam_from_mae(tmp_path, pretrained)
    found = task.initial().params["sam_nano"]["encoder"]
    np.testing.assert_array_equal(found["patch_embed"]["kernel"], given["patch_embed"]["kernel"])
    np.testing.assert_array_equal(
        found["positions"].reshape(64, 96), np.asarray(given["positions"])[1:]
    )


def test_a_vit_of_other_blocks_is_no_start_for_sam(tmp_path):
    _, task = _sam_from_mae(tmp_path, _mae_of_sam_nano(depth=3))
    with pytest.raises(CheckpointError, match="depth 3 instead of 4; name"):
        task.initial()
