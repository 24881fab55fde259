"""Schedules of faults that a test plans, or that hypothesis draws and shrinks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from hypothesis import strategies as st

from flower_compress.testing import Fault, Faults, RandomFaults, Schedule

DELAYS = (Fault.DELAY_MESSAGE, Fault.DELAY_REPLY)
DUPLICATES = (Fault.DUPLICATE_MESSAGE, Fault.DUPLICATE_REPLY)
RAISES = (Fault.RAISE_BEFORE, Fault.RAISE_AFTER, Fault.RAISE_OUTSIDE)
RESTARTS = (Fault.RESTART_BEFORE, Fault.RESTART_AFTER)
NO_FAULTS = RandomFaults(reorder=False)
MAX_DELAY = 3
TOGETHER: tuple[tuple[Fault, ...], ...] = (
    DELAYS,
    DUPLICATES,
    RESTARTS,
    *((fault,) for fault in Fault if fault not in (*DELAYS, *DUPLICATES, *RESTARTS)),
)
"""Faults of which one schedule has all or none."""


def random_faults(
    seed: int, probability: float, faults: Collection[Fault] = tuple(Fault)
) -> RandomFaults:
    """Each message suffers each of some faults with one probability."""

    def rate(fault: Fault) -> float:
        return probability if fault in faults else 0.0

    schedule = RandomFaults(
        seed=seed,
        lose_messages=rate(Fault.LOSE_MESSAGE),
        lose_replies=rate(Fault.LOSE_REPLY),
        error_replies=rate(Fault.ERROR_REPLY),
        duplicate=rate(Fault.DUPLICATE_MESSAGE),
        delay=rate(Fault.DELAY_MESSAGE),
        max_delay=MAX_DELAY,
        restart_every=0.5 / probability if Fault.RESTART_BEFORE in faults else None,
        raise_before=rate(Fault.RAISE_BEFORE),
        raise_after=rate(Fault.RAISE_AFTER),
        raise_outside=rate(Fault.RAISE_OUTSIDE),
    )
    assert schedule.possible == set(faults), "some come in pairs only"
    return schedule


def swarms() -> st.SearchStrategy[RandomFaults]:
    """Schedules of which each knows some of the faults only, often or seldom.

    What one fault would hide from another comes to light where the one is left out.
    """
    kinds = st.sets(st.sampled_from(TOGETHER), min_size=1)
    return st.builds(
        random_faults,
        seed=st.integers(0, 2**32),
        probability=st.sampled_from([0.03, 0.08, 0.15, 0.3, 0.5]),
        faults=kinds.map(lambda some: frozenset().union(*some)),
    )


class PlannedSchedule(Schedule):
    """Given faults for given messages, and everything in reverse order.

    Parameters
    ----------
    plan : Mapping[tuple[int, int], Iterable[Fault]]
        The faults of message j of exchange i; without lost greetings and evaluations,
        exchange 0 is the greeting, and exchange i is round i.
    delays : int
        For how many exchanges whatever is delayed is delayed.
    """

    def __init__(
        self, plan: Mapping[tuple[int, int], Iterable[Fault]], delays: int = 1
    ) -> None:
        self._plan, self._delays = plan, delays

    @property
    def possible(self) -> frozenset[Fault]:
        return frozenset(fault for faults in self._plan.values() for fault in faults)

    def draw(self, exchange: int, position: int) -> Faults:
        faults = self._plan.get((exchange, position), ())
        return dict.fromkeys(faults, self._delays)

    def order(self, exchange: int, direction: str, size: int) -> Sequence[int]:
        return range(size)[::-1]


class DrawnSchedule(Schedule):
    """Faults that hypothesis draws, and shrinks to the few that matter."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data
        self._faults = st.frozensets(st.sampled_from(list(Fault)), max_size=3)

    @property
    def possible(self) -> frozenset[Fault]:
        return frozenset(Fault)

    def draw(self, exchange: int, position: int) -> Faults:
        faults = self._data.draw(self._faults, label="faults")
        return {fault: self._delay(fault) for fault in sorted(faults, key=str)}

    def order(self, exchange: int, direction: str, size: int) -> Sequence[int]:
        return self._data.draw(st.permutations(range(size)), label="order")

    def _delay(self, fault: Fault) -> int:
        if fault not in (*DELAYS, *DUPLICATES):
            return 0
        least = 1 if fault in DELAYS else 0
        return self._data.draw(st.integers(least, MAX_DELAY), label="delay")
