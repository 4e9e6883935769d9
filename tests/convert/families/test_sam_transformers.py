"""SAM as transformers' SamModel: names, config and numbers, against the library itself."""

import dataclasses
import functools
import itertools
import json
import re

import jax
import numpy as np
import pytest
import safetensors.numpy
from golden import cases
from helpers import nano, tiny

from esam_jax.config import SamConfig
from esam_jax.convert import state_dict
from esam_jax.convert.families import registry, sam_transformers
from esam_jax.convert.families import sam_transformers_config as their_config
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError
from esam_jax.evaluate import exact, golden, parity, parity_sam
from esam_jax.models import expected_shapes, named
from esam_jax.models.sam import network
from esam_jax.predict import frames

FAMILY = sam_transformers.FAMILY
LISTINGS = ("sam_transformers_small_test", "sam_transformers_vit_b")
FOURIER = "shared_image_embedding.positional_embedding"
SECOND = "prompt_encoder.shared_embedding.positional_embedding"
NO_SCALING = ()


@functools.cache
def small():
    """State, config and parameters of the small network; its weights go by SAM's own names."""
    state = golden.state_dict("sam_small_test")
    config = state_dict.detect(state)
    params, _ = state_dict.to_params(state, registry.get("sam"), config)
    return state_dict.to_state_dict(params, FAMILY, config), config, params


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], strict=True)


# -------------------------------------------------------------------------------- small inputs


def of_side(px: int) -> SamConfig:
    """As fine-tuned SAMs of small pictures are: the grid may be smaller than a window."""
    sam = named.sam("sam_nano")
    encoder = dataclasses.replace(
        sam.encoder, image_px=px, patch_px=16, window=14, depth=4, global_blocks=(1, 3)
    )
    return dataclasses.replace(sam, encoder=encoder)


@pytest.mark.parametrize("family", ["sam", "sam_transformers"])
@pytest.mark.parametrize("px", [256, 208, 128, 64, 16])
def test_an_input_below_a_window_is_read_as_it_was_written(family, px):
    config, family = of_side(px), registry.get(family)
    params = tiny.params(config)
    state = state_dict.to_state_dict(params, family, config)
    found = state_dict.detect(state)
    assert found == config
    jax.tree.map(
        np.testing.assert_array_equal, state_dict.to_params(state, family, found)[0], params
    )


def test_a_grid_of_one_window_computes_the_same():
    """224 pixels: no shape tells global blocks and windows apart, and nothing else does."""
    config = of_side(224)
    params = tiny.params(config)
    found = state_dict.detect(state_dict.to_state_dict(params, registry.get("sam"), config))
    assert found.encoder.window == 14 and found.encoder.global_blocks == ()
    pixels = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
    one, other = (
        exact.apply(network.Sam(each, exact.COMPUTE), params, "encode", pixels)
        for each in (config, found)
    )
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_windows_of_several_sizes_are_refused():
    state = dict(
        state_dict.to_state_dict(tiny.params(of_side(64)), registry.get("sam"), of_side(64))
    )
    for axis in "hw":
        name = f"image_encoder.blocks.0.attn.rel_pos_{axis}"
        state[name] = state[name][:19]
    with pytest.raises(CheckpointError, match="windows of 10, 14 cells in a grid of 4"):
        state_dict.detect(state)


@pytest.mark.parametrize("px", [208, 64])
def test_an_input_below_a_window_gives_the_masks_of_transformers(px):
    if not parity_sam.has_transformers():
        pytest.skip("torch and transformers are not installed: make test WITH_TORCH=1")
    config = of_side(px)
    report = parity.measure(ModelFile(config=config, params=nano.params(config), source=""))
    assert report.holds and report.compared == "weights", report


