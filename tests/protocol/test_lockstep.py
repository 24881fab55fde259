"""Server and clients never lose step, whatever fails: the whole protocol, end to end.

Every strategy runs through the real mod on a grid that loses, repeats, delays and
reorders messages and replies, and on which clients raise and restart. After each round
the server's ends are compared with what the clients have stored.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flower_compress import CompressionMod, mods
from flower_compress.client_state import ClientState
from flower_compress.compressors import (
    DitheredQuantizer,
    Identity,
    RandK,
    RandomSparsifier,
    RotatedQuantizer,
    ScaledSign,
    StochasticQuantizer,
    TopK,
    Vector,
)
from flower_compress.contract import Contract
from flower_compress.errors import NonFiniteError
from flower_compress.layout import read_array, write_array
from flower_compress.links import (
    Channel,
    Direct,
    ErrorFeedback,
    Memory,
    SenderState,
    commit,
)
from flower_compress.mods import find_packet
from flower_compress.packet import Packet
from flower_compress.strategies import ALGORITHMS, MCM, CompressedStrategy, RandMCM
from flower_compress.strategies.downlink import DownlinkEnd, Downlinks
from flower_compress.strategies.roster import Client
from flower_compress.strategies.uplink import Contribution, Uplinks
from flower_compress.streams import Purpose, Stream
from flower_compress.testing import (
    Fault,
    FaultPoint,
    FaultyGrid,
    InProcessGrid,
    RandomFaults,
    Schedule,
)
from tests.protocol.faulty import (
    DELAYS,
    DUPLICATES,
    NO_FAULTS,
    RAISES,
    RESTARTS,
    DrawnSchedule,
    PlannedSchedule,
    random_faults,
)

Returns = Literal["gradient", "weights"]
SHAPES = {"conv.weight": (2, 3), "conv.bias": (3,), "scale": (), "head": (1, 2)}
EXACT = ("norm.running_mean", "norm.num_batches_tracked")
QSGD = StochasticQuantizer(levels=2)


def initial_arrays() -> ArrayRecord:
    """A model of 12 floats in four arrays, and two that are never compressed."""
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
    """Clients that minimise (w - w_i)^2, each around a point of its own."""

    def __init__(self, returns: Returns = "gradient") -> None:
        self.returns = returns
        self.trained: Counter[int] = Counter()
        self.evaluated: dict[int, ArrayRecord] = {}

    def grid(self, num_clients: int, faults: Schedule = NO_FAULTS) -> FaultyGrid:
        """Clients of this app, which raise next to their train function."""
        point = FaultPoint()
        app = ClientApp(mods=[CompressionMod(self.returns), point])
        app.train()(self.train)
        app.evaluate()(self.evaluate)
        return FaultyGrid(InProcessGrid(app, num_clients), faults, fault_point=point)

    def train(self, msg: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        self.trained[client] += 1
        server_round = msg.content["config"]["server-round"]
        result = {}
        for name, array in msg.content["arrays"].items():
            w = read_array(array)
            if name in EXACT:
                result[name] = w + w.dtype.type(1 + client)
                continue
            gradient = w - w.dtype.type(client + len(name) % 3)
            step = w - w.dtype.type(0.2) * gradient
            result[name] = gradient if self.returns == "gradient" else step
        record = ArrayRecord(
            {name: write_array(np.asarray(a)) for name, a in result.items()}
        )
        # A client's weight changes from round to round.
        metrics = {"num-examples": 1 + (client + server_round) % 3, "loss": 1.0}
        content = RecordDict({"arrays": record, "metrics": MetricRecord(metrics)})
        return Message(content, reply_to=msg)

    def evaluate(self, msg: Message, context: Context) -> Message:
        self.evaluated[context.node_id] = msg.content["arrays"]
        content = RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": 1})})
        return Message(content, reply_to=msg)


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
            "fraction_evaluate": 0.0,
        }
        return self.make(**{**defaults, **kwargs})


CASES: dict[str, Case] = {
    **{name: Case(algorithm) for name, algorithm in ALGORITHMS.items()},
    "rand-mcm-g": Case(partial(RandMCM, groups=3)),
    **{
        f"{name}-weights": Case(ALGORITHMS[name], "weights")
        for name in ("sgd", "artemis", "double-squeeze", "mcm", "rand-mcm")
    },
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
    "rand-mcm-rotated": Case(
        partial(RandMCM, RotatedQuantizer(1.0), initial_memory="first")
    ),
    "rand-mcm-g-rotated": Case(
        partial(RandMCM, RotatedQuantizer(1.0, per="tensor"), groups=2)
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


@pytest.fixture(autouse=True)
def _quiet_flower() -> Iterator[None]:
    """Flower's log of a thousand rounds takes longer than the rounds."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


