"""Nodes that are gone, or refused for ever: the others go on without them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flower_compress.errors import ConfigurationError
from flower_compress.strategies import DPSGD, CDProxSGT, MalcomPSGD, Relay
from flower_compress.strategies.relay.contracts import Agreement
from flower_compress.strategies.relay.departures import Departures
from flower_compress.strategies.relay.post_office import PostOffice
from flower_compress.strategies.topology import Schedule, ring, star
from flower_compress.wire.layout import Layout
from flower_compress.wire.mail import EVERYONE, Delivery, Letter, Posting
from tests.strategies.problem import DIM, INITIAL, TARGETS, to_record, to_vector
from tests.strategies.relay.test_unreadable import N, Nodes, assert_in_step

GONE = 2
OTHERS = [0, 1, 3, 4]
FORGET_AFTER = 6


class Leaving(Nodes):
    """Nodes of which one is away, or posts what is refused, in some rounds."""

    def __init__(self, when: Iterable[int], *, refused: bool = False) -> None:
        super().__init__(self._spoil if refused else None)
        self.when, self.round, self.refused = when, 1, refused
        if not refused:
            nodes = self.grid.get_node_ids
            self.grid.get_node_ids = lambda: [  # type: ignore[method-assign]
                i for i in nodes() if i != 1001 + GONE or self.round not in self.when
            ]

    def _spoil(self, node: int, posting: Posting) -> Posting:
        if node != GONE or self.round not in self.when:
            return posting
        empty = Letter(EVERYONE, posting.number, 0, b"", 0)
        return replace(posting, letters=(empty,) * 20)


def run(relay: Relay, nodes: Leaving, rounds: int, then: Any = None) -> None:
    def evaluate(server_round: int, _: Any) -> None:
        nodes.round = server_round + 1
        if then is not None:
            then(server_round)

    relay.start(nodes.grid, to_record(INITIAL), rounds, evaluate_fn=evaluate)


def error(relay: Relay, nodes: list[int]) -> float:
    """Return how far the collected mean is from the optimum of those, relatively."""
    assert sorted(relay.node_models) == nodes
    mean = np.mean([to_vector(model) for model in relay.node_models.values()], axis=0)
    optimum = TARGETS[nodes].mean(axis=0)
    return float(np.linalg.norm(mean - optimum) / np.linalg.norm(optimum))


def matchings() -> Schedule:
    """A graph that changes, in which both ends of an edge hear each other."""
    ends = [[(0, 1), (2, 3)], [(1, 2), (3, 4)], [(4, 0), (1, 3), (2, 4)]]
    matrices = []
    for pairs in ends:
        W = np.eye(N)
        for i, j in pairs:
            W[i, j] = W[j, i] = 0.3
            W[i, i] -= 0.3
            W[j, j] -= 0.3
        matrices.append(W)
    return Schedule("matchings", tuple(matrices))


@pytest.mark.parametrize(
    ("cls", "topology", "refused"),
    [
        (MalcomPSGD, ring(N), False),
        (CDProxSGT, ring(N), True),
        (DPSGD, ring(N), True),
        (MalcomPSGD, matchings(), True),
    ],
    ids=["away", "two-phases", "no-estimates", "changing-graph"],
)
def test_the_others_find_their_own_optimum(
    cls: Any, topology: Any, refused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = Leaving(range(5, 99), refused=refused)
    relay = (
        cls(topology, step_size=0.2, l1=0.0, forget_after=FORGET_AFTER)
        if (cls is not DPSGD)
        else cls(topology, step_size=0.2, forget_after=FORGET_AFTER)
    )
    with caplog.at_level(logging.WARNING, "flwr"):
        run(relay, nodes, 45)
    assert error(relay, OTHERS) < 0.01
    assert caplog.text.count(f"Node {GONE}: set apart, no step in 6 rounds") == 1
    assert "parts that hear nothing" not in caplog.text
    told = caplog.text.count(f"Node {GONE}: no payload in round")
    assert told == (cls is CDProxSGT), "only trackers sum up what is sent"
    boxes = relay._running.office.boxes
    assert [box.gone for box in boxes] == [node == GONE for node in range(N)]
    assert not boxes[GONE].letters
    assert not any(box.broken or box.rebuild for box in boxes if not box.gone)
    dense, d8 = relay.edges.total.snapshot_bytes, 8 * DIM
    if cls is MalcomPSGD and topology.name == "ring":
        assert_in_step(relay, nodes, {GONE})
        # Of both neighbours each has one neighbour left.
        assert dense == 2 * d8
    elif cls is CDProxSGT:
        assert_in_step(relay, nodes, {GONE})
        assert dense == 2 * d8 * 6  # All six ends that are left, of two vectors.
        # The trackers' mean is the mean of the gradients once more.
        states = [nodes.state(node).vectors for node in OTHERS]
        gap = sum(v["tracker"].astype(float) - v["gradient"] for v in states)
        assert np.abs(gap).max() < 1e-4


def test_without_it_what_is_held_of_a_node_pulls_for_ever() -> None:
    nodes = Leaving(range(5, 99))
    relay = MalcomPSGD(ring(N), step_size=0.2, l1=0.0, forget_after=None)
    run(relay, nodes, 30)
    assert error(relay, OTHERS) > 0.2
    assert relay._running.office.boxes[GONE].missed == 26


@pytest.mark.parametrize("cls", [MalcomPSGD, CDProxSGT])
def test_a_node_that_comes_back_takes_part_again(
    cls: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """With its state, and an edge that was cut for its letters stays so."""
    nodes = Leaving(range(3, 14))
    relay = cls(ring(N), step_size=0.2, l1=0.0, forget_after=FORGET_AFTER)
    with caplog.at_level(logging.WARNING, "flwr"):
        run(relay, nodes, 50)
    assert error(relay, list(range(N))) < 0.01
    assert_in_step(relay, nodes, set())
    assert f"Node {GONE}: there again" in caplog.text
    boxes = relay._running.office.boxes
    assert not any(box.gone or box.broken or box.missed for box in boxes)
    # Both ways over both of its edges, and before that one each for its neighbours.
    num_edges = {MalcomPSGD: 2 + 4, CDProxSGT: 2 * (6 + 10)}[cls]
    assert relay.edges.total.snapshot_bytes == 8 * DIM * num_edges


def test_a_node_that_comes_back_without_its_state() -> None:
    nodes = Leaving(range(3, 14))

    def restart(server_round: int) -> None:
        if server_round == 12:
            nodes.grid.contexts[1001 + GONE].state.clear()

    relay = MalcomPSGD(ring(N), step_size=0.2, l1=0.0, forget_after=FORGET_AFTER)
    run(relay, nodes, 22, restart)
    assert sorted(relay.node_models) == list(range(N))
    assert not any(box.gone or box.broken for box in relay._running.office.boxes)
    assert_in_step(relay, nodes, set())
    assert not nodes.errors


def test_forget_at_once(caplog: pytest.LogCaptureFixture) -> None:
    relay = MalcomPSGD(star(N), step_size=0.2, l1=0.0)
    with pytest.raises(ConfigurationError, match="no run has begun"):
        relay.forget(0)
    nodes, gone = Leaving(()), []

    def forget(server_round: int) -> None:
        gone.append([box.gone for box in relay._running.office.boxes].count(True))
        if server_round == 3:
            relay.forget(0)
            relay.forget(0)
            for wrong in (N, -1, True, "0"):
                with pytest.raises(ConfigurationError, match="from 0 to 4"):
                    relay.forget(wrong)  # type: ignore[arg-type]

    with caplog.at_level(logging.WARNING, "flwr"):
        run(relay, nodes, 8, forget)
    assert caplog.text.count("Node 0: set apart, told to forget it") == 1
    assert "the others are in 4 parts" in caplog.text
    assert gone == [0] * 9, "it has answered in the round after"
    assert_in_step(relay, nodes, set())
    with pytest.raises(ConfigurationError, match="forget_after"):
        MalcomPSGD(ring(N), forget_after=0)


def test_a_resumed_relay_goes_on_byte_for_byte(tmp_path: Path) -> None:
    """It still counts, from round 7 on, and knows in round 14 who is set apart."""

    def make(folder: str) -> Relay:
        return CDProxSGT(
            ring(N),
            step_size=0.1,
            forget_after=FORGET_AFTER,
            checkpoint_dir=tmp_path / folder,
            checkpoint_every=7,
            collect_every=7,
            resume=True,
        )

    whole, nodes, seen = make("whole"), Leaving(range(5, 18)), []
    run(whole, Leaving(range(5, 18)), 21)
    for rounds in (7, 14, 21):
        part = make("parts")
        run(part, nodes, rounds)
        box = part._running.office.boxes[GONE]
        seen.append((part.resumed_from, box.missed, box.gone))
    assert seen == [(0, 3, False), (7, 10, True), (14, 0, False)]
    assert part.edges.total == whole.edges.total
    for node, model in whole.node_models.items():
        found = to_vector(part.node_models[node])
        assert found.tobytes() == to_vector(model).tobytes()


def test_rounds_without_any_step_count_for_nobody() -> None:
    office = PostOffice([(1, 2), (0, 2), (0, 1)], 2, 1, keeps_estimates=True)
    agreement = Agreement(
        ring(3), "choco", {}, MalcomPSGD(ring(3)).compressor, "auto", 1.0, True, 1.0, 0
    )
    contracts = agreement.contracts(Layout.of(to_record(INITIAL)))
    departures = Departures(office, contracts, 2, lambda *_: None)
    idle = {node: Posting(1, 1) for node in range(3)}
    for postings in ({}, idle, {0: Posting(1, 1, resync=True)}, {}):
        departures.note(1, postings)
        departures.end_round()
    assert not any(box.missed for box in office.boxes)
    office.boxes[0].cut.add(1)
    office.boxes[1].cut.add(0)
    step = Posting(1, 1, letters=(Letter(EVERYONE, 1, 0, b"ab", 16),))
    for _ in range(2):
        departures.note(1, {0: idle[0], 1: step, 2: step})
        departures.end_round()
    assert [box.gone for box in office.boxes] == [True, False, False]
    assert not office.wants_snapshot(0, {0, 1, 2})
    assert [box.broken for box in office.boxes] == [set(), set(), {1}]
    departures.note(1, {0: Posting(1, 1, empty=True), 1: step, 2: step})
    departures.end_round()
    assert not office.boxes[0].gone
    # The edge that was cut for its letters stays cut.
    assert [box.broken for box in office.boxes] == [{2}, set(), {0, 1}]
    office.deliver(0, Delivery(1, 1), {0, 1, 2})
