"""Clients without examples: they have no say, and a round of them is no step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable

from flower_compress import TopK
from flower_compress.strategies import (
    MCM,
    QSGD,
    SGD,
    CompressedStrategy,
    Diana,
    Dore,
    DoubleSqueeze,
)
from flower_compress.testing import InProcessGrid
from tests.strategies.problem import (
    INITIAL,
    NUM_CLIENTS,
    NUM_EXAMPLES,
    local_weights,
    make_app,
    to_record,
    to_vector,
)

ROUNDS = 6
EMPTY_CLIENT, EMPTY_ROUNDS = 2, (3, 4)


def without_examples(
    msg: Message, context: Context, call_next: ClientAppCallable
) -> Message:
    """One client never has examples, and in some rounds none has."""
    reply = call_next(msg, context)
    server_round = msg.content["config"]["server-round"]
    if (
        context.node_config["partition-id"] == EMPTY_CLIENT
        or server_round in EMPTY_ROUNDS
    ):
        reply.content["metrics"] = MetricRecord({"num-examples": 0, "norm": 1.0})
    return reply


def models_of(strategy: CompressedStrategy) -> dict[int, Any]:
    models: dict[int, Any] = {}

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        models[server_round] = to_vector(arrays)
        return None

    app = make_app("weights", inner=[without_examples])
    grid = InProcessGrid(app, NUM_CLIENTS)
    strategy.start(grid, to_record(INITIAL), ROUNDS, evaluate_fn=evaluate)
    return models


def test_the_model_is_that_of_federated_averaging(
    caplog: pytest.LogCaptureFixture,
) -> None:
    models, w = models_of(SGD()), INITIAL
    clients = [i for i in range(NUM_CLIENTS) if i != EMPTY_CLIENT]
    weights = [NUM_EXAMPLES[i] for i in clients]
    for server_round in range(1, ROUNDS + 1):
        if server_round not in EMPTY_ROUNDS:
            local = [local_weights(i, w, server_round) for i in clients]
            w = np.average(local, axis=0, weights=weights).astype(np.float32)
        np.testing.assert_allclose(models[server_round], w, rtol=0, atol=1e-6)
    for server_round in EMPTY_ROUNDS:
        told = f"round {server_round}: no step, since 'num-examples' is 0 in every"
        assert told in caplog.text
    assert "no mean of the metrics: num-examples is 0 in every reply" in caplog.text


@pytest.mark.parametrize(
    ("cls", "extra"),
    [
        (QSGD, {}),
        (Diana, {}),
        (Diana, {"uplink_memory": "mean"}),
        (Diana, {"uplink_memory": "sampled"}),
        (MCM, {}),
        (Dore, {}),
        (DoubleSqueeze, {"compressor": TopK(k=5)}),
    ],
)
def test_every_link_bears_it(
    cls: type[CompressedStrategy], extra: dict[str, Any]
) -> None:
    strategy = cls(**extra)
    models = models_of(strategy)
    assert strategy.refused.total() == 0
    assert not np.array_equal(models[2], models[1])
    assert not np.array_equal(models[5], models[4])
    assert np.isfinite(models[ROUNDS]).all()
    np.testing.assert_array_equal(models[4], models[2])
