"""Nodes that are late, away, restarted, taken back, or wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp

from flower_compress import DitheredQuantizer
from flower_compress.clients import GossipMod
from flower_compress.clients.gossip import mod as gossip
from flower_compress.clients.gossip.state import GossipState
from flower_compress.errors import (
    ConfigurationError,
    CorruptPacket,
    MissingModError,
    OutOfSyncError,
    RoundFailedError,
)
from flower_compress.mods import state_store
from flower_compress.strategies.relay import post_office
from flower_compress.strategies.relay.post_office import PostOffice
from flower_compress.strategies.topology import ring
from flower_compress.testing import Fault, InProcessGrid, RandomFaults
from flower_compress.wire.mail import Delivery, Letter, Posting, find_mail, mail_record
from tests.protocol.faulty import PlannedSchedule
from tests.protocol.relay_wire import (
    ALGORITHMS,
    NodesGrid,
    check,
    check_agreement,
    check_folds,
    delivery_of,
    make_relay,
    run,
)
from tests.strategies.problem import DIM, INITIAL, NUM_CLIENTS, to_record, to_vector

KEY = "flower_compress.gossip"
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def errors(grid: NodesGrid) -> list[str]:
    return [m.error.reason for m in grid.came if m.has_error()]


def resyncs(grid: NodesGrid) -> list[int]:
    """Numbers of the deliveries to which a node said that it lacks something."""
    mail = [find_mail(m.content) for m in grid.came if m.has_content()]
    postings = [Posting.parse(found[1]) for found in mail if found is not None]
    return [posting.number for posting in postings if posting.resync]


def deliver(grid: NodesGrid, node: int, delivery: Delivery) -> Message:
    """Hand a node a delivery that the relay has not sent."""
    content = RecordDict({"arrays": mail_record(delivery.data)})
    message = Message(content, 1001 + node, MessageType.TRAIN)
    (reply,) = grid._grid.send_and_receive([message])
    return reply


# -- late, twice, old ------------------------------------------------------------------


def test_a_late_answer_does_not_count() -> None:
    grid = NodesGrid(PlannedSchedule({(4, 1): [Fault.DELAY_REPLY]}, delays=2))
    relay = make_relay("malcom", "complete")
    run(relay, grid, 8, calm_rounds=1)
    assert grid.happened[Fault.DELAY_REPLY] == 1
    assert 4 not in grid.acknowledged(1)
    assert 4 in grid.acknowledged(0)
    check_folds(grid, relay)


@pytest.mark.parametrize("delays", [0, 1, 3])
def test_a_second_answer_does_not_count(delays: int) -> None:
    grid = NodesGrid(PlannedSchedule({(4, 1): [Fault.DUPLICATE_REPLY]}, delays))
    relay = make_relay("malcom", "complete")
    run(relay, grid, 8, calm_rounds=1)
    assert grid.happened[Fault.DUPLICATE_REPLY] == 1
    check_folds(grid, relay)


@pytest.mark.parametrize("delays", [0, 1, 3])
def test_an_old_delivery_is_refused(delays: int) -> None:
    grid = NodesGrid(PlannedSchedule({(4, 1): [Fault.DUPLICATE_MESSAGE]}, delays))
    relay = make_relay("malcom", "complete")
    run(relay, grid, 8, calm_rounds=1)
    (reason,) = errors(grid)
    assert reason.startswith("StalePacketError: delivery 4 is not newer than")
    assert "a duplicate, or late" in reason
    check_folds(grid, relay)


def test_a_late_delivery_is_read_once() -> None:
    """What it brings comes with the next one too."""
    grid = NodesGrid(PlannedSchedule({(4, 1): [Fault.DELAY_MESSAGE]}))
    relay = make_relay("malcom", "complete")
    run(relay, grid, 8, calm_rounds=1)
    assert grid.happened[Fault.DELAY_MESSAGE] == 1
    check_folds(grid, relay)


@pytest.mark.parametrize("with_contract", [True, False])
def test_a_delivery_of_another_session(with_contract: bool) -> None:
    """One that begins a session does; the run's own one is begun anew after it."""
    grid = NodesGrid()
    relay = make_relay("malcom", "complete")

    def after_round(server_round: int) -> None:
        if server_round != 5:
            return
        before = grid.state(1)
        first = grid.sent[1][0]
        assert first.contract is not None
        other = Delivery(
            session=before.session ^ 1,
            number=3,
            round=1,
            dim=DIM,
            contract=first.contract if with_contract else None,
            model=first.model if with_contract else None,
        )
        reply = deliver(grid, 1, other)
        posting = Posting.parse(find_mail(reply.content)[1])
        assert posting.session == other.session
        assert posting.resync is not with_contract
        assert (grid.state(1).session == before.session) is not with_contract

    run(relay, grid, 6, after_round=after_round)
    check(grid, relay)
    assert resyncs(grid) == ([6] if with_contract else [])
    if not with_contract:
        check_folds(grid, relay)


