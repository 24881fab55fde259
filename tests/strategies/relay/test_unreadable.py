"""Letters that cannot be read, that are too many, and nodes that are no nodes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from flower_compress.clients import GossipMod
from flower_compress.clients.gossip.state import GossipState
from flower_compress.errors import ConfigurationError, CorruptPacket
from flower_compress.mods.client_mod import stable_identity
from flower_compress.strategies import DPSGD, CDProxSGT, MalcomPSGD, Relay
from flower_compress.strategies.relay import post_office
from flower_compress.strategies.relay.letters import LETTER_BYTES, check_letters
from flower_compress.strategies.relay.post_office import PostOffice
from flower_compress.strategies.topology import complete, ring, star
from flower_compress.testing import InProcessGrid
from flower_compress.wire.building import with_record
from flower_compress.wire.framing import seal
from flower_compress.wire.mail import (
    EVERYONE,
    Delivery,
    Letter,
    Posting,
    find_mail,
    mail_record,
)
from tests.strategies.problem import DIM, INITIAL, TARGETS, to_record, to_vector

N = 5
BAD = 2
Change = Callable[[int, Posting], Posting]


def garbled(posting: Posting) -> Posting:
    """Return the posting with payloads that nobody can decode."""
    letters = (
        a if a.kind else replace(a, data=b"\xff" * len(a.data)) for a in posting.letters
    )
    return replace(posting, letters=tuple(letters))


def poisoned(posting: Posting) -> Posting:
    """Return the posting with snapshots that hold NaN, and garbled payloads."""
    letters = (
        replace(a, data=b"\xff" * len(a.data)) if a.snapshot else a
        for a in garbled(posting).letters
    )
    return replace(posting, letters=tuple(letters))


class Nodes:
    """Nodes with F_i(x) = ||x - b_i||^2 / 2, of which one's postings are changed."""

    def __init__(self, change: Change | None = None, num_nodes: int = N) -> None:
        self.change = change or (lambda _, posting: posting)
        self.errors: list[int] = []
        app = ClientApp(mods=[self._tamper, GossipMod("gradient")])
        app.train()(self._train)
        self.grid = InProcessGrid(app, num_nodes)

    def _tamper(
        self, msg: Message, context: Context, call_next: ClientAppCallable
    ) -> Message:
        node = stable_identity(context)
        reply = call_next(msg, context)
        if reply.has_error():
            self.errors.append(node)
            return reply
        key, data = find_mail(reply.content) or ("", b"")
        posting = Posting.parse(data)
        if not posting.number:
            return reply
        changed = self.change(node, copy.copy(posting))
        return with_record(reply, key, mail_record(changed.data))

    def _train(self, msg: Message, context: Context) -> Message:
        node = stable_identity(context)
        gradient = to_vector(msg.content["arrays"]) - TARGETS[node % N]
        content = RecordDict({"arrays": to_record(gradient)})
        content["metrics"] = MetricRecord({"loss": 0.0})
        return Message(content, reply_to=msg)

    def state(self, node: int) -> GossipState:
        record: Any = self.grid.contexts[1001 + node].state["flower_compress.gossip"]
        state = GossipState.from_bytes(bytes(record["state"]))
        assert state is not None
        return state


def run(relay: Relay, nodes: Nodes, rounds: int) -> None:
    relay.start(nodes.grid, to_record(INITIAL), rounds)


def assert_in_step(relay: Relay, nodes: Nodes, alone: set[int]) -> None:
    """What each node holds is the weighted sum of its neighbours' own estimates."""
    contracts = relay._running._contracts
    for node in set(range(N)) - alone:
        state = nodes.state(node)
        sources = {j: w for j, w in contracts[node].sources.items() if j not in alone}
        for phase in range(relay.num_phases):
            assert {j for p, j in state.present if p == phase} == set(sources)
            owns = {j: nodes.state(j).own[phase, EVERYONE] for j in sources}
            total = sum(w * owns[j] for j, w in sources.items())
            np.testing.assert_allclose(
                state.heard[phase, EVERYONE], total, rtol=0, atol=1e-9
            )