_on = ClientState.on
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def same(a: Vector | None, b: Vector | None) -> bool:
    """Whether two vectors are equal byte for byte; None is a vector of zeros."""
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype == np.float32 and a.tobytes() == b.tobytes()


def model_bytes(arrays: ArrayRecord) -> dict[str, tuple[str, bytes]]:
    return {name: (array.dtype, array.data) for name, array in arrays.items()}


def state_of(grid: FaultyGrid, node_id: int) -> ClientState | None:
    record = grid.contexts[node_id].state.get("flower_compress")
    return None if record is None else ClientState.from_bytes(record["state"])


class LockStep:
    """Compares, after each round, the server's ends with what the clients stored."""

    def __init__(self, strategy: CompressedStrategy, grid: FaultyGrid) -> None:
        self.strategy, self.grid = strategy, grid
        self.sent: dict[tuple[int, int], Vector] = {}  # by identity and version
        self.folded: dict[tuple[int, int], Vector | None] = {}  # the server's h_i
        self.acked: dict[int, int] = {}
        self.acked_at: dict[int, int] = {}  # train exchange of the last acceptance
        self.lost_at: dict[int, int] = {}  # train exchange
        self.num_compared: Counter[str] = Counter()
        grid.on_train = self.before_round

    @property
    def clients(self) -> list[Client]:
        return self.strategy._roster.online(self.grid.contexts)

    def downlink_channel(self, identity: int) -> Channel:
        groups = self.strategy.groups
        index = identity if groups == "client" else identity % groups
        stream = Stream(self.strategy.seed, Purpose.DOWNLINK, index)
        return Channel(stream, self.strategy._layout.sizes)

    def uplink_channel(self, identity: int) -> Channel:
        stream = Stream(self.strategy.seed, Purpose.UPLINK, identity)
        return Channel(stream, self.strategy._layout.sizes)

    def before_round(self, messages: Sequence[Message]) -> None:
        """Note what each client would hold if it received its message."""
        strategy = self.strategy
        shared = strategy._downlinks._shared
        by_node = {client.node_id: client for client in self.clients}
        for message in messages:
            client = by_node[message.metadata.dst_node_id]
            packet = Packet.parse(find_packet(message.content)[1])
            packet = packet.on(self.downlink_channel(client.identity))
            assert packet.version == client.downlink.sent
            if shared is not None:
                value = shared[client.identity % len(shared)].value
            else:
                h = strategy._downlinks._memory(client.downlink)
                q = packet.payloads[-1].vector
                in_memory = strategy._downlinks.receiver_rate is not None
                value = h + q if in_memory else q
            key = client.identity, packet.version
            assert key not in self.sent, "a version is used once"
            self.sent[key] = value.copy()

    def after_round(self) -> None:
        strategy, grid = self.strategy, self.grid
        link, num_rounds = strategy.uplink, grid.exchanges["train"]
        total = np.zeros(strategy._layout.dim)
        for client in self.clients:
            end, i = client.uplink, client.identity
            if end.version != self.acked.get(i, 0):
                assert end.version > self.acked.get(i, 0), "no reply counts twice"
                self.acked[i], self.acked_at[i] = end.version, num_rounds
                self.folded[i, end.version] = end.memory.vector
            if end.memory.vector is not None:
                total += end.weight * end.memory.vector.astype(np.float64)
            state = state_of(grid, client.node_id)
            if state is None:
                assert client.node_id in grid.restarted or end.version == 0
                continue
            if state.session != strategy._session:
                # A late message of an earlier session can do that.
                self.lost_at[i] = num_rounds
                continue
            state = _on(state, self.downlink_channel(i), self.uplink_channel(i))
            self.compare_downlink(client, state)
            self.compare_uplink(client, state)
        memory_sum = strategy._uplinks._memory_sum
        if link.memory_rate(strategy._layout.dim) is None:
            assert memory_sum is None
        elif memory_sum is not None:
            np.testing.assert_allclose(memory_sum, total, rtol=0, atol=1e-6)
            self.num_compared["sum"] += 1
        if not strategy.preserved:
            np.testing.assert_array_equal(
                strategy._model, strategy._downlinks.degraded_model
            )

    def compare_downlink(self, client: Client, state: ClientState) -> None:
        """Whatever version a client holds, it is what the server has sent as that."""
        rate = Contract.from_bytes(state.contract).downlink_rate
        assert rate == self.strategy._downlinks.receiver_rate
        newest = state.receiver.newest
        assert same(state.receiver.value(rate), self.sent[client.identity, newest])
        self.num_compared["value"] += 1
        accepted = self.acked_at.get(client.identity) == self.grid.exchanges["train"]
        if not accepted or self.restarted_since_accepted(client):
            return
        end = client.downlink
        assert end.held == end.sent == newest
        self.num_compared["downlink"] += 1
        if self.strategy._downlinks._shared is None:
            committed = commit(state.receiver, rate)
            memory = self.strategy._downlinks._memory(end)
            assert same(committed.vector, memory)
            assert committed.version == end.sender.version or rate is None

    def compare_uplink(self, client: Client, state: ClientState) -> None:
        """What a client has folded is what the server had folded."""
        link = self.strategy.uplink
        rate = link.memory_rate(self.strategy._layout.dim)
        end, sender = client.uplink, state.sender
        if isinstance(link, Memory) and sender.version and rate is not None:
            assert same(sender.vector, self.folded[client.identity, sender.version])
            self.num_compared["uplink"] += 1
        if self.restarted_since_accepted(client):
            return
        # What the next message will say is understood: the client starts anew only if
        # it has lost its state.
        assert end.version in (sender.version, sender.pending_version)
        if rate is not None:
            following = link.acknowledge(sender, end.version, end.crc)
            if sender.is_pending(end.version) and sender.pending.crc != end.crc:
                # It lost its state between two answers to one message.
                assert client.node_id in self.grid.restarted
                assert following.vector is None
                return
            assert following.version == end.version
            assert same(following.vector, end.memory.vector)
            self.num_compared["next"] += 1

    def restarted_since_accepted(self, client: Client) -> bool:
        restarted = self.grid.restarted.get(client.node_id, -1)
        last = max(restarted, self.lost_at.get(client.identity, -1))
        return last >= self.acked_at.get(client.identity, 0)

    def in_step(self) -> set[int]:
        """Clients whose last answer was accepted, and who hold what was sent last."""
        return {
            client.identity
            for client in self.clients
            if client.uplink.version == client.downlink.sent
            and (state := state_of(self.grid, client.node_id)) is not None
            and state.session == self.strategy._session
            and state.receiver.newest == client.downlink.sent
        }


