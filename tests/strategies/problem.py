"""A noisy quadratic problem, as a client app and as plain functions."""

from __future__ import annotations

from collections.abc import Sequence
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
from numpy.typing import NDArray

from flower_compress import CompressionMod

NUM_CLIENTS = 5
DIM = 23
GAMMA = 0.05
_SHAPES = {"bias": (3,), "weight": (5, 4)}

Vector = NDArray[np.float32]


def _matrices() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    generator = np.random.default_rng(0)
    curvatures = generator.uniform(0.2, 2.0, (NUM_CLIENTS, DIM)).astype(np.float32)
    targets = generator.normal(size=(NUM_CLIENTS, DIM)).astype(np.float32)
    return curvatures, targets


CURVATURES, TARGETS = _matrices()
INITIAL = np.linspace(-1, 1, DIM, dtype=np.float32)
NUM_EXAMPLES = [1, 3, 2, 7, 4]


def gradient(client: int, w: Vector, server_round: int) -> Vector:
    """g_i(w) = a_i * (w - b_i) + noise that depends on client and round."""
    noise = np.random.default_rng((client, server_round)).normal(size=DIM)
    exact = CURVATURES[client] * (w - TARGETS[client])
    return exact + noise.astype(np.float32) * np.float32(0.1)


def local_weights(client: int, w: Vector, server_round: int) -> Vector:
    """Two steps of local gradient descent."""
    for _ in range(2):
        w = w - np.float32(0.1) * gradient(client, w, server_round)
    return w


def to_record(w: Vector) -> ArrayRecord:
    """Return the vector as the model's named arrays."""
    split = _SHAPES["bias"][0]
    return ArrayRecord(
        {
            "bias": Array(w[:split].copy()),
            "weight": Array(w[split:].reshape(_SHAPES["weight"]).copy()),
        }
    )


def to_vector(record: ArrayRecord) -> Vector:
    """Return the model's named arrays as one vector."""
    return np.concatenate([array.numpy().reshape(-1) for array in record.values()])


def make_app(
    returns: str = "gradient",
    outer: Sequence[Mod] = (),
    inner: Sequence[Mod] = (),
    **keywords: Any,
) -> ClientApp:
    """Return the client app, with mods around CompressionMod(returns) and within."""
    mod = CompressionMod(returns, **keywords)  # type: ignore[arg-type]
    app = ClientApp(mods=[*outer, mod, *inner])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        w = to_vector(msg.content["arrays"])
        config = msg.content["config"]
        assert isinstance(config, ConfigRecord)
        answer = local_weights if returns == "weights" else gradient
        content = RecordDict(
            {
                "arrays": to_record(answer(client, w, int(config["server-round"]))),
                "metrics": MetricRecord({"num-examples": NUM_EXAMPLES[client]}),
            }
        )
        return Message(content, reply_to=msg)

    @app.evaluate()
    def evaluate(msg: Message, context: Context) -> Message:
        w = to_vector(msg.content["arrays"])
        metrics = MetricRecord({"num-examples": 1, "norm": float(np.linalg.norm(w))})
        return Message(RecordDict({"metrics": metrics}), reply_to=msg)

    return app
