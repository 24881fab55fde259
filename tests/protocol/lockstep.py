"""A run on a faulty grid, and what must hold of server and clients after each round.

Nothing is believed that the server says of itself: the messages on the wire and the
answers that clients gave are what its ends, and the clients' state, are compared with.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Result
from numpy.typing import NDArray

from flower_compress import CompressionMod
from flower_compress.compressors import (
    DitheredQuantizer,
    Identity,
    PerArray,
    RandK,
    RandomSparsifier,
    RotatedQuantizer,
    ScaledSign,
    StochasticQuantizer,
    TopK,
    Vector,
)
from flower_compress.links import (
    Channel,
    Direct,
    ErrorFeedback,
    Link,
    Memory,
    Payload,
    commit,
    fold,
)
from flower_compress.mods.client_state import ClientState
from flower_compress.strategies import (
    ALGORITHMS,
    MCM,
    Artemis,
    ArtemisND,
    CompressedStrategy,
    Diana,
    DoubleSqueeze,
    RandMCM,
)
from flower_compress.strategies.server.roster import Client
from flower_compress.streams import Purpose, Stream
from flower_compress.testing import FaultPoint, FaultyGrid, InProcessGrid, Schedule
from flower_compress.wire.arrays import read_array, write_array
from flower_compress.wire.contract import Contract
from flower_compress.wire.packet import Packet, find_packet
from tests.protocol.faulty import NO_FAULTS
from tests.protocol.state_files import newest_state

Returns = Literal["gradient", "weights"]
Absurd = Callable[[int, int], bool]
SHAPES = {"conv.weight": (2, 4), "conv.bias": (3,), "scale": ()}
EXACT = ("norm.running_mean", "norm.num_batches_tracked")
QSGD = StochasticQuantizer(levels=2)
BY_ARRAY = PerArray({"scale": Identity()}, QSGD)
SHARED_BY_ARRAY = PerArray({"scale": Identity(), "*.bias": RandK(k=2)}, QSGD)
EVERYONE: dict[str, Any] = {"fraction_train": 1.0, "sampling": "fixed"}


def initial_arrays() -> ArrayRecord:
    """A model of 12 floats in three arrays, and two that are never compressed."""
    rng = np.random.default_rng(5)
    arrays = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in SHAPES.items()
    }
    arrays["scale"] = np.array(0.5)  # float64, to be brought back as float64
    arrays["norm.running_mean"] = np.zeros(2, dtype=np.float32)
    arrays["norm.num_batches_tracked"] = np.array(3, dtype=np.int64)
    return ArrayRecord({name: Array(np.asarray(a)) for name, a in arrays.items()})


class TinyApp:
    """Clients that minimise (w - w_i)^2, each around a point of its own.

    A client that is to train twice in one round does so on other batches.
    """

    def __init__(
        self,
        returns: Returns = "gradient",
        state_dir: Path | None = None,
        absurd: Absurd | None = None,
    ) -> None:
        self.returns, self.state_dir, self.absurd = returns, state_dir, absurd
        self.trained: Counter[tuple[int, int]] = Counter()  # by client and round
        self.evaluated: dict[int, ArrayRecord] = {}
        self.last: dict[int, tuple[ArrayRecord, ArrayRecord]] = {}

    def grid(self, num_clients: int, faults: Schedule = NO_FAULTS) -> TinyGrid:
        """Clients of this app, which raise next to their train function."""
        return TinyGrid(self, num_clients, faults)

    def first_model(self, seed: int) -> ArrayRecord:
        return initial_arrays()

    def train(self, msg: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        server_round = int(msg.content["config"]["server-round"])
        batch = self.trained[client, server_round]
        self.trained[client, server_round] += 1
        is_absurd = self.absurd is not None and self.absurd(client, server_round)
        result = {}
        for name, array in msg.content["arrays"].items():
            w = read_array(array)
            number = w.dtype.type
            if name in EXACT:
                result[name] = w + number(1 + client)
                continue
            gradient = w - number(client + len(name) % 3) + number(0.125 * batch)
            gradient *= number(ABSURD if is_absurd else 1)
            step = w - number(0.2) * gradient
            result[name] = gradient if self.returns == "gradient" else step
        record = ArrayRecord(
            {name: write_array(np.asarray(a)) for name, a in result.items()}
        )
        self.last[client] = msg.content["arrays"], record
        # A client's weight changes from round to round.
        metrics = {"num-examples": 1 + (client + server_round) % 3, "loss": 1.0}
        content = RecordDict({"arrays": record, "metrics": MetricRecord(metrics)})
        return Message(content, reply_to=msg)

    def evaluate(self, msg: Message, context: Context) -> Message:
        self.evaluated[context.node_id] = msg.content["arrays"]
        content = RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": 1})})
        return Message(content, reply_to=msg)


ABSURD = 1e6
"""By what an absurd gradient is too large."""


class TinyGrid(FaultyGrid):
    """Clients of a TinyApp, which no server can bring back to an earlier round.

    Attributes
    ----------
    lives : Counter[int]
        How often each client has lost its state, by its identity.
    on_evaluate : Callable[[Sequence[Message]], None], optional
        Called with the messages of an evaluation before any is delivered.
    evaluation_faults : Schedule, optional
        What goes wrong with evaluations, if it is not what goes wrong otherwise.
    on_answer : Callable[[Message, Message], None], optional
        Called with every message that a client has handled, and its reply.
    """

    def __init__(self, app: TinyApp, num_clients: int, faults: Schedule) -> None:
        self.app = app
        self.lives: Counter[int] = Counter()
        self.on_evaluate: Callable[[Sequence[Message]], None] | None = None
        self.evaluation_faults: Schedule | None = None
        self.on_answer: Callable[[Message, Message], None] | None = None
        point = FaultPoint()
        mod = CompressionMod(
            app.returns, state_dir=app.state_dir, first_model=app.first_model
        )
        client_app = ClientApp(mods=[mod, point])
        client_app.train()(app.train)
        client_app.evaluate()(app.evaluate)
        clients = InProcessGrid(client_app, num_clients, on_message=self._note)
        super().__init__(clients, faults, fault_point=point)

    def __getattr__(self, name: str) -> Any:
        if name in ("save_clients", "load_clients"):
            raise AttributeError(name)
        return super().__getattr__(name)

    def _note(self, message: Message, reply: Message) -> None:
        if self.on_answer is not None:
            self.on_answer(message, reply)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        new = list(messages)
        is_evaluation = bool(new) and new[0].metadata.message_type == "evaluate"
        if not is_evaluation:
            return super().send_and_receive(new, timeout=timeout)
        if self.on_evaluate is not None:
            self.on_evaluate(new)
        before = self.faults
        self.faults = before if (own := self.evaluation_faults) is None else own
        replies = super().send_and_receive(new, timeout=timeout)
        self.faults = before
        return replies

    def restart(self, node_id: int) -> None:
        """Empty a client's context; what it keeps in a file, it keeps."""
        super().restart(node_id)
        if self.app.state_dir is None:
            self.lives[self.identity_of(node_id)] += 1
        else:
            del self.restarted[node_id]

    def identity_of(self, node_id: int) -> int:
        """Return a client's own number."""
        return int(self.contexts[node_id].node_config["partition-id"])

    def state_bytes(self, node_id: int) -> bytes | None:
        """Return what a client remembers."""
        context = self.contexts[node_id]
        if record := context.state.get("flower_compress"):
            return bytes(record["state"])
        if self.app.state_dir is None:
            return None
        return newest_state(self.app.state_dir, self.identity_of(node_id))


