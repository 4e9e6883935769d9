"""`esam plan`: a real config of a nano model, compiled for pretend devices."""

import json
import types

import pytest

from esam_jax.cli import main
from esam_jax.plan import report


@pytest.mark.slow
def test_a_real_config_that_does_not_fit(capsys):
    argv = "plan quickstart_sami --topology cpu:4 --memory-gib 0.01 --try-changes never --json"
    assert main(argv.split()) == 3  # nothing was tried
    found = json.loads(capsys.readouterr().out)
    assert found["config"] == "quickstart_sami" and found["devices"] == 4
    assert found["compiled"]["fits"] is False
    assert found["compiled"]["peak"] > 0.01 * 2**30
    assert set(found["bill"]["flops"]) >= {"teacher", "trained"}
    # Gradients of all parameters are summed over the four devices, each at least once.
    kinds = {each["kind"]: each["bytes"] for each in found["compiled"]["collectives"]}
    assert kinds["all-reduce"] > 4 * 100_000


@pytest.mark.parametrize(("change_fits", "code"), [(True, 3), (False, 4)])
def test_exit_codes_of_what_does_not_fit(monkeypatch, change_fits, code):
    none = types.SimpleNamespace(fits=False)
    plan = types.SimpleNamespace(
        compiled=none, changes=[none, types.SimpleNamespace(fits=change_fits)]
    )
    monkeypatch.setattr(report, "make", lambda *args, **options: plan)
    monkeypatch.setattr(report, "for_people", lambda plan, kernels: "")
    assert main(["plan", "quickstart_sami", "--topology", "cpu:1"]) == code
    plan.compiled = types.SimpleNamespace(fits=None)
    assert main(["plan", "quickstart_sami", "--topology", "cpu:1"]) == 0


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        ("plan", "no config is named"),
        ("plan --topology cpu:1", "the config comes first"),
        ("plan quickstart_sami", "topology"),
        ("plan quickstart_samy --topology cpu:1", "did you mean quickstart_sami?"),
        ("plan quickstart_sami --topology cpu", "must be written like"),
        ("plan quickstart_sami --topology cpu:1 --optim.peak-lrr 1", "did you mean"),
        ("plan quickstart_sami --topology cpu:3", "batch is 32, but must be a multiple of 3"),
        ("plan quickstart_sami --topology cpu:1 --mfu 2", "--mfu is 2.0"),
        ("plan quickstart_sami --topology cpu:1 --price nan", "--price is nan"),
        ("plan quickstart_sami --topology cpu:1 --memory-gib nan", "--memory-gib is nan"),
        ("plan quickstart_sami --topology cpu:1 --memory-gib -1", "--memory-gib is -1.0"),
        ("plan quickstart_sami --topology cpu:4 --mesh.fsdp 3", "does not fill 4 devices"),
    ],
)
def test_what_the_user_can_mend(capsys, argv, reason):
    assert main(argv.split()) == 2
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1
