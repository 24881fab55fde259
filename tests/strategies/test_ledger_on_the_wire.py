"""Bytes in the ledger are the bytes of the arrays in the messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from flower_compress import StochasticQuantizer
from flower_compress.strategies import ALGORITHMS, compress
from flower_compress.testing import InProcessGrid
from flower_compress.wire.packet import Packet, find_packet, packet_record
from tests.strategies.problem import (
    INITIAL,
    NUM_CLIENTS,
    make_app,
    to_record,
    to_vector,
)

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
    size = 0
    for record in message.content.values():
        if isinstance(record, ArrayRecord):
            size += sum(len(array.data) for array in record.values())
        elif isinstance(record, ConfigRecord) and "flower_compress/1" in record:
            packet = record["flower_compress/1"]
            assert isinstance(packet, bytes)
            size += len(packet)
    return size


def objects(message: Any) -> int:
    """How many objects Flower itself makes of a message."""
    return len(ids_of(message))


def ids_of(part: Any) -> set[str]:
    children = (part.children or {}).values()
    return {part.object_id}.union(*map(ids_of, children))


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


def test_objects_are_those_that_flower_makes() -> None:
    """Two less of each than with an array, but of the greetings and their answers."""
    down: list[int] = []
    up: list[int] = []

    def count(message: Message, reply: Message) -> None:
        down.append(objects(message))
        up.append(objects(reply))

    strategy = ALGORITHMS["mcm"](step_size=0.05, fraction_evaluate=0.0)
    start(strategy, count)
    # A greeting has a config, and its answer no metrics.
    assert down == [6] * NUM_CLIENTS + [4] * ROUNDS * NUM_CLIENTS
    assert up == [5] * NUM_CLIENTS + [4] * ROUNDS * NUM_CLIENTS
    assert strategy.ledger.downlink.objects == sum(down)
    assert strategy.ledger.uplink.objects == sum(up)


def test_an_older_client_is_sent_arrays_and_answers_with_them() -> None:
    """The model is the same; and it may be one that was put back to that release."""
    app, back_at = make_app(), 0

    def older(msg: Message, context: Context) -> Message:
        plain = isinstance(msg.content["arrays"], ConfigRecord)
        if back_at and plain and int(msg.content["config"]["server-round"]) >= back_at:
            raise ValueError("what is this record?")
        reply = app(msg, context)
        greeting = Packet.parse(find_packet(reply.content)[1])
        if greeting.greeting and not back_at:
            about = json.loads(greeting.contract or b"")
            assert about.pop("plain") is True
            contract = json.dumps(about).encode()
            answer = Packet(greeting.session, contract=contract, greeting=True)
            reply.content["arrays"] = packet_record(answer)
        return reply

    def run(client: Any) -> tuple[bytes, list[str]]:
        seen: list[tuple[str, str]] = []

        def note(message: Message, reply: Message) -> None:
            asked = type(message.content["arrays"]).__name__
            if reply.has_content():
                assert type(reply.content["arrays"]).__name__ == asked
            seen.append(asked)

        grid = InProcessGrid(client, NUM_CLIENTS, on_message=note)
        strategy = ALGORITHMS["mcm"](step_size=0.05, fraction_evaluate=0.0)
        result = strategy.start(grid, to_record(INITIAL), ROUNDS)
        assert seen[:NUM_CLIENTS] == ["ArrayRecord"] * NUM_CLIENTS, "greetings"
        return to_vector(result.arrays).tobytes(), seen[NUM_CLIENTS:]

    new, kinds = run(app)
    assert set(kinds) == {"ConfigRecord"}
    old, kinds = run(older)
    assert old == new and set(kinds) == {"ArrayRecord"}
    back_at = 3
    _, kinds = run(older)
    plain = kinds.count("ConfigRecord")
    assert plain == back_at * NUM_CLIENTS and set(kinds[plain:]) == {"ArrayRecord"}


@pytest.mark.parametrize("make", [ALGORITHMS["mcm"], lambda: compress(FedAvg())])
def test_the_first_config_of_a_message_is_the_strategys(make: Any) -> None:
    """A mod or a dispatcher before ours may look for it, and knows no packets."""
    seen = 0

    def look(message: Message, reply: Message) -> None:
        nonlocal seen
        records = message.content.values()
        first = next(each for each in records if isinstance(each, ConfigRecord))
        assert "flower_compress/1" not in first
        seen += isinstance(message.content["arrays"], ConfigRecord)

    grid = InProcessGrid(make_app("weights"), NUM_CLIENTS, on_message=look)
    make().start(grid, to_record(INITIAL), 2)
    assert seen >= 2 * NUM_CLIENTS


def test_a_long_packet_has_an_array() -> None:
    packet = Packet(1, contract=bytes(5 << 20))
    record = packet_record(packet, plain=True)
    assert isinstance(record, ArrayRecord)
    short = packet_record(Packet(1), plain=True)
    assert isinstance(short, ConfigRecord)
    for each in (record, short):
        found = find_packet(RecordDict({"arrays": each}))
        assert found is not None and found[0] == "arrays"
        assert Packet.parse(found[1]).session == 1


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
