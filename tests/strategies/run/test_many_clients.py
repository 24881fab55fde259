"""Several clients on a node: everything is as with one client a node."""

from __future__ import annotations

import hashlib
import pickle
import random
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
    UserConfig,
)
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from flower_compress import CompressionMod, ManyClientsMod
from flower_compress.clients import gossip_client
from flower_compress.errors import (
    ConfigurationError,
    CorruptPacket,
    MissingModError,
    WrongTypeError,
)
from flower_compress.mods.node_state import NodeState
from flower_compress.strategies import (
    MCM,
    Artemis,
    MalcomPSGD,
    RandMCM,
    compress,
    many_clients,
)
from flower_compress.strategies.run import many_clients as module
from flower_compress.strategies.run.many_clients import _last_line
from flower_compress.strategies.topology import ring
from flower_compress.testing import FaultyGrid, InProcessGrid, RandomFaults
from flower_compress.testing.messages import superlink_error
from flower_compress.wire.bundle import BUNDLE_KEY, answer_content, read_answers
from tests.cases import in_one_test
from tests.strategies.problem import (
    INITIAL,
    NUM_CLIENTS,
    Vector,
    make_app,
    to_record,
)

PER_NODE = 2
NUM_NODES = 3  # the last of which has one client
ROUNDS = 4


def bundled(
    app: ClientApp, on_message: Callable[[Message, Message], None] | None = None
) -> Grid:
    nodes = InProcessGrid(app, NUM_NODES, on_message=on_message)
    return many_clients(nodes, PER_NODE, NUM_CLIENTS)


def outcome(strategy: Any, grid: Grid) -> tuple[str, object]:
    """Return the SHA-256 of the final model, and everything that was counted."""
    random.seed(1)  # Flower's strategies draw an order of the nodes.
    result = strategy.start(grid, to_record(INITIAL), ROUNDS)
    digest = hashlib.sha256()
    for array in result.arrays.values():
        digest.update(array.data)
    counted = repr(getattr(strategy, "ledger", None))
    metrics = [
        [(number, sorted(each.items())) for number, each in rounds.items()]
        for rounds in (
            result.train_metrics_clientapp,
            result.evaluate_metrics_clientapp,
        )
    ]
    return digest.hexdigest(), (counted, metrics)


COMMON: dict[str, Any] = {"step_size": 0.1, "seed": 3}
HALF = {"fraction_train": 0.5, "min_train_nodes": 2}


@in_one_test(
    ("make", "returns"),
    [
        (lambda: MCM(**COMMON), "gradient"),
        (lambda: MCM(**COMMON, **HALF, evaluate_on="received"), "gradient"),
        (lambda: RandMCM(**COMMON), "gradient"),
        (lambda: RandMCM(**COMMON, **HALF), "gradient"),
        (lambda: Artemis(**COMMON), "gradient"),
        (lambda: compress(FedAvg(), seed=3), "weights"),
        (lambda: FedAvg(), "weights"),
    ],
)
def test_models_and_ledgers_are_those_of_one_client_a_node(
    make: Callable[[], Any], returns: Any
) -> None:
    app = make_app(returns, outer=[ManyClientsMod()])
    alone = outcome(make(), InProcessGrid(app, NUM_CLIENTS))
    assert outcome(make(), bundled(app)) == alone


def test_nodes_of_a_decentralized_run_share_nodes_of_flower() -> None:
    def run(grid: Grid) -> tuple[str, object]:
        relay = MalcomPSGD(ring(NUM_CLIENTS), step_size=0.1, seed=3, collect_every=2)
        digest, counted = outcome(relay, grid)
        edges = sorted((key, repr(each)) for key, each in relay.edges.edges.items())
        return digest, (counted, edges)

    app = gossip_client(lambda context, _: Quadratic(context))
    alone = run(InProcessGrid(app, NUM_CLIENTS))

    def several(msg: Message, context: Context) -> Message:
        return ManyClientsMod()(msg, context, app)

    nodes = InProcessGrid(several, NUM_NODES)
    assert run(many_clients(nodes, PER_NODE, NUM_CLIENTS)) == alone


