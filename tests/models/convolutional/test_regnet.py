"""RegNetY: logits as transformers' network computes them, in timm's names there and back."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nano, tiny

from esam_jax.config import ComputeConfig, RegNetConfig
from esam_jax.convert import load, save, state_dict
from esam_jax.convert.families import registry
from esam_jax.convert.formats import tensor_files
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.models import expected_shapes
from esam_jax.models.convolutional.regnet import RegNet

SMALL = RegNetConfig(widths=(8, 16, 24), depths=(1, 3, 2), group_width=4, classes=5, stem_width=6)
FAMILY = registry.get("regnet")


def state():
    """As timm names it, with counters that no logit depends on."""
    found = state_dict.to_state_dict(nano.params(SMALL), FAMILY, SMALL)
    for i, name in enumerate(x for x in found if x.endswith("num_batches_tracked")):
        found[name] = np.array(100 + i)
    return found


def _theirs(name):
    """transformers' name of a tensor of timm's."""
    ends = {"conv.weight": "convolution.weight"}
    ends |= {f"bn.{x}": f"normalization.{x}" for x in ("weight", "bias")}
    ends |= {f"bn.running_{x}": f"normalization.running_{x}" for x in ("mean", "var")}
    ends["bn.num_batches_tracked"] = "normalization.num_batches_tracked"
    if found := re.fullmatch(r"stem\.(.+)", name):
        return f"regnet.embedder.embedder.{ends[found[1]]}"
    if found := re.fullmatch(r"head\.fc\.(\w+)", name):
        return f"classifier.1.{found[1]}"
    stage, block, part, rest = re.fullmatch(r"s(\d)\.b(\d+)\.(\w+)\.(.+)", name).groups()
    start = f"regnet.encoder.stages.{int(stage) - 1}.layers.{int(block) - 1}"
    if part == "downsample":
        return f"{start}.shortcut.{ends[rest]}"
    if part == "se":
        layer, end = rest.split(".")
        return f"{start}.layer.2.attention.{0 if layer == 'fc1' else 2}.{end}"
    return f"{start}.layer.{ {'conv1': 0, 'conv2': 1, 'conv3': 3}[part] }.{ends[rest]}"


@pytest.mark.parametrize("size", [(64, 64), (70, 45)])
def test_logits_are_those_of_transformers(size):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    settings = transformers.RegNetConfig(
        embedding_size=6, hidden_sizes=[8, 16, 24], depths=[1, 3, 2], groups_width=4,
        layer_type="y", downsample_in_first_stage=True, num_labels=5,
    )  # fmt: skip
    model = transformers.RegNetForImageClassification(settings).eval()
    named = {_theirs(name): torch.tensor(x) for name, x in state().items()}
    model.load_state_dict(named, strict=True)
    pixels = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).logits.numpy()
    found = np.asarray(tiny.jit(RegNet(SMALL).apply)({"params": nano.params(SMALL)}, pixels))
    assert wanted.std() > 1e-3
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_files_come_back_as_they_were(tmp_path):
    tensor_files.write_torch(tmp_path / "regnety.pth", state(), wrap="model")
    file = load.model_file(tmp_path / "regnety.pth")
    assert file.config == SMALL
    save.write(file, tmp_path / "folder")
    save.write(load.model_file(tmp_path / "folder"), tmp_path / "again.safetensors")
    found = tensor_files.read(tmp_path / "again.safetensors").tensors
    assert found.keys() == state().keys()
    for name, x in state().items():
        np.testing.assert_array_equal(found[name], x, strict=True)


def test_each_parameter_has_a_tensor():
    ours = [path for link in FAMILY.links(SMALL) for path in link.params]
    assert sorted(ours) == sorted(expected_shapes.of(SMALL))
    assert all(registry.get("vit_classifier").marks[0] not in name for name in state())


def test_a_torn_file_is_refused():
    def without(start):
        return {name: x for name, x in state().items() if not name.startswith(start)}

    with pytest.raises(CheckpointError, match=r"missing: .*s2\.b2\.conv1"):
        torn = without("s2.b2.conv1")
        state_dict.to_params(torn, FAMILY, state_dict.detect(torn))
    with pytest.raises(CheckpointError, match=r"lacks s1\.b1\.conv1\.conv\.weight"):
        FAMILY.detect(without("s1.b1.conv1"))
    with pytest.raises(ConfigError, match=r"depths is \(1, 2\), but must have one value for each"):
        RegNetConfig(widths=(8,), depths=(1, 2), group_width=4, classes=2)
    with pytest.raises(ConfigError, match="each must divide into groups of 4"):
        RegNetConfig(widths=(10,), depths=(1,), group_width=4, classes=2)


def test_logits_are_float32_whatever_is_computed_in():
    pixels = jnp.ones((1, 32, 32, 3))
    run = RegNet(SMALL, ComputeConfig(dtype="bfloat16")).apply
    shape = jax.eval_shape(run, {"params": nano.params(SMALL)}, pixels)
    assert shape.dtype == jnp.float32 and shape.shape == (1, 5)
