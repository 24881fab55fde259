"""Greetings hold nobody up, and a user is told of nodes that do not answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict

from flower_compress.errors import MissingModError
from flower_compress.strategies import SGD, CompressedStrategy
from flower_compress.strategies.run import greetings
from flower_compress.strategies.server import participants
from flower_compress.testing import InProcessGrid
from flower_compress.testing.messages import GREETING, kind_of
from tests.strategies.problem import GAMMA, INITIAL, NUM_CLIENTS, make_app, to_record

SLOW = 1003
TIMEOUT = 60.0
ROUNDS = 40


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participants, "_RETRY_SECONDS", 0.0)


class Clocked(InProcessGrid):
    """Has a clock of its own: an exchange takes a second, or the whole timeout.

    Attributes
    ----------
    clock : float
        Seconds since the beginning.
    slow : set[int]
        Nodes that answer no greeting in time.
    answers_after : int, optional
        How many pulls later they do; None for never.
    log : list[tuple[str, int]]
        What nodes were sent: its kind, and to which.
    """

    def __init__(self, app: Any, num_nodes: int = NUM_CLIENTS) -> None:
        super().__init__(app, num_nodes)
        self.clock, self.answers_after = 0.0, None
        self.slow: set[int] = set()
        self.log: list[tuple[str, int]] = []
        self.rounds: list[float] = []
        self._late: list[tuple[int, Message]] = []
        self._pulls = 0

    def _split(self, messages: Iterable[Message]) -> tuple[list[Message], bool]:
        now = []
        for message in messages:
            kind, node_id = kind_of(message), message.metadata.dst_node_id
            self.log.append((kind, node_id))
            if kind == GREETING and node_id in self.slow:
                if self.answers_after is not None:
                    due = self._pulls + self.answers_after
                    self._late.append((due, self._deliver(message)))
                else:
                    message.metadata.__dict__["_message_id"] = f"lost-{len(self.log)}"
            else:
                now.append(message)
        return now, len(now) < len(list(messages))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        messages = list(messages)
        if not messages:
            return []
        now, is_late = self._split(messages)
        self.clock += (timeout or 0.0) if is_late else 1.0
        if kind_of(messages[0]) == "train":
            self.rounds.append(self.clock)
        return super().send_and_receive(now)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        super().push_messages(self._split(messages)[0])
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self._pulls += 1
        ids = set(message_ids)
        late = [reply for due, reply in self._late if due <= self._pulls]
        late = [reply for reply in late if reply.metadata.reply_to_message_id in ids]
        self._late = [(due, reply) for due, reply in self._late if reply not in late]
        return [*super().pull_messages(ids), *late]

    def trained(self, node_id: int) -> int:
        return self.log.count(("train", node_id))


def run(grid: Clocked, rounds: int = ROUNDS, **kwargs: Any) -> CompressedStrategy:
    strategy = SGD(step_size=GAMMA, fraction_evaluate=0.0, **kwargs)
    strategy.start(grid, to_record(INITIAL), rounds)
    return strategy


def test_a_node_that_never_answers_costs_no_round_a_second() -> None:
    grid = Clocked(make_app())
    grid.slow = {SLOW}
    run(grid)
    # Nobody is there before the first greeting; after it, only trainings take time.
    assert grid.rounds == [TIMEOUT + n for n in range(1, ROUNDS + 1)]
    greeted = Counter(node for kind, node in grid.log if kind == GREETING)
    assert greeted[SLOW] == 7, "in rounds 1, 2, 3, 5, 9, 17, 33"
    assert greeted.total() == NUM_CLIENTS - 1 + 7


class Deployed(Clocked):
    """Is no engine of this process: its nodes may come later."""

    save_clients = load_clients = None  # type: ignore[assignment]


def test_fewer_than_were_asked_for_do_not_train(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Connected is not enough: a node takes part once it has answered its greeting."""
    grid = Deployed(make_app(), 3)
    grid.slow, grid.answers_after = {SLOW}, 3
    run(grid, min_available_nodes=3)
    assert grid.trained(SLOW) == grid.trained(1001) == ROUNDS
    assert "answer their greeting: 2 have (minimum: 3)" in caplog.text


