"""Every byte is counted once: on its edge, and on its way through Flower."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flower_compress.clients import GossipMod
from flower_compress.links import Payload
from flower_compress.strategies import DPSGD, Relay
from flower_compress.strategies.relay import post_office
from flower_compress.strategies.topology import ring
from flower_compress.testing import InProcessGrid, Schedule
from flower_compress.wire.ledger import EdgeLedger, Ledger
from flower_compress.wire.mail import Posting, find_mail
from tests.protocol.faulty import NO_FAULTS, random_faults
from tests.protocol.relay_wire import (
    ALGORITHMS,
    NodesGrid,
    make_relay,
    on_graphs,
    run,
    weigh,
)
from tests.strategies.problem import DIM, INITIAL, NUM_CLIENTS, to_record

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
MODEL_BITS = 32 * DIM


def weighed_run(
    algorithm: str, topology: str, faults: Schedule, **keywords: Any
) -> tuple[Relay, NodesGrid]:
    grid = NodesGrid(faults)
    relay = make_relay(algorithm, topology, **keywords)
    run(relay, grid, 12, calm_rounds=4)
    return relay, grid


def postings(grid: NodesGrid) -> list[Posting]:
    """Everything that came to the relay, but answers to greetings."""
    mail = [find_mail(m.content) for m in grid.came if m.has_content()]
    found = [Posting.parse(data) for _, data in filter(None, mail)]
    return [posting for posting in found if posting.number]


@on_graphs("algorithm", ALGORITHMS)
@pytest.mark.parametrize("faulty", [False, True])
def test_ledgers_are_what_scales_say(
    algorithm: str, topology: str, faulty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post_office, "_LEAST_ROOM", 0)
    faults = random_faults(3, 0.2) if faulty else NO_FAULTS
    relay, grid = weighed_run(
        algorithm, topology, faults, collect_every=3, evaluate_at_nodes=faulty
    )
    # All arrays of all messages, both ways; what is lost after it was sent, too.
    down, up, collected = (
        relay.ledger.downlink,
        relay.ledger.uplink,
        relay.collections.uplink,
    )
    assert down.num_bytes == grid.down_bytes
    came = [message for message in grid.came if message.has_content()]
    assert up.num_bytes + collected.num_bytes == sum(map(weigh, came))
    assert up.messages + collected.messages == len(came)
    assert relay.collections.downlink.num_bytes == 0

    # Each letter on its edge, each time that it was sent.
    edges: dict[str, Counter[tuple[int, int]]] = {
        name: Counter() for name in ("messages", "bytes", "bits", "dense")
    }
    model_bits = 0
    for node, deliveries in grid.sent.items():
        for delivery in deliveries:
            model_bits += MODEL_BITS * (delivery.model is not None)
            for letter in delivery.letters:
                edge = letter.node, node
                edges["messages"][edge] += 1
                edges["bytes"][edge] += len(letter.data)
                edges["bits"][edge] += letter.num_bits
                edges["dense"][edge] += len(letter.data) * letter.snapshot
    found = relay.edges.edges
    assert {e: t.messages for e, t in found.items()} == edges["messages"]
    assert {e: t.num_bytes for e, t in found.items()} == edges["bytes"]
    assert {e: t.payload_bits for e, t in found.items()} == edges["bits"]
    assert {e: t.snapshot_bytes for e, t in found.items()} == edges["dense"]
    assert relay.edges.total.num_bytes == edges["bytes"].total()
    assert sum(relay.edges.sent_by(i).num_bytes for i in grid.sent) == (
        edges["bytes"].total()
    )

    # What of it is payload, and what of that is dense.
    assert down.payload_bits == edges["bits"].total() + model_bits
    assert down.snapshot_bytes == edges["dense"].total() + model_bits // 8
    letters = [letter for p in postings(grid) for letter in p.letters]
    models = MODEL_BITS * sum(p.model is not None for p in postings(grid))
    dense = sum(len(letter.data) for letter in letters if letter.snapshot)
    bits = sum(letter.num_bits for letter in letters)
    assert up.payload_bits + collected.payload_bits == bits + models
    assert up.snapshot_bytes + collected.snapshot_bytes == dense + models // 8
    if not faulty:
        assert dense == edges["dense"].total() == 0
        assert model_bits == NUM_CLIENTS * MODEL_BITS
        assert collected.payload_bits == models
    elif algorithm != "dpsgd":
        assert dense > 0


@every_algorithm
def test_bits_are_those_of_the_payloads(algorithm: str) -> None:
    relay, grid = weighed_run(algorithm, "ring", NO_FAULTS)
    letters = [letter for p in postings(grid) for letter in p.letters]
    assert len(letters) == 16 * NUM_CLIENTS * relay.num_phases
    for letter in letters:
        assert Payload(letter.data, DIM).num_bits == letter.num_bits
        assert letter.num_bits <= 8 * len(letter.data)


def test_a_collected_model_is_billed_with_its_exact_arrays() -> None:
    app = ClientApp(mods=[GossipMod()])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        content = RecordDict({"arrays": msg.content["arrays"]})
        content["metrics"] = MetricRecord({"num-examples": 1})
        return Message(content, reply_to=msg)

    arrays = {"w": np.ones(4, np.float32), "steps": np.array(7, np.int64)}
    initial = ArrayRecord({name: Array(array) for name, array in arrays.items()})
    relay = DPSGD(ring(3), step_size=0.1, collect_every=1)
    relay.start(InProcessGrid(app, 3), initial, 2)
    collected = relay.collections.uplink
    assert collected.messages == 6
    assert collected.payload_bits == 6 * 8 * (4 * 4 + 8)
    assert collected.snapshot_bytes == 6 * (4 * 4 + 8)


@every_algorithm
def test_rounds_add_up(algorithm: str) -> None:
    grid = NodesGrid()
    relay = make_relay(algorithm, collect_every=None)
    result = relay.start(grid, to_record(INITIAL), 6)
    rows = result.train_metrics_clientapp
    for name, total in (
        ("uplink", relay.ledger.uplink),
        ("downlink", relay.ledger.downlink),
    ):
        per_round = [row[f"{name}-bytes"] for row in rows.values()]
        assert sum(per_round) == total.num_bytes
    # Whatever the last exchange of a round says, the step's own metrics stay.
    assert all(row["train-loss"] == 2.0 for row in rows.values())
    assert all("model-zeros" in row for row in rows.values())
    assert relay.collections == Ledger()
    assert not relay.node_models


def test_edges_survive_json() -> None:
    ledger = EdgeLedger()
    ledger.record(1, 0, 10, 77, 3)
    ledger.record(1, 0, 5, 40)
    ledger.record(0, 1, 7, 50)
    rows = ledger.as_rows()
    assert [row[:2] for row in rows] == [(0, 1), (1, 0)]
    assert EdgeLedger.from_rows(rows) == ledger
    assert ledger.sent_by(1).num_bytes == 15
    assert ledger.total.payload_bits == 167
    assert ledger.total.messages == 3