@dataclass(frozen=True)
class Case:
    """A strategy, and what its clients return."""

    make: Callable[..., CompressedStrategy]
    returns: Returns = "gradient"

    def strategy(self, **kwargs: Any) -> CompressedStrategy:
        step_size = 0.2 if self.returns == "gradient" else 1.0
        defaults = {
            "step_size": step_size,
            # A schedule may well fail every client for many rounds.
            "max_failed_rounds": 10**6,
            "small_arrays": "compressed",
            "fraction_evaluate": 0.0,
        }
        return self.make(**{**defaults, **kwargs})


def _protocols() -> dict[str, Case]:
    """Return the algorithms, but only one of those that differ in the server's step."""
    protocols: dict[str, Case] = {}
    seen = []
    built = dict(ALGORITHMS)
    # The papers' operator: with the default one nearly all of the error is let go.
    built["double-squeeze"] = partial(DoubleSqueeze, TopK(k=3))
    for name, algorithm in built.items():
        strategy = algorithm()
        kind = (
            strategy.uplink.config(),
            strategy.downlink.config(),
            strategy.downlink_carries,
            strategy.preserved,
            strategy.groups,
        )
        if kind not in seen:
            seen.append(kind)
            protocols[name] = Case(algorithm)
    return protocols


HALF: dict[str, Any] = {"fraction_train": 0.5, "sampling": "bernoulli"}
DENSE: dict[str, Any] = {"small_arrays": "dense"}
CASES: dict[str, Case] = {
    **_protocols(),
    "rand-mcm-g": Case(partial(RandMCM, groups=2)),
    **{
        f"{name}-weights": Case(ALGORITHMS[name], "weights")
        for name in ("sgd", "artemis", "double-squeeze", "mcm", "rand-mcm")
    },
    "diana-mean": Case(partial(Diana, uplink_memory="mean")),
    "diana-sampled": Case(partial(Diana, uplink_memory="sampled")),
    "artemis-half": Case(partial(Artemis, **HALF)),
    "mcm-mean-half": Case(partial(MCM, uplink_memory="mean", **HALF)),
    "rand-mcm-average": Case(partial(RandMCM, memory="average", reset_every=3)),
    "rand-mcm-means-half": Case(
        partial(RandMCM, memory="average", reset_every=4, uplink_memory="mean", **HALF)
    ),
    "rand-mcm-on-disk": Case(partial(RandMCM, memory_budget=0)),
    "rand-mcm-first": Case(
        partial(RandMCM, RandomSparsifier(p=0.5), initial_memory="first")
    ),
    "mcm-topk": Case(partial(MCM, TopK(k=3))),
    "mcm-identity": Case(partial(MCM, Identity())),
    "mcm-down-error-feedback-up": Case(
        partial(CompressedStrategy, ErrorFeedback(TopK(k=3)), Memory(QSGD))
    ),
    "mcm-rand-k": Case(partial(MCM, RandK(fraction=0.5))),
    "rand-mcm-rand-k": Case(partial(RandMCM, RandK(k=2, per="tensor")), "weights"),
    "mcm-begins-with-8-bits": Case(partial(MCM, first_model=8, **HALF)),
    "rand-mcm-begins-with-a-seed": Case(
        partial(RandMCM, first_model="seed"), "weights"
    ),
    "rand-mcm-average-begins-with-4-bits": Case(
        partial(RandMCM, memory="average", reset_every=3, first_model=4)
    ),
    "mcm-by-array-begins-with-a-seed": Case(
        partial(MCM, BY_ARRAY, first_model="seed", **DENSE)
    ),
    "artemis-nd-begins-with-4-bits": Case(partial(ArtemisND, first_model=4)),
    "rand-mcm-rotated": Case(
        partial(RandMCM, RotatedQuantizer(1.0), initial_memory="first")
    ),
    "rand-mcm-g-rotated": Case(
        partial(RandMCM, RotatedQuantizer(1.0, per="tensor"), groups=2)
    ),
    "mcm-by-array": Case(partial(MCM, BY_ARRAY, initial_memory="first")),
    "rand-mcm-by-array-half": Case(
        partial(RandMCM, SHARED_BY_ARRAY, **HALF), "weights"
    ),
    "rand-mcm-average-dense": Case(
        partial(RandMCM, memory="average", reset_every=3, **DENSE)
    ),
    "diana-mean-dense": Case(partial(Diana, uplink_memory="mean", **DENSE)),
    "double-squeeze-by-array": Case(
        partial(
            DoubleSqueeze,
            PerArray({"scale": Identity(), "*.bias": TopK(k=1)}, ScaledSign()),
        )
    ),
    "mcm-per-tensor": Case(
        partial(
            MCM,
            StochasticQuantizer(levels=2, per="tensor"),
            downlink_compressor=DitheredQuantizer(6, subtractive=True, per="tensor"),
        )
    ),
    "private-subtractive-down": Case(
        partial(
            CompressedStrategy,
            ErrorFeedback(RotatedQuantizer()),
            Direct(StochasticQuantizer(6, subtractive=True, per="tensor")),
            groups="client",
        )
    ),
    "rotated-updates-in-groups": Case(
        partial(
            CompressedStrategy,
            ErrorFeedback(ScaledSign(per="tensor")),
            ErrorFeedback(RotatedQuantizer(per="tensor")),
            downlink_carries="update",
            groups=2,
        )
    ),
    "private-direct-down": Case(
        partial(CompressedStrategy, Memory(QSGD), Direct(QSGD), groups="client")
    ),
    "preserved-updates-in-groups": Case(
        partial(
            CompressedStrategy,
            Direct(QSGD),
            ErrorFeedback(TopK(k=3)),
            downlink_carries="update",
            groups=2,
        )
    ),
}