# -------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("listing", LISTINGS)
def test_table_covers_both_sides_exactly_once(listing):
    shapes = golden.listing(listing)
    hollow = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    assert registry.recognise(hollow) is FAMILY
    config = state_dict.detect(hollow)
    if listing.endswith("vit_b"):
        assert config == named.sam("sam_b")
    links = list(FAMILY.links(config))
    theirs = list(itertools.chain.from_iterable(link.torch for link in links))
    ours = list(itertools.chain.from_iterable(link.params for link in links))
    assert sorted([*theirs, SECOND]) == sorted(shapes)
    assert sorted(ours) == sorted(expected_shapes.of(config))
    for link in links:
        shape = link.torch_shape([expected_shapes.of(config)[p] for p in link.params])
        assert all(shapes[name] == shape for name in link.torch)


def test_round_trip_from_their_side_is_exact():
    state = dict(golden.state_dict("sam_transformers_small_test"))
    state[SECOND] = state[FOURIER]
    config = state_dict.detect(state)
    params, unused = state_dict.to_params(state, FAMILY, config)
    assert unused == {}
    assert_same(state_dict.to_state_dict(params, FAMILY, config), state)


def test_both_ways_to_name_sam_give_the_same_parameters():
    state, config, params = small()
    assert registry.recognise(state) is FAMILY
    assert state_dict.detect(state) == config
    back, _ = state_dict.to_params(state, FAMILY, config)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True), back, params)
    again = state_dict.to_state_dict(back, registry.get("sam"), config)
    assert_same(again, golden.state_dict("sam_small_test"))


def test_safetensors_hold_what_is_written(tmp_path):
    """Its numpy side writes memory as it lies, whatever the strides: no tensor may be a view."""
    for name in ("sam_transformers", "sam"):
        state = state_dict.to_state_dict(small()[2], registry.get(name), small()[1])
        safetensors.numpy.save_file(state, tmp_path / "model.safetensors")
        assert_same(safetensors.numpy.load_file(tmp_path / "model.safetensors"), state)


@pytest.mark.parametrize("absent", [FOURIER, SECOND])
def test_either_name_of_the_fourier_matrix_is_enough(absent):
    state, config, params = small()
    fewer = {name: x for name, x in state.items() if name != absent}
    back, _ = state_dict.to_params(fewer, FAMILY, config)
    np.testing.assert_array_equal(back["prompt"]["fourier"], params["prompt"]["fourier"])


def test_two_names_of_two_matrices_are_refused():
    state, config, _ = small()
    assert not np.shares_memory(state[FOURIER], state[SECOND])
    for other in (state[SECOND] + np.float32(1e-6), state[SECOND][:1]):
        with pytest.raises(CheckpointError, match=f"name a second time: {SECOND}$"):
            state_dict.to_params({**state, SECOND: other}, FAMILY, config)
    neither = {name: x for name, x in state.items() if name not in (FOURIER, SECOND)}
    with pytest.raises(CheckpointError, match=f"missing: {FOURIER}$"):
        state_dict.to_params(neither, FAMILY, config)


def test_a_config_of_more_layers_than_tensors_is_refused_at_once():
    state, config, _ = small()
    value = their_config.config_json(config)
    value["vision_config"]["num_hidden_layers"] = 16_000
    deep = their_config.from_config_json(value)
    with pytest.raises(CheckpointError, match="189 tensors, but its config has 16002 layers"):
        state_dict.to_params(state, FAMILY, deep)


# -------------------------------------------------------------------------------- config.json


@pytest.mark.parametrize("name", ["sam_nano", "sam_b", "sam_l", "sam_h", "tiny"])
def test_config_there_and_back(name):
    config = tiny.config("sam") if name == "tiny" else named.sam(name)
    value = json.loads(json.dumps(their_config.config_json(config)))
    assert their_config.from_config_json(value) == config


