"""MAE's files there and back, and our trunks in the layout of timm."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from helpers import tiny

from esam_jax.config import MaeConfig, PretrainDecoderConfig, VitConfig
from esam_jax.convert import model_folder, state_dict
from esam_jax.convert.families import mae as layout
from esam_jax.convert.families import registry, timm_vit
from esam_jax.errors import CheckpointError
from esam_jax.evaluate import golden
from esam_jax.models import expected_shapes, named
from esam_jax.models.pretrain.mae import Mae

LISTING = "mae_vit_b_pretrain"
VIT_B = VitConfig(width=768, heads=12, image_px=224)
# Our own trunk, and the three tensors that its SAMI run keeps.
SAM = tiny.config("efficientsam")
UNUSED = timm_vit.kept(
    {
        "class_token": jnp.arange(12.0),
        "norm": {"scale": jnp.linspace(0.5, 2, 12), "bias": jnp.linspace(-1, 1, 12)},
    }
)


def encoder_only(state):
    return {name: x for name, x in state.items() if not name.startswith(("decoder_", "mask_"))}


def blank(shapes):
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


# ------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize("part", [dict, encoder_only], ids=["whole", "encoder only"])
def test_round_trip_is_exact(part):
    state = part(golden.state_dict(LISTING, 8))
    config = state_dict.detect(state)
    assert config == MaeConfig(
        encoder=VIT_B, decoder=PretrainDecoderConfig() if part is dict else None
    )
    params, unused = state_dict.to_params(state, layout.FAMILY, config)
    assert unused == {} and all(x.dtype == np.float32 for x in jax.tree.leaves(params))
    back = state_dict.to_state_dict(params, layout.FAMILY, config)
    assert back.keys() == state.keys()
    for name, x in state.items():
        np.testing.assert_array_equal(back[name], x, strict=True)


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        PretrainDecoderConfig(width=32, depth=1, heads=16),
        PretrainDecoderConfig(width=64, depth=1, heads=2),  # quickstart_mae's
    ],
)
def test_round_trip_from_our_side_is_exact(decoder):
    encoder = timm_vit.pretrained(SAM.encoder)
    config = MaeConfig(encoder=encoder, decoder=decoder)
    params = tiny.params(config)
    state = state_dict.to_state_dict(params, layout.FAMILY, config)
    back, _ = state_dict.to_params(state, layout.FAMILY, config)
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize(
    ("width", "depth", "heads", "patch_px"), [(1024, 24, 16, 16), (1280, 32, 16, 14)]
)
def test_large_and_huge_are_recognised(width, depth, heads, patch_px):
    """From their shapes, as MAE's paper and release have them; no listing of theirs was at hand."""
    encoder = VitConfig(
        width=width, depth=depth, heads=heads, patch_px=patch_px, image_px=224, pretrain_px=224
    )
    config = MaeConfig(encoder=encoder, decoder=PretrainDecoderConfig())
    shapes = expected_shapes.of(config)
    links = list(layout.FAMILY.links(config))
    state = {
        name: link.torch_shape([shapes[p] for p in link.params])
        for link in links
        for name in link.torch
    }
    assert state["decoder_pred.weight"] == (3 * patch_px**2, 512)
    assert registry.recognise(blank(state)) is layout.FAMILY
    assert state_dict.detect(blank(state)) == config


# ------------------------------------------------------------------------------------ refusals


def test_what_is_no_such_model_is_refused():
    state = blank(encoder_only(golden.listing(LISTING)))
    odd = {**state, "pos_embed": np.zeros((1, 196, 768), np.float32)}
    with pytest.raises(CheckpointError, match="pos_embed has 196 slots"):
        state_dict.detect(odd)
    with pytest.raises(CheckpointError, match="pos_embed has 1 slots"):
        state_dict.detect({**state, "pos_embed": np.zeros((1, 1, 768), np.float32)})
    classifier = {**state, "head.weight": np.zeros((1000, 768), np.float32)}
    with pytest.raises(CheckpointError, match=r"unexpected: head\.weight$"):
        state_dict.to_params(classifier, layout.FAMILY, state_dict.detect(state))
    half = {**state, "mask_token": np.zeros((1, 1, 512), np.float32)}
    with pytest.raises(CheckpointError, match="has no decoder_blocks"):
        state_dict.detect(half)


def test_heads_that_would_be_read_back_as_others_are_refused():
    for heads, width, read in ((2, 32, 16), (16, 64, 2)):
        decoder = PretrainDecoderConfig(width=width, depth=1, heads=heads)
        config = MaeConfig(encoder=timm_vit.pretrained(SAM.encoder), decoder=decoder)
        reason = f"as mae: its decoder has {heads} heads.* {width} wide is read with {read}$"
        with pytest.raises(CheckpointError, match=reason):
            state_dict.to_state_dict(tiny.params(config), layout.FAMILY, config)


