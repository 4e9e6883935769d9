"""Times on paper against arithmetic done by hand."""

import dataclasses

import pytest

from esam_jax import configs
from esam_jax.machine.accelerators import ACCELERATORS
from esam_jax.plan import paper, schedule, topologies
from esam_jax.plan.collectives import Collective
from esam_jax.plan.compiled import Compiled
from esam_jax.plan.compiled_kernels import Kernel
from esam_jax.plan.data_load import DataLoad

SHEETS = {each.name: each for each in ACCELERATORS}
H200, V5E = SHEETS["h200"], SHEETS["v5e"]


def kernel(**given):
    return Kernel(**{"name": "k", "kind": "pass", "where": "jit(f)/Sam/encoder/mlp/add", **given})


@pytest.mark.parametrize(
    ("given", "roofline", "derated"),
    [
        # 4.8 TB/s, of which 85 per cent are reached.
        ({"bytes": 48 * 10**9}, 0.01, 0.01 / 0.85),
        # 989 TFLOP/s in 16 bits, 80 per cent; half of that as TF32; 67 where it must be exact.
        ({"kind": "product", "flops": 989 * 10**10, "dtype": "bf16"}, 0.01, 0.0125),
        ({"kind": "product", "flops": 989 * 10**10, "dtype": "f32"}, 0.02, 0.025),
        ({"kind": "product", "flops": 67 * 10**10, "dtype": "f32", "exact": True}, 0.01, 0.0125),
        # Whichever is longer.
        ({"kind": "product", "flops": 1, "bytes": 48 * 10**9, "dtype": "bf16"}, 0.01, 0.01 / 0.85),
        # 132 multiprocessors, 16 exponentials a cycle at 1.83 GHz, beside the products.
        (
            {"kind": "attention", "flops": 989 * 10**10, "exponentials": 3_864_960 * 10**4}
            | {"dtype": "bf16"},
            0.02,
            0.02 / 0.83,
        ),
        ({"bytes": 4}, 4 / 4.8e12, 2e-6),  # a launch
    ],
)
def test_one_kernel(given, roofline, derated):
    assert paper.roofline(kernel(**given), H200) == pytest.approx(roofline)
    assert paper.derated(kernel(**given), H200) == pytest.approx(derated)


def test_groups_are_the_parts_of_a_network():
    loop = "jit(update)/jvp(Sami)/encoder.trunk/while/body/closed_call/checkpoint"
    back = "jit(update)/transpose(jvp(Sami))/encoder.trunk/while/body/checkpoint"
    kernels = [
        kernel(where=f"{loop}/Block/attn/query/dot_general", runs=12, bytes=10**9),
        kernel(where=f"{loop}/Block/attn/query/dot_general", runs=12, bytes=10**9),
        kernel(where=f"{back}/Block/attn/query/dot_general", bytes=10**9),
        kernel(where="jit(f)/Sam/two_way/block_00/mlp/add"),
        kernel(where="jit(f)/Sam/two_way/block_01/mlp/add", loops_unknown=True),
    ]
    written = paper.write(kernels, H200)
    assert [(group.where, group.runs) for group in written.groups] == [
        ("encoder.trunk/Block/attn/query/dot_general", 24),
        ("encoder.trunk/Block/attn/query/dot_general (backward)", 1),
        ("Sam/two_way/block/mlp/add", 2),
    ]
    assert (written.runs, written.bytes, written.loops_unknown) == (27, 25 * 10**9, 1)
    assert written.seconds == pytest.approx(25 / 4.8e3 / 0.85 + 2 * 2e-6)
    assert written.roofline_seconds == pytest.approx(25 / 4.8e3)
    title, first, *_, rest = paper.table(written, rows=1)
    assert "GFLOP" in title and first.endswith("query/dot_general")
    assert "2 more groups" in rest


def test_a_chip_without_rates_has_no_paper():
    assert paper.write([kernel()], V5E) is None


@pytest.mark.parametrize(
    ("kind", "hosts", "passes"), [("all-reduce", 1, 2), ("all-gather", 1, 1), ("all-reduce", 4, 2)]
)
def test_a_ring_in_each_host_and_rings_between_them(kind, hosts, passes):
    sent = Collective(kind, 1, 8 * 10**9)
    inside = passes * 8e9 * 7 / 8 / 450e9
    between = passes * 1e9 * (hosts - 1) / hosts / 50e9
    assert schedule.seconds(sent, H200, hosts, 8) == pytest.approx(inside + between)
    assert schedule.seconds(sent, H200, 1, 1) == 0
    assert schedule.seconds(sent, V5E, 1, 8) == 0  # not known


def test_what_is_passed_on_takes_the_slower_link():
    sent = Collective("collective-permute", 1, 10**9)
    assert schedule.seconds(sent, H200, 1, 8) == pytest.approx(1e9 / 450e9)
    assert schedule.seconds(sent, H200, 2, 8) == pytest.approx(1e9 / 50e9)


def test_a_run_by_its_kernels_or_by_its_data():
    cfg = dataclasses.replace(configs.load("sami_ti"), batch=4096)
    card = topologies.parse("h200:2x8")
    compiled = Compiled(
        1,
        True,
        collectives=(Collective("all-reduce", 1, 8 * 10**9),),
        paper=paper.write([kernel(runs=100, bytes=48 * 10**9)], H200),
    )
    quick = schedule.make(cfg, card, compiled, DataLoad(0.001, "", 2, 16), price=3.0)
    sent = 2 * 8e9 * (7 / 8 / 450e9 + 1 / 2 / 8 / 50e9)
    assert quick.communication_seconds == pytest.approx(sent)
    assert quick.step_seconds == pytest.approx(1 / 0.85 + sent)
    assert quick.hours == pytest.approx(cfg.steps * quick.step_seconds / 3600)
    assert quick.dollars == pytest.approx(quick.hours * 3.0 * 16)
    assert quick.examples_per_second == pytest.approx(4096 / quick.step_seconds)
    slow = schedule.make(cfg, card, compiled, DataLoad(0.1, "", 2, 16), price=None)
    assert slow.step_seconds == slow.data_seconds == pytest.approx(0.1 * 4096 / 32)
    assert slow.dollars is None
    assert schedule.make(cfg, card, Compiled(1, False), DataLoad(0.1, "", 2, 16), 1.0) is None
