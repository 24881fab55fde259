"""When a run ends itself."""

from __future__ import annotations

import pytest

from flower_compress.errors import RoundFailedError
from flower_compress.strategies.run.saving import Failures


@pytest.mark.parametrize("between", [(1, []), (2, ["one of three"]), (0, [])])
def test_only_failures_in_a_row_end_a_run(between: tuple[int, list[str]]) -> None:
    """An answer that is taken in, or none at all, lets the counting begin anew."""
    failures = Failures(2)
    failures.count(0, ["a", "a"])
    failures.count(*between)
    failures.count(0, ["b"])
    with pytest.raises(
        RoundFailedError, match=r"^all 3 clients .* 2 rounds in a row: a \| b$"
    ):
        failures.count(0, ["a", "b", "a"])


def test_an_app_that_cannot_work_ends_the_run_at_once() -> None:
    reason = "ConfigurationError: no such thing"
    with pytest.raises(RoundFailedError, match=f"reported an error: {reason}$"):
        Failures(3).count(0, [reason, reason])
    mixed, begun = Failures(3), Failures(3)
    mixed.count(0, [reason, "it was tired"])
    begun.count(1, [reason])
    begun.count(0, [reason])
    assert mixed.in_a_row == begun.in_a_row == 1, "these may still mend themselves"
