"""A client's metric of the name of one that the strategy adds."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from flower_compress import CompressionMod
from flower_compress.clients import GossipMod
from flower_compress.strategies import MCM, ChocoSGD, compress
from flower_compress.strategies.topology import ring
from flower_compress.testing import InProcessGrid
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


@pytest.fixture(autouse=True)
def _log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)


@pytest.mark.parametrize("name", _STRATEGIES)
def test_it_is_replaced_and_that_is_said_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    for metrics, said in (({}, 0), ({"uplink-bytes": -7.0, "mine": 2.0}, 1)):
        mod = GossipMod() if name == "relay" else CompressionMod()
        strategy = _STRATEGIES[name]()
        grid = InProcessGrid(_app(mod, **metrics), NUM_CLIENTS)
        caplog.clear()
        result = strategy.start(grid, to_record(INITIAL), 4)
        told = [text for text in caplog.messages if "is replaced" in text]
        assert len(told) == said
        for text in told:
            assert "'uplink-bytes'" in text and "give theirs another" in text
        for found in result.train_metrics_clientapp.values():
            assert found["uplink-bytes"] > 0
            assert found.get("mine") == metrics.get("mine")


def test_metrics_of_an_evaluation(caplog: pytest.LogCaptureFixture) -> None:
    app = _app(CompressionMod())

    @app.evaluate()
    def evaluate(msg: Message, _: Context) -> Message:
        record = MetricRecord({"num-examples": 1, "downlink-bytes": -7})
        return Message(RecordDict({"metrics": record}), reply_to=msg)

    grid = InProcessGrid(app, NUM_CLIENTS)
    result = MCM(fraction_evaluate=1.0).start(grid, to_record(INITIAL), 3)
    assert sum("'downlink-bytes' is replaced" in text for text in caplog.messages) == 1
    for found in result.evaluate_metrics_clientapp.values():
        assert found["downlink-bytes"] > 0
