"""`esam convert` and `esam inspect` as a user types them."""

import dataclasses
import json
import pickle

import jax
import numpy as np
import pytest
import safetensors.numpy
from helpers import nano, toy
from PIL import Image

import esam_jax
from esam_jax import cli, configs, sharding, tasks
from esam_jax.config import EvaluateConfig, MeshConfig, SaveConfig, ScenesConfig
from esam_jax.convert import describe, load, model_folder, state_dict
from esam_jax.convert.families import registry
from esam_jax.convert.formats import tensor_files
from esam_jax.evaluate import golden, originals
from esam_jax.models import named
from esam_jax.runs import config_file
from esam_jax.train.checkpoint.manager import Checkpoints


@pytest.fixture
def release(tmp_path):
    """A file in SAM's own layout, of the small golden network."""
    path = tmp_path / "sam.safetensors"
    safetensors.numpy.save_file(dict(golden.state_dict("sam_small_test")), path)
    return path


def run(capsys, *argv):
    code = cli.main([str(x) for x in argv])
    out, err = capsys.readouterr()
    return code, out, err


def result(capsys, *argv):
    code, out, err = run(capsys, *argv, "--json")
    assert code == 0, err
    return json.loads(out)


def test_there_and_back_is_the_same_file(release, tmp_path, capsys):
    there = result(capsys, "convert", release, tmp_path / "model")
    assert there["layout"] == "folder" and there["dropped"] == []
    back = result(capsys, "convert", tmp_path / "model", tmp_path / "back.safetensors")
    assert back["layout"] == "sam" and back["sha256"] == there["sha256"]
    found, wanted = (
        tensor_files.read(tmp_path / "back.safetensors").tensors,
        golden.state_dict("sam_small_test"),
    )
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(found[name], tensor, strict=True)


def test_verify_prints_measured_differences(release, tmp_path, capsys):
    found = result(capsys, "convert", release, tmp_path / "model", "--verify")
    assert found["round_trip"] == "bit-equal"
    stages = {stage["name"]: stage for stage in found["stages"]}
    assert set(stages) == {"embedding", "low-res masks", "IoU", "mask pixels"}
    assert all(
        0 <= stage["error"] <= stage["limit"] and stage["holds"] for stage in stages.values()
    )
    assert stages["embedding"]["error"] > 0
    code, out, _ = run(capsys, "convert", release, tmp_path / "other", "--verify")
    assert code == 0 and "embedding" in out and "SHA-256" in out


