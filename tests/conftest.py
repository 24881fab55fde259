"""How the tests are run, and what they do not leave to the machine.

Hypothesis draws anew at every run, but the same examples in CI.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.bounds import missing

# A deadline an example would measure the machine, not the code.
settings.register_profile("everywhere", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "everywhere")

# Tests read what commands print: without colours, which these ask for.
for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
    os.environ.pop(name, None)


def pytest_configure() -> None:
    """Refuse to run on other versions than the ones that are to be tested."""
    if others := missing(os.environ.get("REQUIRED_VERSIONS", "")):
        raise pytest.UsageError("; ".join(others))


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody cuts the power: waiting for the disk takes longer than the runs."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one worker of pytest-xdist have all tests that start Ray: two would wait."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
