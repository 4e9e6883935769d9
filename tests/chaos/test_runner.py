"""The runner's own pieces, on processes that only pretend to train."""

import json
import random
import sys
import time
from pathlib import Path

import pytest
from chaos import disk, faults, hooks, plan, run, table
from chaos.runner import Runner, ViolationError
from chaos.supervisor import Supervisor, read_journal

PRETENDER = Path(__file__).with_name("pretender.py")
BY_NAME = {fault.name: fault for fault in faults.FAULTS}


def supervisor(folder, steps, how=(), count=2):
    workdir = folder / "run"
    command = [sys.executable, str(PRETENDER), str(folder), str(workdir), str(steps), *how]
    return Supervisor(folder, workdir, folder / "cache", count, command=command)


def runner(watched, heard=None, seconds=120):
    say = heard.append if heard is not None else lambda line: None
    return Runner(watched, random.Random(0), time.monotonic() + seconds, 5, say)


def strikes(*names, every=6):
    return [plan.Strike(BY_NAME[name], every * (i + 1), 0.0) for i, name in enumerate(names)]


def test_a_seed_draws_the_same_strikes_and_every_kind_before_any_twice():
    drawn, steps = plan.draw(7, 50, faults.NAMES, 4)
    assert (drawn, steps) == plan.draw(7, 50, faults.NAMES, 4) != plan.draw(8, 50, faults.NAMES, 4)
    kinds = [strike.fault.name for strike in drawn]
    assert len(kinds) == 50 and set(kinds[: len(faults.NAMES)]) == set(faults.NAMES)
    at = [strike.step for strike in drawn]
    assert at == sorted(set(at)) and at[-1] < steps
    some, _ = plan.draw(7, 5, ["pause", "clock"], 4)
    assert {strike.fault.name for strike in some} == {"pause", "clock"}


def test_an_undisturbed_run_ends_by_itself(tmp_path):
    watched = supervisor(tmp_path, 12)
    runner(watched).run()
    assert watched.codes() == [0, 0] and watched.lives == 1 and watched.step() == (0, 12)


def test_every_signal_ends_or_spares_the_run_and_costs_what_the_journal_says(tmp_path):
    names = ("kill_worker", "terminate_one", "pause", "kill_coordinator", "kill_all", "kill_twice")
    watched, heard = supervisor(tmp_path, 60), []
    running = runner(watched, heard)
    running.run(strikes(*names))
    assert watched.codes() == [0, 0]
    assert [outcome.fault for outcome in running.outcomes] == list(names)
    by_name = {outcome.fault: outcome for outcome in running.outcomes}
    assert by_name["kill_worker"].codes == [134, -9]
    assert by_name["kill_coordinator"].codes == [-9, 134]
    assert by_name["kill_all"].codes == [-9, -9]
    assert by_name["terminate_one"].codes == [143, 143]
    assert by_name["terminate_one"].lost_steps == 0  # the pretender saves on SIGTERM
    assert by_name["pause"].codes == [None, None] and by_name["pause"].lost_steps == 0
    # One life to begin with, one after each fault that ends it, and one that is killed again; a
    # busy machine may take so long over a start that its peer gives up and there is another.
    assert watched.lives >= 1 + 5 + 1
    begun = [line["step"] for line in read_journal(hooks.journal(tmp_path, 0)) if "life" in line]
    lines = read_journal(hooks.journal(tmp_path, 0))
    done_twice = sum("digest" in line for line in lines) - 60
    assert done_twice == sum(outcome.lost_steps for outcome in running.outcomes)
    assert begun[0] == 0 and any("SIGKILL of all" in line for line in heard)


def test_peers_that_do_not_notice_are_a_violation(tmp_path, monkeypatch):
    monkeypatch.setattr("chaos.runner.PATIENCE_SECONDS", -4)
    watched = supervisor(tmp_path, 1000, ["deaf"])
    with pytest.raises(ViolationError, match=r"kill_worker processes \[0\] did not end within 1 s"):
        runner(watched).run(strikes("kill_worker"))
    assert watched.codes() == [-9, -9]  # nothing is left behind


def test_a_run_that_needs_a_hand_is_a_violation(tmp_path):
    with pytest.raises(ViolationError, match=r"needed intervention: its processes exited with \[2"):
        runner(supervisor(tmp_path, 10, ["mend"])).run()


def test_starts_that_come_to_nothing_are_a_violation(tmp_path):
    watched = Supervisor(
        tmp_path, tmp_path / "run", tmp_path, 2, command=[sys.executable, "-c", "1/0"]
    )
    heard = []
    with pytest.raises(ViolationError, match="3 starts in a row came to nothing"):
        runner(watched, heard).run()
    assert watched.lives == 3 and "ZeroDivisionError" in watched.tail()


