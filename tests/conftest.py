"""How the tests are run, and what they do not leave to the machine.

Hypothesis draws anew at every run, but the same examples in CI.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.bounds import missing
from tests.cases import has_cases, is_left_out
from tests.command import simulate as simulate

# A deadline an example would measure the machine, not the code.
settings.register_profile("everywhere", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "everywhere")

# Of the compiled path tests/flower_compress/test_compiled.py has tests of its own: to
# compile takes longer than most others, and memory that they measure.
os.environ.setdefault("FLOWER_COMPRESS_COMPILED", "0")

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
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Put the tests that start Ray first; on other versions, thin out.

    Of workers that steal from each other, the first one has Ray's tests then, which
    would wait for each other, and nobody waits for them at the end. On versions other
    than those that are developed on, a test of many strategies or operators has its
    first case and a twelfth of the others.
    """
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
    left_out, seen = list[pytest.Item](), set[str]()
    for item in items:
        function, _, case = item.nodeid.partition("[")
        is_another = case and function in seen and not has_cases(item.function)
        if is_another and is_left_out(item.module.__name__, case):
            left_out.append(item)
        seen.add(function)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        kept = set(items).difference(left_out)
        items[:] = [item for item in items if item in kept]
