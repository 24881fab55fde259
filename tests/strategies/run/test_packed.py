"""A user's aggregate_train meets packets, and is told what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from flower_compress.errors import ConfigurationError
from flower_compress.strategies import MCM, MalcomPSGD
from flower_compress.strategies.run.packed import PackedArrays
from flower_compress.strategies.topology import ring
from flower_compress.testing import InProcessGrid
from tests.strategies.problem import INITIAL, NUM_CLIENTS, make_app, to_record
from tests.strategies.test_decentralized import make_node_app

Read = Callable[[list[Message]], object]
Aggregate = tuple[ArrayRecord | None, MetricRecord | None]


class Reads(MCM):
    """Reads the replies, and then aggregates them as ever."""

    def __init__(self, read: Read) -> None:
        super().__init__()
        self.read = read

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> Aggregate:
        replies = list(replies)
        self.read(replies)
        return super().aggregate_train(server_round, replies)


class RelayReads(MalcomPSGD):
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> Aggregate:
        for reply in replies:
            reply.content["arrays"]["weight"]
        return None, None


def start(read: Read) -> Any:
    grid = InProcessGrid(make_app("weights"), NUM_CLIENTS)
    return Reads(read).start(grid, to_record(INITIAL), 2)


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (lambda replies: replies[0].content["arrays"]["weight"], "no array 'weight': "),
        (lambda replies: replies[0].content["arrays"].get("weight"), "no array 'weig"),
        (lambda replies: replies[0].content["arrays"].to_numpy_ndarrays(), "the reply"),
        (
            lambda replies: aggregate_arrayrecords(
                [reply.content for reply in replies], "num-examples"
            ),
            "the reply",
        ),
    ],
)
def test_reading_a_packet_as_arrays_says_what_to_do(read: Read, what: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        start(read)
    text = str(caught.value)
    assert text.startswith(what)
    assert "take the aggregate that super().aggregate_train(" in text
    assert "compress(FedAvg(...))" in text


def test_what_needs_no_arrays_works_as_ever() -> None:
    seen: list[ArrayRecord] = []

    def read(replies: list[Message]) -> None:
        for reply in replies:
            record = reply.content["arrays"]
            assert isinstance(record, PackedArrays)
            assert "weight" not in record
            assert list(record) == list(record.keys())
            assert record[next(iter(record))].dtype == "uint8"
            assert reply.content["metrics"]["num-examples"] > 0
            seen.append(record)

    result = start(read)
    assert len(seen) == 2 * NUM_CLIENTS
    assert list(result.train_metrics_clientapp) == [1, 2]


def test_the_relay_says_that_it_sees_no_model() -> None:
    grid = InProcessGrid(make_node_app(), NUM_CLIENTS)
    with pytest.raises(ConfigurationError, match="'weight': the reply holds mail"):
        RelayReads(ring(NUM_CLIENTS)).start(grid, to_record(INITIAL), 2)
