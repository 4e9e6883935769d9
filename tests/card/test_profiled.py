"""Kernels of a program matched with the events of a trace: one made here, and one as of a GPU."""

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

from esam_jax.card import profiled
from esam_jax.card.profiled import Spent
from esam_jax.errors import MissingError
from esam_jax.machine import accelerators
from esam_jax.plan import compiled_kernels, paper
from esam_jax.plan.compiled_kernels import Kernel

H200 = next(each for each in accelerators.ACCELERATORS if each.name == "h200")
TRIPS = 5


def looped(x, w):
    with jax.named_scope("block_00"):
        x = jnp.tanh(x @ w)

    def body(carry, _):
        with jax.named_scope("block_01"):
            return jnp.sin(carry @ w), None

    return jax.lax.scan(body, x, None, length=TRIPS)[0]


def test_a_program_of_this_machine_is_matched_kernel_by_kernel():
    x, w = jnp.ones((64, 48)), jnp.ones((48, 48))
    program = jax.jit(looped).lower(x, w).compile()
    found = profiled.measure(program, lambda: program(x, w), None)
    assert found["unmatched_seconds"] == {} and found["silent_kernels"] == 0
    assert found["busy_seconds"] > 0 and found["matched_share"] == 1.0
    assert found["profile_error"] is None
    assert found["paper_seconds"] is None and found["roofline_seconds"] is None
    # Each call runs the products of every trip, and every event is one of them.
    work = 2 * 64 * 48 * 48
    products = {group["where"]: group for group in found["groups"] if group["kind"] == "product"}
    assert sum(group["flops"] for group in products.values()) == (1 + TRIPS) * work
    assert {where.split("/")[0] for where in products} == {"block"}


def test_what_a_device_says_goes_before_what_its_host_says(tmp_path):
    """As CUPTI writes it: a line for each stream, launches on the host, and lines that repeat."""
    write(
        tmp_path / "a" / "host.xplane.pb",
        ("/host:CPU", "launches", [("fusion.1", "jit_f", 900)]),
        (
            "/device:GPU:0",
            "Stream #13(Compute)",
            [("fusion.1", "jit_f", 20), ("gemm.2", "jit_f", 50), ("fusion.1", "jit_other", 7)],
        ),
        ("/device:GPU:0", "Stream #14(MemcpyD2D)", [("fusion.1", "jit_f", 30)]),
        ("/device:GPU:0", "XLA Modules", [("fusion.1", "jit_f", 1000)]),
    )
    found = profiled.read(tmp_path, "jit_f", on_device=True)
    assert {name: each.events for name, each in found.items()} == {"fusion.1": 2, "gemm.2": 1}
    assert [each.seconds for each in found.values()] == pytest.approx([50e-9, 50e-9])


def test_launches_are_no_kernels(tmp_path):
    """Where the profiler may not look at the card, its host still writes events."""
    with pytest.raises(MissingError, match="saw no kernel of jit_f"):
        profiled.read(tmp_path, "jit_f", on_device=True)
    write(tmp_path / "a" / "host.xplane.pb", ("/host:CPU", "launches", [("k", "jit_f", 900)]))
    with pytest.raises(MissingError):
        profiled.read(tmp_path, "jit_f", on_device=True)
    assert list(profiled.read(tmp_path, "jit_f", on_device=False)) == ["k"]


def test_without_a_profile_the_kernels_are_those_on_paper(monkeypatch):
    def refuse(*args, **options):
        raise RuntimeError("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES")

    monkeypatch.setattr(profiled.jax.profiler, "trace", refuse)
    x = jnp.ones((64, 48))
    program = jax.jit(jnp.dot).lower(x, x.T).compile()
    found = profiled.measure(program, lambda: program(x, x.T), H200)
    assert "INSUFFICIENT_PRIVILEGES" in found["profile_error"]
    assert found["busy_seconds"] == 0.0 and found["matched_share"] is None
    assert found["paper_seconds"] > 0 and found["silent_kernels"] == len(found["groups"]) > 0


def test_groups_add_up_and_are_compared_with_the_data_sheet():
    where = "jit(f)/encoder/block_{}/mlp/dot_general"
    kernels = [
        Kernel(name=f"gemm.{i}", kind="product", where=where.format(f"0{i}"), flops=10**12, bytes=8,
               dtype="bf16")
        for i in (1, 2)
    ]  # fmt: skip
    kernels.append(Kernel(name="loop", kind="pass", where="jit(f)/norm", bytes=10**9, runs=3))
    spent = {
        "gemm.1": Spent(4e-3, 2),
        "gemm.2": Spent(6e-3, 2),
        "while.3": Spent(9.0, 2),
        "memset": Spent(1e-3, 2),
    }
    found = profiled.match(kernels, spent, 2, H200)
    products, passes = found.groups
    assert products.where == "encoder/block/mlp/dot_general" and products.runs == 2
    assert products.seconds == pytest.approx(5e-3)
    assert products.paper_seconds == pytest.approx(2 * 1e12 / (paper.PRODUCTS * H200.flops))
    assert (passes.seconds, passes.runs, passes.bytes) == (0.0, 3, 3 * 10**9)
    # The loop around its kernels is none of them; what the text does not know is named.
    assert found.unmatched == {"memset": pytest.approx(0.5e-3)}
    assert found.silent == 1 and found.seconds == pytest.approx(5.5e-3)
    expected = paper.write(kernels, H200)
    assert expected is not None
    assert found.paper_seconds == pytest.approx(expected.seconds)
    assert found.roofline_seconds == pytest.approx(expected.roofline_seconds)


def test_trips_that_no_text_knows_are_counted():
    kernel = Kernel(name="k", kind="pass", where="f", bytes=10, loops_unknown=True)
    (group,) = profiled.match([kernel], {"k": Spent(1e-6, 12)}, 3, H200).groups
    assert group.runs == 4 and group.bytes == 40


def test_what_the_compiler_added_is_named_by_its_kind():
    kernels = [Kernel(name=name, kind="pass", where="") for name in ("copy.3", "copy.12", "copy")]
    (group,) = profiled.match(kernels, {}, 1, None).groups
    assert (group.where, group.runs) == ("copy", 3)


def test_the_name_of_a_program():
    text = jax.jit(looped).lower(jnp.ones((4, 4)), jnp.ones((4, 4))).compile().as_text()
    assert text is not None and profiled.module(text) == "jit_looped"
    assert compiled_kernels.parse(text)


def write(path, *lines):
    """An XSpace of (plane, line, [(instruction, program, nanoseconds)])."""
    planes: dict[str, list] = {}
    for plane, line, events in lines:
        planes.setdefault(plane, []).append((line, events))
    text = ""
    for plane, its in planes.items():
        text += f'planes {{ name: "{plane}"\n'
        text += 'stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }\n'
        text += 'stat_metadata { key: 2 value { id: 2 name: "hlo_module" } }\n'
        text += 'event_metadata { key: 1 value { id: 1 name: "a_kernel" } }\n'
        for number, (line, events) in enumerate(its):
            text += f'lines {{ id: {number} name: "{line}"\n'
            for instruction, program, nanoseconds in events:
                text += f"events {{ metadata_id: 1 duration_ps: {1000 * nanoseconds}\n"
                text += f'stats {{ metadata_id: 1 str_value: "{instruction}" }}\n'
                text += f'stats {{ metadata_id: 2 str_value: "{program}" }} }}\n'
            text += "}\n"
        text += "}\n"
    path.parent.mkdir(parents=True)
    path.write_bytes(ProfileData.text_proto_to_serialized_xspace(text))
