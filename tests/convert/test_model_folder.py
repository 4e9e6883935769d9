"""A model folder is read whole, as it was written, or refused with everything that is wrong."""

import dataclasses
import json
import os
import struct
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
import pytest
import safetensors.numpy
from helpers import nano

from esam_jax import predict
from esam_jax.convert import load, model_folder, save
from esam_jax.errors import CheckpointError, ExistsError, MissingError
from esam_jax.models import named
from esam_jax.predict.everything.generator import AutomaticMaskGenerator

CONFIG = named.sam("efficientsam_nano")
PARAMS = nano.params(CONFIG)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model_folder.write(tmp_path / "m", CONFIG, PARAMS, source="a test", untrained=("prompt",))
    return tmp_path / "m"


def flat(params: dict) -> dict[str, np.ndarray]:
    return flax.traverse_util.flatten_dict(params, sep="/")


def test_what_is_read_is_what_was_written(folder: Path):
    file = model_folder.read(folder)
    assert (file.config, file.source, file.untrained) == (CONFIG, "a test", ("prompt",))
    assert flat(file.params).keys() == flat(PARAMS).keys()
    jax.tree.map(np.testing.assert_array_equal, file.params, PARAMS)


def test_its_own_thresholds_are_read_and_kept(folder: Path, tmp_path: Path):
    own = {"pred_iou_thresh": 0.7, "stability_score_thresh": 0.5}
    assert model_folder.read(folder).thresholds == {}
    model_folder.write(tmp_path / "own", CONFIG, PARAMS, source="a test", thresholds=own)
    assert model_folder.read(tmp_path / "own").thresholds == own
    save.write(load.model_file(tmp_path / "own"), tmp_path / "copy")
    assert load.thresholds(load.locate(tmp_path / "copy")) == own
    sam = predict.load(tmp_path / "copy")
    generator = AutomaticMaskGenerator(sam)
    assert (generator.pred_iou_thresh, generator.stability_score_thresh) == (0.7, 0.5)
    assert AutomaticMaskGenerator(sam, pred_iou_thresh=0.8).pred_iou_thresh == 0.8
    assert AutomaticMaskGenerator.efficientsam(sam).stability_score_thresh == 0.9


@pytest.mark.parametrize(
    "odd", [[], {"box_nms_thresh": 0.7}, {"pred_iou_thresh": "0.7"}, {"pred_iou_thresh": 1.5}]
)
def test_thresholds_that_are_none_are_refused(folder: Path, odd):
    header = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(header | {"thresholds": odd}))
    with pytest.raises(CheckpointError, match="thresholds"):
        model_folder.read(folder)


def forget_sha256(folder: Path) -> None:
    """As the folders of earlier releases, or of people who make them by hand."""
    header = json.loads((folder / "config.json").read_text())
    del header["sha256"]
    (folder / "config.json").write_text(json.dumps(header))


def test_half_precision_becomes_single(folder: Path):
    forget_sha256(folder)
    halves = {path: x.astype(np.float16) for path, x in flat(PARAMS).items()}
    safetensors.numpy.save_file(halves, folder / "model.safetensors")
    params = flat(model_folder.read(folder).params)
    assert all(x.dtype == np.float32 for x in params.values())
    np.testing.assert_array_equal(params["decoder/iou_token"], halves["decoder/iou_token"])


def test_all_that_is_wrong_is_in_one_error(folder: Path):
    tensors = flat(PARAMS)
    tensors["encoder/extra"] = np.zeros(3, np.float32)
    fourier = tensors.pop("prompt/fourier")
    tensors["prompt/padding"] = np.zeros((2, 5), np.float32)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        model_folder.read(folder)
    for part in (
        "missing: prompt/fourier",
        "unexpected: encoder/extra",
        "prompt/padding is (2, 5), not (1, 64)",
    ):
        assert part in str(caught.value)
    assert fourier.shape == (2, 32)


def test_wrong_parameters_are_not_written(tmp_path: Path):
    partial = {"encoder": PARAMS["encoder"]}
    with pytest.raises(CheckpointError, match="missing: decoder/"):
        model_folder.write(tmp_path / "m", CONFIG, partial, source="")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: np.full_like(x, np.nan), "NaN or infinity in prompt/fourier"),
        (lambda x: x.astype(np.int32), "prompt/fourier in types other than float"),
    ],
)
def test_values_are_checked(folder: Path, change, message: str):
    tensors = flat(PARAMS)
    tensors["prompt/fourier"] = change(tensors["prompt/fourier"])
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        model_folder.read(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "unused.safetensors"])
def test_f22_a_flipped_bit_is_found_where_the_hash_is_known(tmp_path: Path, name: str):
    """The lowest bit of one weight: nothing else could tell."""
    folder, unused = tmp_path / "m", {"head": np.ones(3, np.float32)}
    model_folder.write(folder, CONFIG, PARAMS, source="a test", unused=unused)
    assert model_folder.read(folder).unused.keys() == {"head"}
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-4] + bytes([whole[-4] ^ 1]) + whole[-3:])
    with pytest.raises(CheckpointError, match=rf"{name} is damaged .* SHA-256 is .*; copy the"):
        model_folder.read(folder)
    forget_sha256(folder)
    assert model_folder.read(folder).source == "a test"


