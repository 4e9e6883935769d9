"""Classifiers in timm's names there and back: MAE's, DeiT's, and DeiT's with a second token."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from helpers import nano, tiny
from PIL import Image

from esam_jax.config import ClassifierConfig, ImageFolderConfig, MaeConfig, VitConfig
from esam_jax.convert import load, save, state_dict
from esam_jax.convert.families import registry, vit_classifier
from esam_jax.convert.formats import tensor_files
from esam_jax.errors import CheckpointError
from esam_jax.evaluate import class_scores
from esam_jax.models import expected_shapes
from esam_jax.models.heads.classifier import Classifier

POOLS = ("mean", "class_token", "distilled")
SMALL = VitConfig(width=48, heads=3, depth=2, patch_px=8, image_px=24, pretrain_px=24)


def network(pool, encoder=SMALL, classes=5):
    return ClassifierConfig(encoder=encoder, classes=classes, pool=pool)


@functools.cache
def state(pool):
    """As timm would name and shape it: by hand, not by the table that is tested."""
    rng = np.random.default_rng(0)
    slots = 9 + (2 if pool == "distilled" else 1)
    shapes = {"cls_token": (1, 1, 48), "pos_embed": (1, slots, 48), "head.weight": (5, 48)}
    shapes |= {"patch_embed.proj.weight": (48, 3, 8, 8), "patch_embed.proj.bias": (48,)}
    for i in range(2):
        for name, shape in {
            "norm1": (48,),
            "attn.qkv": (144, 48),
            "attn.proj": (48, 48),
            "norm2": (48,),
            "mlp.fc1": (192, 48),
            "mlp.fc2": (48, 192),
        }.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
    norm = "fc_norm" if pool == "mean" else "norm"
    shapes |= {f"{norm}.weight": (48,), f"{norm}.bias": (48,), "head.bias": (5,)}
    if pool == "distilled":
        shapes |= {"dist_token": (1, 1, 48), "head_dist.weight": (5, 48), "head_dist.bias": (5,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("wrapped", [True, False], ids=["wrapped", "bare"])
def test_files_come_back_as_they_were(tmp_path, pool, wrapped):
    source, folder = tmp_path / "released.pth", tmp_path / "model"
    tensor_files.write_torch(source, state(pool), wrap="model" if wrapped else None)
    file = load.model_file(source)
    assert file.config == network(pool) and file.unused == {} and file.licence == "unstated"
    save.write(file, folder)
    back = load.model_file(folder)
    assert back.config == file.config
    for layout in ("original", "timm"):
        target = tmp_path / f"{layout}.safetensors"
        save.write(back, target, layout=layout)
        found = tensor_files.read(target).tensors
        assert found.keys() == state(pool).keys()
        for name, x in state(pool).items():
            np.testing.assert_array_equal(found[name], x, strict=True)


@pytest.mark.parametrize("pool", POOLS)
def test_each_parameter_has_a_tensor(pool):
    config = network(pool)
    links = list(vit_classifier.FAMILY.links(config))
    ours = [path for link in links for path in link.params]
    assert sorted(ours) == sorted(expected_shapes.of(config))
    params = tiny.params(config)
    there = state_dict.to_state_dict(params, vit_classifier.FAMILY, config)
    back, _ = state_dict.to_params(there, vit_classifier.FAMILY, config)
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (384, 6), (768, 12)])
@pytest.mark.parametrize("pool", POOLS)
def test_released_sizes_are_recognised(pool, width, heads):
    config = network(pool, VitConfig(width=width, heads=heads, image_px=224), 1000)
    ours = expected_shapes.of(config)
    shapes = {
        name: np.broadcast_to(np.float32(0), link.torch_shape([ours[path] for path in link.params]))
        for link in vit_classifier.FAMILY.links(config)
        for name in link.torch
    }
    assert registry.recognise(shapes) is vit_classifier.FAMILY
    assert state_dict.detect(shapes) == config
    assert shapes["pos_embed"].shape == (1, 198 if pool == "distilled" else 197, width)
    million = sum(x.size for x in shapes.values()) / 1e6
    if pool != "mean":  # DeiT's README, in its own rounding
        known = {192: (5, 6), 384: (22, 22), 768: (86, 87)}[width]
        assert abs(million - known[pool == "distilled"]) < 1


@pytest.mark.parametrize(
    ("pool", "changed", "words"),
    [
        ("distilled", {"head_dist.weight": None, "head_dist.bias": None}, "missing: head_dist"),
        ("class_token", {"fc_norm.weight": (48,)}, r"missing: fc_norm\.bias; unexpected: norm"),
        ("mean", {"head_dist.weight": (5, 48)}, r"unexpected: head_dist\.weight"),
        ("class_token", {"head.weight": (7, 48)}, r"head\.bias is \(5,\), not \(7,\)"),
        ("distilled", {"pos_embed": (1, 10, 48)}, "10 slots.* cls_token and dist_token each"),
        ("mean", {"pos_embed": (1, 1, 48)}, "has 1 slots, but must have one for cls_token"),
    ],
)
def test_another_head_is_refused(tmp_path, pool, changed, words):
    tensors = dict(state(pool))
    for name, shape in changed.items():
        if shape is None:
            del tensors[name]
        else:
            tensors[name] = np.ones(shape, np.float32)
    tensor_files.write_safetensors(tmp_path / "x.safetensors", tensors, {})
    with pytest.raises(CheckpointError, match=words):
        load.model_file(tmp_path / "x.safetensors")


def hub(folder, mean, std, key="pretrained_cfg"):
    """As timm's folders on the hub are."""
    folder.mkdir()
    tensor_files.write_safetensors(folder / "model.safetensors", state("class_token"), {})
    config = {"architecture": "vit_small_patch16_224", key: {"mean": mean, "std": std}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_of_timms_says_how_pixels_are_normalised(tmp_path):
    for name, values in {
        "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        "symmetric": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    }.items():
        file = load.model_file(hub(tmp_path / name, *values))
        assert file.config == dataclasses.replace(network("class_token"), pixels=name)
        # By its name, too, the file is one of that folder.
        again = load.model_file(tmp_path / name / "model.safetensors")
        assert again.config == file.config
    save.write(file, tmp_path / "ours")
    assert load.model_file(tmp_path / "ours").config.pixels == "symmetric"
    alone = tmp_path / "alone.safetensors"  # and would be taken for one of ImageNet's pixels
    with pytest.raises(
        CheckpointError, match=r"cannot hold .*: pixels \(symmetric\) would be lost"
    ):
        save.write(file, alone)
    assert save.write(file, alone, drop_extras=True).dropped == ("pixels (symmetric)",)


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ([0.48, 0.45, 0.40], [0.26, 0.26, 0.27], r"has mean \[0\.48, .* imagenet or symmetric"),
        ([0.5, 0.5], [0.5, 0.5, 0.5], r"pretrained_cfg\.mean is \[0\.5, 0\.5\], but must be"),
        ([0.5, 0.5, 0.5], None, r"pretrained_cfg\.std is None, but must be three numbers"),
    ],
)
def test_other_pixels_are_refused(tmp_path, mean, std, words):
    with pytest.raises(CheckpointError, match=words):
        load.model_file(hub(tmp_path / "folder", mean, std))


