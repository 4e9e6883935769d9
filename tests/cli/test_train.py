"""`esam train`: config, keys and folder are settled before JAX does anything."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from esam_jax import cli, configs
from esam_jax.cli import run_keys, train
from esam_jax.config import EvaluateConfig, PeersConfig, RunConfig, TextPromptConfig, rules
from esam_jax.config import json as json_of_configs
from esam_jax.processes import join
from esam_jax.runs import config_file
from esam_jax.train import loop
from esam_jax.train.checkpoint import step_folders


class Calls(list):
    options: dict


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list:
    """Calls of the train loop, which is not run."""
    calls = Calls()

    def run(cfg, workdir, **options):
        calls.append((cfg, workdir))
        calls.options = options
        return {"loss": 0.5}

    monkeypatch.setattr(loop, "run", run)
    return calls


def refused(argv: list[str], capsys) -> str:
    assert cli.main(["train", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("esam: ") and err.count("\n") == 1, err
    return err


def test_keys_change_the_config_and_nothing_else(runs, tmp_path, capsys):
    keys = ["--optim.peak-lr", "1e-3", "--steps=7", "--optim.warmup-steps", "3"]
    keys += ["--mesh.data", "2", "--data.view.masks", "5", "--task.init-from", "somewhere"]
    argv = ["train", "segment_ti", "--workdir", str(tmp_path / "run"), *keys, "--json"]
    assert cli.main(argv) == 0
    assert json.loads(capsys.readouterr().out) == {"loss": 0.5}
    ((cfg, workdir),) = runs
    base = configs.load("segment_ti")
    assert workdir == tmp_path / "run"
    assert (cfg.optim.peak_lr, cfg.steps, cfg.mesh.data) == (1e-3, 7, 2)
    assert (cfg.data.view.masks, cfg.task.init_from) == (5, "somewhere")
    assert (cfg.batch, cfg.data.source, cfg.compute) == (base.batch, base.data.source, base.compute)


def test_a_measurement_that_the_config_lacks_can_be_asked_for(runs, tmp_path):
    argv = ["train", "quickstart_scratch", "--workdir", str(tmp_path / "run")]
    assert configs.load("quickstart_scratch").evaluate is None
    assert cli.main([*argv, "--evaluate.source.split", "heldout", "--evaluate.images", "7"]) == 0
    ((cfg, _),) = runs
    assert cfg.evaluate.images == 7
    assert cfg.evaluate.source == dataclasses.replace(cfg.data.source, split="heldout")


def test_peers_are_met_before_the_run_and_are_no_part_of_it(runs, tmp_path, capsys, monkeypatch):
    met = []

    @contextlib.contextmanager
    def joined(peers):
        met.append((peers, len(runs)))
        yield

    monkeypatch.setattr(join, "joined", joined)
    argv = ["train", "segment_ti", "--workdir", str(tmp_path / "run"), "--peers.process", "1"]
    argv += ["--peers.coordinator", "10.0.0.1:1234", "--peers.processes=2", "--steps", "70000"]
    assert cli.main(argv) == 0
    peers = PeersConfig(coordinator="10.0.0.1:1234", processes=2, process=1)
    assert met == [(peers, 0)] and runs[0][0].steps == 70000


def test_a_file_of_ones_own(runs, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        "from configs.segment_ti import segment_ti\n"
        "from esam_jax.config import RunConfig\n"
        "def mine() -> RunConfig:\n"
        "    return segment_ti()\n"
    )
    assert cli.main(["train", str(path), "--workdir", str(tmp_path / "run")]) == 0
    assert runs[0][0] == configs.load("segment_ti") and capsys.readouterr().out == ""
    path.write_text("def mine( -> RunConfig")
    text = refused([str(path), "--workdir", str(tmp_path / "run")], capsys)
    assert "mine.py cannot be loaded: SyntaxError" in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no config is named"),
        (["--workdir", "w"], "the config comes first"),
        (["segment_ti"], "missing: --workdir PATH (esam"),
        (
            ["segment_ti", "--workdir", "w", "--compute.deterministic", "True"],
            "'True' is not an argument: a switch is on by its name alone, and off without it",
        ),
        (["segment_ti", "--steps", "5"], "missing: --workdir PATH (esam"),
        (["segment_tii", "--workdir", "w"], "did you mean segment_ti?"),
        (["absent.py", "--workdir", "w"], "absent.py does not exist"),
        (["segment_ti", "--workdir", "w", "--optim.peek-lr", "1"], "did you mean --optim.peak-lr?"),
        (["segment_ti", "--workdir", "w", "--optim.peek_lr=1"], "did you mean --optim.peak-lr?"),
        (["segment_ti", "--workdir", "w", "--optim.peak-lr", "x"], "--optim.peak-lr"),
        (
            ["segment_ti", "--workdir", "w", "--steps", "0"],
            "esam: steps is 0, but must be at least 1",
        ),
        (["segment_ti", "--workdir", "w", "--optim.beta1", "2"], "esam: optim.beta1 is 2.0, but"),
        (["sami_ti", "--workdir", "w", "--evaluate.images", "2"], "'sami' has nothing to measure"),
        (["segment_ti", "--workdir", "w", "--seed"], "--seed"),
        (
            ["segment_ti", "--workdir", "w", "--data.source.kind", "scene"],
            "--data.source.kind is 'scene', but must be one of scenes, tfds, sa1b, label_maps, "
            "pack, panoptic, bsds, semantic_maps, video, coco, image_tars, image_folder, mixture",
        ),
        (["segment_ti", "--workdir", "w", "--data.source.kind"], "--data.source.kind needs a"),
        (["segment_ti", "--workdir", "w", "--data.sauce.kind=coco"], "--data.source.kind?"),
        (["segment_ti", "--workdir", "w", "--task.kind=sami"], "students would have no value"),
        (["segment_ti", "--workdir", "w", "stray"], "stray"),
        (
            ["segment_ti", "--workdir", "w", "--optim.eps", "1e-8"],
            "optim.eps: it is always 1e-08",
        ),
        (
            ["segment_ti", "--workdir", "w", "--data.prefetch-batches", "4"],
            "--data.prefetch-batches: it is not needed any more, leave it out",
        ),
        (
            ["quickstart_sami", "--workdir", "w", "--data.source.path", "p"],
            "--data.source.path: add --data.source.kind tfds|sa1b|label_maps|pack|panoptic|bsds|"
            "semantic_maps|video|coco|image_tars|image_folder, which have it",
        ),
        (
            ["segment_ti", "--workdir", "w", "--data.source.kind", "image_folder"],
            "esam: data.source.kind is 'image_folder', but prompted views need masks: read scenes",
        ),
        (
            ["segment_ti", "--workdir", "w", "--peers.processes=2", "--peers.process=2"],
            "esam: peers.process is 2, but must be below processes=2",
        ),
        (["segment_ti", "--workdir", "w", "--peers.coordinator", "here"], "must be HOST:PORT"),
        (["segment_ti", "--workdir", "w", "--peers.proces", "2"], "--peers.proces"),
    ],
)
def test_wrong_usage(argv, message, runs, capsys):
    assert message in refused(argv, capsys)
    assert runs == []


def test_a_workdir_below_a_file(runs, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    below = str(tmp_path / "file" / "run")
    assert "file is a file" in refused(["segment_ti", "--workdir", below], capsys)
    assert runs == []


def test_a_teacher_without_weights(tmp_path, capsys):
    """The real loop: nothing is compiled, no folder is left."""
    keys = ["--data.source.kind", "scenes", "--batch", "8"]
    text = refused(["sami_ti", "--workdir", str(tmp_path / "run"), *keys], capsys)
    assert "task.teacher.weights" in text and "random" in text


@pytest.mark.parametrize("key", ["--task.text.model", "--task.text.model=clip_nano"])
def test_a_key_of_a_part_that_is_off_turns_it_on(key):
    keys = [key] if "=" in key else [key, "clip_nano"]
    config = configs.load("segment_ti")
    changed = run_keys.parse(config, keys, prog="esam train segment_ti")
    text = TextPromptConfig(model="clip_nano")
    assert changed == dataclasses.replace(config, task=dataclasses.replace(config.task, text=text))
    assert run_keys.parse(config, [], prog="esam train segment_ti") == config


def keys_of(kind: type, prefix: str = "--") -> Iterator[str]:
    """Every option that some config of this type has, whatever is off or replaced."""
    for field in dataclasses.fields(kind):
        members = json_of_configs.members(rules.hints(kind)[field.name])
        for member in members:
            yield from keys_of(member, f"{prefix}{field.name}.")
        if not members:
            yield f"{prefix}{field.name}".replace("_", "-")


@pytest.mark.parametrize("command", ["train", "plan"])
def test_help_lists_every_key_with_its_value(command, capsys):
    """Also keys of what is off, and of configs that can take the place of this one's."""
    cfg = configs.load("quickstart_scratch")
    assert cfg.evaluate is None and cfg.task.kind == "segment"
    assert cli.main([command, "quickstart_scratch", "--help"]) == 0
    out = capsys.readouterr().out
    listed = {option.rstrip(",:") for option in out.split() if option.startswith("--")}
    wanted = set(keys_of(RunConfig))
    assert {"--evaluate.images", "--task.teacher.weights", "--data.source.path"} <= wanted
    assert wanted - listed == set()
    assert "--peers.coordinator" in listed if command == "train" else "--topology" in listed
    assert "evaluate is off in this config" in out and f"(default: {cfg.name})" in out
    assert f"(default: {EvaluateConfig(source=cfg.data.source).images})" in out


