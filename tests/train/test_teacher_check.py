"""The teacher's known answer: what is damaged, wrong or computed wrongly is refused at once."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy

from esam_jax import configs, sharding, tasks
from esam_jax.config import MeshConfig, SamiConfig, TeacherConfig
from esam_jax.convert import load
from esam_jax.errors import CheckpointError, TrainingError
from esam_jax.train import loop, teacher_check
from esam_jax.train import state as states
from esam_jax.train.checkpoint import checksums

ONE, FOUR = (sharding.make_mesh(MeshConfig(data=data)) for data in (1, 4))


def see(frozen, image):
    """A teacher of one layer: 8 x 8 cells, 6 channels."""
    cells = image.astype(jnp.float32).reshape(-1, 8, 8, 8, 8, 3).mean((2, 4)) / 255
    return jnp.tanh(cells @ frozen["teacher"]["head"]["kernel"])


TASK = dataclasses.replace(toy.task(), features=see)


def config(weights, model="sam_h"):
    teacher = TeacherConfig(model=model, weights=str(weights))
    return toy.config(task=SamiConfig(students=("efficientsam_nano",), teacher=teacher))


def frozen(mesh, seed=0):
    kernel = np.random.default_rng(seed).normal(size=(3, 6)).astype(np.float32)
    return jax.device_put({"teacher": {"head": {"kernel": kernel}}}, sharding.replicated(mesh))


def check(weights, workdir, mesh=ONE, resumed=False, cfg=None):
    teacher_check.check(TASK, cfg or config("teacher.pt"), mesh, weights, workdir, resumed=resumed)


def test_a_task_without_a_teacher_has_no_answer(tmp_path):
    teacher_check.check(toy.task(), toy.config(), ONE, {}, tmp_path, resumed=False)
    assert list(tmp_path.iterdir()) == []


def test_f22_another_teacher_than_at_the_first_start_is_refused(tmp_path):
    check(frozen(ONE), tmp_path)
    check(frozen(FOUR), tmp_path, FOUR, resumed=True)  # on any mesh
    with pytest.raises(CheckpointError) as error:
        check(frozen(ONE, seed=1), tmp_path, resumed=True)
    assert error.match(r"teacher\.pt is not as in .*teacher_answer\.json: its features are")
    assert error.match(r"may be 0\.001; give the weights that the run began with")
    check(frozen(ONE, seed=1), tmp_path)  # before the first checkpoint another may be chosen
    check(frozen(ONE, seed=1), tmp_path, resumed=True)


def test_f22_one_flipped_bit_since_the_first_start_is_found(tmp_path):
    weights = frozen(ONE)
    check(weights, tmp_path)
    kernel = np.array(weights["teacher"]["head"]["kernel"])
    kernel.view(np.uint32)[1, 2] ^= 1
    spoilt = jax.device_put({"teacher": {"head": {"kernel": kernel}}}, sharding.replicated(ONE))
    with pytest.raises(CheckpointError, match="other bits in teacher/head/kernel; give the"):
        check(spoilt, tmp_path, resumed=True)
    dry = config("random")  # drawn by the device: only the features are compared
    check(weights, tmp_path, cfg=dry)
    check(spoilt, tmp_path, cfg=dry, resumed=True)


@pytest.mark.parametrize(("value", "fault"), [(np.nan, "not finite"), (0.0, "the same everywhere")])
def test_f22_a_teacher_that_sees_nothing_is_refused(tmp_path, value, fault):
    spoilt = jax.tree.map(lambda x: x * value, frozen(ONE))
    with pytest.raises(CheckpointError, match=f"the teacher teacher.pt are {fault}"):
        check(spoilt, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_f22_a_device_that_sees_something_else_is_named(tmp_path):
    kernel = frozen(FOUR)["teacher"]["head"]["kernel"]
    pieces = [
        jax.device_put(np.array(shard.data) * (1 + (shard.device.id == 2)), shard.device)
        for shard in kernel.addressable_shards
    ]
    odd = jax.make_array_from_single_device_arrays(kernel.shape, kernel.sharding, pieces)
    with pytest.raises(TrainingError, match="something else on device 2 of host 0 than on the"):
        check({"teacher": {"head": {"kernel": odd}}}, tmp_path, FOUR)


def test_f22_an_answer_in_the_model_folder_is_compared(tmp_path):
    folder = tmp_path / "teacher"
    folder.mkdir()
    cfg = config(folder)
    answer = teacher_check.ask(TASK, cfg, ONE, frozen(ONE))
    teacher_check.write(folder / teacher_check.ANSWER_FILE, answer)
    check(frozen(ONE), tmp_path, cfg=cfg)
    with pytest.raises(CheckpointError, match="its weights are damaged: copy that folder anew"):
        check(frozen(ONE, seed=1), tmp_path, cfg=cfg)
    other = config(folder, model="sam_b")  # an answer to another question says nothing
    check(frozen(ONE, seed=1), tmp_path, cfg=other)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"question": {}, "numbers": [1, 2]}', '{"question": 1, "numbers": "x"}'],
)
def test_a_file_that_is_no_answer_is_refused(tmp_path, text):
    (tmp_path / teacher_check.ANSWER_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=r"teacher_answer\.json"):
        check(frozen(ONE), tmp_path, resumed=True)


def test_the_picture_has_not_changed():
    assert int(checksums.word_sum(jnp.asarray(teacher_check.picture(64)))) == 1351126
    assert teacher_check.picture(224).std() > 50


def test_f22_the_shipped_teacher_gives_its_shipped_answer():
    """Through the real task and in bfloat16: rounding is well inside the tolerance."""
    cfg = configs.load("quickstart_sami")
    cfg = dataclasses.replace(cfg, compute=dataclasses.replace(cfg.compute, dtype="bfloat16"))
    task, mesh = tasks.build(cfg), sharding.make_mesh(MeshConfig(data=2))
    weights = states.load_frozen(task, cfg, mesh)
    answer = teacher_check.ask(task, cfg, mesh, weights)
    file = load.SHIPPED["quickstart_teacher"] / teacher_check.ANSWER_FILE
    known = json.loads(file.read_text())
    assert answer.question == known["question"]
    apart = np.subtract(answer.numbers, known["numbers"])
    assert 0 < np.sqrt(np.mean(apart**2)) / np.std(known["numbers"]) < 0.02


def test_f22_a_run_asks_before_anything_is_compiled(tmp_path, monkeypatch):
    broken = {"teacher": {"head": {"kernel": np.full((3, 6), np.nan, np.float32)}}}
    task = dataclasses.replace(TASK, load_frozen=lambda: broken)
    monkeypatch.setattr(loop.tasks, "build", lambda cfg: task)
    monkeypatch.setattr(loop, "jit_step", None)
    with pytest.raises(
        CheckpointError, match=r"the features of the teacher teacher\.pt are not finite"
    ):
        loop.run(config("teacher.pt"), tmp_path)
