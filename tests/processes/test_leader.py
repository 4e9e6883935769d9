"""Decisions and comparisons of two real processes, and what each of them makes of the other."""

import json

from helpers import processes

PROGRAM = """
import json, os
import jax
from esam_jax.errors import ConfigError
from esam_jax.processes import consistency
from esam_jax.processes import leader
jax.distributed.initialize(
    os.environ["JAX_COORDINATOR_ADDRESS"],
    int(os.environ["JAX_NUM_PROCESSES"]),
    int(os.environ["JAX_PROCESS_ID"]),
)
told = []

def note(call, *arguments):
    try:
        told.append(["", call(*arguments)])
    except Exception as error:
        told.append([type(error).__name__, str(error)])

def refuse():
    raise ConfigError("a value breaks a rule")

def stale():
    raise OSError(116, "Stale file handle")

here = jax.process_index()
note(leader.decide, lambda: ["seen", here])
note(leader.decide, refuse)
note(leader.decide, stale)
note(consistency.agree, {"records": f"{10 - here} records", "first_step": 4})
note(consistency.agree, {"records": "10 records", "first_step": 4 - here, "finished": here == 0})
note(consistency.agree, {"records": f"{10 - here} records", "first_step": 4 - here})
print(json.dumps(told))
"""


def test_one_decides_and_both_compare():
    outputs = processes.finish(processes.start(["-c", PROGRAM], 2), timeout=120)
    first, second = (json.loads(output.splitlines()[-1]) for output, _ in outputs)
    assert first[0] == second[0] == ["", ["seen", 0]]
    assert first[1] == ["ConfigError", "a value breaks a rule"]
    assert second[1] == ["ConfigError", "a value breaks a rule (on process 0)"]
    # An error of process 0's disk is not for the user of another process to fix.
    assert first[2][0] == "OSError"
    assert second[2] == ["RuntimeError", "[Errno 116] Stale file handle (on process 0)"]
    for told in (first, second):
        kinds = [kind for kind, _ in told[3:]]
        assert kinds == ["ConfigError", "PeerError", "ConfigError"]
        assert 'differs from host 0 in records: "9 records", not "10 records"' in told[3][1]
        assert "first_step: 3, not 4" in told[4][1] and "share one --workdir" in told[4][1]
