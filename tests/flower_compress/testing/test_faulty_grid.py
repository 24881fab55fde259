"""Faults come as often as their knobs say, and leave behind what Flower leaves."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from flower_compress import CompressionMod
from flower_compress.errors import ConfigurationError
from flower_compress.strategies import SGD
from flower_compress.testing import (
    Fault,
    FaultPoint,
    Faults,
    FaultyGrid,
    InProcessGrid,
    RandomFaults,
    Schedule,
)
from tests.cases import in_one_test

NO_FAULTS = RandomFaults(reorder=False)
NETWORK = RandomFaults(
    lose_messages=0.2, lose_replies=0.2, error_replies=0.2, duplicate=0.2, delay=0.2
)
CLIENTS = {
    "raise_before": {"RAISE_BEFORE"},
    "raise_after": {"RAISE_AFTER"},
    "raise_outside": {"RAISE_OUTSIDE"},
    "restart_every": {"RESTART_BEFORE", "RESTART_AFTER"},
}


@pytest.fixture(autouse=True)
def _quiet_flower() -> Iterator[None]:
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


class Plan(Schedule):
    """Given faults for given messages, and everything in order."""

    def __init__(self, faults: Mapping[tuple[int, int], Faults]) -> None:
        self._faults = faults

    @property
    def possible(self) -> frozenset[Fault]:
        return frozenset(fault for faults in self._faults.values() for fault in faults)

    def draw(self, exchange: int, position: int) -> Faults:
        return self._faults.get((exchange, position), {})

    def order(self, exchange: int, direction: str, size: int) -> Sequence[int]:
        return range(size)


class CountingApp:
    """A client that counts its calls, in its state and for the test."""

    def __init__(self) -> None:
        self.received: list[tuple[int, int]] = []  # by node id, the number sent

    def __call__(self, message: Message, context: Context) -> Message:
        number = message.content["config"]["number"]
        self.received.append((context.node_id, number))
        before = context.state.get("calls", ConfigRecord({"count": 0}))["count"]
        context.state["calls"] = ConfigRecord({"count": before + 1})
        answer = MetricRecord({"number": number, "count": before + 1})
        return Message(RecordDict({"metrics": answer}), reply_to=message)

    def numbers(self, node_id: int = 1001) -> list[int]:
        """What reached a node, in that order."""
        return [number for receiver, number in self.received if receiver == node_id]


class MinimalGrid(Grid):
    """As little as a grid can be; nothing tells that its clients are near."""

    pull_interval = 3.0

    def __init__(self, app: CountingApp, num_nodes: int) -> None:
        self._inner = InProcessGrid(app, num_nodes)
        self.waves: list[list[int]] = []
        self.timeouts: list[float | None] = []
        self._answered: set[str] = set()

    def set_run(self, run: Any) -> None:
        self._inner.set_run(run)

    @property
    def run(self) -> Any:
        return self._inner.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        return self._inner.create_message(*args, **kwargs)

    def get_node_ids(self) -> Iterable[int]:
        return self._inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        asked = list(message_ids)
        assert not self._answered & set(asked), "a SuperLink would answer with errors"
        replies = list(self._inner.pull_messages(asked))
        self._answered |= {reply.metadata.reply_to_message_id for reply in replies}
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        sent = list(messages)
        self.waves.append([message.metadata.dst_node_id for message in sent])
        self.timeouts.append(timeout)
        # The last reply comes first.
        return list(self._inner.send_and_receive(sent))[::-1]


def message(number: int, node_id: int = 1001, kind: str = MessageType.TRAIN) -> Message:
    content = RecordDict({"config": ConfigRecord({"number": number})})
    return Message(content, node_id, kind, group_id="7", ttl=90.0)


def answers(replies: Iterable[Message]) -> list[int]:
    """The numbers that came back; -1 stands for an error."""
    return [
        -1 if reply.has_error() else int(reply.content["metrics"]["number"])
        for reply in replies
    ]


def exchanges(
    faults: Faults, count: int = 5
) -> tuple[CountingApp, list[list[int]], FaultyGrid]:
    """Send 0, 1, 2, ... to one node, one in each exchange, the first with faults."""
    app = CountingApp()
    grid = FaultyGrid(InProcessGrid(app, 1), Plan({(0, 0): faults}))
    came = [answers(grid.send_and_receive([message(n)])) for n in range(count)]
    return app, came, grid


# -- what each fault leaves behind -----------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "handled", "came"),
    [
        ({}, [0, 1, 2, 3, 4], [[0], [1], [2], [3], [4]]),
        ({Fault.LOSE_MESSAGE: 0}, [1, 2, 3, 4], [[], [1], [2], [3], [4]]),
        ({Fault.LOSE_REPLY: 0}, [0, 1, 2, 3, 4], [[], [1], [2], [3], [4]]),
        ({Fault.ERROR_REPLY: 0}, [0, 1, 2, 3, 4], [[-1], [1], [2], [3], [4]]),
        ({Fault.DELAY_MESSAGE: 2}, [1, 0, 2, 3, 4], [[], [1], [0, 2], [3], [4]]),
        ({Fault.DELAY_REPLY: 3}, [0, 1, 2, 3, 4], [[], [1], [2], [0, 3], [4]]),
        (
            {Fault.DUPLICATE_MESSAGE: 0},
            [0, 0, 1, 2, 3, 4],
            [[0, 0], [1], [2], [3], [4]],
        ),
        (
            {Fault.DUPLICATE_MESSAGE: 1},
            [0, 0, 1, 2, 3, 4],
            [[0], [0, 1], [2], [3], [4]],
        ),
        ({Fault.DUPLICATE_REPLY: 1}, [0, 1, 2, 3, 4], [[0], [0, 1], [2], [3], [4]]),
    ],
)
def test_what_the_client_sees_and_what_the_server_hears(
    faults: Faults, handled: list[int], came: list[list[int]]
) -> None:
    app, replies, grid = exchanges(faults)
    assert app.numbers() == handled
    assert replies == came
    assert grid.happened == Counter(faults.keys())


@pytest.mark.parametrize(
    ("faults", "happens", "handled", "came"),
    [
        (
            [Fault.LOSE_MESSAGE, Fault.DELAY_MESSAGE, Fault.LOSE_REPLY],
            [Fault.LOSE_MESSAGE],
            [1],
            [[], [1]],
        ),
        (
            [Fault.LOSE_MESSAGE, Fault.DUPLICATE_MESSAGE, Fault.LOSE_REPLY],
            [Fault.LOSE_MESSAGE, Fault.DUPLICATE_MESSAGE],
            [1, 0],
            [[], [0, 1]],
        ),
        (
            [Fault.LOSE_REPLY, Fault.ERROR_REPLY, Fault.DUPLICATE_REPLY],
            [Fault.LOSE_REPLY, Fault.DUPLICATE_REPLY],
            [0, 1],
            [[], [0, 1]],
        ),
        (
            [Fault.ERROR_REPLY, Fault.DELAY_REPLY],
            [Fault.ERROR_REPLY],
            [0, 1],
            [[-1], [1]],
        ),
    ],
)
def test_which_of_two_faults_counts(
    faults: list[Fault], happens: list[Fault], handled: list[int], came: list[list[int]]
) -> None:
    app, replies, grid = exchanges(dict.fromkeys(faults, 1), 2)
    assert sorted(app.numbers()) == sorted(handled)
    assert [sorted(numbers) for numbers in replies] == came
    assert grid.happened == Counter(happens)


@pytest.mark.parametrize(
    ("faults", "handled", "counts"),
    [
        ({}, [0, 1, 2], [1, 2, 3]),
        ({Fault.RAISE_BEFORE: 0}, [1, 2], [-1, 1, 2]),
        # It has worked, and its state is the one before.
        ({Fault.RAISE_AFTER: 0}, [0, 1, 2], [-1, 1, 2]),
        ({Fault.RAISE_OUTSIDE: 0}, [0, 1, 2], [-1, 1, 2]),
        ({Fault.RESTART_AFTER: 0}, [0, 1, 2], [1, 1, 2]),
        ({Fault.RAISE_AFTER: 0, Fault.RESTART_AFTER: 0}, [0, 1, 2], [-1, 1, 2]),
    ],
)
def test_what_a_failing_client_keeps(
    faults: Faults, handled: list[int], counts: list[int]
) -> None:
    app = CountingApp()
    grid = FaultyGrid(InProcessGrid(app, 1), Plan({(0, 0): faults}))
    replies = [reply for n in range(3) for reply in grid.send_and_receive([message(n)])]
    assert app.numbers() == handled
    assert [
        -1 if reply.has_error() else reply.content["metrics"]["count"]
        for reply in replies
    ] == counts
    assert grid.happened == Counter(faults.keys())


@pytest.mark.parametrize("fault", [Fault.RESTART_BEFORE, Fault.RESTART_AFTER])
def test_a_restart_empties_the_state(fault: Fault) -> None:
    grid = FaultyGrid(InProcessGrid(CountingApp(), 1), Plan({(1, 0): {fault: 0}}))
    counts = [
        next(iter(grid.send_and_receive([message(n)]))).content["metrics"]["count"]
        for n in range(4)
    ]
    before = fault is Fault.RESTART_BEFORE
    assert counts == ([1, 1, 2, 3] if before else [1, 2, 1, 2])
    assert grid.restarted == {1001: 2}


def test_a_restarted_client_that_raises_has_no_state() -> None:
    faults = {Fault.RESTART_BEFORE: 0, Fault.RAISE_BEFORE: 0}
    grid = FaultyGrid(InProcessGrid(CountingApp(), 1), Plan({(1, 0): faults}))
    for n in range(2):
        grid.send_and_receive([message(n)])
    assert dict(grid.contexts[1001].state) == {}


def test_who_has_left_hears_nothing_and_keeps_its_state() -> None:
    grid = FaultyGrid(InProcessGrid(CountingApp(), 2), Plan({}))
    assert len(list(grid.send_and_receive([message(0)]))) == 1
    grid.leave(1001)
    assert [*grid.get_node_ids()] == [1002]
    assert list(grid.send_and_receive([message(1)])) == []
    grid.come_back(1001)
    assert [*grid.get_node_ids()] == [1001, 1002]
    (reply,) = grid.send_and_receive([message(2)])
    assert reply.content["metrics"]["count"] == 2


def test_what_is_on_its_way_to_a_renamed_node_reaches_nobody() -> None:
    app = CountingApp()
    plan = {(0, 0): {Fault.DELAY_MESSAGE: 1}, (2, 0): {Fault.DELAY_MESSAGE: 1}}
    grid = FaultyGrid(InProcessGrid(app, 1), Plan(plan))
    assert list(grid.send_and_receive([message(0)])) == []
    grid.rename(1001, 77)
    assert answers(grid.send_and_receive([message(1, 77)])) == [1]
    # Nor is one lost that is sent to where it has come back to.
    assert list(grid.send_and_receive([message(2, 77)])) == []
    grid.rename(77, 1001)
    assert answers(grid.send_and_receive([message(3)])) == [3]
    assert app.received == [(77, 1), (1001, 3)]


def test_an_error_looks_as_the_superlink_makes_it() -> None:
    app, _, grid = exchanges({})
    grid.faults = Plan({(5, 0): {Fault.ERROR_REPLY: 0}})
    sent = message(5)
    (reply,) = grid.send_and_receive([sent])
    assert app.numbers()[-1] == 5
    assert reply.error.code == ErrorCode.REPLY_MESSAGE_UNAVAILABLE
    assert reply.metadata.reply_to_message_id == sent.metadata.message_id
    assert reply.metadata.src_node_id == sent.metadata.src_node_id, "not the client"


def test_late_and_second_copies_answer_the_message_that_was_sent() -> None:
    plan = {
        (0, 0): {Fault.DELAY_MESSAGE: 1, Fault.DUPLICATE_MESSAGE: 0},
        (0, 1): {Fault.DUPLICATE_REPLY: 1},
    }
    ids: list[str] = []
    inner = InProcessGrid(
        CountingApp(), 2, on_message=lambda m, _: ids.append(m.metadata.message_id)
    )
    grid = FaultyGrid(inner, Plan(plan))
    sent = [message(n, 1001 + n) for n in range(2)]
    contents = [m.content for m in sent]
    replies = [*grid.send_and_receive(sent)]
    replies += grid.send_and_receive([message(2), message(3, 1002)])
    own = {m.metadata.message_id: n for n, m in enumerate(sent)}
    assert len(own) == 2
    answered = [own.get(reply.metadata.reply_to_message_id) for reply in replies]
    # Of node 1002 a reply and its duplicate, of node 1001 the two copies.
    assert sorted(n for n in answered if n is not None) == [0, 0, 1, 1]
    for reply, n in zip(replies, answered, strict=True):
        if n is not None:
            assert answers([reply]) == [n]
            assert reply.metadata.src_node_id == 1001 + n
            assert reply.metadata.group_id == "7"
            assert 89 < reply.metadata.ttl <= 90
    assert len(ids) == len(set(ids)) == 5, "every copy has an id of its own"
    assert [m.content for m in sent] == contents


def test_what_is_late_waits_for_an_exchange_of_its_kind() -> None:
    app = CountingApp()
    plan = {(0, 0): {Fault.DELAY_MESSAGE: 1}, (0, 1): {Fault.DELAY_REPLY: 1}}
    grid = FaultyGrid(InProcessGrid(app, 2), Plan(plan))
    assert answers(grid.send_and_receive([message(0), message(1, 1002)])) == []
    assert grid.send_and_receive([]) == []
    for _ in range(3):
        query = message(2, kind=MessageType.QUERY)
        assert answers(grid.send_and_receive([query])) == [2]
    assert app.numbers() == [2, 2, 2]
    assert sorted(answers(grid.send_and_receive([message(3)]))) == [0, 1, 3]
    assert grid.exchanges == {"train": 2, "query": 3}


def test_whatever_is_delayed_arrives_once() -> None:
    app = CountingApp()
    faults = RandomFaults(seed=3, delay=1.0, max_delay=4)
    grid = FaultyGrid(InProcessGrid(app, 2), faults)
    sent_in: dict[int, int] = {}
    came: list[int] = []
    late: Counter[int] = Counter()
    for exchange in range(60):
        new = range(2 * exchange, 2 * exchange + 2) if exchange < 50 else ()
        messages = [message(n, 1001 + n % 2) for n in new]
        sent_in.update(dict.fromkeys(new, exchange))
        filler = [message(-1 - exchange)]
        numbers = answers(grid.send_and_receive(messages or filler))
        for number in numbers:
            if number >= 0:
                came.append(number)
                late[exchange - sent_in[number]] += 1
    assert sorted(came) == list(range(100))
    # Both ways are late, by 1 to 4 exchanges each.
    assert min(late) == 2
    assert max(late) == 8
    assert sorted(n for _, n in app.received if n >= 0) == list(range(100))


def test_hasten_lets_everything_arrive_with_the_next_exchange() -> None:
    app, came, grid = exchanges({Fault.DELAY_MESSAGE: 9, Fault.DUPLICATE_MESSAGE: 8})
    assert came[-1] == [4]
    grid.hasten()
    assert sorted(answers(grid.send_and_receive([message(5)]))) == [0, 0, 5]


def test_push_and_pull_suffer_the_same() -> None:
    plan = {
        (0, 0): {Fault.LOSE_MESSAGE: 0},
        (0, 1): {Fault.DELAY_MESSAGE: 1},
        (0, 2): {Fault.DELAY_REPLY: 1},
        (0, 3): {Fault.DUPLICATE_MESSAGE: 0},
    }
    app = CountingApp()
    grid = FaultyGrid(MinimalGrid(app, 5), Plan(plan))
    ids = list(grid.push_messages([message(n, 1001 + n) for n in range(5)]))
    assert len(set(ids)) == 5, "a lost message has an id as well"
    assert sorted(n for _, n in app.received) == [2, 3, 3, 4]
    assert answers(grid.pull_messages(ids[:3])) == []
    assert answers(grid.pull_messages(ids)) == [3, 3, 4]
    (later,) = grid.push_messages([message(9)])
    assert answers(grid.pull_messages([later])) == [9]
    query = message(8, kind=MessageType.QUERY)
    assert answers(grid.send_and_receive([query])) == [8], "nobody asked for others"
    assert sorted(answers(grid.pull_messages(ids))) == [1, 2]
    assert answers(grid.pull_messages([*ids, later])) == []


def test_a_client_handles_one_message_at_a_time() -> None:
    plan = {(0, n): {Fault.DUPLICATE_MESSAGE: 0} for n in (0, 2)}
    inner = MinimalGrid(CountingApp(), 3)
    grid = FaultyGrid(inner, Plan(plan))
    grid.send_and_receive([message(n, 1001 + n) for n in range(3)], timeout=30.0)
    assert inner.waves == [[1001, 1002, 1003], [1001, 1003]]
    assert inner.timeouts[0] == 30.0
    assert 0 < inner.timeouts[1] < 30.0, "the time is for all"


# -- how often -------------------------------------------------------------------------


def send_many(faults: RandomFaults, num_exchanges: int = 300) -> FaultyGrid:
    grid = FaultyGrid(InProcessGrid(CountingApp(), 10), faults)
    for _ in range(num_exchanges):
        grid.send_and_receive([message(n, 1001 + n) for n in range(10)])
    return grid


@pytest.mark.parametrize("rate", [0.05, 0.3])
@pytest.mark.parametrize(
    ("knob", "names"),
    [
        ("lose_messages", {"LOSE_MESSAGE"}),
        ("lose_replies", {"LOSE_REPLY"}),
        ("error_replies", {"ERROR_REPLY"}),
        ("duplicate", {"DUPLICATE_MESSAGE", "DUPLICATE_REPLY"}),
        ("delay", {"DELAY_MESSAGE", "DELAY_REPLY"}),
        *CLIENTS.items(),
    ],
)
def test_a_fault_is_as_frequent_as_its_knob_says(
    knob: str, names: set[str], rate: float
) -> None:
    value = 0.5 / rate if knob == "restart_every" else rate
    faults = RandomFaults(seed=5, **{knob: value})
    grid = send_many(faults)
    assert {fault.name for fault in grid.happened} == names
    assert faults.possible == set(grid.happened)
    num_messages = 3000
    # What is late at the end has not met its other faults.
    slack = 10 if knob == "delay" else 0
    bound = 4.5 * math.sqrt(num_messages * rate * (1 - rate)) + slack
    for count in grid.happened.values():
        assert abs(count - num_messages * rate) < bound


def test_faults_are_drawn_independently() -> None:
    schedule = RandomFaults(seed=1, lose_replies=0.5, delay=0.5, duplicate=0.5)
    drawn = [schedule.draw(i, j) for i in range(400) for j in range(10)]
    pairs = [
        (a, b)
        for a in schedule.possible
        for b in schedule.possible
        if a.value < b.value
    ]
    assert len(pairs) == 10
    for a, b in pairs:
        both = sum(a in faults and b in faults for faults in drawn)
        assert abs(both - 1000) < 4.5 * math.sqrt(4000 * 0.25 * 0.75)
    for fault, expected in (
        (Fault.DELAY_MESSAGE, {1, 2, 3}),
        (Fault.DELAY_REPLY, {1, 2, 3}),
        (Fault.DUPLICATE_MESSAGE, {0, 1, 2, 3}),
        (Fault.DUPLICATE_REPLY, {0, 1, 2, 3}),
    ):
        late = Counter(faults[fault] for faults in drawn if fault in faults)
        assert set(late) == expected
        assert min(late.values()) > 0.8 * late.total() / len(expected)


def test_same_seed_same_faults() -> None:
    """Whatever the node ids are, and whichever reply comes first."""
    faults = replace(NETWORK, seed=4)

    def numbers(grid: FaultyGrid, ids: Sequence[int]) -> list[list[int]]:
        return [
            answers(
                grid.send_and_receive(
                    [message(4 * i + j, node_id) for j, node_id in enumerate(ids)]
                )
            )
            for i in range(40)
        ]

    first = FaultyGrid(InProcessGrid(CountingApp(), 4), faults)
    renamed = FaultyGrid(InProcessGrid(CountingApp(), 4), faults)
    for new_id, old_id in zip((9, 3, 70, 5), range(1001, 1005), strict=True):
        renamed.rename(old_id, new_id)
    reverse = FaultyGrid(MinimalGrid(CountingApp(), 4), faults)
    expected = numbers(first, range(1001, 1005))
    assert numbers(renamed, (9, 3, 70, 5)) == expected
    assert numbers(reverse, range(1001, 1005)) == expected
    assert first.happened == renamed.happened == reverse.happened
    other = FaultyGrid(InProcessGrid(CountingApp(), 4), replace(faults, seed=5))
    assert numbers(other, range(1001, 1005)) != expected


def test_clients_in_several_threads_fail_as_in_one() -> None:
    """Each at what its own message suffers, whatever others do meanwhile."""

    def slowly(message: Message, context: Context) -> Message:
        time.sleep(0.001)
        return CountingApp()(message, context)

    def run(threads: int) -> tuple[list[list[int]], Counter[Fault]]:
        faults = RandomFaults(seed=3, raise_before=0.3, raise_outside=0.3)
        nodes = InProcessGrid(slowly, 10, threads=threads)
        grid = FaultyGrid(nodes, faults)
        messages = [[message(n, 1001 + n) for n in range(10)] for _ in range(4)]
        came = [answers(grid.send_and_receive(each)) for each in messages]
        return came, grid.happened

    assert run(4) == run(1)


def test_a_knob_leaves_the_draws_of_the_others_as_they_are() -> None:
    less = RandomFaults(seed=2, lose_replies=0.3)
    more = replace(less, lose_messages=0.5, delay=0.9, restart_every=2)
    for i in range(50):
        assert (Fault.LOSE_REPLY in less.draw(i, 0)) == (
            Fault.LOSE_REPLY in more.draw(i, 0)
        )


def test_order_is_random_if_asked_for() -> None:
    app = CountingApp()
    grid = FaultyGrid(InProcessGrid(app, 8), RandomFaults(seed=1))
    messages = [message(n, 1001 + n) for n in range(8)]
    orders = [tuple(answers(grid.send_and_receive(messages))) for _ in range(5)]
    numbers = [number for _, number in app.received]
    orders += [tuple(numbers[start : start + 8]) for start in range(0, 40, 8)]
    assert len(set(orders)) == 10, "messages in one order, replies in another"
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(8))}
    grid.faults = NO_FAULTS
    assert answers(grid.send_and_receive(messages)) == list(range(8))


# -- which grids -----------------------------------------------------------------------


def test_clients_fail_in_this_process_only() -> None:
    for knob, names in CLIENTS.items():
        faults = RandomFaults(**{knob: 1.0})
        assert {fault.name for fault in faults.possible} == names
        with pytest.raises(ConfigurationError, match="got MinimalGrid") as caught:
            FaultyGrid(MinimalGrid(CountingApp(), 1), faults)
        assert str(caught.value).startswith(", ".join(sorted(names)))
        grid = FaultyGrid(MinimalGrid(CountingApp(), 1), NETWORK)
        with pytest.raises(ConfigurationError, match="expected an InProcessGrid"):
            grid.faults = faults
        assert grid.faults is NETWORK
    for act in (lambda: grid.restart(1001), lambda: grid.rename(1001, 5)):
        with pytest.raises(ConfigurationError, match="expected an InProcessGrid"):
            act()


def test_everything_else_is_the_wrapped_grid() -> None:
    inner = MinimalGrid(CountingApp(), 3)
    grid = FaultyGrid(inner, NETWORK)
    assert list(grid.get_node_ids()) == [1001, 1002, 1003]
    assert [node.node_id for node in grid.get_nodes()] == [1001, 1002, 1003]
    run = SimpleNamespace(run_id=5)
    grid.set_run(run)
    assert grid.run is inner.run is run
    made = grid.create_message(RecordDict(), "train", 1002, "3", ttl=8.0)
    assert (made.metadata.dst_node_id, made.metadata.ttl) == (1002, 8.0)
    assert grid.pull_interval == 3.0
    grid.pull_interval = 0.01
    assert inner.pull_interval == 0.01
    assert "pull_interval" not in vars(grid)
    grid.on_train = None
    assert not hasattr(inner, "on_train")
    assert not hasattr(grid, "no_such_attribute")


def test_a_fault_point_says_where_a_client_raises() -> None:
    passed: list[str] = []

    def note(name: str) -> Any:
        def mod(msg: Message, context: Context, call_next: Any) -> Message:
            passed.append(name)
            reply = call_next(msg, context)
            passed.append(f"{name} again")
            return reply

        return mod

    point = FaultPoint()
    app = ClientApp(mods=[note("outer"), point, note("inner")])
    app.train()(CountingApp())
    alone = InProcessGrid(app, 1)
    assert answers(alone.send_and_receive([message(0)])) == [0]
    passed.clear()
    plan = {(0, 0): {Fault.RAISE_BEFORE: 0}, (1, 0): {Fault.RAISE_AFTER: 0}}
    grid = FaultyGrid(alone, Plan(plan), fault_point=point)
    for n, expected in enumerate(
        (["outer"], ["outer", "inner", "inner again"], ["outer", "inner"])
    ):
        assert answers(grid.send_and_receive([message(n)])) == [n if n == 2 else -1]
        assert passed[: len(expected)] == expected
        assert ("outer again" in passed) == (n == 2)
        passed.clear()
    grid.faults = Plan({(3, 0): {Fault.RAISE_OUTSIDE: 0}})
    assert answers(grid.send_and_receive([message(3)])) == [-1]
    assert passed == ["outer", "inner", "inner again", "outer again"]


# -- with a strategy -------------------------------------------------------------------


def training_app(mods: list[Any]) -> ClientApp:
    app = ClientApp(mods=mods)

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        w = msg.content["arrays"]["w"].numpy()
        target = np.float32(context.node_config["partition-id"])
        content = RecordDict(
            {
                "arrays": ArrayRecord({"w": Array(w - (w - target) / 2)}),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        return Message(content, reply_to=msg)

    return app


EVERYTHING = RandomFaults(
    seed=1,
    lose_messages=0.1,
    lose_replies=0.1,
    error_replies=0.1,
    duplicate=0.1,
    delay=0.1,
    restart_every=10,
    raise_before=0.1,
    raise_after=0.1,
    raise_outside=0.1,
)


@pytest.mark.parametrize(
    ("strategy", "mods", "kinds"),
    [
        (FedAvg(fraction_evaluate=0.0), [], {"train"}),
        (
            SGD(fraction_evaluate=0.0, max_failed_rounds=100),
            [CompressionMod()],
            {"greeting", "train"},
        ),
    ],
)
def test_a_strategy_runs(strategy: Any, mods: list[Any], kinds: set[str]) -> None:
    initial = ArrayRecord({"w": Array(np.full(4, 50.0, dtype=np.float32))})
    grid = FaultyGrid(InProcessGrid(training_app(mods), 5), EVERYTHING)
    seen: list[int] = []
    grid.on_train = lambda messages: seen.append(len(messages))
    result = strategy.start(grid, initial, num_rounds=40)
    w = result.arrays["w"].numpy()
    assert np.abs(w - 2).max() < 2.5, "among the clients' targets, from 0 to 4"
    assert set(grid.happened) == set(Fault)
    assert set(grid.exchanges) == kinds
    assert len(seen) == grid.exchanges["train"] == 40


def test_a_client_that_fails_still_answers_a_greeting() -> None:
    app = training_app([CompressionMod()])
    faults = RandomFaults(raise_before=1.0, raise_after=1.0, raise_outside=1.0)
    grid = FaultyGrid(InProcessGrid(app, 3), faults)
    strategy = SGD(fraction_evaluate=0.0, max_failed_rounds=100)
    initial = ArrayRecord({"w": Array(np.ones(4, dtype=np.float32))})
    result = strategy.start(grid, initial, num_rounds=3)
    np.testing.assert_array_equal(result.arrays["w"].numpy(), np.ones(4))
    assert grid.exchanges == {"greeting": 1, "train": 3}
    assert grid.happened == {Fault.RAISE_BEFORE: 9}


# -- knobs -----------------------------------------------------------------------------


@in_one_test(
    ("knob", "value", "parts"),
    [
        *(
            (field.name, value, [field.name, "from 0 to 1", repr(value)])
            for field in fields(RandomFaults)
            if field.type == "float"
            for value in (-0.1, 1.01, float("nan"), "often")
        ),
        ("max_delay", 0, ["max_delay", "positive integer", "got 0"]),
        ("max_delay", 1.5, ["max_delay", "positive integer", "got 1.5"]),
        ("restart_every", 0.5, ["restart_every", "at least 1", "got 0.5"]),
        ("restart_every", float("nan"), ["restart_every", "got nan"]),
    ],
)
def test_knobs_are_checked(knob: str, value: Any, parts: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RandomFaults(**{knob: value})
    for part in parts:
        assert part in str(caught.value)


def test_without_knobs_nothing_happens() -> None:
    assert RandomFaults().possible == frozenset()
    assert send_many(RandomFaults(), 5).happened == Counter()


def test_clients_are_not_brought_back_past_what_is_in_flight() -> None:
    inner = InProcessGrid(lambda msg, context: Message(msg.content, reply_to=msg), 2)
    for name in ("save_clients", "load_clients"):
        assert hasattr(inner, name)
        assert not hasattr(FaultyGrid(inner, RandomFaults()), name)
