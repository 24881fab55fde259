"""Server and clients never lose step, whatever fails: the whole protocol, end to end.

Every strategy runs through the real mod on a grid that loses, repeats, delays and
reorders messages and replies, and on which clients raise and restart. After each round
the server's ends are compared with what the clients have stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flower_compress.compressors import Vector
from flower_compress.errors import NonFiniteError
from flower_compress.links import (
    Broadcast,
    CatchUp,
    Channel,
    Memory,
    SenderState,
    commit,
)
from flower_compress.mods import compression_mod as mods
from flower_compress.mods.client_state import ClientState
from flower_compress.strategies import CompressedStrategy
from flower_compress.strategies.server import strategy as server
from flower_compress.strategies.server.averaged_memory import AveragedMemory
from flower_compress.strategies.server.downlink import Downlinks
from flower_compress.strategies.server.downlink_end import DownlinkEnd
from flower_compress.strategies.server.uplink import Uplinks
from flower_compress.strategies.server.uplink_end import Contribution, UplinkEnd
from flower_compress.streams import Purpose, Stream
from flower_compress.testing import Fault, RandomFaults, Schedule
from flower_compress.wire.contract import Contract
from flower_compress.wire.packet import Packet
from tests.protocol import lockstep
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
from tests.protocol.lockstep import (
    CASES,
    EVERYONE,
    KINDS,
    Case,
    LockStep,
    TinyApp,
    every_case,
    initial_arrays,
    of_each_kind,
    run,
    same,
)


def model_bytes(arrays: ArrayRecord) -> dict[str, tuple[str, bytes]]:
    return {name: (array.dtype, array.data) for name, array in arrays.items()}


# -- under faults ----------------------------------------------------------------------


@every_case
def test_server_and_clients_stay_in_step(case: Case) -> None:
    num_clients = 5
    grid = TinyApp(case.returns).grid(num_clients, random_faults(2, 0.12))
    strategy = case.strategy(seed=2, fraction_evaluate=1.0)
    takes_all = strategy.fraction_train == 1.0
    result, lock_step = run(strategy, grid, 25, faulty_rounds=22)
    if takes_all:
        assert set(grid.happened) == set(Fault), "a schedule without some of the faults"
    assert lock_step.in_step() == set(range(num_clients)), "three rounds without faults"
    assert lock_step.num_compared["downlink"] > 10
    assert lock_step.num_compared["error"] > 10 or not lock_step.is_fed_back
    assert all(np.isfinite(a.numpy()).all() for a in result.arrays.values())


@of_each_kind
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_schedule_breaks_the_lock_step(case: Case, data: st.DataObject) -> None:
    grid = TinyApp(case.returns).grid(3, DrawnSchedule(data))
    fraction = data.draw(st.sampled_from([0.0, 0.5, 1.0]), label="evaluate")
    strategy = case.strategy(fraction_evaluate=fraction)
    # A late evaluation may still restart a client after the first calm training.
    _, lock_step = run(strategy, grid, 11, faulty_rounds=8)
    assert lock_step.in_step() == {0, 1, 2}


@of_each_kind
def test_partial_participation_stays_in_step(case: Case) -> None:
    """Clients that are away catch up, and bring the memory that they left with."""
    grid = TinyApp(case.returns).grid(5, random_faults(4, 0.06))
    strategy = case.strategy(fraction_train=0.4, fraction_evaluate=0.6, seed=4)
    _, lock_step = run(strategy, grid, 23, faulty_rounds=20)
    assert lock_step.in_step() == set(range(5))


@pytest.mark.parametrize("other", ["deep.weight", "deeper.weight"])
@pytest.mark.parametrize(
    "name",
    ["mcm-by-array", "rand-mcm", "artemis", "double-squeeze", "rand-mcm-average"],
)
def test_arrays_that_start_alike_stay_in_step(
    name: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients train those of names of one length alike, and the others apart."""

    def twice() -> ArrayRecord:
        arrays = initial_arrays()
        return ArrayRecord({**arrays, other: arrays["conv.weight"]})

    monkeypatch.setattr(lockstep, "initial_arrays", twice)
    grid = TinyApp().grid(3, random_faults(2, 0.12))
    result, lock_step = run(CASES[name].strategy(), grid, 16, faulty_rounds=14)
    assert lock_step.in_step() == {0, 1, 2}
    assert lock_step.strategy._running.composition.uplink.compressor.name == "tied"
    first, second = (result.arrays[each].data for each in ("conv.weight", other))
    assert (first == second) is (len(other) == len("conv.weight"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rand-mcm", {"uplink": 12, "next": 15, "sum": 5}),
        ("diana-mean", {"uplink": 12, "next": 15, "sum": 5}),
        ("diana-sampled", {"uplink": 12, "next": 15}),
        ("rand-mcm-average", {"uplink": 12, "next": 15, "sum": 5, "average": 5}),
        ("double-squeeze", {"error": 15}),
    ],
)
@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_the_comparisons_are_made(
    name: str, expected: dict[str, int], fraction: float
) -> None:
    grid = TinyApp().grid(3)
    strategy = CASES[name].strategy(fraction_evaluate=fraction)
    _, lock_step = run(strategy, grid, 5)
    made = {what: number for what, number in lock_step.num_compared.items() if number}
    evaluations = {"evaluated": 15, "spared": 12} if fraction else {}
    assert made == {"value": 15, "downlink": 15, **expected, **evaluations}


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
_settle, _catch_up = AveragedMemory.settle, Broadcast.catch_up


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
    self: Downlinks, identity: int, end: DownlinkEnd, model: Vector, **kwargs: Any
) -> Any:
    """The server's downlink moves on before the client says that it heard."""
    if end.sender.pending is not None:
        self.acknowledge(identity, end, end.sender.pending_version)
    return _send(self, identity, end, model, **kwargs)


