"""A model folder of a stranger: a small config.json costs neither memory nor time, nor does a large
one; every command refuses it in one line."""

import copy
import dataclasses
import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from helpers import nano
from PIL import Image

from esam_jax import cli
from esam_jax.config import MaeConfig
from esam_jax.config import json as config_json
from esam_jax.convert import load, model_folder, save
from esam_jax.convert.formats import tensor_files
from esam_jax.errors import CheckpointError
from esam_jax.models import expected_shapes, named

VIT, SAM_VIT = named.sam("efficientsam_nano"), named.sam("sam_nano")
MAE = MaeConfig(encoder=VIT.encoder)
TINY = named.sam("mobile_sam")

# What of which config.json is changed to what, and what the refusal says.
HOSTILE: dict[str, tuple[Any, dict[str, Any], str]] = {
    "table of positions": (
        VIT,
        {"encoder.pretrain_px": 16_384, "encoder.patch_px": 4},
        "most 1024",
    ),
    "table within bounds": (
        VIT,
        {"encoder.pretrain_px": 8_192, "encoder.patch_px": 8},
        "config needs",
    ),
    "cells of the input": (VIT, {"encoder.image_px": 16_384, "encoder.patch_px": 4}, "most 1024"),
    "width": (VIT, {"encoder.width": 16_384, "encoder.heads": 4}, "least_weights|its config needs"),
    "depth": (VIT, {"encoder.depth": 10**6}, "from 1 to 16384"),
    "depth within bounds": (VIT, {"encoder.depth": 10_000}, "but its config has"),
    "heads": (VIT, {"encoder.heads": 10**9}, "from 1 to 16384"),
    "neck": (VIT, {"encoder.neck_width": 16_384, "decoder.width": 16_384}, "config needs|least"),
    "mask tokens": (VIT, {"decoder.mask_tokens": 16_384}, "config needs"),
    "negative": (VIT, {"encoder.width": -64}, "from 1 to"),
    "float": (VIT, {"encoder.width": 64.0}, "must be an integer"),
    "NaN": (VIT, {"encoder.width": float("nan")}, "must be an integer"),
    "infinity": (VIT, {"encoder.image_px": float("inf")}, "must be an integer"),
    "digits": (VIT, {"encoder.width": 10**4000}, "from 1 to"),
    "SAM's table": (SAM_VIT, {"encoder.image_px": 16_384, "encoder.patch_px": 4}, "most 1024"),
    "SAM's table within bounds": (
        SAM_VIT,
        {"encoder.image_px": 8_192, "encoder.patch_px": 8},
        "config needs",
    ),
    "window": (SAM_VIT, {"encoder.window": 16_384}, "window is 16384, but must be at most 64"),
    "blocks": (SAM_VIT, {"encoder.global_blocks": [10**9]}, "from 0 to"),
    "stages": (
        TINY,
        {f"encoder.{name}": [1] * 10_000 for name in ("widths", "depths", "all_heads", "windows")},
        "at most 8 values",
    ),
    "TinyViT's windows": (TINY, {"encoder.windows": [7, 7, 16_384, 7]}, "each must be at most 64"),
    "TinyViT's depths": (TINY, {"encoder.depths": [2, 2, 999, 2]}, "but its config has"),
    "MAE": (MAE, {"encoder.pretrain_px": 8_192, "encoder.patch_px": 8}, "config needs"),
    "MAE's decoder": (
        MAE,
        {"decoder": {"width": 16_384, "depth": 8, "heads": 16}},
        "least_weights is|its config needs",
    ),
}  # fmt: skip


def put(folder: Path, config: Any, changes: dict[str, Any]) -> Path:
    """A folder with few weights, whose config.json was changed."""
    folder.mkdir()
    tensors = {f"t{i}": np.ones(3, np.float32) for i in range(40)}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    model = copy.deepcopy(config_json.to_json(config))
    for path, value in changes.items():
        at = model
        *parents, last = path.split(".")
        for key in parents:
            at = at[key]
        at[last] = value
    header = {"format": 1, "source": "", "licence": "", "untrained": [], "model": model}
    sys.set_int_max_str_digits(5000)
    (folder / "config.json").write_text(json.dumps(header))
    return folder


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_config_is_refused(tmp_path, kind):
    config, changes, message = HOSTILE[kind]
    with pytest.raises(CheckpointError, match=message) as caught:
        load.model_file(put(tmp_path / "m", config, changes))
    assert len(str(caught.value)) < 1000


