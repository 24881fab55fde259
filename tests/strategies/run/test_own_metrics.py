"""A client's metric of the name of one that the strategy adds."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from flower_compress import CompressionMod
from flower_compress.clients import GossipMod
from flower_compress.strategies import MCM, ChocoSGD, compress
from flower_compress.strategies.topology import ring
from flower_compress.testing import InProcessGrid
from tests.cases import in_one_test
from tests.strategies.problem import INITIAL, NUM_CLIENTS, to_record

_STRATEGIES: dict[str, Any] = {
    "mcm": lambda: MCM(fraction_evaluate=0.0),
    "compress": lambda: compress(FedAvg(fraction_evaluate=0.0)),
    "relay": lambda: ChocoSGD(ring(NUM_CLIENTS)),
}


def _app(mod: Any, **metrics: float) -> ClientApp:
    app = ClientApp(mods=[mod])

    @app.train()
    def train(msg: Message, _: Context) -> Message:
        record = MetricRecord({"num-examples": 1, **metrics})
        content = RecordDict({"arrays": msg.content["arrays"], "metrics": record})
        return Message(content, reply_to=msg)

    return app


@in_one_test("name", _STRATEGIES)
def test_it_is_replaced_and_that_is_said_once(name: str) -> None:
    for metrics, said in (({}, 0), ({"uplink-bytes": -7.0, "mine": 2.0}, 1)):
        mod = GossipMod() if name == "relay" else CompressionMod()
        strategy = _STRATEGIES[name]()
        grid = InProcessGrid(_app(mod, **metrics), NUM_CLIENTS)
        with _lines() as lines:
            result = strategy.start(grid, to_record(INITIAL), 4)
        told = [line for line in lines if "is replaced" in line]
        assert len(told) == said
        for line in told:
            assert "'uplink-bytes'" in line and "give theirs another" in line
        for found in result.train_metrics_clientapp.values():
            assert found["uplink-bytes"] > 0
            assert found.get("mine") == metrics.get("mine")


@contextmanager
def _lines() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("flwr").addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger("flwr").removeHandler(handler)


def test_metrics_of_an_evaluation() -> None:
    app = _app(CompressionMod())

    @app.evaluate()
    def evaluate(msg: Message, _: Context) -> Message:
        record = MetricRecord({"num-examples": 1, "downlink-bytes": -7})
        return Message(RecordDict({"metrics": record}), reply_to=msg)

    grid = InProcessGrid(app, NUM_CLIENTS)
    with _lines() as lines:
        result = MCM(fraction_evaluate=1.0).start(grid, to_record(INITIAL), 3)
    assert sum("'downlink-bytes' is replaced" in line for line in lines) == 1
    for found in result.evaluate_metrics_clientapp.values():
        assert found["downlink-bytes"] > 0