def take_the_newest_only(state: Any, **kwargs: Any) -> Any:
    """The client skips the payloads that it has missed."""
    payloads, version = kwargs["payloads"], kwargs["version"]
    if kwargs["snapshot"] is None and len(payloads) > 1:
        state = commit(state, kwargs["rate"])._replace(version=version - 1)
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


def acknowledge_any_epoch(self: Uplinks, end: UplinkEnd) -> tuple[int, int]:
    """Clients of an older epoch are not told to start from zero."""
    return end.version, end.crc


def lose_nothing(self: Uplinks, part: Contribution) -> bool:
    """No lost memory begins an epoch."""
    return False


def keep_the_memory(self: Uplinks, end: UplinkEnd) -> None:
    """A client that has lost its memory does not get it back."""


def never_reset(self: Downlinks, *args: Any, **kwargs: Any) -> None:
    """The averaged memory's receivers drift away from it."""


def step_twice(self: AveragedMemory, rate: float, num_clients: int) -> None:
    """The averaged memory moves on by the last step once more."""
    heard = dict(self._heard)
    _settle(self, rate, num_clients)
    self._heard = heard


def fold_what_it_has(state: Any, **kwargs: Any) -> Any:
    """A version that is not news moves the client's memory nevertheless."""
    if kwargs["version"] == state.newest and not kwargs["payloads"]:
        return commit(state, kwargs["rate"])
    return _accept(state, **kwargs)


def receive_without_looking(state: Any, packet: Any, contract: Any, **_: Any) -> Any:
    """The client takes in whatever comes."""
    rate = contract.downlink_rate
    receiver = fold_what_it_has(
        state.receiver,
        base=packet.base,
        version=packet.version,
        payloads=packet.payloads,
        final=packet.final,
        rate=rate,
        snapshot=packet.snapshot,
    )
    return state._replace(receiver=receiver, exact=packet.exact or state.exact)


def believe_it_was_heard(session: Any, messages: Any, *_: Any) -> Any:
    """The server takes for granted that an evaluation arrived."""
    for client in session.roster:
        session.downlinks.acknowledge(
            client.identity, client.downlink, client.downlink.sent
        )
    return []


def forget_in_vain(self: Downlinks, identity: int, end: DownlinkEnd) -> None:
    """Who has lost its state is sent the same version from another memory."""
    end.held = None


def send_no_snapshot(self: Broadcast, held: int | None) -> CatchUp:
    """Whoever holds nothing is sent payloads only."""
    return replace(_catch_up(self, held), snapshot=None)


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
        (Uplinks, "acked", acknowledge_any_epoch, "diana-mean", RESTARTS),
        (Uplinks, "_memory_was_lost", lose_nothing, "diana-mean", RESTARTS),
        (Uplinks, "memory", keep_the_memory, "artemis", RESTARTS),
        (Downlinks, "publish", never_reset, "rand-mcm-average", []),
        (AveragedMemory, "settle", step_twice, "rand-mcm-average", [Fault.LOSE_REPLY]),
        (Broadcast, "catch_up", send_no_snapshot, "mcm", []),
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