def test_what_is_absent_has_their_default_and_what_is_unknown_is_passed_over():
    bare = {"model_type": "sam", "transformers_version": "4.29.0", "vision_config": None}
    assert their_config.from_config_json(bare) == named.sam("sam_b")
    huge = {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "global_attn_indexes": [31, 7, 15, 23],
        "mlp_dim": None,
        "projection_dim": 512,
    }
    assert their_config.from_config_json({**bare, "vision_config": huge}) == named.sam("sam_h")


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("vision_config", "hidden_size", "768", "is '768', but must be an integer"),
        ("vision_config", "hidden_size", True, "is True, but must be an integer"),
        ("vision_config", "hidden_size", 0, "is 0, but must be an integer"),
        ("vision_config", "hidden_size", 10**9, "must be an integer from 1 to 16384"),
        ("vision_config", "image_size", [1024, 1024], "is list, but must be an integer"),
        ("vision_config", "mlp_dim", 3000, "is 3000, but must be 3072"),
        ("vision_config", "use_rel_pos", False, "is False, but must be True"),
        ("vision_config", "hidden_act", ["gelu"], "is list, but must be gelu"),
        ("vision_config", "hidden_act", "quick_gelu", "must be gelu"),
        ("vision_config", "layer_norm_eps", 1e-5, "must be 1e-06"),
        ("vision_config", "global_attn_indexes", [2, "5"], "must be a list of integers"),
        ("vision_config", "global_attn_indexes", [2, 12], "each must name one of 12 blocks"),
        ("vision_config", "num_attention_heads", 7, "must divide into 7 heads"),
        ("vision_config", "num_pos_feats", 64, "must be 128, to fit the rest"),
        ("prompt_encoder_config", "patch_size", 8, "must be 16, to fit the rest"),
        ("prompt_encoder_config", "num_point_embeddings", 3, "must be 4"),
        ("mask_decoder_config", "hidden_size", 250, "must be 125, to fit the rest"),
        ("mask_decoder_config", "layer_norm_eps", 1e-4, "must be 1e-06 or 1e-05"),
        ("mask_decoder_config", "num_multimask_outputs", {"a": {}}, "is dict, but must be"),
    ],
)
def test_odd_values_are_refused_in_one_line(section, key, value, message):
    config = their_config.config_json(named.sam("sam_b"))
    config[section][key] = value
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        their_config.from_config_json(config)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 250


@pytest.mark.parametrize("ratio", [float("nan"), float("inf"), -1, "4", 1e-9])
def test_odd_ratios_are_refused(ratio):
    vision = {"mlp_ratio": ratio}
    with pytest.raises(CheckpointError, match=r"vision_config\.mlp_(ratio|dim) of config\.json"):
        their_config.from_config_json({"model_type": "sam", "vision_config": vision})


@pytest.mark.parametrize("value", [None, [], {}, {"model_type": ["sam"]}, {"model_type": "sam2"}])
def test_configs_of_something_else_are_refused(value):
    with pytest.raises(CheckpointError, match="not of transformers' SamModel"):
        their_config.from_config_json(value)


def test_sections_must_be_objects():
    with pytest.raises(CheckpointError, match=r"mask_decoder_config of config\.json is list"):
        their_config.from_config_json({"model_type": "sam", "mask_decoder_config": [[[]]]})


def test_efficientsam_is_not_written():
    config = named.sam("efficientsam_nano")
    with pytest.raises(CheckpointError, match="only models in the sam wiring"):
        their_config.config_json(config)
    with pytest.raises(CheckpointError, match="only models in the sam wiring"):
        state_dict.to_state_dict(nano.params(config), FAMILY, config)


# ------------------------------------------------------------------------- the library itself


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="SamModel is PyTorch's")


@pytest.fixture(scope="module")
def transformers(torch):
    return pytest.importorskip("transformers", reason="SamModel is in transformers")


def their_model(torch, transformers, network, **decoder):
    """SamModel with the network's parameters; `decoder` overrides keys of its config."""
    value = their_config.config_json(network.config)
    value["mask_decoder_config"] |= decoder
    with torch.device("meta"):  # random first weights would take seconds
        model = transformers.SamModel(transformers.SamConfig.from_dict(value)).eval()
    state = state_dict.to_state_dict(network.params, FAMILY, network.config)
    tensors = {name: torch.tensor(x) for name, x in state.items()}
    model.load_state_dict(tensors, strict=True, assign=True)
    return model


