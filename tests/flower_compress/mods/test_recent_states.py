"""States that need not be read again: the last ones put in, within a budget."""

from __future__ import annotations

import pytest

from flower_compress.mods import recent_states
from flower_compress.mods.recent_states import RecentStates


def test_of_each_client_the_last_state_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_states, "_MOST_BYTES", 10)
    states = RecentStates[str]()
    first, second = b"abcd", b"efgh"
    states.put(1, first, "first")
    for _ in range(9):
        states.put(2, second, "second")
    assert (states.get(1, first), states.get(2, second)) == ("first", "second")
    states.put(3, b"ijkl", "third")  # 12 bytes: the oldest goes.
    assert (states.get(1, first), states.get(2, second)) == (None, "second")
    assert states.get(2, bytes(bytearray(second))) is None
    states.put(2, bytes(recent_states._LARGEST + 1), "large")
    assert states.get(2, second) is None
