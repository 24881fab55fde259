"""Clients that pull a model towards their own targets, with and without our mod."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
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
from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    FedAvg,
    Result,
    Strategy,
)

from flower_compress import (
    CompressionMod,
    Direct,
    Identity,
)
from flower_compress.testing import InProcessGrid

CLIENTS, DIM, ROUNDS = 7, 1000, 4
# Some further away than others, so that Krum's choice is clear.
_SPREAD = np.linspace(0.5, 1.5, CLIENTS)[:, None]
TARGETS = np.random.default_rng(0).normal(0, _SPREAD, (CLIENTS, DIM)).astype(np.float32)
INITIAL = np.linspace(-1, 1, DIM, dtype=np.float32)
LOSSLESS: dict[str, Any] = {
    "uplink": Direct(Identity()),
    "downlink": Direct(Identity()),
}


def make_app(
    *inner: Mod, outer: Iterable[Mod] = (), compressed: bool = True
) -> ClientApp:
    ours = [CompressionMod()] if compressed else []
    app = ClientApp(mods=[*outer, *ours, *inner])

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


def make_grid(strategy: Strategy, *inner: Mod) -> InProcessGrid:
    compressed = hasattr(strategy, "ledger")
    return InProcessGrid(make_app(*inner, compressed=compressed), CLIENTS)


def run(
    strategy: Strategy,
    *inner: Mod,
    rounds: int = ROUNDS,
    grid: Grid | None = None,
    arrays: ArrayRecord | None = None,
    **settings: Any,
) -> Result:
    random.seed(1)  # Flower's strategies sample with it.
    np.random.seed(1)  # noqa: NPY002 - Flower's wrappers draw their noise with it
    grid = grid or make_grid(strategy, *inner)
    arrays = to_record(INITIAL) if arrays is None else arrays
    return strategy.start(grid, arrays, rounds, **settings)


Make = Callable[..., Strategy]


class Spy(FedAvg):
    """Remembers what it saw: whom, how far from the model, and a sum."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seen: list[str] = []
        self.distances: list[float] = []
        self.total: dict[str, np.ndarray] = {}
        self.compare = lambda replies, model: None
        self._model = ArrayRecord()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._model = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = [msg for msg in replies if not msg.has_error()]
        self.compare(replies, self._model)
        for msg in replies:
            assert [*msg.content] == ["trained", "metrics", "more"]
            self.seen.append(str(msg.content["more"]["about"]))
            record = msg.content["trained"]
            assert isinstance(record, ArrayRecord)
            change = [record[n].numpy() - self._model[n].numpy() for n in record]
            square = sum(float(np.square(entries).sum()) for entries in change)
            self.distances.append(square**0.5)
        arrays, metrics = super().aggregate_train(server_round, replies)
        for key, array in (arrays or {}).items():
            self.total[key] = self.total.get(key, 0.0) + array.numpy()
        return arrays, metrics
