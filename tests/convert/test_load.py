"""Everything a user may name as a model is found, or refused with what is accepted."""

from pathlib import Path

import pytest
from helpers import nano

from esam_jax import outputs
from esam_jax.convert import load, model_folder, provenance
from esam_jax.errors import CheckpointError, ConfigError, MissingError
from esam_jax.models import named

CONFIG = named.sam("efficientsam_nano")


def write(folder: Path) -> Path:
    model_folder.write(folder, CONFIG, nano.params(CONFIG), source=folder.name)
    return folder


def test_a_model_folder_or_the_weights_in_it(tmp_path: Path):
    folder = write(tmp_path / "m")
    assert load.model_file(folder).config == CONFIG
    assert load.model_file(str(folder / "model.safetensors")).source == "m"


def test_a_model_folder_holds_one_set_of_weights(tmp_path: Path):
    write(tmp_path / "m")
    with pytest.raises(CheckpointError, match="holds one set of weights: leave out --weights"):
        load.model_file(tmp_path / "m", weights="ema")
    assert load.model_file(tmp_path / "m", weights="raw").config == CONFIG


def test_a_model_folder_of_averages_is_not_taken_for_the_raw_weights(tmp_path: Path):
    source = f"a run{provenance.AVERAGED}"
    model_folder.write(tmp_path, CONFIG, nano.params(CONFIG), source=source)
    with pytest.raises(CheckpointError, match=r"leave out --weights, or name .* as RUN@STEP"):
        load.model_file(tmp_path, weights="raw")
    assert load.model_file(tmp_path, weights="ema").source == source


def test_a_run_with_one_model(tmp_path: Path):
    write(tmp_path / "model")
    assert load.model_file(tmp_path).source == "model"


def test_a_run_with_several_models_names_the_others(tmp_path: Path):
    for name in ("efficientsam_s", "efficientsam_b", "efficientsam_ti"):
        write(tmp_path / "model" / name)
    others = f"{tmp_path}/model/efficientsam_s, {tmp_path}/model/efficientsam_ti"
    with pytest.warns(UserWarning, match=others):
        assert load.model_file(tmp_path).source == "efficientsam_b"
    with pytest.warns(UserWarning, match=others):
        assert load.model_file(tmp_path / "model").source == "efficientsam_b"
    assert load.model_file(tmp_path / "model" / "efficientsam_ti").source == "efficientsam_ti"


def test_what_a_checkpoint_is_read_from_is_never_written_to(tmp_path: Path):
    """The config of its run, too, under any name; other files of the run may be replaced."""
    run = tmp_path / "run"
    (run / "checkpoints" / "1").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    (run / "notes.txt").write_text("")
    (tmp_path / "link.safetensors").symlink_to(run / "config.json")
    inputs = load.inputs(load.locate(f"{run}@1"))
    within = run / "checkpoints" / "1" / "x.pt"
    for file in (run / "config.json", tmp_path / "link.safetensors", within):
        with pytest.raises(ConfigError):
            outputs.require_file(file, overwrite=True, inputs=inputs)
    outputs.require_file(run / "notes.txt", overwrite=True, inputs=inputs)


def test_a_run_that_is_not_finished(tmp_path: Path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="has no model; checkpoints that it keeps: none yet"):
        load.model_file(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "text", "picture"])
def test_what_is_no_model_is_told_what_would_be(tmp_path: Path, kind: str):
    path = tmp_path / {"folder": "f", "text": "model.onnx", "picture": "a.jpg"}[kind]
    path.mkdir() if kind == "folder" else path.write_text("hello")
    with pytest.raises(CheckpointError, match=r"is not a model: a model is a model folder"):
        load.model_file(path)


def test_nothing_there(tmp_path: Path):
    with pytest.raises(MissingError, match=r"no model at .*quickstart_teacher"):
        load.model_file(tmp_path / "absent")


def test_a_preset_wins_over_a_file_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shipped = write(tmp_path / "shipped")
    (tmp_path / "preset").write_text("something else")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(load.SHIPPED, "preset", shipped)
    assert load.locate("preset").path == shipped
    with pytest.raises(CheckpointError, match="is not a model"):
        load.locate("./preset")


def test_locating_reads_no_weights(tmp_path: Path):
    folder = write(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert load.locate(folder).path == folder
    with pytest.raises(CheckpointError, match="not a complete safetensors"):
        load.model_file(folder)


def test_damaged_single_files_are_refused(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError):
        load.model_file(path)


def test_differences_name_the_fields_alone():
    one, other = named.sam("efficientsam_ti"), named.sam("efficientsam_s")
    found = load.differences(one, other)
    assert found.startswith("encoder.width 192 instead of 384")
    assert "decoder" not in found and load.differences(one, one) == ""
    assert "encoder.kind vit instead of sam_vit" in load.differences(one, named.sam("sam_b"))
