"""A preflight measures what a run needs, names what is wrong, and leaves nothing behind."""

import dataclasses
import functools
import json
import math
import pathlib
import time

import jax
import numpy as np
import pytest
from helpers import processes, toy

from esam_jax import cli, sharding
from esam_jax.config import GuardConfig, MeshConfig, SaveConfig
from esam_jax.errors import ConfigError, DataError, TrainingError
from esam_jax.train import loop, preflight, probes
from esam_jax.train.checkpoint import step_folders

NAMES = ["devices", "all-reduce", "disk", "step", "data"]


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.setattr("esam_jax.tasks.build", lambda cfg: toy.task())
    monkeypatch.setattr(preflight.loader, "stream", toy.Stream)
    monkeypatch.setattr(preflight, "_DATA_SECONDS", 0.5)


def checks(folder: pathlib.Path, devices: int | None = None, **changes) -> dict:
    cfg = toy.config(mesh=MeshConfig(data=4, fsdp=2), save=SaveConfig(every_steps=1000), **changes)
    found = preflight.run(cfg, folder, devices=devices)
    assert [each.name for each in found] == NAMES
    return {each.name: each for each in found}


def faults(found: dict) -> dict:
    return {name: each.fault for name, each in found.items() if each.fault}


def test_all_is_well_and_nothing_is_left(tmp_path):
    found = checks(tmp_path / "runs" / "new", devices=8)
    assert faults(found) == {}
    assert found["devices"].found.startswith("8 x cpu") and found["devices"].needed == "8"
    step, data = (found[name].numbers for name in ("step", "data"))
    assert step["seconds"] > 0 and math.isfinite(step["loss"]) and data["batches_per_second"] > 0
    assert found["all-reduce"].numbers["bytes_per_second"] > 0
    assert found["disk"].numbers["bytes_per_second"] > 1e5
    preflight.require(list(found.values()))
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_lies_there_is_not_touched(tmp_path):
    cfg = toy.config(mesh=MeshConfig(data=4, fsdp=2))
    loop.run(cfg, tmp_path)
    before = {str(each): each.stat().st_mtime_ns for each in tmp_path.rglob("*")}
    preflight.run(cfg, tmp_path, devices=8)
    assert before == {str(each): each.stat().st_mtime_ns for each in tmp_path.rglob("*")}


def test_fewer_devices_than_expected(tmp_path):
    found = checks(tmp_path, devices=16)
    assert "8 are used, but 16 should be" in faults(found)["devices"]
    with pytest.raises(ConfigError, match=r"preflight failed: devices: 8 are used"):
        preflight.require(list(found.values()))


@pytest.mark.parametrize("me", [0, 1])
def test_hosts_with_different_devices_are_named_the_same_everywhere(monkeypatch, me):
    other = json.dumps(["odd", {"count": 7, "kind": "cpu"}])
    texts = lambda mine: [mine, other] if me == 0 else [other, mine]  # noqa: E731
    monkeypatch.setattr(preflight.socket, "gethostname", lambda: "ours")
    monkeypatch.setattr(preflight.coordinator, "gather", lambda where, mine: texts(mine))
    found = preflight._devices(sharding.make_mesh(MeshConfig(data=8)), 8)
    words = ["host 0 (ours)", "8 x cpu", "host 1 (odd)", "7 x cpu"]
    if me == 1:
        words = ["host 0 (odd)", "7 x cpu", "host 1 (ours)", "8 x cpu"]
    first, of_first, second, of_second = words
    assert found.fault is not None and found.fault.startswith(
        f"hosts have different devices: {second} has {of_second}, but {first} {of_first}: "
    )
    monkeypatch.setattr(preflight.coordinator, "gather", lambda where, mine: [mine, mine])
    assert preflight._devices(sharding.make_mesh(MeshConfig(data=8)), 8).fault is None


def test_frozen_weights_are_tried_out_as_at_the_start_of_a_run(tmp_path, monkeypatch):
    """The loss of the toy does not read them: nothing else would notice."""
    part = toy.frozen({"norm": {"scale": np.full(8, np.nan, np.float32)}}, features=_spoilt)
    example = {**toy.task().example, "image": ((8, 8, 3), np.dtype(np.uint8))}
    task = dataclasses.replace(toy.task(), frozen={"teacher": part}, example=example)
    monkeypatch.setattr("esam_jax.tasks.build", lambda cfg: task)
    found = faults(checks(tmp_path))
    assert list(found) == ["step"] and "(teacher.pt) are not finite" in found["step"]


