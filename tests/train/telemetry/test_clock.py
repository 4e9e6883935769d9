"""The parts of a step, on a clock that is turned by hand."""

import pytest

from esam_jax.train.telemetry.clock import StepClock, usual


class Hand:
    now = 100.0

    def __call__(self):
        return self.now

    def turn(self, seconds):
        self.now += seconds


def round_(clock, hand, *, data=0.0, dispatch=0.0, wait=0.0, host=0.0, busy=(True, True)):
    """One round; `busy`: whether the device still works when a batch is asked for, and is here."""
    hand.turn(host)
    clock.asked(busy[0])
    hand.turn(data)
    clock.batch_is_here(busy[1])
    hand.turn(dispatch)
    clock.dispatched()
    hand.turn(wait)
    clock.finished()


@pytest.fixture
def timed():
    hand = Hand()
    clock = StepClock(hand)
    round_(clock, hand, dispatch=60.0)  # the first one compiles
    return clock, hand


def test_what_the_host_does_while_the_device_works_is_free(timed):
    clock, hand = timed
    for _ in range(4):
        round_(clock, hand, data=0.3, dispatch=0.1, wait=0.5, host=0.1)
    found = clock.take().metrics(batch=8)
    assert found["examples_per_second"] == pytest.approx(8.0)
    assert found["step_seconds"] == pytest.approx(1.0)
    assert (found["data_wait_share"], found["compute_share"], found["other_share"]) == (0, 1, 0)
    assert clock.take().metrics(batch=8) == {}


def test_a_late_batch_is_waited_for(timed):
    clock, hand = timed
    for _ in range(4):
        round_(clock, hand, data=1.5, dispatch=0.1, wait=0.3, host=0.1, busy=(True, False))
    found = clock.take().metrics(batch=8)
    assert found["data_wait_share"] == pytest.approx(0.75)
    assert found["other_share"] == pytest.approx(0.05)  # dispatching to an idle device
    assert found["compute_share"] == pytest.approx(0.2)


def test_a_slow_host_is_neither(timed):
    clock, hand = timed
    for _ in range(4):
        round_(clock, hand, data=0.1, dispatch=0.1, wait=0.3, host=1.5, busy=(False, False))
    found = clock.take().metrics(batch=8)
    assert found["data_wait_share"] == pytest.approx(0.05)
    assert found["other_share"] == pytest.approx(0.8)


def test_a_save_is_in_no_step(timed):
    clock, hand = timed
    round_(clock, hand, wait=1.0)
    hand.turn(50.0)
    clock.restart()
    round_(clock, hand, wait=1.0)
    found = clock.take()
    assert (found.steps, found.seconds, found.other) == (2, pytest.approx(2.0), 0.0)


def test_stragglers_are_counted_once_there_is_a_habit(timed):
    clock, hand = timed
    durations = [1.0, 1.1, 0.9, 1.0] * 10
    for wait in durations:
        round_(clock, hand, wait=wait)
    assert "slow_steps" not in clock.take().metrics(batch=8)
    for wait in (1.0, 1.2, 3.0, 1.0, 2.0):
        round_(clock, hand, wait=wait)
    found = clock.take().metrics(batch=8)
    assert found["slow_steps"] == 2
    assert found["slowest_step_seconds"] == pytest.approx(3.0)
    assert usual(durations) == pytest.approx(1.0 + 3 * 0.05)