def test_a_posting_of_another_session_is_refused() -> None:
    office = PostOffice([(1,), (0,)], DIM, 1, keeps_estimates=True)
    sent = office.deliver(0, Delivery(session=7, number=3, dim=DIM), {0, 1})
    with pytest.raises(OutOfSyncError, match="another session"):
        office.check(0, Posting(session=8, number=sent.number, dim=DIM))
    with pytest.raises(OutOfSyncError, match="late"):
        office.check(0, Posting(session=7, number=2, dim=DIM))
    with pytest.raises(CorruptPacket, match="expected vectors of length"):
        office.check(0, Posting(session=7, number=3, dim=DIM + 1))
    good = Letter(1, 3, 0, b"some", 32)
    office.check(0, Posting(7, 3, dim=DIM, letters=(good,)))
    for bad in (
        Letter(0, 3, 0, b"some", 32),  # to itself
        Letter(2, 3, 0, b"some", 32),  # to nobody
        Letter(1, 2, 0, b"some", 32),  # of another version
        Letter(1, 3, 1, b"some", 32),  # of another phase
        Letter(1, 3, 0, b"some", 32, snapshot=True),  # too short
    ):
        with pytest.raises(CorruptPacket):
            office.check(0, Posting(7, 3, dim=DIM, letters=(bad,)))
    office.take_in(0, Posting(7, 3, dim=DIM, letters=(good,)))
    assert [letter.node for letter in office.boxes[1].letters] == [0]
    with pytest.raises(OutOfSyncError, match="duplicate"):
        office.check(0, Posting(7, 3, dim=DIM, letters=(good,)))


# -- taken back ------------------------------------------------------------------------


@every_algorithm
@pytest.mark.parametrize("topology", ["ring", "one-peer-exponential"])
@pytest.mark.parametrize("back", [1, 3])
def test_a_node_that_is_taken_back_is_found_out(
    algorithm: str, topology: str, back: int
) -> None:
    """A file restored from a backup: it asks to be synchronised, and is."""
    grid, saved = NodesGrid(), {}
    grid.compares = False
    relay = make_relay(algorithm, topology)

    def after_round(server_round: int) -> None:
        record = grid.contexts[1002].state.get(KEY)
        saved[server_round] = record
        if server_round == 7:
            grid.contexts[1002].state[KEY] = saved[7 - back]

    run(relay, grid, 8, after_round=after_round)
    assert len(resyncs(grid)) == 1
    check(grid, relay)


def test_a_node_that_is_taken_back_by_an_unanswered_delivery_goes_on() -> None:
    """The relay never had what it has forgotten."""
    plan = {(6, 1): [Fault.LOSE_REPLY], (7, 1): [Fault.LOSE_REPLY]}
    grid, saved = NodesGrid(PlannedSchedule(plan)), {}
    grid.compares = False
    relay = make_relay("malcom", "complete")

    def after_round(server_round: int) -> None:
        saved[server_round] = grid.contexts[1002].state.get(KEY)
        if server_round == 7:
            grid.contexts[1002].state[KEY] = saved[5]

    run(relay, grid, 8, after_round=after_round)
    assert not resyncs(grid)
    check_folds(grid, relay)