def test_help_beside_another_kind_shows_its_keys(capsys):
    argv = ["train", "quickstart_sami", "--data.source.kind", "coco", "--help"]
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert "A COCO instance json" in out and "--data.source.kind label_maps|" in out
    # This task has nothing to measure: no key of a measurement would be accepted.
    assert "--evaluate" not in out


@pytest.mark.parametrize(("steps", "peak_lr"), [([], 5e-4), ([0], 5e-4), ([0, 10], 1e-4)])
def test_a_run_that_has_saved_nothing_follows_its_data_anew(
    steps, peak_lr, runs, tmp_path, monkeypatch
):
    """Of a run that was begun, the first start decides what the command line leaves out."""
    argv = ["train", "finetune", "--workdir", str(tmp_path), "--data.source.kind", "scenes"]
    argv += ["--task.init-from", "quickstart_teacher"]
    monkeypatch.setattr(train, "_report", lambda *_: None)
    assert cli.main(argv) == 0
    config_file.store(runs[0][0], tmp_path)
    monkeypatch.setattr(step_folders, "steps", lambda folder: steps)
    assert cli.main([*argv, "--task.train", "lora"]) == 0
    assert runs[1][0].optim.peak_lr == peak_lr


def test_the_workdir_is_a_path(runs, tmp_path):
    assert cli.main(["train", "segment_ti", "--workdir", str(tmp_path)]) == 0
    assert isinstance(runs[0][1], Path)


def test_a_run_is_changed_on_purpose(runs, tmp_path, capsys):
    argv = ["train", "segment_ti", "--workdir", str(tmp_path), "--batch", "64"]
    assert cli.main([*argv, "--resume-with", "steps=500000", "optim.peak-lr=1e-4"]) == 0
    ((cfg, _),) = runs
    assert (cfg.steps, cfg.optim.peak_lr, cfg.batch) == (500_000, 1e-4, 64)
    assert runs.options == {"resume_with": ["steps", "optim.peak_lr"]}
    for switch in (True, False):
        assert cli.main([*argv, "--resume-with", f"compute.deterministic={switch}"]) == 0
        assert runs[-1][0].compute.deterministic is switch
    assert runs.options == {"resume_with": ["compute.deterministic"]}
    for wrong, message in (
        ("steps", "'steps', but takes KEY=VALUE"),
        (
            "stepps=3",
            "--resume-with names 'stepps', which esam train segment_ti does not have: did",
        ),
        ("bogus=3", "segment_ti --help lists them all"),
        ("steps=x", "--steps: "),
    ):
        assert message in refused([*argv[1:], "--resume-with", wrong], capsys)