def test_verify_says_what_it_did_not_compare(release, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(originals, "of", lambda *arguments: None)
    code, out, _ = run(capsys, "convert", release, tmp_path / "model", "--verify")
    assert code == 0 and "read back: bit-equal" in out
    said = "THESE WEIGHTS WERE NOT COMPARED with their original: segment_anything or transformers"
    assert said in out
    found = result(capsys, "convert", release, tmp_path / "other", "--verify")
    assert found["compared"] == "code" and "transformers" in found["install"]


@pytest.mark.slow
def test_verify_reads_a_small_model_back_that_its_tensors_do_not_name(tmp_path, capsys):
    config = named.sam("mobile_sam_nano")  # whose tensors could be of 1024 pixels
    model_folder.write(tmp_path / "m", config, nano.params(config), source="a test")
    found = result(capsys, "convert", tmp_path / "m", tmp_path / "m.safetensors", "--verify")
    assert found["round_trip"] == "bit-equal"


@pytest.mark.parametrize("way", ["in", "out", "out after another"])
def test_verify_takes_the_very_file(tmp_path, capsys, monkeypatch, way):
    """What is read from PyTorch's side, else what is written to it."""
    seen = []

    def of(family, config, state):
        seen.append((family, state))

    hf = tmp_path / "hf"
    monkeypatch.setattr(originals, "of", of)
    result(capsys, "convert", "quickstart_teacher", hf, "--layout", "transformers")
    if way == "in":
        result(capsys, "convert", hf, tmp_path / "model", "--verify")
        wanted = "sam_transformers", tensor_files.read(hf / "model.safetensors").tensors
    elif way == "out":
        target = tmp_path / "release.safetensors"
        result(capsys, "convert", "quickstart_teacher", target, "--verify")
        wanted = "sam", tensor_files.read(target).tensors
    else:  # of two files the first whose original is installed
        result(capsys, "convert", hf, tmp_path / "a.safetensors")
        result(capsys, "convert", tmp_path / "a.safetensors", tmp_path / "new",
               "--layout", "transformers", "--verify")  # fmt: skip
        assert seen.pop(0)[0] == "sam"
        wanted = "sam_transformers", tensor_files.read(tmp_path / "new/model.safetensors").tensors
    family, state = seen[0]
    assert family == wanted[0] and state.keys() == wanted[1].keys()
    for name, x in state.items():
        np.testing.assert_array_equal(x, wanted[1][name], strict=True)


def test_a_file_that_came_out_different_is_one(release, tmp_path, capsys, monkeypatch):
    whole = load.model_file

    def damaged(path, **options):
        file = whole(path, **options)
        if str(path) != str(release):
            file.params["decoder"]["iou_token"] = file.params["decoder"]["iou_token"] + 1
        return file

    monkeypatch.setattr(load, "model_file", damaged)
    code, out, _ = run(capsys, "convert", release, tmp_path / "other", "--verify")
    assert code == 1 and "read back: different in decoder/iou_token" in out


def test_half_precision_is_written_and_said(release, tmp_path, capsys):
    target = tmp_path / "half.safetensors"
    found = result(capsys, "convert", release, target, "--dtype", "bfloat16", "--verify")
    assert found["round_trip"] == "bit-equal to the parameters rounded to bfloat16"
    assert {x.dtype.name for x in tensor_files.read(target).tensors.values()} == {"bfloat16"}


def test_what_a_float16_cannot_hold_is_refused(tmp_path, capsys):
    state = dict(golden.state_dict("sam_small_test"))
    state["mask_decoder.iou_token.weight"] = state["mask_decoder.iou_token.weight"] * 1e6
    safetensors.numpy.save_file(state, tmp_path / "large.safetensors")
    target = tmp_path / "half.safetensors"
    code, _, err = run(
        capsys, "convert", tmp_path / "large.safetensors", target, "--dtype", "float16"
    )
    assert code == 2 and "iou_token" in err and "take bfloat16" in err and not target.exists()


def trained_further(folder, *, background):
    """EfficientSAM with a background point and mask prompts of its own."""
    state = golden.state_dict("efficientsam_small_test")
    family = registry.recognise(state)
    config = state_dict.detect(state, family)
    params, _ = state_dict.to_params(state, family, config)
    decoder = dataclasses.replace(config.decoder, background="learned")
    config = dataclasses.replace(config, decoder=decoder)
    width = config.decoder.width
    params["prompt"]["background"] = np.full((1, width), background, np.float32)
    model_folder.write(folder, config, params, source="a test")


def test_what_the_release_lacks_is_refused_or_named(tmp_path, capsys):
    trained_further(tmp_path / "model", background=0.5)
    target = tmp_path / "release.safetensors"
    code, _, err = run(capsys, "convert", tmp_path / "model", target)
    assert code == 2 and "prompt/background would be lost" in err and not target.exists()
    found = result(capsys, "convert", tmp_path / "model", target, "--drop-extras")
    assert found["dropped"] == ["prompt/background"]
    assert (
        tensor_files.read(target).tensors.keys()
        == golden.state_dict("efficientsam_small_test").keys()
    )


def test_extras_that_are_zero_are_no_loss(tmp_path, capsys):
    trained_further(tmp_path / "model", background=0.0)
    found = result(capsys, "convert", tmp_path / "model", tmp_path / "release.safetensors")
    assert found["dropped"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layout", "timm"), "must be a plain ViT"),
        (("--layout", "folder"), "makes a folder"),
        (("--model", "sam_hh"), "did you mean"),
        (("--model", "efficientsam_ti"), "weights, but its config needs 8704960 and more"),
    ],
)
def test_wrong_wishes_are_two_and_one_line(release, tmp_path, capsys, options, message):
    code, out, err = run(capsys, "convert", release, tmp_path / "x.safetensors", *options)
    assert code == 2 and out == "" and message in err and err.count("\n") == 1, err
    assert not (tmp_path / "x.safetensors").exists()


class _Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (self.marker, "w")


