"""A decentralized run on a faulty grid, and what its messages say must hold of it.

Nothing is believed that the relay says of itself: what it sent, what nodes answered and
what they keep is read off the wire and out of their contexts, decoded here, and added
up here.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from flower_compress import (
    DitheredQuantizer,
    Identity,
    RandK,
    StochasticQuantizer,
    TopK,
)
from flower_compress.clients import GossipMod
from flower_compress.clients.gossip.state import GossipState
from flower_compress.compressors import Compressor
from flower_compress.links import Channel, Payload
from flower_compress.mods.client_mod import stable_identity
from flower_compress.strategies import DPSGD, CDProxSGT, ChocoSGD, MalcomPSGD, Relay
from flower_compress.strategies.topology import Schedule as TopologySchedule
from flower_compress.strategies.topology import (
    Topology,
    complete,
    one_peer_exponential,
    ring,
    star,
)
from flower_compress.streams import Purpose, Stream
from flower_compress.testing import FaultPoint, FaultyGrid, InProcessGrid, Schedule
from flower_compress.wire.gossip_contract import GossipContract
from flower_compress.wire.mail import EVERYONE, Delivery, Letter, Posting, find_mail
from tests.protocol.faulty import NO_FAULTS
from tests.protocol.state_files import newest_state
from tests.strategies.problem import (
    DIM,
    INITIAL,
    NUM_CLIENTS,
    gradient,
    to_record,
    to_vector,
)

Estimate = NDArray[np.float64]
Key = tuple[int, int]
SEED = 3
SIZES = (3, 20)
CALM_ROUNDS = 8
"""Rounds without faults after which everybody must have heard everything."""

TOPOLOGIES: dict[str, Topology | TopologySchedule] = {
    "ring": ring(NUM_CLIENTS),
    "complete": complete(NUM_CLIENTS),
    "star": star(NUM_CLIENTS),
    "one-peer-exponential": one_peer_exponential(NUM_CLIENTS),
}
OPERATORS: dict[str, Compressor] = {
    "dithered": DitheredQuantizer(8),
    "top-k": TopK(fraction=0.3),
    "unbiased": StochasticQuantizer(levels=2),
    "rand-k": RandK(k=6),
}
CHANGING = "one-peer-exponential"
"""The graph that is another one in every round."""
ALGORITHMS: dict[str, Callable[..., Relay]] = {
    "malcom": MalcomPSGD,
    "choco": ChocoSGD,
    "cdprox-sgt": CDProxSGT,
    "dpsgd": DPSGD,
}
PHASES = dict.fromkeys(ALGORITHMS, ("model",))
PHASES["cdprox-sgt"] = ("tracker", "model")


def on_graphs(names: str, cases: Iterable[Any]) -> pytest.MarkDecorator:
    """Try each case on the graph that changes and on one that does not, by turns."""
    still = [name for name in TOPOLOGIES if name != CHANGING]
    pairs = [
        (*(case if isinstance(case, tuple) else (case,)), topology)
        for number, case in enumerate(cases)
        for topology in (still[number % len(still)], CHANGING)
    ]
    return pytest.mark.parametrize([*names.split(), "topology"], pairs)


def make_relay(
    algorithm: str = "malcom",
    topology: str | Topology | TopologySchedule = "ring",
    operator: str | Compressor = "dithered",
    **keywords: Any,
) -> Relay:
    """A relay, which no number of failed rounds stops."""
    if isinstance(topology, str):
        topology = TOPOLOGIES[topology]
    if isinstance(operator, str):
        operator = OPERATORS[operator]
    if algorithm == "dpsgd":
        operator = Identity()
    defaults = {
        "step_size": 0.05,
        "consensus_step": 0.4,
        "code": "auto",
        "seed": SEED,
        "max_failed_rounds": 10**6,
    }
    return ALGORITHMS[algorithm](topology, operator, **{**defaults, **keywords})


class NodesGrid(FaultyGrid):
    """Nodes of the noisy quadratic, and everything that was sent and answered.

    Attributes
    ----------
    sent : dict[int, list[Delivery]]
        By node, what the relay has sent, whether or not it arrived.
    answers : dict[tuple[int, int, int], Posting]
        What a node has answered, by node, version and CRC-32, whether or not it
        arrived.
    came : list[Message]
        What the relay has got back.
    steps : Counter[tuple[int, int]]
        How often a node has trained in a round.
    is_away : Callable[[int, int], bool], optional
        Whether a node is away when the relay asks for the n-th time who is there.
    before_train : Callable[[int, int], None], optional
        Called with node and round before each step.
    before_exchange, after_exchange : Callable[[Delivery], None], optional
        Called with the first delivery of an exchange.
    compares : bool
        Whether to compare after each exchange what a node holds of its neighbours with
        what these had of themselves when they sent what it has read.
    draws_anew : bool
        Whether a node that steps twice in a round does so on another batch.
    greets_calmly : bool
        Whether nothing happens to greetings.
    num_compared : int
        How often that was done.
    """

    def __init__(
        self,
        faults: Schedule = NO_FAULTS,
        returns: Literal["weights", "gradient"] = "gradient",
        state_dir: Path | None = None,
        num_nodes: int = NUM_CLIENTS,
    ) -> None:
        self.sent: dict[int, list[Delivery]] = {i: [] for i in range(num_nodes)}
        self.answers: dict[tuple[int, int, int], Posting] = {}
        self.came: list[Message] = []
        self.down_bytes = 0
        self.steps: Counter[tuple[int, int]] = Counter()
        self.num_asked = self.num_compared = 0
        self.compares, self.draws_anew = state_dir is None, True
        self.greets_calmly = True
        # By node: how many letters it has read; of each neighbour the last one, or
        # what it began with. By payload: the sender's estimate of itself with it.
        self._num_read: dict[int, int] = {}
        self._read: dict[int, dict[Key, Letter | Estimate]] = {}
        self._with: dict[tuple[int, Letter], Estimate] = {}
        self.is_away: Callable[[int, int], bool] | None = None
        self.before_train: Callable[[int, int], None] | None = None
        self.before_exchange: Callable[[Delivery], None] | None = None
        self.after_exchange: Callable[[Delivery], None] | None = None
        self.returns, self.state_dir = returns, state_dir
        point = FaultPoint()
        app = ClientApp(mods=[GossipMod(returns, state_dir=state_dir), point])
        app.train()(self._train)
        app.evaluate()(_evaluate)
        nodes = InProcessGrid(app, num_nodes, on_message=self._note)
        super().__init__(nodes, faults, fault_point=point)

    def _train(self, msg: Message, context: Context) -> Message:
        node = stable_identity(context)
        server_round = int(msg.content["config"]["server-round"])
        if self.before_train is not None:
            self.before_train(node, server_round)
        # A node that is to step twice in a round does so on another batch.
        batch = self.steps[node, server_round] if self.draws_anew else 0
        self.steps[node, server_round] += 1
        x = to_vector(msg.content["arrays"])
        result = gradient(node, x, server_round + 1000 * batch)
        if self.returns == "weights":
            result = x - np.float32(0.05) * result
        content = RecordDict({"arrays": to_record(result)})
        content["metrics"] = MetricRecord({"train-loss": float(node)})
        return Message(content, reply_to=msg)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that are there."""
        nodes = list(super().get_node_ids())
        if self.is_away is None:
            return nodes
        self.num_asked += 1
        return [i for i in nodes if not self.is_away(self.num_asked, i - 1001)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Deliver; nobody fails to answer a greeting."""
        messages = list(messages)
        deliveries = [delivery_of(message) for message in messages]
        is_exchange = bool(deliveries and deliveries[0].number)
        if is_exchange and self.before_exchange is not None:
            self.before_exchange(deliveries[0])
        self.down_bytes += sum(weigh(message) for message in messages)
        for message, delivery in zip(messages, deliveries, strict=True):
            if delivery.number:
                self.sent[message.metadata.dst_node_id - 1001].append(delivery)
        with self._calm(self.greets_calmly and not is_exchange):
            replies = list(super().send_and_receive(messages, timeout=timeout))
        self.came += replies
        for node in self.sent:
            self._compare(node)
        if is_exchange and self.after_exchange is not None:
            self.after_exchange(deliveries[0])
        return replies

    @contextlib.contextmanager
    def _calm(self, yes: bool) -> Iterator[None]:
        faults = self.faults
        if yes:
            self.faults = NO_FAULTS
        yield
        self.faults = faults

    def _note(self, message: Message, reply: Message) -> None:
        found = find_mail(reply.content) if reply.has_content() else None
        if found is None:
            return
        posting, delivery = Posting.parse(found[1]), delivery_of(message)
        node = message.metadata.dst_node_id - 1001
        self.answers[node, posting.number, posting.crc] = posting
        data = self.state_bytes(node)
        state = None if data is None else GossipState.from_bytes(data)
        # What a file keeps may be newer than any answer: the call raised after it.
        if state is None or posting.resync or not delivery.number or not self.compares:
            return
        assert state.number == delivery.number
        contract = GossipContract.from_bytes(state.contract)
        if contract.keeps_estimates:
            self._note_letters(node, delivery, contract)
            for letter in state.pending:
                y = state.own[letter.phase, letter.node]
                gained = gain_of(contract, node, letter, letter.node)
                self._with[node, letter] = y + gained

    def _note_letters(
        self, node: int, delivery: Delivery, contract: GossipContract
    ) -> None:
        if delivery.contract is not None or delivery.rebuild:
            self._read[node], self._num_read[node] = {}, delivery.first
        read = self._read[node]
        if delivery.model is not None and not delivery.rebuild:
            last = len(PHASES[contract.algorithm]) - 1
            for phase in range(last + 1):
                start = delivery.model.astype(np.float64)
                if phase < last:
                    start = np.zeros(DIM)
                read |= {(phase, j): start for j in contract.sources}
        for place, letter in enumerate(delivery.letters, delivery.first):
            if place >= self._num_read[node]:
                read[letter.phase, letter.node] = letter
                self._num_read[node] = place + 1

    def _compare(self, node: int) -> None:
        """What a node holds is what its neighbours had when they sent what it read."""
        data = self.state_bytes(node)
        state = None if data is None else GossipState.from_bytes(data)
        if state is None or not self.compares:
            return
        contract = GossipContract.from_bytes(state.contract)
        if not contract.keeps_estimates:
            return
        target = node if contract.per_edge else EVERYONE
        expected: dict[Key, Estimate] = {}
        for (phase, j), last in self._read[node].items():
            if isinstance(last, np.ndarray):
                expected[phase, j] = last
            elif last.snapshot:
                expected[phase, j] = last.estimate(DIM)
            elif (y := self._with.get((j, replace(last, node=target)))) is not None:
                expected[phase, j] = y
        assert state.present == self._read[node].keys()
        if len(expected) < len(state.present):
            return  # One of them has forgotten what it had.
        self.num_compared += 1
        if contract.per_edge:
            for key, y in expected.items():
                assert state.heard[key].tobytes() == y.tobytes()
            return
        for phase in {phase for phase, _ in expected}:
            parts = [
                contract.sources[j] * y for (p, j), y in expected.items() if p == phase
            ]
            assert_sum(state.heard[phase, EVERYONE], parts)

    def state_bytes(self, node: int) -> bytes | None:
        """Return what a node remembers."""
        record = self.contexts[1001 + node].state.get("flower_compress.gossip")
        if record is not None:
            return bytes(record["state"])
        if self.state_dir is None:
            return None
        return newest_state(self.state_dir, node, "node")

    def state(self, node: int) -> GossipState:
        """Return what a node remembers; it has to."""
        data = self.state_bytes(node)
        assert data is not None
        state = GossipState.from_bytes(data)
        assert state is not None
        assert state.to_bytes() == data
        return state

    def acknowledged(self, node: int) -> dict[int, Posting]:
        """Return a node's answers that the relay took in, by version, in order.

        As later deliveries have told the node.
        """
        told = {(d.acked, d.crc) for d in self.sent[node] if d.acked}
        versions = [version for version, _ in told]
        assert len(versions) == len(set(versions)), "two payloads of one version"
        return {v: self.answers[node, v, crc] for v, crc in sorted(told)}


def _evaluate(msg: Message, context: Context) -> Message:
    x = to_vector(msg.content["arrays"])
    metrics = MetricRecord({"norm": float(np.abs(x).sum())})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)


def gain_of(
    contract: GossipContract, sender: int, letter: Letter, target: int
) -> Estimate:
    """Return what an estimate gains by a payload, decoded once more."""
    index = sender if target == EVERYONE else sender | (target + 1) << 32
    stream = Stream(SEED, Purpose.GOSSIP, index, letter.version)
    q = Payload(letter.data, DIM, Channel(stream, SIZES)).vector
    if contract.rate == 1.0:
        return q.astype(np.float64)
    return np.float64(contract.rate) * q.astype(np.float64)


def assert_sum(found: Estimate, parts: list[Estimate]) -> None:
    """Raise unless it is the sum, to the rounding of float64."""
    scale = sum(float(np.abs(part).max()) for part in parts)
    np.testing.assert_allclose(found, sum(parts), rtol=0, atol=1e-12 * scale)


def delivery_of(message: Message) -> Delivery:
    """Return what a message of the relay brings."""
    found = find_mail(message.content)
    assert found is not None
    return Delivery.parse(found[1])


def weigh(message: Message) -> int:
    """Return the bytes of all arrays in a message."""
    return sum(
        len(array.data)
        for record in message.content.values()
        if isinstance(record, ArrayRecord)
        for array in record.values()
    )


def run(
    relay: Relay,
    grid: NodesGrid,
    faulty_rounds: int,
    calm_rounds: int = CALM_ROUNDS,
    after_round: Callable[[int], None] | None = None,
) -> dict[int, NDArray[np.float32]]:
    """Run until all that was late has arrived; return the models by node."""

    def evaluate(server_round: int, arrays: ArrayRecord) -> None:
        if after_round is not None:
            after_round(server_round)
        if server_round == faulty_rounds:
            grid.faults = NO_FAULTS
            grid.hasten()

    relay.start(
        grid,
        to_record(INITIAL),
        num_rounds=faulty_rounds + calm_rounds,
        evaluate_fn=evaluate,
    )
    return {node: to_vector(model) for node, model in relay.node_models.items()}


class KilledError(Exception):
    """The relay is gone."""


def run_with_deaths(
    make: Callable[..., Relay],
    grid: NodesGrid,
    faulty_rounds: int,
    deaths: Iterable[int],
    folder: Path,
    checkpoint_every: int = 1,
) -> Relay:
    """Run relays one after the other, each of which goes on from a checkpoint.

    The k-th dies at the end of its ``deaths[k]``-th round, before that is saved, if it
    has not come to the rounds without faults. Returns the last one.
    """
    for num_lived in (*deaths, None):
        relay = make(
            checkpoint_dir=folder, checkpoint_every=checkpoint_every, resume=True
        )

        def after_round(
            server_round: int, relay: Relay = relay, num_lived: int | None = num_lived
        ) -> None:
            lived = server_round - relay.resumed_from
            if lived == num_lived and server_round <= faulty_rounds:
                raise KilledError

        with contextlib.suppress(KilledError):
            run(relay, grid, faulty_rounds, after_round=after_round)
            break
    return relay


# -- what must hold --------------------------------------------------------------------


@dataclass(frozen=True)
class Graph:
    """Who hears whom, with which weight, and what both agree on."""

    contracts: list[GossipContract]
    num_phases: int

    @classmethod
    def of(cls, grid: NodesGrid, relay: Relay) -> Graph:
        contracts = [
            GossipContract.from_bytes(grid.state(node).contract) for node in grid.sent
        ]
        return cls(contracts, relay.num_phases)

    def start(self, phase: int) -> Estimate:
        """Everybody's first estimate of everybody."""
        if phase == self.num_phases - 1:
            return INITIAL.astype(np.float64)
        return np.zeros(DIM)

    def gain(self, sender: int, letter: Letter, target: int) -> Estimate:
        """What an estimate gains by a payload."""
        return gain_of(self.contracts[sender], sender, letter, target)


def check_folds(grid: NodesGrid, relay: Relay) -> int:
    """Compare estimates, byte by byte, with the fold of the payloads taken in.

    For runs in which nobody restarted and nobody needed a snapshot. Returns how many
    payloads were folded.
    """
    graph = Graph.of(grid, relay)
    taken_in = {node: grid.acknowledged(node) for node in grid.sent}
    check_delivered(grid, graph, taken_in)
    num_folded = 0
    for node, contract in enumerate(graph.contracts):
        state = grid.state(node)
        assert not state.pending, "the last delivery has acknowledged it"
        for phase in range(relay.num_phases):
            for target in contract.targets:
                y = graph.start(phase)
                for posting in taken_in[node].values():
                    for letter in posting.letters:
                        assert not letter.snapshot
                        if (letter.phase, letter.node) == (phase, target):
                            y = y + graph.gain(node, letter, target)
                            num_folded += 1
                assert state.own[phase, target].tobytes() == y.tobytes()
            for key, expected in folds_of_neighbours(graph, taken_in, node, phase):
                assert state.heard[key].tobytes() == expected.tobytes()
        expected_keys = {
            (p, j) for p in range(relay.num_phases) for j in contract.sources
        }
        assert state.present == expected_keys
    return num_folded


def folds_of_neighbours(
    graph: Graph, taken_in: dict[int, dict[int, Posting]], node: int, phase: int
) -> Iterator[tuple[tuple[int, int], Estimate]]:
    """Yield what a node should have kept of its neighbours, in canonical order."""
    contract = graph.contracts[node]
    target = node if contract.per_edge else EVERYONE
    letters = sorted(
        (
            (version, j, letter)
            for j in contract.sources
            for version, posting in taken_in[j].items()
            for letter in posting.letters
            if (letter.phase, letter.node) == (phase, target)
        ),
        key=lambda row: row[:2],
    )
    if contract.per_edge:
        for j in contract.sources:
            y = graph.start(phase)
            for _, sender, letter in letters:
                if sender == j:
                    y = y + graph.gain(sender, letter, target)
            yield (phase, j), y
        return
    s = None
    for weight in contract.sources.values():
        first = weight * graph.start(phase)
        s = first if s is None else s + first
    assert s is not None
    for _, sender, letter in letters:
        s = s + contract.sources[sender] * graph.gain(sender, letter, target)
    yield (phase, EVERYONE), s


def check_delivered(
    grid: NodesGrid, graph: Graph, taken_in: dict[int, dict[int, Posting]]
) -> None:
    """What was taken in was sent to every neighbour, as it is, and nothing else was."""
    for node, contract in enumerate(graph.contracts):
        targets = (EVERYONE, node)
        expected = {
            (j, version, letter.phase): letter.data
            for j in contract.sources
            for version, posting in taken_in[j].items()
            for letter in posting.letters
            if letter.node in targets
        }
        found: dict[int, Letter] = {}
        for delivery in grid.sent[node]:
            for place, letter in enumerate(delivery.letters, delivery.first):
                assert found.setdefault(place, letter) == letter, "numbered once"
        came = {(a.node, a.version, a.phase): a.data for a in found.values()}
        assert len(came) == len(found), "sent once"
        assert came == expected


def check_agreement(grid: NodesGrid, relay: Relay) -> None:
    """What nodes hold of their neighbours is what these hold of themselves.

    Byte for byte where every edge has estimates of its own, else to the rounding of
    sums.
    """
    graph = Graph.of(grid, relay)
    states = [grid.state(node) for node in grid.sent]
    for node, (contract, state) in enumerate(zip(graph.contracts, states, strict=True)):
        phases = range(relay.num_phases)
        assert state.present == {(p, j) for p in phases for j in contract.sources}
        for phase in phases:
            if contract.per_edge:
                for j in contract.sources:
                    own = states[j].own[phase, node]
                    assert state.heard[phase, j].tobytes() == own.tobytes()
                continue
            parts = [
                w * states[j].own[phase, EVERYONE] for j, w in contract.sources.items()
            ]
            assert_sum(state.heard[phase, EVERYONE], parts)


def check_average(grid: NodesGrid, relay: Relay) -> None:
    """The last averaging of a run that keeps no estimates, from the last payloads."""
    graph = Graph.of(grid, relay)
    last = max(d.number for d in grid.sent[0] if d.train)
    z = {}
    for node in grid.sent:
        (found,) = [
            p for (i, v, _), p in grid.answers.items() if (i, v) == (node, last)
        ]
        z[node] = {a.node: graph.gain(node, a, a.node) for a in found.letters}
    rounds = max(d.round for d in grid.sent[0])
    for node, contract in enumerate(graph.contracts):
        peers = contract.receives[(rounds - 1) % len(contract.receives)]
        target = node if contract.per_edge else EVERYONE
        own = next(iter(z[node].values()))
        s, weight = np.zeros(DIM), 0.0
        for j, w in peers:
            s = s + w * z[j][target]
            weight += w
        x = own + contract.consensus_step * (s - weight * own)
        state = grid.state(node)
        assert state.vectors["model"].tobytes() == x.astype(np.float32).tobytes()
        assert not (state.heard or state.own or state.present or state.due)


def check(grid: NodesGrid, relay: Relay) -> None:
    """Check what holds whatever went wrong before."""
    if relay.algorithm == "dpsgd":
        check_average(grid, relay)
    else:
        check_agreement(grid, relay)
    assert not any(box.broken or box.rebuild for box in relay._running.office.boxes)
    assert sorted(relay.node_models) == sorted(grid.sent)