def test_being_taken_back_shows_where_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It had no payload taken in since, and no letter: only an answer without any.

    It was told to forget what it held, and it remembers it all the same.
    """

    def attempt() -> list[int]:
        plan = {(k, node): [Fault.LOSE_REPLY] for k in (1, 2, 3) for node in (0, 2)}
        grid, saved = NodesGrid(PlannedSchedule(plan)), []
        grid.compares = False
        relay = make_relay("malcom", "ring")

        def after_round(server_round: int) -> None:
            state = grid.contexts[1002].state
            if server_round == 1:
                saved.append(state.pop(KEY))
            elif server_round == 3:
                state[KEY] = saved[0]

        run(relay, grid, 4, after_round=after_round)
        check(grid, relay)
        return resyncs(grid)

    def trust(state: Any, delivery: Delivery, *rest: Any) -> Any:
        return settle(state, replace(delivery, answered=0), *rest)

    assert attempt() == [2, 4]
    settle = gossip.settle
    monkeypatch.setattr(gossip, "settle", trust)
    with pytest.raises(AssertionError):
        attempt()


def test_two_payloads_of_one_version_are_told_apart() -> None:
    """Taken back, it answers a duplicate of what it answered before, otherwise."""
    plan = {(5, 1): [Fault.DUPLICATE_MESSAGE], (6, 1): [Fault.LOSE_MESSAGE]}
    grid, saved = NodesGrid(PlannedSchedule(plan)), {}
    grid.compares = False
    relay = make_relay("malcom", "complete")

    def after_round(server_round: int) -> None:
        saved[server_round] = grid.contexts[1002].state.get(KEY)
        if server_round == 5:
            grid.contexts[1002].state[KEY] = saved[4]

    run(relay, grid, 7, after_round=after_round)
    crcs = {crc for node, version, crc in grid.answers if (node, version) == (1, 5)}
    assert len(crcs) == 2
    assert resyncs(grid) == [7]
    check(grid, relay)


# -- restarted -------------------------------------------------------------------------


@every_algorithm
@pytest.mark.parametrize("topology", ["ring", "star", "one-peer-exponential"])
def test_a_node_that_lost_its_state_begins_with_its_neighbours_mean(
    algorithm: str, topology: str
) -> None:
    grid = NodesGrid()
    relay = make_relay(algorithm, topology, step_size=1e-7)
    begun: list[Any] = []

    def after_round(server_round: int) -> None:
        if server_round == 4:
            grid.contexts[1003].state.clear()
        data = grid.state_bytes(2)
        state = None if data is None else GossipState.from_bytes(data)
        if server_round > 4 and state is not None and state.vectors and not begun:
            begun.append(state.vectors["model"])

    run(relay, grid, 6, after_round=after_round)
    # With steps so short all are where they began.
    np.testing.assert_allclose(begun[0], INITIAL, atol=1e-5)
    assert len(resyncs(grid)) == 1
    check(grid, relay)


@every_algorithm
@pytest.mark.parametrize("topology", ["ring", "one-peer-exponential"])
def test_all_nodes_lose_their_state(algorithm: str, topology: str) -> None:
    """There is nobody to begin with: all begin with the mean collected last."""
    grid = NodesGrid()
    relay = make_relay(algorithm, topology, collect_every=2)
    means: list[Any] = []

    def after_round(server_round: int) -> None:
        if server_round == 6:
            for context in grid.contexts.values():
                context.state.clear()
            means.append(to_vector(relay._running.collection.mean))

    run(relay, grid, 7, after_round=after_round)
    check(grid, relay)
    assert not np.array_equal(means[0], INITIAL)
    models = [d.model for d in grid.sent[0] if d.model is not None]
    np.testing.assert_array_equal(models[0], INITIAL)
    np.testing.assert_array_equal(models[1], means[0])


def test_neighbours_lose_their_state_one_after_the_other() -> None:
    grid = NodesGrid()
    relay = make_relay("cdprox-sgt", ring(NUM_CLIENTS))

    def after_round(server_round: int) -> None:
        if 3 <= server_round < 13:
            grid.contexts[1001 + server_round % NUM_CLIENTS].state.clear()

    run(relay, grid, 14, after_round=after_round)
    check(grid, relay)


def test_a_restarted_node_with_exact_arrays_trains_on() -> None:
    """BatchNorm's statistics stay at their node; a new one begins with the first."""
    app = ClientApp(mods=[GossipMod("gradient")])
    seen: list[tuple[int, int]] = []

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        arrays = msg.content["arrays"]
        count = int(arrays["norm.num_batches_tracked"].numpy())
        seen.append((context.node_id, count))
        record = ArrayRecord(
            {
                "w": Array(arrays["w"].numpy() - np.float32(context.node_id - 1000)),
                "norm.num_batches_tracked": Array(np.array(count + 1)),
            }
        )
        return Message(RecordDict({"arrays": record}), reply_to=msg)

    grid = InProcessGrid(app, 3)
    initial = ArrayRecord(
        {
            "w": Array(np.zeros(4, np.float32)),
            "norm.num_batches_tracked": Array(np.array(7)),
        }
    )
    relay = make_relay("malcom", ring(3), collect_every=1, max_failed_rounds=1)

    def evaluate(server_round: int, _: Any) -> None:
        if server_round == 3:
            grid.contexts[1002].state.clear()

    relay.start(grid, initial, 9, evaluate_fn=evaluate)
    assert len(relay.node_models) == 3
    of_second = [count for node_id, count in seen if node_id == 1002]
    assert of_second[:3] == [7, 8, 9]
    assert of_second[3:] == list(range(7, 7 + len(of_second) - 3))
    assert len(of_second) > 5


