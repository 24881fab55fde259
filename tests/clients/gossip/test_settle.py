"""Letters that cannot be read, a neighbour's and the node's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from flower_compress import DitheredQuantizer, Identity
from flower_compress.clients.gossip.posting import post
from flower_compress.clients.gossip.settle import settle
from flower_compress.clients.gossip.state import GossipState
from flower_compress.errors import OutOfSyncError
from flower_compress.links import Payload
from flower_compress.wire.gossip_contract import GossipContract
from flower_compress.wire.layout import Layout
from flower_compress.wire.mail import EVERYONE, Delivery, Letter, payload_crc

DIM = 6
PEERS = ((1, 0.25), (2, 0.25))
CONTRACT = GossipContract(
    layout=Layout.of(ArrayRecord({"w": Array(np.zeros(DIM, np.float32))})),
    node=0,
    algorithm="choco",
    parameters={},
    compressor=DitheredQuantizer(),
    code="auto",
    rate=1.0,
    residual=True,
    consensus_step=0.5,
    seed=0,
    receives=(PEERS,),
    sends=(PEERS,),
)
MODEL = np.linspace(0, 1, DIM, dtype=np.float32)


def delivery(number: int, **fields: object) -> Delivery:
    settings = {"round": number, "dim": DIM, **fields}
    return Delivery(1, number, **settings)  # type: ignore[arg-type]


def letter(sender: int, version: int, data: bytes | None = None) -> Letter:
    channel = CONTRACT.channel(sender, EVERYONE, version)
    payload = Payload.encode(MODEL, CONTRACT.compressor, "auto", channel)
    return Letter(sender, version, 0, payload.data if data is None else data, 0)


def begun() -> GossipState:
    first = delivery(1, contract=CONTRACT.to_bytes(), model=MODEL)
    state = GossipState(1, CONTRACT.to_bytes())
    return settle(state, first, CONTRACT, ("model",))


def told(state: GossipState, last: Delivery) -> list[int]:
    posting = post(state, last, CONTRACT)
    return [a.node for a in posting.letters if a.notice]


@pytest.mark.parametrize("data", [b"\xff" * 9, b"", b"\x01\x00" + b"\xff" * 4 * DIM])
def test_what_cannot_be_read_is_confirmed_and_told_until_the_relay_knows(
    data: bytes,
) -> None:
    bad, good = letter(1, 1, data), letter(2, 1)
    second = delivery(2, letters=(bad, good))
    state = settle(begun(), second, CONTRACT, ("model",))
    assert state.received == 2
    assert told(state, second) == [1]
    expected = settle(
        begun(), replace(second, letters=(good,)), CONTRACT, ("model",)
    ).heard[0, EVERYONE]
    assert state.heard[0, EVERYONE].tobytes() == expected.tobytes()
    read = GossipState.from_bytes(state.to_bytes())
    assert read is not None
    # The answer was lost: it is told again, and the letters are not read again.
    third = delivery(3, answered=1, letters=(bad, good, letter(1, 2)))
    again = settle(read, third, CONTRACT, ("model",))
    assert (again.received, told(again, third)) == (3, [1])
    # The relay has heard; or what the node holds is made anew.
    for fourth in (delivery(4, answered=2, first=3), delivery(4, rebuild=True)):
        assert not told(settle(again, fourth, CONTRACT, ("model",)), fourth)


def test_payloads_after_a_snapshot_that_cannot_be_read_are_left_out() -> None:
    nan = np.full(DIM, np.nan).astype("<f8").tobytes()
    snapshot = Letter(1, 2, 0, nan, 0, snapshot=True)
    rebuilt = delivery(2, rebuild=True, letters=(snapshot, letter(1, 2)))
    state = settle(begun(), rebuilt, CONTRACT, ("model",))
    assert told(state, rebuilt) == [1]
    assert not state.present
    assert not state.heard
    # A letter of one of whom nothing is held is another matter.
    with pytest.raises(OutOfSyncError, match="of which this node holds nothing"):
        settle(
            state, delivery(3, first=2, letters=(letter(2, 2),)), CONTRACT, ("model",)
        )


def test_without_estimates_a_letter_less_is_a_neighbour_less() -> None:
    plain = replace(CONTRACT, compressor=Identity())
    letters = (letter(1, 1, b"\xff" * 9), letter(2, 1))
    second = delivery(2, letters=letters)
    state = replace(begun(), due={0: 1}, present=frozenset(), heard={}, own={})
    after = settle(state, second, plain, ("model",))
    only = settle(state, delivery(2, letters=letters[1:]), plain, ("model",))
    assert after.vectors["model"].tobytes() == only.vectors["model"].tobytes()
    assert told(after, second) == [1]


def test_a_node_that_cannot_read_its_own_payload_begins_anew() -> None:
    """It failed every round: the relay has taken in what it cannot fold."""
    own = Letter(EVERYONE, 1, 0, b"\xff" * 9, 0)
    state = replace(begun(), pending=(own,), pending_crc=payload_crc((own,)))
    second = delivery(2, acked=1, crc=state.pending_crc, answered=1)
    with pytest.raises(OutOfSyncError, match="cannot read what it has sent itself"):
        settle(state, second, CONTRACT, ("model",))