@pytest.mark.parametrize("topology", [ring(N), complete(N)], ids=["ring", "complete"])
@pytest.mark.parametrize("cls", [MalcomPSGD, CDProxSGT, DPSGD])
def test_one_letter_costs_a_snapshot_and_no_round(cls: Any, topology: Any) -> None:
    """On a complete graph it ended the run; on a ring its neighbours were stuck."""
    nodes = Nodes(
        lambda node, posting: (
            garbled(posting) if (node, posting.number) == (BAD, 5) else posting
        )
    )
    relay = cls(topology, step_size=0.05, max_failed_rounds=1)
    run(relay, nodes, 12)
    assert not nodes.errors
    assert not any(box.cut for box in relay._running.office.boxes)
    if cls is not DPSGD:
        assert_in_step(relay, nodes, set())
    assert not any(nodes.state(node).unreadable for node in range(N))
    assert (relay.edges.total.snapshot_bytes > 0) is (cls is not DPSGD)


@pytest.mark.parametrize(
    ("topology", "spoil"),
    [(ring(N), garbled), (complete(N), poisoned)],
    ids=["ring", "complete"],
)
def test_a_node_that_nobody_can_read_is_set_apart(
    topology: Any,
    spoil: Callable[[Posting], Posting],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The others go on, as on the graph without it, and find their own optimum."""
    nodes = Nodes(lambda node, posting: spoil(posting) if node == BAD else posting)
    relay = MalcomPSGD(topology, step_size=0.1, l1=0.0, max_failed_rounds=1)
    with caplog.at_level(logging.WARNING, "flwr"):
        run(relay, nodes, 50)
    assert not nodes.errors
    office, others = relay._running.office, sorted({*range(N)} - {BAD})
    assert office.is_apart(BAD)
    assert [j for j in others if BAD in office.boxes[j].cut] == sorted(
        relay._running._contracts[BAD].sources
    )
    assert caplog.text.count(f"Node {BAD} is set apart") == 1
    assert_in_step(relay, nodes, {BAD})
    assert sorted(relay.node_models) == others
    mean = np.mean([to_vector(model) for model in relay.node_models.values()], axis=0)
    optimum = TARGETS[others].mean(axis=0)
    assert np.linalg.norm(mean - optimum) < 0.05 * np.linalg.norm(optimum)
    # Once the edge is cut nothing of it travels, and nothing is sent anew.
    dense = relay.edges.total.snapshot_bytes
    assert dense <= 8 * DIM * 3 * 2 * sum(
        len(contract.sources) for contract in relay._running._contracts
    )


def test_who_calls_others_unreadable_cuts_off_itself_alone() -> None:
    def accuse(node: int, posting: Posting) -> Posting:
        if node != BAD:
            return posting
        notices = [Letter(j, posting.number, 0, b"", 0, notice=True) for j in (1, 3)]
        return replace(posting, letters=(*notices, *posting.letters))

    nodes = Nodes(accuse)
    relay = MalcomPSGD(ring(N), step_size=0.05)
    run(relay, nodes, 30)
    office = relay._running.office
    assert [sorted(box.cut) for box in office.boxes] == [[], [2], [1, 3], [2], []]
    assert not any(office.is_apart(node) for node in range(N))
    assert_in_step(relay, nodes, {BAD})
    assert len(relay.node_models) == N


def test_a_cut_edge_survives_a_checkpoint(tmp_path: Any) -> None:
    nodes = Nodes(lambda node, posting: garbled(posting) if node == 0 else posting)
    relays = [
        MalcomPSGD(
            star(N),
            step_size=0.05,
            checkpoint_dir=tmp_path,
            checkpoint_every=10,
            resume=True,
        )
        for _ in range(2)
    ]
    for relay, rounds in zip(relays, (20, 22), strict=True):
        run(relay, nodes, rounds)
        assert relay._running.office.boxes[0].cut == {1, 2, 3, 4}
    assert relays[1].resumed_from == 20
    assert relays[1]._running.office.is_apart(0)


def letter(node: int = EVERYONE, size: int = 2, phase: int = 0, **kind: bool) -> Letter:
    return Letter(node, 7, phase, bytes(size), 0, **kind)


@pytest.mark.parametrize(
    ("letters", "said"),
    [
        ([letter(size=0)] * 20_000, "a payload of 0 bytes"),
        ([letter(size=1)], "a payload of 1 bytes"),
        ([letter(size=1 << 20)], "a payload of 1048576 bytes"),
        ([letter()] * 20_000, "a second letter"),
        ([letter(), letter(1)], "a second letter"),
        ([letter(3)], "none of its neighbours"),
        ([letter(phase=1)], "none of its neighbours"),
        ([replace(letter(), version=6)], "none of its neighbours"),
        ([letter(size=8 * DIM, snapshot=True)] * 2, "a second letter"),
        ([letter(size=8, snapshot=True)], "expected a snapshot"),
        ([letter(1, 0, notice=True)] * 2, "a second letter"),
        ([letter(1, 1, notice=True)], "without data"),
        ([letter(size=0, notice=True)], "none of its neighbours"),
    ],
)
def test_a_posting_has_one_letter_a_target_and_phase(
    letters: list[Letter], said: str
) -> None:
    with pytest.raises(CorruptPacket, match=said):
        check_letters(
            0,
            Posting(1, 7, dim=DIM, letters=tuple(letters)),
            readers=[1, 4],
            sources=[1, 4],
            dim=DIM,
            num_phases=1,
        )


def test_letters_of_a_few_bytes_do_not_fill_a_box_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each counts with what it takes besides its data."""
    monkeypatch.setattr(post_office, "_LEAST_ROOM", 1000)
    office = PostOffice([(1,), (0,)], 2, 1, keeps_estimates=True)
    largest = 0
    for number in range(1, 300):
        office.deliver(0, Delivery(1, number), {0})
        posting = Posting(
            1, number, dim=2, letters=(replace(letter(), version=number),)
        )
        office.check(0, posting)
        office.take_in(0, posting)
        largest = max(largest, len(office.boxes[1].letters))
    assert largest == 2 * 1000 // (LETTER_BYTES + 2)


def test_a_node_that_is_none_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """Six nodes, of which one has a number that a ring of five has not."""
    nodes = Nodes(num_nodes=N + 1)
    relay = MalcomPSGD(ring(N), step_size=0.05)
    with caplog.at_level(logging.WARNING, "flwr"):
        run(relay, nodes, 3)
    assert sorted(relay.node_models) == list(range(N))
    assert "says that it is number 5" in caplog.text
    assert "nodes 0 to 4" in caplog.text
    assert_in_step(relay, nodes, set())
    with pytest.raises(ConfigurationError, match="number 5, and the topology has"):
        for context in nodes.grid.contexts.values():
            number = int(context.node_config["partition-id"])
            context.node_config = {"partition-id": number + 1}
        run(relay, nodes, 3)


def test_letters_survive_their_bytes() -> None:
    sent = Posting(1, 7, dim=2, letters=(letter(1, 0, notice=True), letter()))
    assert Posting.parse(sent.data).letters == sent.letters
    assert [a.kind for a in sent.letters] == [2, 0]
    assert sent.crc == Posting(1, 7, dim=2, letters=(letter(),)).crc
    header, rest = sent.data[:19], bytearray(sent.data[23:])
    rest[9] = 3
    with pytest.raises(CorruptPacket, match="kind 0, 1 or 2, got 3"):
        Posting.parse(seal(header, [bytes(rest)]))
