"""A message that comes twice to a client which has lost its state in between."""

from __future__ import annotations

import pytest

from flower_compress.links import SenderState
from flower_compress.strategies import CompressedStrategy
from flower_compress.testing import Fault, Schedule
from tests.protocol.faulty import DUPLICATES, RESTARTS, PlannedSchedule, random_faults
from tests.protocol.lockstep import CASES, LockStep, TinyApp, run

# The first message brings the contract, so client 0 answers it twice, each time with
# another payload. It hears nothing of round 2, and in round 3 that its answer to the
# first message counts: the one that it remembers, or the one that it has forgotten.
TWICE = PlannedSchedule(
    {
        (1, 0): [Fault.RESTART_AFTER, Fault.DUPLICATE_MESSAGE],
        (2, 0): [Fault.LOSE_MESSAGE],
    }
)
NAMES = [
    "diana",
    "diana-sampled",
    "diana-mean",
    "mcm",
    "double-squeeze",
    "mcm-down-error-feedback-up",
]


def is_pending(self: SenderState, version: int, crc: int | None = None) -> bool:
    """The version alone says which payload counted."""
    return self.pending is not None and version == self.pending_version


def attempt(strategy: CompressedStrategy, faults: Schedule) -> LockStep:
    _, lock_step = run(strategy, TinyApp().grid(3, faults), 8, faulty_rounds=6)
    assert lock_step.in_step() == {0, 1, 2}
    return lock_step


@pytest.mark.parametrize("name", NAMES)
def test_the_crc_tells_two_answers_to_one_message_apart(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_step = attempt(CASES[name].strategy(), TWICE)
    versions = [version for client, version, _ in lock_step.answers if client == 0]
    assert versions.count(min(versions)) == 2
    assert lock_step.num_compared["replaced"] > 0
    monkeypatch.setattr(SenderState, "is_pending", is_pending)
    with pytest.raises(AssertionError):
        attempt(CASES[name].strategy(), TWICE)


@pytest.mark.parametrize("name", ["diana", "mcm", "double-squeeze"])
def test_random_schedules_have_such_replays(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def schedules() -> int:
        return sum(
            attempt(
                CASES[name].strategy(),
                random_faults(seed, 0.3, [Fault.LOSE_MESSAGE, *DUPLICATES, *RESTARTS]),
            ).num_compared["replaced"]
            for seed in range(15)
        )

    assert schedules() > 0
    monkeypatch.setattr(SenderState, "is_pending", is_pending)
    with pytest.raises(AssertionError):
        schedules()
