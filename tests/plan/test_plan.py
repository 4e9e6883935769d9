"""A toy run, planned on pretend devices whose memory is said to be small."""

import dataclasses
import json
import types

import jax
import pytest
from helpers import toy

from esam_jax import configs, tasks
from esam_jax.config import MeshConfig, SamiConfig, TeacherConfig
from esam_jax.errors import ConfigError
from esam_jax.plan import cells, changes, compiled, costs, report, topologies
from esam_jax.plan.changes import Change
from esam_jax.plan.compiled import Compiled
from esam_jax.plan.data_load import DataLoad

CPU = topologies.parse("cpu:8")


def config(**more):
    cfg = toy.config(batch=4096, mesh=MeshConfig(), **more)
    students = SamiConfig(students=("efficientsam_nano",), teacher=TeacherConfig(model="sam_nano"))
    return dataclasses.replace(cfg, task=students)


@pytest.fixture
def as_toy(monkeypatch):
    """Everything is real but the task."""
    monkeypatch.setattr(compiled.tasks, "build", lambda cfg: toy.task())


def with_memory(size):
    return dataclasses.replace(CPU, memory_bytes=size)


@pytest.mark.slow
def test_a_step_that_fits_and_one_that_does_not(as_toy):
    roomy = report.make(config(), with_memory(2**30))
    assert roomy.compiled.fits is True and roomy.changes == []
    # The gradient of every parameter is summed over all devices.
    shapes = jax.eval_shape(toy.task().init, jax.random.key(0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    (sent,) = [each for each in roomy.compiled.collectives if each.kind == "all-reduce"]
    assert 4 * parameters <= sent.bytes <= 4 * parameters + 64  # and the metrics

    small = report.make(config(), with_memory(roomy.compiled.peak - 1))
    assert small.compiled.fits is False
    assert small.compiled.peak == roomy.compiled.peak
    tried = {change.options: change for change in small.changes}
    assert tried["--accumulate 2"].peak < small.compiled.peak
    assert tried["--accumulate 2"].fits is True
    assert "--accumulate 4" not in tried  # two are enough
    # The toy recomputes nothing, so this is no remedy for it.
    assert "--compute.remat blocks" not in tried

    page = report.for_people(small)
    assert f"{small.compiled.peak / 2**20:.1f} MiB" in page  # a small one has digits that tell
    assert "DOES NOT FIT" in page and "--accumulate 2" in page and "all-reduce" in page
    kernels = "kernels      cpu:8: none, since only NVIDIA's have rates here"
    assert kernels in report.for_people(small, kernels=True) and kernels not in page
    found = json.loads(json.dumps(report.for_programs(small)))
    assert found["compiled"]["fits"] is False
    assert found["topology"]["chips"] == 8
    assert found["versions"]["jax"] == jax.__version__


@pytest.mark.parametrize(
    ("trains", "said"),
    [
        (lambda path: True, "parameters   424, all trained"),
        (lambda path: "block_01" in path, "parameters   424, of which 280 (66.04%) are trained"),
    ],
)
def test_a_plan_counts_what_is_trained(monkeypatch, trains, said):
    task = dataclasses.replace(toy.task(), trains=trains)
    monkeypatch.setattr(tasks, "build", lambda cfg: task)
    monkeypatch.setattr(compiled, "step", lambda *_: Compiled(90, fits=True))
    plan = report.make(config(), CPU)
    # By hand: 8 x 4 x 2 + 8 and 8 x 8 + 8; 8 x 16 + 16 and 16 x 8 + 8.
    assert plan.parameters == 72 + 72 + 144 + 136
    assert said in report.for_people(plan)
    assert report.for_programs(plan)["trained_parameters"] == plan.trained_parameters


def compile_as(peaks, limit):
    """Stands for the compiler: a peak by what the config asks for."""
    seen = []

    def compile_step(cfg, options):
        seen.append(options)
        peak = peaks(cfg)
        return Compiled(peak, fits=peak <= limit)

    return compile_step, seen


def size(cfg):
    activations = 1000 // cfg.accumulate // (2 if cfg.compute.remat == "blocks" else 1)
    teacher = 400 // (cfg.mesh.fsdp if cfg.task.teacher.placement == "fsdp" else 1)
    return activations + teacher + 200 // cfg.mesh.fsdp


def test_every_remedy_is_tried_alone():
    compile_step, _ = compile_as(size, 900)
    assert changes.tried(config(), 8, compile_step, size(config())) == [
        Change("--compute.remat blocks", 1100, False),
        Change("--mesh.fsdp 8", 1425, False),
        Change("--mesh.fsdp 8 --task.teacher.placement fsdp", 1075, False),
        Change("--accumulate 2", 1100, False),
        Change("--accumulate 4", 850, True),
    ]


def test_what_does_not_lower_the_peak_is_not_offered():
    peaks = {"--compute.remat blocks": 960, "--mesh.fsdp 8": 1100, "--accumulate 2": 940}

    def compile_step(cfg, options):
        peak = peaks.get(options, 2000)
        return Compiled(peak, fits=peak <= 500)

    assert changes.tried(config(), 8, compile_step, 1000) == [Change("--accumulate 2", 940, False)]


def test_all_together_when_none_is_enough():
    compile_step, seen = compile_as(size, 200)
    last = changes.tried(config(), 8, compile_step, size(config()))[-1]
    assert last.options == (
        "--compute.remat blocks --mesh.fsdp 8 --task.teacher.placement fsdp --accumulate 4"
    )
    assert last.fits and last.peak == 125 + 50 + 25
    # Twice as many micro-batches have to help: 600 stay however many there are.
    assert [each for each in seen if each.startswith("--accumulate")] == [
        f"--accumulate {n}" for n in (2, 4, 8, 16, 32)
    ]


@pytest.mark.parametrize(
    "fault",
    [ConfigError("an axis does not divide"), jax.errors.JaxRuntimeError("INTERNAL: no tile fits")],
)
def test_a_remedy_that_cannot_be_compiled_is_left_out(fault):
    def compile_step(cfg, options):
        if cfg.mesh.fsdp > 1:
            raise fault
        return Compiled(size(cfg), fits=size(cfg) <= 1200)

    tried = [change.options for change in changes.tried(config(), 8, compile_step, size(config()))]
    assert tried == ["--compute.remat blocks", "--accumulate 2"]


def test_a_mesh_that_leaves_devices_idle_is_refused(as_toy):
    cfg = dataclasses.replace(config(), mesh=MeshConfig(data=4))
    with pytest.raises(ConfigError, match=r"data=4 uses 4 of the 8 devices of cpu:8"):
        report.make(cfg, with_memory(2**30))


@pytest.mark.parametrize("other", ["libtpu 0.0.52 is installed", None])
def test_a_failure_of_another_compiler_is_not_a_defect(other, as_toy, monkeypatch):
    def fail(*_):
        raise jax.errors.JaxRuntimeError("async-update instruction should have 1 operands")

    monkeypatch.setattr(compiled, "_compile", fail)
    monkeypatch.setattr(topologies, "other_compiler", lambda _: other)
    expected = (ConfigError, f"async-update .*: {other}")
    if other is None:
        expected = (jax.errors.JaxRuntimeError, "async-update")
    with pytest.raises(expected[0], match=expected[1]):
        report.make(config(), with_memory(2**30))


@pytest.mark.slow
def test_time_and_money():
    cfg, pod = configs.load("sami_s"), topologies.parse("v5e:8x8")
    bill = costs.bill(cfg, pod, 64, mfu=0.5, price=2.0)
    work = sum(bill.flops.values())
    assert 4096 * 254e9 < work < 4096 * 300e9  # the teacher's forward pass, and a little more
    assert bill.floor_seconds == pytest.approx(work / (64 * 197e12))
    assert bill.hours == pytest.approx(cfg.steps * 2 * bill.floor_seconds / 3600)
    assert bill.dollars == pytest.approx(bill.hours * 64 * 2.0)
    assert costs.bill(cfg, CPU, 8).hours is None
    with pytest.raises(ConfigError, match=r"mfu is 1\.5"):
        costs.bill(cfg, pod, 64, mfu=1.5)
    with pytest.raises(ConfigError, match="price is -1"):
        costs.bill(cfg, pod, 64, price=-1.0)


def test_the_table_has_a_row_for_each_plan_that_is_there(tmp_path):
    card = topologies.parse("a100:1x8")
    plan = report.Plan(
        config="sami_ti",
        topology=card,
        devices=8,
        parameters=9,
        trained_parameters=9,
        compiled=Compiled(90 * 2**30, fits=False),
        bill=costs.bill(configs.load("sami_ti"), card, 8, mfu=0.5, price=2.0),
        data=DataLoad(0.1, "records", 1, 8, 10.0, 1.0),
        schedule=None,
        changes=[
            Change("--mesh.fsdp 8", 80 * 2**30, False),
            Change("--accumulate 2", 45 * 2**30, True),
        ],
        versions={},
    )
    file = cells._file("sami_ti", "a100:1x8", tmp_path)
    file.write_text(json.dumps(report.for_programs(plan)))
    _, _, *rows = cells.markdown(tmp_path)
    assert rows == [
        f"| `sami_ti` | `a100:1x8` | no | 90.0 | `--accumulate 2`: 45.0 "
        f"| {plan.bill.floor_seconds:.3f} | {plan.bill.hours:.1f} | ${plan.bill.dollars:,.0f} |"
    ]


@pytest.mark.parametrize(("code", "kept"), [(0, True), (2, False), (3, True), (4, True)])
def test_a_plan_that_does_not_fit_is_kept_too(code, kept, monkeypatch, tmp_path):
    done = types.SimpleNamespace(returncode=code, stdout="{}")
    monkeypatch.setattr(cells.subprocess, "run", lambda command, **options: done)
    cells.plan("sami_ti", "a100:1x8", tmp_path)
    assert cells._file("sami_ti", "a100:1x8", tmp_path).exists() == kept


def test_one_topology_is_planned_where_one_is_named(monkeypatch, tmp_path):
    planned = []
    monkeypatch.setattr(cells, "plan", lambda config, topology, _: planned.append(config))
    cells._file("mae_ti", "h100:1x8", tmp_path).write_text("{}")
    monkeypatch.setattr(cells, "markdown", lambda folder: iter(()))
    cells.main(tmp_path, "h100:1x8")
    assert planned == [config for config in cells.PAPER if config != "mae_ti"]
    assert set(cells.PAPER) < set(configs.names())


def test_every_accelerator_has_a_price():
    assert set(costs.ASSUMPTIONS) == set(topologies.TPU_AXES) | set(topologies.CARDS)


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (31.29G) exceeds available HBM (15.75G)",
            31.29 * 2**30,
        ),
        ("Ran out of memory in memory space hbm. Used 700.50M of 15.75G hbm.", 700.5 * 2**20),
        ("Ran out of memory in memory space vmem. Used 17.00M of 16.00M vmem.", None),
        ("INTERNAL: Couldn't find output tile sizes that satisfy hlo", None),
    ],
)
def test_what_a_compiler_says_it_needs(message, needed):
    found = compiled.needed_bytes(message)
    assert found == (None if needed is None else int(needed))