KINDS = {
    *(
        "sgd",
        "diana",
        "spars-ams",
        "artemis-weights",
        "dore",
        "double-squeeze",
        "mcm",
        "rand-mcm-g",
    ),
    *("diana-mean", "diana-sampled", "mcm-mean-half", "rand-mcm-weights"),
    *("rand-mcm-means-half", "rand-mcm-on-disk", "rand-mcm-first"),
    *("rand-mcm-by-array-half", "diana-mean-dense", "rand-mcm-average-dense"),
    "rand-mcm-average-begins-with-4-bits",
    *("mcm-down-error-feedback-up", "rotated-updates-in-groups", "private-direct-down"),
}
"""Every kind of link, of memory and of groups; the other cases mix them once more."""
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
# What an operator makes of an update is nothing to these tests. With every case:
# .venv/bin/python -m pytest -m slow tests/protocol/test_lockstep.py
of_each_kind = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[] if name in KINDS else pytest.mark.slow)
        for name, case in CASES.items()
    ],
)


_on = ClientState.on  # some tests break it


def same(a: Vector | None, b: Vector | None) -> bool:
    """Whether two vectors are equal byte for byte; None is a vector of zeros."""
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype == np.float32 and a.tobytes() == b.tobytes()


class Answer(NamedTuple):
    """What a client has answered, and in which of its lives."""

    packet: Packet
    weight: float
    life: int | None

    @property
    def payload(self) -> Payload:
        return self.packet.payloads[0]


@dataclass
class Lineage:
    """What the server has taken in; a resumed one knows that of its checkpoint."""

    accepted: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Version and CRC-32 of each client's last answer that counted."""
    weights: dict[int, float] = field(default_factory=dict)
    memories: dict[int, Vector] = field(default_factory=dict)
    """h_i, of the current epoch."""
    owners: dict[int, int] = field(default_factory=dict)
    """The node that built it, 0 if two did."""
    anew: set[int] = field(default_factory=set)
    """Clients that were told to start from zero, since another node built it."""
    heard: frozenset[tuple[int, int]] = frozenset()
    """Steps of the averaged downlink memory, by identity and version."""
    to_come: frozenset[tuple[int, int]] = frozenset()
    """Those heard with an evaluation, which it makes with the next training."""
    average: NDArray[np.float64] | None = None
    """Hbar, once a step was made."""
    resets: int = 0
    reset_in: int = 1
    """Number of its resets, and the round of the last one."""
    epoch: int = 0
    orphans: tuple[tuple[float, Vector], ...] = ()
    """Weights and memories of forgotten clients that are in a mean still."""

    def copy(self) -> Lineage:
        return replace(
            self,
            accepted=dict(self.accepted),
            weights=dict(self.weights),
            memories=dict(self.memories),
            owners=dict(self.owners),
            anew=set(self.anew),
        )


