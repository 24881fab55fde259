"""Bytes in the ledger are the bytes of the arrays in the messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import ArrayRecord, Message

from flower_compress import StochasticQuantizer
from flower_compress.strategies import ALGORITHMS
from flower_compress.testing import InProcessGrid
from flower_compress.wire.packet import Packet, find_packet
from tests.strategies.problem import INITIAL, NUM_CLIENTS, make_app, to_record

ROUNDS = 6
"""Greeting, first models, and clients that were away and catch up."""


class Scales:
    """Weighs every array of every message, without any help from the library."""

    def __init__(self) -> None:
        self.down_bytes = self.up_bytes = self.down_messages = self.up_messages = 0
        self.down_packets: list[bytes] = []
        self.up_packets: list[bytes] = []

    def __call__(self, message: Message, reply: Message) -> None:
        self.down_bytes += weigh(message)
        self.down_messages += 1
        found = find_packet(message.content)
        if found is not None:
            self.down_packets.append(found[1])
        if reply.has_content():
            self.up_bytes += weigh(reply)
            self.up_messages += 1
            found = find_packet(reply.content)
            if found is not None:
                self.up_packets.append(found[1])


def weigh(message: Message) -> int:
    return sum(
        len(array.data)
        for record in message.content.values()
        if isinstance(record, ArrayRecord)
        for array in record.values()
    )


def start(strategy: Any, on_message: Callable[[Message, Message], None]) -> None:
    grid = InProcessGrid(make_app(), NUM_CLIENTS, on_message=on_message)
    strategy.start(grid, to_record(INITIAL), ROUNDS)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
@pytest.mark.parametrize(
    ("fraction", "evaluate_on"), [(0.5, "received"), (1.0, "global"), (0.5, "held")]
)
def test_ledger_equals_the_arrays_in_the_messages(
    name: str, fraction: float, evaluate_on: str
) -> None:
    scales = Scales()
    strategy = ALGORITHMS[name](
        step_size=0.05, fraction_train=fraction, evaluate_on=evaluate_on
    )
    start(strategy, scales)
    assert strategy.ledger.downlink.num_bytes == scales.down_bytes
    assert strategy.ledger.uplink.num_bytes == scales.up_bytes
    assert scales.up_bytes > 0 and scales.down_bytes > 0


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_payload_bits_are_those_of_the_packets(name: str) -> None:
    scales = Scales()
    strategy = ALGORITHMS[name](step_size=0.05, fraction_evaluate=0.0)
    start(strategy, scales)
    contract = strategy._running.contract  # Which arrays have a scale each.
    for traffic, packets, channel in (
        (strategy.ledger.downlink, scales.down_packets, contract.downlink_channel(0)),
        (strategy.ledger.uplink, scales.up_packets, contract.uplink_channel(0)),
    ):
        bits = sum(Packet.parse(data).on(channel).payload_bits for data in packets)
        assert traffic.payload_bits == bits
        assert traffic.messages == len(packets)
        assert traffic.num_bytes == traffic.framing_bytes + bits // 8


def test_held_evaluation_sends_no_arrays() -> None:
    scales = Scales()
    strategy = ALGORITHMS["mcm"](step_size=0.05, evaluate_on="held")
    start(strategy, scales)
    evaluations = scales.down_messages - len(scales.down_packets)
    assert evaluations == ROUNDS * NUM_CLIENTS
    assert scales.down_bytes == sum(map(len, scales.down_packets))


def test_the_first_model_is_a_billed_snapshot() -> None:
    strategy = ALGORITHMS["mcm"](step_size=0.05, fraction_evaluate=0.0)
    start(strategy, Scales())
    assert strategy.ledger.downlink.snapshot_bytes == NUM_CLIENTS * INITIAL.nbytes


def test_mcm_sends_a_tenth_of_the_model_down() -> None:
    """At d = 650 and one level, as in the papers."""
    import numpy as np
    from flwr.app import Array
    from flwr.clientapp import ClientApp

    from flower_compress import CompressionMod

    app = ClientApp(mods=[CompressionMod("gradient")])
    target = np.random.default_rng(1).normal(size=650).astype(np.float32)

    @app.train()
    def train(msg: Message, context: Any) -> Message:
        w = msg.content["arrays"]["w"].numpy()
        record = ArrayRecord({"w": Array(w - target)})
        return Message(type(msg.content)({"arrays": record}), reply_to=msg)

    sent = {}
    for name in ("diana", "mcm"):
        strategy = ALGORITHMS[name](
            compressor=StochasticQuantizer(levels=1),
            step_size=0.02,
            weighted_by_key=None,
            fraction_evaluate=0.0,
        )
        initial = ArrayRecord({"w": Array(np.zeros(650, dtype=np.float32))})
        strategy.start(InProcessGrid(app, 3), initial, 60)
        sent[name] = strategy.ledger.downlink.num_bytes
    assert sent["mcm"] <= sent["diana"] / 10