def test_other_models_are_not_written_so():
    config = MaeConfig(encoder=SMALL)
    with pytest.raises(CheckpointError, match="as vit_classifier: it has only classifiers"):
        state_dict.to_state_dict(tiny.params(config), vit_classifier.FAMILY, config)


def test_a_released_file_is_measured_as_a_run_is(tmp_path):
    """Its logits decide, and which of two files holds them makes no difference."""
    for i in range(6):
        picture = Image.fromarray(nano.picture(30, 40, seed=i))
        (tmp_path / "data" / f"class_{i % 5}").mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "data" / f"class_{i % 5}" / f"{i}.png")
    tensor_files.write_torch(tmp_path / "released.pth", state("distilled"), wrap="model")
    file = load.model_file(tmp_path / "released.pth")
    save.write(file, tmp_path / "folder")
    source = ImageFolderConfig(path=str(tmp_path / "data"))
    found = [
        class_scores.of_model(each, source, 6)
        for each in (file, load.model_file(tmp_path / "folder"))
    ]
    assert found[0]["images"] == 6 and found[0]["top5"] == 1.0
    assert found[0]["top1"] == found[1]["top1"] < 1.0


# ------------------------------------------------------------------------ against transformers


_SPLIT = {"q_proj": slice(0, 48), "k_proj": slice(48, 96), "v_proj": slice(96, 144)}
_BLOCK = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.o_proj",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def _in_their_names(pool):
    """The tensors as transformers names and splits them."""
    ours, body = state(pool), "deit" if pool == "distilled" else "vit"
    found = {
        f"{body}.embeddings.cls_token": ours["cls_token"],
        f"{body}.embeddings.position_embeddings": ours["pos_embed"],
    }
    if pool == "distilled":
        found[f"{body}.embeddings.distillation_token"] = ours["dist_token"]
    for end in ("weight", "bias"):
        layers = {
            "patch_embed.proj": f"{body}.embeddings.patch_embeddings.projection",
            "fc_norm" if pool == "mean" else "norm": f"{body}.layernorm",
            "head": "cls_classifier" if pool == "distilled" else "classifier",
            **({"head_dist": "distillation_classifier"} if pool == "distilled" else {}),
        }
        for i in range(2):
            theirs = f"{body}.layers.{i}"
            layers |= {f"blocks.{i}.{a}": f"{theirs}.{b}" for a, b in _BLOCK.items()}
            for name, rows in _SPLIT.items():
                fused = ours[f"blocks.{i}.attn.qkv.{end}"]
                found[f"{theirs}.attention.{name}.{end}"] = fused[rows]
        found |= {f"{b}.{end}": ours[f"{a}.{end}"] for a, b in layers.items()}
    return found


