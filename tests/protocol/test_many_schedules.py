"""Thousands of schedules for each strategy, with servers that die on the way."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flower_compress.testing import RandomFaults
from tests.protocol.faulty import swarms
from tests.protocol.lockstep import (
    CALM_ROUNDS,
    Case,
    TinyApp,
    every_case,
    run,
    run_with_deaths,
)

SCHEDULES = 1000


@pytest.mark.slow
@every_case
def test_a_thousand_schedules_break_no_step(case: Case, tmp_path: Path) -> None:
    folders = (tmp_path / str(number) for number in itertools.count())
    num_seen = 0

    @settings(
        max_examples=SCHEDULES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        faults=swarms(),
        num_clients=st.sampled_from([2, 2, 2, 3]),
        faulty_rounds=st.integers(1, 5),
        deaths=st.lists(st.integers(1, 3), max_size=1),
        checkpoint_every=st.integers(1, 2),
        fraction=st.sampled_from([0.0, 0.5, 1.0]),
    )
    def attempt(
        faults: RandomFaults,
        num_clients: int,
        faulty_rounds: int,
        deaths: list[int],
        checkpoint_every: int,
        fraction: float,
    ) -> None:
        nonlocal num_seen
        grid = TinyApp(case.returns).grid(num_clients, faults)
        if deaths:
            lock_step = run_with_deaths(
                case,
                grid,
                faulty_rounds,
                deaths,
                next(folders),
                checkpoint_every,
                fraction_evaluate=fraction,
            )
        else:
            strategy = case.strategy(fraction_evaluate=fraction)
            _, lock_step = run(
                strategy, grid, faulty_rounds + CALM_ROUNDS, faulty_rounds
            )
        assert lock_step.in_step() == set(range(num_clients))
        num_seen += 1

    attempt()
    assert num_seen >= SCHEDULES