def run(
    strategy: CompressedStrategy,
    grid: FaultyGrid,
    num_rounds: int,
    faulty_rounds: int | None = None,
) -> tuple[Result, LockStep]:
    """Run one session; after `faulty_rounds` nothing fails any more."""
    lock_step = LockStep(strategy, grid)

    def after_round(server_round: int, arrays: ArrayRecord) -> None:
        if server_round > 0:
            lock_step.after_round()
        if server_round == faulty_rounds:
            grid.faults = NO_FAULTS
            grid.hasten()

    result = strategy.start(
        grid, initial_arrays(), num_rounds=num_rounds, evaluate_fn=after_round
    )
    return result, lock_step


# -- under faults ----------------------------------------------------------------------


@every_case
@pytest.mark.parametrize(("seed", "probability"), [(7, 0.03), (2, 0.08), (3, 0.16)])
def test_server_and_clients_stay_in_step(
    case: Case, seed: int, probability: float
) -> None:
    num_clients = 3 + seed % 3
    grid = TinyApp(case.returns).grid(num_clients, random_faults(seed, probability))
    strategy = case.strategy(seed=seed, fraction_evaluate=1.0 if seed == 2 else 0.0)
    result, lock_step = run(strategy, grid, 32, faulty_rounds=30)
    assert set(grid.happened) == set(Fault), "a schedule without some of the faults"
    assert lock_step.in_step() == set(range(num_clients)), "two rounds without faults"
    assert lock_step.num_compared["downlink"] > 10
    assert all(np.isfinite(a.numpy()).all() for a in result.arrays.values())