def test_time_that_is_over_is_a_violation(tmp_path):
    with pytest.raises(ViolationError, match="time was over when 0 of 1 faults were injected"):
        runner(supervisor(tmp_path, 10_000), seconds=1).run(strikes("pause", every=9000))


def test_a_stopped_process_is_ended_without_waiting(tmp_path):
    watched = supervisor(tmp_path, 100_000)
    running = runner(watched)
    watched.start()
    running._until(lambda: watched.step()[0] is not None, "the first step")
    for number in range(2):
        watched.signal(number, faults.signal.SIGSTOP)
    running._until(lambda: not watched._running(), "both to stop")
    assert watched.end(patience=1000) == [] and watched.codes() == [-9, -9]


def test_a_full_disk_is_filled_to_the_last_byte(tmp_path):
    with disk.small(tmp_path / "disk") as reason:
        if reason is not None:
            pytest.skip(f"no small disk can be had: {reason}")
        faults.fill(tmp_path / "disk" / "ballast")
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "disk" / "more").write_bytes(b"x")
        (tmp_path / "disk" / "ballast").unlink()
        (tmp_path / "disk" / "more").write_bytes(b"x")
    assert list((tmp_path / "disk").iterdir()) == []  # the disk is gone


def checkpoint(folder):
    """A folder like one of Orbax's."""
    for name in ("_CHECKPOINT_METADATA", "commit_success.txt", "checksums/metadata"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    for name in ("_METADATA", "manifest.ocdbt", "ocdbt.process_0/d/a", "ocdbt.process_1/d/b"):
        (folder / "state" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "state" / name).write_bytes(bytes(100))
    return folder


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("seed", range(5))
def test_damage_is_what_it_says(tmp_path, seed):
    for change in (faults.flip, faults.truncate, faults.delete_marker, faults.delete_metadata):
        folder = checkpoint(tmp_path / change.__name__ / "8")
        before = contents(folder)
        words = change(folder, random.Random(seed))
        after = contents(folder)
        (changed,) = (path for path in before if before[path] != after.get(path))
        assert str(changed.relative_to(folder.parent)) in words
        if change is faults.flip:
            pairs = zip(before[changed], after[changed], strict=True)
            assert sum((a ^ b).bit_count() for a, b in pairs) == 1
        elif change is faults.truncate:
            assert before[changed].startswith(after[changed])
        else:
            assert changed not in after
    folder = checkpoint(tmp_path / "shards" / "8")
    before = contents(folder)
    faults.delete_shards(folder, random.Random(seed))
    gone = before.keys() - contents(folder).keys()
    assert len(gone) == 1 and "ocdbt.process_" in str(gone)


def test_the_table_has_every_kind_and_all_of_them():
    outcomes = [
        faults_outcome("pause", 0, 1.0),
        faults_outcome("kill_all", 3, 9.0),
        faults_outcome("kill_all", 5, 11.0),
    ]
    found = table.summary(outcomes)
    assert list(found) == ["kill_all", "pause", "all"]
    assert list(found["kill_all"].values()) == [2, 4, 5, 10.0, 11.0]
    assert list(found["all"].values()) == [3, 3, 5, 9.0, 11.0]
    assert len(table.text(outcomes).splitlines()) == 4
    assert json.loads(json.dumps(table.plain(outcomes)))[0]["fault"] == "pause"


def faults_outcome(kind, lost, seconds):
    from chaos.runner import Outcome

    return Outcome(kind, 8, "", [0, 0], lost, seconds)


def test_a_violation_names_the_seed_and_the_command(tmp_path, capsys, monkeypatch):
    result = {"table": "", "violations": ["arrays differ"]}
    monkeypatch.setattr(run, "chaos", lambda *args: result)
    assert run.main(["--seed", "11", "--faults", "3", "--folder", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "seed 11: arrays differ" in err and "run.py --seed 11 --faults 3 --processes 2" in err
    result["violations"] = []
    assert run.main(["--seed", "11", "--json"]) == 0
    with pytest.raises(SystemExit):
        run.main(["--kinds", "flood"])
    assert "flood" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "kind", "ended"),
    [
        ("tars", "kill_reader", 75),
        pytest.param("pack", "kill_all", -9, marks=pytest.mark.nightly),
    ],
)
def test_processes_that_read_stored_data_change_no_number(tmp_path, capfd, data, kind, ended):
    """One process of a run, and two that read for it."""
    options = ["--seed", 5, "--faults", 1, "--minutes", 4, "--processes", 1, "--json"]
    options += ["--data", data, "--workers", 2, "--kinds", kind]
    code = run.main([*map(str, options), "--folder", str(tmp_path / "chaos")])
    out, err = capfd.readouterr()
    assert code == 0, err
    (fault,) = json.loads(out)["faults"]
    assert (fault["fault"], fault["codes"]) == (kind, [ended])
    log = (tmp_path / "chaos" / "disturbed" / "process-0.log").read_text()
    assert ("a worker process of the data loader died" in log) == (kind == "kill_reader")
