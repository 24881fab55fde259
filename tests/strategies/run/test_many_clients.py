"""Several clients on a node: everything is as with one client a node."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

from flwr.app import (
    Message,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from flower_compress import ManyClientsMod
from flower_compress.strategies import (
    MCM,
    Artemis,
    RandMCM,
    compress,
    many_clients,
)
from flower_compress.testing import InProcessGrid
from tests.cases import in_one_test
from tests.strategies.problem import INITIAL, NUM_CLIENTS, make_app, to_record

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
