"""Features that are stored are those that a run would compute, and train it to the same numbers."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import nano
from PIL import Image

from esam_jax import configs, tasks
from esam_jax.config import FramedConfig, ImageFolderConfig, MeshConfig, ScenesConfig, TeacherConfig
from esam_jax.convert import model_folder
from esam_jax.data import sources, views
from esam_jax.data.stored_features import Reader
from esam_jax.errors import ConfigError
from esam_jax.models import named
from esam_jax.train import features, loop

SCENES = ScenesConfig(scenes=10)
ONE = MeshConfig(data=1)


def run_of(folder=None, mesh=ONE, **changes):
    """A nano SAM as its own student, which compiles in seconds."""
    config = configs.load("quickstart_distill")
    view = dataclasses.replace(
        config.data.view, flip="none", features=None if folder is None else str(folder)
    )
    task = dataclasses.replace(config.task, student="sam_nano")
    return dataclasses.replace(
        config,
        task=task,
        data=dataclasses.replace(config.data, source=SCENES, view=view),
        optim=dataclasses.replace(config.optim, warmup_steps=1),
        evaluate=None,
        mesh=mesh,
        batch=4,
        steps=3,
        **changes,
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "of_scenes"
    assert features.store(run_of(), folder) == {"stored": 10, "added": 10, "broken": []}
    return folder


def losses(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
def test_training_from_them_is_training_with_the_teacher(stored, tmp_path):
    for name, config in (("online", run_of()), ("stored", run_of(stored))):
        loop.run(dataclasses.replace(config, log_every_steps=1), tmp_path / name, progress=False)
    online, offline = losses(tmp_path / "online"), losses(tmp_path / "stored")
    assert len(online) == 3 and online[0] > online[-1]
    np.testing.assert_allclose(offline, online, rtol=1e-3)  # targets of 16 bits
    assert tasks.build(run_of(stored)).frozen == {}
    assert not (tmp_path / "stored" / "frozen.json").exists()


def test_eight_devices_store_what_one_does(stored, tmp_path):
    mesh = MeshConfig(data=8)
    config = dataclasses.replace(run_of(mesh=mesh), batch=8)
    assert features.store(config, tmp_path / "eight")["stored"] == 10
    one, eight = Reader(stored), Reader(tmp_path / "eight")
    source, view = sources.open_source(SCENES), FramedConfig(image_px=64, fit="pad")
    assert one.header == eight.header
    for number in range(10):
        image = views.make(source.read(number), view, np.random.default_rng(0))["image"]
        a, b = (each.features(f"train/{number}#0", image) for each in (one, eight))
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)  # one float16 apart
    again = features.store(config, tmp_path / "eight")
    assert again == {"stored": 10, "added": 0, "broken": []}


def test_those_of_another_teacher_size_or_view_are_refused(stored, tmp_path):
    assert tasks.build(run_of(stored)).initial().params
    config = named.sam("sam_nano")
    model_folder.write(tmp_path / "other", config, nano.params(config), source="test")
    other = run_of(stored)
    teacher = TeacherConfig(model="sam_nano", weights=str(tmp_path / "other"))
    other = dataclasses.replace(other, task=dataclasses.replace(other.task, teacher=teacher))
    with pytest.raises(ConfigError, match="features of something else: weights"):
        tasks.build(other).initial()
    # A run that resumes may not have its teacher any more: what is known is compared.
    assert tasks.build(other).resumed().params == {}
    task = dataclasses.replace(run_of(stored).task, coupling="features")
    view = dataclasses.replace(run_of(stored).data.view, fit="stretch", image_px=32)
    data = dataclasses.replace(run_of(stored).data, view=view)
    changed = dataclasses.replace(run_of(stored), task=task, data=data)
    for start in (tasks.build(changed).initial, tasks.build(changed).resumed):
        with pytest.raises(ConfigError, match=r"view\.image_px 64 instead of 32, view\.fit 'pad'"):
            start()


@pytest.mark.slow
def test_a_record_that_is_missing_stops_the_run_by_its_name(stored, tmp_path):
    config = run_of(stored)
    source = dataclasses.replace(SCENES, scenes=40)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=source))
    with pytest.raises(ConfigError, match=r"of_scenes has no features of train/\d\d"):
        loop.run(config, tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda view: dataclasses.replace(view, flip="horizontal"), "write --data.view.flip none"),
        (lambda view: dataclasses.replace(view, features="there"), "is what would be written"),
    ],
)
def test_what_cannot_be_stored(change, message, tmp_path):
    config = run_of()
    data = dataclasses.replace(config.data, view=change(config.data.view))
    with pytest.raises(ConfigError, match=message):
        features.store(dataclasses.replace(config, data=data), tmp_path / "x")
    with pytest.raises(ConfigError, match=r"data\.view is 'crop'"):
        features.store(configs.load("quickstart_sami"), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_broken_pictures_have_none_and_are_named(tmp_path):
    for name in ("a", "b"):
        Image.fromarray(nano.picture(50, 70)).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_bytes((tmp_path / "b.png").read_bytes()[:200])
    config = run_of()
    source = ImageFolderConfig(path=str(tmp_path))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=source))
    found = features.store(config, tmp_path.parent / "stored")
    assert (found["stored"], found["added"]) == (2, 2)
    assert len(found["broken"]) == 1 and found["broken"][0].startswith("c.png")


# ----------------------------------------------------------------------------- pretraining


def sami_of(folder=None, **changes):
    """Pretraining of which each picture has two crops."""
    config = configs.load("quickstart_sami")
    view = dataclasses.replace(
        config.data.view, crops=2, features=None if folder is None else str(folder)
    )
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, source=SCENES, view=view),
        optim=dataclasses.replace(config.optim, warmup_steps=1),
        mesh=ONE,
        batch=4,
        steps=8,
        log_every_steps=1,
        **changes,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "near"), [("bfloat16", 4e-3), ("int8", 4e-3)])
def test_pretraining_from_stored_crops_is_pretraining_with_the_teacher(dtype, near, tmp_path):
    """Two epochs and more; two hosts have each stored theirs."""
    folder = tmp_path / "crops"
    for number in (1, 2):
        found = features.store(sami_of(), folder, dtype=dtype, part=(number, 2))
        assert (found["stored"], found["added"]) == (10 * number, 10)
    assert features.store(sami_of(), folder, dtype=dtype)["added"] == 0
    for name, config in (("online", sami_of()), ("stored", sami_of(folder))):
        loop.run(config, tmp_path / name, progress=False)
    online, offline = losses(tmp_path / "online"), losses(tmp_path / "stored")
    assert len(online) == 8 and online != offline  # 16 or 8 bits are not 32
    np.testing.assert_allclose(offline, online, rtol=near)
    assert tasks.build(sami_of(folder)).frozen == {}


def test_a_broken_picture_is_named_once_for_all_of_its_crops(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(nano.picture(50, 70)).save(pictures / "a.png")
    (pictures / "b.png").write_bytes((pictures / "a.png").read_bytes()[:200])
    config = sami_of()
    data = dataclasses.replace(config.data, source=ImageFolderConfig(path=str(pictures)))
    found = features.store(dataclasses.replace(config, data=data), tmp_path / "stored")
    assert (found["stored"], found["added"]) == (2, 2)
    assert [reason.split(":")[0] for reason in found["broken"]] == ["b.png"]


def test_crops_of_other_sizes_or_as_many_others_are_refused(tmp_path):
    folder = tmp_path / "crops"
    features.store(sami_of(), folder)
    assert tasks.build(sami_of(folder)).initial().params == {}
    for changed, said in (
        ({"crops": 3}, "crops 2 instead of 3"),
        ({"min_scale": 0.5}, "min_scale"),
    ):
        config = sami_of(folder)
        view = dataclasses.replace(config.data.view, **changed)
        task = tasks.build(
            dataclasses.replace(config, data=dataclasses.replace(config.data, view=view))
        )
        for begin in (task.initial, task.resumed):
            with pytest.raises(ConfigError, match=rf"of something else: view\.{said}"):
                begin()
    distilled = run_of(folder)
    with pytest.raises(ConfigError, match="of something else"):
        tasks.build(distilled).initial()