def test_a_node_with_a_file_restarts_as_another_node(tmp_path: Path) -> None:
    """A SuperNode comes back with a new node id: no snapshot, no contract."""
    grid = NodesGrid(state_dir=tmp_path)
    relay = make_relay("malcom", "complete", max_failed_rounds=1)
    nodes = dict.fromkeys(range(5))

    def after_round(server_round: int) -> None:
        if server_round == 5:
            grid.restart(1003)

    run(relay, grid, 6, after_round=after_round)
    check_folds(grid, relay)
    assert not resyncs(grid)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"node-{i}-{relay._running.id:08x}.state" for i in nodes
    ]
    # Only the first delivery has brought the contract.
    assert all(
        (d.contract is None) is (k > 0)
        for deliveries in grid.sent.values()
        for k, d in enumerate(deliveries)
    )


@pytest.mark.parametrize("with_file", [True, False])
def test_a_node_moves(with_file: bool, tmp_path: Path) -> None:
    """It comes back under another node id, with its file or without."""
    app = NodesGrid(state_dir=tmp_path if with_file else None)._grid
    relay = make_relay("malcom", ring(NUM_CLIENTS))

    def evaluate(server_round: int, _: Any) -> None:
        if server_round == 4:
            context = app.contexts.pop(1003)
            context.node_id = 2003
            context.state.clear()
            app.contexts[2003] = context

    relay.start(app, to_record(INITIAL), 12, evaluate_fn=evaluate)
    assert sorted(relay.node_models) == list(range(NUM_CLIENTS))
    assert not any(box.broken for box in relay._running.office.boxes)
    is_dense = relay.edges.total.snapshot_bytes > 0
    assert is_dense is not with_file


# -- away ------------------------------------------------------------------------------


def test_a_node_that_was_away_reads_what_it_missed() -> None:
    grid = NodesGrid()
    grid.is_away = lambda exchange, node: node == 2 and 4 <= exchange < 12
    relay = make_relay("malcom", "complete")
    run(relay, grid, 14, calm_rounds=1)
    assert len(grid.sent[2]) == len(grid.sent[0]) - 8
    check_folds(grid, relay)
    assert relay.edges.total.snapshot_bytes == 0