def test_layouts_refuse_each_others_models():
    with pytest.raises(CheckpointError, match="written as mae: it has only pretrained ViTs"):
        state_dict.to_state_dict(tiny.params(SAM), layout.FAMILY, SAM)
    config = MaeConfig(encoder=SAM.encoder)
    for name in set(registry.FAMILIES) - {"mae", "timm"}:
        with pytest.raises(CheckpointError, match=f"written as {name}"):
            state_dict.to_state_dict(tiny.params(config), registry.get(name), config)


# ---------------------------------------------------------------------------------------- timm


def test_trunk_is_written_as_timm_names_it_and_read_again():
    config, params = timm_vit.backbone(SAM, tiny.params(SAM), UNUSED)
    state = state_dict.to_state_dict(params, layout.FAMILY, config)
    assert state["cls_token"].shape == (1, 1, 12) and state["pos_embed"].shape == (1, 17, 12)
    for name, x in UNUSED.items():
        np.testing.assert_array_equal(state[name], x, strict=True)
    back, _ = state_dict.to_params(state, layout.FAMILY, config)
    trunk = {k: x for k, x in tiny.params(SAM)["encoder"].items() if k != "neck"}
    jax.tree.map(np.testing.assert_array_equal, back["encoder"], trunk)


def test_timm_gets_no_decoder():
    config = MaeConfig(
        encoder=timm_vit.pretrained(SAM.encoder),
        decoder=PretrainDecoderConfig(width=8, depth=1, heads=2),  # of no size of MAE's
    )
    family, params = registry.get("timm"), tiny.params(config)
    alone, (kept, lost) = family.nearest(config), family.reduce(config, params, {})
    assert alone == MaeConfig(encoder=config.encoder) and lost == ()
    state = state_dict.to_state_dict(kept, family, alone)
    assert not [name for name in state if name.startswith(("decoder_", "mask_"))]
    back, _ = state_dict.to_params(state, layout.FAMILY, alone)
    wanted = {name: params[name] for name in ("encoder", "class_token", "norm")}
    jax.tree.map(np.testing.assert_array_equal, back, wanted)


def test_trunk_of_a_named_model_is_found_again_by_its_shapes():
    sam = named.sam("efficientsam_ti")
    vit = MaeConfig(encoder=timm_vit.pretrained(sam.encoder))
    shapes = expected_shapes.of(vit)
    state = {
        name: link.torch_shape([shapes[p] for p in link.params])
        for link in layout.FAMILY.links(vit)
        for name in link.torch
    }
    assert state_dict.detect(blank(state)) == vit


def test_models_that_are_no_vit_of_timms_are_refused():
    sam = tiny.config("sam")
    with pytest.raises(CheckpointError, match=r"'sam_vit', but must be a plain ViT"):
        timm_vit.backbone(sam, tiny.params(sam), UNUSED)
    released = {"cls_token": UNUSED["cls_token"]}
    with pytest.raises(CheckpointError, match=r"lacks norm\.weight, norm\.bias, .*a SAMI run"):
        timm_vit.backbone(SAM, tiny.params(SAM), released)
    other = {**UNUSED, "norm.bias": np.zeros(13, np.float32)}
    with pytest.raises(CheckpointError, match=r"norm/bias is \(13,\), not \(12,\)"):
        timm_vit.backbone(SAM, tiny.params(SAM), other)


