"""Clients whose updates are absurd at times, on a grid that loses and repeats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flower_compress.links import ErrorFeedback, Link
from flower_compress.strategies.server.uplink_checks import UplinkChecks
from flower_compress.testing import Fault
from tests.protocol.faulty import random_faults
from tests.protocol.lockstep import CASES, LockStep, TinyApp, run

LIMIT = 1000.0
FAULTS = [fault for fault in Fault if fault.name.startswith(("LOSE", "DUPL", "RAISE"))]
NAMES = [
    "sgd",
    "qsgd",
    "diana",
    "diana-mean",
    "diana-sampled",
    "double-squeeze",
    "mcm",
    "mcm-down-error-feedback-up",
    "rand-mcm",
    "rand-mcm-average",
    "rotated-updates-in-groups",
]


def is_absurd(client: int, server_round: int) -> bool:
    return client == 1 and server_round % 4 == 2


def attempt(name: str, seed: int) -> LockStep:
    """Run with an absurd client; nothing of what it said is anywhere at the end."""
    case = CASES[name]
    app = TinyApp(case.returns, absurd=is_absurd)
    grid = app.grid(3, random_faults(seed, 0.12, FAULTS))
    strategy = case.strategy(max_update_norm=LIMIT)
    _, lock_step = run(strategy, grid, 24, faulty_rounds=21)
    assert lock_step.in_step() == {0, 1, 2}
    assert strategy.refused.keys() == {1}
    assert lock_step.num_told[1] > 0
    assert np.abs(strategy._running.model).max() < 20
    for client in lock_step.clients:
        state = lock_step.state_of(client.node_id)
        assert state is not None
        if state.sender.vector is not None:
            assert np.linalg.norm(state.sender.vector) < LIMIT
    return lock_step


@pytest.mark.parametrize("name", NAMES)
def test_what_is_refused_breaks_no_step_and_never_arrives(name: str) -> None:
    for seed in range(3):
        attempt(name, seed)


def take_anything(self: UplinkChecks, *what: Any) -> float:
    """The server looks at no norm."""
    return 0.0


@pytest.mark.parametrize(
    ("target", "name", "broken", "algorithm"),
    [
        (UplinkChecks, "_check_size", take_anything, "diana"),
        (UplinkChecks, "_check_size", take_anything, "double-squeeze"),
        (ErrorFeedback, "refuse", Link.refuse, "double-squeeze"),
        (ErrorFeedback, "refuse", Link.refuse, "mcm-down-error-feedback-up"),
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
    with pytest.raises(AssertionError):
        attempt(algorithm, 0)