def test_hostile_files_are_two_and_run_nothing(tmp_path, capsys):
    marker = tmp_path / "marker"
    (tmp_path / "payload.pth").write_bytes(pickle.dumps({"model": _Payload(str(marker))}))
    (tmp_path / "long.safetensors").write_bytes((2**31).to_bytes(8, "little") + b"{}")
    for name in ("payload.pth", "long.safetensors"):
        for command in (("inspect",), ("convert",)):
            target = (tmp_path / "x",) if command == ("convert",) else ()
            code, out, err = run(capsys, *command, tmp_path / name, *target)
            assert code == 2 and out == "" and err.count("\n") == 1, err
    assert not marker.exists() and not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_checkpoint_of_a_run(tmp_path, capsys):
    """A run that wrote no model yet: its last step, and an earlier one by number."""
    cfg = dataclasses.replace(
        configs.load("quickstart_scratch"),
        mesh=MeshConfig(data=1),
        evaluate=EvaluateConfig(source=ScenesConfig(), every_steps=1, patience=3),
        save=SaveConfig(every_steps=1, best="miou"),
    )
    mesh, task = sharding.make_mesh(cfg.mesh), tasks.build(cfg)
    first = toy.create(task, cfg, mesh)
    kept = {1: first, 2: first.replace(params=jax.tree.map(lambda x: x + 1, first.params))}
    (tmp_path / "run").mkdir()
    config_file.store(cfg, tmp_path / "run")
    with Checkpoints(cfg.save, tmp_path / "run") as checkpoints:
        for step, state in kept.items():
            checkpoints.save(step, state)
    run_folder = tmp_path / "run"
    for source_name, step in ((f"{run_folder}@1", 1), (f"{run_folder}@2", 2), (run_folder, 2)):
        inspected = result(capsys, "inspect", source_name)
        found = result(capsys, "convert", source_name, tmp_path / f"model_{step}", "--overwrite")
        (model,) = task.models(kept[step].params, task.resumed()).values()
        assert found["sha256"] == describe.checksum(jax.device_get(model.params))
        assert found["untrained"] == list(model.untrained)
        assert found["source"].endswith(f"step {step} of {cfg.steps}")
        for key in ("sha256", "untrained", "source", "parameters"):
            assert inspected[key] == found[key]
        assert inspected["family"] == "checkpoint of a run of esam_jax"
        assert list(inspected["dtypes"]) == ["float32"]
    picture = tmp_path / "a.png"
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(picture)
    everywhere = (
        ("convert", "{}", tmp_path / "other"),
        ("inspect", "{}"),
        ("segment", picture, "--model", "{}", "--point", "9,9", "--out", tmp_path / "other"),
        ("everything", picture, "--model", "{}", "--out", tmp_path / "other"),
        ("evaluate", "prompts", "--model", "{}", "--data", tmp_path),
        ("bench", "predict", "{}"),
    )
    missing = "has no checkpoint 7; checkpoints that it keeps: 1, 2"
    for words in everywhere:
        for name, message in (("7", missing), ("x", "an integer")):
            command = (str(word).format(f"{run_folder}@{name}") for word in words)
            code, _, err = run(capsys, *command)
            assert code == 2 and message in err, (words, err)
    for model in (esam_jax.load(f"{run_folder}@1"), esam_jax.load(run_folder)):
        assert model.config == named.model(cfg.task.model)
    file, source_name = run_folder / config_file.CONFIG_FILE, f"{run_folder}@1"
    stored = file.read_bytes()
    for target in (run_folder, run_folder / "checkpoints"):  # which hold what is read
        code, _, err = run(capsys, "convert", source_name, target, "--overwrite")
        assert code == 2 and file.read_bytes() == stored, err
    assert not (run_folder / "model.safetensors").exists()
    code, _, err = run(capsys, "convert", source_name, tmp_path / "other", "--weights", "ema")
    assert code == 2 and "holds raw weights alone: leave out --weights ema" in err
    # How often a run was saved changes no model, whatever this release says of it.
    file.write_text(json.dumps({**json.loads(stored), "save": {"every_steps": -1, "gone": 3}}))
    (model,) = task.models(first.params, task.resumed()).values()
    again = result(capsys, "inspect", source_name)["sha256"]
    assert again == describe.checksum(jax.device_get(model.params))


# -------------------------------------------------------------------------------------- inspect


def test_inspect_says_what_a_file_is(release, capsys):
    found = result(capsys, "inspect", release)
    assert found["family"].startswith("sam (SAM ViT-B, L or H")
    assert found["unknown"] == [] and found["missing"] == []
    assert found["dtypes"] == {"float32": found["tensors"]}
    assert found["config"]["encoder"]["depth"] == 3
    code, out, _ = run(capsys, "inspect", release)
    assert code == 0 and "Apache-2.0" in out


def test_inspect_names_what_does_not_belong(tmp_path, capsys):
    state = dict(golden.state_dict("sam_small_test"))
    state["extra.weight"] = state.pop("mask_decoder.iou_token.weight")
    state["mask_decoder.iou_token.weight"] = np.zeros((1, 64), np.float16)
    del state["prompt_encoder.no_mask_embed.weight"]
    safetensors.numpy.save_file(state, tmp_path / "odd.safetensors")
    found = result(capsys, "inspect", tmp_path / "odd.safetensors")
    assert found["unknown"] == ["extra.weight"]
    assert found["missing"] == ["prompt_encoder.no_mask_embed.weight"]
    assert found["parameters"] is None and "does not fit" in found["reason"]


def test_inspect_describes_what_it_does_not_know(tmp_path, capsys):
    safetensors.numpy.save_file({"a": np.zeros((2, 3), np.int8)}, tmp_path / "a.safetensors")
    found = result(capsys, "inspect", tmp_path / "a.safetensors")
    assert found["family"] is None and found["names"] == ["a"] and found["values"] == 6


def test_inspect_takes_a_model_folder(capsys):
    found = result(capsys, "inspect", "quickstart_teacher")
    assert found["model"] == "sam_nano" and found["untrained"]