def _spoilt(params, image):
    return image.astype(np.float32) * params["norm"]["scale"][0]


@pytest.mark.parametrize("total, probed", [(None, None), (1 << 40, 256 << 20)])
def test_probes_are_as_large_as_what_is_sent_and_saved_up_to_a_bound(
    tmp_path, monkeypatch, total, probed
):
    sizes = {}
    monkeypatch.setattr(
        probes, "all_reduce", lambda mesh, size: sizes.setdefault("sum", size) / 1e9
    )
    monkeypatch.setattr(probes, "disk_rate", lambda folder, size: sizes.setdefault("disk", size))
    counted = preflight._bytes
    measured = []

    def count(tree):
        measured.append(counted(tree))
        return total or measured[-1]

    monkeypatch.setattr(preflight, "_bytes", count)
    checks(tmp_path)
    state, gradients = measured
    assert state > 3 * gradients > 3000  # Adam's two moments are saved too
    assert sizes == {"sum": probed or gradients, "disk": probed or state}


@pytest.fixture
def codes(monkeypatch):
    """Those with which watchdogs would have ended this process."""
    found = []
    watchdog = functools.partial(preflight.Watchdog, leave=found.append)
    monkeypatch.setattr(preflight, "Watchdog", watchdog)
    return found


def hanging(make, codes):
    """`make`, which does not return before a watchdog has seen it."""

    def wait(*args, **keys):
        deadline = time.monotonic() + 20
        while not codes and time.monotonic() < deadline:
            time.sleep(0.05)
        return make(*args, **keys)

    return wait


@pytest.mark.parametrize("name", ["all_reduce", "disk_rate"])
def test_sums_and_disks_that_hang_are_reported_in_the_time_of_an_update(
    tmp_path, monkeypatch, codes, name
):
    """Not an hour later, as what compiles or reads data first."""
    monkeypatch.setattr(probes, name, hanging(getattr(probes, name), codes))
    checks(tmp_path, guard=GuardConfig(hang_seconds=3.0))
    assert codes == [75]


def test_data_that_hangs_ends_the_preflight_after_the_time_to_begin(tmp_path, monkeypatch, codes):
    watchdog = functools.partial(preflight.Watchdog, slow_seconds=1.0)
    monkeypatch.setattr(preflight, "Watchdog", watchdog)
    monkeypatch.setattr(toy.Stream, "__next__", hanging(toy.Stream.__next__, codes))
    checks(tmp_path, guard=GuardConfig(hang_seconds=3.0))
    assert codes == [75]


def test_data_that_comes_slower_than_the_updates_take_it(tmp_path, monkeypatch):
    class Slow(toy.Stream):
        def __next__(self):
            time.sleep(0.3)
            return super().__next__()

    monkeypatch.setattr(preflight.loader, "stream", Slow)
    found = checks(tmp_path)
    assert 2 < found["data"].numbers["batches_per_second"] < 3.5
    assert list(faults(found)) == ["data"] and "--data.threads" in faults(found)["data"]


@pytest.mark.parametrize(("rate", "wrong"), [(1.01, False), (0.99, True)])
def test_the_margin_of_the_data(rate, wrong):
    step, margin = 0.25, 0.9
    data = preflight.Check(name="data", numbers={"batches_per_second": rate * margin / step})
    assert (preflight._against(data, step).fault is not None) == wrong


def test_data_that_cannot_be_read_leaves_the_step_out(tmp_path, monkeypatch):
    class Broken(toy.Stream):
        def __next__(self):
            raise DataError("every picture is broken")

    monkeypatch.setattr(preflight.loader, "stream", Broken)
    found = checks(tmp_path)
    assert faults(found) == {"data": "every picture is broken"}
    assert found["step"].found == "not tried: there is no batch"


def test_a_loss_that_is_not_finite(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight.loader, "stream", functools.partial(toy.Stream, spoil=0))
    assert "the loss of the first update is nan" in faults(checks(tmp_path))["step"]


def test_a_device_that_is_full(tmp_path, monkeypatch):
    def full(*args, **keys):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 99 bytes\nmore")

    monkeypatch.setattr(preflight, "jit_step", full)
    found = checks(tmp_path)
    assert list(faults(found)) == ["step"] and found["data"].found.endswith("batches/s")
    assert "RESOURCE_EXHAUSTED: 99 bytes): raise --accumulate" in found["step"].fault


