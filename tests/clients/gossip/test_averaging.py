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
OTHERS = ((3, 0.25), (4, 0.25))


@pytest.mark.parametrize("sends", [PEERS, OTHERS], ids=["both-ways", "one-way"])
@pytest.mark.parametrize("present", [{1, 2}, {1}, {2}, set()])
def test_with_edges_that_change_as_much_comes_in_as_leaves(
    present: set[int], sends: tuple[tuple[int, float], ...]
) -> None:
    """An edge of both ways is left out at both; else all are averaged, or none."""
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
        sends=(sends, ((1, 0.5),)),
    )
    generator = np.random.default_rng(0)
    z = generator.standard_normal(DIM).astype(np.float32)
    own, heard = (
        {(0, j): generator.standard_normal(DIM) for j, _ in peers}
        for peers in (sends, PEERS)
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
    if sends == PEERS:
        averaged = [(j, j, w) for j, w in PEERS if j in present]
    else:
        pairs = zip(PEERS, OTHERS, strict=True)
        averaged = [(j, k, w) for (j, w), (k, _) in pairs if len(present) == 2]
    if averaged:
        moved = sum(w * (heard[0, j] - own[0, k]) for j, k, w in averaged)
        expected = (z + 0.5 * moved).astype(np.float32)
    np.testing.assert_allclose(after.vectors["model"], expected, rtol=1e-6)
    assert not after.due
