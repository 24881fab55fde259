"""Clients that learn to tell classes apart, with and without our mod: an app's shape.

Softmax regression on points around the centres of ten classes, a share for each client.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from numpy.typing import NDArray

from flower_compress import CompressionMod

_CLASSES, _FEATURES, _EXAMPLES = 10, 64, 60
_STEPS, _RATE = 5, 0.5
Points = tuple[NDArray[np.float32], NDArray[np.int64]]


def draw(number: int, seed: int) -> Points:
    """Return so many points, shape (n, 64), and their classes."""
    centres = np.random.default_rng(0).standard_normal((_CLASSES, _FEATURES)) * 0.35
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, _CLASSES, number)
    points = centres[classes] + rng.standard_normal((number, _FEATURES))
    return points.astype(np.float32), classes


TEST = draw(4000, 1)


def initial() -> ArrayRecord:
    """Return a model of zeros."""
    return _record(
        np.zeros((_FEATURES, _CLASSES), np.float32), np.zeros(_CLASSES, np.float32)
    )


def accuracy(arrays: ArrayRecord) -> float:
    """Return the share of the test points whose class the model has right."""
    points, classes = TEST
    scores = points @ arrays["weight"].numpy() + arrays["bias"].numpy()
    return float((scores.argmax(axis=1) == classes).mean())


def app_of_classes(*inner: Mod, compressed: bool) -> ClientApp:
    """Return clients that take a few steps on their own points."""
    app = ClientApp(mods=[*([CompressionMod()] if compressed else []), *inner])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        points, classes = draw(_EXAMPLES + 5 * client, 100 + client)
        model = msg.content.array_records["arrays"]
        weight, bias = model["weight"].numpy(), model["bias"].numpy()
        own = np.eye(_CLASSES, dtype=np.float32)[classes]
        loss = 0.0
        for _ in range(_STEPS):
            scores = points @ weight + bias
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            shares /= shares.sum(axis=1, keepdims=True)
            loss = float(-np.log(shares[own > 0] + 1e-9).mean())
            difference = (shares - own) / len(points)
            weight = weight - np.float32(_RATE) * points.T @ difference
            bias = bias - np.float32(_RATE) * difference.sum(axis=0)
        metrics = MetricRecord({"num-examples": len(points), "train_loss": loss})
        content = RecordDict({"arrays": _record(weight, bias), "metrics": metrics})
        return Message(content, reply_to=msg)

    return app


def _record(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> ArrayRecord:
    return ArrayRecord({"weight": Array(weight), "bias": Array(bias)})
