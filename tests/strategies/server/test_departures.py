"""When all memories start from zero for the sake of clients that are gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from flower_compress.strategies.callbacks.observers import Observers
from flower_compress.strategies.server.departures import Departures
from tests.strategies.server.test_uplink import Clients


def test_a_small_share_of_forgotten_clients_waits_for_its_turn() -> None:
    clients, weights = Clients(3, "mean"), {0: 1.0, 1: 1.0, 2: 100.0}
    memories = clients.uplinks.memories
    roster: Any = SimpleNamespace(others=lambda _: [], some=lambda _: [], num_unnamed=0)
    departures = Departures(roster, memories, 3, Observers())
    for leaves in (0, 1):
        clients.round(weights, {})
        clients.forget(leaves)
        del weights[leaves]
        epochs = []
        for _ in range(4):
            departures.begin(weights)
            epochs.append(memories.epoch - leaves)
        assert epochs == [0, 0, 0, 1]
