"""A strategy samples among nodes that have said who they are."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from flwr.app import Message
from flwr.serverapp.strategy import FedAvg

from flower_compress.errors import MissingModError
from flower_compress.strategies import compress
from flower_compress.testing import InProcessGrid
from flower_compress.testing.messages import GREETING, kind_of
from tests.strategies.pulls import CLIENTS, INITIAL, make_app, run, to_record


class Growing(InProcessGrid):
    """Shows one node more after each round of training; the second has no mod."""

    def __init__(self) -> None:
        super().__init__(make_app(), CLIENTS, on_message=self.note)
        self.greeted: list[int] = []
        self.trained: list[int] = []
        self.shown, self.waited = 3, 0
        whole, plain = make_app(), make_app(compressed=False)
        self.client_app = lambda msg, context: (
            plain if context.node_config["partition-id"] == 1 else whole
        )(msg, context)

    def note(self, msg: Message, reply: Message) -> None:
        kind = kind_of(msg)
        if kind == GREETING:
            self.greeted.append(msg.metadata.dst_node_id)
        elif kind == "train":
            self.trained.append(msg.metadata.dst_node_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)[: self.shown]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        messages = list(messages)
        self.waited += bool(messages) and kind_of(messages[0]) == GREETING
        replies = super().send_and_receive(messages, timeout=timeout)
        if messages and kind_of(messages[0]) == "train":
            self.shown += 1
        return replies


def test_new_nodes_are_greeted_and_those_without_the_mod_left_out() -> None:
    grid = Growing()
    run(compress(FedAvg(fraction_evaluate=0.0)), grid=grid, rounds=4)
    assert grid.waited == 1, "for the first ones; the others are greeted beside rounds"
    one, without, *others = list(grid.contexts)
    assert sorted(set(grid.greeted)) == [one, without, *others[:4]]
    assert grid.greeted.count(one) == 1
    assert without not in grid.trained
    trained = iter(grid.trained)
    for num_others in (1, 1, 2, 3):  # Each from the round after the one it came in.
        round_of = sorted(next(trained) for _ in range(1 + num_others))
        assert round_of == [one, *others[:num_others]]
    assert not list(trained)


def test_without_the_mod_it_is_told() -> None:
    grid = InProcessGrid(make_app(compressed=False), CLIENTS)
    with pytest.raises(MissingModError, match="put it first in the client app"):
        compress(FedAvg()).start(grid, to_record(INITIAL), 1)