def test_disks_without_room_or_speed_or_at_all(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(step_folders, "free_bytes", lambda folder: 1000)
        assert "0.0 MB free, but 2 checkpoint(s) need" in faults(checks(tmp_path))["disk"]
    with monkeypatch.context() as patch:
        patch.setattr(probes, "disk_rate", lambda folder, size: 1e-3)
        assert "raise --save.every-steps" in faults(checks(tmp_path))["disk"]

    def full(folder, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(probes, "disk_rate", full)
    assert "No space left" in faults(checks(tmp_path))["disk"]
    assert "disk_bytes_per_second" not in preflight.brief(
        sharding.make_mesh(MeshConfig()), tmp_path
    )


@pytest.mark.parametrize("resumed, lacking", [(False, True), (True, False)])
def test_room_for_a_checkpoint_beside_the_one_that_is_kept(tmp_path, monkeypatch, resumed, lacking):
    """A new run needs room for two; one that resumes has its first already."""
    if resumed:
        loop.run(toy.config(mesh=MeshConfig(data=4, fsdp=2)), tmp_path)
    disk = checks(tmp_path)["disk"].numbers
    size = disk["bytes_per_second"] * disk["save_seconds"]
    monkeypatch.setattr(step_folders, "free_bytes", lambda folder: round(1.5 * size))
    fault = checks(tmp_path)["disk"].fault
    assert ("2 checkpoint(s) need" in (fault or "")) == lacking == bool(fault)
    monkeypatch.setattr(step_folders, "free_bytes", lambda folder: round(0.5 * size))
    count = 1 if resumed else 2
    assert f"{count} checkpoint(s) need" in (checks(tmp_path)["disk"].fault or "")


def test_a_sum_that_is_wrong_names_the_device():
    mesh = sharding.make_mesh(MeshConfig(data=8))
    assert probes.all_reduce(mesh, 4096) > 0
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    sums = np.full(8, 36.0, np.float32)
    sums[5] += 1
    with pytest.raises(TrainingError, match=r"cpu:5 holds a wrong sum"):
        probes._require_sum(jax.device_put(sums, place), 36.0)


def test_rates_are_those_of_the_bus():
    assert probes.bus_rate(1_000, 2.0, 4) == 2 * 3 / 4 * 500


def test_every_start_says_what_it_found(tmp_path, capsys):
    loop.run(toy.config(mesh=MeshConfig(data=4, fsdp=2)), tmp_path, progress=True)
    assert "8 device(s), all-reduce " in capsys.readouterr().err
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (tried,) = [line for line in lines if line.get("event") == "preflight"]
    assert tried["devices"] == 8
    assert tried["all_reduce_bytes_per_second"] > 0 < tried["disk_bytes_per_second"]


def test_the_command_prints_a_table_and_exits_with_two(tmp_path, monkeypatch, capsys):
    run = ["train", "quickstart_sami", "--workdir", str(tmp_path / "run"), "--preflight"]
    cfg = toy.config(mesh=MeshConfig(data=8))
    monkeypatch.setattr("esam_jax.cli.arguments.parse", lambda *args, **keys: cfg)
    assert cli.main(run) == 0
    out, err = capsys.readouterr()
    assert [text.split()[0] for text in out.splitlines()] == ["check", *NAMES]
    monkeypatch.setattr(step_folders, "free_bytes", lambda folder: 0)
    assert cli.main([*run, "--json"]) == 2
    out, err = capsys.readouterr()
    assert [each["name"] for each in json.loads(out)] == NAMES
    assert err.startswith("esam: the preflight failed: disk: ") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_processes(tmp_path):
    script = pathlib.Path(toy.__file__).with_name("toy_run.py")
    wishes = json.dumps({"workdir": str(tmp_path / "run"), "preflight": True, "save": 1000})
    outputs = processes.finish(processes.start([str(script), wishes], 2, devices=4))
    texts = [line for out, _ in outputs for line in out.splitlines() if line.startswith("[{")]
    tables = [json.loads(each) for each in texts]
    assert tables[0] == tables[1]
    found = {each["name"]: each for each in tables[0]}
    assert found["devices"]["found"] == "8 x cpu in 2 process(es)"
    assert found["all-reduce"]["numbers"]["bytes_per_second"] > 0
    assert "on host " in found["data"]["found"] and "on host " in found["disk"]["found"]
    assert not (tmp_path / "run").exists()
