"""What nodes tell of themselves, and what an odd one of them does to the mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flower_compress.clients import GossipMod
from flower_compress.strategies import ChocoSGD
from flower_compress.strategies.relay.metrics import mean_metrics
from flower_compress.strategies.topology import ring
from flower_compress.testing import InProcessGrid

NODES = 4
Value = float | list[float]


def app_of(value: Callable[[int, int], Value]) -> ClientApp:
    """An app whose metrics are a function of the node and the round."""
    app = ClientApp(mods=[GossipMod()])

    @app.train()
    @app.evaluate()
    def answer(msg: Message, context: Context) -> Message:
        config = msg.content.config_records["config"]
        place = int(context.node_config["partition-id"]), int(config["server-round"])
        metrics = MetricRecord({"loss": value(*place)})
        content = RecordDict({"arrays": msg.content["arrays"], "metrics": metrics})
        return Message(content, reply_to=msg)

    return app


def test_one_odd_node_ends_no_run(caplog: pytest.LogCaptureFixture) -> None:
    def value(node: int, number: int) -> Value:
        odd = {(0, 2): [1.0, 2.0], (1, 3): math.nan}
        return odd.get((node, number), float(node))

    strategy = ChocoSGD(ring(NODES), step_size=0.1, evaluate_at_nodes=True)
    result = strategy.start(
        InProcessGrid(app_of(value), NODES),
        ArrayRecord({"w": Array(np.ones(20, np.float32))}),
        num_rounds=3,
    )
    for metrics in (result.train_metrics_clientapp, result.evaluate_metrics_clientapp):
        losses = [metrics[number]["loss"] for number in (1, 2, 3)]
        assert losses == [6 / 4, (1 + 2 + 3) / 3, (0 + 2 + 3) / 3]
    assert caplog.text.count("metric 'loss' of 1 of 4 nodes is left out") == 4


def test_the_mean_is_that_of_most() -> None:
    def mean(*values: Value) -> Any:
        contents = [RecordDict({"m": MetricRecord({"a": value})}) for value in values]
        return mean_metrics([*contents, RecordDict()]).get("a")

    assert mean() is None
    assert mean(1.0, 2.0) == 1.5
    assert mean(math.nan, 2.0) == 2.0
    assert math.isnan(mean(math.inf, 2.0, math.nan))
    assert math.isnan(mean(math.nan, math.nan))
    assert mean([1.0, 2.0], [3.0, 4.0], [5.0]) == [2.0, 3.0]
