"""CLIP in OpenAI's names and in transformers': exact both ways, strict, and what is left out."""

import itertools
import json

import jax
import numpy as np
import pytest
from helpers import small_clip
from hypothesis import given, settings
from hypothesis import strategies as st

from esam_jax import cli
from esam_jax.config import ClipConfig, TextConfig, VitConfig
from esam_jax.convert import load, save, state_dict
from esam_jax.convert.families import clip_transformers_config as their_config
from esam_jax.convert.families import registry
from esam_jax.convert.formats import tensor_files
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError
from esam_jax.evaluate import golden, parity, parity_sam
from esam_jax.models import expected_shapes, named

OPENAI, TRANSFORMERS = (registry.get(name) for name in ("clip", "clip_transformers"))
BOTH = (OPENAI, TRANSFORMERS)
LISTINGS = {
    "clip_small_test": "clip_nano",
    "clip_vit_b_32": "clip_b_32",
    "clip_vit_b_16": "clip_b_16",
    "clip_vit_l_14": "clip_l_14",
    "clip_vit_l_14_336": "clip_l_14_336",
}
V, T = "vision_model", "text_model"


def hollow(shapes):
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def drawn(config: ClipConfig, seed: int = 0):
    """Parameters of a config, every value another."""
    rng = np.random.default_rng(seed)
    shapes = expected_shapes.of(config)
    flat = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    return state_dict.nested(flat)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], strict=True)


def needs_transformers():
    if not parity_sam.has_transformers():
        pytest.skip("torch and transformers are not installed: make test WITH_TORCH=1")


# -------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(("listing", "name"), LISTINGS.items())
def test_the_table_covers_openais_names_and_ours_exactly_once(listing, name):
    shapes = golden.listing(listing)
    assert registry.recognise(hollow(shapes)) is OPENAI
    config = state_dict.detect(hollow(shapes))
    assert config == named.model(name)
    links = list(OPENAI.links(config))
    theirs = list(itertools.chain.from_iterable(link.torch for link in links))
    ours = list(itertools.chain.from_iterable(link.params for link in links))
    assert sorted(theirs) == sorted(shapes)
    assert sorted(ours) == sorted(expected_shapes.of(config))
    for link in links:
        shape = link.torch_shape([expected_shapes.of(config)[path] for path in link.params])
        assert all(shapes[tensor] == shape for tensor in link.torch)


@pytest.mark.parametrize("name", LISTINGS.values())
def test_transformers_names_cover_ours_and_say_the_same_size(name):
    config = named.model(name)
    links, ours = list(TRANSFORMERS.links(config)), expected_shapes.of(config)
    covered = list(itertools.chain.from_iterable(link.params for link in links))
    assert sorted(covered) == sorted(ours)
    shapes = {
        tensor: link.torch_shape([ours[path] for path in link.params])
        for link in links
        for tensor in link.torch
    }
    assert len(shapes) == sum(len(link.torch) for link in links)
    assert registry.recognise(hollow(shapes)) is TRANSFORMERS
    assert state_dict.detect(hollow(shapes)) == config


def test_names_and_shapes_are_those_of_transformers():
    needs_transformers()
    import transformers

    config, params = small_clip.weights()
    settings = transformers.CLIPConfig.from_dict(their_config.config_json(config))
    theirs = transformers.CLIPModel(settings).state_dict()
    ours = state_dict.to_state_dict(params, TRANSFORMERS, config)
    assert {k: tuple(x.shape) for k, x in theirs.items()} == {k: x.shape for k, x in ours.items()}


# -------------------------------------------------------------------------------- both ways

sizes = st.integers(1, 3)


@st.composite
def configs(draw):
    """Networks of few and uneven numbers; heads that do not follow from the widths."""
    heads, text_heads, patch, side = draw(st.tuples(sizes, sizes, sizes, sizes))
    px = patch * side
    return ClipConfig(
        encoder=VitConfig(
            width=heads * draw(st.integers(1, 4)),
            heads=heads,
            depth=draw(sizes),
            patch_px=patch,
            image_px=px,
            pretrain_px=px,
        ),
        text=TextConfig(width=text_heads * draw(sizes), heads=text_heads, depth=draw(sizes)),
        embed_width=draw(st.integers(1, 5)),
    )


@pytest.mark.parametrize("family", BOTH, ids=lambda family: family.name)
@settings(max_examples=6)  # each is traced for its shapes
@given(config=configs())
def test_there_and_back_is_identity(family, config):
    params = drawn(config)
    state = state_dict.to_state_dict(params, family, config)
    back, unused = state_dict.to_params(state, family, config)
    assert unused == {}
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert_same(state_dict.to_state_dict(back, family, config), state)


