"""The short form of ``make hostile``."""

from __future__ import annotations

import pytest

from .cases import Case, cases

QUICK = [case for case in cases() if case.quick]


@pytest.mark.parametrize("case", QUICK, ids=[f"{c.group}: {c.name}" for c in QUICK])
def test_holds(case: Case) -> None:
    outcome = case.run()
    assert outcome.holds, outcome.happened