@pytest.mark.parametrize(
    ("target", "name", "broken", "algorithm", "faults"),
    [
        (mods, "_receive", receive_without_looking, "mcm", []),
        (mods, "_receive", receive_without_looking, "rand-mcm", []),
        (Downlinks, "forget", forget_in_vain, "rand-mcm-average", RESTARTS),
        (server, "read_evaluations", believe_it_was_heard, "mcm", [Fault.LOSE_MESSAGE]),
        (
            server,
            "read_evaluations",
            believe_it_was_heard,
            "rand-mcm",
            [Fault.LOSE_MESSAGE],
        ),
    ],
)
def test_a_broken_rule_of_evaluations_is_caught(
    monkeypatch: pytest.MonkeyPatch,
    target: Any,
    name: str,
    broken: Callable[..., Any],
    algorithm: str,
    faults: list[Fault],
) -> None:
    def attempt() -> None:
        grid = TinyApp().grid(3, random_faults(1, 0.3, faults))
        strategy = CASES[algorithm].strategy(fraction_evaluate=0.7)
        _, lock_step = run(strategy, grid, 13, faulty_rounds=10)
        assert lock_step.in_step() == {0, 1, 2}

    attempt()
    monkeypatch.setattr(target, name, broken)
    with pytest.raises(AssertionError):
        attempt()


@of_each_kind
@pytest.mark.parametrize(
    ("identities", "keeps_state"),
    [("claimed", True), ("claimed", False), ("trusted", False)],
)
def test_a_client_may_come_back_as_another_node(
    case: Case, identities: str, keeps_state: bool
) -> None:
    grid = TinyApp(case.returns).grid(3)
    strategy = case.strategy(reset_every=None, identities=identities, **EVERYONE)

    def after_round(lock_step: LockStep, server_round: int) -> None:
        # In the round in which it comes it is greeted, while the others train.
        assert lock_step.in_step() == ({0, 2} if server_round == 4 else {0, 1, 2})
        if server_round == 3:
            if not keeps_state:
                grid.restart(1002)
            grid.rename(1002, 77)

    run(strategy, grid, 6, after_round=after_round)
    needed = 0 if keeps_state else keeps_model(strategy)
    if identities == "trusted":
        needed = dense_vectors(strategy)
    assert num_snapshots(strategy) == first_snapshots(strategy, 3) + needed


# -- what it costs ---------------------------------------------------------------------


def num_snapshots(strategy: CompressedStrategy) -> int:
    """Dense vectors that were sent down."""
    return strategy.ledger.downlink.snapshot_bytes // (4 * strategy._running.layout.dim)


def first_snapshots(strategy: CompressedStrategy, num_clients: int) -> int:
    """Dense vectors that new clients need: the model, if they remember one.

    None if they can begin without.
    """
    return num_clients * keeps_model(strategy) * (strategy.first_model == "dense")


def dense_vectors(strategy: CompressedStrategy) -> int:
    """What a client needs that has lost its state: the model, its uplink memory."""
    remembers = strategy.uplink.memory_rate(strategy._running.layout.dim) is not None
    remembers &= strategy.uplink_memory != "mean"
    return keeps_model(strategy) + remembers


def keeps_model(strategy: CompressedStrategy) -> bool:
    """Whether clients remember a model."""
    return strategy._running.downlinks.receiver_rate is not None


@of_each_kind
def test_a_restart_costs_one_snapshot_of_each_link(case: Case) -> None:
    grid = TinyApp(case.returns).grid(4, random_faults(6, 0.08, RESTARTS))
    strategy = case.strategy(reset_every=None, **EVERYONE)
    run(strategy, grid, 12, faulty_rounds=10)
    restarts = sum(grid.happened[fault] for fault in RESTARTS)
    assert restarts > 3
    most = first_snapshots(strategy, 4) + restarts * dense_vectors(strategy)
    # Two restarts within one round are mended together.
    assert most - 4 * dense_vectors(strategy) <= num_snapshots(strategy) <= most