class Quadratic:
    """f_i(x) = ||x - i||^2 / 2."""

    num_examples = 1

    def __init__(self, context: Context) -> None:
        assert context.node_config["num-partitions"] == NUM_CLIENTS
        self._target = np.float32(context.node_config["partition-id"])

    def gradient(
        self, arrays: dict[str, Vector], _: object
    ) -> tuple[float, dict[str, Vector]]:
        return 0.0, {name: x - self._target for name, x in arrays.items()}


class CountingApp:
    """Counts its calls in its state, and raises when it is told to."""

    def __init__(self) -> None:
        self.app = ClientApp(mods=[ManyClientsMod()])
        self.app.train()(self.train)
        self.seen: list[Message] = []

    def train(self, msg: Message, context: Context) -> Message:
        assert msg.metadata.dst_node_id == context.node_id
        self.seen.append(msg)
        config = msg.content["config"]
        count = context.state.setdefault("count", ConfigRecord({"calls": 0}))
        count["calls"] += 1
        config["mine"] = client = context.node_config["partition-id"]
        if client == config.get("raises"):
            raise RuntimeError("out of memory")
        answer = {"client": client, "calls": count["calls"]}
        return Message(RecordDict({"answer": ConfigRecord(answer)}), reply_to=msg)


def ask(
    grid: Grid, clients: Iterable[int], content: Callable[[], RecordDict], **how: Any
) -> dict[int, Message]:
    messages = [Message(content(), n, MessageType.TRAIN, **how) for n in clients]
    replies = list(grid.send_and_receive(messages))
    for reply in replies:
        metadata = reply.metadata
        (message,) = (
            m for m in messages if m.metadata.dst_node_id == metadata.src_node_id
        )
        assert metadata.reply_to_message_id == message.metadata.message_id
        assert metadata.group_id == message.metadata.group_id
    return {reply.metadata.src_node_id: reply for reply in replies}


def answers(replies: dict[int, Message]) -> list[tuple[int, int] | str]:
    return [
        reply.error.reason or ""
        if reply.has_error()
        else (reply.content["answer"]["client"], reply.content["answer"]["calls"])
        for reply in replies.values()
    ]


def test_what_a_client_raises_is_its_own_error_and_leaves_its_state() -> None:
    counting = CountingApp()
    grid = bundled(counting.app)
    clients = list(grid.get_node_ids())
    assert len(set(clients)) == NUM_CLIENTS
    shared = ConfigRecord({"raises": 1})
    replies = ask(grid, clients, lambda: RecordDict({"config": shared}), ttl=77.0)
    assert answers(replies) == [
        (0, 1),
        "<class 'RuntimeError'>:<'out of memory'>",
        *[(client, 1) for client in range(2, NUM_CLIENTS)],
    ]
    assert all(msg.metadata.ttl == 77.0 for msg in counting.seen)
    # Each had a record of its own, although all were sent one.
    assert [msg.content["config"]["mine"] for msg in counting.seen] == [*range(5)]
    again = ask(grid, reversed(clients), lambda: RecordDict({"config": ConfigRecord()}))
    assert answers(again) == [(4, 2), (3, 2), (2, 2), (1, 1), (0, 2)]


def test_clients_of_a_node_share_nothing_that_one_may_change() -> None:
    def train(msg: Message, context: Context) -> Message:
        taken = [msg.content["config"]["layers"].pop(), context.run_config.pop("rate")]
        calls = context.state.setdefault("calls", ConfigRecord({"each": [0]}))["each"]
        calls.append(calls[-1] + 1)
        if msg.content["config"]["raises"]:
            raise RuntimeError("out of memory")
        answer = MetricRecord({"taken": taken, "calls": calls[-1]})
        return Message(RecordDict({"answer": answer}), reply_to=msg)

    app = ClientApp(mods=[ManyClientsMod()])
    app.train()(train)
    grid = many_clients(InProcessGrid(app, 1, run_config={"rate": 7}), PER_NODE)
    came = []
    for raises in (False, True, False):
        shared = {"config": ConfigRecord({"layers": [1, 2, 3], "raises": raises})}
        replies = ask(grid, grid.get_node_ids(), partial(RecordDict, shared))
        came += [r.content["answer"] for r in replies.values() if r.has_content()]
    expected = [MetricRecord({"taken": [3, 7], "calls": n}) for n in (1, 1, 2, 2)]
    assert came == expected


