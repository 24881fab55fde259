"""What is said now and then."""

from __future__ import annotations

import logging

import pytest

from flower_compress.strategies.run.seldom import Waiting


def test_a_night_of_waiting_is_told_in_a_few_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    waiting = Waiting()
    with caplog.at_level(logging.INFO, "flwr"):
        for connected in (0, 1, 0):
            for _ in range(20_000):
                waiting.tell("Waiting for nodes: %d are there.", connected)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3 * 15  # 1, 2, 4, ... 16,384
    assert told[0] == told[-1] == "Waiting for nodes: 0 are there."
    assert told.count("Waiting for nodes: 1 are there.") == 15