@pytest.mark.parametrize("answers_after", [1, 2, 5])
def test_an_answer_that_comes_late_is_heard_and_costs_nothing(
    answers_after: int,
) -> None:
    """Without evaluations each round pulls once, and the first pull is in round 2."""
    grid = Clocked(make_app())
    grid.slow, grid.answers_after = {SLOW}, answers_after
    run(grid)
    assert grid.rounds[-1] == TIMEOUT + ROUNDS
    assert grid.trained(SLOW) == ROUNDS - answers_after
    assert grid.trained(1001) == ROUNDS


def test_who_joins_takes_part_in_the_round_after() -> None:
    grid = Clocked(make_app())
    hidden = grid.contexts.pop(SLOW)

    def come(server_round: int, _: Any) -> None:
        if server_round == 3:  # So it is there when round 4 begins.
            grid.contexts[SLOW] = hidden

    strategy = SGD(step_size=GAMMA, fraction_evaluate=0.0)
    strategy.start(grid, to_record(INITIAL), 10, evaluate_fn=come)
    assert grid.trained(SLOW) == 6, "rounds 5 to 10"
    assert grid.log.count((GREETING, SLOW)) == 1
    assert grid.rounds == [1.0 + n for n in range(1, 11)]


def test_a_grid_that_cannot_push_is_asked_and_waited_for() -> None:
    class Asking(Clocked):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            raise NotImplementedError

    grid = Asking(make_app())
    grid.slow = {SLOW}
    run(grid)
    assert grid.trained(1001) == ROUNDS
    assert grid.log.count((GREETING, SLOW)) == 7
    assert grid.rounds[-1] == 7 * TIMEOUT + ROUNDS


# -- without the mod -------------------------------------------------------------------


def without_mod(*node_ids: int) -> Any:
    whole, bare = make_app(), _bare()

    def app(msg: Message, context: Context) -> Message:
        chosen = bare if context.node_id in node_ids else whole
        return chosen(msg, context)

    return app


def _bare() -> Any:
    def app(msg: Message, context: Context) -> Message:
        return Message(RecordDict({"arrays": msg.content["arrays"]}), reply_to=msg)

    return app


def test_one_missing_mod_among_slow_nodes_is_no_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    grid = Clocked(without_mod(1001))
    grid.slow, grid.answers_after = set(grid.contexts) - {1001}, 1
    run(grid, 5)
    assert grid.trained(1001) == 0
    assert grid.trained(SLOW) == 5
    assert "client refused identity=? node=1001 round=1 reason" in caplog.text
    assert "it gave the greeting back as it was" in caplog.text
    assert "if CompressionMod is missing there, put it first in" in caplog.text


def test_who_forgot_the_mod_is_told_at_once_and_else_when_all_have_answered() -> None:
    everyone = [*range(1001, 1001 + NUM_CLIENTS)]
    grid = Clocked(without_mod(*everyone))
    with pytest.raises(MissingModError, match="5 of 5 nodes were greeted in vain"):
        run(grid)
    assert grid.clock == 1.0
    grid = Clocked(without_mod(*everyone))
    grid.slow, grid.answers_after = {SLOW}, 3
    with pytest.raises(MissingModError, match="5 of 5 nodes were greeted in vain"):
        run(grid)
    assert TIMEOUT <= grid.clock <= 4 * TIMEOUT
    # One that is gone is not waited for.
    grid = Clocked(without_mod(*everyone))
    grid.slow = {SLOW}
    pull = grid.pull_messages

    def pull_and_go(message_ids: Iterable[str]) -> Iterable[Message]:
        grid.contexts.pop(SLOW, None)
        return pull(message_ids)

    grid.pull_messages = pull_and_go  # type: ignore[method-assign]
    with pytest.raises(MissingModError, match="4 of 4 nodes were greeted in vain"):
        run(grid)


def test_very_many_are_greeted_in_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    """All take part from the first round on, and are asked no more than so many."""
    expected = run(Clocked(make_app()), rounds=3)
    monkeypatch.setattr(greetings, "_WAVE", 2)
    largest: list[int] = []

    class Counted(Clocked):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            messages = list(messages)
            largest.append(len(messages))
            return super().push_messages(messages)

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            message_ids = list(message_ids)
            largest.append(len(message_ids))
            return super().pull_messages(message_ids)

    grid = Counted(make_app())
    strategy = run(grid, rounds=3)
    assert max(largest) == 2
    assert Counter(
        node for kind, node in grid.log if kind == GREETING
    ) == dict.fromkeys(grid.contexts, 1)
    assert len(strategy._running.roster) == NUM_CLIENTS
    assert strategy._running.model.tobytes() == expected._running.model.tobytes()
    assert grid.trained(1001) == 3
