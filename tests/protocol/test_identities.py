"""Who says that it is another client gets nothing of it, and not its place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from flower_compress.clients import GossipMod
from flower_compress.errors import ConfigurationError
from flower_compress.mods import compression_mod
from flower_compress.strategies import MCM, Diana, MalcomPSGD, RandMCM, compress
from flower_compress.strategies.topology import ring
from flower_compress.testing import FaultyGrid, InProcessGrid, RandomFaults
from flower_compress.testing.messages import GREETING, kind_of
from flower_compress.wire.packet import Packet, find_packet
from tests.protocol.test_relay_nodes import plain_app
from tests.strategies.problem import (
    GAMMA,
    INITIAL,
    NUM_CLIENTS,
    make_app,
    to_record,
    to_vector,
)

VICTIM, THIEF = 1001, 500
ROUNDS = 10


class Fleet(InProcessGrid):
    """Nodes that come and go, and what each is sent but greetings."""

    def __init__(self, app: Any) -> None:
        super().__init__(app, NUM_CLIENTS, on_message=self.note)
        self.sent: dict[int, list[Packet]] = defaultdict(list)
        self.gone: set[int] = set()

    def note(self, msg: Message, reply: Message) -> None:
        found = find_packet(msg.content)
        if found is not None and kind_of(msg) != GREETING:
            self.sent[msg.metadata.dst_node_id].append(Packet.parse(found[1]))

    def get_node_ids(self) -> Iterable[int]:
        return [node_id for node_id in self.contexts if node_id not in self.gone]

    def come(self, node_id: int, identity: int = 0) -> None:
        config: Any = {"partition-id": identity, "num-partitions": NUM_CLIENTS}
        run_config = self.contexts[1002].run_config
        self.contexts[node_id] = Context(1, node_id, config, RecordDict(), run_config)


Plan = dict[int, Callable[[Fleet], None]]


def diana(**kwargs: Any) -> Any:
    return Diana(step_size=GAMMA, fraction_evaluate=0.0, seed=3, **kwargs)


def mcm(**kwargs: Any) -> Any:
    return MCM(step_size=GAMMA, fraction_evaluate=0.0, seed=3, **kwargs)


def wrapped(**kwargs: Any) -> Any:
    return compress(FedAvg(fraction_evaluate=0.0), seed=3, **kwargs)


MAKE = {"diana": diana, "mcm": mcm, "compress": wrapped}


def run(name: str, plan: Plan, **kwargs: Any) -> tuple[Any, Fleet, list[Any], bytes]:
    """Return the strategy, its nodes, h_0 after each round, and the model."""
    grid = Fleet(make_app("weights" if name == "compress" else "gradient"))
    strategy, memories = MAKE[name](**kwargs), []

    def after_round(server_round: int, _: ArrayRecord) -> None:
        clients = {client.identity: client for client in strategy._running.roster}
        memories.append(clients[0].uplink.memory.vector if server_round else None)
        plan.get(server_round, lambda _: None)(grid)

    result = strategy.start(grid, to_record(INITIAL), ROUNDS, evaluate_fn=after_round)
    return strategy, grid, memories, to_vector(result.arrays).tobytes()


def come(grid: Fleet) -> None:
    grid.come(THIEF)


def swap(grid: Fleet) -> None:
    grid.gone.symmetric_difference_update({VICTIM})


@pytest.mark.parametrize("name", sorted(MAKE))
def test_while_the_victim_is_there_nothing_changes_for_anybody(name: str) -> None:
    *_, expected = run(name, {})
    _, grid, _, model = run(name, {3: come})
    assert model == expected
    assert THIEF not in grid.sent, "it is greeted, and that is all"
    assert len(grid.sent[VICTIM]) == ROUNDS
    # If identities are trusted it is believed: this is what is kept from it.
    _, grid, memories, model = run(name, {3: come}, identities="trusted")
    first = grid.sent[THIEF][0]
    assert first.memory is not None and memories[4] is not None
    assert first.memory.tobytes() == memories[4].tobytes()
    assert len(grid.sent[VICTIM]) == 4


@pytest.mark.parametrize("name", sorted(MAKE))
def test_the_place_may_be_taken_and_taken_back_but_no_memory(name: str) -> None:
    """The thief comes, the victim goes, comes back, and then the thief goes."""

    def leave(grid: Fleet) -> None:
        grid.gone.add(THIEF)

    strategy, grid, memories, _ = run(name, {2: come, 4: swap, 6: swap, 8: leave})
    at_thief, at_victim = grid.sent[THIEF], grid.sent[VICTIM]
    assert (len(at_thief), len(at_victim)) == (4, 6)  # rounds 5 to 8; 1 to 4, 9, 10
    for packet in (at_thief[0], at_victim[4]):
        assert packet.contract is not None and packet.memory is None
        assert (packet.acked, packet.detail) == (0, 0), "from zero"
    assert not any(packet.memory is not None for packet in (*at_thief, *at_victim))
    # What there was of the victim is out of the sum, and the other way round.
    ends = [client.uplink for client in strategy._running.roster]
    total = strategy._running.uplinks.memories.sum
    if total is not None:
        expected = sum(end.weight * end.memory.vector.astype(float) for end in ends)
        np.testing.assert_allclose(total, expected, rtol=1e-9, atol=1e-9)
    assert {end.owner for end in ends} == {*range(1001, 1001 + NUM_CLIENTS)}


def test_what_two_nodes_built_belongs_to_neither() -> None:
    """A device keeps its state under another node id, and loses it later."""

    def move(grid: Fleet) -> None:
        grid.come(THIEF)
        grid.contexts[THIEF].state = grid.contexts.pop(VICTIM).state

    def lose(grid: Fleet) -> None:
        grid.contexts[THIEF].state = RecordDict()

    _, grid, _, _ = run("diana", {3: move, 7: lose})
    assert not any(packet.memory is not None for packet in grid.sent[THIEF])
    bases = [(packet.acked, packet.contract is not None) for packet in grid.sent[THIEF]]
    assert bases[0] == (4, False), "it goes on where it was"
    assert (0, True) in bases[1:], "then from zero"


def test_the_node_id_for_an_identity() -> None:
    """Whatever clients say, and as if they had said that."""

    def model(identity: Callable[[Context], int], identities: Any) -> bytes:
        grid = Fleet(make_app(identity=identity))
        strategy = RandMCM(
            step_size=GAMMA, fraction_evaluate=0.5, identities=identities
        )
        result = strategy.start(grid, to_record(INITIAL), 5)
        found = sorted(client.identity for client in strategy._running.roster)
        assert found == sorted(grid.contexts)
        assert all(client.uplink.version for client in strategy._running.roster)
        return to_vector(result.arrays).tobytes()

    own = model(lambda context: context.node_id, "claimed")
    assert model(lambda _: 7, "node") == own


def test_a_client_that_knows_of_no_node_ids_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compression_mod, "_asks_for_node", lambda _: False)
    with pytest.raises(ConfigurationError, match='"node".*answers as 0: update'):
        run("mcm", {}, identities="node")


@pytest.mark.parametrize("identities", ["claimed", "trusted"])
def test_a_resumed_run_whose_node_ids_are_others(
    identities: str, tmp_path: Path
) -> None:
    """As those of a simulation that is started again."""

    def attempt(shift: int, rounds: int) -> Fleet:
        grid = Fleet(make_app())
        for node_id in list(grid.contexts):
            grid.contexts[node_id + shift] = context = grid.contexts.pop(node_id)
            context.node_id = node_id + shift
        strategy = diana(identities=identities, checkpoint_dir=tmp_path, resume=True)
        # A faulty grid cannot bring its clients back.
        faulty = FaultyGrid(grid, RandomFaults(reorder=False))
        strategy.start(faulty, to_record(INITIAL), rounds)
        assert strategy.resumed_from == (3 if rounds > 3 else 0)
        return grid

    attempt(0, 3)
    grid = attempt(70, 5)
    sent = [packets[0].memory is not None for packets in grid.sent.values()]
    assert sent == [identities == "trusted"] * NUM_CLIENTS


def test_a_node_of_a_decentralized_run_keeps_its_number() -> None:
    models = []
    for plan in ({}, {3: come}):
        grid, relay = Fleet(plain_app(GossipMod())), MalcomPSGD(ring(NUM_CLIENTS))

        def after_round(
            number: int, _: Any, grid: Fleet = grid, plan: Plan = plan
        ) -> None:
            plan.get(number, lambda _: None)(grid)

        relay.start(grid, to_record(INITIAL), 6, evaluate_fn=after_round)
        models.append([to_vector(m).tobytes() for m in relay.node_models.values()])
        assert THIEF not in grid.contexts or not grid.contexts[THIEF].state
    assert models[0] == models[1]