class LockStep:
    """Compares, after each round, the server's ends with what the clients stored.

    It follows a run through the deaths of its servers: call :meth:`follow` with each.
    """

    strategy: CompressedStrategy
    memories_may_fail = False
    """Whether the server may be unable to keep what a client is known to hold."""

    def __init__(self, grid: TinyGrid) -> None:
        self.grid = grid
        self.num_compared: Counter[str] = Counter()
        self.num_told: Counter[int] = Counter()  # of a refusal, by identity
        self.num_sessions = 0
        grid.on_train, grid.on_evaluate = self.before_round, self.before_evaluation
        grid.on_answer = self.note_answer

    def follow(self, strategy: CompressedStrategy) -> None:
        """Turn to a server that is about to start."""
        self.strategy, self.is_new = strategy, True
        configure_train = strategy.configure_train

        def configure(*arguments: Any) -> list[Message]:
            messages = list(configure_train(*arguments))
            if not messages:  # Nobody is drawn, and no exchange follows.
                self.before_round([])
                self.note_reset(arguments[0])
            return messages

        strategy.configure_train = configure  # type: ignore[method-assign]

    def begin(self) -> None:
        """Go on where the server does: at its checkpoint, or with nothing."""
        self.is_new, self.taken_in = False, None
        self.known: dict[int, Client] = {}
        self.reborn: set[int] = set()
        self.spoken_to: set[int] = set()
        if self.strategy.resumed_from:
            self.now = self.saved[self.strategy.resumed_from].copy()
            # Who was told of its last payload, and who was not, nobody knows.
            self.delivered: dict[tuple[int, int], NDArray[np.float64]] = {}
            return
        self.num_sessions += 1
        self.now, self.saved = Lineage(), dict[int, Lineage]()
        # By identity and version: what a client receives as that, what it then
        # remembers, the step between, and the round that trains on it.
        self.sent: dict[tuple[int, int], Vector] = {}
        self.remembered: dict[tuple[int, int], Vector] = {}
        self.steps: dict[tuple[int, int], Vector] = {}
        self.sent_in: dict[tuple[int, int], int] = {}
        self.trained_on: dict[int, int] = {}  # by identity: the last such version
        self.num_heard_of = 0
        self.folded: dict[tuple[int, int], Vector | None] = {}  # h_i
        self.answers: dict[tuple[int, int, int], Answer] = {}  # and CRC-32
        # By identity and life, for error feedback: a sum of vectors, and their number.
        self.inputs: dict[tuple[int, int], NDArray[np.float64]] = {}
        self.delivered = {}

    @property
    def dim(self) -> int:
        return self.strategy._running.layout.dim

    @property
    def uplink_rate(self) -> float | None:
        return self.uplink.memory_rate(self.dim)

    @property
    def uplink(self) -> Link:
        """The uplink, its rules by array resolved."""
        return self.strategy._running.composition.uplink

    @property
    def clients(self) -> list[Client]:
        return self.strategy._running.roster.online(self.grid.contexts)

    def downlink_channel(self, identity: int) -> Channel:
        groups = self.strategy.groups
        index = identity if groups == "client" else identity % groups
        stream = Stream(self.strategy.seed, Purpose.DOWNLINK, index)
        sizes = self.strategy._running.layout.sizes
        return self.strategy._running.composition.downlink.channel(stream, sizes)

    def uplink_channel(self, identity: int) -> Channel:
        stream = Stream(self.strategy.seed, Purpose.UPLINK, identity)
        return self.uplink.channel(stream, self.strategy._running.layout.sizes)

    def state_of(self, node_id: int) -> ClientState | None:
        data = self.grid.state_bytes(node_id)
        return None if data is None else ClientState.from_bytes(data)

    # -- on the wire -------------------------------------------------------------------

    def before_round(self, messages: Sequence[Message]) -> None:
        """Check each message, and note what it brings."""
        if self.is_new:
            self.begin()
        gone = self.drop_forgotten()
        # What they had heard with an evaluation counts only where training has ended.
        to_come = self.now.to_come
        self.now.to_come = frozenset(key for key in to_come if key[0] not in gone)
        if (epoch := self.strategy._running.uplinks.memories.epoch) != self.now.epoch:
            assert self.now.orphans, "an epoch between rounds is for those"
            self.begin_epoch()
            assert epoch == self.now.epoch
        self.num_heard_of = len(self.strategy._running.roster)
        for client, packet, _ in self.check_messages(messages, 0):
            before = self.trained_on.get(client.identity, 0)
            assert packet.version > before, "a version is trained on once"
            self.trained_on[client.identity] = packet.version

    def before_evaluation(self, messages: Sequence[Message]) -> None:
        """Check that each message brings what the next training would bring."""
        if self.is_new:
            self.begin()
        self.take_in()
        if self.strategy.evaluate_on != "received":
            return
        for client, packet, is_known in self.check_messages(messages, 1):
            assert packet.version > self.trained_on.get(client.identity, 0)
            assert not (is_known or packet.refused)

    def check_messages(
        self, messages: Sequence[Message], ahead: int
    ) -> Iterable[tuple[Client, Packet, bool]]:
        """Check what all messages with a model have in common.

        Yields each one's client, its packet, and whether its version was sent before.
        """
        by_node = {client.node_id: client for client in self.clients}
        for message in messages:
            client = by_node[message.metadata.dst_node_id]
            packet = Packet.parse(find_packet(message.content)[1])
            packet = packet.on(self.downlink_channel(client.identity))
            server_round = int(message.content["config"]["server-round"]) + ahead
            key = client.identity, packet.version
            is_known = key in self.sent
            assert packet.version == client.downlink.sent
            assert self.sent_in.setdefault(key, server_round) == server_round
            self.spoken_to.add(client.identity)
            self.note_reset(server_round)
            self.check_acknowledgement(client, packet)
            self.check_dense_vectors(client, packet)
            if client.downlink.held == packet.version:
                assert is_known, "it has what it is not sent"
                assert (packet.payloads, packet.snapshot, packet.exact) == (
                    (),
                    None,
                    None,
                ), "nothing is sent twice"
                self.num_compared["spared"] += 1
            else:
                self.note_downlink(client.identity, packet)
            yield client, packet, is_known

    def told(self, identity: int) -> tuple[int, int]:
        """Return what a client shall fold, by version and CRC-32; 0 for nothing."""
        if self.uplink_rate is not None and identity not in self.now.memories:
            return 0, 0
        return self.now.accepted.get(identity, (0, 0))

    def check_acknowledgement(self, client: Client, packet: Packet) -> None:
        i, now, is_lost = client.identity, self.now, packet.contract is not None
        keeps = self.strategy.uplink_memory != "mean"
        memory = now.memories.get(i) if keeps and is_lost else None
        if now.owners.get(i) == client.node_id:
            now.anew.discard(i)
        elif memory is not None and self.strategy.identities != "trusted":
            now.anew.add(i)
        if i in now.anew:
            assert (packet.acked, packet.detail, packet.memory) == (0, 0, None)
            return
        assert (packet.acked, packet.detail) == self.told(i)
        assert same(packet.memory, memory)

    def check_dense_vectors(self, client: Client, packet: Packet) -> None:
        """Whoever needs a dense model gets one; nobody else of a link of its own."""
        strategy, held = self.strategy, client.downlink.held
        assert (packet.contract is not None) is (held is None)
        if strategy._running.downlinks.receiver_rate is None:
            assert packet.snapshot is None
            return
        needed = held is None
        if strategy.downlink_memory == "average" and held is not None:
            needed = self.sent_in[client.identity, held] < self.now.reset_in
        if client.downlink.is_beginning:
            assert needed and packet.snapshot is None and packet.base == 1
            self.num_compared["beginning"] += 1
            return
        if needed:
            assert packet.snapshot is not None
        elif strategy.groups == "client":
            assert packet.snapshot is None
        if strategy.downlink_memory == "average" and needed:
            averaged = strategy._running.downlinks._averaged
            assert averaged is not None
            choices = (averaged.vector, averaged._origin)
            assert any(same(packet.snapshot, each) for each in choices)

    def note_reset(self, server_round: int) -> None:
        """Resets come when they are due, and ahead of it if clients were forgotten."""
        strategy, now = self.strategy, self.now
        averaged = strategy._running.downlinks._averaged
        if averaged is None:
            return
        assert isinstance(strategy.reset_every, int | None)
        every = strategy.reset_every
        due = 0 if every is None else (server_round - 1) // every
        assert averaged.epoch == due + averaged._num_early
        assert not averaged._num_early or self.num_compared["forgotten"]
        if averaged.epoch != now.resets:
            now.resets, now.reset_in = averaged.epoch, server_round

    def note_downlink(self, identity: int, packet: Packet) -> None:
        """Note what the client would hold if it received its message.

        What is sent again is what was sent before.
        """
        key = identity, packet.version
        before = self.sent.get(key)
        self._note_downlink(identity, packet)
        assert before is None or same(before, self.sent[key]), "a version is used once"

    def _note_downlink(self, identity: int, packet: Packet) -> None:
        key = identity, packet.version
        downlinks = self.strategy._running.downlinks
        rate = downlinks.receiver_rate
        if downlinks._shared is not None:
            value = downlinks._shared._groups[downlinks.group(identity)].value
            assert value is not None
            self.sent[key] = value.copy()
            return
        (payload,) = packet.payloads
        if rate is None:
            self.sent[key] = payload.vector.copy()
            return
        memory = packet.snapshot
        if memory is None and packet.contract is not None:
            memory = self.strategy._running.beginning.vector
        if memory is None:
            memory = self.remembered[identity, packet.base]
        self.sent[key] = memory + payload.vector
        self.remembered[key] = fold(memory, payload, rate)
        self.steps[key] = fold(None, payload, rate)

    def note_answer(self, message: Message, reply: Message) -> None:
        """Note an answer that a client gave, whether or not it arrives."""
        found = None if reply.has_error() else find_packet(reply.content)
        packet = None if found is None else Packet.parse(found[1])
        if packet is None or packet.greeting or packet.resync:
            return
        node_id = message.metadata.dst_node_id
        identity = self.grid.identity_of(node_id)
        if packet.session != self.strategy._running.id:
            # A late message of an earlier session took it there.
            self.grid.lives[identity] += 1
            return
        if message.metadata.message_type == "evaluate":
            arrays = self.grid.app.evaluated[node_id]
            vector, _ = self.strategy._running.layout.flatten(arrays)
            assert same(vector, self.sent[identity, packet.version])
            self.num_compared["evaluated"] += 1
            return
        told = Packet.parse(find_packet(message.content)[1])
        self.num_told[identity] += told.refused
        packet = packet.on(self.uplink_channel(identity))
        weight = float(reply.content["metrics"]["num-examples"])
        # None if it has lost its state since.
        state = self.grid.state_bytes(node_id)
        life = None if state is None else self.grid.lives[identity]
        answer = Answer(packet, weight, life)
        self.answers[identity, packet.version, answer.payload.crc] = answer
        if self.is_fed_back and life is not None:
            key = identity, life
            # Told of a refusal, it drops what it has not delivered, told again as well.
            kept = self.delivered if told.refused else self.inputs
            sum_before = kept.get(key, 0.0)
            self.inputs[key] = sum_before + np.append(self.input_of(identity), 1)

    @property
    def is_fed_back(self) -> bool:
        """Whether the uplink keeps all that it has not delivered, and it is counted."""
        link, app = self.strategy.uplink, self.grid.app
        if not isinstance(link, ErrorFeedback) or link.feedback_at(self.dim) != 1.0:
            return False
        return app.state_dir is None and app.absurd is None

    def input_of(self, identity: int) -> Vector:
        """Return what the client has told its mod last."""
        received, returned = self.grid.app.last[identity]
        layout = self.strategy._running.layout
        vector, _ = layout.flatten(returned)
        if self.grid.app.returns == "gradient":
            return vector
        return layout.flatten(received)[0] - vector

    # -- clients that the server has forgotten -----------------------------------------

    def drop_forgotten(self) -> set[int]:
        """Expect of the clients that were forgotten what is expected of new ones."""
        gone = set()
        now, clients = self.now, {c.identity: c for c in self.strategy._running.roster}
        for i in {*now.accepted, *now.memories, *self.known}:
            if i in clients and clients[i] is self.known.get(i, clients[i]):
                continue
            self.num_compared["forgotten"] += 1
            gone.add(i)
            now.accepted.pop(i, None)
            memory, weight = now.memories.pop(i, None), now.weights.pop(i, 0.0)
            if memory is not None and self.strategy.uplink_memory == "mean":
                now.orphans += ((weight, memory),)
            self.grid.lives[i] += 1  # What it remembers counts no more.
            self.reborn.add(i)
        self.known = clients
        return gone

    def begin_epoch(self) -> None:
        self.now.memories.clear()
        self.now.orphans = ()
        self.now.epoch += 1
        self.num_compared["epochs"] += 1

    # -- after a round -----------------------------------------------------------------

    def after_round(self, server_round: int) -> None:
        strategy, now = self.strategy, self.now
        accepted, self.taken_in = self.take_in(), None
        for client in self.clients:
            i, end = client.identity, client.uplink
            if self.uplink_rate is not None and strategy.uplink_memory != "mean":
                assert same(end.memory.vector, now.memories.get(i))
            else:
                assert end.memory.vector is None
            state = self.state_of(client.node_id)
            if state is None:
                assert client.node_id in self.grid.restarted or end.version == 0
                continue
            if state.session != strategy._running.id:
                continue
            state = _on(state, self.downlink_channel(i), self.uplink_channel(i))
            self.compare_downlink(client, state, i in accepted)
            self.compare_uplink(client, state)
            if self.is_fed_back:
                self.compare_error(client, state, i in accepted)
        if not strategy.preserved:
            np.testing.assert_array_equal(
                strategy._running.model, strategy._running.downlinks.degraded_model
            )
        self.note_steps_to_come()
        self.saved[server_round] = now.copy()

    def take_in(self) -> dict[int, Answer]:
        """Do with the answers that counted what the server should have done.

        Once a round, at the end of its training.
        """
        if self.taken_in is None:
            self.taken_in = self._take_in()
            self.check_uplink_sum()
            self.check_average(self.taken_in)
        return self.taken_in

    def _take_in(self) -> dict[int, Answer]:
        self.drop_forgotten()
        now, rate = self.now, self.uplink_rate
        accepted: dict[int, Answer] = {}
        for client in self.clients:
            i, end = client.identity, client.uplink
            version, _ = before = now.accepted.get(i, (0, 0))
            if (end.version, end.crc) != before:
                assert end.version > version, "no answer counts twice"
                answer = accepted[i] = self.answers[i, end.version, end.crc]
                if answer.packet.base == 0:
                    now.anew.discard(i)
                    now.owners[i] = client.node_id
                elif now.owners.get(i) != client.node_id:
                    now.owners[i] = 0
                assert end.version == self.trained_on[i]
        only_mean = self.strategy.uplink_memory == "mean"
        anew = [i for i, answer in accepted.items() if answer.packet.base == 0]
        num_lost = len(now.memories.keys() & set(anew))
        self.num_compared["anew"] += num_lost
        begins_epoch = only_mean and num_lost > 0
        if begins_epoch:
            self.begin_epoch()
        for i, answer in accepted.items():
            key = i, answer.packet.version
            now.accepted[i] = answer.packet.version, answer.payload.crc
            if rate is not None and not begins_epoch:
                memory = None if answer.packet.base == 0 else now.memories[i]
                now.memories[i] = fold(memory, answer.payload, rate)
            self.folded[key] = now.memories.get(i)
            if only_mean:
                now.weights.setdefault(i, answer.weight)
            else:
                now.weights[i] = answer.weight
            account = i, answer.life
            if not self.strategy.resumed_from or account in self.delivered:
                before_it = self.delivered.get(account, 0.0)
                carried = np.append(answer.payload.vector, answer.packet.detail)
                self.delivered[account] = before_it + carried
        return accepted

    def check_uplink_sum(self) -> None:
        """The server's sum is that of all memories, weighted."""
        memory_sum = self.strategy._running.uplinks.memories.sum
        if self.uplink_rate is None or self.strategy.uplink_memory == "sampled":
            assert memory_sum is None
            return
        total, weights = np.zeros(self.dim), self.now.weights
        if self.memories_may_fail:  # Those of the last answers, taken in or not.
            weights = {c.identity: c.uplink.weight for c in self.clients}
        for i, memory in self.now.memories.items():
            total += weights[i] * memory.astype(np.float64)
        for weight, memory in self.now.orphans:
            total += weight * memory.astype(np.float64)
        if memory_sum is None:
            memory_sum = np.zeros(self.dim)
        # Of a mean the server has added up the steps, not the rounded memories.
        tolerance = 1e-5 if self.strategy.uplink_memory == "mean" else 1e-6
        np.testing.assert_allclose(memory_sum, total, rtol=0, atol=tolerance)
        self.num_compared["sum"] += 1

    def check_average(self, accepted: Iterable[int]) -> None:
        """Hbar is the sum of the steps that clients have heard of, each once."""
        strategy, now = self.strategy, self.now
        if strategy.downlink_memory != "average":
            return
        if now.average is None:
            initial, _ = strategy._running.layout.flatten(initial_arrays())
            if strategy._running.beginning.payload is not None:
                initial = strategy._running.beginning.vector
            now.average = initial.astype(np.float64)
        heard = {
            (client.identity, version)
            for client in self.clients
            if (version := accepted_version(client, accepted)) is not None
        }
        for key in sorted((heard | now.to_come) - now.heard):
            step = self.steps[key].astype(np.float64)
            now.average = now.average + step / self.num_heard_of
        now.heard |= heard | now.to_come
        now.to_come = frozenset()
        averaged = strategy._running.downlinks._averaged
        assert averaged is not None
        np.testing.assert_allclose(averaged._mean, now.average, rtol=0, atol=1e-12)
        self.num_compared["average"] += 1

    def note_steps_to_come(self) -> None:
        """Note what clients have heard of with an evaluation."""
        held = {(client.identity, client.downlink.held) for client in self.clients}
        self.now.to_come = frozenset(
            key for key in held - self.now.heard if key in self.steps
        )

    def compare_downlink(
        self, client: Client, state: ClientState, accepted: bool
    ) -> None:
        """Whatever version a client holds, it is what the server has sent as that."""
        rate = Contract.from_bytes(state.contract).downlink_rate
        assert rate == self.strategy._running.downlinks.receiver_rate
        key = client.identity, state.receiver.newest
        value = state.receiver.value(rate)
        if value is None:
            assert rate is None, "a memory is never dropped"
            assert state.sender.newest == state.receiver.newest, "not trained on it"
        else:
            assert same(value, self.sent[key])
        self.num_compared["value"] += 1
        end = client.downlink
        is_evaluated = end.sent > self.trained_on.get(client.identity, 0)
        if self.has_lost_state(client):
            return
        was_kept = end.held == end.sent or self.memories_may_fail
        assert was_kept or not accepted or is_evaluated
        if end.held != end.sent:
            return
        if client.identity not in self.spoken_to:
            # Greeted beside the others, it may hold what a server that is dead has sent
            # after the checkpoint.
            assert state.receiver.newest >= end.sent
            return
        assert state.receiver.newest == end.sent
        self.num_compared["downlink"] += 1
        if self.strategy._running.downlinks._shared is None:
            committed = commit(state.receiver, rate)
            assert same(committed.vector, self.remembered.get(key))
            assert committed.version == end.sender.version or rate is None
            if self.strategy.downlink_memory == "each":
                assert same(end.memory.vector, self.remembered.get(key))

    def compare_uplink(self, client: Client, state: ClientState) -> None:
        """What a client has folded is what the server had folded."""
        i, link = client.identity, self.uplink
        sender = state.sender
        if isinstance(link, Memory) and sender.version and self.uplink_rate is not None:
            assert (i, sender.version) in self.folded, "the server has not folded it"
            assert same(sender.vector, self.folded[i, sender.version])
            self.num_compared["uplink"] += 1
        version, crc = self.told(i)
        following = link.acknowledge(sender, version, crc)
        if sender.is_pending(version) and not sender.is_pending(version, crc):
            # It lost its state between two answers to one message.
            assert self.has_lost_state(client)
            assert following.vector is None or self.uplink_rate is None
            self.num_compared["replaced"] += 1
        if self.has_lost_state(client) or client.downlink.held is None:
            return
        # What the next message will say is understood: the client starts anew only if
        # it has lost its state, or is told to.
        assert version in (0, sender.version, sender.pending_version)
        if self.uplink_rate is not None:
            assert same(following.vector, self.now.memories.get(i))
            self.num_compared["next"] += 1

    def compare_error(self, client: Client, state: ClientState, accepted: bool) -> None:
        """(I3) What was delivered plus the error is the sum, and number, of inputs."""
        i, account = (
            client.identity,
            (client.identity, self.grid.lives[client.identity]),
        )
        following = self.uplink.acknowledge(state.sender, *self.told(i))
        vector = np.zeros(self.dim) if following.vector is None else following.vector
        error = np.append(vector, following.num_inputs)
        inputs = self.inputs.get(account, np.zeros(self.dim + 1))
        if i in self.reborn:
            if accepted:
                self.delivered[account] = inputs - error
                self.reborn.discard(i)
            return
        if self.strategy.resumed_from and account not in self.delivered:
            if accepted:
                self.delivered[account] = inputs - error
            return
        delivered = self.delivered.get(account, 0.0)
        scale = 1e-5 * max(1.0, float(np.abs(inputs).max()))
        np.testing.assert_allclose(delivered + error, inputs, rtol=0, atol=scale)
        self.num_compared["error"] += 1

    def has_lost_state(self, client: Client) -> bool:
        """Whether the client is not the one any more whose answer counted last."""
        if client.identity not in self.now.accepted:
            return self.grid.lives[client.identity] > 0
        answer = self.answers[client.identity, *self.now.accepted[client.identity]]
        return answer.life != self.grid.lives[client.identity]

    def in_step(self) -> set[int]:
        """Clients whose last answer was accepted, and who hold what was sent last."""
        return {
            client.identity
            for client in self.clients
            if client.uplink.version == self.trained_on.get(client.identity)
            and client.downlink.held == client.downlink.sent
            and (state := self.state_of(client.node_id)) is not None
            and state.session == self.strategy._running.id
            and state.receiver.newest == client.downlink.sent
        }