@every_algorithm
@pytest.mark.parametrize("topology", ["ring", "one-peer-exponential"])
def test_a_node_that_was_away_for_long_is_brought_up_to_date(
    algorithm: str, topology: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its box does not grow without bound, and the others go on meanwhile."""
    monkeypatch.setattr(post_office, "_LEAST_ROOM", 0)
    grid, sizes = NodesGrid(), []
    operator = DitheredQuantizer(30_000)
    relay = make_relay(algorithm, topology, operator, forget_after=None)
    grid.is_away = lambda exchange, node: node == 0 and 4 <= exchange < 54

    def after_round(server_round: int) -> None:
        sizes.append([box.num_bytes for box in relay._running.office.boxes])

    rounds = 54 // relay.num_phases
    run(relay, grid, rounds, after_round=after_round)
    check(grid, relay)
    assert len(grid.sent[0]) == len(grid.sent[1]) - 50
    # A node has so many neighbours, of each of which it holds 8 bytes an entry.
    dense = 8 * DIM * relay.num_phases
    assert max(map(max, sizes)) <= 2 * dense * NUM_CLIENTS
    assert max(row[0] for row in sizes) > 0
    assert grid.steps[1, rounds // 2] == 1
    dense_for = {
        j: relay.edges.edges[j, 0].snapshot_bytes
        for j, i in relay.edges.edges
        if i == 0
    }
    if algorithm == "dpsgd":
        assert not any(dense_for.values())
    else:
        assert set(dense_for.values()) == {dense}


def test_a_node_whose_box_overflows_before_it_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It hears nothing for long, then begins with the first model, and snapshots."""
    monkeypatch.setattr(post_office, "_LEAST_ROOM", 0)
    plan = {(k, 2): [Fault.LOSE_MESSAGE] for k in range(1, 30)}
    for topology in ("ring", "one-peer-exponential"):
        grid = NodesGrid(PlannedSchedule(plan))
        relay = make_relay("malcom", topology, DitheredQuantizer(30_000))
        run(relay, grid, 29)
        check(grid, relay)
        assert relay.edges.total.snapshot_bytes > 0
        first = next(d for d in grid.sent[2] if d.number == 30)
        assert first.model is not None
        assert first.rebuild


def test_the_others_go_on_with_a_node_that_always_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it does not confirm is kept for it, up to a bound."""
    monkeypatch.setattr(post_office, "_LEAST_ROOM", 0)
    grid, sizes = NodesGrid(), []
    relay = make_relay("malcom", "complete", DitheredQuantizer(30_000))

    def fail(node: int, server_round: int) -> None:
        if node == 3 and 2 <= server_round < 30:
            raise RuntimeError("out of memory")

    def after_round(server_round: int) -> None:
        sizes.append(relay._running.office.boxes[3].num_bytes)

    grid.before_train = fail
    run(relay, grid, 30, after_round=after_round)
    assert len(errors(grid)) == 28
    assert relay.edges.total.snapshot_bytes > 0
    assert max(sizes) <= 2 * 8 * DIM * 4
    check(grid, relay)


@pytest.mark.parametrize(
    ("algorithm", "topology"),
    [
        ("malcom", "ring"),
        ("choco", "one-peer-exponential"),
        ("cdprox-sgt", "ring"),
        ("cdprox-sgt", "one-peer-exponential"),
        ("dpsgd", "ring"),
    ],
)
def test_the_others_keep_in_step_while_a_node_is_set_apart(
    algorithm: str, topology: str
) -> None:
    """Whatever is lost meanwhile: the grid compares what they hold in each exchange."""
    faults = RandomFaults(seed=5, lose_messages=0.1, lose_replies=0.1)
    grid, gone = NodesGrid(faults), []
    relay = make_relay(algorithm, topology, forget_after=6)
    grid.is_away = lambda exchange, node: (
        node == 2 and (4 <= exchange < 4 + 16 * relay.num_phases)
    )

    def after_round(server_round: int) -> None:
        boxes = relay._running.office.boxes
        gone.append([node for node, box in enumerate(boxes) if box.gone])
        if boxes[2].gone:
            assert not boxes[2].letters
            assert not any(a.node == 2 for box in boxes for a in box.letters)

    run(relay, grid, 24, after_round=after_round)
    assert [2] in gone
    assert gone[-1] == []
    check(grid, relay)
    if algorithm != "dpsgd":
        assert grid.num_compared > 100


# -- wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@every_algorithm
def test_a_step_that_is_not_finite_is_refused_by_the_node(
    algorithm: str, bad: float
) -> None:
    """It keeps its model, tells the relay why, and takes part again."""
    grid = NodesGrid()
    step = grid._train

    def train(msg: Message, context: Context) -> Message:
        reply = step(msg, context)
        if context.node_id == 1004 and int(msg.content["config"]["server-round"]) == 4:
            spoilt = np.full(DIM, bad, np.float32)
            reply.content["arrays"] = to_record(spoilt)
        return reply

    grid._train = train
    app = ClientApp(mods=[GossipMod("gradient")])
    app.train()(train)
    app.evaluate()(lambda msg, context: Message(RecordDict(), reply_to=msg))
    grid._grid.client_app = app
    relay = make_relay(algorithm, "ring")
    models = run(relay, grid, 6, calm_rounds=2)
    reasons = errors(grid)
    assert len(reasons) == 1
    assert reasons[0].startswith("NonFiniteError: ")
    assert all(np.isfinite(model).all() for model in models.values())
    check(grid, relay)
    if algorithm != "dpsgd":
        check_folds(grid, relay)


def test_weights_are_no_gradients() -> None:
    grid = NodesGrid(returns="weights")
    relay = make_relay("cdprox-sgt", max_failed_rounds=2)
    with pytest.raises(RoundFailedError, match=r'GossipMod\(returns="gradient"\)'):
        run(relay, grid, 5)


@pytest.mark.parametrize("algorithm", ["malcom", "choco", "dpsgd"])
def test_weights_take_the_place_of_a_step(algorithm: str) -> None:
    """A train function that takes the step itself gives the same models."""

    def models(returns: Any) -> Any:
        return run(make_relay(algorithm), NodesGrid(returns=returns), 6)

    one, other = models("gradient"), models("weights")
    for node in range(NUM_CLIENTS):
        np.testing.assert_array_equal(one[node], other[node])


def plain_app(*mods: Any) -> ClientApp:
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        content = RecordDict({"arrays": msg.content["arrays"]})
        content["metrics"] = MetricRecord({"num-examples": 1})
        return Message(content, reply_to=msg)

    return app


def test_a_missing_mod_is_named() -> None:
    grid = InProcessGrid(plain_app(), NUM_CLIENTS)
    with pytest.raises(MissingModError, match=r"mods=\[GossipMod\(\)"):
        make_relay().start(grid, to_record(INITIAL), 3)


def test_node_ids_are_no_numbers_of_nodes() -> None:
    """Without partition-ids the ids of Flower are all there is."""
    grid = InProcessGrid(plain_app(GossipMod()), NUM_CLIENTS)
    for context in grid.contexts.values():
        context.node_config = {}
    with pytest.raises(ConfigurationError, match="number 1001, .*partition-id"):
        make_relay().start(grid, to_record(INITIAL), 3)
    for node_id, context in list(grid.contexts.items()):
        # As long as those that a SuperLink draws.
        context.node_id = node_id << 40
    with pytest.raises(ConfigurationError, match="start it with --node-config"):
        make_relay().start(grid, to_record(INITIAL), 3)


def test_too_many_nodes() -> None:
    grid = InProcessGrid(plain_app(GossipMod()), NUM_CLIENTS + 1)
    relay = make_relay()
    relay.start(grid, to_record(INITIAL), 3)
    assert sorted(relay.node_models) == list(range(NUM_CLIENTS))
    why = relay._running.greetings.why_not()
    assert "node 1006: a node says that it is number 5, and the topology has" in why


def test_too_few_nodes() -> None:
    grid = InProcessGrid(plain_app(GossipMod()), NUM_CLIENTS - 1)
    with pytest.raises(ConfigurationError, match="expected 5 nodes, .* got 4"):
        make_relay().start(grid, to_record(INITIAL), 3)


def test_two_nodes_with_one_number() -> None:
    grid = InProcessGrid(plain_app(GossipMod()), NUM_CLIENTS)
    grid.contexts[1002].node_config = {"partition-id": 0}
    expected = "got 4 in this process.*node 1002 is left out: .* client 0, as node 1001"
    with pytest.raises(ConfigurationError, match=expected):
        make_relay().start(grid, to_record(INITIAL), 3)


def test_greetings_may_be_lost() -> None:
    grid = NodesGrid(RandomFaults(seed=1, lose_messages=0.5, lose_replies=0.3))
    grid.greets_calmly = False
    relay = make_relay()
    run(relay, grid, 10)
    check(grid, relay)


def test_an_app_that_cannot_evaluate_is_collected() -> None:
    """The mod hands its model out by itself."""
    grid = InProcessGrid(plain_app(GossipMod("gradient")), NUM_CLIENTS)
    relay = make_relay(collect_every=2, max_failed_rounds=1)
    relay.start(grid, to_record(INITIAL), 5)
    assert sorted(relay.node_models) == list(range(NUM_CLIENTS))


def test_a_collected_model_with_wrong_arrays_is_left_out() -> None:
    """One bad node does not end the run."""
    grid = NodesGrid()
    relay = make_relay()
    office_check = PostOffice.check

    def spoil(self: PostOffice, node: int, posting: Posting) -> None:
        office_check(self, node, posting)
        if node == 3 and posting.model is not None:
            object.__setattr__(posting, "exact", b"too long")

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(PostOffice, "check", spoil)
        models = run(relay, grid, 3, calm_rounds=1)
    assert sorted(models) == [0, 1, 2, 4]


@pytest.mark.parametrize(
    ("algorithm", "num_bytes"),
    [("malcom", 20 * DIM), ("cdprox-sgt", 40 * DIM), ("dpsgd", 4 * DIM)],
)
def test_more_than_a_context_holds_is_refused_before_training(
    algorithm: str, num_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vector in float32, an estimate of it and the neighbours' sum in float64."""
    grid = NodesGrid()
    run(make_relay(algorithm), grid, 2, calm_rounds=1)
    assert len(grid.state_bytes(1)) > num_bytes
    monkeypatch.setattr(state_store, "_MOST_BYTES", num_bytes - 1)
    trained: list[Message] = []
    app = ClientApp(mods=[GossipMod("gradient")])
    app.train()(lambda msg, context: trained.append(msg))
    with pytest.raises(RoundFailedError, match=f"is {num_bytes} bytes.*state_dir="):
        make_relay(algorithm).start(
            InProcessGrid(app, NUM_CLIENTS), to_record(INITIAL), 3
        )
    assert not trained


@pytest.mark.parametrize("num_nodes", [1, 2])
@every_algorithm
def test_few_nodes(algorithm: str, num_nodes: int) -> None:
    grid = NodesGrid(num_nodes=num_nodes)
    relay = make_relay(algorithm, ring(num_nodes))
    models = run(relay, grid, 4, calm_rounds=1)
    assert len(models) == num_nodes
    if algorithm != "dpsgd" and num_nodes > 1:
        check_agreement(grid, relay)


@every_algorithm
def test_a_model_without_entries(algorithm: str) -> None:
    app = plain_app(GossipMod("gradient"))
    grid = InProcessGrid(app, NUM_CLIENTS)
    initial = ArrayRecord({"empty": Array(np.zeros((0, 3), np.float32))})
    relay = make_relay(algorithm)
    relay.start(grid, initial, 3)
    assert len(relay.node_models) == NUM_CLIENTS


def test_what_a_node_answers_to_damaged_mail() -> None:
    grid = NodesGrid()
    relay = make_relay()
    run(relay, grid, 3, calm_rounds=1)
    before = grid.state_bytes(1)
    damaged = bytearray(grid.sent[1][-1].data)
    damaged[-1] ^= 1
    content = RecordDict({"arrays": mail_record(bytes(damaged))})
    message = Message(content, 1002, MessageType.TRAIN)
    (reply,) = grid._grid.send_and_receive([message])
    assert reply.error.reason.startswith("CorruptPacket: the checksum")
    wrong = Delivery(grid.state(1).session, number=90, round=1, dim=DIM + 1)
    assert "CorruptPacket: expected vectors" in deliver(grid, 1, wrong).error.reason
    acked = grid.sent[1][-1].acked
    wrong = Delivery(
        grid.state(1).session, 90, 9, phase=1, acked=acked, dim=DIM, train=True
    )
    assert "got phase 1" in deliver(grid, 1, wrong).error.reason
    assert grid.state_bytes(1) == before
    assert delivery_of(message_of(grid.sent[1][-1])).data == grid.sent[1][-1].data


def message_of(delivery: Delivery) -> Message:
    content = RecordDict({"arrays": mail_record(delivery.data)})
    return Message(content, 1001, MessageType.TRAIN)