@pytest.mark.slow
@every_case
def test_a_hundred_schedules_break_no_step(case: Case) -> None:
    for seed in range(100):
        schedule = random_faults(seed, 0.02 + 0.002 * seed)
        grid = TinyApp(case.returns).grid(3, schedule)
        _, lock_step = run(case.strategy(seed=seed), grid, 20, faulty_rounds=18)
        assert lock_step.in_step() == {0, 1, 2}, seed


@every_case
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_schedule_breaks_the_lock_step(case: Case, data: st.DataObject) -> None:
    grid = TinyApp(case.returns).grid(3, DrawnSchedule(data))
    _, lock_step = run(case.strategy(), grid, 14, faulty_rounds=12)
    assert lock_step.in_step() == {0, 1, 2}


@every_case
def test_partial_participation_stays_in_step(case: Case) -> None:
    """Clients that are away catch up, and bring the memory that they left with."""
    grid = TinyApp(case.returns).grid(5, random_faults(4, 0.06))
    strategy = case.strategy(fraction_train=0.4, seed=4)
    _, lock_step = run(strategy, grid, 40, faulty_rounds=20)
    assert lock_step.in_step() == set(range(5))


def test_the_comparisons_are_made() -> None:
    grid = TinyApp().grid(3)
    _, lock_step = run(CASES["rand-mcm"].strategy(), grid, 5)
    assert lock_step.num_compared == {
        "value": 15,
        "downlink": 15,
        "uplink": 12,
        "next": 15,
        "sum": 5,
    }


def test_a_round_without_any_reply_changes_nothing() -> None:
    for case in CASES.values():
        strategy = case.strategy()
        grid = TinyApp(case.returns).grid(3)
        first, _ = run(strategy, grid, 3)
        grid.faults = random_faults(0, 1.0, [Fault.LOSE_REPLY])
        before = model_bytes(first.arrays)
        for server_round in range(4, 8):
            messages = strategy.configure_train(
                server_round, first.arrays, ConfigRecord(), grid
            )
            arrays, _ = strategy.aggregate_train(
                server_round, grid.send_and_receive(messages)
            )
            assert model_bytes(arrays) == before


# -- the rules matter: without one of them, the comparison fails -----------------------


_acknowledge, _fold = Memory.acknowledge, Uplinks.fold
_send, _accept = Downlinks.send, mods.accept


def fold_at_once(
    self: Memory, state: SenderState, version: int, crc: int | None = None
) -> SenderState:
    """The client's estimator advances before the server has it."""
    return _acknowledge(self, state, state.pending_version or version)