@of_each_kind
def test_a_late_call_for_help_costs_no_second_snapshot(case: Case) -> None:
    """A client calls for help in rounds 4 and 5; the first call comes in round 7."""
    plan = {(4, 0): [Fault.RESTART_BEFORE, Fault.DELAY_REPLY]}
    grid = TinyApp(case.returns).grid(2, PlannedSchedule(plan, delays=3))
    strategy = case.strategy(reset_every=None, **EVERYONE)
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
    dense = 4 * strategy._running.layout.dim
    snapshots = strategy.ledger.downlink.snapshot_bytes / dense
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
    evaluation_faults: Schedule | None = None,
    **kwargs: Any,
) -> tuple[object, ...]:
    """What a run ends with. The sum is float64, so the order of its terms shows."""
    grid = TinyApp(case.returns).grid(4, faults)
    grid.evaluation_faults = evaluation_faults
    for old_id, new_id in zip(list(grid.get_node_ids()), node_ids, strict=False):
        grid.rename(old_id, new_id)
    strategy = case.strategy(seed=11, **kwargs)
    result, _ = run(strategy, grid, 7)
    memory_sum = strategy._running.uplinks.memories.sum
    return (
        model_bytes(result.arrays),
        None if memory_sum is None else memory_sum.tobytes(),
    )


@of_each_kind
@pytest.mark.parametrize(("fraction", "seeds"), [(1.0, [0]), (0.5, [1])])
def test_neither_order_nor_node_ids_nor_duplicates_change_the_result(
    case: Case, fraction: float, seeds: list[int]
) -> None:
    expected = outcome(case, fraction_train=fraction)
    shuffled = RandomFaults(seed=1)
    node_ids = [90001, 17, 2**40, 3]
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


@of_each_kind
def test_nothing_leaks_from_one_session_into_the_next(case: Case) -> None:
    """(I4) On the contexts that an earlier run has left, the result is the same."""
    fresh, _ = run(case.strategy(seed=3), TinyApp(case.returns).grid(3), 6)
    app = TinyApp(case.returns)
    grid = app.grid(3, random_faults(1, 0.1, RAISES))
    for earlier in (case.strategy(seed=8), CASES["mcm"].strategy()):
        run(earlier, grid, 4, faulty_rounds=3)
    strategy = case.strategy(seed=3)
    for _ in range(2):
        app.trained.clear()
        again, _ = run(strategy, grid, 6)
        assert model_bytes(again.arrays) == model_bytes(fresh.arrays)


def test_what_is_late_from_an_earlier_session_does_no_harm() -> None:
    for seed, name in enumerate(sorted(KINDS)):
        case = CASES[name]
        faults = [*DELAYS, *DUPLICATES]
        grid = TinyApp(case.returns).grid(3, random_faults(seed, 0.3, faults))
        run(case.strategy(), grid, 4)
        run(case.strategy(), grid, 4)
        _, lock_step = run(case.strategy(), grid, 9, faulty_rounds=5)
        assert lock_step.in_step() == {0, 1, 2}


# -- evaluation ------------------------------------------------------------------------


@of_each_kind
def test_evaluation_changes_no_model(case: Case) -> None:
    """Nor what goes wrong with it, as long as no client loses its state."""
    trouble = random_faults(0, 0.2, set(Fault) - set(RESTARTS))
    some = {"fraction_evaluate": 0.75, **EVERYONE}
    expected = outcome(case, **EVERYONE)
    assert outcome(case, evaluation_faults=trouble, **some) == expected


@of_each_kind
def test_evaluation_changes_no_model_of_one_downlink_for_all(case: Case) -> None:
    """Whoever takes part. With links of their own, those who evaluate move theirs."""
    if case.strategy().groups != 1:
        return
    few = {"fraction_train": 0.5, "sampling": "fixed"}
    assert outcome(case, fraction_evaluate=1.0, **few) == outcome(case, **few)


@of_each_kind
@pytest.mark.parametrize("evaluate_on", ["received", "held"])
def test_clients_evaluate_what_they_were_sent(case: Case, evaluate_on: Any) -> None:
    app = TinyApp(case.returns)
    grid = app.grid(3)
    strategy = case.strategy(fraction_evaluate=1.0, evaluate_on=evaluate_on, **EVERYONE)
    _, lock_step = run(strategy, grid, 4)
    assert set(app.evaluated) == set(grid.contexts)
    for client in lock_step.clients:
        arrays = app.evaluated[client.node_id]
        vector, _ = strategy._running.layout.flatten(arrays)
        assert same(vector, lock_step.sent[client.identity, client.downlink.sent])
        assert arrays["norm.num_batches_tracked"].dtype == "int64"
        assert arrays["scale"].dtype == "float64"
