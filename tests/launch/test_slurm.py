"""launch/slurm.sh: what becomes of the job. Slurm's commands are stand-ins for one process."""

import signal

import pytest


@pytest.fixture
def slurm(launcher):
    def make(plan):
        made = launcher(plan, script="slurm.sh")
        notes = made.folder
        # srun passes its own options by; the others note what they are told.
        made.tool(
            "srun",
            '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
        )
        made.tool("scontrol", f'#!/bin/sh\necho "$@" >>{notes}/scontrol\nkill -KILL $PPID\n')
        made.tool(
            "scancel",
            f'#!/bin/sh\necho "$@" >>{notes}/scancel\nkill -TERM $(head -qn 1 {notes}/start.*)\n',
        )
        return made

    return make


def told(slurm, command):
    path = slurm.folder / command
    return path.read_text().splitlines() if path.exists() else []


def run(slurm, **environment):
    return slurm.run("--name", "two words", SLURM_JOB_ID="7", **environment)


def test_a_run_that_recovers_is_done(slurm):
    job = slurm("def plan(number, attempt):\n    return 1 if attempt < 2 else 0\n")
    assert run(job, RESTARTS="2") == 0
    assert job.notes("start")[0, 2].splitlines()[-2:] == ["--name", "two words"]
    assert not told(job, "scontrol")


def test_restarts_are_counted_from_the_newest_checkpoint(slurm):
    job = slurm("def plan(number, attempt):\n    save(8 + min(attempt, 3))\n    return 134\n")
    assert run(job, RESTARTS="1") == 134
    assert len(job.notes("start")) == 5
    assert not told(job, "scontrol")


def test_what_the_user_must_mend_ends_the_job(slurm):
    job = slurm("def plan(number, attempt):\n    return 2\n")
    assert run(job) == 2
    assert len(job.notes("start")) == 1 and not told(job, "scontrol")


def test_processes_that_slurm_ended_are_queued_again(slurm):
    job = slurm("def plan(number, attempt):\n    return 143\n")
    run(job)
    assert told(job, "scontrol") == ["requeue 7"]
    assert len(job.notes("start")) == 1


def test_told_to_stop_it_forwards_waits_and_is_not_queued_again(slurm):
    job = slurm("def plan(number, attempt):\n    note('ready')\n    wait()\n")
    job.start(SLURM_JOB_ID="7").wait_for("ready")
    job.process.send_signal(signal.SIGTERM)
    assert job.finish() == 143
    assert job.notes("term").keys() == {(0, 0)}
    assert told(job, "scancel") == ["--quiet --signal=TERM 7"]
    assert not told(job, "scontrol") and len(job.notes("start")) == 1


def test_process_0_listens_on_the_interface_that_was_named(slurm):
    job = slurm("def plan(number, attempt):\n    return 0\n")
    job.tool("ip", "#!/bin/sh\necho '2: ib0    inet 10.1.2.3/16 brd 10.1.255.255 scope global'\n")
    assert run(job, INTERFACE="ib0") == 0
    seen = job.notes("start")[0, 0].splitlines()
    assert "JAX_COORDINATOR_ADDRESS=10.1.2.3:61447" in seen
    assert "JAX_COORDINATOR_BIND_ADDRESS=10.1.2.3:61447" in seen


def test_an_interface_without_an_address_is_refused(slurm):
    job = slurm("def plan(number, attempt):\n    return 0\n")
    job.tool("ip", "#!/bin/sh\nexit 1\n")
    assert run(job, INTERFACE="ib9") == 2
    assert "INTERFACE=ib9" in job.errors and not job.notes("start")