def test_an_error_of_flowers_code_0_is_one() -> None:
    def train(msg: Message, context: Context) -> Message:
        reasons = [None, "", "lost"]
        error = Error(ErrorCode.UNKNOWN, reasons[context.node_config["partition-id"]])
        return Message(error, reply_to=msg)

    app = ClientApp(mods=[ManyClientsMod()])
    app.train()(train)
    grid = many_clients(InProcessGrid(app, 1), 3)
    replies = ask(grid, grid.get_node_ids(), nothing)
    assert answers(replies) == ["unknown", "unknown", "lost"]
    assert {reply.error.code for reply in replies.values()} == {ErrorCode.UNKNOWN}


class Losing(InProcessGrid):
    """Loses what is sent to its second node; can hide nodes, and find none."""

    loses, hidden, fails = True, 0, False

    def get_node_ids(self) -> Iterable[int]:
        return [*super().get_node_ids()][self.hidden :]

    def send_and_receive(self, messages: Iterable[Message], **how: Any) -> Any:
        sent = [m for m in messages if m.metadata.dst_node_id != 1002 or not self.loses]
        replies = super().send_and_receive(sent, **how)
        return [superlink_error(m) for m in sent] if self.fails else replies


def nothing() -> RecordDict:
    return RecordDict({"config": ConfigRecord()})


def test_a_lost_message_is_lost_for_all_clients_of_its_node() -> None:
    nodes = Losing(CountingApp().app, NUM_NODES)
    nodes.loses = False
    grid = many_clients(nodes, PER_NODE, NUM_CLIENTS)
    clients = list(grid.get_node_ids())
    nodes.loses = True
    assert answers(ask(grid, clients, nothing)) == [(0, 1), (1, 1), (4, 1)]
    nodes.loses = False
    assert answers(ask(grid, clients[2:], nothing)) == [(2, 1), (3, 1), (4, 2)]


def test_nodes_that_join_and_leave_are_followed() -> None:
    nodes = Losing(CountingApp().app, NUM_NODES)
    nodes.loses, nodes.hidden = False, 1
    grid = many_clients(nodes, PER_NODE, NUM_CLIENTS)
    first = list(grid.get_node_ids())
    assert len(first) == NUM_CLIENTS - PER_NODE
    nodes.hidden = 0
    assert list(grid.get_node_ids()) == first  # The new one has been asked.
    joined = list(grid.get_node_ids())
    assert joined[PER_NODE:] == first
    assert [info.node_id for info in grid.get_nodes()] == joined
    nodes.hidden = 2
    assert list(grid.get_node_ids()) == joined[2 * PER_NODE :]
    # Whoever asks later, as a resumed server, finds the same clients.
    nodes.hidden = 0
    assert list(many_clients(nodes, PER_NODE, NUM_CLIENTS).get_node_ids()) == joined


class Unheard(InProcessGrid):
    """Loses what it is sent at first, and waits for an answer as Flower's grid does."""

    pull_interval = 0.1
    lost = 2

    def __init__(self, clock: list[float]) -> None:
        super().__init__(CountingApp().app, NUM_NODES)
        self.clock = clock
        self.waited: list[tuple[int, float]] = []

    def send_and_receive(self, messages: Iterable[Message], **how: Any) -> Any:
        sent, seconds = list(messages), how["timeout"]
        self.waited.append((len(sent), seconds))
        if self.lost > 0:
            self.lost -= 1
            self.clock[0] += seconds
            for message in sent:
                message.metadata.__dict__["_message_id"] = f"lost at {self.clock[0]}"
            sent = [m for m in sent if m.metadata.dst_node_id != 1002]
        return super().send_and_receive(sent, **how)