def accepted_version(client: Client, accepted: Iterable[int]) -> int | None:
    """Return the version of the answer that counted, else what the client holds."""
    return (
        client.uplink.version if client.identity in accepted else client.downlink.held
    )


class KilledError(Exception):
    """The server is gone."""


def run(
    strategy: CompressedStrategy,
    grid: TinyGrid,
    num_rounds: int,
    faulty_rounds: int | None = None,
    after_round: Callable[[LockStep, int], None] | None = None,
) -> tuple[Result, LockStep]:
    """Run one session; after `faulty_rounds` all take part, and nothing fails."""
    lock_step = LockStep(grid)
    result = _start(
        lock_step, strategy, num_rounds, faulty_rounds, after_round=after_round
    )
    return result, lock_step


CALM_ROUNDS = 5
"""Rounds without faults after five with them, until all are in step.

A late message may take a client back to an earlier session, even with the first one's
evaluation; and a node whose greetings were lost in rounds 1, 3 and 5 is asked again in
round 9.
"""


def run_with_deaths(
    case: Case,
    grid: TinyGrid,
    faulty_rounds: int,
    deaths: Iterable[int],
    folder: Path,
    checkpoint_every: int = 1,
    **kwargs: Any,
) -> LockStep:
    """Run servers one after the other, each of which goes on from a checkpoint.

    The k-th dies at the end of its ``deaths[k]``-th round, before that is saved, if it
    has not come to the rounds without faults, of which there are CALM_ROUNDS.
    """
    lock_step = LockStep(grid)
    for num_lived in (*deaths, None):
        strategy = case.strategy(
            checkpoint_dir=folder,
            checkpoint_every=checkpoint_every,
            resume=True,
            **kwargs,
        )
        with contextlib.suppress(KilledError):
            num_rounds = faulty_rounds + CALM_ROUNDS
            _start(lock_step, strategy, num_rounds, faulty_rounds, num_lived)
            break
    return lock_step


def _start(
    lock_step: LockStep,
    strategy: CompressedStrategy,
    num_rounds: int,
    faulty_rounds: int | None,
    num_lived: int | None = None,
    after_round: Callable[[LockStep, int], None] | None = None,
) -> Result:
    lock_step.follow(strategy)
    grid = lock_step.grid

    def evaluate(server_round: int, arrays: ArrayRecord) -> None:
        if lock_step.is_new:
            lock_step.begin()  # before the first round, or nobody took part in it
        if server_round > 0:
            lock_step.after_round(server_round)
            if after_round is not None:
                after_round(lock_step, server_round)
        is_calm = faulty_rounds is not None and server_round > faulty_rounds
        if server_round - strategy.resumed_from == num_lived and not is_calm:
            raise KilledError
        if server_round == faulty_rounds:
            grid.faults = NO_FAULTS
            grid.hasten()
            strategy.fraction_train, strategy.sampling = 1.0, "fixed"

    return strategy.start(
        grid, initial_arrays(), num_rounds=num_rounds, evaluate_fn=evaluate
    )
