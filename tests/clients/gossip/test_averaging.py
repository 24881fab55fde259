"""Averaging with neighbours: what is not whole is not averaged."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from flower_compress import DitheredQuantizer
from flower_compress.clients.gossip.settle import settle
from flower_compress.clients.gossip.state import GossipState
from flower_compress.wire.gossip_contract import GossipContract
from flower_compress.wire.layout import Layout
from flower_compress.wire.mail import Delivery

DIM = 6
PEERS = ((1, 0.25), (2, 0.25))


@pytest.mark.parametrize("present", [{1, 2}, {1}, {2}, set()])
def test_with_edges_that_change_all_neighbours_are_averaged_or_none(
    present: set[int],
) -> None:
    """What a node sends to both would leave it, and what one sends would come in."""
    layout = Layout.of(ArrayRecord({"w": Array(np.zeros(DIM, np.float32))}))
    contract = GossipContract(
        layout=layout,
        node=0,
        algorithm="choco",
        parameters={},
        compressor=DitheredQuantizer(),
        code="auto",
        rate=1.0,
        residual=True,
        consensus_step=0.5,
        seed=0,
        receives=(PEERS, ((1, 0.5),)),
        sends=(PEERS, ((1, 0.5),)),
    )
    generator = np.random.default_rng(0)
    z = generator.standard_normal(DIM).astype(np.float32)
    own, heard = (
        {(0, j): generator.standard_normal(DIM) for j, _ in PEERS} for _ in range(2)
    )
    state = GossipState(
        1,
        contract.to_bytes(),
        number=3,
        vectors={"model": z},
        own=own,
        heard={key: heard[key] for key in heard if key[1] in present},
        present=frozenset((0, j) for j in present),
        due={0: 1},
    )
    after = settle(state, Delivery(1, 4, round=2, dim=DIM), contract, ("model",))
    expected = z
    if len(present) == len(PEERS):
        moved = sum(w * (heard[0, j] - own[0, j]) for j, w in PEERS)
        expected = (z + 0.5 * moved).astype(np.float32)
    np.testing.assert_allclose(after.vectors["model"], expected, rtol=1e-6)
    assert not after.due