def test_a_node_that_is_not_heard_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    nodes = Unheard(clock)
    assert len(list(many_clients(nodes, PER_NODE, NUM_CLIENTS).get_node_ids())) == 5
    assert nodes.waited == [(3, 10.0), (1, 20.0), (1, 30.0)]
    # No longer than it was told to.
    nodes = Unheard(clock)
    nodes.lost = 9
    assert len(list(many_clients(nodes, PER_NODE, NUM_CLIENTS).get_node_ids())) == 3
    assert nodes.waited == [(3, 10.0), (1, 20.0), (1, 30.0)]


def test_a_later_node_that_is_not_heard_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock: list[float] = [0.0]
    asked: list[float] = []

    def lose(messages: Iterable[Message]) -> None:
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"lost at {clock[0]}"
            asked.append(clock[0])

    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    nodes = Losing(CountingApp().app, NUM_NODES)
    nodes.loses, nodes.hidden = False, 1
    grid = many_clients(nodes, PER_NODE, NUM_CLIENTS)
    assert len(list(grid.get_node_ids())) == 3
    nodes.hidden = 0
    monkeypatch.setattr(nodes, "push_messages", lose)
    for second in range(60):
        clock[0] = float(second)
        assert len(list(grid.get_node_ids())) == 3
    assert asked == [0.0, 10.0, 30.0]


def test_settings_of_the_grid_reach_it() -> None:
    nodes = Unheard([0.0])
    grid = many_clients(nodes, PER_NODE)
    grid.pull_interval = 0.01
    assert nodes.pull_interval == grid.pull_interval == 0.01
    assert "pull_interval" not in vars(grid)
    grid.own = 1
    assert grid.own == 1 and not hasattr(nodes, "own")


def test_an_error_of_the_superlink_says_nothing_of_the_app() -> None:
    nodes = Losing(CountingApp().app, NUM_NODES)
    nodes.loses, nodes.fails = False, True
    grid = many_clients(nodes, PER_NODE, NUM_CLIENTS)
    assert list(grid.get_node_ids()) == []
    nodes.fails = False
    clients = list(grid.get_node_ids())
    assert len(clients) == NUM_CLIENTS
    nodes.fails = True
    messages = [Message(nothing(), client, MessageType.TRAIN) for client in clients]
    replies = list(grid.send_and_receive(messages))
    code = ErrorCode.REPLY_MESSAGE_UNAVAILABLE
    assert [reply.error.code for reply in replies] == [code] * NUM_CLIENTS
    # It comes from no client, as one about a node of its own.
    sources = {reply.metadata.src_node_id for reply in replies}
    assert sources.isdisjoint(clients)


def test_replies_can_be_pulled() -> None:
    grid = bundled(CountingApp().app)
    clients = list(grid.get_node_ids())
    messages = [Message(nothing(), client, MessageType.TRAIN) for client in clients]
    ids = list(grid.push_messages(messages))
    assert ids == [message.metadata.message_id for message in messages]
    # The first brings that of its node's other client as well, which is kept.
    pulled = [list(grid.pull_messages([each])) for each in (ids[0], ids[1], ids[0])]
    assert [len(each) for each in pulled] == [1, 1, 0]
    assert len(list(grid.pull_messages(ids))) == NUM_CLIENTS - 2
    assert list(grid.push_messages([Message(nothing(), 7, MessageType.TRAIN)])) == []


def test_under_faults_a_run_goes_on() -> None:
    app = make_app("gradient", outer=[ManyClientsMod()])
    nodes = InProcessGrid(app, NUM_NODES)
    faults = RandomFaults(
        seed=1, lose_messages=0.1, lose_replies=0.1, error_replies=0.1, duplicate=0.2
    )
    grid = many_clients(FaultyGrid(nodes, faults), PER_NODE, NUM_CLIENTS)
    strategy = MCM(**COMMON, min_available_nodes=1, min_train_nodes=1)
    result = strategy.start(grid, to_record(INITIAL), 12)
    metrics = result.train_metrics_clientapp
    assert len(metrics) == 12
    assert all(each["refused-updates"] == 0 for each in metrics.values())


