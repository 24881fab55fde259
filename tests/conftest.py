"""How the tests are run, and what they do not leave to the machine.

Hypothesis draws anew at every run, but the same examples in CI.
"""

from __future__ import annotations

import os
from zlib import crc32

import pytest
from hypothesis import settings

from tests.bounds import missing
from tests.command import simulate as simulate

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


# A round of one strategy is as another's for Flower and NumPy, and the bits of every
# operator and code are in golden packets, which are all read and written there.
_THINNED = ("tests/protocol/", "tests/strategies/", "tests/flower_compress/")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Group the tests that start Ray; on other versions, thin out.

    Ray's tests go to one worker of pytest-xdist, since two would wait for each other.
    On versions other than those that are developed on, a test of many strategies or
    operators has its first case and a third of the others, drawn by their names.
    """
    left_out, seen = set[pytest.Item](), set[str]()
    shared = config.pluginmanager.hasplugin("xdist")
    for item in items:
        if shared and item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
        function, _, case = item.nodeid.partition("[")
        is_another = case and function in seen and function.startswith(_THINNED)
        if is_another and crc32(case.encode()) % 3:
            left_out.add(item)
        seen.add(function)
    if left_out and os.environ.get("REQUIRED_VERSIONS"):
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
