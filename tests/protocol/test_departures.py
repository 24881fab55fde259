"""Clients that leave, are forgotten, and come back with what they remember.

They are new ones then: both ends of both links begin anew, and stay in step byte for
byte, whatever fails meanwhile. What is compared is in lockstep.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flower_compress.links import ErrorFeedback
from flower_compress.strategies.server.downlink import DownlinkEnd, Downlinks
from flower_compress.strategies.server.uplink import Uplinks
from flower_compress.strategies.server.uplink_end import UplinkEnd
from flower_compress.strategies.server.uplink_memories import UplinkMemories
from flower_compress.testing import Fault
from flower_compress.wire.packet import Packet, find_packet
from tests.protocol.faulty import NO_FAULTS, random_faults
from tests.protocol.lockstep import (
    CASES,
    Case,
    LockStep,
    TinyApp,
    TinyGrid,
    every_case,
    of_each_kind,
    run,
    run_with_deaths,
)

FORGET_AFTER = 3
LEAVES, FORGOTTEN, BACK = 3, 6, 8
"""Rounds after which client 0 leaves, of its last absence, and of its return."""
AT_ONCE = 5
"""The round after which client 1 is forgotten, though it is there."""


def come_and_go(lock_step: LockStep, server_round: int) -> None:
    grid, strategy = lock_step.grid, lock_step.strategy
    roster = {client.identity for client in strategy._running.roster}
    if server_round == LEAVES:
        grid.leave(1001)
    if server_round == FORGOTTEN - 1:
        assert 0 in roster
    if server_round == FORGOTTEN:
        assert 0 not in roster
    if server_round == BACK:
        grid.come_back(1001)
    if server_round == AT_ONCE:
        strategy.forget(1)


@of_each_kind
def test_who_is_forgotten_begins_anew_and_in_step(case: Case) -> None:
    grid = TinyApp(case.returns).grid(4)
    strategy = case.strategy(forget_after=FORGET_AFTER, fraction_evaluate=1.0, seed=5)
    _, lock_step = run(strategy, grid, 11, faulty_rounds=9, after_round=come_and_go)
    assert lock_step.in_step() == {0, 1, 2, 3}
    assert lock_step.num_compared["forgotten"] >= 2
    has_mean = strategy.uplink_memory == "mean" and lock_step.uplink_rate is not None
    assert (lock_step.num_compared["epochs"] > 0) is has_mean


@pytest.mark.parametrize(
    "name",
    ["artemis", "diana-mean", "double-squeeze", "mcm", "rand-mcm", "rand-mcm-average"],
)
def test_whatever_fails_meanwhile(name: str) -> None:
    """Clients that are silent are forgotten too, and late messages reach them."""
    case = CASES[name]
    grid = TinyApp(case.returns).grid(4, random_faults(7, 0.2))
    strategy = case.strategy(
        forget_after=2,
        fraction_evaluate=0.6,
        min_available_nodes=1,
        min_train_nodes=1,
        min_evaluate_nodes=1,
    )

    def after_round(lock_step: LockStep, server_round: int) -> None:
        for client in range(4):
            away = (server_round + 3 * client) % 9 < 4 and server_round < 22
            (grid.leave if away else grid.come_back)(1001 + client)

    _, lock_step = run(strategy, grid, 26, faulty_rounds=22, after_round=after_round)
    assert lock_step.in_step() == {0, 1, 2, 3}
    assert lock_step.num_compared["forgotten"] > 4


@pytest.mark.parametrize("name", ["mcm", "rand-mcm", "diana-mean", "rand-mcm-average"])
def test_a_server_that_dies_knows_whom_it_forgot(name: str, tmp_path: Path) -> None:
    class Leaves(TinyGrid):
        """Client 0 is away in rounds 4 to 9."""

        def send_and_receive(self, messages: Any, *, timeout: Any = None) -> Any:
            new = list(messages)
            number = new and new[0].content["config"].get("server-round")
            if isinstance(number, int) and number > 2:
                (self.leave if number < 9 else self.come_back)(1001)
            return super().send_and_receive(new, timeout=timeout)

    case, app = CASES[name], TinyApp(CASES[name].returns)
    grid = Leaves(app, 4, NO_FAULTS)
    deaths = [5, 2, 3]
    lock_step = run_with_deaths(
        case, grid, 12, deaths, tmp_path, checkpoint_every=2, forget_after=FORGET_AFTER
    )
    assert lock_step.in_step() == {0, 1, 2, 3}
    assert lock_step.num_compared["forgotten"] > 0


# -- error feedback --------------------------------------------------------------------


def test_an_error_is_dropped_with_what_nobody_knows_of_it() -> None:
    """Else the last payload, which had arrived, would be sent once more."""
    case = CASES["double-squeeze"]
    app = TinyApp(case.returns)
    grid = app.grid(3)
    strategy = case.strategy()
    assert isinstance(strategy.uplink, ErrorFeedback)
    told: list[bool] = []

    def after_round(lock_step: LockStep, server_round: int) -> None:
        if server_round == 4:
            strategy.forget(0)
        if server_round == 6:  # In round 5 it was greeted.
            state = lock_step.state_of(1001)
            assert state is not None and state.sender.num_inputs == 1
            np.testing.assert_array_equal(state.sender.vector, lock_step.input_of(0))

    def note(message: Any, reply: Any) -> None:
        packet = Packet.parse(find_packet(message.content)[1])
        if not packet.greeting and message.metadata.dst_node_id == 1001:
            told.append(packet.refused)

    lock_step = LockStep(grid)
    compared = grid.on_answer
    assert compared is not None
    grid.on_answer = lambda *pair: (note(*pair), compared(*pair))[1]
    lock_step.follow(strategy)
    from tests.protocol.lockstep import _start

    _start(lock_step, strategy, 7, None, after_round=after_round)
    assert told == [False] * 4 + [True] + [False]


# -- the rules matter: without one of them, the comparison fails -----------------------

_begin, _forget = Downlinks.begin, UplinkMemories.forget


def begin_at_one(self: Downlinks) -> DownlinkEnd:
    """A client that comes back is sent versions that it has had."""
    return replace(_begin(self), sent=0)


def keep_in_the_sum(self: UplinkMemories, identities: Any) -> None:
    """The memory of who is gone stays."""
    kept = None if self.sum is None else self.sum.copy()
    _forget(self, identities)
    self._sum.vector = kept


def remember_the_version(
    self: Uplinks, identity: int, *, had_state: bool = False
) -> UplinkEnd:
    """A client that comes back is told to go on where it was."""
    return UplinkEnd(self._store.slot(), version=5 if had_state else 0)


def never_renew(self: UplinkMemories) -> None:
    """The mean keeps what is nobody's."""


