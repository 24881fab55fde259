"""A thousand runs: no log, no waiting, and states that are read as on a device."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from flower_compress.mods.recent_states import RecentStates
from flower_compress.strategies.relay import session
from flower_compress.strategies.server import participants


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Flower's log of a thousand rounds takes longer than the rounds."""
    monkeypatch.setattr(participants, "_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(session, "_RETRY_SECONDS", 0.0)
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def _from_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients read their state anew, as devices do, with a process for each message."""
    monkeypatch.setattr(RecentStates, "get", lambda *_: None)