class Prompt:
    """One prompt in their terms and in ours; B pictures, coordinates in the model's frame."""

    def __init__(self, pictures, side, *, queries=1, points=0, box=False, mask_side=0, seed=0):
        rng = np.random.default_rng(seed)
        self.theirs, slots, labels = {}, [], []
        if points:
            xy = rng.uniform(0, side, (pictures, queries, points, 2)).astype(np.float32)
            label = rng.integers(0, 2, (pictures, queries, points))
            self.theirs |= {"input_points": xy, "input_labels": label}
            slots.append(xy)
            labels.append(label)
        if box:
            corners = rng.uniform(0, side, (pictures, queries, 2, 2)).astype(np.float32)
            corners = np.sort(corners, axis=2)
            self.theirs["input_boxes"] = corners.reshape(pictures, queries, 4)
            slots.append(corners)
            labels.append(np.broadcast_to([2, 3], (pictures, queries, 2)))
        elif points:  # they add this slot by themselves
            slots.append(np.zeros((pictures, queries, 1, 2), np.float32))
            labels.append(np.full((pictures, queries, 1), -1))
        self.mask = None
        if mask_side:
            shape = (pictures, queries, mask_side, mask_side)
            self.mask = rng.normal(0, 4, shape).astype(np.float32)
            self.theirs["input_masks"] = self.mask
        none = np.zeros((pictures, queries, 0, 2), np.float32)
        self.points = np.concatenate([none, *slots], axis=2)
        self.labels = np.concatenate([none[..., 0], *labels], axis=2).astype(np.int32)


def check_prompts(torch, model, network, embedding, theirs, prompts):
    """Asserts that masks and IoU agree, with several masks and with the single one."""
    for name, prompt in prompts.items():
        (logits, iou), _ = network.decode(embedding, prompt.points, prompt.labels, prompt.mask)
        inputs = {key: torch.from_numpy(x) for key, x in prompt.theirs.items()}
        for kind, kept in (("multi", slice(1, None)), ("single", slice(0, 1))):
            with torch.no_grad():
                out = model(image_embeddings=theirs, multimask_output=kind == "multi", **inputs)
            found = np.asarray(logits)[:, :, kept]
            cases.check(f"{name}/{kind}/low_res_sample", found, out.pred_masks.numpy())
            cases.check(f"{name}/{kind}/iou", np.asarray(iou)[:, :, kept], out.iou_scores.numpy())


def encode(torch, model, network, pixels):
    """Our embedding and theirs, checked against each other."""
    embedding, _ = network.encode(pixels)
    theirs = model.get_image_embeddings(torch.tensor(pixels.transpose(0, 3, 1, 2)))
    cases.check("embedding_sample", embedding, theirs.permute(0, 2, 3, 1).numpy())
    return embedding, theirs


def test_small_model_gives_the_same_numbers(torch, transformers):
    network = cases.network("sam_small_test", 0, NO_SCALING)
    model = their_model(torch, transformers, network)
    side, low = network.config.image_px, network.config.low_res_px
    pixels = np.random.default_rng(1).normal(size=(2, side, side, 3)).astype(np.float32)
    embedding, theirs = encode(torch, model, network, pixels)
    prompt = functools.partial(Prompt, 2, side)
    prompts = {
        "point": prompt(points=1, queries=3),
        "points": prompt(points=3, queries=2),
        "box": prompt(box=True, queries=2),
        "box and points": prompt(box=True, points=2, queries=2),
        "mask": prompt(mask_side=low),
        "mask and point": prompt(mask_side=low, points=1),
        "mask, box and points": prompt(mask_side=low, points=2, box=True),
        "nothing": prompt(),
    }
    check_prompts(torch, model, network, embedding, theirs, prompts)