def acknowledge_unfolded(
    self: Uplinks, contributions: list[Contribution], num_clients: int
) -> Vector:
    """The server acknowledges what it has not folded."""
    before = {id(part.end): part.end.memory.vector for part in contributions[1:]}
    estimate = _fold(self, contributions, num_clients)
    for part in contributions[1:]:
        part.end.memory.vector = before[id(part.end)]
    return estimate


def assume_delivered(
    self: Downlinks, identity: int, end: DownlinkEnd, model: Vector
) -> Any:
    """The server's downlink moves on before the client says that it heard."""
    if end.sender.pending is not None:
        self.acknowledge(identity, end, end.sender.pending_version)
    return _send(self, identity, end, model)


def take_the_newest_only(state: Any, **kwargs: Any) -> Any:
    """The client skips the payloads that it has missed."""
    payloads, version = kwargs["payloads"], kwargs["version"]
    if kwargs["snapshot"] is None and len(payloads) > 1:
        state = replace(commit(state, kwargs["rate"]), version=version - 1)
        kwargs.update(base=version - 1, payloads=payloads[-1:])
    return _accept(state, **kwargs)


def accept_anything(state: Any, **kwargs: Any) -> Any:
    """The client takes a payload for the next one of what it happens to hold."""
    kwargs["base"] = state.newest if kwargs["snapshot"] is None else kwargs["base"]
    return _accept(state, **{**kwargs, "final": False})


def one_draw_for_all(self: Contract, identity: int) -> Channel:
    """Both ends take the first client's stream for everyone's."""
    return Channel(Stream(self.seed, Purpose.DOWNLINK, 0), self.layout.sizes)


def one_version_late(self: Packet, channel: Channel) -> Packet:
    """The receiver takes the stream of the version before."""
    payloads = tuple(p.on(channel.at(self.version - 1)) for p in self.payloads)
    return replace(self, payloads=payloads)


def forget_the_channels(self: ClientState, down: Channel, up: Channel) -> ClientState:
    """What was pending cannot be decoded again."""
    return self


@pytest.mark.parametrize(
    ("target", "name", "broken", "algorithm", "faults"),
    [
        (Memory, "acknowledge", fold_at_once, "diana", [Fault.LOSE_REPLY]),
        (Memory, "acknowledge", fold_at_once, "mcm", [Fault.LOSE_REPLY]),
        (Uplinks, "fold", acknowledge_unfolded, "diana", []),
        (Downlinks, "send", assume_delivered, "rand-mcm", [Fault.LOSE_MESSAGE]),
        (mods, "accept", accept_anything, "rand-mcm", [Fault.LOSE_REPLY]),
        (mods, "accept", take_the_newest_only, "dore", [Fault.LOSE_MESSAGE]),
        (mods, "accept", take_the_newest_only, "mcm", [Fault.LOSE_MESSAGE]),
        (Contract, "downlink_channel", one_draw_for_all, "rand-mcm-rotated", []),
        (Contract, "downlink_channel", one_draw_for_all, "rand-mcm-g-rotated", []),
        (Packet, "on", one_version_late, "rand-mcm-rotated", []),
        (Packet, "on", one_version_late, "mcm-rand-k", []),
        (ClientState, "on", forget_the_channels, "rand-mcm-rotated", []),
    ],
)
def test_a_broken_rule_is_caught(
    monkeypatch: pytest.MonkeyPatch,
    target: Any,
    name: str,
    broken: Callable[..., Any],
    algorithm: str,
    faults: list[Fault],
) -> None:
    def attempt() -> None:
        grid = TinyApp().grid(3, random_faults(1, 0.3, faults))
        _, lock_step = run(CASES[algorithm].strategy(), grid, 12, faulty_rounds=10)
        assert lock_step.in_step() == {0, 1, 2}

    attempt()
    monkeypatch.setattr(target, name, broken)
    with pytest.raises(AssertionError):
        attempt()


