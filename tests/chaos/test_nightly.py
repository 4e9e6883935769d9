"""Six faults of any kind, every night another seed: `pytest -m nightly tests/chaos`."""

import json
import random

import pytest
from chaos import run


@pytest.mark.nightly
@pytest.mark.parametrize(("data", "workers"), [("scenes", 0), ("tars", 2), ("pack", 2)])
def test_six_faults_change_no_number(tmp_path, capfd, data, workers):
    seed = random.SystemRandom().randrange(2**32)
    options = ["--seed", seed, "--faults", 6, "--minutes", 20, "--processes", 2, "--json"]
    options += ["--data", data, "--workers", workers]
    code = run.main([*map(str, options), "--folder", str(tmp_path / "chaos")])
    out, err = capfd.readouterr()
    assert code == 0, err
    assert json.loads(out)["injected"] == 6
