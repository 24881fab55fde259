"""The estimate under weights that change, against the sums written out."""

from __future__ import annotations

import numpy as np
import pytest

from flower_compress import StochasticQuantizer
from flower_compress.links import Channel, Memory, SenderState
from flower_compress.strategies.server.uplink import UplinkMemory, Uplinks
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
