"""The estimate under weights that change, against the sums written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flower_compress import StochasticQuantizer
from flower_compress.links import Channel, Memory, SenderState
from flower_compress.strategies.server.uplink import Uplinks
from flower_compress.strategies.server.uplink_memories import UplinkMemory
from flower_compress.strategies.server.vector_store import VectorStore
from flower_compress.streams import Purpose, Stream
from flower_compress.wire.packet import Packet

DIM = 9
WEIGHTS = [[1.0, 2.0, 5.0], [3.0, 2.0, 1.0], [0.5, 4.0, 1.0], [0.5, 4.0, 1.0]]

WITH_ZEROS = [[0.0] * 3, [0.0, 2.0, 5.0], [3.0, 2.0, 0.0], [0.0] * 3, [1.0, 4.0, 1.0]]


@pytest.mark.parametrize("memory", ["each", "mean", "sampled"])
@pytest.mark.parametrize(
    ("weights", "away"), [(WEIGHTS, None), (WEIGHTS, 1), (WITH_ZEROS, None)]
)
def test_a_client_counts_with_the_weight_it_has_now(
    memory: UplinkMemory, weights: list[list[float]], away: int | None
) -> None:
    """As num-examples may differ from round to round; ``"mean"`` keeps the first.

    Weight 0 is no say: the memory moves, but with ``"mean"`` it begins later.
    """
    link = Memory(StochasticQuantizer(4), rate=0.25)
    uplinks = Uplinks(link, DIM, memory, VectorStore(DIM, None), None)
    clients = range(3)
    ends = [uplinks.begin(i) for i in clients]
    senders = [SenderState() for _ in clients]
    h = [np.zeros(DIM) for _ in clients]
    known: dict[int, float] = {}
    for version, given in enumerate(weights, 1):
        there = [i for i in clients if not (i == away and version == 3)]
        parts, q = [], {}
        for i in there:
            x = np.random.default_rng([version, i]).standard_normal(DIM)
            channel = Channel(Stream(1, Purpose.UPLINK, i, version))
            sender = link.acknowledge(senders[i], *uplinks.acked(ends[i]))
            at_client = 0.0 if sender.vector is None else sender.vector
            np.testing.assert_allclose(at_client, h[i], rtol=0, atol=1e-6)
            base = sender.version
            senders[i], payload = link.send(
                sender, x.astype(np.float32), version, channel
            )
            q[i] = payload.vector.astype(np.float64)
            packet = Packet(1, base, version, dim=DIM, payloads=(payload,), detail=1)
            ends[i].asked += 1
            parts.append(uplinks.check(ends[i], packet, given[i]))
            if not (memory == "mean" and (i in known or not given[i])):
                known[i] = given[i]
        estimate = uplinks.fold(parts, len(clients))
        moved = [i for i in there if i in known]
        if not any(given[i] for i in there):
            assert estimate is None
            for i in moved:
                h[i] = h[i] + 0.25 * q[i]
            continue
        expected = sum(given[i] * q[i] for i in there)
        if memory == "sampled":
            expected = sum(given[i] * (h[i] + q[i]) for i in there)
        expected /= sum(given[i] for i in there)
        if memory != "sampled":
            held = sum(known[i] * h[i] for i in known)
            mean_weight = sum(known.values()) / len(known)
            expected = expected + held / (mean_weight * len(clients))
        np.testing.assert_allclose(estimate, expected, rtol=1e-5, atol=1e-6)
        for i in moved:
            h[i] = h[i] + 0.25 * q[i]


# -- sums do not drift -----------------------------------------------------------------


class Clients:
    """Clients of one uplink that answer with vectors of a given size."""

    def __init__(self, num: int, memory: UplinkMemory = "each") -> None:
        self.link = Memory(StochasticQuantizer(4), rate=0.25)
        self.uplinks = Uplinks(self.link, DIM, memory, VectorStore(DIM, None), None)
        self.ends = {i: self.uplinks.begin(i) for i in range(num)}
        self.senders = dict.fromkeys(range(num), SenderState())
        self.version = 0

    def round(self, weights: dict[int, float], size: dict[int, float]) -> Any:
        """Let those answer that have a weight; return the estimate."""
        self.version += 1
        parts = []
        for i, weight in weights.items():
            x = np.random.default_rng([self.version, i]).standard_normal(DIM)
            x = (x * size.get(i, 1.0)).astype(np.float32)
            channel = Channel(Stream(1, Purpose.UPLINK, i, self.version))
            sender = self.link.acknowledge(
                self.senders[i], *self.uplinks.acked(self.ends[i])
            )
            base = sender.version
            self.senders[i], payload = self.link.send(sender, x, self.version, channel)
            packet = Packet(1, base, self.version, dim=DIM, payloads=(payload,))
            parts.append(self.uplinks.check(self.ends[i], packet, weight))
        return self.uplinks.fold(parts, len(self.ends))

    def forget(self, *identities: int) -> None:
        self.uplinks.memories.forget(identities)
        for i in identities:
            del self.ends[i]

    def check_sum(self) -> None:
        total = np.zeros(DIM)
        for _, end in sorted(self.ends.items()):
            if end.memory.vector is not None:
                total += end.weight * end.memory.vector.astype(np.float64)
        actual = self.uplinks.memories.sum
        if actual is None:
            assert not total.any()
            return
        scale = max(1e-30, float(np.abs(total).max()))
        np.testing.assert_allclose(actual, total, rtol=0, atol=1e-9 * scale)


ALIKE = {0: 1.0, 1: 2.0, 2: 3.0}


def test_a_weight_that_was_huge_once_takes_nobody_elses_with_it() -> None:
    clients = Clients(3)
    clients.round(ALIKE, {})
    clients.round({**ALIKE, 1: 1e18}, {})
    clients.check_sum()
    clients.round(ALIKE, {})
    clients.check_sum()
    weights = [end.weight for end in clients.ends.values()]
    assert weights == [1.0, 2.0, 3.0]
    estimate = clients.round({0: 1.0}, {0: 0.0})
    held = clients.uplinks.memories.sum
    assert held is not None and np.abs(estimate).max() < 10
    clients.round({**ALIKE, 2: 1e18}, {})
    clients.forget(2)
    clients.check_sum()
    clients.round({0: 1.0, 1: 2.0}, {})
    clients.check_sum()


def test_an_update_that_was_huge_once_leaves_nothing_behind() -> None:
    """Its memory decays by 1 - alpha a round; its rounding would stay in the sum."""
    clients = Clients(3)
    clients.round(ALIKE, {1: 1e15})
    for _ in range(160):
        clients.round({1: 2.0}, {})
    assert clients.ends[1].bound < 1e3
    clients.check_sum()


@pytest.mark.parametrize("memory", ["each", "sampled"])
def test_who_is_forgotten_is_in_no_sum(memory: UplinkMemory) -> None:
    clients = Clients(3, memory)
    for _ in range(4):
        clients.round(ALIKE, {})
    clients.forget(0, 2)
    if memory == "each":
        clients.check_sum()
    np.testing.assert_array_equal(clients.uplinks._store.num_bytes_in_ram, 4 * DIM)
    # N, the mean weight and hbar are of the one that is left.
    held = clients.ends[1].memory.vector
    estimate = clients.round({1: 7.0}, {})
    expected = held + clients.senders[1].pending.vector
    np.testing.assert_allclose(estimate, expected, rtol=1e-6, atol=1e-6)
    clients.forget(1)
    assert clients.uplinks.memories.sum is None


def test_of_a_mean_the_forgotten_are_a_known_share_until_an_epoch() -> None:
    clients = Clients(4, "mean")
    for _ in range(4):
        clients.round({0: 1.0, 1: 2.0, 2: 1.0, 3: 2.0}, {})
    before = clients.uplinks.memories.sum
    assert before is not None
    kept = before.copy()
    clients.forget(2)
    clients.forget(3)
    assert clients.uplinks.memories.orphaned_weight == 3.0
    # Nothing is known of h_2 and h_3: hbar stays the mean of all four.
    estimate = clients.round({0: 1.0, 1: 2.0}, {})
    sent = [clients.senders[i].pending.vector for i in (0, 1)]
    expected = (sent[0] + 2 * sent[1]) / 3 + kept / 6
    np.testing.assert_allclose(estimate, expected, rtol=1e-5, atol=1e-6)
    clients.uplinks.memories.begin_epoch()
    assert clients.uplinks.memories.orphaned_weight == 0.0
    assert clients.uplinks.memories.sum is None
    assert clients.uplinks.acked(clients.ends[0]) == (0, 0)
    clients.round({0: 1.0, 1: 2.0}, {})
    step = 0.25 * sum(
        w * clients.senders[i].pending.vector for i, w in ((0, 1), (1, 2))
    )
    np.testing.assert_allclose(clients.uplinks.memories.sum, step, rtol=1e-5, atol=1e-6)