def test_a_node_without_the_mod_is_said_to_be_one() -> None:
    with pytest.raises(MissingModError, match=r"mods=\[ManyClientsMod\(\), ...\]"):
        bundled(make_app("gradient")).get_node_ids()


def test_an_app_that_gives_the_question_back_is_no_node_of_several() -> None:
    app = ClientApp()
    app.train()(lambda msg, _: Message(msg.content, reply_to=msg))
    with pytest.raises(MissingModError, match=r"mods=\[ManyClientsMod\(\), ...\]"):
        bundled(app).get_node_ids()


def test_of_rays_tracebacks_the_last_line_is_told() -> None:
    """``<class 'ray.exceptions...'>:<'...'>``, with the traceback in colours."""
    reason = "<class 'X'>:<'\x1b[36mray::run\x1b[0m\n  a\nValueError: no mod'>"
    assert _last_line(reason) == "ValueError: no mod'>"
    assert _last_line("<class 'ValueError'>:<'no'>") == "<class 'ValueError'>:<'no'>"
    assert _last_line(" \n") == ""


def test_too_few_clients_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    def config() -> RecordDict:
        return RecordDict({"config": ConfigRecord({})})

    nodes = InProcessGrid(CountingApp().app, NUM_NODES)
    for total, found in ((6, False), (50, True)):
        grid = many_clients(nodes, PER_NODE, total)
        for _ in range(2):
            ask(grid, list(grid.get_node_ids()), config)
        said = [r.getMessage() for r in caplog.records if "num_clients" in r.message]
        assert len(said) == found
    assert "expected 50 clients, as num_clients says, got 6 on 3 nodes" in said[0]


def test_a_node_that_comes_back_as_another_one_is_not_counted_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes = FaultyGrid(InProcessGrid(CountingApp().app, NUM_NODES), RandomFaults())
    grid = many_clients(nodes, PER_NODE, NUM_CLIENTS)
    for new_id in (2001, 2002):
        before = list(grid.get_node_ids())
        nodes.rename(1001 if new_id == 2001 else 2001, new_id)
        list(grid.get_node_ids())  # It is asked, and answers with the next call.
        clients = list(grid.get_node_ids())
        assert len(clients) == NUM_CLIENTS
        assert len(set(clients) & set(before)) == NUM_CLIENTS - PER_NODE
        came = answers(ask(grid, clients, nothing))
        assert {client for client, _ in came} == {*range(NUM_CLIENTS)}
    nodes.leave(2002)
    ask(grid, grid.get_node_ids(), nothing)
    assert "num_clients" not in caplog.text


def test_an_apps_mods_can_be_pickled_for_run_simulation() -> None:
    mods = pickle.loads(pickle.dumps([ManyClientsMod(), CompressionMod()]))
    assert [type(mod) for mod in mods] == [ManyClientsMod, CompressionMod]


def damaged(change: Callable[[ConfigRecord], None]) -> list[str]:
    """Return the errors that come of a node's answer, of which one part is changed."""

    def lie(msg: Message, context: Context) -> Message:
        reply = counting.app(msg, context)
        index = reply.content[BUNDLE_KEY]
        if "codes" in index and context.node_id == 1001:
            change(index)
        return reply

    counting = CountingApp()
    nodes = InProcessGrid(lie, NUM_NODES)
    grid = many_clients(nodes, PER_NODE, NUM_CLIENTS)
    said = answers(ask(grid, grid.get_node_ids(), nothing))
    assert said[PER_NODE:] == [(client, 1) for client in range(PER_NODE, NUM_CLIENTS)]
    return [str(each) for each in said[:PER_NODE]]


