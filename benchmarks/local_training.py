"""Clients that go a known share of the way to optima of their own, and nothing else.

Without compression the distance to the mean optimum shrinks by 1 - c a round, so what
more there is at the end is what compression did.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from flower_compress import CompressionMod
from flower_compress.strategies import CompressedStrategy
from flower_compress.testing import InProcessGrid

ROUNDS = 60


class Outcome(NamedTuple):
    """How a run ended.

    Attributes
    ----------
    distance : float
        ||w - w*|| / ||w*|| at the end; it begins at 1.
    up, down : float
        Payload bits an entry and message, without first models.
    """

    distance: float
    up: float
    down: float


def limit(share: float) -> float:
    """Return the distance at which a strategy is to have arrived."""
    return max(1e-2, 3.0 * (1.0 - share) ** ROUNDS)


def optima(dim: int, num_clients: int) -> NDArray[np.float32]:
    """Return the clients' own optima t_i, shape (N, d), Gaussian."""
    rng = np.random.default_rng(dim + num_clients)
    return rng.standard_normal((num_clients, dim)).astype(np.float32)


def predicted(
    strategy: CompressedStrategy, share: float, dim: int, num_clients: int
) -> float:
    """Return the distance at which theory has the run of :func:`run_shares` end.

    Its root mean square, that is; infinity where theory knows none.
    """
    targets = optima(dim, num_clients).astype(np.float64)
    optimum = targets.mean(axis=0)
    apart = float(np.square(targets - optimum).sum()) / num_clients
    num_active = max(int(strategy.fraction_train * num_clients), 1)
    level = strategy._compose().level(
        dim,
        num_clients,
        num_active,
        share=share,
        spread=apart / float(np.square(optimum).sum()),
        num_rounds=ROUNDS,
    )
    return math.inf if level is None else level


def run_shares(
    strategy: CompressedStrategy, share: float, dim: int, num_clients: int
) -> Outcome:
    """Run 60 rounds with w_i = w - c (w - t_i) and Gaussian t_i.

    Parameters
    ----------
    strategy : CompressedStrategy
        Whose run it is.
    share : float
        c.
    dim : int
        Length d of the model, which begins at zero.
    num_clients : int
        How many clients there are.
    """
    targets = optima(dim, num_clients)
    app = ClientApp(mods=[CompressionMod()])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        w = msg.content.array_records["arrays"]["w"].numpy()
        target = targets[int(context.node_config["partition-id"])]
        record = ArrayRecord({"w": Array(w - np.float32(share) * (w - target))})
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=msg)

    initial = ArrayRecord({"w": Array(np.zeros(dim, dtype=np.float32))})
    result = strategy.start(InProcessGrid(app, num_clients), initial, num_rounds=ROUNDS)
    w, optimum = result.arrays["w"].numpy(), targets.mean(axis=0)
    distance = float(np.linalg.norm(w - optimum) / np.linalg.norm(optimum))
    return Outcome(distance, *_bits_an_entry(strategy, dim, num_clients))


def _bits_an_entry(
    strategy: CompressedStrategy, dim: int, num_clients: int
) -> tuple[float, float]:
    """Greetings are messages too, and carry no vector."""
    up, down = strategy.ledger.uplink, strategy.ledger.downlink
    sent = down.payload_bits - 8 * down.snapshot_bytes
    return (
        up.payload_bits / (up.messages - num_clients) / dim,
        sent / (down.messages - num_clients) / dim,
    )