def test_golden_weights_come_back_as_they_were_by_way_of_transformers():
    state = golden.state_dict("clip_small_test")
    config, params = small_clip.weights()
    theirs = state_dict.to_state_dict(params, TRANSFORMERS, config)
    again, _ = state_dict.to_params(theirs, TRANSFORMERS, config)
    assert_same(state_dict.to_state_dict(again, OPENAI, config), dict(state))


def test_query_key_and_value_are_cut_as_transformers_cuts_them():
    """text.md, section 3: in_proj is q, k and v, one after the other; projections are turned."""
    state = golden.state_dict("clip_small_test")
    config, params = small_clip.weights()
    theirs = state_dict.to_state_dict(params, TRANSFORMERS, config)
    block = f"{V}.encoder.layers.1"
    fused = state["visual.transformer.resblocks.1.attn.in_proj_weight"]
    for part, rows in zip("qkv", np.split(fused, 3), strict=True):
        np.testing.assert_array_equal(theirs[f"{block}.self_attn.{part}_proj.weight"], rows)
    np.testing.assert_array_equal(theirs["visual_projection.weight"], state["visual.proj"].T)
    np.testing.assert_array_equal(theirs["text_projection.weight"], state["text_projection"].T)
    np.testing.assert_array_equal(theirs[f"{V}.pre_layrnorm.weight"], state["visual.ln_pre.weight"])


# --------------------------------------------------------------------------- what files hold


def test_what_the_shapes_say_too_is_left_out(tmp_path, capsys):
    config, params = small_clip.weights()
    for family, extra in (
        (OPENAI, {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}),
        (OPENAI, {"attn_mask": 0, "transformer.resblocks.1.attn_mask": 0}),
        (TRANSFORMERS, {f"{V}.embeddings.position_ids": 17, f"{T}.embeddings.position_ids": 77}),
    ):
        plain = state_dict.to_state_dict(params, family, config)
        state = {**plain, **{name: np.array(value) for name, value in extra.items()}}
        assert state_dict.detect(state) == config
        found, unused = state_dict.to_params(state, family, config)
        jax.tree.map(np.testing.assert_array_equal, found, params)
        assert unused == {}
        assert state_dict.remarks(state, family, config) == ()  # nothing is lost
        assert state_dict.to_state_dict(found, family, config).keys() == plain.keys()
        tensor_files.write_safetensors(tmp_path / f"{family.name}.safetensors", state)
        assert cli.main(["inspect", str(tmp_path / f"{family.name}.safetensors"), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["unknown"], told["missing"], told["model"]) == ([], [], "clip_nano")
        assert told["notes"] == [f"not kept, for the shapes say the same: {', '.join(extra)}"]


def test_half_precision_is_read_exactly(tmp_path):
    """OpenAI's files: linear maps and convolutions in 16 bits, norms and tables in 32."""
    state = {
        name: x.astype(np.float16) if x.ndim > 1 and "embedding" not in name else x
        for name, x in golden.state_dict("clip_small_test").items()
    }
    tensor_files.write_safetensors(tmp_path / "half.safetensors", state)
    file = load.model_file(tmp_path / "half.safetensors")
    (kernel,) = file.params["encoder"]["project"].values()
    np.testing.assert_array_equal(kernel, state["visual.proj"].astype(np.float32), strict=True)
    save.write(file, tmp_path / "again.safetensors", dtype="float16")
    again = tensor_files.read(tmp_path / "again.safetensors").tensors
    np.testing.assert_array_equal(again["visual.proj"], state["visual.proj"], strict=True)


def test_nothing_is_loaded_in_part():
    config, _ = small_clip.weights()
    state = dict(golden.state_dict("clip_small_test"))
    del state["transformer.resblocks.1.ln_1.bias"]
    state["visual.attnpool.k_proj.weight"] = np.zeros((3, 3), np.float32)
    state["visual.proj"] = state["visual.proj"][:, :-1]
    with pytest.raises(CheckpointError) as caught:
        state_dict.to_params(state, OPENAI, config)
    for part in ("missing: transformer.resblocks.1.ln_1.bias", "unexpected: visual.attnpool"):
        assert part in str(caught.value)
    assert "visual.proj is (128, 63), not (128, 64)" in str(caught.value)


def test_a_table_of_no_square_is_refused():
    state = dict(golden.state_dict("clip_small_test"))
    state["visual.positional_embedding"] = state["visual.positional_embedding"][:-1]
    with pytest.raises(CheckpointError, match="16 slots, but must have one for the class token"):
        state_dict.detect(state)


def test_other_networks_are_not_written_in_these_names():
    config = named.sam("sam_nano")
    for family in BOTH:
        with pytest.raises(CheckpointError, match="only CLIP's two encoders"):
            state_dict.to_state_dict({}, family, config)


# ----------------------------------------------------------------------- transformers' folders


def test_config_json_there_and_back():
    for name in (*LISTINGS.values(), None):
        config = small_clip.tiny() if name is None else named.model(name)
        assert their_config.from_config_json(their_config.config_json(config)) == config
    bare = {"model_type": "clip", "text_config": None, "vision_config": {}}
    assert their_config.from_config_json(bare) == named.model("clip_b_32")
    bare["text_config"] = {"eos_token_id": 2}  # of files before transformers 4.24
    assert their_config.from_config_json(bare) == named.model("clip_b_32")


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("vision_config", "hidden_act", "gelu", "must be quick_gelu"),
        ("text_config", "hidden_act", "gelu", "must be quick_gelu"),
        ("vision_config", "layer_norm_eps", 1e-6, "must be 1e-05"),
        ("text_config", "vocab_size", 1000, "must be 49408"),
        ("text_config", "max_position_embeddings", 248, "must be 77"),
        ("text_config", "eos_token_id", 5, "must be 49407 or 2"),
        ("vision_config", "intermediate_size", 512, "must be 48, four times hidden_size=12"),
        ("vision_config", "num_attention_heads", 5, "must divide into 5 heads"),
        ("text_config", "hidden_size", "wide", "must be an integer"),
        ("vision_config", "patch_size", 10**9, "must be an integer from 1 to 16384"),
        (None, "projection_dim", [], "config.projection_dim of config.json is list"),
        (None, "text_config", 3, "text_config of config.json is 3, but must be a JSON object"),
    ],
)
def test_what_our_network_does_not_compute_is_refused_by_name(section, key, value, message):
    config = their_config.config_json(small_clip.tiny())
    (config if section is None else config[section])[key] = value
    with pytest.raises(CheckpointError, match=message):
        their_config.from_config_json(config)


