"""Claims against the rows of runs: bounds, seeds, runs that diverge or never arrive."""

from __future__ import annotations

import math
from typing import Any

import pytest

from flower_compress.errors import ConfigurationError, UnknownNameError
from simulations.records import Claim, RoundRecord, judge
from tests.simulations.rows import record


def rows(name: str, log10_excess: list[float], seed: int = 0) -> list[RoundRecord]:
    """Return rows of rounds 0, 10, ..., 8 bits a round both ways."""
    return [
        record(name, seed, 10 * i, excess=10.0**value, loss=10.0**value, bits=40 * i)
        for i, value in enumerate(log10_excess)
    ]


def verdict(
    run: list[RoundRecord], other: list[RoundRecord] | None = None, **claim: Any
) -> Any:
    against = {} if other is None else {"against": other[0].algorithm}
    made = Claim("c", run[0].algorithm, **{"at_most": 0.5, **against, **claim})
    (found,) = judge([made], reversed([*run, *(other or [])]))["verdicts"]
    return found


def test_levels_are_compared_seed_by_seed() -> None:
    mcm = [*rows("mcm", [0, -1, -2.0]), *rows("mcm", [0, -1, -3.0], seed=1)]
    diana = [*rows("diana", [0, -1, -2.25]), *rows("diana", [0, -1, -3.75], seed=1)]
    found = verdict(mcm, diana, measure="level")
    assert found["value"] == pytest.approx(0.5) and found["holds"]
    assert found["deviation"] == pytest.approx(math.sqrt(0.125))
    assert found["seeds"] == "1 of 2"
    assert not verdict(mcm, diana, measure="level", at_most=0.49)["holds"]
    assert not verdict(mcm, diana, measure="level", at_least=0.51)["holds"]


@pytest.mark.parametrize(
    ("measure", "log10_excess", "value"),
    [
        ("gain", [-0.5, -1, -2], -1.5),
        ("gain", [-0.5, 1, 2], 2.5),
        ("second-half", [0, -1, -2, -3, -4], 1.0),
        ("second-half", [0, -1.5, -2, -2, -2], 0.0),
        ("loss", [0, -1, -2], 0.01),
        ("bits", [0, -1, -2], 160.0),
        ("downlink-bits", [0, -1, -2], 80.0),
    ],
)
def test_a_run_is_measured(
    measure: str, log10_excess: list[float], value: float
) -> None:
    found = verdict(rows("mcm", log10_excess), measure=measure)
    assert found["value"] == pytest.approx(value)
    assert found["holds"] is (value <= 0.5)


def test_what_is_sent_is_a_ratio_until_a_goal() -> None:
    fast, slow = rows("mcm", [0, -2, -2, -3]), rows("sgd", [0, -1, -2, -3])
    until = {"measure": "bits-to-level", "goal": -2.0}
    assert verdict(fast, slow, **until)["value"] == pytest.approx(0.5)
    never = verdict(fast, slow, measure="bits-to-level", goal=-9.0)
    assert never["holds"] is None and never["value"] is None
    late = verdict(rows("mcm", [0, -1, -1.9]), slow, **until)
    assert late["holds"] is False and late["value"] is None
    soon = verdict(fast, rows("sgd", [0, -1, -1.9]), **until)
    assert soon["holds"] is True and soon["value"] == 0.0


def test_a_run_that_diverges_is_above_every_bound() -> None:
    lost = rows("mcm", [0, 5, math.inf])
    assert verdict(lost, rows("sgd", [0, -1, -2]), measure="level")["holds"] is False
    assert verdict(lost, measure="gain", at_most=None, at_least=0.0)["holds"] is True
    assert verdict(lost, measure="second-half")["value"] is None
    # It ends early, and has saved nothing by that.
    sent = verdict(lost, rows("sgd", [0, -1, -2]), measure="bits")
    assert sent["holds"] is False and sent["value"] is None
    # Nor is anything told by what the other one sent until then.
    sent = verdict(rows("sgd", [0, -1, -2]), lost, measure="bits")
    assert sent["holds"] is None and sent["value"] is None


def test_what_is_not_known_is_not_judged() -> None:
    unknown = [record("mcm", excess=None), record("mcm", 0, 5, excess=None)]
    assert verdict(unknown, measure="level")["holds"] is None
    only = verdict(rows("mcm", [0, -1]), rows("sgd", [0, -1], seed=1), measure="level")
    assert only["holds"] is None and only["seeds"] == "0 of 0"
    assert verdict(rows("mcm", [0.0, -1.0]), measure="consensus")["holds"] is None


def test_a_claim_that_cannot_be_judged_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown measure 'levl'"):
        Claim("c", "mcm", "levl", at_most=1.0)
    with pytest.raises(ConfigurationError, match="at-most, at-least or both, got nei"):
        Claim("c", "mcm", "level")
    with pytest.raises(ConfigurationError, match="bits-to-level needs level"):
        Claim("c", "mcm", "bits-to-level", at_most=1.0)
    with pytest.raises(ConfigurationError, match="level takes no accuracy"):
        Claim("c", "mcm", "level", at_most=1.0, goal=-2.0)
