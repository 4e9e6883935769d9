"""What happens when: a pure function of the seed."""

import dataclasses
import random

from chaos.faults import FAULTS, FULL_STEPS, Fault

GAP_STEPS = (1, 9)  # from one fault to the next
STRIKE_SECONDS = 0.4  # somewhere in an update, or in a save that goes on behind the next ones
AHEAD_STEPS = 24  # at most, that worker processes have read for: until then, none is missed
LAST_STEPS = 8  # after the last fault, so that it too has something to spoil


@dataclasses.dataclass(frozen=True)
class Strike:
    """One fault, from when on, and how long after that update was seen to begin."""

    fault: Fault
    step: int
    delay: float


def draw(seed, count, names, every_steps):
    """The strikes in order, and the number of steps of a run that holds them all.

    Every kind comes once before any comes twice.
    """
    rng = random.Random(seed)
    kinds = [fault for fault in FAULTS if fault.name in names]
    if not kinds:
        raise ValueError("no kind of fault is left to draw from")
    drawn = []
    while len(drawn) < count:
        drawn += rng.sample(kinds, len(kinds))
    strikes, step = [], 0
    for fault in drawn[:count]:
        step += rng.randrange(*GAP_STEPS)
        if fault.damages:
            step += 2 * every_steps  # two good checkpoints have to be there
        strikes.append(Strike(fault, step, rng.uniform(0.0, STRIKE_SECONDS)))
        if fault.name == "full_disk":
            step += FULL_STEPS[1] + 2 * every_steps
        if fault.workers:
            step += AHEAD_STEPS
    return strikes, step + LAST_STEPS