def test_a_folder_of_transformers_there_and_back(tmp_path):
    """Its config says the heads, which shapes do not."""
    config = small_clip.tiny()
    file = ModelFile(config=config, params=drawn(config), source="a test", licence="MIT")
    written = save.write(file, tmp_path / "theirs", layout="transformers")
    assert written.layout == "clip_transformers"
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["model_type"] == "clip"
    back = load.model_file(tmp_path / "theirs")
    assert (back.config, back.licence) == (config, "MIT")
    jax.tree.map(np.testing.assert_array_equal, back.params, file.params)


def test_transformers_computes_the_same_from_a_folder_that_we_wrote(tmp_path):
    needs_transformers()
    import torch
    import transformers

    clip = small_clip.clip()
    file = ModelFile(config=clip.config, params=clip.params, source="a test", licence="MIT")
    save.write(file, tmp_path / "theirs", layout="transformers")
    model = transformers.CLIPModel.from_pretrained(tmp_path / "theirs")
    tokens = clip.tokenize(["a photo of a dog", "two cats"])
    with torch.no_grad():
        pooled = model.text_model(torch.tensor(tokens).long()).pooler_output
        theirs = model.text_projection(pooled).numpy()
    ours = clip.encode_text(["a photo of a dog", "two cats"])
    np.testing.assert_allclose(ours, theirs, atol=5e-5 * theirs.std())


def test_the_network_beside_that_of_transformers():
    needs_transformers()
    config = small_clip.tiny()
    report = parity.measure(ModelFile(config=config, params=drawn(config), source=""))
    assert report.holds and report.compared == "weights", report
    assert [stage.name for stage in report.stages] == ["image features", "text features"]
    assert all(stage.error > 1e-8 for stage in report.stages)


@pytest.mark.slow
def test_the_golden_case_of_its_kind():
    report = parity.against_golden(named.model("clip_nano"))
    assert report.holds and "clip_small_test_a (this size" in report.against
    names = [stage.name for stage in report.stages]
    assert names == ["tokens", "image features", "text features", "logits"]
    assert parity.case_for(named.model("clip_l_14")) == "clip_vit_b_32_a"