def test_a_file_that_is_listed_must_be_there(tmp_path: Path):
    folder, unused = tmp_path / "m", {"head": np.ones(3, np.float32)}
    model_folder.write(folder, CONFIG, PARAMS, source="a test", unused=unused)
    (folder / "unused.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"unused\.safetensors cannot be read .* lists it"):
        model_folder.read(folder)


def entry(start: int, stop: int) -> str:
    return f'{{"dtype":"F32","shape":[{(stop - start) // 4}],"data_offsets":[{start},{stop}]}}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a safetensors file",
        struct.pack("<Q", 10**12) + b"{}",
        (f'{{"a":{entry(0, 8)},"b":{entry(4, 12)}}}', 12),
        (f'{{"a":{entry(0, 4)},"b":{entry(8, 12)}}}', 12),
        (f'{{"a":{entry(0, 8)}}}', 4),
        (f'{{"a":{entry(0, 8)},"a":{entry(0, 8)}}}', 8),
    ],
    ids=["empty", "text", "long header", "overlap", "hole", "short", "twice"],
)
def test_damaged_weights_are_refused(folder: Path, data: bytes | tuple[str, int]):
    if isinstance(data, tuple):
        header, body = data
        data = struct.pack("<Q", len(header)) + header.encode() + bytes(body)
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        model_folder.read(folder)


def test_a_name_that_stands_twice_is_refused(folder: Path):
    data = (folder / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = data[8 : 8 + length].decode().rstrip()
    name = '"prompt/fourier":'
    start = header.index(name)
    again = header[start : header.index("}", start) + 1]
    header = header[:-1] + "," + again + "}"
    whole = struct.pack("<Q", len(header)) + header.encode() + data[8 + length :]
    (folder / "model.safetensors").write_bytes(whole)
    with pytest.raises(CheckpointError, match="'prompt/fourier' more than once"):
        model_folder.read(folder)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), 2, "format 2"),
        (("source",), 3, "must be text"),
        (("untrained",), "prompt", "untrained must be a list"),
        (("extra",), 1, "has unknown extra"),
        (("sha256",), ["model.safetensors"], "sha256 may list model.safetensors and"),
        (("sha256",), {"../secret": ""}, "sha256 may list model.safetensors and"),
        (("sha256",), {"model.safetensors": 3}, "each of sha256 must be text"),
        (("model", "encoder", "kind"), "resnet", "kind is 'resnet'"),
        (("model", "encoder", "kind"), ["vit"], "kind is"),
        (("model", "encoder"), 3, "kind is None"),
        (("model", "encoder", "depth"), 10_000, "tensors, but its config has 1000[0-9] layers"),
        (("model", "encoder", "depth"), 10**9, "from 1 to"),
        (("model", "encoder", "depth"), -1, "from 1 to"),
        (("model", "encoder", "depth"), 3.0, "must be an integer"),
        (("model", "encoder", "depth"), float("nan"), "must be an integer"),
        (("model", "encoder", "width"), 10**30, "from 1 to"),
        (("model", "encoder", "pretrain_px"), 16_384, "must be at most 1024 times patch_px"),
        (("model", "encoder", "pretrain_px"), 4_096, "weights, but its config needs 17"),
        (("model", "encoder", "image_px"), 16_384 * 16, "from 1 to"),
        (("model", "encoder", "patch_px"), 1, "pretrain_px .* at most|weights, but its config"),
        (("model", "decoder", "mask_tokens"), 16_384, "weights, but its config needs"),
        (("model", "decoder", "mlp_width"), 16_384, "weights, but its config needs"),
        (("model", "encoder", "heads"), 0, "encoder.heads is 0"),
        (("model", "encoder", "width"), "64", "encoder.width is '64'"),
        (("model", "encoder", "width"), True, "encoder.width is True"),
        (("model", "encoder", "window"), 3, "has unknown window"),
        (("model", "decoder", "wiring"), "other", "one of"),
        (("model", "decoder", "width"), 128, "neck_width"),
        (("model", "decoder", "background"), [], "decoder.background"),
    ],
)
def test_hostile_configs_are_refused_early(folder: Path, path: tuple, value, message: str):
    header = json.loads((folder / "config.json").read_text())
    at = header
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match=message):
        model_folder.read(folder)


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "[" * 100_000, '{"format": 1}'])
def test_a_config_that_is_none_is_refused(folder: Path, text: str):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        model_folder.read(folder)


def test_a_model_folder_is_replaced_when_that_is_wanted(folder: Path):
    with pytest.raises(ExistsError, match=r"holds a model already: .* add --overwrite"):
        model_folder.write(folder, CONFIG, PARAMS, source="again")
    assert model_folder.read(folder).source == "a test"
    model_folder.write(folder, CONFIG, PARAMS, source="again", overwrite=True)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert model_folder.read(folder).source == "again"
    assert [p.name for p in folder.parent.iterdir()] == ["m"]


def test_what_somebody_put_beside_a_model_is_never_deleted(folder: Path):
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ExistsError, match="holds other files than a model, which would be lost"):
        model_folder.write(folder, CONFIG, PARAMS, source="again", overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_config_of_another_program_makes_no_model_folder(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"format": "html"}')
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(ExistsError, match="holds other files than a model"):
        model_folder.write(tmp_path, CONFIG, PARAMS, source="again", overwrite=True)
    assert (tmp_path / "model.safetensors").read_bytes() == b"mine"


def test_a_failed_write_leaves_the_old_folder(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def full_disk(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(MissingError, match="No space left"):
        model_folder.write(folder, CONFIG, PARAMS, source="again", overwrite=True)
    assert model_folder.read(folder).source == "a test"
    assert [p.name for p in folder.parent.iterdir()] == ["m"]


def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingError, match="name another folder"):
        model_folder.write(tmp_path / "file" / "m", CONFIG, PARAMS, source="")


def test_the_model_file_is_plain_data():
    names = [field.name for field in dataclasses.fields(model_folder.ModelFile)]
    assert names == [
        *("config", "params", "source", "licence", "untrained", "unused", "notes", "thresholds")
    ]


def test_weights_can_be_read_by_whom_the_config_can(folder: Path):
    modes = {(folder / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1
