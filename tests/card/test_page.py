"""The page of a card: every figure of its record, what is wrong at its head, nothing invented."""

from esam_jax.card import markdown
from esam_jax.card.sections import SECTIONS

MACHINE = {
    "table": "machine",
    "device": "NVIDIA H200",
    "cores": 16,
    "data_sheet": "h200",
    "versions": {"jax": "0.10.2"},
    "nvidia_smi": {"clocks.sm": "1980 MHz"},
    "memory_limit_bytes": 10**11,
}
GROUP = {
    "where": "encoder/block/mlp/dot_general",
    "kind": "product",
    "dtype": "bf16",
    "runs": 24,
    "flops": 4 * 10**12,
    "bytes": 10**9,
    "seconds": 8e-3,
    "paper_seconds": 5e-3,
    "roofline_seconds": 4e-3,
}
UPDATE = {
    "table": "updates",
    "program": "SAMI, sami_ti",
    "dtype": "bfloat16",
    "size": 3072,
    "seconds": 1.5,
    "examples_per_second": 2048.0,
    "mfu": 0.412,
    "paper_seconds": 1.2,
    "busy_seconds": 1.35,
    "peak_bytes": 80 * 2**30,
    "usable_bytes": 96 * 2**30,
    "compile_seconds": 61.0,
    "matched_share": 0.99,
    "silent_kernels": 2,
    "unmatched_seconds": {"memset": 1e-3},
    "profile_error": None,
    "groups": [GROUP],
}


def section(*rows, **more):
    return {"state": "done", "error": None, "seconds": 12.0, "rows": list(rows), **more}


def page(**sections):
    return markdown.page(
        {"command": "esam bench card --out a", "seconds": 90.0, "sections": sections}
    )


def test_an_update_beside_paper():
    text = page(machine=section(MACHINE), sami=section(UPDATE, peak_bytes={"device": 2**36}))
    assert "NVIDIA H200, 16 cores of the host. `esam bench card --out a`, 1.5 minutes." in text
    assert "Versions: jax 0.10.2." in text and "clocks.sm 1980 MHz" in text
    assert "data sheet of h200" in text
    row = "| SAMI, sami_ti | bfloat16 | 3072 | 1500 | 2048 | 41.2% | 1200 | 1.25 | 90.0% | 80 | 96"
    assert row in text
    assert "### Kernels: SAMI, sami_ti, bfloat16, 3072" in text
    group = "| 8 | 5 | 1.60 | 24 | product | bf16 | 500, 125 | `encoder/block/mlp/dot_general` |"
    assert group in text
    assert "2 kernels of the program were not seen" in text and "memset 1 ms" in text
    assert "peak memory of the device 64 GiB" in text
    assert "not measured: parity, predict" in text


def test_without_a_data_sheet_nothing_is_compared():
    group = GROUP | {"paper_seconds": None, "roofline_seconds": None}
    update = UPDATE | {"paper_seconds": None, "mfu": None, "groups": [group]}
    text = page(machine=section(MACHINE | {"data_sheet": None}), sami=section(update))
    assert "No data sheet for this device: nothing is compared with paper." in text
    assert "| 2048 | - | - | - | 90.0% |" in text and "| 8 | - | - | 24 |" in text


def test_what_is_wrong_stands_at_the_head():
    check = {"table": "faults", "check": "killed and resumed", "outcome": "other | numbers",
             "largest_difference": 1e-3, "seconds": 3.0, "holds": False}  # fmt: skip
    refused = check | {"check": "two processes as one run", "outcome": "refused", "holds": None}
    text = page(
        faults=section(check, refused),
        predict=section(state="failed", error="out of memory (a kernel)"),
    )
    head = text.split("##")[0]
    assert "- faults does not hold: faults: check killed and resumed" in head
    assert "- predict failed: out of memory (a kernel)" in head and "two processes" not in head
    assert "| killed and resumed | other / numbers | 0.001 | 3 | NO |" in text
    assert "| two processes as one run | refused | 0.001 | 3 | - |" in text


def test_without_a_profile_paper_stands_alone():
    update = UPDATE | {"profile_error": "no rights", "busy_seconds": 0.0}
    text = page(sami=section(update))
    assert "No profile (no rights): what the program holds, on paper alone." in text
    assert "| 1.25 | - | 80 |" in text


def test_all_is_well():
    complete = {name: section() for name in SECTIONS}
    assert "All sections are complete, and every check holds." in page(**complete)


def test_a_line_for_those_who_wait():
    assert markdown.one_line(MACHINE) == "machine"
    said = markdown.one_line(UPDATE | {"mfu": None})
    assert "program SAMI, sami_ti" in said and "batch 3072" in said and "MFU" not in said
