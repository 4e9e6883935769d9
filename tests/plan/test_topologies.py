import importlib.util
from importlib import metadata

import jax
import pytest

from esam_jax.errors import ConfigError, MissingError
from esam_jax.machine import accelerators
from esam_jax.plan import topologies


@pytest.mark.parametrize(
    ("name", "platform", "kind", "shape", "slices", "chips"),
    [
        ("v5e:4x4", "tpu", "v5e", (4, 4), 1, 16),
        ("2*v6e:8x8", "tpu", "v6e", (8, 8), 2, 128),
        ("v5p:4x4x4", "tpu", "v5p", (4, 4, 4), 1, 64),
        ("h100:2x8", "cuda", "h100", (2, 8), 1, 16),
        ("a100-40:1x8", "cuda", "a100-40", (1, 8), 1, 8),
        ("cpu:8", "cpu", "cpu", (8,), 1, 8),
    ],
)
def test_names(name, platform, kind, shape, slices, chips):
    found = topologies.parse(name)
    assert (found.platform, found.kind, found.shape) == (platform, kind, shape)
    assert (found.slices, found.chips) == (slices, chips)
    sheet = next((each for each in accelerators.ACCELERATORS if each.name == kind), None)
    assert found.memory_bytes == (sheet.memory_bytes if sheet else None)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("v5e", "must be written like"),
        ("v5e:4x4x4", "must have 2 positive sizes"),
        ("v5p:4x4", "must have 3 positive sizes"),
        ("h100:16", "must have 2 positive sizes"),
        ("h100:0x8", "must have 2 positive sizes"),
        ("2*h100:2x8", "only TPUs have"),
        ("b300:2x8", "names an unknown accelerator"),
    ],
)
def test_names_that_are_refused(name, reason):
    with pytest.raises(ConfigError, match=reason) as error:
        topologies.parse(name)
    assert name in str(error.value)


def test_every_tpu_and_card_has_a_data_sheet():
    sheets = {each.name for each in accelerators.ACCELERATORS}
    assert sheets >= set(topologies.TPU_AXES) | set(topologies.CARDS)


def test_a_gpu_lends_three_quarters_of_its_memory(monkeypatch):
    card = topologies.parse("h100:1x8")
    monkeypatch.delenv(topologies.MEMORY_FRACTION, raising=False)
    assert card.usable_bytes == 60 * 2**30
    monkeypatch.setenv(topologies.MEMORY_FRACTION, "0.9")
    assert card.usable_bytes == 72 * 2**30
    assert topologies.parse("v5e:4x4").usable_bytes == 16 * 2**30
    assert topologies.parse("cpu:2").usable_bytes is None


def test_more_pretend_devices_than_there_are():
    assert len(topologies.devices(topologies.parse("cpu:3"))) == 3
    with pytest.raises(ConfigError, match="device_count=999"):
        topologies.devices(topologies.parse("cpu:999"))


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("v5e:4x4", "libtpu", "pip install --no-deps 'libtpu=="),
        ("h100:2x8", "jax_plugins.xla_cuda13", "'jax-cuda13-plugin[with-cuda]=="),
    ],
)
def test_a_compiler_that_is_missing_is_named(monkeypatch, name, module, package):
    monkeypatch.setitem(__import__("sys").modules, module, None)  # importing it fails
    with pytest.raises(MissingError, match="pip install") as error:
        topologies.devices(topologies.parse(name))
    assert package in str(error.value)


@pytest.mark.parametrize(
    ("installed", "required", "other"),
    [
        ("0.0.52", 'libtpu==0.0.42.*; extra == "tpu"', True),
        ("0.0.42.1", 'libtpu==0.0.42.*; extra == "tpu"', False),
        ("0.0.42", 'libtpu==0.0.42.*; extra == "tpu"', False),
        ("0.0.421", 'libtpu==0.0.42.*; extra == "tpu"', True),
        ("0.0.52", 'numpy>=2; extra == "tpu"', False),  # jax no longer says so
    ],
)
def test_a_compiler_of_another_version_is_named(monkeypatch, installed, required, other):
    monkeypatch.setattr(metadata, "version", {"libtpu": installed, "jaxlib": "0.1"}.__getitem__)
    monkeypatch.setattr(metadata, "requires", {"jax": ["scipy>=1", required]}.__getitem__)
    said = topologies.other_compiler(topologies.parse("v5p:4x4x4"))
    assert topologies.other_compiler(topologies.parse("h100:1x8")) is None
    if not other:
        assert said is None
        return
    assert (
        said is not None
        and f"libtpu {installed} and jaxlib 0.1 are" in said
        and "takes libtpu 0.0.42.*" in said
    )
    assert f"pip install 'jax[tpu]=={jax.__version__}'" in said


def test_a_nightly_compiler_is_of_another_version_and_one_without_a_package_of_none(monkeypatch):
    versions = {"libtpu-nightly": "0.1.dev7", "jaxlib": "0.1"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", {"jax": ["libtpu==0.0.42.*"]}.__getitem__)
    pod = topologies.parse("v5p:4x4x4")
    said = topologies.other_compiler(pod)
    assert said is not None and said.startswith("libtpu-nightly 0.1.dev7 and jaxlib 0.1 are")
    del versions["libtpu-nightly"]
    assert topologies.other_compiler(pod) is None


def test_what_the_installed_jax_requires_is_found():
    assert any(map(topologies._TAKEN.match, metadata.requires("jax") or ()))


@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu is not installed")
@pytest.mark.parametrize(("name", "count"), [("v5e:4x4", 16), ("2*v5e:4x4", 32), ("v4:2x2x1", 4)])
def test_tpu_devices(name, count):
    assert len(topologies.devices(topologies.parse(name))) == count


@pytest.mark.skipif(
    not importlib.util.find_spec("jax_plugins"), reason="JAX's CUDA plug-in is not installed"
)
@pytest.mark.parametrize("name", ["a100:1x8", "h100:2x8"])
def test_cuda_devices(name):
    topology = topologies.parse(name)
    assert len(topologies.devices(topology)) == topology.chips