def test_features_are_those_of_a_vit_in_torch():
    """timm's VisionTransformer in its own names, as far as an encoder goes; loaded strictly."""
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Attention(nn.Module):
        def __init__(self, dim, heads):
            super().__init__()
            self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

        def forward(self, x):
            b, n, d = x.shape
            q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            shares = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
            return self.proj((shares @ v).transpose(1, 2).reshape(b, n, d))

    class Block(nn.Module):
        def __init__(self, dim, heads):
            super().__init__()
            self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(2))
            self.attn, self.mlp = Attention(dim, heads), nn.Module()
            self.mlp.fc1, self.mlp.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

        def forward(self, x):
            x = x + self.attn(self.norm1(x))
            return x + self.mlp.fc2(nn.functional.gelu(self.mlp.fc1(self.norm2(x))))

    class VisionTransformer(nn.Module):
        def __init__(self, image_px, patch_px, dim, depth, heads):
            super().__init__()
            self.patch_embed = nn.Module()
            self.patch_embed.proj = nn.Conv2d(3, dim, patch_px, patch_px)
            self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
            self.pos_embed = nn.Parameter(torch.empty(1, 1 + (image_px // patch_px) ** 2, dim))
            self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
            self.norm = nn.LayerNorm(dim, eps=1e-6)

        def forward(self, x):
            x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
            return self.norm(self.blocks(x + self.pos_embed))

    config, params = timm_vit.backbone(SAM, tiny.params(SAM), UNUSED)
    state = state_dict.to_state_dict(params, layout.FAMILY, config)
    vit = VisionTransformer(32, 8, 12, 2, 3)
    vit.load_state_dict({name: torch.tensor(x) for name, x in state.items()}, strict=True)
    pixels = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        expected = vit(torch.from_numpy(pixels.transpose(0, 3, 1, 2))).numpy()
    encode = tiny.jit(functools.partial(Mae(config).apply, method="encode"))
    np.testing.assert_allclose(encode({"params": params}, pixels), expected, atol=2e-5)


# --------------------------------------------------------------------------- unused.safetensors


@pytest.fixture
def folder(tmp_path):
    model_folder.write(tmp_path / "m", SAM, tiny.params(SAM), source="a test", unused=UNUSED)
    return tmp_path / "m"


def test_unused_tensors_come_back_in_their_own_types(tmp_path):
    unused = {
        **UNUSED,
        "seen": np.array(7),  # int64 without an axis, as num_batches_tracked
        "half": np.arange(3, dtype=np.float16),
        "brain": np.arange(4).astype(ml_dtypes.bfloat16),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
    model_folder.write(tmp_path / "m", SAM, tiny.params(SAM), source="a test", unused=unused)
    found = model_folder.read(tmp_path / "m").unused
    assert found.keys() == unused.keys()
    for name, x in unused.items():
        np.testing.assert_array_equal(found[name], x, strict=True)
    modes = {
        (tmp_path / "m" / name).stat().st_mode for name in ("config.json", "unused.safetensors")
    }
    assert len(modes) == 1


def test_without_unused_tensors_there_is_no_file(folder):
    assert (folder / "unused.safetensors").exists()
    model_folder.write(folder, SAM, tiny.params(SAM), source="again", overwrite=True)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert model_folder.read(folder).unused == {}


def test_a_folder_leads_to_timm(folder):
    file = model_folder.read(folder)
    config, params = timm_vit.backbone(file.config, file.params, file.unused)
    wanted = timm_vit.backbone(SAM, tiny.params(SAM), UNUSED)
    assert config == wanted[0]
    jax.tree.map(np.testing.assert_array_equal, params, wanted[1])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full(3, np.nan, np.float32), "NaN or infinity in odd"),
        (np.array([np.inf], np.float16), "NaN or infinity in odd"),
        (np.zeros(3), "odd in types other than float or int64"),
        (np.zeros(3, np.uint8), "odd in types other than float or int64"),
    ],
)
def test_unused_values_are_checked(folder, value, message):
    safetensors.numpy.save_file({**UNUSED, "odd": value}, folder / "unused.safetensors")
    with pytest.raises(CheckpointError, match=rf"unused\.safetensors holds {message}"):
        model_folder.read(folder)


def test_a_damaged_file_of_unused_tensors_is_refused(folder):
    file = folder / "unused.safetensors"
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, body = whole[8 : 8 + length].rstrip(), whole[8 + length :]
    entry = re.search(rb'"norm.bias":\{.*?\}', header)[0]
    twice = header[:-1] + b"," + entry + b"}"
    for data, message in (
        (whole[:-1], r"norm\.weight' is not inside the \d+ bytes"),
        (b"", "not a complete safetensors file"),
        (len(twice).to_bytes(8, "little") + twice + body, r"names 'norm\.bias' more than once"),
    ):
        file.write_bytes(data)
        with pytest.raises(CheckpointError, match=message):
            model_folder.read(folder)


def test_unused_tensors_of_other_types_are_not_written(tmp_path):
    with pytest.raises(CheckpointError, match="unused holds odd in types other than float"):
        model_folder.write(
            tmp_path / "m", SAM, tiny.params(SAM), source="", unused={"odd": np.zeros(2)}
        )
    assert list(tmp_path.iterdir()) == []


def test_a_mae_folder_is_read_as_it_was_written(tmp_path):
    encoder = timm_vit.pretrained(SAM.encoder)
    for decoder in (None, PretrainDecoderConfig(width=8, depth=1, heads=2)):
        config = MaeConfig(encoder=encoder, decoder=decoder)
        model_folder.write(
            tmp_path / "m", config, tiny.params(config), source="a test", overwrite=True
        )
        file = model_folder.read(tmp_path / "m")
        assert file.config == config
        jax.tree.map(np.testing.assert_array_equal, file.params, tiny.params(config))
    deep = dataclasses.replace(config, decoder=None)
    with pytest.raises(CheckpointError, match="unexpected: decoder/"):
        model_folder.write(tmp_path / "m", deep, tiny.params(config), source="")