@pytest.mark.parametrize("pool", POOLS)
def test_logits_are_those_of_transformers(pool):
    """Its networks with the epsilon of timm, 1e-6; their own default of 1e-12 is not DeiT's."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    family = "DeiT" if pool == "distilled" else "ViT"
    settings = getattr(transformers, f"{family}Config")(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=192,
        image_size=24, patch_size=8, num_labels=5, layer_norm_eps=1e-6,
    )  # fmt: skip
    head = "ImageClassificationWithTeacher" if pool == "distilled" else "ImageClassification"
    model = getattr(transformers, f"{family}For{head}")(settings).eval()
    named = {name: torch.tensor(x) for name, x in _in_their_names(pool).items()}
    model.load_state_dict(named, strict=True)
    pixels = np.random.default_rng(1).normal(size=(2, 24, 24, 3)).astype(np.float32)
    with torch.no_grad():
        channels_first = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        out = model(channels_first, output_hidden_states=True)
        wanted = out.logits
        if pool == "mean":  # which it does not have: of what its last block gives
            pooled = out.hidden_states[-1][:, 1:].mean(1)
            wanted = model.classifier(model.vit.layernorm(pooled))
    params, _ = state_dict.to_params(state(pool), vit_classifier.FAMILY, network(pool))
    ours = Classifier(network(pool))
    found = np.asarray(tiny.jit(ours.apply)({"params": params}, pixels))
    # Of a head of normal(1) over 48 channels: logits of 7 or so, and 1e-5 of that.
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-5 * np.abs(found).max())
    if pool == "distilled":
        by_head = tiny.jit(functools.partial(ours.apply, method="by_head"))
        each = np.asarray(by_head({"params": params}, pixels))
        for mine, theirs in zip(each, (out.cls_logits, out.distillation_logits), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(mine).max())
