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


@pytest.mark.parametrize("memory", ["each", "mean", "sampled"])
@pytest.mark.parametrize("away", [None, 1])
def test_a_client_counts_with_the_weight_it_has_now(
    memory: UplinkMemory, away: int | None
) -> None:
    """As num-examples may differ from round to round; ``"mean"`` keeps the first."""
    link = Memory(StochasticQuantizer(4), rate=0.25)
    uplinks = Uplinks(link, DIM, memory, VectorStore(DIM, None), None)
    clients = range(3)
    ends = [uplinks.begin() for _ in clients]
    senders = [SenderState() for _ in clients]
    h = [np.zeros(DIM) for _ in clients]
    known: dict[int, float] = {}
    for version, given in enumerate(WEIGHTS, 1):
        there = [i for i in clients if not (i == away and version == 3)]
        parts, q = [], {}
        for i in there:
            x = np.random.default_rng([version, i]).standard_normal(DIM)
            channel = Channel(Stream(1, Purpose.UPLINK, i, version))
            sender = link.acknowledge(senders[i], *uplinks.acked(ends[i]))
            base = sender.version
            senders[i], payload = link.send(
                sender, x.astype(np.float32), version, channel
            )
            q[i] = payload.vector.astype(np.float64)
            packet = Packet(1, base, version, dim=DIM, payloads=(payload,), detail=1)
            ends[i].asked += 1
            parts.append(uplinks.check(ends[i], packet, given[i]))
            known[i] = known[i] if memory == "mean" and i in known else given[i]
        estimate = uplinks.fold(parts, len(clients))
        expected = sum(given[i] * q[i] for i in there)
        if memory == "sampled":
            expected = sum(given[i] * (h[i] + q[i]) for i in there)
        expected /= sum(given[i] for i in there)
        if memory != "sampled":
            held = sum(known[i] * h[i] for i in clients)
            expected = expected + held / sum(known.values())
        np.testing.assert_allclose(estimate, expected, rtol=1e-5, atol=1e-6)
        for i in there:
            h[i] = h[i] + 0.25 * q[i]