@pytest.mark.parametrize(
    ("target", "name", "broken", "algorithm"),
    [
        (Downlinks, "begin", begin_at_one, "rand-mcm"),
        (UplinkMemories, "forget", keep_in_the_sum, "mcm"),
        (Uplinks, "begin", remember_the_version, "diana"),
        (UplinkMemories, "begin_epoch", never_renew, "diana-mean"),
    ],
)
def test_a_broken_rule_is_caught(
    monkeypatch: pytest.MonkeyPatch,
    target: Any,
    name: str,
    broken: Callable[..., Any],
    algorithm: str,
) -> None:
    monkeypatch.setattr(target, name, broken)
    with pytest.raises((AssertionError, RuntimeWarning)):
        test_who_is_forgotten_begins_anew_and_in_step(CASES[algorithm])


@pytest.mark.slow
@every_case
@pytest.mark.parametrize("seed", range(12))
def test_many_schedules_of_coming_and_going(case: Case, seed: int) -> None:
    rng = np.random.default_rng(seed)
    faults = random_faults(seed, float(rng.choice([0.05, 0.15, 0.3])), tuple(Fault))
    grid = TinyApp(case.returns).grid(4, faults)
    strategy = case.strategy(
        forget_after=int(rng.integers(1, 4)), fraction_evaluate=0.5, seed=seed
    )

    def after_round(lock_step: LockStep, server_round: int) -> None:
        for client in range(4):
            away = rng.random() < 0.4 and server_round < 30 and client > 1
            (grid.leave if away else grid.come_back)(1001 + client)
        known = [client.identity for client in strategy._running.roster]
        if known and rng.random() < 0.2 and server_round < 30:
            strategy.forget(int(rng.choice(known)))

    _, lock_step = run(strategy, grid, 34, faulty_rounds=30, after_round=after_round)
    assert lock_step.in_step() == {0, 1, 2, 3}