@every_case
@pytest.mark.parametrize("keeps_state", [True, False])
def test_a_client_may_come_back_as_another_node(case: Case, keeps_state: bool) -> None:
    grid = TinyApp(case.returns).grid(3)
    strategy = case.strategy()
    lock_step = LockStep(strategy, grid)

    def after_round(server_round: int, arrays: ArrayRecord) -> None:
        if server_round > 0:
            lock_step.after_round()
            assert lock_step.in_step() == {0, 1, 2}
        if server_round == 3:
            if not keeps_state:
                grid.restart(1002)
            grid.rename(1002, 77)

    strategy.start(grid, initial_arrays(), num_rounds=6, evaluate_fn=after_round)
    assert num_snapshots(strategy) == (
        first_snapshots(strategy, 3) + (0 if keeps_state else dense_vectors(strategy))
    )


# -- what it costs ---------------------------------------------------------------------


def num_snapshots(strategy: CompressedStrategy) -> int:
    """Dense vectors that were sent down."""
    return strategy.ledger.downlink.snapshot_bytes // (4 * strategy._layout.dim)


def first_snapshots(strategy: CompressedStrategy, num_clients: int) -> int:
    """Dense vectors that new clients need: the model, if they remember one."""
    return 0 if strategy._downlinks.receiver_rate is None else num_clients


def dense_vectors(strategy: CompressedStrategy) -> int:
    """What a client needs that has lost its state: the model, its uplink memory."""
    remembers = strategy.uplink.memory_rate(strategy._layout.dim) is not None
    return first_snapshots(strategy, 1) + remembers


@every_case
def test_a_restart_costs_one_snapshot_of_each_link(case: Case) -> None:
    grid = TinyApp(case.returns).grid(4, random_faults(6, 0.05, RESTARTS))
    strategy = case.strategy()
    run(strategy, grid, 20, faulty_rounds=18)
    restarts = sum(grid.happened[fault] for fault in RESTARTS)
    assert restarts > 3
    most = first_snapshots(strategy, 4) + restarts * dense_vectors(strategy)
    # Two restarts within one round are mended together.
    assert most - 4 * dense_vectors(strategy) <= num_snapshots(strategy) <= most


@every_case
def test_a_late_call_for_help_costs_no_second_snapshot(case: Case) -> None:
    """A client calls for help in rounds 4 and 5; the first call comes in round 7."""
    plan = {(4, 0): [Fault.RESTART_BEFORE, Fault.DELAY_REPLY]}
    grid = TinyApp(case.returns).grid(2, PlannedSchedule(plan, delays=3))
    strategy = case.strategy()
    run(strategy, grid, 10)
    assert grid.happened.keys() == {Fault.RESTART_BEFORE, Fault.DELAY_REPLY}
    assert num_snapshots(strategy) == (
        first_snapshots(strategy, 2) + dense_vectors(strategy)
    )


def test_a_late_answer_to_a_greeting_costs_no_second_snapshot() -> None:
    """Client 0 answers twice, the second time beside the late answer of client 1."""
    plan = {(0, 0): [Fault.DUPLICATE_REPLY], (0, 1): [Fault.LOSE_MESSAGE]}
    grid = TinyApp().grid(3, PlannedSchedule(plan))
    strategy = CASES["mcm"].strategy()
    _, lock_step = run(strategy, grid, 8)
    assert grid.exchanges["greeting"] == 2
    assert lock_step.in_step() == {0, 1, 2}
    snapshots = strategy.ledger.downlink.snapshot_bytes / (4 * strategy._layout.dim)
    assert snapshots == 3


def test_statistics_that_are_not_finite_are_refused() -> None:
    arrays = initial_arrays()
    poison = np.array([1.0, np.nan], dtype=np.float32)
    arrays["norm.running_mean"] = Array(poison)
    grid = TinyApp().grid(3)
    with pytest.raises(NonFiniteError, match="initial model: 1 of 2.*running_mean"):
        CASES["mcm"].strategy().start(grid, arrays, num_rounds=1)