def test_epsilon_of_the_two_way_decoder_is_written(torch, transformers):
    """With weights that put the norms' inputs near their epsilon, the default shows."""
    meta = cases.load("epsilon_sam_small_test").meta
    rules = tuple((pattern, factor) for pattern, factor in meta["scaled"])
    network = cases.network(meta["listing"], meta["seed"], rules)
    side = network.config.image_px
    pixels = np.random.default_rng(2).normal(size=(1, side, side, 3)).astype(np.float32)
    prompts = {"points": Prompt(1, side, points=2, queries=2)}
    model = their_model(torch, transformers, network)
    embedding, theirs = encode(torch, model, network, pixels)
    check_prompts(torch, model, network, embedding, theirs, prompts)
    default = their_model(torch, transformers, network, layer_norm_eps=1e-6)
    with pytest.raises(AssertionError, match="low_res_sample is off by"):
        check_prompts(torch, default, network, embedding, theirs, prompts)


@pytest.mark.slow
def test_full_size_model_gives_the_same_numbers(torch, transformers):
    """The embedding is held against segment-anything's, as ours is in the parity tests.

    Our encoder need not run for that, which would take most of the time.
    """
    case = cases.load("sam_vit_b_a")
    network = cases.network_of(case)
    model = their_model(torch, transformers, network)
    pixels = np.asarray(frames.to_input(case.arrays["image"], network.config))[None]
    theirs = model.get_image_embeddings(torch.tensor(pixels.transpose(0, 3, 1, 2)))
    embedding = theirs.permute(0, 2, 3, 1).numpy()
    cases.check("embedding_sample", cases.sample_map(embedding), case.arrays["embedding_sample"])
    prompts = {"mask and points": Prompt(1, 1024, points=2, mask_side=256)}
    check_prompts(torch, model, network, embedding, theirs, prompts)


def write_folder(folder, state, config):
    for name, value in (
        ("config", their_config.config_json(config)),
        ("preprocessor_config", their_config.preprocessor_json(config)),
    ):
        (folder / f"{name}.json").write_text(json.dumps(value))
    file = folder / "model.safetensors"
    safetensors.numpy.save_file(dict(state), file, metadata={"format": "pt"})


def test_a_folder_of_ours_is_loaded_whole(tmp_path, torch, transformers):
    state, config, _ = small()
    write_folder(tmp_path, state, config)
    model, report = transformers.SamModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    loaded = {name: x.numpy() for name, x in model.state_dict().items()}
    assert_same(loaded, state)


def test_a_folder_of_theirs_is_read(tmp_path, torch, transformers):
    state, config, _ = small()
    write_folder(tmp_path, state, config)
    model = transformers.SamModel.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path / "theirs")
    written = safetensors.numpy.load_file(tmp_path / "theirs" / "model.safetensors")
    assert written.keys() ^ state.keys() == {SECOND}
    value = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert their_config.from_config_json(value) == config
    params, _ = state_dict.to_params(written, FAMILY, config)
    assert_same(state_dict.to_state_dict(params, FAMILY, config), state)


def test_their_processor_makes_our_input(tmp_path, torch, transformers):
    state, config, _ = small()
    write_folder(tmp_path, state, config)
    processor = transformers.SamProcessor.from_pretrained(tmp_path)
    assert processor.target_size == config.image_px
    picture = nano.picture(200, 320)
    pixels = processor(images=picture, return_tensors="np")["pixel_values"][0]
    ours = np.asarray(frames.to_input(picture, config)).transpose(2, 0, 1)
    level = 1 / 255 / 0.224  # with torchvision the resize may round some pixel the other way
    np.testing.assert_allclose(pixels, ours, rtol=0, atol=1.01 * level)


@pytest.mark.parametrize("listing", LISTINGS)
def test_listings_are_those_of_the_library(listing, torch, transformers):
    shapes = golden.listing(listing)
    hollow = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    value = their_config.config_json(state_dict.detect(hollow))
    with torch.device("meta"):
        model = transformers.SamModel(transformers.SamConfig.from_dict(value))
    found = model.state_dict()
    assert {name: tuple(x.shape) for name, x in found.items()} == shapes
    assert {x.dtype for x in found.values()} == {torch.float32}
