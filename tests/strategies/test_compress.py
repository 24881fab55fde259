"""Flower's own strategies over compressed links, beside themselves without."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Result,
    Strategy,
)

from flower_compress import CompressionMod, Direct, Identity, Memory, TopK
from flower_compress.strategies import compress
from flower_compress.testing import InProcessGrid

CLIENTS, DIM, ROUNDS = 7, 600, 6
TARGETS = np.random.default_rng(0).normal(size=(CLIENTS, DIM)).astype(np.float32)
INITIAL = np.linspace(-1, 1, DIM, dtype=np.float32)
LOSSLESS = {"uplink": Direct(Identity()), "downlink": Direct(Identity())}


@pytest.fixture(autouse=True)
def _no_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's QFedAvg and Bulyan collect garbage for every reply."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


def make_app(*inner: Mod, compressed: bool = True) -> ClientApp:
    app = ClientApp(mods=[*([CompressionMod()] if compressed else []), *inner])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        model, config = msg.content["arrays"], msg.content["config"]
        assert isinstance(model, ArrayRecord) and isinstance(config, ConfigRecord)
        w = np.concatenate([model["a"].numpy(), model["b"].numpy().reshape(-1)])
        mu = config.get("proximal-mu", 0.0)
        assert isinstance(mu, float)
        pull = np.float32(0.5 / (1 + mu))
        step = pull * (TARGETS[client] - w.astype(np.float32))
        trained = (w + step).astype(np.float32)
        loss = float(np.square(TARGETS[client] - w).mean())
        content = RecordDict(
            {
                "trained": to_record(trained, client),
                "metrics": MetricRecord(
                    {"num-examples": 1 + client, "train_loss": loss}
                ),
                "more": ConfigRecord({"about": f"client {client}"}),
            }
        )
        return Message(content, reply_to=msg)

    @app.evaluate()
    def evaluate(msg: Message, context: Context) -> Message:
        model, config = msg.content["arrays"], msg.content["config"]
        assert isinstance(model, ArrayRecord) and isinstance(config, ConfigRecord)
        metrics = {
            "num-examples": 1,
            "norm": float(np.linalg.norm(model["a"].numpy())),
            "told": float(config["server-round"]),
        }
        content = RecordDict({"metrics": MetricRecord(metrics)})
        return Message(content, reply_to=msg)

    return app


def to_record(w: np.ndarray, count: float = 0) -> ArrayRecord:
    return ArrayRecord(
        {
            "a": Array(w[:10].copy()),
            "b": Array(w[10:].reshape(10, -1).copy()),
            "running_mean": Array(np.array([count, count / 3], np.float32)),
        }
    )


def to_vector(result: Result) -> np.ndarray:
    a, b = (result.arrays[name].numpy().reshape(-1) for name in ("a", "b"))
    return np.concatenate([a, b])


def run(strategy: Strategy, *inner: Mod, rounds: int = ROUNDS) -> Result:
    compressed = hasattr(strategy, "ledger")
    grid = InProcessGrid(make_app(*inner, compressed=compressed), CLIENTS)
    random.seed(1)  # Flower's strategies sample with it.
    np.random.seed(1)  # noqa: NPY002 - Flower's wrappers draw their noise with it
    initial = to_record(INITIAL)
    return strategy.start(grid, initial, rounds)


Make = Callable[..., Strategy]
PLAIN: dict[str, Make] = {
    "fedavg": FedAvg,
    "fedadam": lambda **kw: FedAdam(eta=0.05, **kw),
    "fedyogi": lambda **kw: FedYogi(eta=0.05, **kw),
    "fedadagrad": lambda **kw: FedAdagrad(eta=0.05, **kw),
    "fedavgm": lambda **kw: FedAvgM(
        server_momentum=0.5, server_learning_rate=0.7, **kw
    ),
    "fedprox": lambda **kw: FedProx(proximal_mu=0.5, **kw),
    "fedmedian": FedMedian,
    "fedtrimmedavg": lambda **kw: FedTrimmedAvg(beta=0.2, **kw),
    "krum": lambda **kw: Krum(num_malicious_nodes=1, **kw),
    "multikrum": lambda **kw: MultiKrum(
        num_malicious_nodes=1, num_nodes_to_select=3, **kw
    ),
    "bulyan": lambda **kw: Bulyan(num_malicious_nodes=0, **kw),
    "qfedavg": lambda **kw: QFedAvg(client_learning_rate=0.5, q=0.2, **kw),
}
EVERY = pytest.mark.parametrize("make", PLAIN.values(), ids=PLAIN)


@EVERY
@pytest.mark.parametrize("fraction", [1.0, 0.75])
def test_lossless_links_change_nothing(make: Make, fraction: float) -> None:
    bare = run(make(fraction_train=fraction))
    ours = run(compress(make(fraction_train=fraction), evaluate_on="global", **LOSSLESS))
    np.testing.assert_allclose(to_vector(ours), to_vector(bare), rtol=0, atol=2e-5)
    for name, rows in (
        ("train_metrics_clientapp", bare.train_metrics_clientapp),
        ("evaluate_metrics_clientapp", bare.evaluate_metrics_clientapp),
    ):
        mine = getattr(ours, name)
        assert rows.keys() == mine.keys()
        for number, row in rows.items():
            for key, value in row.items():
                assert mine[number][key] == pytest.approx(value, rel=1e-4)


@EVERY
def test_default_links_end_nearby_at_a_tenth_of_the_bytes(make: Make) -> None:
    bare = to_vector(run(make(fraction_evaluate=0.0), rounds=15))
    strategy = compress(make(fraction_evaluate=0.0))
    ours = to_vector(run(strategy, rounds=15))
    moved = np.linalg.norm(bare - INITIAL)
    print(np.linalg.norm(ours - bare) / moved)
    dense = 15 * CLIENTS * 4 * DIM
    print(strategy.ledger.uplink.num_bytes/dense, strategy.ledger.downlink.num_bytes / dense)
