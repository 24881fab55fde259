"""Messages answered in threads: in order, one at a time for each node."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from flwr.app import Context, Message, MessageType, RecordDict

from flower_compress.errors import ConfigurationError
from flower_compress.testing import InProcessGrid
from flower_compress.testing.deliveries import Deliveries, Pace

TRAIN = MessageType.TRAIN


def messages(*nodes: int) -> list[Message]:
    return [Message(RecordDict(), node, TRAIN) for node in nodes]


def test_replies_keep_their_order_and_nodes_have_one_message_at_a_time() -> None:
    busy: Counter[int] = Counter()
    most: list[int] = []
    seen: dict[int, list[str]] = {}
    both = threading.Barrier(2, timeout=20)

    def app(msg: Message, context: Context) -> Message:
        busy[context.node_id] += 1
        most.append(max(busy.values()))
        if msg.metadata.message_id in ("1", "2"):
            both.wait()  # Two at a time, or it never ends.
        seen.setdefault(context.node_id, []).append(msg.metadata.message_id)
        time.sleep(0.001 * (context.node_id % 3))
        busy[context.node_id] -= 1
        if context.node_id == 1003:
            raise ValueError("of node 1003")
        return Message(RecordDict(), reply_to=msg)

    grid = InProcessGrid(app, 4, threads=2)
    nodes = (1001, 1002, 1001, 1003, 1001, 1004)
    replies = list(grid.send_and_receive(messages(*nodes)))
    assert [reply.metadata.src_node_id for reply in replies] == [*nodes]
    assert [reply.has_error() for reply in replies] == [n == 1003 for n in nodes]
    assert seen[1001] == ["1", "3", "5"]
    assert set(most) == {1}
    ids = list(grid.push_messages(messages(1004, 1002)))
    pulled = grid.pull_messages(ids)
    assert [reply.metadata.src_node_id for reply in pulled] == [1004, 1002]
    with pytest.raises(ConfigurationError, match="threads"):
        InProcessGrid(app, 1, threads=-1)
    for wrong in (0, 2.5, True, "3"):
        with pytest.raises(ConfigurationError, match="num_nodes must be a whole"):
            InProcessGrid(app, wrong)  # type: ignore[arg-type]


def test_messages_are_made_when_they_are_due() -> None:
    made: list[int] = []
    waits: list[int] = []

    def due() -> object:
        for node in range(100):
            made.append(node)
            yield from messages(1001 + node)

    def answer(message: Message) -> Message:
        waits.append(len(made))
        return message

    Deliveries(2, 2).answers(due(), answer)  # type: ignore[arg-type]
    assert waits[0] <= 5


def test_threads_are_kept_where_they_are_faster() -> None:
    for slower, expected in ((0.8, True), (0.95, False), (1.5, False)):
        pace, asked = Pace(), []
        for trial in range(12):
            threaded = pace.next_is_threaded(TRAIN)
            asked.append(threaded)
            # The first of each way takes long, whatever comes after.
            seconds = slower if threaded else 1.0
            pace.note(TRAIN, threaded, 9.0 * (trial < 2) + seconds)
        assert asked == [False, True] * 3 + [expected] * 6
    assert not pace.next_is_threaded(MessageType.EVALUATE)


def test_a_single_message_needs_no_thread() -> None:
    deliveries, names = Deliveries(0, 2), []

    def answer(message: Message) -> Message:
        names.append(threading.current_thread().name)
        return message

    for _ in range(9):
        deliveries.answers(messages(1001), answer)
    assert set(names) == {"MainThread"}
    # With several both ways are tried.
    for _ in range(2):
        deliveries.answers(messages(1001, 1002), answer)
    assert len(set(names)) > 1