@in_one_test(
    ("key", "value"),
    [
        ("codes", [0]),
        ("codes", ["a", "b"]),
        ("reasons", []),
        ("keys", ["answer"]),
        ("records", [0, 99]),
        ("records", [-1, 0]),
        ("counts", [3, -1]),
        ("counts", [1, 2]),
        ("counts", 2),
    ],
)
def test_a_damaged_answer_is_an_error_of_that_nodes_clients(
    key: str, value: Any
) -> None:
    said = damaged(lambda index: index.__setitem__(key, value))
    assert len(said) == PER_NODE
    assert all("expected" in each for each in said), said


def test_a_few_bytes_do_not_become_very_many_entries() -> None:
    """One long record, named again and again."""
    content = answer_content([RecordDict({"long": ConfigRecord({"a": 1})})] * 2)
    index, count = content[BUNDLE_KEY], 1 << 11
    content["0"] = ConfigRecord({str(number): number for number in range(count)})
    for length in (8, count):
        keys = [str(number) for number in range(length)] * 2
        named = {"records": [0] * len(keys), "counts": [length] * 2}
        index.update({"keys": keys, **named})
        if length == 8:
            assert [len(each) for each in read_answers(content, 2)] == [8, 8]
    with pytest.raises(CorruptPacket, match="at most 1048576 entries"):
        read_answers(content, 2)


@in_one_test(
    "change",
    [
        {"per-node": 0},
        {"numbers": [0, 2]},
        {"numbers": [0]},
        {"nodes": [1.5, 2.5]},
        {"total": "many"},
    ],
)
def test_a_damaged_request_is_refused(change: dict[str, Any]) -> None:
    def lie(msg: Message, context: Context) -> Message:
        index = msg.content[BUNDLE_KEY]
        if "nodes" in index and context.node_id == 1001:
            index.update(change)
        return counting.app(msg, context)

    counting = CountingApp()
    grid = many_clients(InProcessGrid(lie, NUM_NODES), PER_NODE, NUM_CLIENTS)
    said = answers(ask(grid, grid.get_node_ids(), nothing))
    assert all("CorruptPacket" in str(each) for each in said[:PER_NODE]), said


def test_what_several_clients_are_sent_is_in_the_message_once() -> None:
    def records(strategy: Any, app: ClientApp) -> list[int]:
        sizes: list[int] = []
        grid = bundled(app, lambda msg, _: sizes.append(len(msg.content) - 1))
        strategy.start(grid, to_record(INITIAL), 2)
        return sizes[-NUM_NODES:]

    app = make_app("gradient", outer=[ManyClientsMod()])
    # Of each node: the config, and a packet for each of its clients.
    assert records(RandMCM(**COMMON, fraction_evaluate=0.0), app) == [3, 3, 2]
    app = make_app("weights", outer=[ManyClientsMod()])
    assert records(FedAvg(fraction_evaluate=0.0), app) == [2, 2, 2]
    # What only looks equal is not.
    zeros = [MetricRecord({"x": np.float64(sign * 0.0)}) for sign in (1, -1)]
    content = answer_content([RecordDict({"m": each}) for each in zeros])
    signs = [np.signbit(each["m"]["x"]) for each in read_answers(content, 2)]
    assert signs == [False, True]


def test_long_states_of_a_nodes_clients_share_what_is_equal() -> None:
    shared = np.random.default_rng(0).bytes(5 << 17)
    # Of the same beginning, as vectors that begin with zeros.
    own = [bytes(99) + np.random.default_rng(i).bytes((3 << 17) + i) for i in range(3)]
    kept = RecordDict({"mine": ConfigRecord({"x": 1})})
    state = NodeState(kept)
    for client in range(3):
        long = ConfigRecord({"a": 1.5, "state": shared + own[client], "b": [b"c"]})
        state.keep(str(client), RecordDict({"link": long, "n": MetricRecord({"m": 1})}))
    parts: list[PickleBuffer] = []
    pickled = pickle.dumps(kept, protocol=5, buffer_callback=parts.append)
    num_bytes = sum(part.raw().nbytes for part in parts)
    assert num_bytes == len(shared) + sum(map(len, own))
    assert len(pickled) < 10_000
    for copy in (
        pickle.loads(pickled, buffers=parts),
        pickle.loads(pickle.dumps(kept, protocol=4)),
        recorddict_from_proto(recorddict_to_proto(kept)),
    ):
        assert copy["mine"] == kept["mine"]
        for client in range(3):
            read = NodeState(copy).read(str(client))
            assert list(read) == ["link", "n"]
            assert list(read["link"].items()) == [
                ("a", 1.5),
                ("state", shared + own[client]),
                ("b", [b"c"]),
            ]
        again = NodeState(copy)
        again.keep("1", RecordDict())
        assert not NodeState(copy).read("1")
        assert NodeState(copy).read("2")["n"] == MetricRecord({"m": 1})


