"""What takes seconds and is not what a test is about: a report."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations import experiment


@pytest.fixture
def with_report() -> None:
    """Let an experiment draw its report."""


@pytest.fixture(autouse=True)
def _without_report(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leave the report out: it takes longer than the runs."""
    if "with_report" not in request.fixturenames:
        monkeypatch.setattr(
            experiment, "write_report", lambda out, *_, **__: Path(out, "report.html")
        )