@pytest.mark.skipif(sys.platform != "linux", reason="takes Linux's /proc and limits")
def test_hostile_folders_take_little_memory_and_time(tmp_path):
    """In one process whose memory is bounded; an honest small model fits in it, too."""
    for i, (config, changes, _) in enumerate(HOSTILE.values()):
        put(tmp_path / f"m{i:02d}", config, changes)
    for name, text in (
        ("long", json.dumps({"source": "x" * 50_000_000})),
        ("deep", '{"model":' + "[" * 100_000 + "]" * 100_000 + "}"),
    ):
        put(tmp_path / name, VIT, {})
        (tmp_path / name / "config.json").write_text(text)
    script = """
        import json, pathlib, resource, sys, time
        from esam_jax.convert import load
        from esam_jax.errors import CheckpointError
        load.model_file("quickstart_teacher")
        status = lambda key: int(next(
            line.split()[1] for line in open("/proc/self/status") if line.startswith(key)
        )) * 1024
        limit = status("VmSize") + 600 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        before, began, said = status("VmHWM"), time.process_time(), []
        for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            try:
                load.model_file(path)
            except CheckpointError as error:
                said.append(str(error))
        print(json.dumps([status("VmHWM") - before, time.process_time() - began, said]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak, seconds, said = json.loads(done.stdout)
    assert len(said) == len(HOSTILE) + 2 and not [x for x in said if "alloc" in x]
    assert peak < 200 * 2**20 and seconds < 20


def test_every_command_refuses_it_in_one_line(tmp_path, capsys):
    folder = str(put(tmp_path / "m", VIT, HOSTILE["table of positions"][1]))
    picture = tmp_path / "a.png"
    Image.fromarray(nano.picture(8, 8)).save(picture)
    for argv in (
        ["inspect", folder],
        ["convert", folder, str(tmp_path / "out")],
        [
            "segment",
            str(picture),
            "--model",
            folder,
            "--point",
            "1,1",
            "--out",
            str(tmp_path / "o"),
        ],
        ["everything", str(picture), "--model", folder, "--out", str(tmp_path / "p")],
        ["evaluate", "prompts", "--model", folder, "--data", "scenes"],
        ["bench", "predict", folder],
    ):
        assert cli.main(argv) == 2, argv
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and "pretrain_px is 16384" in err


@pytest.mark.parametrize("ours", [True, False])
def test_config_json_is_read_once(tmp_path, monkeypatch, ours):
    folder = tmp_path / "m"
    layout = "folder" if ours else "transformers"
    save.write(load.model_file("quickstart_teacher"), folder, layout=layout)
    opened = []
    real = Path.open

    def counted(self, *arguments, **options):
        opened.append(self.name)
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", counted)
    monkeypatch.setattr(Path, "read_text", None)
    monkeypatch.setattr(Path, "read_bytes", None)
    load.model_file(folder)
    assert opened.count("config.json") == 1


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("vision_config", "image_size", 16_384),
        ("vision_config", "image_size", 10**9),
        ("vision_config", "num_hidden_layers", 10**6),
        ("vision_config", "hidden_size", 12_288),
        ("vision_config", "window_size", 16_384),
        ("vision_config", "mlp_ratio", float("inf")),
        ("vision_config", "global_attn_indexes", [10**9]),
        ("mask_decoder_config", "num_multimask_outputs", 16_383),
        ("mask_decoder_config", "mlp_dim", 1.5),
    ],
)
def test_a_hostile_folder_of_transformers_is_refused(tmp_path, section, key, value):
    folder = tmp_path / "m"
    save.write(load.model_file("quickstart_teacher"), folder, layout="transformers")
    content = json.loads((folder / "config.json").read_text())
    content[section][key] = value
    if key == "image_size":
        content["prompt_encoder_config"][key] = value
    if key == "hidden_size":
        content[section]["mlp_dim"] = 4 * value
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError) as caught:
        load.model_file(folder)
    assert len(str(caught.value)) < 1000


def test_an_index_of_many_shards_is_refused_before_one_is_opened(tmp_path):
    index = {f"t{i}": f"s{i}.safetensors" for i in range(1000)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(CheckpointError, match="lists 1000 shards, but at most 256 are read"):
        tensor_files.read(tmp_path)


@pytest.mark.parametrize("name", named.names())
def test_the_bound_of_a_model_is_below_it_and_close(name):
    config = named.model(name)
    shapes = expected_shapes.of(config)
    expected_shapes.check_size(config, shapes, name)
    weights = sum(math.prod(shape) for shape in shapes.values())
    assert 0.5 * weights < config.least_weights <= weights


@pytest.mark.parametrize("kind", ["vit", "tiny_vit"])
def test_pictures_too_large_for_so_few_weights_are_refused(tmp_path, kind):
    """The weights of these encoders fit any size of picture, so their shapes do not show it."""
    config, largest = VIT, 848
    if kind == "tiny_vit":
        small = dataclasses.replace(
            TINY.encoder, widths=(64, 64), depths=(1, 1), all_heads=(1, 2), windows=(7, 7)
        )
        small = dataclasses.replace(small, neck_width=64, image_px=64)
        config, largest = dataclasses.replace(SAM_VIT, encoder=small), 392
    model_folder.write(tmp_path / "m", config, nano.params(config), source="")
    file = tmp_path / "m" / "config.json"
    header = json.loads(file.read_text())

    def read(px):
        header["model"]["encoder"]["image_px"] = px
        file.write_text(json.dumps(header))
        return load.model_file(tmp_path / "m")

    assert read(largest).config.image_px == largest
    for px in (largest + 8, 8 * 1024 if kind == "vit" else 4 * 1024):
        with pytest.raises(CheckpointError, match=f"has image_px={px}, where a layer has"):
            read(px)


def test_wide_patches_make_the_picture_itself_the_largest():
    narrow = dataclasses.replace(VIT.encoder, width=32, heads=2, patch_px=16, pretrain_px=64)
    assert dataclasses.replace(narrow, image_px=64).widest_layer == 3 * 64 * 64


def test_an_honest_folder_is_read(tmp_path):
    model_folder.write(tmp_path / "m", VIT, nano.params(VIT), source="")
    assert load.model_file(tmp_path / "m").config == VIT