def test_a_checkpoint_has_every_clients_state(tmp_path: Path) -> None:
    app = make_app("gradient", outer=[ManyClientsMod()])
    straight = outcome(MCM(**COMMON), bundled(app))
    saving = {**COMMON, "checkpoint_dir": tmp_path, "checkpoint_every": 1}
    MCM(**saving).start(bundled(app), to_record(INITIAL), 2)
    resumed = MCM(**saving, resume=True)
    assert outcome(resumed, bundled(app))[0] == straight[0]
    # Nobody had to be sent the model again.
    assert resumed.ledger.downlink.snapshot_bytes == NUM_CLIENTS * INITIAL.nbytes


def test_a_run_goes_on_with_more_clients_a_node(tmp_path: Path) -> None:
    """Each is known again by its partition-id, though it is on another node now."""
    app = make_app("gradient", outer=[ManyClientsMod()])
    saving = {**COMMON, "checkpoint_dir": tmp_path, "checkpoint_every": 1}
    grids = [many_clients(InProcessGrid(app, 2), each, NUM_CLIENTS) for each in (3, 4)]
    MCM(**saving).start(grids[0], to_record(INITIAL), 2)
    resumed = MCM(**saving, resume=True)
    resumed.start(grids[1], to_record(INITIAL), 5)
    roster = resumed._running.roster
    clients = [roster.find(node_id) for node_id in grids[1].get_node_ids()]
    assert [client and client.identity for client in clients] == [*range(NUM_CLIENTS)]


def test_nodes_with_a_name_or_without_any() -> None:
    configs = []

    def train(msg: Message, context: Context) -> Message:
        configs.append((context.node_id, dict(context.node_config)))
        return Message(RecordDict(), reply_to=msg)

    app = ClientApp(mods=[ManyClientsMod()])
    app.train()(train)
    nodes = InProcessGrid(app, 2)
    nodes.contexts[1001].node_config = UserConfig({"partition-id": "ward"})
    nodes.contexts[1002].node_config = UserConfig({"colour": "red"})
    grid = many_clients(nodes, 2)
    clients = list(grid.get_node_ids())
    ask(grid, clients, RecordDict)
    names = [{"partition-id": "ward/0"}, {"partition-id": "ward/1"}]
    expected = [*names, {"colour": "red"}, {"colour": "red"}]
    assert configs == list(zip(clients, expected, strict=True))


@pytest.mark.parametrize("name", ["urn:ward:3", "50%", "50%25"])
def test_a_name_of_any_signs_has_its_states(name: str) -> None:
    nodes = InProcessGrid(CountingApp().app, 1)
    nodes.contexts[1001].node_config = UserConfig({"partition-id": name})
    grid = many_clients(nodes, 2)
    for calls in (1, 2):
        came = answers(ask(grid, grid.get_node_ids(), nothing))
        assert came == [(f"{name}/{number}", calls) for number in range(2)]


def test_wrong_arguments() -> None:
    grid = InProcessGrid(make_app("gradient"), 1)
    for wrong in ({"per_node": 0}, {"per_node": 1.5}, {"num_clients": 0}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            many_clients(grid, **{"per_node": 2, **wrong})
    with pytest.raises(ConfigurationError, match="timeout must be positive"):
        many_clients(grid, 2, timeout=0)
    with pytest.raises(WrongTypeError, match="a Grid of Flower"):
        many_clients(2, 2)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="holds several clients a node alread"):
        many_clients(many_clients(grid, 2), 2)