# -- a seed fixes the run --------------------------------------------------------------


def outcome(
    case: Case,
    faults: Schedule = NO_FAULTS,
    node_ids: Sequence[int] = (),
    **kwargs: Any,
) -> tuple[object, ...]:
    """What a run ends with. The sum is float64, so the order of its terms shows."""
    grid = TinyApp(case.returns).grid(5, faults)
    for old_id, new_id in zip(list(grid.get_node_ids()), node_ids, strict=False):
        grid.rename(old_id, new_id)
    strategy = case.strategy(seed=11, **kwargs)
    result, _ = run(strategy, grid, 10)
    memory_sum = strategy._uplinks._memory_sum
    return (
        model_bytes(result.arrays),
        None if memory_sum is None else memory_sum.tobytes(),
    )


@every_case
@pytest.mark.parametrize(("fraction", "seeds"), [(1.0, [0]), (0.4, [1, 2])])
def test_neither_order_nor_node_ids_nor_duplicates_change_the_result(
    case: Case, fraction: float, seeds: list[int]
) -> None:
    expected = outcome(case, fraction_train=fraction)
    shuffled = RandomFaults(seed=1)
    node_ids = [90001, 17, 2**40, 444, 3]
    assert outcome(case, shuffled, node_ids, fraction_train=fraction) == expected
    for seed in seeds:
        # Everything comes twice, the second time up to three rounds late.
        twice = random_faults(seed, 1.0, DUPLICATES)
        assert outcome(case, twice, fraction_train=fraction) == expected


def test_another_seed_gives_another_model() -> None:
    case = CASES["mcm"]
    grids = [TinyApp().grid(3) for _ in range(2)]
    models = [
        model_bytes(run(case.strategy(seed=seed), grid, 4)[0].arrays)
        for seed, grid in enumerate(grids)
    ]
    assert models[0] != models[1]


@every_case
def test_nothing_leaks_from_one_session_into_the_next(case: Case) -> None:
    """(I4) On the contexts that an earlier run has left, the result is the same."""
    fresh, _ = run(case.strategy(seed=3), TinyApp(case.returns).grid(3), 8)
    grid = TinyApp(case.returns).grid(3, random_faults(1, 0.1, RAISES))
    strategy = case.strategy(seed=3)
    for earlier in (case.strategy(seed=8), CASES["mcm"].strategy(), strategy):
        run(earlier, grid, 6, faulty_rounds=5)
    again, lock_step = run(strategy, grid, 8)
    assert model_bytes(again.arrays) == model_bytes(fresh.arrays)
    assert lock_step.in_step() == {0, 1, 2}


def test_what_is_late_from_an_earlier_session_does_no_harm() -> None:
    for seed, case in enumerate(CASES.values()):
        faults = [*DELAYS, *DUPLICATES]
        grid = TinyApp(case.returns).grid(3, random_faults(seed, 0.3, faults))
        run(case.strategy(), grid, 6)
        run(case.strategy(), grid, 6)
        _, lock_step = run(case.strategy(), grid, 15, faulty_rounds=10)
        assert lock_step.in_step() == {0, 1, 2}


# -- evaluation ------------------------------------------------------------------------


@every_case
def test_clients_evaluate_the_model_that_they_hold(case: Case) -> None:
    app = TinyApp(case.returns)
    grid = app.grid(3)
    strategy = case.strategy(fraction_evaluate=1.0)
    _, lock_step = run(strategy, grid, 4)
    assert set(app.evaluated) == set(grid.contexts)
    for client in lock_step.clients:
        arrays = app.evaluated[client.node_id]
        vector, _ = strategy._layout.flatten(arrays)
        assert same(vector, lock_step.sent[client.identity, client.downlink.sent])
        assert arrays["norm.num_batches_tracked"].dtype == "int64"
        assert arrays["scale"].dtype == "float64"
