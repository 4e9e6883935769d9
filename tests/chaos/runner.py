"""Runs the training under faults: waits, strikes, restarts, and measures what each fault cost."""

import dataclasses
import time

from chaos import faults
from chaos.supervisor import AGAIN, DONE, MENDABLE, TERMINATED

PATIENCE_SECONDS = 60  # beyond the heartbeat, for peers to end by themselves
STALL_SECONDS = 300  # without what is waited for, though no process has ended
MOST_STARTS = 3  # in a row that end before their first update
SURVIVED_STEPS = 3  # after a fault that must not end the run


class ViolationError(Exception):
    """The run broke a promise; the message says which."""


@dataclasses.dataclass
class Outcome:
    """What one fault did: steps that were done twice, and seconds until training went on."""

    fault: str
    step: int
    detail: str
    codes: list
    lost_steps: int
    seconds: float
    unplanned_starts: int = 0


class Runner:
    """One undisturbed or disturbed run, to its end.

    `deadline` is a moment of the monotonic clock; `say` takes each line of the log.
    """

    def __init__(self, supervisor, rng, deadline, heartbeat_seconds, say):
        self._supervisor, self._rng, self._deadline, self._say = supervisor, rng, deadline, say
        self._patience = heartbeat_seconds + PATIENCE_SECONDS
        self._checkpoints = supervisor.workdir / "checkpoints"
        self._begin, self.unplanned, self._futile = time.monotonic(), 0, 0
        self.outcomes = []

    def run(self, strikes=()):
        """Strikes one by one, then waits for the end; ViolationError if a promise is broken."""
        try:
            self._supervisor.start()
            for number, strike in enumerate(strikes):
                self._left = f"{number} of {len(strikes)} faults were injected"
                self._reach(strike)
                self.outcomes.append(self._strike(strike.fault))
            self._left = "all faults were injected"
            self._wait(lambda: self._supervisor.codes() == [DONE] * self._supervisor.count, "end")
        finally:
            self._supervisor.end(patience=0)

    def _reach(self, strike):
        """Waits until training is at the strike's step, and what it spoils is not all there is."""

        def there():
            first, at = self._supervisor.step()
            if first is None or at < strike.step:
                return False
            steps = faults.saved(self._checkpoints)
            # The checkpoint that this life began with was read, and this life wrote the next.
            return not strike.fault.damages or (len(steps) > 1 and steps[-1] > first)

        self._wait(there, f"step {strike.step}")
        time.sleep(strike.delay)

    def _strike(self, fault):
        supervisor, unplanned = self._supervisor, self.unplanned
        (_, step), lives = supervisor.step(), supervisor.begun()
        begin = time.monotonic()
        scene = faults.Scene(supervisor, self._checkpoints, self._rng, self._wait_alive)
        self._say(f"step {step}: {fault.name}")
        try:
            detail = fault.inject(scene)
        except faults.LostCheckpointsError as lost:
            raise ViolationError(str(lost)) from lost
        self._say(f"    {detail}")
        if fault.ends:
            codes = self._restart(fault)
        else:
            self._wait_alive(lambda: supervisor.step()[1] >= step + SURVIVED_STEPS, "the next step")
            codes = supervisor.codes()
        seconds, lost = time.monotonic() - begin, supervisor.repeated(since=lives)
        outcome = Outcome(fault.name, step, detail, codes, lost, round(seconds, 2))
        outcome.unplanned_starts = self.unplanned - unplanned
        self._say(f"    exit codes {codes}, {lost} steps lost, {seconds:.1f} s")
        return outcome

    def _restart(self, fault):
        """The exit codes of the life that a fault ended; the next one has begun to train."""
        supervisor = self._supervisor
        self._until(lambda: any(code is not None for code in supervisor.codes()), "a process's end")
        hung = supervisor.end(self._patience if fault.alone else 0)
        codes = supervisor.codes()
        if hung and fault.alone:
            raise ViolationError(
                f"after {fault.name} processes {hung} did not end within {self._patience} s"
            )
        if fault.name.startswith("terminate") and set(codes) != {TERMINATED}:
            raise ViolationError(f"{fault.name} ended the processes with {codes}, not {TERMINATED}")
        if fault.workers and AGAIN not in codes:
            raise ViolationError(f"{fault.name} ended the processes with {codes}, none by {AGAIN}")
        supervisor.start()
        self._wait(lambda: supervisor.step()[0] is not None, "the first step after a restart")
        return codes

    def _wait(self, condition, what):
        """Waits for `condition`; a life that ends meanwhile is followed by another."""

        def met():
            if condition():
                return True
            codes = self._supervisor.codes()
            if set(codes) == {DONE}:
                raise ViolationError(f"the run was done before its time, while waiting for {what}")
            if any(code is not None for code in codes):
                self._start_again()
            return False

        self._until(met, what)

    def _start_again(self):
        supervisor = self._supervisor
        self._futile = 0 if supervisor.step()[0] is not None else self._futile + 1
        supervisor.end(self._patience)
        codes = supervisor.codes()
        if set(codes) == {DONE}:
            return
        if MENDABLE in codes:
            raise ViolationError(f"the run needed intervention: its processes exited with {codes}")
        if self._futile == MOST_STARTS:
            raise ViolationError(
                f"{MOST_STARTS} starts in a row came to nothing: exit codes {codes}"
            )
        self._say(f"    processes exited with {codes} on their own; starting again")
        self.unplanned += 1
        supervisor.start()

    def _wait_alive(self, condition, what):
        """As `_wait`, but no process may end."""

        def met():
            codes = self._supervisor.codes()
            if any(code is not None for code in codes):
                raise ViolationError(f"processes exited with {codes} while waiting for {what}")
            return condition()

        self._until(met, what)

    def _until(self, condition, what):
        begin = time.monotonic()
        while not condition():
            now = time.monotonic()
            if now > self._deadline:
                raise ViolationError(f"the time was over when {self._left}, waiting for {what}")
            if now > begin + STALL_SECONDS:
                raise ViolationError(f"nothing happened in {STALL_SECONDS} s, waiting for {what}")
            time.sleep(0.02)
